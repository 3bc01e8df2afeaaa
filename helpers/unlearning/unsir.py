"""UNSIR: trains on one batch of learned noise that carries the forget set's labels, then on the retain set.

GEMU and GeFeU come from it (Tarun et al. 2021, arXiv:2111.08947); here the batch of noise is itself what is learned.

Pixels N start as N(0, 1) and minimise -CE(f(N), y) + lambda sum N^2 by Adam in 40 steps (eq. 2, `impair.py`); then
impair, with the batch shown over and over, and repair.

Where this is not the authors' code: the default lambda is weaker than their .1, which the search includes; the batch
has 32 pictures, not 256, with labels drawn from those of D_f, where they make a batch for each class that is forgotten;
impair and repair see as many samples as the budget allows, not one pass over some thousand; the rate of repair rises
and falls, theirs is constant.

How `repair` trains on D_r is not the authors' way either: `method.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from helpers.device import training_precision
from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import seeded
from helpers.unlearning.impair import ImpairSettings, impair_and_repair, noise_setting, sum_of_squares
from helpers.unlearning.method import LABELS, Log, Method, UnlearningData, copy_of, decay_setting, setting


@dataclass(frozen=True)
class UnsirSettings(ImpairSettings):
    """As in the paper impair moves all layers, and no weight decays."""

    weight_decay: float = decay_setting(0.0)
    impair_layers: int = setting(len(LAYERS), "k, the last layers, which impair moves", within=(0, len(LAYERS)))
    noise_batch: int = setting(32, "pictures of noise")
    noise_steps: int = setting(40, "steps in which they are learned, at most a quarter of the budget")
    noise_lr: float = setting(0.1, "of these steps, in standard deviations of a pixel")
    noise_weight: float = noise_setting(1 / 784)


def unsir(model: CNN, data: UnlearningData, settings: UnsirSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws noise and samples."""
    random, device = seeded(seed), data.retain_images.device
    pixels = torch.randn(settings.noise_batch, *data.retain_images.shape[1:], generator=random).to(device)
    pixels = pixels.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    labels = data.forget_labels[torch.randint(len(data.forget_labels), (len(pixels),), generator=random)]
    optimizer = torch.optim.Adam([pixels], lr=settings.noise_lr)
    frozen = copy_of(model).eval().requires_grad_(False)
    log.noise.append(pixels.detach()[:8].clone())
    steps = min(settings.noise_steps, data.samples(settings.budget) // (4 * len(pixels)))
    for _ in range(max(1, steps)):
        with training_precision(device):
            logits = frozen(pixels)
        error = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        (settings.noise_weight * sum_of_squares(pixels) - error).backward()
        optimizer.step()
        log.step("maximise error", error, len(pixels))
    log.noise.append(pixels.detach()[:8].clone())

    def noise(n: int) -> tuple[Tensor, Tensor]:
        which = torch.arange(n) % len(pixels)
        return pixels.detach()[which], one_hot(labels[which], 10).float()

    return impair_and_repair(copy_of(model), data, noise, settings, random, log)


METHOD = Method(
    "unsir",
    "UNSIR",
    "Tarun et al. 2021, arXiv:2111.08947",
    unsir,
    UnsirSettings(),
    reads=LABELS,
    tried=({"noise_weight": 0.1},),
)
