"""Where things are stored, and how: whole or not at all, checked when read, never executed.

Every model and result is a *sealed* file: its payload followed by the SHA-256 of that payload, so that a
cut or altered file is noticed when it is opened, and named in one sentence.
"""

import ast
import hashlib
import inspect
import io
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from filelock import FileLock

DATA = Path(__file__).resolve().parent.parent / "data"
DOWNLOADS = DATA / "downloads"
SEAL = b"unlearn1"


class StudyError(Exception):
    """Something the user can mend. The message is one sentence that says what to do.

    Jupyter shows the sentence alone, without the stack.
    """

    def _render_traceback_(self):
        return [f"StudyError: {self}"]


def fingerprint(value) -> str:
    """First 10 hex digits of the SHA-256 of bytes, or of the sorted JSON of anything else."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:10]


def code_fingerprint(*modules: ModuleType) -> str:
    """Fingerprint of what modules do: their syntax trees without comments, docstrings and layout."""

    def essence(node):
        if not isinstance(node, ast.AST):
            return [essence(part) for part in node] if isinstance(node, list) else repr(node)
        fields = [value for _, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *map(essence, fields)]

    trees = [ast.parse(inspect.getsource(module)) for module in modules]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return fingerprint([essence(tree) for tree in trees])


def shown(path: Path) -> str:
    """The path as a user finds it: relative to the repository where it lies inside."""
    path = Path(path)
    return str(path.relative_to(DATA.parent)) if path.is_relative_to(DATA.parent) else str(path)


@contextmanager
def written_whole(path: Path):
    """Yields a temporary path beside `path`; renamed to `path` if the block ends well, deleted if not.

    Raises StudyError where the folder cannot be written to or the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{path.name}.*.part"):  # left by a run that was killed
            if not _alive(int(old.name.split(".")[-2])):
                old.unlink(missing_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise StudyError(
            f"{shown(path)} could not be written ({error.strerror or error}): "
            "free some space or allow writing there, and run the cell again."
        ) from None
    finally:
        with suppress(OSError):  # where nothing could be written there is nothing to delete
            part.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def locked(path: Path):
    """Holds a lock beside `path`, so that two processes do not compute the same file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise StudyError(
            f"{shown(path.parent)} could not be written to ({error.strerror or error}): allow writing there."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_sealed(path: Path, payload: bytes) -> None:
    """Writes payload + SHA-256 + seal in one piece."""
    with written_whole(path) as part:
        part.write_bytes(payload + hashlib.sha256(payload).digest() + SEAL)


def read_sealed(path: Path, remedy: str) -> bytes:
    """The payload of a sealed file. StudyError with the remedy if it is cut, altered or foreign."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StudyError(f"{shown(path)} cannot be read ({error.strerror or error}): {remedy}") from None
    payload, digest, seal = data[: -32 - len(SEAL)], data[-32 - len(SEAL) : -len(SEAL)], data[-len(SEAL) :]
    if seal != SEAL or hashlib.sha256(payload).digest() != digest:
        raise StudyError(f"{shown(path)} is damaged or was not written by this repository: {remedy}")
    return payload


def save_torch(path: Path, value: dict) -> None:
    """Stores a dictionary of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_sealed(path, buffer.getvalue())


def load_torch(path: Path, remedy: str) -> dict:
    """Loads what `save_torch` stored, on the CPU, with weights_only (nothing in the file is executed)."""
    payload = read_sealed(path, remedy)
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:
        raise StudyError(f"{shown(path)} holds no model of this repository: {remedy}") from None


def save_arrays(path: Path, **arrays) -> None:
    """Stores NumPy arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_sealed(path, buffer.getvalue())


def load_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Loads what `save_arrays` stored, without pickle."""
    payload = read_sealed(path, remedy)
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:
        raise StudyError(f"{shown(path)} holds no arrays of this repository: {remedy}") from None


def save_json(path: Path, value: dict) -> None:
    """Stores plain values as readable JSON with their own fingerprint under the key `sha256`."""
    body = json.dumps(value, sort_keys=True)
    sealed = {**value, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    with written_whole(path) as part:
        part.write_text(json.dumps(sealed, indent=1, sort_keys=True) + "\n")


def load_json(path: Path, remedy: str) -> dict:
    """Loads what `save_json` stored; StudyError with the remedy if it was cut or altered."""
    try:
        value = json.loads(path.read_text())
        digest = value.pop("sha256")
        if hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() == digest:
            return value
    except FileNotFoundError:
        raise StudyError(f"{shown(path)} is missing: {remedy}") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    raise StudyError(f"{shown(path)} is damaged or was not written by this repository: {remedy}")
