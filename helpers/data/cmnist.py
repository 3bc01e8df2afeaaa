"""Colored MNIST (github.com/jayaneetha/colorized-MNIST): the published archive, or the same construction.

Its pictures are called `training/<digit>/<colour>_<index>.png`, where index is the index in MNIST, and are a function
of digit and colour: white where the MNIST pixel is above 0, a pure red, green or blue ground elsewhere. So only index
and colour are kept after the archive was read and every picture compared with that rule. Where the archive cannot be
had, the same rule with seeded colours makes the data set (`source` tells which of the two it was).
"""

import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from helpers.data import mnist
from helpers.data.dataset import COLOURS, SPLITS, Dataset, Source, standardised
from helpers.files import DOWNLOADS, StudyError, fingerprint, load_arrays, save_arrays, scratch, shown

SUFFIXES = (".gz", ".tar", ".zip", "")  # of the archive that a user put there, or of the folder that it unpacked to
URL = "https://codeload.github.com/jayaneetha/colorized-MNIST/tar.gz/refs/heads/master"
TRAINING = 8_835  # pictures in its training split; its test split is MNIST's, 10,000
FINGERPRINT = "45a804ec58"  # of the (split, index, digit, colour) of all 18,835 published pictures
COLOUR_SEED = 0  # of the constructed colours
KEYS = ("train_index", "train_colours", "test_index", "test_colours")
_unreachable = set()  # addresses that failed in this process: each attempt may take half a minute


def load() -> Dataset:
    """Colored MNIST, 8,835 and 10,000 pictures in three channels."""
    _, digits = mnist.read("MNIST")
    found, source = _published(digits), "published pictures"
    if not found:
        source = f"constructed from MNIST, colour seed {COLOUR_SEED}"
        random = torch.Generator().manual_seed(COLOUR_SEED)
        for split, n in (("train", TRAINING), ("test", len(digits["test"][1]))):
            found[f"{split}_index"] = torch.arange(n).numpy()
            found[f"{split}_colours"] = torch.randint(3, (n,), generator=random).numpy()
    raw = {}
    for split, (pixels, labels) in digits.items():
        index, colours = (torch.from_numpy(found[f"{split}_{key}"].astype(np.int64)) for key in ("index", "colours"))
        raw[split] = (colourise(pixels[index], colours), labels[index], index, colours)
    return standardised("cmnist", source, raw, of_mnist=True)


SOURCE = Source("cmnist", "Colored MNIST", load, request="crossbar", order=1)


def colourise(digits: Tensor, colours: Tensor) -> Tensor:
    """The pictures of Colored MNIST.

    digits: Tensor [n, 28, 28] uint8 as in MNIST; colours: Tensor [n], 0 red, 1 green, 2 blue.
    Returns Tensor [n, 3, 28, 28] uint8: white (255, 255, 255) where the digit is above 0, else the pure colour.
    """
    ground = torch.eye(3, dtype=torch.uint8)[colours] * 255
    ink = (digits > 0)[:, None]
    return torch.where(ink, torch.tensor(255, dtype=torch.uint8), ground[:, :, None, None])


def _published(digits: mnist.Pictures) -> dict[str, np.ndarray]:
    """Index and colour of the published pictures (KEYS -> int32 arrays); empty where the archive cannot be had.

    The archive is packed anew by its host, so it has no lasting hash: every picture is compared instead.
    """
    cache = DOWNLOADS / "colorized-MNIST.npz"
    with suppress(StudyError):  # a missing or damaged one is made anew
        found = load_arrays(cache, "")
        if _fingerprint(found) == FINGERPRINT:
            return found
    with scratch(cache) as place:
        put_there = [path for path in sorted(DOWNLOADS.glob("colorized-MNIST*")) if path.suffix in SUFFIXES]
        if not put_there and URL in _unreachable:
            return {}
        try:
            archive = put_there[0] if put_there else place / "fetched.tar.gz"
            if not put_there:
                with mnist.online():
                    torch.hub.download_url_to_file(URL, str(archive))
            found = read_archive(archive, digits, place / "unpacked")
        except (OSError, ValueError) as error:
            if put_there:
                raise StudyError(
                    f"{shown(archive)} is damaged or is not the published Colored MNIST ({mnist.reason(error)}): "
                    "delete it (it is fetched again where the network allows it; otherwise the pictures are made from "
                    "MNIST)."
                ) from None
            _unreachable.add(URL)  # or what lies there is not what was published
            return {}
        save_arrays(cache, **found)
    return found


def _fingerprint(found: dict) -> str:
    return fingerprint(b"".join(found[key].astype("<i4").tobytes() for key in KEYS)) if set(KEYS) <= set(found) else ""


def read_archive(archive: Path, digits: mnist.Pictures, place: Path) -> dict[str, np.ndarray]:
    """Reads the published pictures and compares each with the construction, pixel for pixel.

    archive: .tar, .tar.gz or .zip, or the folder that one unpacked to; place: a folder to unpack it in.
    Returns train_index, train_colours, test_index, test_colours: int32 arrays, ordered by index.
    Raises ValueError if the archive is cut, holds other pictures, or a picture disagrees with MNIST.
    """
    pattern = re.compile(r"(training|testing)/(\d)/(red|green|blue)_(\d+)\.png$")
    rows = {split: [] for split in SPLITS}
    try:
        if archive.is_file():
            safely = {} if archive.suffix == ".zip" else {"filter": "data"}  # a .zip takes no filter and needs none
            shutil.unpack_archive(archive, place, **safely)
        pictures = (place if archive.is_file() else archive).rglob("*.png")
        for path in tqdm(list(pictures), desc="reading Colored MNIST", unit="picture", leave=False):
            match = pattern.search(path.as_posix())
            if not match:
                continue
            split, index, colour = SPLITS[match[1] == "testing"], int(match[4]), COLOURS.index(match[3])
            with Image.open(path) as picture:
                pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
            expected = colourise(digits[split][0][index][None], torch.tensor([colour]))[0]
            if int(match[2]) != digits[split][1][index] or not torch.equal(pixels, expected):
                raise ValueError(f"{path} is not what it is called")
            rows[split].append((index, colour))
        found = {}
        for split, pairs in rows.items():
            table = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
            found[f"{split}_index"], found[f"{split}_colours"] = table[:, 0], table[:, 1]
        if _fingerprint(found) != FINGERPRINT:
            raise ValueError("pictures are missing")
    except Exception as error:  # tarfile, zipfile, zlib and Pillow have a dozen kinds for what is not as it should be
        raise ValueError(error) from None
    return found
