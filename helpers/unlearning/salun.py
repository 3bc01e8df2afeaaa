"""Two methods that give the forget set wrong labels.

Random labels: trains on the retain set, and on the forget set with random wrong labels.
SalUn: as Random labels, but changes only the weights with the largest gradient on the forget set.

Random labels is the first of two methods of Graves et al. 2021, arXiv:2010.10981, who call it unlearning. The second,
amnesiac unlearning, takes back the steps of training that saw the forgotten samples; it is not here, for those steps
would have to be stored. SalUn follows Fan et al. 2023, arXiv:2310.12508, eq. 3 and 4.

Where this is not the authors' code: Graves et al. go through all data, here a sample of D_r is mixed with relabelled
samples of D_f, `forget_part` of all. SalUn's code draws labels from all classes, the right one included, here from the
nine others as in Graves et al.; on CIFAR-10 it shows D_f and then D_r, here, as with more classes there, both are
mixed; and it uses SGD with weight decay, here Adam without, which keeps the masked weights exactly where they were.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import (
    Descent,
    Log,
    Method,
    UnlearningData,
    copy_of,
    decay_setting,
    fit,
    forget_sample,
    sample,
    setting,
)


@dataclass(frozen=True)
class RandomLabelSettings(Descent):
    weight_decay: float = decay_setting(0.0)
    forget_part: float = setting(0.01, "part of the samples that are relabelled forget samples", 0.002, 0.5, log=True)


@dataclass(frozen=True)
class SalUnSettings(RandomLabelSettings):
    """Without weight decay, which would move the other weights too."""

    weight_decay: float = setting(0.0, "per step, as a part of the learning rate")
    salient: float = setting(0.4, "part of the weights that may move, those of the largest gradient", 0.1, 0.9)
    saliency_part: float = setting(0.1, "most that the gradient on D_f may cost, part of the budget", within=(0, 1))


def random_labels(model: CNN, data: UnlearningData, settings: RandomLabelSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after minimising CE on both; `seed` draws samples and labels."""
    model = copy_of(model)
    train_on_random_labels(model, data, settings, data.samples(settings.budget), seed, log)
    return model.eval()


def salun(model: CNN, data: UnlearningData, settings: SalUnSettings, seed: int, log: Log) -> CNN:
    """Returns a new model in which only the salient weights differ; `seed` draws samples and labels."""
    model = copy_of(model)
    weights = list(model.parameters())
    budget = data.samples(settings.budget)
    read = forget_sample(data, settings.saliency_part * budget, seeded(seed, 1)).to(data.forget_labels.device)
    loss = cross_entropy(model(data.forget_images[read]), data.forget_labels[read])
    gradients = torch.autograd.grad(loss, weights)
    log.step("saliency", loss, len(read))
    flat = torch.cat([gradient.abs().flatten() for gradient in gradients])
    threshold = flat.kthvalue(max(1, round((1 - settings.salient) * len(flat)))).values
    masks = [gradient.abs() > threshold for gradient in gradients]
    hooks = [weight.register_hook(mask.__mul__) for weight, mask in zip(weights, masks, strict=True)]
    train_on_random_labels(model, data, settings, budget - len(read), seed, log)
    for hook in hooks:
        hook.remove()
    return model.eval()


def train_on_random_labels(
    model: CNN, data: UnlearningData, settings: RandomLabelSettings, total: int, seed: int, log: Log
) -> None:
    """Trains `model` in place on so many samples."""
    random = seeded(seed)
    n_forget = round(settings.forget_part * total)
    retain_at = sample(len(data.retain_labels), total - n_forget, random)
    forget_at = sample(len(data.forget_labels), n_forget, random)
    wrong = wrong_labels(data.forget_labels.cpu()[forget_at], random).to(data.forget_labels.device)
    images = torch.cat([data.retain_images[retain_at], data.forget_images[forget_at]])
    labels = torch.cat([data.retain_labels[retain_at], wrong])
    fit(model, images, labels, torch.randperm(total, generator=random), data.recipe, settings, log, "random labels")


def wrong_labels(labels: Tensor, random: torch.Generator) -> Tensor:
    """For each label (Tensor [n] int64) one of the nine others, uniformly."""
    return (labels + torch.randint(1, 10, labels.shape, generator=random)) % 10


RANDOM_LABELS = Method(
    "randomlabels", "Random labels", "Graves et al. 2021, arXiv:2010.10981", random_labels, RandomLabelSettings()
)
SALUN = Method("salun", "SalUn", "Fan et al. 2023, arXiv:2310.12508", salun, SalUnSettings(), tried=({"salient": 0.5},))
