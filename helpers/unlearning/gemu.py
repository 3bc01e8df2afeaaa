"""GEMU: trains on generated noise that carries the forget set's labels, then on the retain set.

Generator fast yet Effective Machine Unlearning.

y of noise sample k in `generator.py` is the one-hot label of a forgotten sample: the forgotten class, or, where the
forget set has several, each as often as there. Of the forget set GEMU sees the labels, never the images (zero-glance).
"""

from torch.nn.functional import one_hot

from helpers.models.cnn import CNN
from helpers.unlearning.generator import SOURCE, GeneratorSettings, unlearn_by_generator
from helpers.unlearning.method import LABELS, Log, Method, UnlearningData


def gemu(model: CNN, data: UnlearningData, settings: GeneratorSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that has unlearned what was asked; `seed` makes all noise and order."""
    targets = one_hot(data.forget_labels, 10).float()
    return unlearn_by_generator(model, data, targets, settings, seed, log)


METHOD = Method(
    "gemu",
    "GEMU",
    SOURCE,
    gemu,
    GeneratorSettings(),
    reads=LABELS,
    notebook="netcomp_GEMU.ipynb",
    tried=({"noise_weight": 0.1},),
)
