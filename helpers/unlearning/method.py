"""What every unlearning method gets, declares and may report.

Budgets are shares of the samples that retraining sees and learning rates are multiples of the training recipe's
peak, so that one setting means the same effort on every data set.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from helpers.data.task import Task
from helpers.files import StudyError
from helpers.models.cnn import CNN
from helpers.models.training import Recipe, adam, classification_step, set_lr

IMAGES, LABELS, NOTHING = "images and labels", "labels", "nothing"  # what a method may read of the forget set


def setting(default, meaning: str, low=None, high=None, log: bool = False, choices: tuple = ()):
    """A field of a method's settings: default, meaning with unit, and the range (or the choices) that studies search.

    A field without range or choices is not searched. Values outside its range may be set by hand.
    """
    return field(
        default=default, metadata={"meaning": meaning, "low": low, "high": high, "log": log, "choices": choices}
    )


def searched(settings: Any) -> dict[str, dict]:
    """Name -> type, low, high, log, choices of the fields that studies search."""
    kept = {f.name: {"type": f.type, **f.metadata} for f in fields(settings)}
    return {name: about for name, about in kept.items() if about["choices"] or about["low"] is not None}


@dataclass(frozen=True)
class Method:
    """A method's declaration. name: in file names; title: in tables and figures; source: paper;
    run: (model, data, settings, seed, log) -> a new model in evaluation mode; settings: the defaults;
    reads: what of the forget set it may look at; notebook: which shows it alone, or graphics.ipynb."""

    name: str
    title: str
    source: str
    run: Callable[[CNN, "UnlearningData", Any, int, "Log"], CNN]
    settings: Any
    reads: str = IMAGES
    notebook: str = "graphics.ipynb"

    def check(self, settings: Any) -> None:
        """StudyError unless `settings` are of this method's kind and every value is of its field's type."""
        if type(settings) is not type(self.settings):
            raise StudyError(f"{self.title} takes settings of type {type(self.settings).__name__}, not {settings!r}.")
        for about in fields(settings):
            value = getattr(settings, about.name)
            if isinstance(value, bool) or not isinstance(value, (int, float) if about.type is float else about.type):
                raise StudyError(f"{self.title}: {about.name} = {value!r} is no {about.type.__name__}.")


@dataclass(frozen=True)
class UnlearningData:
    """Training data on the device where the model is.

    forget_images: Tensor [n_f, c, 28, 28] float32, standardised; forget_labels: Tensor [n_f] int64;
    retain_images: Tensor [n_r, c, 28, 28]; retain_labels: Tensor [n_r];
    recipe: the training recipe, in whose units budgets and learning rates are given.
    """

    forget_images: Tensor
    forget_labels: Tensor
    retain_images: Tensor
    retain_labels: Tensor
    recipe: Recipe

    @classmethod
    def of(cls, task: Task, recipe: Recipe, device: torch.device) -> "UnlearningData":
        tensors = (*task.forget_set("train"), *task.retain_set("train"))
        return cls(*(tensor.to(device) for tensor in tensors), recipe)

    def for_reader(self, reads: str) -> "UnlearningData":
        """The same data without what a method does not declare to read: pictures of NaN, labels of -1."""
        data = self
        if reads != IMAGES:
            data = replace(data, forget_images=torch.full_like(self.forget_images, torch.nan))
        if reads == NOTHING:
            data = replace(data, forget_labels=torch.full_like(self.forget_labels, -1))
        return data

    def samples(self, share: float) -> int:
        """How many samples are `share` of those that retraining sees; at least one batch."""
        n = len(self.retain_labels)
        return max(self.recipe.batch_size, round(share * self.recipe.passes(n) * n))


@dataclass
class Log:
    """What a method reports while it works.

    samples: samples that went forward and backward through the classifier, generated ones included;
    curves: phase -> loss per step; noise: generated samples, Tensor [snapshots, k, c, 28, 28].
    """

    samples: int = 0
    curves: dict[str, list[Tensor]] = field(default_factory=dict)
    noise: list[Tensor] = field(default_factory=list)

    def step(self, phase: str, loss: Tensor, samples: int) -> None:
        """Notes one step; the loss stays on the device (no synchronisation)."""
        self.curves.setdefault(phase, []).append(loss.detach())
        self.samples += samples


def copy_of(model: CNN) -> CNN:
    """A copy to train; the given model stays as it is."""
    return copy.deepcopy(model).train().requires_grad_(True)


def falling(step: int, steps: int) -> float:
    """Linear schedule from 1 to nearly 0: every phase that repairs ends low."""
    return 1 - step / steps


def class_balanced(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Positions (Tensor [about n] int64, shuffled) of a sample with equally many of each class, without repetition."""
    labels = labels.cpu()
    classes = labels.unique()
    each = -(-n // len(classes))
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.cat([order[labels[order] == c][:each] for c in classes])
    return chosen[torch.randperm(len(chosen), generator=generator)]


def sample(size: int, n: int, generator: torch.Generator) -> Tensor:
    """n positions below `size` in random order; without repetition as long as n <= size."""
    rounds = -(-n // size)
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(rounds)])[:n]


def fit(
    model: CNN,
    images: Tensor,
    targets: Tensor,
    order: Tensor,
    recipe: Recipe,
    lr: float,
    log: Log,
    phase: str,
    batch_size: int,
    ends_low: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Trains `model` in place: one pass over `order`. Returns the optimizer, for a phase that goes on with it.

    images: Tensor [n, c, 28, 28]; targets: Tensor [n] or [n, 10]; order: positions Tensor [m] int64;
    lr: a multiple of the recipe's peak; ends_low: it falls linearly to 0, else it stays; optimizer: a new Adam with
    `weight_decay` if None. Decay lets fade what the samples do not renew.
    """
    batches = order.to(images.device).split(batch_size)
    optimizer = optimizer or adam(model, lr * recipe.peak_lr, weight_decay)
    for step, at in enumerate(batches):
        set_lr(optimizer, lr * recipe.peak_lr * (falling(step, len(batches)) if ends_low else 1))
        log.step(phase, classification_step(model, optimizer, images[at], targets[at]), len(at))
    return optimizer
