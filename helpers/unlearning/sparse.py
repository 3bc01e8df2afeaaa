"""l1-sparse: trains on the retain set and draws all weights towards zero, less and less, by a soft threshold.

Minimises CE(D_r) + gamma ||theta||_1, gamma falling linearly to 0 (Jia et al. 2023, arXiv:2304.04934, eq. 3), over all
weights and biases.

Where this is not the authors' code: they add the norm to the loss and take its subgradient, by SGD. Adam, which trains
here, divides that subgradient by the size of the whole gradient: weights that the loss leaves alone would move by the
full learning rate whatever gamma is, and past zero. So the norm stays out of the loss and each step of Adam is followed
by the norm's proximal step, the soft threshold w -> sign(w) max(|w| - lr gamma, 0), with the rate lr and the gamma of
that step: what weight decay in AdamW is for the squared norm. So gamma is measured against Adam's steps, each of about
one learning rate, and the values for SGD cannot be taken over. Weights become exactly zero; as gamma falls, those that
the loss needs leave zero again. gamma falls with every step, theirs with every epoch. They add a decay of the squared
norm (5e-4); here l1 is the only one.

How `repair` trains on D_r is not the authors' way either: `method.py`.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import softshrink

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import NOTHING, Log, Method, RepairSettings, UnlearningData, copy_of, repair, setting


@dataclass(frozen=True)
class SparseSettings(RepairSettings):
    weight_decay: float = setting(0.0, "per step, as a part of the learning rate")
    gamma: float = setting(0.1, "by which weights shrink at first, in learning rates per step", 1e-3, 1.0, log=True)


def sparse_fine_tune(model: CNN, data: UnlearningData, settings: SparseSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws the samples."""
    model = copy_of(model)

    @torch.no_grad()
    def shrink(lr: float, done: float) -> None:
        for weight in model.parameters():
            weight.copy_(softshrink(weight, lr * settings.gamma * (1 - done)))

    return repair(model, data, settings, data.samples(settings.budget), seeded(seed), log, after_step=shrink)


METHOD = Method(
    "l1sparse", "l1-sparse", "Jia et al. 2023, arXiv:2304.04934", sparse_fine_tune, SparseSettings(), reads=NOTHING
)
