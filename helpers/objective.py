"""What a study minimises, as a function of a method's hyper-parameters, on the tuning models. One number, lower is
better:

energy gap left open, %  +  10 x points lost on held-out retained samples  +  10 x points lost on those of the classes
touched

Points are percentage points of accuracy below the retrained models' mean; where a whole class is forgotten nothing of
it is retained, and both losses are of all retained samples. The cost is not a goal: the settings fix it (`budget`).

The energy gap of one setting varies from 71 to 98 % between models, so that a point needs many of them; but most points
are worse than the best one so far on a few models already. So a point is measured on 4, then 10, then all 20 models,
and is left early where a paired t-test over the same models finds it worse than the best. Its value is then the best
point's plus the paired difference: the sampler learns from it too."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from scipy.stats import t as student
from torch import Tensor

from helpers.data.task import Task, tuning_task
from helpers.device import pick_device
from helpers.evaluation.distances import accuracy, energy_distances
from helpers.files import StudyError
from helpers.models.ensembles import Ensemble, baseline, model_of, state_of
from helpers.models.training import RECIPE, Recipe, predict
from helpers.parallel import compute
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, unlearn, unlearning_data
from helpers.unlearning.method import searched

FIRST_SEED = 100_000  # of the tuning models: no reported model has such a seed
WEIGHT = 10.0  # of a point of accuracy, in per cent of the gap
LOOKS = (4, 10)  # models after which a point that is worse than the best is left
LEVEL = 0.05  # one-sided, of the t-test
DIVERGED = 2_200.0  # the goal of a point whose outputs are not finite: above what any other can have
GOAL = "energy gap left open, % + 10 x points lost + 10 x points lost of the classes touched"


@dataclass(frozen=True)
class Measured:
    """One point. goals: after each look, every model's part of the goal, so that their mean is the goal (lists of 4,
    10, 20 numbers); gap: energy gap closed, %; lost, lost_class: points; all means over the models measured; cost:
    share of retraining's samples."""

    goals: list[list[float]]
    gap: float = -np.inf
    lost: float = np.inf
    lost_class: float = np.inf
    cost: float = 0.0


def value_of(point: Measured, best: Measured | None) -> float:
    """The goal: of a point that was left early the best one's, plus the mean difference on the models that it was
    measured on."""
    if not point.goals:
        return DIVERGED
    if best is None or len(point.goals) >= len(best.goals):
        return float(np.mean(point.goals[-1]))
    at = len(point.goals) - 1
    return float(np.mean(best.goals[-1]) + np.mean(np.subtract(point.goals[at], best.goals[at])))


def is_worse(goals: list[float], best: list[float]) -> bool:
    """Whether a paired one-sided t-test over the models finds the first larger."""
    difference = np.subtract(goals, best)
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / len(difference) ** 0.5
    return bool(difference.mean() > error * student.ppf(1 - LEVEL, len(difference) - 1))


def suggest(trial: optuna.trial.BaseTrial, method: str) -> Any:
    """A method's settings with every searched field drawn from its range."""
    default, drawn = METHODS[method].settings, {}
    for name, about in searched(default).items():
        if about["choices"]:
            drawn[name] = trial.suggest_categorical(name, list(about["choices"]))
        else:
            draw = trial.suggest_int if about["type"] is int else trial.suggest_float
            drawn[name] = draw(name, about["low"], about["high"], log=about["log"])
    return replace(default, **drawn)


class Objective:
    """The goal of a study as a function of settings. models: tuning models, which are trained where they are not
    stored."""

    def __init__(self, method: str, task: Task, models: int = SIZES.tuning_models):
        if task.before:
            raise StudyError(
                f'FORGET = "{task.request.name}": a sequence is not tuned as a whole; name one of its requests.'
            )
        self.method, self.task = method, tuning_task(task)
        self.looks = [*(n for n in LOOKS if n < models), models]
        trained, retrained = (
            baseline(kind, self.task, models, stored=False, first=FIRST_SEED) for kind in ("trained", "retrained")
        )
        self.states = [state_of(model) for model in trained.models]
        self.samples = unlearning_data(self.task, RECIPE).samples(1.0)
        self.labels = self.task.retain_set("test")[1].numpy()
        own = self.task.neighbours("test")[~self.task.forget["test"]].numpy()
        self.own = own if own.any() else np.ones_like(own)
        forget, retain = _looked_at(self.task)
        self.reference = _predict(retrained, forget)
        self.ceiling = float(energy_distances(_predict(trained, forget), self.reference).mean())
        self.reached = [accuracies.mean() for accuracies in self._accuracies(_predict(retrained, retain))]

    def _accuracies(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """On all held-out retained samples, and on those of the classes touched. logits: [N, n, 10] -> [N] each."""
        return accuracy(logits, self.labels), accuracy(logits[:, self.own], self.labels[self.own])

    def __call__(self, settings: Any, best: Measured | None = None) -> Measured:
        """Measures a point; it is left early where it is worse than `best`, which was measured on all models."""
        made, found = [], Measured([])
        for look in self.looks:
            seeds = range(len(made), look)
            jobs = ((i, (self.method, self.task, RECIPE, settings, FIRST_SEED + i, self.states[i])) for i in seeds)
            # by itself one process computes one trial, and a second process on the same study uses the second core
            made += [result for _, result in sorted(compute(outputs, jobs, here=True), key=lambda job: job[0])]
            found = self._measured(made, found.goals)
            if not found.goals or look == self.looks[-1]:
                break
            if best and is_worse(found.goals[-1], best.goals[len(found.goals) - 1]):
                break
        return found

    def _measured(self, made: list[tuple], goals: list[list[float]]) -> Measured:
        forget, retain, samples = zip(*made, strict=True)
        forget, retain = np.stack(forget), np.stack(retain)
        if not (np.isfinite(forget).all() and np.isfinite(retain).all()):
            return Measured([])
        left = 100 * energy_distances(forget, self.reference[: len(made)]) / self.ceiling
        lost, own = (100 * (a - b) for a, b in zip(self.reached, self._accuracies(retain), strict=True))
        goal = left + WEIGHT * (lost + own)
        means = (100 - left.mean(), lost.mean(), own.mean(), samples[-1] / self.samples)
        return Measured([*goals, goal.tolist()], *map(float, means))


def _predict(ensemble: Ensemble, images: Tensor) -> np.ndarray:
    """Logits [N, n, 10]."""
    return np.stack([predict(model.to(images.device), images).numpy() for model in ensemble.models])


def outputs(method: str, task: Task, recipe: Recipe, settings: Any, seed: int, state: dict) -> tuple:
    """Of one tuning model, unlearned with that seed: logits on the forget training samples [n_f, 10] and on the
    held-out retained ones [n, 10], and how many samples that took."""
    model, record = unlearn(method, model_of(state), unlearning_data(task, recipe), settings, seed)
    return *(predict(model, images).numpy() for images in _looked_at(task)), record["samples"]


@functools.lru_cache(1)
def _looked_at(task: Task) -> tuple[Tensor, Tensor]:
    return tuple(images.to(pick_device()) for images in (task.forget_set("train")[0], task.retain_set("test")[0]))
