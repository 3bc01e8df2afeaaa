"""Impair and repair (Tarun et al. 2021, arXiv:2111.08947, section 4), which UNSIR, GEMU and GeFeU share.

Impair trains the last k layers on noise labelled as what is to be forgotten (GeFeU: see `gefeu.py`), mixed with
class-balanced samples of D_r, at a high and constant rate; repair trains all layers on D_r alone, with what is left of
the budget: at least about half of what making the noise leaves.

All ways of making the noise N minimise -CE(f(N), y), GeFeU's -CE(f(x + N), y), + lambda sum N^2, the sum over all
pixels and channels of a picture, averaged over the pictures of a step (eq. 2, and the authors' code, with lambda = .1).
So one lambda weighs three times as much on three channels as on one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import adam, classification_step
from helpers.unlearning.method import (
    Log,
    RepairSettings,
    UnlearningData,
    class_balanced,
    layers_setting,
    repair,
    setting,
    train_only_last,
)


@dataclass(frozen=True)
class ImpairSettings(RepairSettings):
    impair_share: float = setting(0.01, "samples of impair, noise and retained ones", 0.002, 0.03, log=True)
    impair_noise: float = setting(0.8, "part of them that is noise", 0.05, 0.98)
    impair_lr: float = setting(1.5, "learning rate of impair, multiple of the recipe's peak", 0.005, 4.0, log=True)
    impair_batch: int = setting(128, "samples per step of impair")
    impair_layers: int = layers_setting(len(LAYERS), "which impair moves")


def noise_setting(default: float):
    """lambda. Real pictures, standardised, have a sum of squares of about 784 on one channel, 2,352 on three."""
    return setting(default, "lambda, on the sum of the squares of a picture of noise", 1e-6, 0.1, log=True)


def sum_of_squares(noise: Tensor) -> Tensor:
    """Over all pixels and channels of a picture, mean over the pictures: [n, c, 28, 28] -> scalar."""
    return noise.square().sum((1, 2, 3)).mean()


def impair_and_repair(
    model: CNN,
    data: UnlearningData,
    noise: Callable[[int], tuple[Tensor, Tensor]],
    settings: ImpairSettings,
    random: torch.Generator,
    log: Log,
) -> CNN:
    """Changes `model` in place and returns it. noise: n -> pictures [n, c, 28, 28] and their targets [n, 10]."""
    budget = data.samples(settings.budget) - math.ceil(log.samples)  # less what was spent on making the noise
    total = max(1, min(data.samples(settings.impair_share), budget // 2))
    spent = impair(model, data, noise, settings, total, random, log)
    return repair(model, data, settings, budget - spent, random, log)


def impair(
    model: CNN,
    data: UnlearningData,
    noise: Callable[[int], tuple[Tensor, Tensor]],
    settings: ImpairSettings,
    samples: int,
    random: torch.Generator,
    log: Log,
    after_step: Callable[[], None] = lambda: None,
) -> int:
    """One pass over about so many samples, in place; returns how many they were. after_step may change the weights."""
    n_noise = round(settings.impair_noise * samples)
    pictures, targets = noise(n_noise)
    retain_at = class_balanced(data.retain_labels, samples - n_noise, random).to(targets.device)
    images = torch.cat([pictures, data.retain_images[retain_at]])
    targets = torch.cat([targets, one_hot(data.retain_labels[retain_at], targets.shape[1]).float()])
    order = torch.randperm(len(targets), generator=random).to(targets.device)
    train_only_last(model, settings.impair_layers)
    optimizer = adam(model, settings.impair_lr * data.recipe.peak_lr, settings.weight_decay)
    for at in order.split(settings.impair_batch):
        log.step("impair", classification_step(model, optimizer, images[at], targets[at]), len(at))
        after_step()
    model.requires_grad_(True)
    return len(order)
