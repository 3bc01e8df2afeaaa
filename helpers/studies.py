"""Optuna studies of the hyper-parameters: they minimise the goal of `objective.py` on the *tuning task*. Its models are
trained on nine tenths of the training split and never reported; the other tenth stands in for the test split, which no
study sees. Several processes may work on one study, until as many trials are complete as were asked for."""

import json
import os
import warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

import numpy as np
import optuna
from sqlalchemy import NullPool, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from helpers.data.request import DEFAULT
from helpers.data.task import Task, tuning_task
from helpers.files import DATA, StudyError, code_fingerprint, locked, shown, written_whole
from helpers.models.training import RECIPE
from helpers.objective import FIRST_SEED, GOAL, TOLD, Objective, complete, finalists, winner
from helpers.sizes import SIZES
from helpers.unlearning import ELSEWHERE, FEW, FORMS, FRONTIER, METHODS, OURS, TUNED, method_of, name_at, tuned

STORAGE = DATA / "studies" / "studies.db"  # where no other address is given
REMEDY = """see that the address is right, its server runs, its file and folder may be written to and have space, and
no other program holds the file; if it is damaged, keep a copy of it and name another one.""".replace("\n", " ")
OTHERS = tuple(name for name in METHODS if name not in OURS)  # methods without a notebook of their own


class NoStudy(StudyError):
    """A study that was only to be looked at does not exist."""


def open_study(name: str, method: str, task: Task, storage: str | None = None, look: bool = False) -> optuna.Study:
    """Creates the study, whose first trials have the defaults and what the method's paper has, or resumes it.

    storage: any address that Optuna takes; data/studies/studies.db if None or empty.
    look: creates nothing; raises NoStudy where there is no such study.
    Raises StudyError for a storage that cannot be opened, and where the study of that name has another method, data
    set, request, split, recipe, number of tuning models, goal or search space."""
    declared = method_of(method)
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise StudyError(f'STUDY_NAME = {name!r} names no study: set it to a word in quotes, for example "mnist".')
    if not isinstance(storage, str | None) or storage in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        raise StudyError(f"STORAGE = {storage!r} is no address, or keeps no trial beyond this notebook: name a file.")
    identity = _identity(method, task)
    address = _address(storage)
    where = storage.split("@")[-1] if storage else shown(STORAGE)  # without a password
    with _in_one_sentence(f"{where} cannot be opened as a storage of studies", Exception):  # drivers raise many kinds
        if look and name not in _names(address):
            raise NoStudy(f'{where} holds no study "{name}": set N_TRIALS (--trials) above 0 to begin it.')
        if look:
            study = optuna.load_study(study_name=name, storage=_storage(address))
        else:
            with locked(STORAGE):  # two processes must not create the same tables
                study = optuna.create_study(study_name=name, storage=_storage(address), load_if_exists=True)
                if not study.user_attrs and not study.get_trials(deepcopy=False):
                    study.set_user_attr("identity", identity)
                    for tried in ({}, *declared.tried):
                        settings = replace(declared.settings, **tried)
                        study.enqueue_trial({name: getattr(settings, name) for name in declared.searched})
        _check(study)
        known = study.user_attrs.get("identity", {"goal": ""})  # what another program made has none
    changed = ", another ".join(what for what in identity if known.get(what, identity[what]) != identity[what])
    if changed:
        raise StudyError(
            f'The study "{name}" was made with another {changed}: choose a new STUDY_NAME (--study), or, to '
            "tune all methods or forms, another --storage."
        )
    return study


def _address(storage: str | None) -> str:
    return storage or f"sqlite:///{quote(str(STORAGE))}?timeout=60"  # seconds that it waits for other writers


def stored(names: list[str], prefix: str, storage: str | None = None) -> dict[str, optuna.Study]:
    """Method -> its study where there is one with a finished trial, whatever version of the code made it: to show it,
    not to go on with it. prefix: of the names of studies, "mnist-"."""
    address, found = _address(storage), {}
    with _in_one_sentence(f"{shown(STORAGE)} cannot be read", Exception):
        known = set(_names(address))
        for name in names:
            if prefix + name in known:
                study = optuna.load_study(study_name=prefix + name, storage=_storage(address))
                _check(study)
                if complete(study):
                    found[name] = study
    return found


