"""Plain training on D_r, from five starts.

Fine-tuning: goes on training all layers on the retain set.
Freeze: goes on training the last layers alone on the retain set (CF-k).
EU-k: draws the last layers anew and trains them alone on the retain set.
Reset: draws the last layers anew, then trains all layers on the retain set.
New model: draws all weights anew and trains on the retain set, with as few samples as unlearning may see.

Fine-tuning is in Golatkar et al. 2020, arXiv:1911.04933. Freeze is CF-k and EU-k is EU-k of Goel et al. 2022,
arXiv:2201.06640. Reset is ours, after EU-k: there the lower layers stay as they are and keep what they learned from the
forgotten samples, here they go on training.

Where this is not the authors' code: they train by SGD, for many passes over D_r; here by Adam, for the budget. Golatkar
et al. hold the weights near those of the trained model by a penalty, here nothing does, and in Fine-tuning none decay.

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
    layers_setting,
    reinitialise_last,
    repair,
    train_only_last,
)


@dataclass(frozen=True)
class FineTuneSettings(RepairSettings):
    weight_decay: float = decay_setting(0.0)


@dataclass(frozen=True)
class FreezeSettings(RepairSettings):
    layers: int = layers_setting(2, "which go on training")


@dataclass(frozen=True)
class ResetSettings(RepairSettings):
    layers: int = layers_setting(3, "which are drawn anew")


def fine_tune(model: CNN, data: UnlearningData, settings: FineTuneSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after minimising CE on a sample of D_r; `seed` draws it."""
    return repair(copy_of(model), data, settings, data.samples(settings.budget), seeded(seed), log)


def freeze(model: CNN, data: UnlearningData, settings: FreezeSettings, seed: int, log: Log) -> CNN:
    """Returns a new model in which the lower layers are the given one's; `seed` draws the samples."""
    model = train_only_last(copy_of(model), settings.layers)
    return repair(model, data, settings, data.samples(settings.budget), seeded(seed), log)


def reset(model: CNN, data: UnlearningData, settings: ResetSettings, seed: int, log: Log) -> CNN:
    """Returns a new model whose upper layers learned on D_r alone; `seed` draws weights and samples."""
    random = seeded(seed)
    model = reinitialise_last(copy_of(model), settings.layers, int(torch.randint(2**31, (), generator=random)))
    return repair(model, data, settings, data.samples(settings.budget), random, log)


def exact_unlearning(model: CNN, data: UnlearningData, settings: ResetSettings, seed: int, log: Log) -> CNN:
    """Returns a new model in which the lower layers are the given one's and the upper ones learned on D_r alone; `seed`
    draws weights and samples."""
    random = seeded(seed)
    model = reinitialise_last(copy_of(model), settings.layers, int(torch.randint(2**31, (), generator=random)))
    train_only_last(model, settings.layers)
    return repair(model, data, settings, data.samples(settings.budget), random, log)


def new(model: CNN, data: UnlearningData, settings: RepairSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that starts from new weights, not from the given one's; `seed` draws weights and samples."""
    random = seeded(seed)
    model = reinitialise_last(copy_of(model), len(LAYERS), int(torch.randint(2**31, (), generator=random)))
    return repair(model, data, settings, data.samples(settings.budget), random, log)


GOEL = "Goel et al. 2022, arXiv:2201.06640"
FINE_TUNING = Method(
    "finetune", "Fine-tuning", "Golatkar et al. 2020, arXiv:1911.04933", fine_tune, FineTuneSettings(), reads=NOTHING
)
FREEZE = Method("freeze", "Freeze", GOEL, freeze, FreezeSettings(), reads=NOTHING)
EXACT = Method("euk", "EU-k", GOEL, exact_unlearning, ResetSettings(), reads=NOTHING)
RESET = Method("reset", "Reset", f"after {GOEL}", reset, ResetSettings(), reads=NOTHING)
NEW = Method("new", "New model", f"retraining on a budget, as in {GOEL}", new, RepairSettings(), reads=NOTHING)
