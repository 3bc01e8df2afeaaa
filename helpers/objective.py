"""What a study minimises, on the tuning models: the goal, one number, lower is better.

goal = energy gap left open, %  +  10 x percentage points of accuracy lost on held-out retained samples
                                +  10 x percentage points lost on those of them that are of the classes touched

Accuracy is lost against the mean of the retrained models; of a whole class both losses are of all retained samples.
The cost is not a part: the settings fix it (`budget`).

The energy gap that settings leave varies so much between models that only many of them tell two good ones apart; a few
tell bad ones. So settings are measured on 4 models, then on 10, then on all 20, and given up as soon as a paired t-test
over the same models finds them worse than the best so far (the rank test of Optuna's WilcoxonPruner cannot do so at
this level on 4). Their value is then the best goal plus the mean paired difference; the sampler learns from it too."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import ttest_rel
from torch import Tensor

from helpers.data.task import Task, tuning_task
from helpers.evaluation.distances import accuracy, energy_distances
from helpers.files import StudyError
from helpers.models.ensembles import Ensemble, baseline, model_of, state_of
from helpers.models.training import RECIPE, predict
from helpers.parallel import compute
from helpers.sizes import SIZES
from helpers.unlearning import method_of, unlearn, unlearning_data

FIRST_SEED = 100_000  # of the tuning models: no reported model has such a seed
WEIGHT = 10.0  # of a percentage point of accuracy, in % of the energy gap
LOOKS = (4, 10)  # numbers of models after which settings may be given up
FINALISTS = 3  # trials that are measured again on fresh models
LEVEL = 0.05  # of the one-sided t-test that decides it
FARTHEST = 8**0.5  # the largest energy distance of probabilities; that of models whose outputs are not finite
GOAL = "energy gap left open, % + 10 x percentage points lost + 10 x percentage points lost of the classes touched"


def suggest(trial: optuna.trial.BaseTrial, method: str) -> Any:
    """A method's settings, every searched field drawn from its range by the trial."""
    default, drawn = method_of(method).settings, {}
    for name, about in method_of(method).searched.items():
        if about["choices"]:
            drawn[name] = trial.suggest_categorical(name, list(about["choices"]))
        else:
            draw = trial.suggest_int if about["type"] is int else trial.suggest_float
            drawn[name] = draw(name, about["low"], about["high"], log=about["log"])
    return replace(default, **drawn)


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials, those that were given up early or diverged included."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the lowest goal, or None. It was measured on all tuning models: one that was given up
    early was worse than the best one of its time."""
    return min(complete(study), key=lambda trial: trial.value, default=None)


def finalists(study: optuna.Study) -> list[FrozenTrial]:
    """The best complete trials, FINALISTS of them, among those that were measured on all tuning models."""
    trials = complete(study)
    most = max((len(trial.user_attrs["measured"]["goals"]) for trial in trials), default=0)
    whole = [trial for trial in trials if len(trial.user_attrs["measured"]["goals"]) == most]
    return sorted(whole, key=lambda trial: trial.value)[:FINALISTS]


def winner(study: optuna.Study) -> tuple[FrozenTrial | None, dict]:
    """The finalist with the lowest mean goal over the models of its study and fresh ones, and what `told` gives of the
    latter (studies.confirm); the best trial and nothing where the finalists were not measured again."""
    kept, trials = study.user_attrs.get("confirmed", {}), finalists(study)
    if kept.get("finalists") != [trial.number for trial in trials] or not kept:
        return best_trial(study), {}
    return next(trial for trial in trials if trial.number == kept["trial"]), kept


class Objective:
    """The goal of a trial. Makes and stores tuning models that are missing, from the seed `first` on. StudyError for a
    sequence of requests."""

    def __init__(self, method: str, task: Task, first: int = FIRST_SEED):
        if task.before:
            raise StudyError(f'FORGET = "{task.request.name}": tune on one of these requests, not on a sequence.')
        self.method, self.task, self.first, n = method, tuning_task(task), first, SIZES.tuning_models
        self.looks = [*(look for look in LOOKS if look < n), n]
        which = {"task": self.task, "n": n, "stored": False, "first": first}
        trained, retrained = baseline("trained", **which), baseline("retrained", **which)
        self.states = [state_of(model) for model in trained.models]
        self.samples = unlearning_data(self.task, RECIPE).samples(1.0)
        subsets = self.task.subsets("test")
        self.parts = [subsets["retain"], subsets.get("neighbours", subsets["retain"])]
        forget, held_out = self.task.forget_set("train")[0], self.task.split("test").images
        self.reference = _logits(retrained, forget)
        self.ceiling = energy_distances(_logits(trained, forget), self.reference).mean()
        if not self.ceiling > 0:
            raise StudyError(f'FORGET = "{task.request.name}" leaves no gap to close: tune on another request.')
        self.reached = self._accuracies(_logits(retrained, held_out)).mean(1, keepdims=True)

    def __call__(self, trial: optuna.Trial) -> float:
        """The trial's attribute "measured" keeps what `told` gives of the models that were measured."""
        settings, before = suggest(trial, self.method), best_trial(trial.study)
        best = before and before.user_attrs["measured"]["goals"]
        parts = np.empty((3, 0))
        for look in self.looks:
            batch, cost = self._measure(settings, range(parts.shape[1], look))
            parts = np.hstack([parts, batch])
            goals = _goals(parts)
            if best and _worse(goals, best[:look]):
                break
        trial.set_user_attr("measured", told(parts, cost))
        return float(np.mean(best) + np.mean(goals - best[:look]) if best else np.mean(goals))

    def all_models(self, settings: Any) -> dict:
        """What `told` gives of these settings on all tuning models, on every core."""
        return told(*self._measure(settings, range(self.looks[-1]), here=False))

    def _measure(self, settings: Any, models: range, here: bool = True) -> tuple[np.ndarray, float]:
        """The parts of the goal [3, N]: energy gap left open, % and both losses, percentage points; and the cost."""
        jobs = ((i, (self.method, self.task, settings, self.first + i, self.states[i])) for i in models)
        # in this process where there is no cluster: other cores serve other processes on the same study
        made = sorted(compute(outputs, jobs, here), key=lambda job: job[0])
        forget, held_out, samples = map(np.stack, zip(*(result for _, result in made), strict=True))
        # among the models of these seeds alone, so that a model's goal stays the same when more are measured
        distances = energy_distances(forget, self.reference[models.start : models.stop])
        left = 100 * np.nan_to_num(distances, nan=FARTHEST) / self.ceiling
        return np.vstack([left, self.reached - self._accuracies(held_out)]), float(samples[0] / self.samples)

    def _accuracies(self, held_out: np.ndarray) -> np.ndarray:
        """On the retained samples, and on those of the classes touched, in %: logits [N, n, 10] -> [2, N]."""
        labels = self.task.split("test").labels.numpy()
        return 100 * np.stack([accuracy(held_out[:, part], labels[part]) for part in self.parts])


