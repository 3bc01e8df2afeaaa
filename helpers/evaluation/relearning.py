"""What a model retains of the forget set: relearn time, resurgence, a linear probe of its features."""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from helpers.data.task import Task
from helpers.evaluation.privacy import logistic_regression
from helpers.models.cnn import CNN
from helpers.models.training import Recipe, adam, classification_step, predict, seeded
from helpers.unlearning.method import copy_of, sample

PROBED = 10_000  # samples that a probe is fitted on
FEWEST = 5  # forget samples, and neighbours, for a probe
READ = 100  # forget samples on which relearning evaluates the loss


def relearn_steps(model: CNN, task: Task, target: float, recipe: Recipe, seed: int, most: int, batch: int = 128) -> int:
    """Relearn time: steps on forget and retain samples until the forget training loss is back at `target` nats.

    Each step sees `batch` retained and 16 forget samples at a tenth of the recipe's peak rate; the loss is taken on
    READ forget samples before each step. Returns `most` if the target is not reached by then. (After the re-learn time
    of Golatkar et al. 2020, arXiv:2003.02960, who count passes over the forget set.)
    """
    model, random = copy_of(model), seeded(seed)
    split = task.split("train")
    forget, retain = (mask.nonzero().flatten() for mask in (task.forget["train"], ~task.forget["train"]))
    seen = split.images[forget[:READ]], split.labels[forget[:READ]]
    optimizer = adam(model, recipe.peak_lr / 10)
    for step in range(most):
        if _loss(model, *seen) <= target:
            return step
        model.train()
        f, r = sample(len(forget), 16, random), torch.randint(len(retain), (batch,), generator=random)
        at = torch.cat([forget[f], retain[r]])
        classification_step(model, optimizer, split.images[at], split.labels[at])
    return most


def resurgence(
    model: CNN, task: Task, recipe: Recipe, seed: int, passes: tuple[float, ...], batch: int = 64
) -> list[tuple[float, str, float]]:
    """(passes, split, accuracy on the forget set), of each split that has one, after so many passes over a tenth of the
    retained samples alone, at .05 of the recipe's peak rate: what was only hidden returns by itself. Siddiqui et al.
    2025 (arXiv:2505.22310) attack so, with passes over all retained samples; a tenth is what unlearning may cost.
    """
    model, random = copy_of(model), seeded(seed)
    images, labels = task.retain_set("train")
    parts = {split: task.forget_set(split) for split in ("train", "test") if task.forget[split].any()}
    tenth = sample(len(labels), len(labels) // 10, random)
    order = torch.cat([tenth[sample(len(tenth), len(tenth), random)] for _ in range(math.ceil(max(passes)))])
    optimizer, done, found = adam(model, 0.05 * recipe.peak_lr), 0, []
    for most in passes:
        end = round(most * len(tenth))
        for at in order[done:end].split(batch):
            classification_step(model, optimizer, images[at], labels[at])
        done = end
        for split, (x, y) in parts.items():
            found.append((most, split, float((predict(model, x).argmax(1) == y).float().mean())))
        model.train()
    return found


def forget_loss(model: CNN, task: Task) -> float:
    """Mean cross-entropy in nats on the first READ forget samples of the training split."""
    return _loss(model, *(part[:READ] for part in task.forget_set("train")))


def _loss(model: CNN, images: torch.Tensor, labels: torch.Tensor) -> float:
    return float(cross_entropy(predict(model, images), labels))


def can_probe(task: Task) -> bool:
    """Whether there is something that a probe could tell apart: FEWEST forget samples and neighbours in both splits."""
    parts = [mask for split in ("train", "test") for mask in (task.forget[split], task.neighbours(split))]
    return all(int(mask.sum()) >= FEWEST for mask in parts)


def linear_probe(model: CNN, task: Task) -> float:
    """Balanced accuracy with which a linear read-out of the last hidden layer tells forget samples from their
    neighbours, for example crossbar from plain sevens; nan where there are not both.

    Logistic regression fitted on the training split, at most PROBED samples of it, scored on the test split. Near
    retrained models' value: the feature is as far gone as it can be; near trained models' value: only the output layer
    hides it. (arXiv:2503.06991.)
    """
    if not can_probe(task):
        return np.nan
    data = {}
    for split in ("train", "test"):
        touched = (task.forget[split] | task.neighbours(split)).nonzero().flatten()
        touched = touched[torch.randperm(len(touched), generator=seeded(0))[:PROBED].sort().values]
        features = predict(model, task.split(split).images[touched], layer=CNN.features).numpy()
        data[split] = features, task.forget[split][touched].numpy()
    if not all(np.isfinite(features).all() for features, _ in data.values()):  # a model that diverged
        return np.nan
    probe = logistic_regression(max_iter=200, C=0.1)
    probe.fit(*data["train"])
    found, truth = probe.predict(data["test"][0]), data["test"][1]
    return float((found[truth].mean() + (~found[~truth]).mean()) / 2)
