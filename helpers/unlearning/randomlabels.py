"""Random labels (Amnesiac unlearning, Graves et al. 2021, arXiv:2010.10981): train on D_r, and on D_f relabelled uniformly among
the wrong classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import Log, Method, UnlearningData, copy_of, fit, sample, setting


@dataclass(frozen=True)
class RandomLabelSettings:
    share: float = setting(0.0862, "samples, share of those that retraining sees", 0.02, 0.1)
    lr: float = setting(
        0.0612, "learning rate at the start, multiple of the recipe's peak; falls to 0", 0.05, 2.0, log=True
    )
    batch_size: int = setting(96, "samples per step", choices=(64, 96, 128))
    forget_part: float = setting(0.0103, "part of the samples that are relabelled forget samples", 0.01, 0.5, log=True)
    weight_decay: float = setting(0.0239, "decoupled, per step as a part of the learning rate", 0.01, 3.0, log=True)


def random_labels(model: CNN, data: UnlearningData, settings: RandomLabelSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after minimising CE on both; `seed` draws samples and labels."""
    model = copy_of(model)
    train_on_random_labels(model, data, settings, settings.weight_decay, seed, log)
    return model.eval()


def train_on_random_labels(model: CNN, data: UnlearningData, settings, decay: float, seed: int, log: Log) -> None:
    """Trains `model` in place; settings: share, lr, batch_size and forget_part as above."""
    random = seeded(seed)
    total = data.samples(settings.share)
    n_forget = round(settings.forget_part * total)
    kept = sample(len(data.retain_labels), total - n_forget, random)
    gone = sample(len(data.forget_labels), n_forget, random)
    wrong = wrong_labels(data.forget_labels.cpu()[gone], random).to(data.forget_labels.device)
    images = torch.cat([data.retain_images[kept], data.forget_images[gone]])
    labels = torch.cat([data.retain_labels[kept], wrong])
    order = torch.randperm(total, generator=random)
    options = {"batch_size": settings.batch_size, "weight_decay": decay}
    fit(model, images, labels, order, data.recipe, settings.lr, log, "random labels", **options)


def wrong_labels(labels: Tensor, random: torch.Generator) -> Tensor:
    """For each label (Tensor [n] int64) one of the nine others, uniformly."""
    return (labels + torch.randint(1, 10, labels.shape, generator=random)) % 10


METHOD = Method(
    "randomlabels", "Random labels", "Graves et al. 2021, arXiv:2010.10981", random_labels, RandomLabelSettings()
)
