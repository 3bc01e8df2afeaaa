"""MSG: draws anew the convolution weights whose gradients on the forget and the retain set agree most, then trains on
the retain set.

Masked small gradients (Cadet et al. 2024, arXiv:2410.01276): where the gradients agree, weights serve what is to be
forgotten as much as the rest.

1. Of every convolution the weights with the smallest |gradient of CE(D_r) - CE(D_f)| are drawn anew, as in the authors'
   code from a normal distribution of mean 0 and variance 2 / (output channels x pixels of a kernel) (He et al. 2015,
   arXiv:1502.01852, "fan out"). Biases, which their convolutions do not have, stay.
2. Train on D_r; the other convolution weights make a tenth of the step.

Where this is not the authors' code: they train by SGD and multiply the gradients by .1, which scales the step. Adam
divides a gradient by its own size, so that the same factor would change nothing; here it multiplies the step itself.
The decay of the weights is left whole, as in their code. Gradients are read on as many samples of D_r as of D_f, as
theirs are, but where D_f is too large for the budget on a sample of it. The learning rate rises over a part of the
steps that is searched, not over half of them.

How `repair` trains on D_r is not the authors' way either: `method.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import (
    Log,
    Method,
    RepairSettings,
    UnlearningData,
    copy_of,
    forget_sample,
    repair,
    sample,
    setting,
)

CONVOLUTIONS = ("conv1", "conv2", "conv3")


@dataclass(frozen=True)
class MsgSettings(RepairSettings):
    redrawn_share: float = setting(0.3, "part of each convolution's weights that is drawn anew", 0.05, 0.7)
    damping: float = setting(0.1, "factor on the steps of its other weights", 0.01, 1.0, log=True)
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
    redrawn = []
    for weight, gradient in zip(weights, gradients, strict=True):
        size = gradient.abs().flatten()
        redrawn.append(gradient.abs() <= size.kthvalue(max(1, round(settings.redrawn_share * len(size)))).values)
        with torch.no_grad():
            weight.copy_(torch.where(redrawn[-1], draw(weight.shape, random).to(device), weight))
    before = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def damp(lr: float, done: float) -> None:
        for weight, old, whole in zip(weights, before, redrawn, strict=True):
            decayed = old * (1 - lr * settings.weight_decay)
            weight.copy_(torch.where(whole, weight, decayed + settings.damping * (weight - decayed)))
            old.copy_(weight)

    return repair(model, data, settings, budget - 2 * n, random, log, after_step=damp)


def draw(shape: torch.Size, random: torch.Generator) -> Tensor:
    """New weights of a convolution, Tensor [outputs, inputs, height, width]."""
    outputs, _, height, width = shape
    return torch.randn(shape, generator=random) * (2 / (outputs * height * width)) ** 0.5


METHOD = Method("msg", "MSG", "Cadet et al. 2024, arXiv:2410.01276", masked_small_gradients, MsgSettings())
