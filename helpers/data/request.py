"""What is to be forgotten: from the words of the flag FORGET to masks over a data set.

| words | what is forgotten |
|---|---|
| "crossbar", "plain" | the sevens with a crossbar, or those without (MNIST and Colored MNIST) |
| "class 7" | a class, by number or name |
| "random 1 %", "random 500", "random 1 % seed 3" | a random part of the training split |
| "red", "red 7" | a ground colour, or a colour within a class (Colored MNIST) |
| "NAME" | the samples listed in data/splits/NAME_train.txt and, if it is there, NAME_test.txt |
| "crossbar, then class 3" | one after the other: `load_task` takes such words apart |

A list has one index per line, in its split of MNIST (Colored MNIST has MNIST's) or of FashionMNIST; `#` begins a
comment.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers.data.dataset import COLOURS, Dataset
from helpers.files import DATA, StudyError, fingerprint, shown, there

LISTS = DATA / "splits"
PUBLISHED_SPLIT = "d80a595218"  # fingerprint of the committed lists of crossbar sevens
FEATURE_CLASS = 7
SIDES = ("crossbar", "plain")
DEFAULT = SIDES[0]
THEN = ", then "
SPLITS = ("train", "test")
KNOWN = (
    '"crossbar", "plain", "class 7", "random 1 %", on Colored MNIST "red" or "red 7", or NAME of a list '
    "data/splits/NAME_train.txt"
)


@dataclass(frozen=True, eq=False)
class Request:
    """name: the words that ask for it, always spelt alike; title: what they mean, for captions; forget: per split
    ("train", "test") a Tensor [n] bool, True for what is to be forgotten, and False throughout a test split that
    has no samples of this kind; lists: fingerprint of the lists that it was read from; own_lists: whether they differ
    from the published ones."""

    name: str
    title: str
    forget: dict[str, Tensor]
    lists: str = ""
    own_lists: bool = False


def folder_of(name: str) -> str:
    """The name as a folder, good on every file system: "random-1-percent". Names that would come out alike get
    different ends."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.replace("%", "percent")).strip("-.")
    spoken = re.fullmatch(r"[a-z0-9 .,%]+", name) and name == " ".join(name.split())
    return plain if spoken else f"{plain or 'list'}-{fingerprint(name)}"


def request_of(words: str, data: Dataset) -> Request:
    """The request that the words ask for; StudyError with the known ones where nothing is called so."""
    if not isinstance(words, str) or not words.strip():
        raise StudyError(f"FORGET = {words!r} names nothing: choose {KNOWN}.")
    words = " ".join(words.split())
    for pattern, make in PATTERNS.items():
        if match := re.fullmatch(pattern, words, re.IGNORECASE):
            found = make(data, *match.groups())
            break
    else:
        found = _listed(data, words)
    if not found.forget["train"].any():
        raise StudyError(f"FORGET = {words!r}: the training split of {data.source} has no such sample.")
    if found.forget["train"].all():
        raise StudyError(f"FORGET = {words!r} names every training sample: leave some to retain.")
    return found


def _feature(data: Dataset, side: str) -> Request:
    side, forget, lists = side.lower(), {}, {}
    if data.name == "fmnist":
        raise StudyError(
            f'FORGET = "{side}" is a feature of digits: for {data.source} choose another, for example "class sneaker".'
        )
    for split in SPLITS:
        part, lists[split] = data.split(split), read_split(split)
        seven, crossbar = part.labels == FEATURE_CLASS, torch.isin(part.index, torch.tensor(lists[split]))
        if (crossbar & ~seven).any():
            wrong = int(part.index[crossbar & ~seven][0])
            raise StudyError(f"{shown(split_path(split))} names sample {wrong}, which is not a seven: take it out.")
        forget[split] = crossbar if side == "crossbar" else seven & ~crossbar
    mine = fingerprint(lists)
    title = f"sevens {'with' if side == 'crossbar' else 'without'} a crossbar"
    return Request(side, title, forget, mine, mine != PUBLISHED_SPLIT)


def _class(data: Dataset, word: str) -> Request:
    which = _class_number(data, word)
    name = f"class {which}"
    called = data.classes[which]
    title = f"{name} ({called})" if called != str(which) else name
    return Request(name, title, {split: data.split(split).labels == which for split in SPLITS})


def _class_number(data: Dataset, word: str) -> int:
    names = {name.lower(): place for place, name in enumerate(data.classes)} | {str(i): i for i in range(10)}
    if word.strip().lower() not in names:
        known = ", ".join(data.classes)
        raise StudyError(f'FORGET: {data.source} has no class "{word}": choose one of {known}.')
    return names[word.strip().lower()]


