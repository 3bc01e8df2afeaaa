"""What a data set is here: both splits as tensors in memory, standardised; and the `Source` that a file declares."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

COLOURS = ("red", "green", "blue")
DIGITS = tuple("0123456789")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """One split (training or test) of a data set.

    images: Tensor [n, c, 28, 28] float32, standardised per channel with mean and deviation of the training split
    labels: Tensor [n] int64, the class 0..9
    index: Tensor [n] int64, the sample's index in the same split as published; in Colored MNIST that in MNIST
    colours: Tensor [n] int64, 0 red, 1 green, 2 blue; empty where there are none
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    colours: Tensor

    def __len__(self):
        return len(self.labels)

    def pick(self, where: Tensor | slice) -> "Split":
        """The samples at these positions."""
        return Split(*(value[where] if len(value) else value for value in vars(self).values()))


@dataclass(frozen=True)
class Dataset:
    """name: "mnist", ...; source: where it came from in words; mean, std: Tensor [c], per channel in 0..1; classes:
    their names; digest: SHA-256 of the pictures, labels, indices and colours before they were standardised; of_mnist:
    whether `index` is that in MNIST, so that the lists of crossbar sevens apply."""

    name: str
    source: str
    train: Split
    test: Split
    mean: Tensor
    std: Tensor
    digest: str
    classes: tuple[str, ...] = DIGITS
    of_mnist: bool = False

    def split(self, split: str) -> Split:
        return {"train": self.train, "test": self.test}[split]

    def describe(self) -> str:
        """Source and sizes in words."""
        return f"{self.source}: {len(self.train):,} training and {len(self.test):,} test samples"

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    def pictures(self, images: Tensor) -> Tensor:
        """Undoes the standardisation: Tensor [n, c, 28, 28] in 0..1, for showing."""
        images = images.detach().float().cpu()
        return (images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).clamp(0, 1)


@dataclass(frozen=True)
class Source:
    """How a data set is had. A file in this folder that declares one adds a data set.

    name: as in USED_DATASET; title: in tables and figures; load: () -> Dataset of that name, fetched where needed;
    request: what the release forgets of it, in the words of FORGET; order: position in tables, equal ones by name.
    """

    name: str
    title: str
    load: Callable[[], Dataset]
    request: str
    order: int = 9


def standardised(
    name: str,
    source: str,
    raw: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]],
    classes: tuple[str, ...] = DIGITS,
    of_mnist: bool = False,
) -> Dataset:
    """The data set of raw pictures. raw: "train", "test" -> pixels Tensor [n, c, 28, 28] uint8, labels, index,
    colours."""
    std, mean = torch.std_mean(raw["train"][0].float().div_(255), dim=(0, 2, 3))
    splits = {}
    for split, (pixels, *rest) in raw.items():
        images = pixels.float().div_(255).sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
        splits[split] = Split(images.contiguous(memory_format=torch.channels_last), *rest)
    digest = hashlib.sha256()
    for values in (values for parts in raw.values() for values in parts):
        digest.update(values.contiguous().numpy())
    parts = splits["train"], splits["test"], mean, std, digest.hexdigest()
    return Dataset(name, source, *parts, classes, of_mnist)
