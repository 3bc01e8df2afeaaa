"""Two ways to raise the loss on the forget set, with nothing that protects the rest.

Gradient Ascent: one pass over the forget set that raises its loss, with the settings of training.
Tuned Ascent: Gradient Ascent with the learning rate and the number of passes that a hyper-parameter study found.

Each step ascends CE(f(x), y) with the optimizer, batch size and, for Gradient Ascent, learning rate of the training
recipe (Golatkar et al. 2020, arXiv:1911.04933, call it NegGrad). Gradient Ascent alone has no budget: its cost is that
of D_f. Tuned Ascent reads at most its budget of D_f.

Where this is not the authors' code: they use SGD and draw the weights towards those before unlearning, here Adam
ascends as it trained and nothing holds the weights.
"""

from dataclasses import dataclass

import torch

from helpers.models.cnn import CNN
from helpers.models.training import adam, classification_step, seeded
from helpers.unlearning.method import Log, Method, UnlearningData, copy_of, sample, setting


@dataclass(frozen=True)
class AscentSettings:
    passes: int = setting(1, "passes over the forget set", 1, 4, within=(0, 100))
    lr: float = setting(1.0, "learning rate, multiple of the recipe's peak", 0.001, 2.0, log=True)


@dataclass(frozen=True)
class TunedAscentSettings(AscentSettings):
    lr: float = setting(0.0533, "learning rate, multiple of the recipe's peak", 0.001, 2.0, log=True)
    budget: float = setting(0.1, "samples that it may see, of those that retraining sees", within=(0, 1))


def gradient_ascent(model: CNN, data: UnlearningData, settings: AscentSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after ascending CE on the forget set; `seed` makes the order of the samples."""
    model = copy_of(model)
    optimizer = adam(model, settings.lr * data.recipe.peak_lr)
    n, budget = len(data.forget_labels), getattr(settings, "budget", None)
    order = torch.cat([sample(n, n, seeded(seed, epoch)) for epoch in range(settings.passes)])
    order = order if budget is None else order[: data.samples(budget)]
    for each_pass in order.to(data.forget_labels.device).split(n):
        for at in each_pass.split(data.recipe.batch_size):
            loss = classification_step(model, optimizer, data.forget_images[at], data.forget_labels[at], sign=-1.0)
            log.step("ascend", loss, len(at))
    return model.eval()


SOURCE = "Golatkar et al. 2020, arXiv:1911.04933"
PUBLISHED = Method(
    "ascent", "Gradient Ascent", SOURCE, gradient_ascent, AscentSettings(), notebook="netcomp_SimpleAscent.ipynb"
)
TUNED = Method("tuned_ascent", "Tuned Ascent", SOURCE, gradient_ascent, TunedAscentSettings())
