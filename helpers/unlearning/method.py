"""What every unlearning method gets, declares and may report.

Budgets are shares of the samples that retraining sees and learning rates are multiples of the training recipe's peak,
so that one setting means the same effort on every data set (on a small one a share may be less than a batch: then it is
one). What a method reads of the forget set D_f is a part of its own budget, for a class or a fifth of the data may have
more samples than the whole budget allows: then it reads a random sample of D_f (`forget_sample`). Simple Gradient
Ascent, one epoch over D_f by definition, is the only exception. A sample that goes forward and backward counts as one,
one that only goes forward as a third.

Methods that end with plain training on D_r do so by `repair`, which may differ from their papers in the optimizer
(Adam), in the learning rate (it rises and falls) and, unless `candidates` is 1, in steps on the hardest of several
samples. NegGrad+, random labels, SalUn, DELETE, bad teacher and SCRUB have steps of their own and choose no samples."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.data.task import Task
from helpers.device import training_precision
from helpers.files import StudyError
from helpers.models.cnn import CNN, LAYERS, new_model
from helpers.models.training import Recipe, adam, classification_step, set_lr

IMAGES, LABELS, NOTHING = "images and labels", "labels", "nothing"  # what a method may read of the forget set


def setting(default, meaning: str, low=None, high=None, log: bool = False, choices: tuple = (), within: tuple = ()):
    """A field of a method's settings: default, meaning with unit, and the range (or the choices) that studies search.

    A field without range or choices is not searched. Values outside its range may be set by hand, but not outside
    `within` (low, high], where nothing else makes sense.
    """
    about = {"meaning": meaning, "low": low, "high": high, "log": log, "choices": choices, "within": within}
    return field(default=default, metadata=about)


def decay_setting(default: float):
    """The decoupled weight decay of `adam`: 0 where a method's paper has none, and every search may come down to 0."""
    return setting(default, "per step, as a part of the learning rate", 0.0, 1.0)


@dataclass(frozen=True)
class Descent:
    """What all methods that train on retained samples have in common. Rates are multiples of the recipe's peak.

    Where papers train by SGD, all methods here use the optimizer that trained the model, Adam: a learning rate of
    theirs cannot be taken over, so the search of `lr` reaches down to a two-hundredth of training's.
    """

    budget: float = setting(0.1, "samples that it may see, of those that retraining sees", within=(0, 1))
    lr: float = setting(0.5, "highest learning rate on D_r; falls to 0", 0.005, 4.0, log=True)
    batch_size: int = setting(64, "samples per step on D_r", choices=(16, 32, 64, 128))
    warm_up: float = setting(0.1, "part of the steps on D_r in which the rate rises")
    weight_decay: float = decay_setting(0.1)


@dataclass(frozen=True)
class RepairSettings(Descent):
    """What all methods have in common that train on D_r alone, at least at their end (`repair`)."""

    batch_size: int = setting(16, "samples per step on D_r", choices=(8, 16, 32, 64, 128))
    candidates: int = setting(8, "samples that it chooses each of its samples of D_r among", choices=(1, 4, 8))
    choose_from: float = setting(0.1, "part of the cost of repair after which it chooses")


def layers_setting(default: int, what: str):
    """k, how many layers, from the output down."""
    return setting(default, f"k, the last layers, {what}", 1, len(LAYERS) - 1, within=(0, len(LAYERS)))


