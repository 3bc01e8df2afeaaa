"""NoT: multiplies one layer by -1, then trains on the retain set.

NoT (Khalil et al. 2025, arXiv:2503.05657): the negated layer no longer fits those after it, which takes knowledge away,
while training on D_r brings back quickly what D_r needs. By default, as in the paper, the first layer is negated.

Where the paper leaves a choice, or this is not the paper: a layer is its weights and its biases, so that what it hands
to the ReLU changes sign, as in the paper's theorems, which speak of that value; the paper allows several layers, here
it is one, which the search chooses among all but the output, for which the theorems do not hold. The paper trains many
clients and averages them; here is one. No public code of the authors was found.

How `repair` trains on D_r is not the authors' way either: `method.py`.
"""

from dataclasses import dataclass

import torch

from helpers.models.cnn import CNN, LAYERS
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
class NegationSettings(RepairSettings):
    weight_decay: float = decay_setting(0.0)
    layer: int = setting(1, "which is negated, counted from the input", 1, len(LAYERS) - 1, within=(0, len(LAYERS)))


def negate(model: CNN, data: UnlearningData, settings: NegationSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws the samples."""
    model = copy_of(model)
    with torch.no_grad():
        for weights in getattr(model, LAYERS[settings.layer - 1]).parameters():
            weights.neg_()
    return repair(model, data, settings, data.samples(settings.budget), seeded(seed), log)


METHOD = Method("not", "NoT", "Khalil et al. 2025, arXiv:2503.05657", negate, NegationSettings(), reads=NOTHING)
