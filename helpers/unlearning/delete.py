"""DELETE: imitates the trained model's outputs on the forget set, from which each sample's own label is taken out.

Decoupled distillation to erase (Zhou et al. 2025, arXiv:2503.23751): minimises KL(p || student) on D_f alone, where p
is the softmax of the trained model's logits with that of the sample's label at minus infinity: zero for the label, and
for the other classes in the proportions that the trained model gives them, which is to keep what it knows of them.

Where this is not the authors' code: they train by SGD at a constant rate for 20 passes over D_f; here Adam's rate falls
to 0 and the passes are searched, and cut where they would cost more than the budget. The trained model's outputs do not
change and are read once, not in every pass. The curve shows the cross-entropy to p, which is KL plus p's entropy.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.models.cnn import CNN
from helpers.models.training import predict, seeded
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
class DeleteSettings(Descent):
    """D_r is not read: rate, batch and decay are those of the steps on D_f."""

    lr: float = setting(0.01, "highest learning rate on D_f; falls to 0", 0.005, 4.0, log=True)
    batch_size: int = setting(64, "samples per step on D_f", choices=(32, 64, 128))
    warm_up: float = setting(0.0, "part of the steps on D_f in which the rate rises")
    weight_decay: float = decay_setting(0.0)
    passes: int = setting(4, "passes over D_f, as far as the budget goes", 1, 20, within=(0, 1000))


def delete(model: CNN, data: UnlearningData, settings: DeleteSettings, seed: int, log: Log) -> CNN:
    """Returns a new model; `seed` makes the order of the samples."""
    random, device = seeded(seed), data.forget_labels.device
    n, budget = len(data.forget_labels), data.samples(settings.budget)
    # a sample costs 1/3 in the trained model, once, and 1 in every pass
    most = budget - math.ceil(n / 3) if 4 * n <= 3 * budget else 3 * budget // 4
    steps_on = min(settings.passes * n, most)
    read = forget_sample(data, steps_on, seeded(seed, 1)).to(device)
    wanted = without_label(predict(model, data.forget_images[read]).to(device), data.forget_labels[read])
    log.samples += len(read) / 3
    model, order = copy_of(model), sample(len(read), steps_on, random)
    fit(model, data.forget_images[read], wanted, order, data.recipe, settings, log, "distil")
    return model.eval()


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """The distribution over the other classes: logits Tensor [n, 10], labels Tensor [n] -> Tensor [n, 10]."""
    return logits.scatter(1, labels[:, None], -torch.inf).softmax(1)


METHOD = Method(
    "delete", "DELETE", "Zhou et al. 2025, arXiv:2503.23751", delete, DeleteSettings(), tried=({"passes": 20},)
)
