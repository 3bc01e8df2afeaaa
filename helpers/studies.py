"""Optuna studies of the hyper-parameters: create or resume, run, look at.

A study minimises one number (`objective.py`) on the *tuning task* (task.tuning_task): its models are trained on nine
tenths of the training split and are never reported; the held-out tenth stands in for the test split, which no study
sees. Its best trial is the one with the lowest number.

A study is shared by all processes that open its storage: each runs trials until as many are complete as were asked for.
"""

import os
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

import optuna
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from helpers.data.task import Task, tuning_task
from helpers.files import DATA, StudyError, locked, shown
from helpers.models.training import RECIPE
from helpers.objective import GOAL, Measured, Objective, suggest, value_of
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, OURS, method_of
from helpers.unlearning.method import searched

STORAGE = DATA / "studies" / "studies.db"  # the default; any URL that Optuna takes can be given instead
SAMPLER_SEED = 0
BUSY = 60  # seconds that another program may hold the file
STARTUP = 25  # random trials before the sampler learns
REMEDIES = {  # what a database's driver says -> what one may do; nothing that could harm a file that is sound
    "locked": "another program holds it, such as a database browser: close that",
    "readonly": "allow writing to it and to its folder",
    "unable to open": "see that its folder is there and may be written to",
    "storage upgrade": "run `optuna storage upgrade --storage ADDRESS` on a copy of it",
    "malformed": "the file is damaged or holds no studies: keep a copy of it, and name another or take the "
    "published one",
}
PLAIN = tuple(name for name in METHODS if name not in OURS)  # methods without a notebook of their own


class NoStudy(StudyError):
    """A study that was to be looked at is not there."""


def open_study(name: str, method: str, task: Task, storage: str | None = None, look: bool = False) -> optuna.Study:
    """Creates the study, or resumes it; from data/studies/studies.db unless another storage URL is given.

    look: where it is not there NoStudy is raised and nothing is created. Raises StudyError if a study of that name
    exists for another method, data set, request, recipe, number of models or search space."""
    method_of(method)
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise StudyError(f'STUDY_NAME = {name!r} names no study: set it to a word in quotes, for example "mnist".')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    identity = _identity(method, task)
    where = storage.split("@")[-1] if isinstance(storage, str) and storage else shown(STORAGE)
    with _told(f"{where} cannot be opened as a study", Exception):  # drivers raise many kinds
        address, options = _address(storage)
        if look:
            if not _has_tables(address, options) or name not in optuna.get_all_study_names(_storage(address, options)):
                raise NoStudy(f'{where} holds no study "{name}": set N_TRIALS above 0 to begin it.')
            study = optuna.load_study(study_name=name, storage=_storage(address, options))
        else:
            with locked(STORAGE):  # two processes must not make the same tables
                kept = _storage(address, options)
                study = optuna.create_study(study_name=name, storage=kept, direction="minimize", load_if_exists=True)
                if "identity" not in study.user_attrs and not study.get_trials(deepcopy=False):
                    study.set_user_attr("identity", identity)
                    study.set_metric_names([GOAL])
        known = study.user_attrs.get("identity", {})
    if known != identity:
        changed = ", ".join(key for key in identity if known.get(key) != identity[key])
        raise StudyError(f'The study "{name}" was made with another {changed}: choose a new STUDY_NAME (--study).')
    return study


def _identity(method: str, task: Task) -> dict:
    """What a study is of: trials of another one do not belong into it."""
    probe = optuna.create_study().ask()
    suggest(probe, method)
    return {
        "method": method,
        "task": tuning_task(task).fingerprint,
        "dataset": task.data.name,
        "recipe": asdict(RECIPE),
        "models": SIZES.tuning_models,
        "goal": GOAL,
        "space": {key: repr(value) for key, value in sorted(probe.distributions.items())},
    }


def _address(storage: str | None) -> tuple[str, dict]:
    """SQLAlchemy's address of a storage, and its options."""
    if not isinstance(storage, str | None):
        raise StudyError(f'STORAGE = {storage!r} is no address: set it to one in quotes, like "sqlite:///my.db".')
    if not storage:
        return f"sqlite:///{quote(str(STORAGE))}", {"connect_args": {"timeout": BUSY}}
    address = make_url(storage)
    if address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:"):
        raise StudyError(f"STORAGE = {storage!r} keeps no trial beyond this notebook: name a file or a database.")
    return storage, {}


def _storage(address: str, options: dict) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(
        address,
        heartbeat_interval=SIZES.heartbeat,
        grace_period=SIZES.grace,
        heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        engine_kwargs=options,
    )


def _has_tables(address: str, options: dict) -> bool:
    """Whether there are studies; Optuna makes its tables wherever it only looks."""
    url = make_url(address)
    file = str(STORAGE) if options else url.database
    if url.get_backend_name() == "sqlite" and not os.path.exists(file):
        return False
    engine = create_engine(address, **options)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def check_trials(n_trials: int) -> None:
    """StudyError unless it is a whole number from 0 up."""
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 0:
        raise StudyError(f"N_TRIALS = {n_trials!r} is no number of trials: set it to a whole number, 0 to run none.")


