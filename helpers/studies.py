"""Optuna studies of the hyper-parameters: create or resume, run, confirm, choose.

Two goals, both to be small: KL(retrained || unlearned) on the forget samples of the training set, and accuracy lost on
held-out retained samples. Both are measured on the *tuning task* (split.tuning_task): its models are trained on nine
tenths of the training half and are never reported; its held-out tenth stands in for the test half, which no study sees.

Trials wait in a queue inside the storage, so that any number of processes or machines can work on one study:
`run_trials` fills the queue and works until it is empty, `python -m helpers.studies` does so without a notebook.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from helpers.device import pick_device
from helpers.ensembles import RECIPE, baseline, unlearn, unlearned
from helpers.evaluation import accuracy, evaluate, kl_pairs, outputs
from helpers.files import DATA, StudyError, fingerprint, locked, shown
from helpers.parallel import one_thread
from helpers.split import SIDES, Task, load_task, tuning_task
from helpers.tables import Table, spread
from helpers.training import predict
from helpers.unlearning import CHEAP, METHODS, UnlearningData
from helpers.unlearning.ascent import AscentSettings
from helpers.unlearning.baselines import (
    DampeningSettings,
    FineTuneSettings,
    NegGradSettings,
    RandomLabelSettings,
    SalUnSettings,
)
from helpers.unlearning.generator import GefeuSettings, GemuSettings

STORAGE = DATA / "studies" / "studies.db"  # the default; any URL that Optuna takes can be given instead
TUNING_MODELS = 5  # models 0 to 4 of the tuning task
SAMPLER_SEED = 0
STARTUP = 25  # random trials before the sampler learns
TOLERATED = 0.6  # accuracy on held-out retained samples that a chosen point may lose, in errors of retrained models
AFFORDABLE = 0.1  # samples that unlearning may see, as a share of those that retraining sees
USEFUL_GAP = 0.5  # share of the gap that a point must close to be of interest
HEARTBEAT, GRACE = 5, 30  # seconds; a trial whose process gave no sign for GRACE goes back into the queue
GOALS = (
    "KL(retrained || unlearned) on the forget set, nats",
    "accuracy lost on held-out retained samples, points",
)
COLLAPSED = (20.0, 100.0)  # recorded for a trial whose outputs are not finite: worse than any that works


def generator_space(trial: optuna.Trial, settings: type) -> GemuSettings:
    """Search space of GEMU and GeFeU; shares and learning rates in the units of the settings' class."""
    return settings(
        noise_dim=trial.suggest_int("noise_dim", 16, 256, log=True),
        hidden_layers=trial.suggest_int("hidden_layers", 0, 4),
        width=trial.suggest_int("width", 64, 1024, log=True),
        generator_share=trial.suggest_float("generator_share", 0.001, 0.01, log=True),
        generator_batch=trial.suggest_categorical("generator_batch", [32, 64, 128]),
        generator_lr=trial.suggest_float("generator_lr", 0.05, 2.0, log=True),
        noise_weight=trial.suggest_float("noise_weight", 0.01, 10.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", [64, 96, 128]),
        impair_share=trial.suggest_float("impair_share", 0.002, 0.02, log=True),
        impair_noise=trial.suggest_float("impair_noise", 0.05, 0.8),
        impair_lr=trial.suggest_float("impair_lr", 0.1, 2.0, log=True),
        repair_share=trial.suggest_float("repair_share", 0.05, 0.092),
        repair_lr=trial.suggest_float("repair_lr", 0.1, 2.0, log=True),
        weight_decay=trial.suggest_float("weight_decay", 0.01, 3.0, log=True),
    )


def ascent_space(trial: optuna.Trial, settings: type) -> AscentSettings:
    """How far to go."""
    return settings(
        passes=trial.suggest_int("passes", 1, 4),
        lr=trial.suggest_float("lr", 0.001, 2.0, log=True),
    )


def finetune_space(trial: optuna.Trial, settings: type) -> FineTuneSettings:
    return settings(
        share=trial.suggest_float("share", 0.02, 0.1),
        lr=trial.suggest_float("lr", 0.05, 4.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", [64, 96, 128]),
        weight_decay=trial.suggest_float("weight_decay", 0.01, 3.0, log=True),
    )


def neggrad_space(trial: optuna.Trial, settings: type) -> NegGradSettings:
    return settings(
        share=trial.suggest_float("share", 0.02, 0.08),
        lr=trial.suggest_float("lr", 0.005, 2.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", [64, 96, 128]),
        alpha=trial.suggest_float("alpha", 0.8, 0.999),
        forget_batch=trial.suggest_categorical("forget_batch", [8, 16, 32]),
    )


def random_label_space(trial: optuna.Trial, settings: type) -> RandomLabelSettings:
    if settings is SalUnSettings:
        options = {"kept": trial.suggest_float("kept", 0.1, 0.9)}
    else:
        options = {"weight_decay": trial.suggest_float("weight_decay", 0.01, 3.0, log=True)}
    return settings(
        share=trial.suggest_float("share", 0.02, 0.1),
        lr=trial.suggest_float("lr", 0.05, 2.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", [64, 96, 128]),
        forget_part=trial.suggest_float("forget_part", 0.01, 0.5, log=True),
        **options,
    )


def dampening_space(trial: optuna.Trial, settings: type) -> DampeningSettings:
    return settings(
        alpha=trial.suggest_float("alpha", 0.5, 100.0, log=True),
        strength=trial.suggest_float("strength", 0.01, 2.0, log=True),
        share=trial.suggest_float("share", 0.01, 0.06),
        batch=trial.suggest_categorical("batch", [16, 64]),
    )


SPACES = {
    "gemu": (generator_space, GemuSettings),
    "gefeu": (generator_space, GefeuSettings),
    "tuned_ascent": (ascent_space, AscentSettings),
    "finetune": (finetune_space, FineTuneSettings),
    "neggrad": (neggrad_space, NegGradSettings),
    "randomlabels": (random_label_space, RandomLabelSettings),
    "ssd": (dampening_space, DampeningSettings),
    "salun": (random_label_space, SalUnSettings),
}


class Objective:
    """The two goals of a study as a function of hyper-parameters, on the tuning models.

    floor, ceiling: KL(retrained || retrained) and KL(retrained || trained) on the same samples, nats.
    tolerated: accuracy that may be lost, points: TOLERATED times the error of the retrained models.
    cost: samples that the last call's unlearning saw, as a share of those that retraining sees.
    """

    def __init__(self, method: str, task: Task, models: int = TUNING_MODELS):
        self.method, self.task = method, tuning_task(task)
        self.trained = baseline("trained", self.task, models, stored=False)
        oracle = outputs(baseline("retrained", self.task, models, stored=False), self.task)
        before = outputs(self.trained, self.task)
        self.device = pick_device()
        self.data = UnlearningData.of(self.task, RECIPE, self.device)
        images, labels = self.task.retain_set("test")
        self.held_out, self.labels = images.to(self.device), labels.numpy()
        self.reference = oracle.forget_train
        keep = (~self.task.forget["test"]).numpy()
        self.reference_accuracy = float(accuracy(oracle.test[:, keep], self.labels).mean())
        self.tolerated = 100 * TOLERATED * (1 - self.reference_accuracy)
        self.floor, self.ceiling = self._kl(oracle.forget_train), self._kl(before.forget_train)

    def _kl(self, logits: np.ndarray) -> float:
        """KL(retrained || models), mean over pairs of different seeds."""
        return float(kl_pairs(self.reference, logits)[~np.eye(len(logits), dtype=bool)].mean())

    def __call__(self, settings: Any, repeat: int = 0) -> tuple[float, float]:
        """KL in nats and accuracy lost in points, means over the tuning models; `COLLAPSED` if not finite.

        repeat: another number draws other noise and samples.
        """
        forget, retain = [], []
        with one_thread():  # as in the ensembles; a second process on the same study uses the second core
            for seed, start in enumerate(self.trained.models):
                model, record = unlearn(self.method, start.to(self.device), self.data, settings, seed + 1000 * repeat)
                self.cost = record["samples"] / self.data.samples(1.0)
                forget.append(predict(model, self.data.forget_images).numpy())
                retain.append(predict(model, self.held_out).numpy())
        forget, retain = np.stack(forget), np.stack(retain)
        if not (np.isfinite(forget).all() and np.isfinite(retain).all()):
            return COLLAPSED
        lost = 100 * (self.reference_accuracy - float(accuracy(retain, self.labels).mean()))
        return min(self._kl(forget), COLLAPSED[0]), lost


# ---- create or resume ----


def open_study(name: str, method: str, task: Task, storage: str | None = None) -> optuna.Study:
    """Creates the study, or resumes it; from data/studies/studies.db unless another storage URL is given.

    Raises StudyError if a study of that name exists for another method, data set, split, recipe or search space.
    """
    if method not in SPACES:
        raise StudyError(f"There is no search space for {method!r}: choose one of {', '.join(SPACES)}.")
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise StudyError(f'STUDY_NAME = {name!r} names no study: set it to a word in quotes, for example "mnist".')
    if not isinstance(storage, str | None):
        raise StudyError(
            f'STORAGE = {storage!r} is no address: set it to one in quotes, for example "sqlite:///my.db".'
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    probe = optuna.create_study().ask()
    SPACES[method][0](probe, SPACES[method][1])
    identity = {
        "method": method,
        "task": tuning_task(task).fingerprint,
        "dataset": task.data.name,
        "recipe": asdict(RECIPE),
        "models": TUNING_MODELS,
        "space": {key: repr(value) for key, value in sorted(probe.distributions.items())},
    }
    try:
        study = optuna.create_study(
            study_name=name, storage=_storage(storage), directions=["minimize", "minimize"], load_if_exists=True
        )
        if "identity" not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr("identity", identity)
            study.set_metric_names(list(GOALS))
        known = study.user_attrs.get("identity", {})
        complete = _of_state(study, TrialState.COMPLETE)
    except StudyError:
        raise
    except Exception as error:  # SQLAlchemy and its drivers raise many kinds for a damaged file or a wrong address
        reason = (str(error).splitlines() or [""])[0][:100]
        remedy = (
            "check the address"
            if storage
            else "move it away if it holds trials of yours, then restore it with `git checkout data/studies`"
        )
        where = storage.split("@")[-1] if storage else shown(STORAGE)
        raise StudyError(f"{where} cannot be opened as a study ({type(error).__name__}: {reason}): {remedy}.") from None
    if known != identity:
        changed = ", ".join(key for key in identity if known.get(key) != identity[key])
        raise StudyError(
            f'The study "{name}" was made with another {changed}: choose a new STUDY_NAME, its trials do not mix.'
        )
    _check_seals(study, complete)
    return study


def _storage(url: str | None) -> optuna.storages.RDBStorage:
    with locked(STORAGE):  # two processes must not make the same tables
        return optuna.storages.RDBStorage(
            url or f"sqlite:///{STORAGE}",
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            engine_kwargs=None if url else {"connect_args": {"timeout": 60}},
        )


# ---- run ----


class Sampler(optuna.samplers.BaseSampler):
    """TPE over the two goals and the constraints; every second trial after the start is a small step away from one of
    the best points so far, since fourteen hyper-parameters are many for 150 noisy trials.

    A trial is seeded with SAMPLER_SEED and its number, so that neither a second process nor a kill changes its start.
    """

    def __init__(self):
        self.number, self.tpe = -1, None

    def _of(self, trial: optuna.trial.FrozenTrial) -> optuna.samplers.TPESampler:
        if trial.number != self.number:
            seed = SAMPLER_SEED + trial.number
            self.tpe = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP)
            self.number = trial.number
        return self.tpe

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_independent(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, name: str, kind) -> Any:
        return self._of(trial).sample_independent(study, trial, name, kind)

    def sample_relative(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict) -> dict:
        if trial.number % 2 == 0 or len(_of_state(study, TrialState.COMPLETE)) < STARTUP:
            return self._of(trial).sample_relative(study, trial, search_space)
        random = np.random.default_rng([SAMPLER_SEED, trial.number])
        best = _promising(study, 4)
        near = best[random.integers(len(best))].params
        return {name: _step(near[name], kind, random) for name, kind in search_space.items()}


def _step(value, kind: optuna.distributions.BaseDistribution, random: np.random.Generator):
    """A neighbour of a hyper-parameter's value: a tenth of the range away, one standard deviation, on its scale."""
    if isinstance(kind, optuna.distributions.CategoricalDistribution):
        return value if random.random() < 0.8 else kind.choices[random.integers(len(kind.choices))]
    to, back = (np.log, np.exp) if kind.log else (float, float)
    low, high = to(kind.low), to(kind.high)
    moved = back(np.clip(to(value) + random.normal() * 0.1 * (high - low), low, high))
    return round(moved) if isinstance(kind, optuna.distributions.IntDistribution) else float(moved)


def _promising(study: optuna.Study, n: int) -> list[optuna.trial.FrozenTrial]:
    """The n best affordable trials by their means; one a little beyond the tolerated loss may come back within it."""

    def worth(trial: optuna.trial.FrozenTrial) -> float:
        kl, lost = mean_values(study, trial)
        return kl + 5 * max(0, lost - tolerated)

    tolerated = recall(study, "tolerated")
    return sorted((t for t in finished(study) if t.user_attrs["cost"] <= AFFORDABLE), key=worth)[:n]


def run_trials(study: optuna.Study, n_trials: int, method: str, task: Task, join: bool = False) -> None:
    """Runs n_trials more: puts them into the study's queue (trials that wait there already count) and works until it is
    empty. join: adds none, works on the queue that another process filled.

    An interrupted trial is marked failed; one whose process was killed goes back into the queue. Trials that diverge
    are recorded as `COLLAPSED`.
    """
    if isinstance(n_trials, bool) or not isinstance(n_trials, int):
        raise StudyError(f"N_TRIALS = {n_trials!r} is no number of trials: set it to a whole number, 0 to run none.")
    if n_trials < 1 and not join:
        return
    with _storage_told(study):
        _work_on(study, n_trials, method, task, join)


@contextmanager
def _storage_told(study: optuna.Study):
    """A storage that fails while it is used is told in one sentence."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = (str(error.__cause__ or error).splitlines() or [""])[0][:100]
        raise StudyError(
            f'The storage of the study "{study.study_name}" could not be used ({reason}): see that its disk has space, '
            "that it may be written to and that its server runs, and run the cell again; finished trials are kept."
        ) from None


def _work_on(study: optuna.Study, n_trials: int, method: str, task: Task, join: bool) -> None:
    """What `run_trials` says, where the storage works."""
    objective = Objective(method, task)
    space, settings = SPACES[method]
    study.sampler = Sampler()
    for key in ("floor", "tolerated", "ceiling"):
        if key not in study.user_attrs or key == "tolerated":
            remember(study, key, getattr(objective, key))
    if not join:
        _fill(study, n_trials, asdict(METHODS[method].settings))

    taken = []  # numbers of trials that another process took over, since this one slept too long

    def trial_values(trial: optuna.Trial) -> tuple[float, float]:
        values = objective(space(trial, settings))
        try:
            note(trial, values)
        except optuna.exceptions.UpdateFinishedTrialError:
            taken.append(trial.number)
            raise
        return values

    def note(trial: optuna.Trial, values: tuple[float, float]) -> None:
        gap = (objective.ceiling - values[0]) / (objective.ceiling - objective.floor)
        trial.set_user_attr("gap", gap)
        trial.set_user_attr("diverged", values == COLLAPSED)
        trial.set_user_attr("cost", objective.cost)
        for key, excess in (  # above 0: of no interest, which steers the sampler
            ("loses too much, points", values[1] - objective.tolerated),
            ("closes too little, share of the gap", USEFUL_GAP - gap),
            ("costs too much, tenths of retraining", 10 * (objective.cost - AFFORDABLE)),
        ):
            trial.set_constraint(key, excess)
        trial.set_user_attr("seal", _seal(trial.params, values, trial.user_attrs))

    done = len(_of_state(study, TrialState.COMPLETE))
    waiting = len(_of_state(study, TrialState.WAITING))
    greeted = set()
    with tqdm(total=done + waiting, initial=done, desc=study.study_name, unit="trial") as bar:
        while True:
            _give_back_stale(study, greeted)
            if _of_state(study, TrialState.WAITING):
                try:
                    study.optimize(trial_values, n_trials=1)
                except ValueError:
                    if not taken:
                        raise
                    taken.clear()
            elif _of_state(study, TrialState.RUNNING):  # of another process: it finishes, or its trial comes back
                time.sleep(1)
            else:
                break
            bar.update(len(_of_state(study, TrialState.COMPLETE)) - bar.n)


def _give_back_stale(study: optuna.Study, greeted: set[int]) -> None:
    """Puts trials whose process gave no sign for GRACE back into the queue.

    greeted: trials that this process knows to run. Each gets one sign from here, since Optuna waits forever for a
    trial whose process was killed before its own first sign.
    """
    for trial in _of_state(study, TrialState.RUNNING):
        if trial._trial_id not in greeted:
            study._storage.record_heartbeat(trial._trial_id)
            greeted.add(trial._trial_id)
    optuna.storages.fail_stale_trials(study)


def _fill(study: optuna.Study, n_trials: int, defaults: dict) -> None:
    """Puts trials into the queue; the very first has the defaults as they are."""
    with locked(STORAGE):  # two processes must not both find the queue empty
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial({key: value for key, value in defaults.items()})
        for _ in range(n_trials - len(_of_state(study, TrialState.WAITING))):
            study.enqueue_trial({})


def _of_state(study: optuna.Study, state: TrialState) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(state,))


def confirm(study: optuna.Study, method: str, task: Task, best: int = 8, repeats: int = 6) -> None:
    """Measures the most promising trials again with fresh noise: the best of many noisy trials flatters itself.

    In each of `repeats` rounds the `best` trials by their means so far are measured once more. The values are kept
    with the study; what is there already is not measured again, and of two processes only one measures a trial.
    """
    space, settings = SPACES[method]
    objective = Objective(method, task)
    with _storage_told(study), tqdm(total=best * repeats, desc=f"{study.study_name}, again", unit="trial") as bar:
        for turn in range(1, repeats + 1):
            for trial in _promising(study, best):
                with locked(STORAGE.with_name(f"{study.study_name}-{trial.number}")):
                    again = _again(study, trial)
                    while len(again) < turn:
                        point = space(optuna.trial.FixedTrial(trial.params), settings)
                        again = [*again, list(objective(point, repeat=len(again) + 1))]
                        if len(again) > len(_again(study, trial)):  # else another machine was faster
                            remember(study, f"again {trial.number}", again)
                bar.update()


def _again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> list[list[float]]:
    key = f"again {trial.number}"
    return recall(study, key) if key in study.user_attrs else []


# ---- choose and show ----


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Completed trials; StudyError if there is none, or if one was altered after it was run."""
    trials = _of_state(study, TrialState.COMPLETE)
    if not trials:
        raise StudyError(f'The study "{study.study_name}" holds no finished trial: set N_TRIALS above 0 and run it.')
    _check_seals(study, trials)
    return trials


def _check_seals(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> None:
    for trial in trials:
        try:
            good = trial.user_attrs["seal"] == _seal(trial.params, trial.values, trial.user_attrs)
        except (KeyError, TypeError):  # without its attributes, or its values
            good = False
        if not good:
            raise StudyError(_altered(f"Trial {trial.number}", study))


def _altered(what: str, study: optuna.Study) -> str:
    return (
        f'{what} of the study "{study.study_name}" was altered or damaged in its storage: '
        "restore data/studies with `git checkout data/studies` (move it away first if it holds trials of yours), or choose a "
        "new STUDY_NAME."
    )


def remember(study: optuna.Study, key: str, value: float | list) -> None:
    """Keeps a value with the study, with its fingerprint."""
    study.set_user_attr(key, {"value": value, "seal": fingerprint([key, value])})


def recall(study: optuna.Study, key: str) -> float | list:
    """A value kept with the study: "floor", "ceiling" (nats), "tolerated" (points), "again N"; StudyError if it was lost
    or altered."""
    found = study.user_attrs.get(key)
    if not isinstance(found, dict) or found.get("seal") != fingerprint([key, found.get("value")]):
        raise StudyError(_altered(f'"{key}"', study))
    return found["value"]


def _seal(params: dict, values: Sequence[float], attributes: dict) -> str:
    """Fingerprint of what a trial says, stored with it."""
    return fingerprint([params, list(values), {key: attributes[key] for key in ("cost", "diverged", "gap")}])


def mean_values(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> tuple[float, float]:
    """The two goals of a trial, means over its first measurement and those of `confirm`."""
    kl, lost = np.mean([trial.values, *_again(study, trial)], axis=0)
    return float(kl), float(lost)


def chosen_trial(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """Among the trials that lose at most TOLERATED and cost at most AFFORDABLE: of those whose KL is within one standard
    error of the smallest, the one that loses least (the one-standard-error rule, Breiman et al. 1984, section 3.4.3).
    If none loses so little: the one that loses least of all.

    Where some trials were confirmed only those measured most often stand for choice, with their means.
    """
    trials = finished(study)
    most = max(len(_again(study, trial)) for trial in trials)
    trials = [trial for trial in trials if len(_again(study, trial)) == most]
    trials = [trial for trial in trials if trial.user_attrs["cost"] <= AFFORDABLE] or trials
    goals = {trial.number: mean_values(study, trial) for trial in trials}
    good = [trial for trial in trials if goals[trial.number][1] <= recall(study, "tolerated")]
    if good:
        best = min(good, key=lambda trial: goals[trial.number][0])
        measured = [values[0] for values in (best.values, *_again(study, best))]
        error = np.std(measured, ddof=1) / np.sqrt(most + 1) if most else 0.0
        trials = [trial for trial in good if goals[trial.number][0] <= goals[best.number][0] + error]
    return min(trials, key=lambda trial: goals[trial.number][1])


def chosen(study: optuna.Study, method: str):
    """The settings of the chosen trial, real numbers rounded to three significant digits."""
    space, settings = SPACES[method]
    exact = asdict(space(optuna.trial.FixedTrial(chosen_trial(study).params), settings))
    return settings(**{key: float(f"{v:.3g}") if isinstance(v, float) else v for key, v in exact.items()})


def study_table(study: optuna.Study) -> Table:
    """Trials by state, and the chosen point with its two goals."""
    best = chosen_trial(study)
    kl, lost = mean_values(study, best)
    times = 1 + len(_again(study, best))
    diverged = sum(trial.user_attrs.get("diverged", False) for trial in finished(study))
    floor, ceiling = recall(study, "floor"), recall(study, "ceiling")
    rows = [
        ["finished trials", f"{len(finished(study))}, of which {diverged} diverged"],
        ["interrupted trials", str(len(_of_state(study, TrialState.FAIL)))],
        ["chosen trial", f"number {best.number}, measured {times} times"],
        ["its KL(retrained || unlearned)", f"{kl:.3f} nats: {100 * (ceiling - kl) / (ceiling - floor):.1f} % closed"],
        ["its accuracy lost", f"{lost:.2f} points, tolerated {recall(study, 'tolerated'):.2f}"],
        *([key, f"{value:.3g}" if isinstance(value, float) else str(value)] for key, value in best.params.items()),
    ]
    return Table([study.study_name, ""], rows, "KL on forget samples of the training half, tuning models only.")


def cheap_studies(name: str, n_trials: int, task: Task, storage: str | None = None) -> Table:
    """Creates or resumes the studies of the cheap baselines, runs n_trials more of each, and shows the chosen points."""
    rows, tolerated = [], "-"
    for method in (method for method in CHEAP[1:] if method in SPACES):  # tuned ascent has a section of its own
        study = open_study(f"{name}-{method}", method, task, storage)
        run_trials(study, n_trials, method, task)
        if not _of_state(study, TrialState.COMPLETE):
            rows.append([METHODS[method].title, "0", "", "", "set N_TRIALS above 0"])
            continue
        kl, lost = mean_values(study, chosen_trial(study))
        floor, ceiling = recall(study, "floor"), recall(study, "ceiling")
        tolerated = f"{recall(study, 'tolerated'):.2f}"
        values = ", ".join(f"{key} {value:.3g}" for key, value in asdict(chosen(study, method)).items())
        gap = 100 * (ceiling - kl) / (ceiling - floor)
        rows.append([METHODS[method].title, str(len(finished(study))), f"{gap:.1f}", f"{lost:.2f}", values])
    header = ["method", "finished trials", "gap closed, %", "accuracy lost, points", "chosen point"]
    return Table(header, rows, f"On the tuning models; a loss of {tolerated} points is tolerated.")


def compare_settings(method: str, settings, task: Task, n: int) -> Table:
    """The given settings beside the defaults, on n models of the reported ensemble, which no study has seen."""
    results = {}
    for label, values in (("chosen point", settings), ("defaults", METHODS[method].settings)):
        ensemble = unlearned(method, task, n, stored=False, settings=values)
        result = evaluate(task, ensemble, store=values == METHODS[method].settings)[method]
        results[label] = result
    oracle = evaluate(task, baseline("retrained", task, n, stored=True), store=False)["retrained"]
    rows = []
    for label, result in results.items():
        lost = 100 * (np.mean(oracle.accuracy["retain"]) - np.array(result.accuracy["retain"]))
        cells = [spread(result.gap[subset]["values"], 100, 1) for subset in ("forget", "forget_train")]
        rows.append([label, *cells, spread(lost)])
    header = [METHODS[method].title, "gap closed on forget (test), %", "on forget (training), %", "retain lost, points"]
    return Table(header, rows, f"Mean ± standard deviation over {n} models that were not tuned on.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Works on a study; several processes and machines can do so at once.")
    parser.add_argument("method", choices=tuple(SPACES))
    parser.add_argument("--study", help="its name; default: DATASET-METHOD, DATASET-plain-METHOD")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--forget", default=SIDES[0], choices=SIDES, help="which sevens are forgotten")
    parser.add_argument("--trials", type=int, default=0, help="trials to add; 0 joins what another process started")
    parser.add_argument("--confirm", action="store_true", help="then measure the most promising trials again")
    options = parser.parse_args()
    try:
        task = load_task(options.dataset, options.forget)
        side = "" if options.forget == SIDES[0] else f"-{options.forget}"
        name = options.study or f"{options.dataset}{side}-{options.method}"
        study = open_study(name, options.method, task, os.environ.get("STORAGE"))
        run_trials(study, options.trials, options.method, task, join=options.trials < 1)
        if options.confirm:
            confirm(study, options.method, task)
        print(study_table(study))
    except StudyError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: the same command goes on with the trials that wait.")


if __name__ == "__main__":
    main()