@dataclass(frozen=True)
class Method:
    """A method's declaration. name: in file names; title: in tables and figures; source: paper;
    run: (model, data, settings, seed, log) -> a new model in evaluation mode; settings: the defaults;
    reads: what of the forget set it may look at; notebook: which shows it alone, or graphics.ipynb;
    tried: settings that differ from the defaults, as in its paper, which a study tries first; search: the fields that
    studies search, all that have a range where it is empty."""

    name: str
    title: str
    source: str
    run: Callable[[CNN, "UnlearningData", Any, int, "Log"], CNN]
    settings: Any
    reads: str = IMAGES
    notebook: str = "graphics.ipynb"
    tried: tuple[dict, ...] = ()
    search: tuple[str, ...] = ()

    @property
    def searched(self) -> dict[str, dict]:
        """Name -> type, low, high, log, choices of the fields that studies search."""
        found = {f.name: {"type": f.type, **f.metadata} for f in fields(self.settings)}
        ranges = {name: about for name, about in found.items() if about["choices"] or about["low"] is not None}
        return {name: about for name, about in ranges.items() if name in (self.search or ranges)}

    def check(self, settings: Any) -> None:
        """StudyError unless `settings` are of this method's kind and every value is of its field's type."""
        if type(settings) is not type(self.settings):
            raise StudyError(f"{self.title} takes settings of type {type(self.settings).__name__}, not {settings!r}.")
        for about in fields(settings):
            value, within = getattr(settings, about.name), about.metadata["within"]
            if isinstance(value, bool) or not isinstance(value, (int, float) if about.type is float else about.type):
                raise StudyError(f"{self.title}: {about.name} = {value!r} is no {about.type.__name__}.")
            if within and not within[0] < value <= within[1]:
                raise StudyError(
                    f"{self.title}: {about.name} = {value!r} must be above {within[0]:g} and at most {within[1]:g}."
                )


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
        tensors = (*task.asked(), *task.retain_set("train"))
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

    samples: samples that went forward and backward through the classifier, generated ones included, one that only went
    forward counting a third; curves: phase -> loss per step; noise: generated samples, Tensor [snapshots, k, c, 28,
    28].
    """

    samples: float = 0
    curves: dict[str, list[Tensor]] = field(default_factory=dict)
    noise: list[Tensor] = field(default_factory=list)

    def step(self, phase: str, loss: Tensor, samples: int, looks: int = 0) -> None:
        """Notes one step on `samples`, for which `looks` others (or other models) went forward only; the loss stays on
        the device (no synchronisation)."""
        self.curves.setdefault(phase, []).append(loss.detach())
        self.samples += samples + looks / 3


def copy_of(model: CNN) -> CNN:
    """A copy to train; the given model stays as it is."""
    return copy.deepcopy(model).train().requires_grad_(True)


def reinitialise_last(model: CNN, layers: int, seed: int) -> CNN:
    """The model with its last `layers` layers as a new model of that seed has them; changed in place."""
    fresh = new_model(model.conv1.in_channels, seed).to(next(model.parameters()).device)
    for name in LAYERS[len(LAYERS) - layers :]:
        getattr(model, name).load_state_dict(getattr(fresh, name).state_dict())
    return model


def train_only_last(model: CNN, layers: int) -> CNN:
    """The model of which only the last `layers` layers train; changed in place."""
    for name in LAYERS:
        getattr(model, name).requires_grad_(name in LAYERS[len(LAYERS) - layers :])
    return model


def rate(step: float, steps: int, warm_up: float = 0.0) -> float:
    """The learning rate's course: rises to 1 over the part `warm_up` of the steps, then falls linearly to nearly 0.
    step: how many were done, or what part of their cost, in units of a mean step."""
    rising = warm_up * steps
    return min((step + 1) / (rising + 1), (steps - step) / max(1.0, steps - rising))


def class_balanced(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Positions (Tensor [about n] int64, shuffled) of a sample with equally many of each class, without repetition."""
    labels = labels.cpu()
    classes = labels.unique()
    of_each = -(-n // len(classes))
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.cat([order[labels[order] == c][:of_each] for c in classes])
    return chosen[torch.randperm(len(chosen), generator=generator)]


def sample(size: int, n: int, generator: torch.Generator) -> Tensor:
    """n positions below `size` in random order; without repetition as long as n <= size."""
    rounds = max(1, -(-n // size))
    return torch.cat([torch.randperm(size, generator=generator) for _ in range(rounds)])[: max(0, n)]


def forget_sample(data: UnlearningData, most: float, generator: torch.Generator) -> Tensor:
    """Positions (Tensor [n] int64) of the samples of D_f that a method reads: all of them, in their order, where they
    are at most `most`, else so many in random order; at least one."""
    n, most = len(data.forget_labels), max(1, int(most))
    return torch.arange(n) if n <= most else sample(n, most, generator)


def fit(
    model: CNN,
    images: Tensor,
    targets: Tensor,
    order: Tensor,
    recipe: Recipe,
    settings: Descent,
    log: Log,
    phase: str,
    after_step: Callable[[float, float], None] = lambda lr, done: None,
    candidates: int = 1,
    unchosen: int = 0,
) -> None:
    """Trains the layers of `model` that may move, in place, by a new AdamW: one pass over `order`.

    images: Tensor [n, c, 28, 28]; targets: Tensor [n] or [n, 10]; order: positions Tensor [m] int64;
    candidates: of so many samples one is trained on, those of each batch with the largest loss (`hardest`), after the
    first `unchosen` positions, which are all trained on; the learning rate follows the cost, in samples;
    after_step: (learning rate of the step, part of the steps that was done before it); may change the weights. What is
    to scale a step, or to shrink weights by a given amount, has its place here: Adam divides a gradient by its own
    size, so that a factor on it changes nothing, and a penalty's gradient becomes a step of any size.
    """
    size, order = settings.batch_size, order.to(images.device)
    unchosen = len(order) if candidates == 1 else unchosen
    batches = [(at, len(at), 0) for at in order[:unchosen].split(size)]  # positions, how many are trained on, looks
    batches += [(at, len(at) // candidates, len(at)) for at in order[unchosen:].split(size * candidates)]
    batches = [batch for batch in batches if len(batch[0])]
    costs = [1 + candidates / 3 if looks else 1 for _, _, looks in batches]  # of whole batches, in theirs
    optimizer, spent = adam(model, recipe.peak_lr, settings.weight_decay), 0.0
    for (at, n, looks), cost in zip(batches, costs, strict=True):
        done = spent / sum(costs)
        lr = settings.lr * recipe.peak_lr * rate(done * len(batches), len(batches), settings.warm_up)
        set_lr(optimizer, lr)
        at = hardest(model, images, targets, at, n)
        log.step(phase, classification_step(model, optimizer, images[at], targets[at]), n, looks)
        after_step(lr, done)
        spent += cost


@torch.no_grad()
def hardest(model: CNN, images: Tensor, targets: Tensor, at: Tensor, n: int) -> Tensor:
    """Those n of the positions `at` where the cross-entropy is largest; all, unlooked at, where n is their number."""
    if n == len(at):
        return at
    with training_precision(images.device):
        logits = model(images[at])
    return at[cross_entropy(logits.float(), targets[at], reduction="none").topk(n).indices]


def repair(
    model: CNN, data: UnlearningData, settings: RepairSettings, samples: int, seed: torch.Generator, log: Log, **options
) -> CNN:
    """Minimises CE on samples of D_r in random order, at a cost of so many; `model` is changed in place and returned,
    ready for use.

    A model that knows most of D_r learns little from most samples. With `candidates` above 1 it only looks at so many
    samples for each one that it trains on, those with the largest loss of each batch (ordered SGD, Kawaguchi and Lu
    2020, arXiv:1907.04371). A look counts a third of a sample, so that the same cost buys fewer steps, on samples from
    which more is to be learned: one in 8, 2.2 times as many samples are looked at. A model that was just impaired
    strongly first takes all samples (`choose_from`): those that it knows least would lead it astray."""
    each, known = settings.candidates, (data.retain_images, data.retain_labels)
    unchosen = samples if each == 1 else int(settings.choose_from * samples)
    looks = int((samples - unchosen) / (1 / 3 + 1 / each)) // each * each
    order = sample(len(data.retain_labels), unchosen + looks, seed)
    if len(order):
        chosen = {"candidates": each, "unchosen": unchosen}
        fit(model, *known, order, data.recipe, settings, log, "repair", **chosen, **options)
    return model.requires_grad_(True).eval()
