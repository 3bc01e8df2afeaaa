"""Weight distortion: adds noise to all weights, then trains on the retain set.

Siddiqui et al. 2025, arXiv:2505.22310: every weight and bias gets independent noise from N(0, sigma^2), with one sigma
for all layers; then all layers train on D_r. By default sigma is that of the authors' code, .02, and no weight decays.

Where this is not the authors' code: they train for 100 passes over D_r at a rate of 1e-5, here Adam has the budget, and
a rate that rises and falls. Their sigma was chosen for larger networks, with other sizes of weights: it is searched.

How `repair` trains on D_r is not the authors' way either: `method.py`.
"""

from dataclasses import dataclass

import torch

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import (
    NOTHING,
    Log,
    Method,
    RepairSettings,
    UnlearningData,
    copy_of,
    decay_setting,
    repair,
    setting,
)


@dataclass(frozen=True)
class DistortionSettings(RepairSettings):
    weight_decay: float = decay_setting(0.0)
    sigma: float = setting(0.02, "standard deviation of the noise, same for all weights", 0.005, 0.5, log=True)


def distort(model: CNN, data: UnlearningData, settings: DistortionSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws noise and samples."""
    random = seeded(seed)
    model = copy_of(model)
    with torch.no_grad():
        for weights in model.parameters():
            weights += settings.sigma * torch.randn(weights.shape, generator=random).to(weights.device)
    return repair(model, data, settings, data.samples(settings.budget), random, log)


METHOD = Method(
    "distortion",
    "Weight distortion",
    "Siddiqui et al. 2025, arXiv:2505.22310",
    distort,
    DistortionSettings(),
    reads=NOTHING,
)
