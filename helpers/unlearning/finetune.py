"""Fine-tuning: training goes on, on the retain set alone (Golatkar et al. 2020, arXiv:1911.04933)."""

from dataclasses import dataclass

from helpers.models.cnn import CNN
from helpers.models.training import seeded
from helpers.unlearning.method import NOTHING, Log, Method, UnlearningData, copy_of, fit, sample, setting


@dataclass(frozen=True)
class FineTuneSettings:
    share: float = setting(0.1, "samples, share of those that retraining sees", 0.02, 0.1)
    lr: float = setting(
        0.658, "learning rate at the start, multiple of the recipe's peak; falls to 0", 0.05, 4.0, log=True
    )
    batch_size: int = setting(64, "samples per step", choices=(64, 96, 128))
    weight_decay: float = setting(0.774, "decoupled, per step as a part of the learning rate", 0.01, 3.0, log=True)


def fine_tune(model: CNN, data: UnlearningData, settings: FineTuneSettings, seed: int, log: Log) -> CNN:
    """Returns a new model after minimising CE on a sample of D_r; `seed` draws it."""
    model = copy_of(model)
    images, labels = data.retain_images, data.retain_labels
    order = sample(len(labels), data.samples(settings.share), seeded(seed))
    options = {"batch_size": settings.batch_size, "weight_decay": settings.weight_decay}
    fit(model, images, labels, order, data.recipe, settings.lr, log, "fine-tune", **options)
    return model.eval()


METHOD = Method(
    "finetune", "Fine-tuning", "Golatkar et al. 2020, arXiv:1911.04933", fine_tune, FineTuneSettings(), reads=NOTHING
)
