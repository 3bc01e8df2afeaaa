"""NegGrad+: lowers the loss on the retain set and raises it on the forget set in the same steps.

Minimises alpha CE(D_r) - (1 - alpha) CE(D_f), cycling D_f (Kurmanji et al. 2023, arXiv:2302.09880).

Where this is not the authors' code: they train by SGD and draw the weights towards those before unlearning; here Adam
trains, its rate rises and falls, and nothing holds the weights but the search's weight decay, by default 0. Their
steps read 32 samples of D_r and 64 of D_f at small scale, here those of D_f are at most as many as those of D_r.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from helpers.device import training_precision
from helpers.models.cnn import CNN
from helpers.models.training import adam, seeded, set_lr
from helpers.unlearning.method import (
    Descent,
    Log,
    Method,
    UnlearningData,
    copy_of,
    decay_setting,
    rate,
    sample,
    setting,
)


@dataclass(frozen=True)
class NegGradSettings(Descent):
    weight_decay: float = decay_setting(0.0)
    alpha: float = setting(0.9, "weight of descent on D_r; 1 - alpha is that of ascent on D_f", 0.8, 0.9999)
    forget_batch: int = setting(16, "forget samples per step", choices=(4, 8, 16))


def neggrad_plus(model: CNN, data: UnlearningData, settings: NegGradSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after descending on D_r and ascending on D_f in the same steps; `seed` draws the samples."""
    random = seeded(seed)
    model = copy_of(model)
    recipe, device = data.recipe, data.retain_labels.device
    steps = max(1, data.samples(settings.budget) // (settings.batch_size + settings.forget_batch))
    retain = sample(len(data.retain_labels), settings.batch_size * steps, random).to(device)
    forget = sample(len(data.forget_labels), settings.forget_batch * steps, random).to(device)
    optimizer = adam(model, recipe.peak_lr, settings.weight_decay)
    pairs = zip(retain.split(settings.batch_size), forget.split(settings.forget_batch), strict=True)
    for step, (retain_at, forget_at) in enumerate(pairs):
        set_lr(optimizer, settings.lr * recipe.peak_lr * rate(step, steps, settings.warm_up))
        with training_precision(device):
            logits = model(torch.cat([data.retain_images[retain_at], data.forget_images[forget_at]])).float()
        descend = cross_entropy(logits[: len(retain_at)], data.retain_labels[retain_at])
        ascend = cross_entropy(logits[len(retain_at) :], data.forget_labels[forget_at])
        optimizer.zero_grad()
        (settings.alpha * descend - (1 - settings.alpha) * ascend).backward()
        optimizer.step()
        log.step("descend and ascend", descend, len(retain_at) + len(forget_at))
    return model.eval()


METHOD = Method(
    "neggrad",
    "NegGrad+",
    "Kurmanji et al. 2023, arXiv:2302.09880",
    neggrad_plus,
    NegGradSettings(),
    tried=({"alpha": 0.95}, {"alpha": 0.9999}),
)