def _check(study: optuna.Study) -> None:
    """ValueError unless all that is read of a study has the form in which it was stored: a file may be damaged."""
    kept, measured = study.user_attrs, [trial.user_attrs["measured"]["goals"] for trial in complete(study)]
    good = study.directions == [optuna.study.StudyDirection.MINIMIZE] and isinstance(kept.get("target", 0), int)
    good = good and all(isinstance(kept.get(name, {}), dict) for name in ("identity", "confirmed"))
    good = good and all(isinstance(trial.value, float) for trial in complete(study))
    if "confirmed" in kept:
        known = (*TOLD, "trial", "finalists")
        good = good and all(isinstance(kept["confirmed"].get(name), list | float | int) for name in known)
        good = good and kept["confirmed"]["trial"] in kept["confirmed"]["finalists"]
    if not good or not all(isinstance(goals, list) and goals for goals in measured):
        raise ValueError("its trials or attributes are damaged, or another program made it")


def _identity(method: str, task: Task) -> dict:
    """What all trials of a study have in common, in the words in which a difference is told."""
    settings, fields = method_of(method).settings, method_of(method).searched
    return {
        "method": method,
        "code of the method": code_fingerprint(method_of(method).run.__module__, follow="helpers.unlearning"),
        "fixed setting": {key: value for key, value in asdict(settings).items() if key not in fields},
        "data set": task.data.name,
        "request, split or data": tuning_task(task).fingerprint,
        "training recipe": asdict(RECIPE),
        "number of tuning models": SIZES.tuning_models,
        "goal": GOAL,
        "search space": {key: [v["low"], v["high"], v["log"], *v["choices"]] for key, v in fields.items()},
    }


def _names(address: str) -> list[str]:
    """The studies that a storage holds. Optuna itself would create its file and tables to find out."""
    url = make_url(address)
    if url.get_backend_name() == "sqlite" and not os.path.exists(url.database):
        return []
    tables = inspect(create_engine(url, poolclass=NullPool)).get_table_names()
    return optuna.get_all_study_names(address) if "studies" in tables else []


def _storage(address: str) -> optuna.storages.RDBStorage:
    """A trial whose process has given no sign of life for a while is run again by another process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what ends a trial is raised: no need to print its stack too
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    again = optuna.storages.RetryHeartbeatStaleTrialCallback()
    signs = {"heartbeat_interval": SIZES.heartbeat, "grace_period": SIZES.grace}
    return optuna.storages.RDBStorage(address, **signs, heartbeat_stale_trial_callback=again)


@contextmanager
def _in_one_sentence(what: str, *kinds: type[Exception]):
    """Errors of these kinds as a StudyError: what failed, the database driver's own words, and what one may do."""
    try:
        yield
    except StudyError:
        raise
    except kinds as error:
        while error.__cause__ is not None:  # the driver's lies beneath SQLAlchemy's and Optuna's
            error = error.__cause__
        first_line = (str(error).splitlines() or [""])[0][:200]
        raise StudyError(f"{what} ({type(error).__name__}: {first_line}): {REMEDY}") from None


def run_trials(study: optuna.Study, n_trials: int, method: str, task: Task, join: bool = False) -> None:
    """Runs trials until n_trials more are complete; with `join`, until as many are as another process asked for.

    An interrupted trial is marked failed; that of a killed process is run again. StudyError where the storage fails."""
    failed = f'The storage of the study "{study.study_name}" failed; the same cell goes on after its finished trials'
    with _in_one_sentence(failed, SQLAlchemyError, optuna.exceptions.StorageInternalError):
        if not join:
            study.set_user_attr("target", max(study.user_attrs.get("target", 0), len(complete(study)) + n_trials))
        target = study.user_attrs.get("target", 0)
        if len(complete(study)) >= target:
            return
        study.sampler, objective = Sampler(), Objective(method, task)
        with tqdm(total=target, initial=len(complete(study)), desc=study.study_name, unit="trial") as bar:
            while len(complete(study)) < target:
                try:
                    study.optimize(objective, n_trials=1)
                except ValueError as error:
                    if "Cannot tell a" not in str(error):
                        raise  # else the machine slept and the trial was given to another process: on to the next
                bar.update(len(complete(study)) - bar.n)


class Sampler(optuna.samplers.TPESampler):
    """Multivariate TPE after 25 random trials, seeded by the number of each, so that no two processes draw the same."""

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        super().__init__(seed=trial.number, multivariate=True, n_startup_trials=25)


