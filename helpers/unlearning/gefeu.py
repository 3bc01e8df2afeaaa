"""GeFeU: draws layers anew (as EU-k), trains on forgotten pictures with generated noise and other labels (as DELETE),
then on the retain set.

Generator Feature Unlearning. Three things are not as in `generator.py`:

- the noise is added to forgotten pictures: the generator learns what moves a picture x away from f(x), what the trained
  model reads in it, and impair shows x + g_phi(z);
- its label in impair is not y = f(x), but y' = f(x) without the label of x, the outputs over the other classes, scaled
  to sum to 1 (as in DELETE, Zhou et al. 2025, arXiv:2503.23751). y itself says little: on its training samples a model
  is nearly certain of the label, so that with it GeFeU hardly differed from GEMU;
- before impair the last `redrawn` layers are drawn anew (as in EU-k, Goel et al. 2022, arXiv:2201.06640).

Where reading the outputs on all of D_f would cost more than a tenth of the budget, a random sample of D_f stands for
it. GeFeU as it was, noise alone with f(x) as its label, is a form (`forms.py`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import predict, seeded
from helpers.unlearning.delete import without_label
from helpers.unlearning.generator import SOURCE, GeneratorSettings, generate, maximise_error
from helpers.unlearning.impair import impair_and_repair, noise_setting
from helpers.unlearning.method import (
    Log,
    Method,
    UnlearningData,
    copy_of,
    decay_setting,
    forget_sample,
    reinitialise_last,
    setting,
)


@dataclass(frozen=True)
class GeFeUSettings(GeneratorSettings):
    lr: float = setting(0.19, "highest learning rate on D_r; falls to 0", 0.005, 4.0, log=True)
    batch_size: int = setting(8, "samples per step on D_r", choices=(8, 16, 32, 64, 128))
    weight_decay: float = decay_setting(0.05)
    impair_noise: float = setting(0.5, "part of them that is forgotten pictures with noise", 0.05, 0.98)
    impair_lr: float = setting(1.0, "learning rate of impair, multiple of the recipe's peak", 0.005, 4.0, log=True)
    generator_share: float = setting(0.005, "samples of step 1, at most a quarter of the budget", 0.001, 0.03, log=True)
    generator_lr: float = setting(0.3, "learning rate of step 1", 0.005, 2.0, log=True)
    noise_weight: float = noise_setting(0.003)
    redrawn: int = setting(2, "last layers that are drawn anew before impair", within=(-1, len(LAYERS)))
    read_part: float = setting(0.1, "most that reading outputs on D_f may cost, part of the budget", within=(0, 1))


def gefeu(model: CNN, data: UnlearningData, settings: GeFeUSettings, seed: int, log: Log) -> CNN:
    """Returns a new model that has unlearned D_f; `seed` makes all weights, noise and order."""
    random, device = seeded(seed), data.forget_images.device
    most = 3 * settings.read_part * data.samples(settings.budget)  # a sample that only goes forward costs a third
    read = forget_sample(data, most, seeded(seed, 1)).to(device)
    pictures, logits = data.forget_images[read], predict(model, data.forget_images[read]).to(device)
    log.samples += len(read) / 3
    generator = maximise_error(model, logits.softmax(1), settings, data, random, log, around=pictures)
    others = without_label(logits, data.forget_labels[read])

    def noise(n: int) -> tuple[Tensor, Tensor]:
        return generate(generator, settings, others, n, random, pictures)

    changed = reinitialise_last(copy_of(model), settings.redrawn, int(torch.randint(2**31, (), generator=random)))
    return impair_and_repair(changed, data, noise, settings, random, log)


METHOD = Method(
    "gefeu", "GeFeU", SOURCE, gefeu, GeFeUSettings(), notebook="netcomp_GeFeU.ipynb", tried=({"noise_weight": 0.1},)
)
