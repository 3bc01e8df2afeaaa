"""SalUn (Fan et al. 2023, arXiv:2310.12508, eq. 3 and 4): random labels, changing only the weights with the largest |gradient of
CE on D_f|."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from helpers.models.cnn import CNN
from helpers.unlearning.method import Log, Method, UnlearningData, copy_of, setting
from helpers.unlearning.randomlabels import train_on_random_labels


@dataclass(frozen=True)
class SalUnSettings:
    """Without weight decay, which would move the other weights too."""

    share: float = setting(0.0814, "samples, share of those that retraining sees", 0.02, 0.1)
    lr: float = setting(
        0.0609, "learning rate at the start, multiple of the recipe's peak; falls to 0", 0.05, 2.0, log=True
    )
    batch_size: int = setting(64, "samples per step", choices=(64, 96, 128))
    forget_part: float = setting(0.015, "part of the samples that are relabelled forget samples", 0.01, 0.5, log=True)
    kept: float = setting(0.378, "part of the weights that may move", 0.1, 0.9)


def salun(model: CNN, data: UnlearningData, settings: SalUnSettings, seed: int, log: Log) -> CNN:
    """Returns a new model in which only the salient weights differ; `seed` draws samples and labels."""
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
    train_on_random_labels(model, data, settings, 0.0, seed, log)
    for hook in hooks:
        hook.remove()
    return model.eval()


METHOD = Method("salun", "SalUn", "Fan et al. 2023, arXiv:2310.12508", salun, SalUnSettings())
