"""Optuna studies of the hyper-parameters: create or resume, run, confirm, choose.

Two goals, both to be small: energy distance to retrained models on the forget samples of the training set, and accuracy lost on
held-out retained samples; what may be lost there, and on retained samples of the forgotten class, has a limit. All is
measured on the *tuning task* (task.tuning_task): its models are trained on nine tenths of the training half and are never
reported; its held-out tenth stands in for the test half, which no study sees.

A study is shared by all processes that open its storage: each runs trials until as many are complete as were asked for.
"""

import os
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

import numpy as np
import optuna
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from helpers.data.task import Task, tuning_task
from helpers.files import DATA, StudyError, locked, shown
from helpers.models.training import RECIPE
from helpers.objective import AFFORDABLE, GOALS, USEFUL_GAP, Found, Objective, suggest
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, OURS, method_of
from helpers.unlearning.method import searched

STORAGE = DATA / "studies" / "studies.db"  # the default; any URL that Optuna takes can be given instead
SAMPLER_SEED = 0
BUSY = 60  # seconds that another program may hold the file
STARTUP = 25  # random trials before the sampler learns
REMEDIES = {  # what a database's driver says -> what one may do
    "locked": "another program holds it, such as a database browser: close that",
    "readonly": "allow writing to it and to its folder",
    "unable to open": "see that its folder is there and may be written to",
    "storage upgrade": "it is of another version of Optuna: run `optuna storage upgrade --storage ADDRESS` on a copy of it",
    "malformed": "the file is damaged or holds no studies: keep a copy of it, and name another or take the published one",
    "not a database": "the file is damaged or holds no studies: keep a copy of it, and name another or take the published one",
}
PLAIN = tuple(name for name in METHODS if name not in OURS)  # methods without a notebook of their own


class NoStudy(StudyError):
    """A study that was to be looked at is not there."""


def open_study(name: str, method: str, task: Task, storage: str | None = None, look: bool = False) -> optuna.Study:
    """Creates the study, or resumes it; from data/studies/studies.db unless another storage URL is given.

    look: one that is not there is not created. Raises StudyError if a study of that name exists for another method, data set,
    split, recipe or search space.
    """
    method_of(method)
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise StudyError(f'STUDY_NAME = {name!r} names no study: set it to a word in quotes, for example "mnist".')
    if not isinstance(storage, str | None):
        raise StudyError(f'STORAGE = {storage!r} is no address: set it to one in quotes, like "sqlite:///my.db".')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    probe = optuna.create_study().ask()
    suggest(probe, method)
    identity = {
        "method": method,
        "task": tuning_task(task).fingerprint,
        "dataset": task.data.name,
        "recipe": asdict(RECIPE),
        "models": SIZES.tuning_models,
        "space": {key: repr(value) for key, value in sorted(probe.distributions.items())},
    }
    where = storage.split("@")[-1] if storage else shown(STORAGE)
    options = {"directions": ["minimize", "minimize"], "load_if_exists": True}
    try:
        file = _file_of(storage)
        if file == "":
            raise StudyError(f"STORAGE = {storage!r} keeps no trial beyond this notebook: name a file or a database.")
        if look and not _begun(storage, file):
            raise KeyError
        if look:
            study = optuna.load_study(study_name=name, storage=_storage(storage))
        else:
            with locked(STORAGE):  # two processes must not make the same tables
                study = optuna.create_study(study_name=name, storage=_storage(storage), **options)
        if "identity" not in study.user_attrs and not study.get_trials(deepcopy=False) and not look:
            study.set_user_attr("identity", identity)
            study.set_metric_names(list(GOALS))
        known = study.user_attrs.get("identity", {})
    except StudyError:
        raise
    except KeyError:
        raise NoStudy(f'{where} holds no study "{name}": set N_TRIALS above 0 to begin it.') from None
    except Exception as error:  # SQLAlchemy and its drivers raise many kinds for a damaged file or a wrong address
        raise StudyError(f"{where} cannot be opened as a study ({reason_of(error)}): {remedy_for(error)}.") from None
    if any(isinstance(value, dict) and "seal" in value for value in study.user_attrs.values()):
        raise StudyError(f'The study "{name}" was made by version 1 of this repository: choose a new STUDY_NAME.')
    if known != identity:
        changed = ", ".join(key for key in identity if known.get(key) != identity[key])
        raise StudyError(f'The study "{name}" was made with another {changed}: choose a new STUDY_NAME.')
    return study


