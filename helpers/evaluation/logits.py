"""The outputs of an ensemble on the samples that are measured, computed once and stored as arrays."""

from dataclasses import dataclass

import numpy as np
import torch

from helpers.data.dataset import COLOURS
from helpers.data.task import Task
from helpers.device import pick_device
from helpers.evaluation.frame import results_folder
from helpers.files import StudyError, load_arrays, locked, save_arrays, shown, there
from helpers.models.ensembles import Ensemble
from helpers.models.training import predict, seeded

RETAIN_TRAIN_SAMPLE = 2_000  # retained training samples on which outputs are kept, drawn with seed 0


@dataclass(frozen=True)
class Logits:
    """Of an ensemble, float32 arrays.

    test: [N, n_test, 10] on the test split, forget_train: [N, n_f, 10] on D_f of the training split,
    retain_train: [N, 2000, 10] on a fixed sample of D_r of the training split.
    """

    test: np.ndarray
    forget_train: np.ndarray
    retain_train: np.ndarray


def logits_of(ensemble: Ensemble, task: Task) -> Logits:
    """The logits of an ensemble, from data/results/ if they were computed before."""
    kind = ensemble.kind
    path = results_folder(task) / "logits" / f"{kind.name}-{kind.identity}-{len(ensemble)}.npz"
    if not there(path):
        with locked(path):
            if not there(path):
                save_arrays(path, of=np.array([kind.name, kind.identity]), **vars(_predict(ensemble, task)))
    remedy = "delete this file and run the cell again."
    found = load_arrays(path, remedy)
    if found.pop("of").tolist() != [kind.name, kind.identity] or {len(part) for part in found.values()} != {
        len(ensemble)
    }:
        raise StudyError(f"{shown(path)} holds the logits of other models than its place says: {remedy}")
    return Logits(**found)


def _predict(ensemble: Ensemble, task: Task) -> Logits:
    device = pick_device()
    parts = task.data.test.images, task.forget_set("train")[0], task.data.train.images[retain_train_sample(task)]
    found = []
    for images in parts:
        images = images.to(device)
        found.append(np.stack([predict(model.to(device), images).numpy() for model in ensemble.models]))
    for model in ensemble.models:
        model.cpu()
    return Logits(*found)


def retain_train_sample(task: Task) -> torch.Tensor:
    """Positions in the training split of the fixed sample of D_r on which outputs are kept."""
    retain = (~task.forget["train"]).nonzero().flatten()
    return retain[torch.randperm(len(retain), generator=seeded(0))[:RETAIN_TRAIN_SAMPLE]]


def parts_of(task: Task, logits: Logits) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(split, subset) -> logits [N, n, 10] and labels [n]: every subset of the test split, on Colored MNIST its forget
    set by colour too, and of the training split forget and, of the sample of D_r, all and the neighbours. Empty ones
    are left out."""
    labels, test = task.data.test.labels.numpy(), task.data.test
    where = {name: at.numpy() for name, at in task.subsets("test").items()}
    if len(test.colours) and "forget" in where:
        colour = test.colours.numpy()[where["forget"]]
        where |= {f"forget_{name}": where["forget"][colour == c] for c, name in enumerate(COLOURS)}
    parts = {("test", name): (logits.test[:, at], labels[at]) for name, at in where.items()}
    parts["train", "forget"] = logits.forget_train, task.forget_set("train")[1].numpy()
    drawn = retain_train_sample(task)
    retained, near = task.data.train.labels[drawn].numpy(), task.neighbours("train")[drawn].numpy()
    for name, at in (("retain", slice(None)), ("neighbours", near)):
        parts["train", name] = logits.retain_train[:, at], retained[at]
    return {part: found for part, found in parts.items() if len(found[1])}
