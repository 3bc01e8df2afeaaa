"""GEMU: trains on generated noise that carries the forget set's labels, then on the retain set.

Generator fast yet Effective Machine Unlearning.

y of noise sample k in `generator.py` is the one-hot label of a forgotten sample: the forgotten class, or, where the
forget set has several, each as often as there. Of the forget set GEMU sees the labels, never the images (zero-glance).
"""

from torch import Tensor
from torch.nn.functional import one_hot

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.generator import SOURCE, GeneratorSettings, generate, maximise_error
from helpers.unlearning.impair import impair_and_repair
from helpers.unlearning.method import LABELS, Log, Method, UnlearningData, copy_of


def gemu(model: CNN, data: UnlearningData, settings: GeneratorSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that has unlearned what was asked; `seed` makes all noise and order."""
    random, targets = seeded(seed), one_hot(data.forget_labels, 10).float()
    generator = maximise_error(model, targets, settings, data, random, log)

    def noise(n: int) -> tuple[Tensor, Tensor]:
        return generate(generator, settings, targets, n, random)

    return impair_and_repair(copy_of(model), data, noise, settings, random, log)


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