def _file_of(url: str | None) -> str | None:
    """The file that a storage lies in; "" for one in memory, None for a database server."""
    address = make_url(url) if url else None
    if address is None or address.get_backend_name() != "sqlite":
        return None if url else str(STORAGE)
    return "" if address.database in (None, "", ":memory:") else address.database


def _begun(url: str | None, file: str | None) -> bool:
    """Whether studies lie there; Optuna makes its tables wherever it only looks."""
    if file and not os.path.exists(file):
        return False
    address, options = _engine(url)
    engine = create_engine(address, **options)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _engine(url: str | None) -> tuple[str, dict]:
    """SQLAlchemy's address of a storage, and its options."""
    return (url, {}) if url else (f"sqlite:///{quote(str(STORAGE))}", {"connect_args": {"timeout": BUSY}})


def _storage(url: str | None) -> optuna.storages.RDBStorage:
    address, options = _engine(url)
    return optuna.storages.RDBStorage(
        address,
        heartbeat_interval=SIZES.heartbeat,
        grace_period=SIZES.grace,
        heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        engine_kwargs=options,
    )


def check_trials(n_trials: int) -> None:
    """StudyError unless it is a whole number from 0 up."""
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 0:
        raise StudyError(f"N_TRIALS = {n_trials!r} is no number of trials: set it to a whole number, 0 to run none.")


def run_trials(study: optuna.Study, n_trials: int, method: str, task: Task, join: bool = False) -> None:
    """Runs trials until n_trials more are complete. join: works towards the number that another process asked for.

    The first trial of a study has the defaults. An interrupted trial is marked failed; one whose process was killed is run
    again by whoever works on the study. Trials that diverge are recorded as `COLLAPSED`.
    """
    check_trials(n_trials)
    if n_trials == 0 and not join:
        return
    with _storage_told(study):
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
    """Creates or resumes the study NAME-METHOD of each method and runs n_trials more of it: method -> study. With n_trials = 0
    nothing is created: None stands where there is no study."""
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
def _storage_told(study: optuna.Study):
    """A storage that fails while it is used is told in one sentence."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StudyError(
            f'The storage of the study "{study.study_name}" could not be used ({reason_of(error)}): {remedy_for(error)}, and run '
            "the cell again; finished trials are kept."
        ) from None


def reason_of(error: BaseException) -> str:
    """What the database's own driver says, beneath Optuna and SQLAlchemy, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"


def remedy_for(error: BaseException) -> str:
    """What one may do about it; nothing that could harm a file that is sound."""
    text = reason_of(error).lower() + str(error).lower()
    for sign, remedy in REMEDIES.items():
        if sign in text:
            return remedy
    return "see that the address is right, its disk has space, it may be written to, and its server runs"


def _work_until(study: optuna.Study, target: int, objective: Objective, method: str) -> None:
    for key in ("limits", "ceiling"):
        study.set_user_attr(key, getattr(objective, key))

    def trial_values(trial: optuna.Trial) -> tuple[float, float]:
        return admit(trial, objective, objective(suggest(trial, method)))

    study.sampler = sampler = Sampler()
    enough = optuna.study.MaxTrialsCallback(target, states=(TrialState.COMPLETE,))
    with tqdm(total=target, initial=len(complete(study)), desc=study.study_name, unit="trial") as bar:
        while len(complete(study)) < target:
            with _taken_over():
                then = [enough, lambda *_: bar.update(len(complete(study)) - bar.n)]
                try:
                    study.optimize(trial_values, callbacks=then)
                except KeyboardInterrupt:  # Optuna itself marks the trial only while its goals are computed
                    if sampler.current is not None:
                        study.tell(sampler.current, state=TrialState.FAIL, skip_if_finished=True)
                    raise


def admit(trial: optuna.Trial, objective: Objective, found: Found) -> tuple[float, float]:
    """Notes with the trial what was found, and its constraints: above 0 of no interest, which steers the sampler."""
    energy, lost = found.goals
    trial.set_user_attr("found", asdict(found))
    trial.set_constraint("loses too much, points", lost - objective.limits[0])
    trial.set_constraint("loses too much of the class, points", found.lost_class - objective.limits[1])
    trial.set_constraint("closes too little, share of the gap", energy / objective.ceiling - (1 - USEFUL_GAP))
    trial.set_constraint("costs too much, tenths of retraining", 10 * (found.cost - AFFORDABLE) - 1e-3)
    return energy, lost


class Sampler(optuna.samplers.TPESampler):
    """Multivariate TPE over the two goals and the constraints, seeded anew by the number of each trial: neither a second
    process nor a kill changes what is drawn, and no two draw the same. current: the number of the last trial begun."""

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