def _random(data: Dataset, amount: str, percent: str | None, seed: str | None) -> Request:
    n, seed = len(data.train), int(seed or 0)
    share, count = float(amount), round(float(amount) * n / 100) if percent else float(amount)
    if not 0 < count < n or count != int(count):
        raise StudyError(
            f'FORGET = "random {amount}{" %" * bool(percent)}" must be from 1 to {n - 1:,} of the {n:,} samples.'
        )
    words = f"{share:g} %" if percent else f"{int(count)}"
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    forget = {"train": torch.zeros(n, dtype=torch.bool), "test": torch.zeros(len(data.test), dtype=torch.bool)}
    forget["train"][order[: int(count)]] = True
    ending = f" seed {seed}" if seed else ""
    title = f"a random {words} of the training set" if percent else f"{words} random training samples"
    return Request(f"random {words}{ending}", title + (f" (seed {seed})" if seed else ""), forget)


def _colour(data: Dataset, colour: str, word: str | None) -> Request:
    colour, forget = colour.lower(), {}
    if not len(data.train.colours):
        raise StudyError(f'FORGET = "{colour}": {data.source} has no colours; set USED_DATASET = "cmnist".')
    which = None if word is None else _class_number(data, word)
    for split in SPLITS:
        part = data.split(split)
        forget[split] = part.colours == COLOURS.index(colour)
        if which is not None:
            forget[split] &= part.labels == which
    name = colour if which is None else f"{colour} {which}"
    return Request(name, f"{colour} pictures" + ("" if which is None else f" of class {data.classes[which]}"), forget)


def _listed(data: Dataset, name: str) -> Request:
    if re.search(r'[/\\:*?"<>|]', name) or not there(split_path("train", name)):
        raise StudyError(f"FORGET = {name!r} is not known: choose {KNOWN}.")
    forget, lists = {}, {}
    for split in SPLITS:
        part, path = data.split(split), split_path(split, name)
        lists[split] = sorted(read_list(path, split)) if split == "train" or there(path) else []
        forget[split] = torch.isin(part.index, torch.tensor(lists[split], dtype=torch.int64))
    return Request(name, f'the list "{name}"', forget, fingerprint(lists))


PATTERNS: dict[str, Callable[..., Request]] = {
    "(crossbar|plain)": _feature,
    "class (.+)": _class,
    r"random (\d+(?:\.\d+)?)( ?%)?(?: seed (\d+))?": _random,
    f"({'|'.join(COLOURS)})(?: (.+))?": _colour,
}


def split_path(split: str, name: str = "crossbar") -> Path:
    return LISTS / f"{name}_{split}.txt"


def read_split(split: str) -> list[int]:
    """The MNIST indices of the crossbar sevens of "train" or "test", ascending."""
    return sorted(read_list(split_path(split), split))


def read_ambiguous(split: str) -> dict[int, str]:
    """MNIST index -> decision ("crossbar" or "plain") of the borderline sevens of "train" or "test"."""
    return read_list(split_path(split, "ambiguous"), split, SIDES)


def read_list(path: Path, split: str, words: tuple[str, ...] = ("",)) -> dict[int, str]:
    """Index -> word behind it, one of `words`, of a list. Line ends, byte-order mark, blank lines and comments are as
    any editor leaves them. StudyError, with the line, where one holds something else, is out of range or was there
    before."""
    published = "" if path.stem.rpartition("_")[0] not in ("crossbar", "ambiguous") else (
        ", or take the published file (`git checkout data/splits`, or the repository's page)"
    )  # fmt: skip
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise StudyError(f"{shown(path)} cannot be read ({error.strerror}): mend it{published}.") from None
    except ValueError:
        raise StudyError(f"{shown(path)} is no text (UTF-8): mend it{published}.") from None
    found, size = {}, 60_000 if split == "train" else 10_000
    for number, line in enumerate(lines, 1):
        index, _, word = line.partition("#")[0].strip().partition(" ")
        if not index:
            continue
        if not re.fullmatch("[0-9]{1,9}", index) or word.strip() not in words:
            raise StudyError(f"{shown(path)}, line {number}: {line.strip()[:40]!r} is no index: mend it{published}.")
        if int(index) >= size:
            raise StudyError(
                f"{shown(path)}, line {number}: {index} is above {size - 1:,}, the last index: mend it{published}."
            )
        if int(index) in found:
            raise StudyError(f"{shown(path)}, line {number}: {index} is listed twice: mend it{published}.")
        found[int(index)] = word.strip()
    if not found:
        raise StudyError(f"{shown(path)} lists no sample: mend it{published}.")
    return found
