"""The outputs of an ensemble on the samples that are measured: computed once, stored beside the models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.data.dataset import COLOURS
from helpers.data.task import Task
from helpers.device import pick_device
from helpers.files import StudyError, load_arrays, locked, save_arrays, shown, there
from helpers.models.ensembles import EVERY_REQUEST, Ensemble, Kind, model_of
from helpers.models.training import predict, seeded

RETAIN_TRAIN_SAMPLE = 2_000  # retained training samples on which outputs are kept, drawn with seed 0
PARTS = ("test", "forget_train", "retain_train")
VERSION = 1  # of what is kept: raise it where `_images` or `retain_train_sample` changes


@dataclass(frozen=True)
class Logits:
    """Of an ensemble, float32 arrays.

    test: [N, n_test, 10] on the test split, forget_train: [N, n_f, 10] on D_f of the training split,
    retain_train: [N, 2000, 10] on a fixed sample of D_r of the training split;
    noise: of the first model, what its generator made while it was trained, [snapshots, k, c, 28, 28]; None of a model
    without one.
    """

    test: np.ndarray
    forget_train: np.ndarray
    retain_train: np.ndarray
    noise: np.ndarray | None

    @property
    def diverged(self) -> np.ndarray:
        """[N] bool: models whose outputs are not finite."""
        arrays = (self.test, self.forget_train, self.retain_train)
        return ~np.all([np.isfinite(array).all((1, 2)) for array in arrays], axis=0)


def outputs_folder(kind: Kind, task: Task) -> Path:
    """Where the outputs and measures of a kind lie: beside its models, and of models that serve every request in a
    folder for each."""
    shared = kind.folder.parent.name == EVERY_REQUEST
    return kind.folder / f"{task.folder}-{task.fingerprint}" if shared else kind.folder


def logits_of(ensemble: Ensemble, task: Task) -> Logits:
    """The logits of an ensemble; those that are not stored are computed."""
    folder = outputs_folder(ensemble.kind, task)
    paths = [folder / f"{seed:03d}-logits-{VERSION}.npz" for seed in ensemble.seeds]
    if not all(map(there, paths)):
        with locked(folder):
            missing = [place for place, path in enumerate(paths) if not there(path)]
            images = _images(task) if missing else ()
            for place in missing:
                content = ensemble.content(place)
                model = model_of(content["state"])
                noise = content["record"].get("noise")
                found = {part: predict(model, at).numpy() for part, at in zip(PARTS, images, strict=True)}
                found |= {} if noise is None else {"noise": noise.numpy()}
                save_arrays(paths[place], of=_owner(ensemble, place), **found)
    sizes = len(task.data.test), len(task.forget_set("train")[1]), len(retain_train_sample(task))
    found = [_read(path, ensemble, place, sizes) for place, path in enumerate(paths)]
    return Logits(*(np.stack([each[part] for each in found]) for part in PARTS), found[0].get("noise"))


def _owner(ensemble: Ensemble, place: int) -> np.ndarray:
    return np.array([ensemble.kind.identity, str(ensemble.seeds[place])])


def _read(path: Path, ensemble: Ensemble, place: int, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """sizes: of PARTS, in samples."""
    remedy = "delete this file and run the cell again."
    found = load_arrays(path, remedy, ("of", *PARTS))
    whole = [(found[part].shape, found[part].dtype) for part in PARTS] == [((size, 10), np.float32) for size in sizes]
    if not whole or not np.array_equal(found["of"], _owner(ensemble, place)):
        raise StudyError(f"{shown(path)} holds the logits of other models than its path says: {remedy}")
    return found


def _images(task: Task) -> list[Tensor]:
    parts = task.data.test.images, task.forget_set("train")[0], task.data.train.images[retain_train_sample(task)]
    return [images.to(pick_device()) for images in parts]


def retain_train_sample(task: Task) -> Tensor:
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