def trials_of(method: str) -> int:
    """How many trials the study of a method gets, so that all are tuned alike: 20, and 6 more for each field that is
    searched where that is all that has a range. Of a form of GEMU and GeFeU 40, or 20 where its method's settings stay
    but for learning rate and weight decay."""
    declared = method_of(method)
    if method in FORMS:
        return 20 if declared.search == FEW else 40
    return 20 + 6 * len(declared.searched) * (not declared.search)


def tune_all(task: Task, names: list[str], storage: str | None = None) -> dict[str, optuna.Study]:
    """The studies DATASET-METHOD of these methods (`to_tune`, or the forms of GEMU and GeFeU): as many trials as
    `trials_of` says, then the best ones measured again (`confirm`). Goes on where it was interrupted."""
    found = {name: open_study(study_name(name, task), name, task, storage) for name in names}
    for name, study in found.items():
        run_trials(study, max(0, trials_of(name) - len(complete(study))), name, task)
        confirm(study, name, task)
    return found


def to_tune() -> list[str]:
    """Every method but Gradient Ascent, which has the settings of training, and those that are tuned at other budgets;
    where only rate and decay are searched there, once their other settings were adopted at a tenth."""
    elsewhere = {name_at(*each): each[0] for each in ELSEWHERE if name_at(*each) in FRONTIER}
    ready = [name for name, of in elsewhere.items() if not FRONTIER[name].search or of in tuned()]
    return [name for name in (*METHODS, *ready) if name != "ascent"]


def confirm(study: optuna.Study, method: str, task: Task) -> dict:
    """The settings of the best trials (`finalists`) on as many fresh tuning models, which no trial has seen: the best
    of many trials is better on the models of the study than on others. The one with the lowest mean over both is the
    winner. Kept in the study: its number, those of the finalists, and of the fresh models what `objective.told` gives.
    """
    with locked(STORAGE.with_name(study.study_name)):  # of two processes one measures
        if not winner(study)[1]:
            fresh, trials = Objective(method, task, FIRST_SEED + SIZES.tuning_models), finalists(study)
            found = {trial.number: fresh.all_models(_settings(trial, method)) for trial in trials}
            both = {trial.number: trial.value + np.mean(found[trial.number]["goals"]) for trial in trials}
            best = min(both, key=both.get)
            study.set_user_attr("confirmed", {"trial": best, "finalists": list(found)} | found[best])
    return winner(study)[1]


def adopt(found: dict[str, optuna.Study]) -> None:
    """Writes the settings of the winners to helpers/unlearning/tuned.json, from which every notebook takes them.
    found: method -> study."""
    settings = {name: asdict(chosen(study, name)) for name, study in found.items()}
    kept = {name: {key: settings[name][key] for key in method_of(name).searched} for name in found}
    with written_whole(TUNED) as part:
        part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def study_name(method: str, task: Task) -> str:
    """DATASET-METHOD, or DATASET-REQUEST-METHOD."""
    return "-".join([task.data.name, *([] if task.request.name == DEFAULT else [task.folder]), method])


def run_all(name: str, methods: tuple[str, ...], n_trials: int, task: Task, storage: str | None = None) -> dict:
    """Creates or resumes the study NAME-METHOD of each method and runs n_trials more of it: method -> study.

    n_trials = 0 creates nothing: None stands where there is no study. Raises StudyError as `open_study` does."""
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 0:
        raise StudyError(f"N_TRIALS = {n_trials!r} is no number of trials: set it to a whole number, 0 to run none.")
    found = {}
    for method in methods:
        try:
            found[method] = open_study(f"{name}-{method}", method, task, storage, look=n_trials == 0)
        except NoStudy:
            found[method] = None
    for method in methods if n_trials else ():
        run_trials(found[method], n_trials, method, task)
    return found


def chosen(study: optuna.Study, method: str) -> Any:
    """The settings of the winner, or of the best trial as long as none was measured again."""
    return _settings(winner(study)[0], method)


def _settings(trial: optuna.trial.FrozenTrial, method: str) -> Any:
    """Those of a trial, real numbers rounded to three significant digits."""
    rounded = {key: float(f"{value:.3g}") for key, value in trial.params.items() if isinstance(value, float)}
    return replace(method_of(method).settings, **trial.params | rounded)