def _worse(goals: np.ndarray, best: list[float]) -> bool:
    """Whether a paired t-test finds the goals higher than the best ones of the same models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of goals that differ by the same on every model
        return bool(ttest_rel(goals, best, alternative="greater").pvalue < LEVEL)


def _goals(parts: np.ndarray) -> np.ndarray:
    return parts[0] + WEIGHT * (parts[1] + parts[2])


TOLD = ("goals", "gap", "lost", "lost_class", "cost")


def told(parts: np.ndarray, cost: float) -> dict:
    """Of the parts of the goal [3, N]: goals, one per model, and as means over the models: gap, the energy gap closed
    in %; lost and lost_class, in percentage points; cost, in samples, as a share of retraining's."""
    left, lost, lost_class = parts.mean(1).tolist()
    return {"goals": _goals(parts).tolist(), "gap": 100 - left, "lost": lost, "lost_class": lost_class, "cost": cost}


def outputs(method: str, task: Task, settings: Any, seed: int, state: dict) -> tuple[np.ndarray, np.ndarray, float]:
    """Unlearns one tuning model with that seed: its logits [n, 10] on the forget training samples and on all held-out
    ones, and how many samples that took."""
    model, record = unlearn(method, model_of(state), unlearning_data(task, RECIPE), settings, seed)
    looked_at = (task.forget_set("train")[0], task.split("test").images)
    return *(predict(model, images).numpy() for images in looked_at), record["samples"]


def _logits(ensemble: Ensemble, images: Tensor) -> np.ndarray:
    """[N, n, 10]."""
    return np.stack([predict(model, images).numpy() for model in ensemble.models])
