"""Optuna studies of the hyper-parameters: create or resume, run, choose.

Two goals, both to be small: KL(retrained || unlearned) on the forget samples of the training set, and accuracy lost on
held-out retained samples. Both are measured on the *tuning task* (split.tuning_task): its models are trained on nine
tenths of the training half and are never reported; its held-out tenth stands in for the test half, which no study sees.
"""

import datetime
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna
from tqdm import tqdm

from helpers.device import pick_device
from helpers.ensembles import RECIPE, baseline, unlearn, unlearned
from helpers.evaluation import accuracy, evaluate, kl_pairs, outputs
from helpers.files import DATA, StudyError, shown
from helpers.split import Task, tuning_task
from helpers.tables import Table, spread
from helpers.training import predict
from helpers.unlearning import METHODS, UnlearningData
from helpers.unlearning.ascent import AscentSettings
from helpers.unlearning.generator import GefeuSettings, GemuSettings

STORAGE = DATA / "studies" / "studies.db"
TUNING_MODELS = 5  # models 0 to 4 of the tuning task
SAMPLER_SEED = 0
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
        generator_share=trial.suggest_float("generator_share", 0.001, 0.02, log=True),
        generator_batch=trial.suggest_categorical("generator_batch", [32, 64, 128]),
        generator_lr=trial.suggest_float("generator_lr", 0.02, 2.0, log=True),
        noise_weight=trial.suggest_float("noise_weight", 0.01, 10.0, log=True),
        batch_size=trial.suggest_categorical("batch_size", [32, 64, 128]),
        impair_share=trial.suggest_float("impair_share", 0.002, 0.03, log=True),
        impair_noise=trial.suggest_float("impair_noise", 0.05, 0.8),
        impair_lr=trial.suggest_float("impair_lr", 0.1, 4.0, log=True),
        repair_share=trial.suggest_float("repair_share", 0.02, 0.08),
        repair_lr=trial.suggest_float("repair_lr", 0.1, 2.0, log=True),
    )


def ascent_space(trial: optuna.Trial, settings: type) -> AscentSettings:
    """Search space of gradient ascent: how far to go."""
    return settings(
        passes=trial.suggest_int("passes", 1, 4),
        lr=trial.suggest_float("lr", 0.001, 2.0, log=True),
    )


SPACES = {
    "gemu": (generator_space, GemuSettings),
    "gefeu": (generator_space, GefeuSettings),
    "ascent": (ascent_space, AscentSettings),
}


class Objective:
    """The two goals of a study as a function of hyper-parameters, on the tuning models."""

    def __init__(self, method: str, task: Task, models: int = TUNING_MODELS):
        self.method, self.task = method, tuning_task(task)
        self.trained = baseline("trained", self.task, models, stored=False)
        retrained = baseline("retrained", self.task, models, stored=False)
        self.device = pick_device()
        self.data = UnlearningData.of(self.task, RECIPE, self.device)
        held_out = outputs(retrained, self.task)
        images, labels = self.task.retain_set("test")
        self.held_out, self.labels = images.to(self.device), labels.numpy()
        self.reference = held_out.forget_train
        keep = (~self.task.forget["test"]).numpy()
        self.reference_accuracy = float(accuracy(held_out.test[:, keep], self.labels).mean())

    def __call__(self, settings: Any) -> tuple[float, float]:
        """KL in nats and accuracy lost in points, means over the tuning models; `COLLAPSED` if not finite."""
        forget, retain = [], []
        for seed, start in enumerate(self.trained.models):
            model, _ = unlearn(self.method, start.to(self.device), self.data, settings, seed)
            forget.append(predict(model, self.data.forget_images).numpy())
            retain.append(predict(model, self.held_out).numpy())
        forget, retain = np.stack(forget), np.stack(retain)
        if not (np.isfinite(forget).all() and np.isfinite(retain).all()):
            return COLLAPSED
        kl = kl_pairs(self.reference, forget)[~np.eye(len(forget), dtype=bool)].mean()
        lost = 100 * (self.reference_accuracy - float(accuracy(retain, self.labels).mean()))
        return min(float(kl), COLLAPSED[0]), lost