def confirm(study: optuna.Study, method: str, task: Task, best: int = 5, repeats: int = 3) -> None:
    """Measures the most promising trials again with fresh noise: the best of many noisy trials flatters itself.

    In each of `repeats` rounds the `best` trials by their means so far are measured once more. The values are kept
    with the study; what is there already is not measured again, and of two processes only one measures a trial.
    """
    objective, limits = Objective(method, task), kept(study, "limits")
    with _storage_told(study), tqdm(total=best * repeats, desc=f"{study.study_name}, again", unit="trial") as bar:
        for turn in range(1, repeats + 1):
            # a little beyond the limits may come back within them
            ranked = sorted(
                affordable(finished(study)),
                key=lambda trial: (m := mean_of(study, trial)).goals[0] + 0.2 * excess(m, limits),
            )
            for trial in ranked[:best]:
                with locked(STORAGE.with_name(f"{study.study_name}-{trial.number}")):
                    again = again_of(study, trial)
                    while len(again) < turn:
                        point = suggest(optuna.trial.FixedTrial(trial.params), method)
                        again = [*again, asdict(objective(point, repeat=len(again) + 1))]
                        if len(again) > len(again_of(study, trial)):  # else another machine was faster
                            study.set_user_attr(f"again {trial.number}", again)
                bar.update()


def again_of(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> list[dict]:
    """What `confirm` measured."""
    return study.user_attrs.get(f"again {trial.number}", [])


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Completed trials that this repository ran; StudyError if there is none."""
    trials = [trial for trial in complete(study) if "found" in trial.user_attrs]
    if not trials:
        raise StudyError(f'The study "{study.study_name}" holds no finished trial: set N_TRIALS above 0 and run it.')
    return trials


def kept(study: optuna.Study, key: str) -> Any:
    """Of a study: "ceiling" (energy distance) or "limits" (points); StudyError if it was lost."""
    if key not in study.user_attrs:
        raise StudyError(
            f'The study "{study.study_name}" has lost its "{key}": run one trial more to measure it again.'
        )
    return study.user_attrs[key]


def affordable(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """Those that keep the budget, measured on all tuning models."""
    found = [trial.user_attrs["found"] for trial in trials]
    models = max(len(one["energies"]) for one in found)
    kept = [len(one["energies"]) == models and round(one["cost"], 4) <= AFFORDABLE for one in found]
    return [trial for trial, good in zip(trials, kept, strict=True) if good]


def mean_of(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> Found:
    """A trial's means over its first measurement and those of `confirm`, model by model."""
    every = [trial.user_attrs["found"], *again_of(study, trial)]
    means = {key: np.mean([found[key] for found in every], axis=0) for key in every[0]}
    return Found(means.pop("energies").tolist(), **{key: float(value) for key, value in means.items()})


def excess(found: Found, limits: list[float]) -> float:
    """Points lost beyond the limits; 0 within them."""
    return max(0.0, found.lost - limits[0]) + max(0.0, found.lost_class - limits[1])


def chosen_trial(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """Among the trials within the limits: of those whose energy distance, paired over the tuning models, is within one standard
    error of the smallest, the one that loses least (the one-standard-error rule, Breiman et al. 1984, section 3.4.3). If none
    is within the limits: the one that exceeds them least.

    Where some trials were confirmed only those measured most often stand for choice, with their means.
    """
    trials = finished(study)
    most = max(len(again_of(study, trial)) for trial in trials)
    trials = [trial for trial in trials if len(again_of(study, trial)) == most]
    means = {trial.number: mean_of(study, trial) for trial in affordable(trials) or trials}
    beyond = {number: excess(found, kept(study, "limits")) for number, found in means.items()}
    good = [number for number in means if not beyond[number]]
    if not good:
        number = min(beyond, key=beyond.get)
    else:
        best = np.array(means[min(good, key=lambda number: means[number].goals[0])].energies)
        number = min((n for n in good if _as_good(np.array(means[n].energies) - best)), key=lambda n: means[n].lost)
    return next(trial for trial in trials if trial.number == number)


def _as_good(differences: np.ndarray) -> bool:
    """Whether a mean over models is at most one standard error above 0."""
    error = differences.std(ddof=1) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return bool(differences.mean() <= error)


def chosen(study: optuna.Study, method: str) -> Any:
    """The settings of the chosen trial, real numbers rounded to three significant digits."""
    point = suggest(optuna.trial.FixedTrial(chosen_trial(study).params), method)
    rounded = {key: float(f"{v:.3g}") for key, v in asdict(point).items() if isinstance(v, float)}
    return replace(point, **rounded)
