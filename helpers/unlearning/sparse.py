"""l1-sparse: trains on the retain set with an l1 penalty on all weights that falls to zero.

Minimises CE(D_r) + gamma ||theta||_1, gamma falling linearly to 0 (Jia et al. 2023, arXiv:2304.04934, eq. 3).
"""

from dataclasses import dataclass

import torch

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import NOTHING, Descent, Log, Method, UnlearningData, copy_of, repair, setting


@dataclass(frozen=True)
class SparseSettings(Descent):
    weight_decay: float = setting(0.0, "per step, as a part of the learning rate")
    gamma: float = setting(1e-4, "weight of the sum of all |weights| at the start", 1e-6, 1e-2, log=True)


def sparse_fine_tune(model: CNN, data: UnlearningData, settings: SparseSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws the samples."""

    def penalty(model: CNN, done: float) -> torch.Tensor:
        return settings.gamma * (1 - done) * sum(weight.abs().sum() for weight in model.parameters())

    samples = data.samples(settings.budget)
    return repair(copy_of(model), data, settings, samples, seeded(seed), log, penalty=penalty)


METHOD = Method(
    "l1sparse", "l1-sparse", "Jia et al. 2023, arXiv:2304.04934", sparse_fine_tune, SparseSettings(), reads=NOTHING
)
