"""SSD: shrinks the weights that matter more for the forget set than for all training data, without any training.

Selective Synaptic Dampening (Foster et al. 2023, arXiv:2308.07707, eq. 3 and 4): where a weight's importance for D_f
exceeds alpha times that for D, multiply it by min(lambda I_D / I_f, 1). The importance is, as in the authors' code, the
squared gradient of a batch's mean loss, mean over the batches.

Where this is not the authors' code: I_D is measured on a sample of D, not on all of it, for the budget counts what is
read; at most half of the budget goes into I_f.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import Log, Method, UnlearningData, copy_of, forget_sample, sample, setting


@dataclass(frozen=True)
class DampeningSettings:
    alpha: float = setting(51.5, "how many times as important for D_f a weight must be", 0.5, 100.0, log=True)
    strength: float = setting(0.841, "lambda of the paper", 0.01, 2.0, log=True)
    budget: float = setting(0.1, "samples that it may see, of those that retraining sees", within=(0, 1))
    batch: int = setting(16, "samples per squared gradient", choices=(16, 64))


def selective_synaptic_dampening(
    model: CNN, data: UnlearningData, settings: DampeningSettings, seed: int, log: Log
) -> CNN:
    """Returns a new model with dampened weights; `seed` draws the sample of D."""
    random, device = seeded(seed), data.retain_labels.device
    model = copy_of(model)
    n_retain, n_forget = len(data.retain_labels), len(data.forget_labels)
    budget = data.samples(settings.budget)
    read = forget_sample(data, budget / 2, seeded(seed, 1)).to(device)
    everything = sample(n_retain + n_forget, budget - len(read), random)
    retain_at, forget_at = everything[everything < n_retain], everything[everything >= n_retain] - n_retain
    images = torch.cat([data.retain_images[retain_at], data.forget_images[forget_at]])
    labels = torch.cat([data.retain_labels[retain_at], data.forget_labels[forget_at]])
    order = torch.randperm(len(labels), generator=random)
    general = importance(model, images[order], labels[order], settings.batch, log)
    special = importance(model, data.forget_images[read], data.forget_labels[read], settings.batch, log)
    with torch.no_grad():
        for weight, i_all, i_forget in zip(model.parameters(), general, special, strict=True):
            chosen = i_forget > settings.alpha * i_all
            factor = (settings.strength * i_all / i_forget.clamp_min(1e-30)).clamp_max(1)
            weight.copy_(torch.where(chosen, weight * factor, weight))
    return model.eval()


def importance(model: CNN, images: Tensor, labels: Tensor, batch: int, log: Log) -> list[Tensor]:
    """Mean over batches of the squared gradient of the batch's mean CE, one tensor per parameter."""
    sums = [torch.zeros_like(weight) for weight in model.parameters()]
    parts = list(zip(images.split(batch), labels.split(batch), strict=True))
    for x, y in parts:
        loss = cross_entropy(model(x), y)
        for total, grad in zip(sums, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total += grad.square()
        log.step("importance", loss, len(y))
    return [total / len(parts) for total in sums]


METHOD = Method(
    "ssd",
    "SSD",
    "Foster et al. 2023, arXiv:2308.07707",
    selective_synaptic_dampening,
    DampeningSettings(),
    tried=({"alpha": 10.0, "strength": 1.0},),
)
