"""MSG: draws anew the convolution weights whose gradients on the forget and the retain set agree most, then trains on
the retain set.

Masked small gradients (Cadet et al. 2024, arXiv:2410.01276): where the gradients agree, weights serve what is to be
forgotten as much as the rest.

1. Of every convolution the weights with the smallest |gradient of CE(D_r) - CE(D_f)| are drawn anew.
2. Train on D_r; the gradients of the other convolution weights are damped.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from helpers.models.cnn import CNN, new_model
from helpers.models.training import seeded
from helpers.unlearning.method import (
    Descent,
    Log,
    Method,
    UnlearningData,
    copy_of,
    forget_sample,
    repair,
    sample,
    setting,
)

CONVOLUTIONS = ("conv1", "conv2", "conv3")


@dataclass(frozen=True)
class MsgSettings(Descent):
    redrawn_share: float = setting(0.3, "part of each convolution's weights that is drawn anew", 0.05, 0.7)
    damping: float = setting(0.1, "factor on the gradients of its other weights", 0.01, 1.0, log=True)
    gradient_part: float = setting(0.15, "most that both gradients may cost, part of the budget", within=(0, 1))


def masked_small_gradients(model: CNN, data: UnlearningData, settings: MsgSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` draws weights and samples."""
    random, device = seeded(seed), data.retain_images.device
    model = copy_of(model)
    budget = data.samples(settings.budget)
    read = forget_sample(data, settings.gradient_part * budget / 2, seeded(seed, 1)).to(device)
    n = len(read)
    retain_at = sample(len(data.retain_labels), n, random).to(device)
    weights = [getattr(model, name).weight for name in CONVOLUTIONS]
    retain = cross_entropy(model(data.retain_images[retain_at]), data.retain_labels[retain_at])
    forget = cross_entropy(model(data.forget_images[read]), data.forget_labels[read])
    gradients = torch.autograd.grad(retain - forget, weights)
    log.step("gradients", retain, 2 * n)
    fresh = new_model(data.retain_images.shape[1], int(torch.randint(2**31, (), generator=random))).to(device)
    hooks = []
    for name, weight, gradient in zip(CONVOLUTIONS, weights, gradients, strict=True):
        size = gradient.abs().flatten()
        small = gradient.abs() <= size.kthvalue(max(1, round(settings.redrawn_share * len(size)))).values
        with torch.no_grad():
            weight.copy_(torch.where(small, getattr(fresh, name).weight, weight))
        factor = torch.where(small, 1.0, settings.damping)
        hooks.append(weight.register_hook(factor.__mul__))
    model = repair(model, data, settings, budget - 2 * n, random, log)
    for hook in hooks:
        hook.remove()
    return model


METHOD = Method("msg", "MSG", "Cadet et al. 2024, arXiv:2410.01276", masked_small_gradients, MsgSettings())
