"""CT: transposes the kernels of all convolutions, then trains on the retain set.

Convolution transpose (Cadet et al. 2024, arXiv:2410.01276, after an entry to the NeurIPS 2023 unlearning challenge):
every kernel is mirrored on its diagonal, height and width exchanged, so that a convolution sees patterns lying on their
side; the number, the size and the order of the weights stay. Then all layers train on D_r.

Where this is not the authors' code: they train by SGD for some passes over D_r, the rate falling along a cosine; here
by Adam, for the budget, the rate rising and falling. Biases stay, which their convolutions do not have. All three
convolutions are transposed, in which height and width are equal.

How `repair` trains on D_r is not the authors' way either: `method.py`.
"""

import torch

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import NOTHING, Log, Method, RepairSettings, UnlearningData, copy_of, repair


def convolution_transpose(model: CNN, data: UnlearningData, settings: RepairSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws the samples."""
    model = copy_of(model)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):  # weight: [outputs, inputs, height, width]
                layer.weight.copy_(layer.weight.transpose(2, 3).clone())
    return repair(model, data, settings, data.samples(settings.budget), seeded(seed), log)


METHOD = Method(
    "ct", "CT", "Cadet et al. 2024, arXiv:2410.01276", convolution_transpose, RepairSettings(), reads=NOTHING
)
