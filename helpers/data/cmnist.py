"""Colored MNIST (github.com/jayaneetha/colorized-MNIST): the published archive, or the same construction.

Its pictures are called `training/<digit>/<colour>_<index>.png`, where index is the index in MNIST, and are a function
of digit and colour: white where the MNIST pixel is above 0, a pure red, green or blue ground elsewhere. So only index
and colour are kept after the archive was read and every picture compared with that rule. Where the archive cannot be
had, the same rule with seeded colours makes the data set (`source` tells which of the two it was).
"""

import functools
import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from helpers.data import mnist
from helpers.data.dataset import COLOURS, Dataset, standardised
from helpers.files import (
    DOWNLOADS,
    StudyError,
    fingerprint,
    load_arrays,
    locked,
    save_arrays,
    shown,
    there,
    written_whole,
)

TITLE = "Colored MNIST"
ARCHIVE = "colorized-MNIST.tar.gz"
OTHER_NAMES = tuple(
    f"{stem}{suffix}"
    for stem in ("colorized-MNIST", "colorized-MNIST-master")
    for suffix in (".tar.gz", ".tar", ".zip", "")
)
URL = "https://codeload.github.com/jayaneetha/colorized-MNIST/tar.gz/refs/heads/master"
TRAINING = 8_835  # pictures in its training split; its test split is MNIST's, 10,000
FINGERPRINT = "45a804ec58"  # of the (split, index, digit, colour) of all 18,835 published pictures
LARGEST_PICTURE = 100_000  # bytes; the published ones have some hundreds
COLOUR_SEED = 0  # of the constructed colours
KEYS = ("train_index", "train_colours", "test_index", "test_colours")
_unreachable = set()  # addresses that failed in this process: each attempt may take half a minute


def load() -> Dataset:
    """Colored MNIST, 8,835 and 10,000 pictures in three channels."""
    digits = {split: mnist.read(split) for split in ("train", "test")}
    found = _published(digits)
    source = "published pictures"
    if not found:
        source, random = (
            f"constructed from MNIST, colour seed {COLOUR_SEED}",
            torch.Generator().manual_seed(COLOUR_SEED),
        )
        for split, n in (("train", TRAINING), ("test", len(digits["test"][1]))):
            found[f"{split}_index"] = torch.arange(n).numpy()
            found[f"{split}_colours"] = torch.randint(3, (n,), generator=random).numpy()
    raw = {}
    for split, (pixels, labels) in digits.items():
        index, colours = (torch.from_numpy(found[f"{split}_{key}"].astype(np.int64)) for key in ("index", "colours"))
        raw[split] = (colourise(pixels[index], colours), labels[index], index, colours)
    return standardised("cmnist", source, raw)


def colourise(digits: Tensor, colours: Tensor) -> Tensor:
    """The pictures of Colored MNIST.

    digits: Tensor [n, 28, 28] uint8 as in MNIST; colours: Tensor [n], 0 red, 1 green, 2 blue.
    Returns Tensor [n, 3, 28, 28] uint8: white (255, 255, 255) where the digit is above 0, else the pure colour.
    """
    ground = torch.eye(3, dtype=torch.uint8)[colours] * 255
    ink = (digits > 0)[:, None]
    return torch.where(ink, torch.tensor(255, dtype=torch.uint8), ground[:, :, None, None])


def _published(digits: dict) -> dict[str, np.ndarray]:
    """Index and colour of the published pictures; empty where the archive cannot be had."""
    archive, cache = DOWNLOADS / ARCHIVE, DOWNLOADS / "colorized-MNIST.npz"
    archive = next((path for path in map(DOWNLOADS.joinpath, OTHER_NAMES) if there(path)), archive)
    with suppress(StudyError):  # a missing or damaged one is made anew
        found = load_arrays(cache, "")
        if _fingerprint(found) == FINGERPRINT:
            return found
    with locked(cache):
        mine = there(archive) or not _fetch(archive)
        if not there(archive):
            return {}
        try:
            found = read_archive(archive, digits)
        except StudyError:
            if mine:
                raise
            archive.unlink()  # fetched just now, and not what was published: as if it had not been there
            _unreachable.add(URL)
            return {}
        save_arrays(cache, **found)
    return found


def _fingerprint(found: dict) -> str:
    return fingerprint(b"".join(found[key].astype("<i4").tobytes() for key in KEYS)) if set(KEYS) <= set(found) else ""


def _fetch(archive: Path) -> bool:
    """Downloads the archive: True; leaves nothing and returns False where that fails, now or before in this process.

    The archive is packed anew by its host, so it has no lasting hash: every picture is compared instead.
    """
    if URL in _unreachable:
        return False
    scratch = archive.with_name("colorized.part")
    try:
        mnist.check_online()
        found = mnist.download(URL, None, scratch, ARCHIVE)
        with written_whole(archive) as part:
            shutil.copyfile(found, part)
    except (OSError, ValueError):
        _unreachable.add(URL)
        return False
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def read_archive(archive: Path, digits: dict) -> dict[str, np.ndarray]:
    """Reads the published pictures and compares each with the construction, pixel for pixel.

    archive: .tar, .tar.gz or .zip, or the folder that one unpacked to;
    digits: per split "train"/"test" the pixels Tensor [n, 28, 28] uint8 and labels Tensor [n] of MNIST.
    Returns train_index, train_colours, test_index, test_colours: int32 arrays, ordered by index.
    Raises StudyError if the archive is cut, holds other pictures, or a picture disagrees with MNIST.
    """
    damaged = StudyError(
        f"{shown(archive)} is damaged or is not the published Colored MNIST: delete it "
        "(it is fetched again where the network allows it; otherwise the pictures are made from MNIST)."
    )
    pattern = re.compile(r"(?:^|/)(training|testing)/(\d)/(red|green|blue)_(\d+)\.png$")
    rows = {"train": [], "test": []}
    try:
        for name, size, read in tqdm(_members(archive), desc="reading Colored MNIST", unit="picture", leave=False):
            match = pattern.search(name)
            if not match:
                continue
            if size > LARGEST_PICTURE:
                raise damaged
            split = "train" if match[1] == "training" else "test"
            index, colour = int(match[4]), COLOURS.index(match[3])
            with Image.open(io.BytesIO(read())) as picture:
                pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
            expected = colourise(digits[split][0][index][None], torch.tensor([colour]))[0]
            if int(match[2]) != digits[split][1][index] or not torch.equal(pixels, expected):
                raise damaged
            rows[split].append((index, colour))
    except Exception:  # tarfile, zlib and Pillow have a dozen kinds for what is not as it should be
        raise damaged from None
    found = {}
    for split, pairs in rows.items():
        table = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
        found[f"{split}_index"], found[f"{split}_colours"] = table[:, 0], table[:, 1]
    if _fingerprint(found) != FINGERPRINT:
        raise damaged
    return found


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Name, size in bytes and a function that reads it, of every file in an archive or a folder; nothing is
    unpacked."""
    if archive.is_dir():
        for path in archive.rglob("*.png"):
            yield path.as_posix(), path.stat().st_size, path.read_bytes
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                yield member.filename, member.file_size, functools.partial(packed.read, member)
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    yield member.name, member.size, lambda member=member: tar.extractfile(member).read()
