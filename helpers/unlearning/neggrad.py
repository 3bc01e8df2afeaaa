"""NegGrad+: minimise alpha CE(D_r) - (1 - alpha) CE(D_f), cycling D_f (Kurmanji et al. 2023, arXiv:2302.09880)."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from helpers.device import training_precision
from helpers.models.cnn import CNN
from helpers.models.training import adam, seeded, set_lr
from helpers.unlearning.method import Log, Method, UnlearningData, copy_of, falling, sample, setting


@dataclass(frozen=True)
class NegGradSettings:
    share: float = setting(0.0717, "retained samples, share of those that retraining sees", 0.02, 0.08)
    lr: float = setting(
        0.00585, "learning rate at the start, multiple of the recipe's peak; falls to 0", 0.005, 2.0, log=True
    )
    batch_size: int = setting(96, "retained samples per step", choices=(64, 96, 128))
    alpha: float = setting(0.831, "weight of descent on D_r; 1 - alpha is that of ascent on D_f", 0.8, 0.999)
    forget_batch: int = setting(16, "forget samples per step", choices=(8, 16, 32))


def neggrad_plus(model: CNN, data: UnlearningData, settings: NegGradSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after descending on D_r and ascending on D_f in the same steps; `seed` draws the samples."""
    random = seeded(seed)
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


METHOD = Method("neggrad", "NegGrad+", "Kurmanji et al. 2023, arXiv:2302.09880", neggrad_plus, NegGradSettings())
