"""Where things are stored, and how: whole or not at all, checked when read, never executed.

Weights and arrays are zip archives, frames are gzip files: both carry checksums of what they hold, which are verified
when a file is read, so that a cut or altered one is named in one sentence.
"""

import ast
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from helpers import SOURCES

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
DOWNLOADS = DATA / "downloads"
PATIENCE = 10  # seconds that a lock is waited for without a word


class StudyError(Exception):
    """An error that the user can fix. The message is one sentence that says what to do.

    Jupyter shows the sentence alone, without the stack.
    """

    def _render_traceback_(self):
        return [f"StudyError: {self}"]


def fingerprint(value) -> str:
    """First 10 hex digits of the SHA-256 of bytes, or of the sorted JSON of anything else."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:10]


@functools.cache
def code_fingerprint(*modules: str, follow: str = "") -> str:
    """Fingerprint of what modules do: their syntax trees without comments, docstrings and layout, as they were when
    the package was imported.

    modules: their names, "helpers.models.cnn"; follow: a package, "helpers.unlearning": its modules that the given ones
    import, by absolute imports, count too.
    """
    trees, waiting = {}, list(modules)
    while waiting:
        name = waiting.pop()
        if name in trees:
            continue
        trees[name] = ast.parse(SOURCES[name])
        for node in ast.walk(trees[name]) if follow else ():
            if isinstance(node, ast.ImportFrom):
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            waiting += [other for other in named if other in SOURCES and other.startswith(f"{follow}.")]
    return fingerprint([meaning(trees[name]) for name in sorted(trees)])


def meaning(tree: ast.AST):
    """What a syntax tree does, as lists: without comments, docstrings and layout. The tree is changed in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return _plain(tree)


def _plain(node):
    """A syntax tree as nested lists, alike in every version of Python: fields that are empty are left out."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    return [type(node).__name__, *(_plain(value) for _, value in ast.iter_fields(node) if value not in (None, []))]


def shown(path: Path) -> str:
    """The path as a user finds it: relative to the repository where it lies inside."""
    path = Path(path)
    return str(path.relative_to(DATA.parent)) if path.is_relative_to(DATA.parent) else str(path)


def there(path: Path) -> bool:
    """Whether something lies there; StudyError where this user may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from None
    return True


def unreadable(path: Path, error: OSError) -> StudyError:
    return StudyError(f"{shown(path)} cannot be read ({error.strerror or error}): allow reading it and its folder.")


def unwritable(path: Path, error: Exception) -> StudyError:
    return StudyError(
        f"{shown(path)} could not be written ({getattr(error, 'strerror', None) or error}): "
        "free some space or allow writing there, and run the cell again."
    )


@contextmanager
def written_whole(path: Path):
    """Yields a temporary path beside `path`; renamed to `path` if the block ends well, deleted if not.

    Raises StudyError where the folder cannot be written to or the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with suppress(OSError):  # where nothing could be written there is nothing to delete
            part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path):
    """Holds a lock beside a file or folder, so that two processes do not compute the same; says when it waits. What a
    killed process left half-written in the folder is deleted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            print(f"Waiting for another process that works on {shown(path)} (interrupting loses nothing).", flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where a file system knows no locks
        raise unwritable(path, error) from None
    try:
        for left in path.glob(".*.part"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@contextmanager
def scratch(path: Path):
    """Holds the lock beside `path` and yields an empty folder beside it, which is deleted at the end; what a killed
    process left there is deleted first."""
    place = path.with_name(f".{path.name}.part")
    with locked(path):
        shutil.rmtree(place, ignore_errors=True)
        try:
            place.mkdir()
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _refuse(path: Path, what: str, remedy: str, error: Exception) -> StudyError:
    if isinstance(error, FileNotFoundError):
        return StudyError(f"{shown(path)} is missing: {remedy}")
    if isinstance(error, PermissionError | IsADirectoryError):
        return StudyError(f"{shown(path)} cannot be read ({error.strerror}): {remedy}")
    return StudyError(f"{shown(path)} is damaged or holds no {what} of this repository: {remedy}")


def _with_parts(content: dict, parts: tuple[str, ...]) -> dict:
    for part in parts:
        _ = content[part]  # a KeyError is told as damage is
    return content


def save_torch(path: Path, value: dict) -> None:
    """Stores a dictionary of tensors and plain values."""
    buffer = io.BytesIO()  # on a full disk torch itself raises a RuntimeError that does not say so
    torch.save(value, buffer)
    with written_whole(path) as part:
        part.write_bytes(buffer.getvalue())


def load_torch(path: Path, remedy: str, parts: tuple[str, ...] = ()) -> dict:
    """Loads what `save_torch` stored, on the CPU, with weights_only (nothing in the file is executed). parts: what it
    must hold, at least; StudyError with the remedy where it cannot be read or one is missing."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself returns a flipped byte as a weight
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        return _with_parts(torch.load(path, map_location="cpu", weights_only=True), parts)
    except Exception as error:  # zip, pickle and torch have a dozen kinds for what is not as it should be
        raise _refuse(path, "model", remedy, error) from None


def save_arrays(path: Path, **arrays) -> None:
    """Stores NumPy arrays (.npz)."""
    with written_whole(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: Path, remedy: str, parts: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Loads what `save_arrays` stored, without pickle. parts, errors: as of `load_torch`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _with_parts(dict(arrays), parts)
    except Exception as error:
        raise _refuse(path, "arrays", remedy, error) from None


def save_frame(path: Path, frame: pd.DataFrame) -> None:
    """Stores a frame as compressed CSV (.csv.gz), every number to its last digit."""
    with written_whole(path) as part, open(part, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(frame.to_csv(index=False).encode())


def load_frame(path: Path, like: dict[str, str], remedy: str) -> pd.DataFrame:
    """Loads what `save_frame` stored, or a plain .csv. like: column -> type; StudyError for other columns, a cut or an
    altered file."""
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:  # a packed one to its end, where the checksum stands
            frame = pd.read_csv(
                file, dtype=like, keep_default_na=False, na_values={"seed": "", "step": "", "value": ""}
            )
    except Exception as error:
        raise _refuse(path, "results", remedy, error) from None
    if list(frame.columns) != list(like):
        raise StudyError(f"{shown(path)} was written by another version of this repository: {remedy}")
    return frame
