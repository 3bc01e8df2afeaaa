"""The cheap baselines that every comparison should have, each with its source. Settings in the units of `common`,
tuned on MNIST as those of GEMU and GeFeU were (`generator_optim.ipynb`)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.cnn import CNN
from helpers.device import training_precision
from helpers.training import adam, seeded, set_lr
from helpers.unlearning.common import Log, UnlearningData, copy_of, falling, fit, sample


@dataclass(frozen=True)
class FineTuneSettings:
    """share: of the samples that retraining sees; lr: multiple of the recipe's peak at the start, falls to 0;
    weight_decay: per step as a part of the learning rate (decoupled)."""

    share: float = 0.1
    lr: float = 0.658
    batch_size: int = 64
    weight_decay: float = 0.774


def fine_tune(model: CNN, data: UnlearningData, settings: FineTuneSettings, seed: int, log: Log | None = None) -> CNN:
    """Trains on the retain set alone (Golatkar et al. 2020, arXiv:1911.04933)."""
    model = copy_of(model)
    order = sample(len(data.retain_labels), data.samples(settings.share), seeded(seed))
    fit(
        model,
        data.retain_images,
        data.retain_labels,
        order,
        data.recipe,
        settings.lr,
        log or Log(),
        "fine-tune",
        settings.batch_size,
        weight_decay=settings.weight_decay,
    )
    return model.eval()


@dataclass(frozen=True)
class NegGradSettings:
    """share, lr, batch_size as in fine-tuning; alpha: weight of descent on D_r, 1 - alpha that of ascent on D_f;
    forget_batch: forget samples in each step."""

    share: float = 0.0717
    lr: float = 0.00585
    batch_size: int = 96
    alpha: float = 0.831
    forget_batch: int = 16


def neggrad_plus(model: CNN, data: UnlearningData, settings: NegGradSettings, seed: int, log: Log | None = None) -> CNN:
    """Minimises alpha CE(D_r) - (1 - alpha) CE(D_f), cycling D_f (Kurmanji et al. 2023, arXiv:2302.09880)."""
    log, random = log or Log(), seeded(seed)
    model = copy_of(model)
    recipe, device = data.recipe, data.retain_labels.device
    retain = sample(len(data.retain_labels), data.samples(settings.share), random).to(device)
    batches = retain.split(settings.batch_size)
    forget = sample(len(data.forget_labels), settings.forget_batch * len(batches), random).to(device)
    optimizer = adam(model, settings.lr * recipe.peak_lr)
    for step, (kept, gone) in enumerate(zip(batches, forget.split(settings.forget_batch), strict=True)):
        set_lr(optimizer, settings.lr * recipe.peak_lr * falling(step, len(batches)))
        with training_precision(device):
            logits = model(torch.cat([data.retain_images[kept], data.forget_images[gone]])).float()
        descend = cross_entropy(logits[: len(kept)], data.retain_labels[kept])
        ascend = cross_entropy(logits[len(kept) :], data.forget_labels[gone])
        optimizer.zero_grad()
        (settings.alpha * descend - (1 - settings.alpha) * ascend).backward()
        optimizer.step()
        log.step("descend and ascend", descend, len(kept) + len(gone))
    return model.eval()


@dataclass(frozen=True)
class RandomLabelSettings:
    """share, lr, batch_size, weight_decay as in fine-tuning; forget_part: part of the samples that are relabelled forget
    samples."""

    share: float = 0.0862
    lr: float = 0.0612
    batch_size: int = 96
    forget_part: float = 0.0103
    weight_decay: float = 0.0239


def random_labels(
    model: CNN, data: UnlearningData, settings: RandomLabelSettings, seed: int, log: Log | None = None
) -> CNN:
    """Trains on D_r and on D_f relabelled uniformly among the wrong classes (Amnesiac unlearning, Graves et al. 2021,
    arXiv:2010.10981)."""
    return _train_on_random_labels(copy_of(model), data, settings, seed, log or Log())


def _train_on_random_labels(
    model: CNN, data: UnlearningData, settings: RandomLabelSettings, seed: int, log: Log
) -> CNN:
    random = seeded(seed)
    total = data.samples(settings.share)
    n_forget = round(settings.forget_part * total)
    kept = sample(len(data.retain_labels), total - n_forget, random)
    gone = sample(len(data.forget_labels), n_forget, random)
    wrong = wrong_labels(data.forget_labels.cpu()[gone], random).to(data.forget_labels.device)
    images = torch.cat([data.retain_images[kept], data.forget_images[gone]])
    labels = torch.cat([data.retain_labels[kept], wrong])
    order = torch.randperm(total, generator=random)
    size, decay = settings.batch_size, settings.weight_decay
    fit(model, images, labels, order, data.recipe, settings.lr, log, "random labels", size, weight_decay=decay)
    return model.eval()


def wrong_labels(labels: Tensor, random: torch.Generator) -> Tensor:
    """For each label (Tensor [n] int64) one of the nine others, uniformly."""
    return (labels + torch.randint(1, 10, labels.shape, generator=random)) % 10


@dataclass(frozen=True)
class DampeningSettings:
    """alpha: selection threshold; strength: lambda of the paper; share: samples of D for the importances, as a share
    of those that retraining sees; batch: samples per squared gradient."""

    alpha: float = 51.5
    strength: float = 0.841
    share: float = 0.0584
    batch: int = 16


def selective_synaptic_dampening(
    model: CNN, data: UnlearningData, settings: DampeningSettings, seed: int, log: Log | None = None
) -> CNN:
    """Where a weight's importance for D_f exceeds alpha times that for D, multiplies it by
    min(lambda I_D / I_f, 1); no training (SSD, Foster et al. 2023, arXiv:2308.07707, eq. 3 and 4)."""
    log, random = log or Log(), seeded(seed)
    model = copy_of(model)
    n_retain, n_forget = len(data.retain_labels), len(data.forget_labels)
    everything = sample(n_retain + n_forget, data.samples(settings.share), random)
    kept, gone = everything[everything < n_retain], everything[everything >= n_retain] - n_retain
    images = torch.cat([data.retain_images[kept], data.forget_images[gone]])
    labels = torch.cat([data.retain_labels[kept], data.forget_labels[gone]])
    order = torch.randperm(len(labels), generator=random)
    general = importance(model, images[order], labels[order], settings.batch, log)
    special = importance(model, data.forget_images, data.forget_labels, settings.batch, log)
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


@dataclass(frozen=True)
class SalUnSettings(RandomLabelSettings):
    """As for random labels; kept: part of the weights that may change, those with the largest forget gradient. Without
    decay, which would change the others too."""

    share: float = 0.0814
    lr: float = 0.0609
    batch_size: int = 64
    forget_part: float = 0.015
    weight_decay: float = 0.0
    kept: float = 0.378


def salun(model: CNN, data: UnlearningData, settings: SalUnSettings, seed: int, log: Log | None = None) -> CNN:
    """Random labels, changing only the weights with the largest |gradient of CE on D_f| (SalUn, Fan et al. 2023,
    arXiv:2310.12508, eq. 3 and 4)."""
    log = log or Log()
    model = copy_of(model)
    weights = list(model.parameters())
    logits = model(data.forget_images)
    loss = cross_entropy(logits, data.forget_labels)
    gradients = torch.autograd.grad(loss, weights)
    log.step("saliency", loss, len(data.forget_labels))
    flat = torch.cat([gradient.abs().flatten() for gradient in gradients])
    threshold = flat.kthvalue(max(1, round((1 - settings.kept) * len(flat)))).values
    masks = [gradient.abs() > threshold for gradient in gradients]
    hooks = [weight.register_hook(mask.__mul__) for weight, mask in zip(weights, masks, strict=True)]
    model = _train_on_random_labels(model, data, settings, seed, log)
    for hook in hooks:
        hook.remove()
    return model