def open_study(name: str, method: str, task: Task) -> optuna.Study:
    """Creates the study, or resumes it from data/studies/studies.db.

    Raises StudyError if a study of that name exists for another method, data set, split, recipe or search space.
    """
    if method not in SPACES:
        raise StudyError(f"There is no search space for {method!r}: choose one of {', '.join(SPACES)}.")
    STORAGE.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    probe = optuna.create_study(directions=["minimize", "minimize"])
    trial = probe.ask()
    SPACES[method][0](trial, SPACES[method][1])
    identity = {
        "method": method,
        "task": tuning_task(task).fingerprint,
        "dataset": task.data.name,
        "recipe": asdict(RECIPE),
        "models": TUNING_MODELS,
        "space": {key: repr(value) for key, value in sorted(trial.distributions.items())},
    }
    try:
        study = optuna.create_study(
            study_name=name,
            storage=f"sqlite:///{STORAGE}",
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        known = study.user_attrs.get("identity")
        if known is None and not study.trials:
            study.set_user_attr("identity", identity)
            study.set_metric_names(list(GOALS))
        elif known != identity:
            known = known or {}
            changed = ", ".join(key for key in identity if known.get(key) != identity[key])
            raise StudyError(
                f'The study "{name}" was made with another {changed}: choose a new STUDY_NAME, its trials do not mix.'
            )
    except StudyError:
        raise
    except Exception as error:  # sqlite and SQLAlchemy raise many kinds for a damaged or locked file
        reason = (str(error).splitlines() or [""])[0][:80]
        raise StudyError(
            f"{shown(STORAGE)} cannot be opened as a study ({type(error).__name__}: {reason}): "
            "restore it with `git checkout data/studies`, or move it away."
        ) from None
    return study


def run_trials(study: optuna.Study, n_trials: int, method: str, task: Task) -> None:
    """Runs n_trials more. Interrupted trials are marked failed; diverged ones are recorded as such and do not stop it.

    The sampler is seeded with SAMPLER_SEED and the number of trials so far: a study can be repeated.
    """
    if n_trials < 1:
        return
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if not _fresh(trial):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    objective = Objective(method, task)
    space, settings = SPACES[method]
    if not study.trials:
        known = space(optuna.trial.FixedTrial(asdict(METHODS[method].settings)), settings)
        study.enqueue_trial(asdict(known), skip_if_exists=True)  # the first trial: the defaults as they are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with tqdm(total=n_trials, desc=f"{study.study_name}", unit="trial") as bar:
            for _ in range(n_trials):
                study.sampler = optuna.samplers.TPESampler(
                    seed=SAMPLER_SEED + len(study.trials), multivariate=True, n_startup_trials=30
                )
                trial = study.ask()
                try:
                    values = objective(space(trial, settings))
                except BaseException:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    raise
                trial.set_user_attr("diverged", values == COLLAPSED)
                study.tell(trial, values)
                bar.update()


def _fresh(trial: optuna.trial.FrozenTrial) -> bool:
    """True if a running trial was started so recently that another process may still be at it."""
    age = datetime.datetime.now() - (trial.datetime_start or datetime.datetime.min)
    return age < datetime.timedelta(minutes=10)


TOLERATED_LOSS = 0.5  # points of accuracy on held-out retained samples that a chosen point may lose


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Completed trials; StudyError if there is none."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if not trials:
        raise StudyError(f'The study "{study.study_name}" holds no finished trial: set N_TRIALS above 0 and run it.')
    return trials


def chosen_trial(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """The trial with the smallest KL among those that lose at most TOLERATED_LOSS; the least losing if none does."""
    trials = finished(study)
    good = [trial for trial in trials if trial.values[1] <= TOLERATED_LOSS]
    return min(good, key=lambda t: t.values[0]) if good else min(trials, key=lambda t: t.values[1])


def chosen(study: optuna.Study, method: str):
    """The settings of the chosen trial."""
    space, settings = SPACES[method]
    return space(optuna.trial.FixedTrial(chosen_trial(study).params), settings)


def study_table(study: optuna.Study) -> Table:
    """Trials by state, and the chosen point with its two goals."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    best = chosen_trial(study)
    diverged = sum(trial.user_attrs.get("diverged", False) for trial in finished(study))
    rows = [
        ["finished trials", f"{len(finished(study))}, of which {diverged} diverged"],
        ["interrupted trials", str(states.count(optuna.trial.TrialState.FAIL))],
        ["chosen trial", f"number {best.number}: KL {best.values[0]:.3f} nats, {best.values[1]:.2f} points lost"],
        *([key, f"{value:.4g}" if isinstance(value, float) else str(value)] for key, value in best.params.items()),
    ]
    return Table([study.study_name, ""], rows)


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
