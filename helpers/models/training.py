"""The training recipe, and training one model by it.

One recipe serves trained and retrained models on all data sets: the number of passes follows from the size of the
training set by a rule, so that the small Colored MNIST gets enough steps.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from helpers.device import pick_device, training_precision
from helpers.models.cnn import CNN, new_model
from helpers.sizes import SIZES


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of training. All unlearning budgets and learning rates are given relative to these."""

    batch_size: int = 256
    peak_lr: float = 1e-2  # of Adam; rises linearly over the warm-up, then falls linearly to 0
    warm_up: float = 0.2  # share of the steps
    min_passes: int = SIZES.min_passes  # at least so many passes over the training set,
    min_steps: int = SIZES.min_steps  # and at least so many steps: a set of 8,835 gets 9 passes, one of 60,000 gets 2

    def passes(self, n: int) -> int:
        """Passes over a training set of n samples."""
        return max(self.min_passes, math.ceil(self.min_steps / max(1, n // self.batch_size)))

    def steps(self, n: int) -> int:
        """Steps of training on n samples."""
        return self.passes(n) * max(1, n // self.batch_size)

    def lr_at(self, step: int, steps: int) -> float:
        """One triangle: peak_lr after `warm_up` of the steps, 0 after the last (Smith 2018, arXiv:1803.09820)."""
        rising = (step + 1) / max(1.0, self.warm_up * steps)
        falling = (steps - step) / max(1.0, (1 - self.warm_up) * steps)
        return self.peak_lr * min(rising, falling, 1.0)


def train(
    images: Tensor, labels: Tensor, recipe: Recipe, seed: int, on_step: Callable[[Tensor], None] = lambda batch: None
) -> CNN:
    """Trains a new CNN.

    images: Tensor [n, c, 28, 28] float32, standardised; labels: Tensor [n] int64.
    seed: makes initial weights and data order.
    on_step: called after each step with the positions (Tensor [b] int64) that the step saw.
    Returns the model, in evaluation mode, on the device of the images.
    """
    model = new_model(images.shape[1], seed).to(images.device).train()
    steps = recipe.steps(len(labels))
    batches = shuffled_batches(len(labels), recipe.batch_size, seeded(seed), images.device)
    optimizer = adam(model, recipe.peak_lr)
    for step in range(steps):
        batch = next(batches)
        set_lr(optimizer, recipe.lr_at(step, steps))
        classification_step(model, optimizer, images[batch], labels[batch])
        on_step(batch)
    return model.eval()


def adam(model: nn.Module, lr: float, weight_decay: float = 0.0) -> torch.optim.Adam:
    """The optimizer of every training in this repository.

    weight_decay: at each step every weight shrinks by lr * weight_decay of itself, whatever its gradient (decoupled
    decay, AdamW, Loshchilov and Hutter 2019, arXiv:1711.05101); with 0 this is plain Adam.
    """
    fused = next(model.parameters()).device.type != "mps"
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def classification_step(model: nn.Module, optimizer, images: Tensor, targets: Tensor, sign: float = 1.0) -> Tensor:
    """One step on sign * cross-entropy; targets: Tensor [b] of labels or [b, 10] of probabilities.

    Returns the mean cross-entropy before the step (a detached scalar on the device; no synchronisation).
    """
    with training_precision(images.device):
        logits = model(images)
    loss = cross_entropy(logits.float(), targets)
    optimizer.zero_grad()
    (sign * loss).backward()
    optimizer.step()
    return loss.detach()


def seeded(*seed: int) -> torch.Generator:
    """A CPU generator that is a function of the given integers."""
    mixed = 0
    for number in seed:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63)
    return torch.Generator().manual_seed(mixed)


def shuffled_batches(n: int, size: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Positions 0..n-1 in batches, pass after pass, each pass in a new order; the incomplete last batch is dropped. The
    order of a pass goes to the device at once: a copy in every step would make a GPU wait."""
    size = min(size, n)
    while True:
        order = torch.randperm(n, generator=generator).to(device)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


RECIPE = Recipe()


@torch.inference_mode()
def predict(model: CNN, images: Tensor, layer: Callable = CNN.forward) -> Tensor:
    """Logits Tensor [n, 10] float32 on the CPU, in evaluation mode, in full precision.

    layer: what to return instead of the logits, e.g. `CNN.features`.
    """
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([layer(model, part.to(device)).float().cpu() for part in in_parts(images, device)])


def in_parts(images: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Images [n, c, 28, 28] in parts [at most 200, or 4,000 off the CPU, c, 28, 28]: on a CPU so small that the
    activations of one stay in its cache."""
    return images.split(200 if device.type == "cpu" else 4_000)


class Stopwatch:
    """Seconds of a block, outstanding work on a CUDA device included."""

    def __enter__(self):
        self._wait()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self._wait()
        self.seconds = time.perf_counter() - self.start

    @staticmethod
    def _wait():
        if pick_device().type == "cuda":
            torch.cuda.synchronize()