def run_trials(study: optuna.Study, n_trials: int, method: str, task: Task, join: bool = False) -> None:
    """Runs trials until n_trials more are complete. join: works towards the number that another process asked for.

    The first trial of a study has the defaults. An interrupted trial is marked failed; one whose process was killed is
    run again by whoever works on the study. A trial that diverges is complete, with the value `DIVERGED`."""
    check_trials(n_trials)
    if n_trials == 0 and not join:
        return
    failed = (
        f'The storage of the study "{study.study_name}" failed; finished trials are kept, and the same cell goes on'
    )
    with _told(failed, SQLAlchemyError, optuna.exceptions.StorageInternalError):
        with locked(STORAGE):  # two processes must not both find the study empty
            target = study.user_attrs.get("target", 0)
            if not join:
                target = len(complete(study)) + n_trials
                study.set_user_attr("target", target)
                if not study.get_trials(deepcopy=False):
                    settings = METHODS[method].settings
                    study.enqueue_trial({name: getattr(settings, name) for name in searched(settings)})
        if len(complete(study)) < target:
            _work_until(study, target, Objective(method, task), method)


def run_all(
    name: str, methods: tuple[str, ...], n_trials: int, task: Task, storage: str | None = None
) -> dict[str, optuna.Study | None]:
    """Creates or resumes the study NAME-METHOD of each method and runs n_trials more of it: method -> study. With
    n_trials = 0 nothing is created: None stands where there is no study."""
    check_trials(n_trials)  # before a study is begun
    found = {}
    for method in methods:
        try:
            found[method] = open_study(f"{name}-{method}", method, task, storage, look=n_trials == 0)
        except NoStudy:
            found[method] = None
    for method, study in found.items():
        if study:
            run_trials(study, n_trials, method, task)
    return found


@contextmanager
def _told(what: str, *kinds: type[Exception]):
    """Errors of these kinds in one sentence, with what the database's own driver says beneath Optuna and SQLAlchemy."""
    try:
        yield
    except StudyError:
        raise
    except kinds as error:
        text = str(error).lower()
        while error.__cause__ is not None:
            error = error.__cause__
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
        usual = "see that the address is right, its disk has space, it may be written to, and its server runs"
        text = f"{text} {reason}".lower().replace("not a database", "malformed")
        remedy = next((remedy for sign, remedy in REMEDIES.items() if sign in text), usual)
        raise StudyError(f"{what} ({reason}): {remedy}.") from None


def _work_until(study: optuna.Study, target: int, objective: Objective, method: str) -> None:
    def goal(trial: optuna.Trial) -> float:
        best = best_trial(study)
        best = best and measured(best)
        found = objective(suggest(trial, method), best)
        trial.set_user_attr("measured", asdict(found))
        trial.set_user_attr("models", len(found.goals[-1]) if found.goals else 0)
        return value_of(found, best)

    study.sampler = sampler = Sampler()
    enough = optuna.study.MaxTrialsCallback(target, states=(TrialState.COMPLETE,))
    with tqdm(total=target, initial=len(complete(study)), desc=study.study_name, unit="trial") as bar:
        while len(complete(study)) < target:
            with _taken_over():
                then = [enough, lambda *_: bar.update(len(complete(study)) - bar.n)]
                try:
                    study.optimize(goal, callbacks=then)
                except KeyboardInterrupt:  # Optuna itself marks the trial only while its goal is computed
                    if sampler.current is not None:
                        study.tell(sampler.current, state=TrialState.FAIL, skip_if_finished=True)
                    raise


class Sampler(optuna.samplers.TPESampler):
    """Multivariate TPE, seeded anew by the number of each trial: neither a second process nor a kill changes what is
    drawn, and no two draw the same. current: the number of the last trial begun."""

    current = None

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self.current = trial.number
        super().__init__(seed=SAMPLER_SEED + trial.number, multivariate=True, n_startup_trials=STARTUP)


@contextmanager
def _taken_over():
    """A process that slept too long may find that its trial was given to another one: it goes on with the next."""
    try:
        yield
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
        if isinstance(error, ValueError) and "Cannot tell a" not in str(error):
            raise
        time.sleep(1)


def complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def measured(trial: optuna.trial.FrozenTrial) -> Measured:
    """What a completed trial measured."""
    return Measured(**trial.user_attrs["measured"])


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """Of the trials that were measured on all tuning models the one with the lowest goal; None where there is none."""
    whole = [
        trial for trial in complete(study) if trial.user_attrs.get("models") == study.user_attrs["identity"]["models"]
    ]
    return min(whole, key=lambda trial: trial.value, default=None)


def chosen(study: optuna.Study, method: str) -> Any:
    """The settings of the best trial, real numbers rounded to three significant digits."""
    point = suggest(optuna.trial.FixedTrial(best_trial(study).params), method)
    rounded = {key: float(f"{v:.3g}") for key, v in asdict(point).items() if isinstance(v, float)}
    return replace(point, **rounded)
