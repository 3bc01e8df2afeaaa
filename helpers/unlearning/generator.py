"""GEMU and GeFeU: a generator learns noise that the classifier gets wrong; training on it impairs, then D_r repairs.

After Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning" (UNSIR, arXiv:2111.08947), with the
fixed noise batch replaced by a generator g_phi that makes fresh noise from fresh z ~ N(0, I_d) at every call.

1. maximise the error: theta frozen, minimise over phi   E_z[-CE(f(g_phi(z)), y)] + lambda E_z[sum g_phi(z)^2], the
   sum over all pixels and channels of a picture (`impair.py`)
2. impair: train the last k layers of theta at a high learning rate on generated samples labelled y, mixed with
   class-balanced D_r (`impair.py`)
3. repair: train theta on a sample of D_r alone, at a learning rate that falls to 0

Where this is not UNSIR: the generator; impair moves the last k layers, not all; several classes may be forgotten at
once; and in 2 and 3 the weights decay (AdamW), which the paper does not have: what was learned fades, and only what D_r
teaches comes back. lambda = .1, the paper's, is in the range that is searched; the default is a weaker one.

GEMU (`gemu.py`) is this; GeFeU (`gefeu.py`) adds the noise to forgotten pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from helpers.device import training_precision
from helpers.models.cnn import CNN
from helpers.models.training import adam, seeded
from helpers.unlearning.impair import ImpairSettings, noise_setting, sum_of_squares
from helpers.unlearning.method import Log, UnlearningData, copy_of, decay_setting, layers_setting, setting

SOURCE = "after Tarun et al. 2021, arXiv:2111.08947"
SNAPSHOTS, SHOWN = 4, 8  # of the noise, for the figures


@dataclass(frozen=True)
class GeneratorSettings(ImpairSettings):
    """Hyper-parameters of GEMU and GeFeU; each can be tuned alone.

    Shares are shares of the samples that retraining sees; learning rates are multiples of the recipe's peak.
    lambda alone has a unit that depends on the pictures: on three channels it weighs three times as much.
    """

    lr: float = setting(0.6, "highest learning rate on D_r; falls to 0", 0.005, 4.0, log=True)
    warm_up: float = setting(0.07, "part of the steps on D_r in which the rate rises")
    weight_decay: float = decay_setting(0.25)
    impair_noise: float = setting(0.95, "part of them that is noise", 0.05, 0.98)
    impair_layers: int = layers_setting(3, "which impair moves")
    noise_dim: int = setting(74, "d, of z ~ N(0, I_d)")
    hidden_layers: int = setting(0, "of the generator")
    width: int = setting(354, "units of each hidden layer")
    generator_share: float = setting(
        0.0013, "samples of step 1, at most a quarter of the budget", 0.001, 0.03, log=True
    )
    generator_batch: int = setting(16, "samples per step of step 1")
    generator_lr: float = setting(0.8, "learning rate of step 1", 0.005, 2.0, log=True)
    noise_weight: float = noise_setting(0.03 / 784)


class Generator(nn.Module):
    """g_phi: z -> hidden ReLU layers -> one linear layer -> an image-shaped tensor.

    forward(z: Tensor [b, d]) -> Tensor [b, c, 28, 28], on the scale of standardised pictures.
    """

    def __init__(self, settings: GeneratorSettings, channels: int):
        super().__init__()
        sizes = [settings.noise_dim] + [settings.width] * settings.hidden_layers
        layers = []
        for n_in, n_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], channels * 28 * 28))
        self.channels = channels

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).view(-1, self.channels, 28, 28)


def maximise_error(
    model: CNN,
    targets: Tensor,
    settings: GeneratorSettings,
    data: UnlearningData,
    random: torch.Generator,
    log: Log,
    generator: Generator | None = None,
    around: Tensor | None = None,
) -> Generator:
    """Step 1: trains a generator, a new one where none is given, against the frozen classifier.

    targets: Tensor [k, 10]; each generated sample is paired with one of them, drawn anew at every step; around: Tensor
    [k, c, 28, 28], the picture of each target, to which the noise is added.
    """
    frozen = copy_of(model).eval().requires_grad_(False)

    def wrong(noise: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        with training_precision(noise.device):
            logits = frozen(noise if around is None else around[which] + noise)
        error = cross_entropy(logits.float(), targets[which])
        return -error, error

    generator = generator or new_generator(settings, data, random)
    return train_generator(generator, wrong, len(targets), settings, data, random, log, "maximise error")


def new_generator(settings: GeneratorSettings, data: UnlearningData, random: torch.Generator) -> Generator:
    """With random weights, on the device of the data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=random)))
        return Generator(settings, data.retain_images.shape[1]).to(data.retain_images.device)


def train_generator(
    generator: Generator,
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    k: int,
    settings: GeneratorSettings,
    data: UnlearningData,
    random: torch.Generator,
    log: Log,
    phase: str,
) -> Generator:
    """Minimises loss + lambda sum of squares by Adam, in place.

    loss: noise Tensor [n, c, 28, 28] and which of k targets each of it belongs to (Tensor [n] int64) -> what is
    minimised, and what the curve of this phase shows.
    """
    optimizer = adam(generator, settings.generator_lr * data.recipe.peak_lr)
    most = data.samples(settings.budget) // 4
    steps = max(1, min(data.samples(settings.generator_share), most) // settings.generator_batch)
    drawn = [draw(settings, k, settings.generator_batch, random) for _ in range(steps)]
    every_z, every_target = (torch.stack(parts).to(data.retain_images.device) for parts in zip(*drawn, strict=True))
    for step, (z, which) in enumerate(zip(every_z, every_target, strict=True)):
        if len(log.noise) < SNAPSHOTS and step == (len(log.noise) * steps) // (SNAPSHOTS - 1):
            log.noise.append(_snapshot(generator, settings, seed=0))
        noise = generator(z)
        found, shown = loss(noise, which)
        optimizer.zero_grad()
        (found + settings.noise_weight * sum_of_squares(noise)).backward()
        optimizer.step()
        log.step(phase, shown, settings.generator_batch)
    log.noise.append(_snapshot(generator, settings, seed=0))
    return generator.eval()


def draw(settings: GeneratorSettings, k: int, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh z: Tensor [n, d], and which of the k targets each noise sample belongs to: Tensor [n] int64."""
    return torch.randn(n, settings.noise_dim, generator=random), torch.randint(k, (n,), generator=random)


@torch.no_grad()
def generate(
    generator: Generator,
    settings: GeneratorSettings,
    targets: Tensor,
    n: int,
    random: torch.Generator,
    around: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """n fresh noise samples Tensor [n, c, 28, 28] with their targets Tensor [n, 10]; around: as `maximise_error`."""
    z, which = (part.to(targets.device) for part in draw(settings, len(targets), n, random))
    noise = generator(z) if around is None else around[which] + generator(z)
    return noise.contiguous(memory_format=torch.channels_last), targets[which]


@torch.no_grad()
def _snapshot(generator: Generator, settings: GeneratorSettings, seed: int) -> Tensor:
    """The same few z at each time, so that one sees how the noise develops."""
    z = torch.randn(SHOWN, settings.noise_dim, generator=seeded(seed))
    return generator(z.to(next(generator.parameters()).device))
