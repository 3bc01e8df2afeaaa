"""What a study minimises, as a function of a method's hyper-parameters, on the tuning models: energy distance to retraining on
the forget set, and accuracy lost; with limits on what may be lost, and on the cost in samples, which unlike seconds does not depend on the machine."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from torch import Tensor

from helpers.data.task import Task, tuning_task
from helpers.device import pick_device
from helpers.evaluation.distances import accuracy, energy_distances
from helpers.evaluation.logits import logits_of
from helpers.models.ensembles import baseline, model_of, state_of
from helpers.models.training import RECIPE, Recipe, predict
from helpers.parallel import each
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, unlearn, unlearning_data
from helpers.unlearning.method import searched

TOLERATED = 0.75  # accuracy that a chosen point may lose, as a part of the errors that retrained models make
AFFORDABLE = 0.1  # samples that unlearning may see, as a share of those that retraining sees
USEFUL_GAP = 0.5  # share of the gap that a point must close to be of interest
FEW = 2  # models that show whether a point is far from being of interest
GOALS = ("energy distance to retrained models on the forget set", "accuracy lost on held-out retained samples, points")


@dataclass(frozen=True)
class Found:
    """One measurement of a point. energies: what each tuning model adds to the energy distance; lost, lost_class: accuracy lost on
    held-out retained samples, and on those of them that are of the classes touched, points; cost: samples, as a share of those
    that retraining sees."""

    energies: list[float]
    lost: float
    lost_class: float
    cost: float

    @property
    def goals(self) -> tuple[float, float]:
        return float(np.mean(self.energies)), self.lost

    @property
    def diverged(self) -> bool:
        return self.lost == COLLAPSED.lost


COLLAPSED = Found([3.0], 100.0, 100.0, 0.0)  # for a trial whose outputs are not finite: worse than any that works


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
    """The goals of a study as a function of hyper-parameters, on the tuning models.

    ceiling: energy distance of the trained models from the retrained ones on the same samples (that of retrained ones is 0);
    limits: accuracy that may be lost, points, on held-out retained samples and on those of the classes touched: TOLERATED times
    the error of the retrained models there.
    """

    def __init__(self, method: str, task: Task, models: int = SIZES.tuning_models):
        self.method, self.task = method, tuning_task(task)
        trained = baseline("trained", self.task, models, stored=False)
        self.states = [state_of(model) for model in trained.models]
        oracle = logits_of(baseline("retrained", self.task, models, stored=False), self.task)
        self.samples = unlearning_data(self.task, RECIPE).samples(1.0)
        self.labels = self.task.retain_set("test")[1].numpy()
        own = self.task.neighbours("test")[~self.task.forget["test"]].numpy()
        self.own = own if own.any() else np.ones_like(own)  # of a whole class nothing is left: all retained samples
        self.reference = oracle.forget_train
        self.ceiling = float(energy_distances(logits_of(trained, self.task).forget_train, self.reference).mean())
        self.accuracies = self._accuracies(oracle.test[:, (~self.task.forget["test"]).numpy()])
        self.limits = [100 * TOLERATED * (1 - reached) for reached in self.accuracies]

    def _accuracies(self, logits: np.ndarray) -> tuple[float, float]:
        """On all held-out retained samples, and on those of the classes touched. logits: [N, n, 10]."""
        own = self.own
        return float(accuracy(logits, self.labels).mean()), float(accuracy(logits[:, own], self.labels[own]).mean())

    def __call__(self, settings: Any, repeat: int = 0) -> Found:
        """Measures a point; `COLLAPSED` if its outputs are not finite. repeat: another number draws other noise and samples.
        A point that a few models show to be hopeless is not measured on the others."""
        made, seeds = {}, range(len(self.states))
        for some in (seeds[:FEW], seeds[FEW:]):
            jobs = (
                (seed, (self.method, self.task, RECIPE, settings, seed + 1000 * repeat, self.states[seed]))
                for seed in some
            )
            # by itself one process computes one trial, and a second process on the same study uses the second core
            made |= dict(each(outputs, jobs, here=True))
            found = self._found([made[seed] for seed in sorted(made)])
            if repeat == 0 and self._hopeless(found):
                break
        return found

    def _found(self, made: list[tuple]) -> Found:
        forget, retain, samples = zip(*made, strict=True)
        forget, retain, cost = np.stack(forget), np.stack(retain), samples[-1] / self.samples
        if not (np.isfinite(forget).all() and np.isfinite(retain).all()):
            return replace(COLLAPSED, energies=COLLAPSED.energies * len(made), cost=cost)
        lost = [100 * (before - now) for before, now in zip(self.accuracies, self._accuracies(retain), strict=True)]
        return Found(energy_distances(forget, self.reference).tolist(), *lost, cost)

    def _hopeless(self, found: Found) -> bool:
        """Whether it loses more than twice what may be lost, or closes not half of what is of interest."""
        beyond = any(lost > 2 * limit for lost, limit in zip((found.lost, found.lost_class), self.limits, strict=True))
        return beyond or found.goals[0] > (1 - USEFUL_GAP / 2) * self.ceiling


def outputs(method: str, task: Task, recipe: Recipe, settings: Any, seed: int, state: dict) -> tuple:
    """Of one tuning model, unlearned with that seed: logits on the forget training samples [n_f, 10] and on the held-out
    retained ones [n, 10], and how many samples that took."""
    model, record = unlearn(method, model_of(state), unlearning_data(task, recipe), settings, seed)
    return *(predict(model, images).numpy() for images in _looked_at(task)), record["samples"]


@functools.lru_cache(1)
def _looked_at(task: Task) -> tuple[Tensor, Tensor]:
    return tuple(images.to(pick_device()) for images in (task.forget_set("train")[0], task.retain_set("test")[0]))
