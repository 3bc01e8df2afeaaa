"""What a study minimises: a method's hyper-parameters -> KL to retraining, accuracy lost, cost; on the tuning models."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from torch import Tensor

from helpers.data.task import Task, tuning_task
from helpers.device import pick_device
from helpers.evaluation.distances import accuracy, kl_pairs
from helpers.evaluation.logits import logits_of
from helpers.models.ensembles import baseline, model_of, state_of
from helpers.models.training import RECIPE, Recipe, predict
from helpers.parallel import each
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, unlearn, unlearning_data
from helpers.unlearning.method import searched

TOLERATED = 0.6  # accuracy on held-out retained samples that a chosen point may lose, in errors of retrained models
AFFORDABLE = 0.1  # samples that unlearning may see, as a share of those that retraining sees
USEFUL_GAP = 0.5  # share of the gap that a point must close to be of interest
GOALS = ("KL(retrained || unlearned) on the forget set, nats", "accuracy lost on held-out retained samples, points")
COLLAPSED = (20.0, 100.0)  # recorded for a trial whose outputs are not finite: worse than any that works


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
    """The two goals of a study as a function of hyper-parameters, on the tuning models.

    floor, ceiling: KL(retrained || retrained) and KL(retrained || trained) on the same samples, nats.
    tolerated: accuracy that may be lost, points: TOLERATED times the error of the retrained models.
    cost: samples that the last call's unlearning saw, as a share of those that retraining sees.
    """

    def __init__(self, method: str, task: Task, models: int = SIZES.tuning_models):
        self.method, self.task = method, tuning_task(task)
        trained = baseline("trained", self.task, models, stored=False)
        self.states = [state_of(model) for model in trained.models]
        oracle = logits_of(baseline("retrained", self.task, models, stored=False), self.task)
        before = logits_of(trained, self.task)
        self.samples = unlearning_data(self.task, RECIPE).samples(1.0)
        self.labels = self.task.retain_set("test")[1].numpy()
        self.reference = oracle.forget_train
        keep = (~self.task.forget["test"]).numpy()
        self.reference_accuracy = float(accuracy(oracle.test[:, keep], self.labels).mean())
        self.tolerated = 100 * TOLERATED * (1 - self.reference_accuracy)
        self.floor, self.ceiling = self._kl(oracle.forget_train), self._kl(before.forget_train)

    def _kl(self, logits: np.ndarray) -> float:
        """KL(retrained || models), mean over pairs of different seeds."""
        return float(kl_pairs(self.reference, logits)[~np.eye(len(logits), dtype=bool)].mean())

    def gap(self, kl: float) -> float:
        """Share of the gap that is closed."""
        return (self.ceiling - kl) / (self.ceiling - self.floor)

    def __call__(self, settings: Any, repeat: int = 0) -> tuple[float, float]:
        """KL in nats and accuracy lost in points, means over the tuning models; `COLLAPSED` if not finite.

        repeat: another number draws other noise and samples.
        """
        found = {}
        jobs = (
            (seed, (self.method, self.task, RECIPE, settings, seed + 1000 * repeat, state))
            for seed, state in enumerate(self.states)
        )
        # by itself one process computes one trial, and a second process on the same study uses the second core
        for seed, made in each(outputs, jobs, here=True):
            found[seed] = made
        forget, retain, samples = zip(*(found[seed] for seed in sorted(found)), strict=True)
        self.cost = samples[-1] / self.samples
        forget, retain = np.stack(forget), np.stack(retain)
        if not (np.isfinite(forget).all() and np.isfinite(retain).all()):
            return COLLAPSED
        lost = 100 * (self.reference_accuracy - float(accuracy(retain, self.labels).mean()))
        return min(self._kl(forget), COLLAPSED[0]), lost


def outputs(method: str, task: Task, recipe: Recipe, settings: Any, seed: int, state: dict) -> tuple:
    """Of one tuning model, unlearned with that seed: logits on the forget training samples [n_f, 10] and on the held-out
    retained ones [n, 10], and how many samples that took."""
    model, record = unlearn(method, model_of(state), unlearning_data(task, recipe), settings, seed)
    return *(predict(model, images).numpy() for images in _looked_at(task)), record["samples"]


@functools.lru_cache(1)
def _looked_at(task: Task) -> tuple[Tensor, Tensor]:
    return tuple(images.to(pick_device()) for images in (task.forget_set("train")[0], task.retain_set("test")[0]))
