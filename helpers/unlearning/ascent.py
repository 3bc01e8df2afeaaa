"""Simple Gradient Ascent: train on the forget set with the sign turned round. The naive baseline; it over-forgets.

One pass over D_f with optimizer, batch size and learning rate of the training recipe, each step ascending
CE(f(x), y) (Golatkar et al. 2020, arXiv:1911.04933, call it NegGrad).
"""

from dataclasses import dataclass

from helpers.cnn import CNN
from helpers.training import adam, classification_step, seeded
from helpers.unlearning.common import Log, UnlearningData, copy_of, sample


@dataclass(frozen=True)
class AscentSettings:
    """passes: over the forget set; lr: multiple of the recipe's peak learning rate."""

    passes: int = 1
    lr: float = 1.0


def gradient_ascent(
    model: CNN, data: UnlearningData, settings: AscentSettings, seed: int, log: Log | None = None
) -> CNN:
    """Returns a new model after ascending CE on the forget set; `seed` makes the order of the samples."""
    log = log or Log()
    model = copy_of(model)
    optimizer = adam(model, settings.lr * data.recipe.peak_lr)
    n = len(data.forget_labels)
    for epoch in range(settings.passes):
        order = sample(n, n, seeded(seed, epoch)).to(data.forget_labels.device)
        for at in order.split(data.recipe.batch_size):
            loss = classification_step(model, optimizer, data.forget_images[at], data.forget_labels[at], sign=-1.0)
            log.step("ascend", loss, len(at))
    return model.eval()
