"""What is to be forgotten: from the words of the flag FORGET to masks over a data set.

| words | what is forgotten |
|---|---|
| "crossbar", "plain" | the sevens with a crossbar, or those without (MNIST and Colored MNIST) |
| "class 7" | a class, by number or name |
| "random 1 %", "random 500", "random 1 % seed 3" | a random part of the training split |
| "red", "red 7" | a ground colour, or a colour within a class (Colored MNIST) |
| "NAME" | the samples listed in data/splits/NAME_train.txt and, if it is there, NAME_test.txt |
| "crossbar, then class 3" | one after the other: `load_task` takes such words apart |

Spaces do not matter, nor does case except in the name of a list. A list has one index per line, in its split of MNIST
(Colored MNIST has MNIST's) or of the data set; `#` begins a comment.
"""

import difflib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import torch
from torch import Tensor

from helpers.data.dataset import COLOURS, SPLITS, Dataset
from helpers.files import DATA, StudyError, fingerprint, shown, there

LISTS = DATA / "splits"
PUBLISHED_LISTS = "d80a595218"  # fingerprint of the committed lists of crossbar sevens
FEATURE_CLASS = 7
SIDES = ("crossbar", "plain")
DEFAULT = SIDES[0]
THEN = ", then "
THEN_TYPED = re.compile(r"\s*,\s*then\s+|\s+then\s+", re.IGNORECASE)
MNIST_SIZES = {"train": 60_000, "test": 10_000}  # of MNIST, where a list says nothing else
SPELT = rf"crossbar|plain|class \d|random [\d.]+( %)?( seed \d+)?|({'|'.join(COLOURS)})( \d)?|[a-z0-9]+"  # as names are
FORBIDDEN = r'[/\\:*?"<>|\x00-\x1f]'  # in the name of a list
KNOWN = (
    '"crossbar", "plain", "class 7", "random 1 %", on Colored MNIST "red" or "red 7", NAME of a list '
    'data/splits/NAME_train.txt, or "A, then B" of two of these'
)


@dataclass(frozen=True, eq=False)
class Request:
    """name: the words that ask for it, always spelt alike; title: what they mean, for captions; forget: per split
    ("train", "test") a Tensor [n] bool, True for what is to be forgotten, and False throughout a test split that
    has no samples of this kind; own_lists: whether the lists of crossbar sevens are not the published ones."""

    name: str
    title: str
    forget: dict[str, Tensor]
    own_lists: bool = False


def folder_of(name: str) -> str:
    """The name as a folder, good on every file system: "random-1-percent". Names of lists that are more than one word
    of small letters and digits get an end of their own, so that no two names meet."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.replace("%", "percent")).strip("-.")
    spelt = all(re.fullmatch(SPELT, part) for part in name.split(THEN))
    return plain if spelt else f"{plain[:60] or 'list'}-{fingerprint(name)}"


def request_of(words: str, data: Dataset) -> Request:
    """The request that the words ask for; StudyError with the known ones where nothing is called so."""
    if not isinstance(words, str) or not words.strip():
        raise StudyError(f"FORGET = {words!r} names nothing: choose {KNOWN}.")
    words = " ".join(words.split())
    words = words[1:-1].strip() if len(words) > 2 and words[0] == words[-1] and words[0] in "'\"" else words
    refuse_hidden_list(words)
    for pattern, make in PATTERNS.items():
        if match := re.fullmatch(pattern, words, re.IGNORECASE):
            found = make(data, *match.groups())
            break
    if not found.forget["train"].any():
        raise StudyError(f"FORGET = {words!r}: the training split of {data.source} has no such sample.")
    if found.forget["train"].all():
        raise StudyError(f"FORGET = {words!r} names every training sample: leave some to retain.")
    return found


def refuse_hidden_list(words: str) -> None:
    """StudyError where a list of one's own has a name that means something else, so that nothing would read it."""
    words = " ".join(words.split())
    means = THEN_TYPED.search(words) or any(re.fullmatch(each, words, re.IGNORECASE) for each in list(PATTERNS)[:-1])
    for name, path in _lists().items() if means else ():
        if " ".join(name.split()).lower() == words.lower() and name != DEFAULT:
            raise StudyError(f'{shown(path)} is not read, since "{words}" already has a meaning: rename the list.')


def _lists() -> dict[str, Path]:
    """Name -> file, of the lists in data/splits; where there is a list of the test split alone, that."""
    found = {split: sorted(LISTS.glob(f"*_{split}.txt")) for split in reversed(SPLITS)}
    return {path.stem.rpartition("_")[0]: path for paths in found.values() for path in paths}


def _feature(data: Dataset, side: str) -> Request:
    side, forget, lists = side.lower(), {}, {}
    if not data.of_mnist:
        raise StudyError(
            f'FORGET = "{side}" is a feature of digits: for {data.source} choose another, for example '
            f'"class {data.classes[0]}".'
        )
    for split in SPLITS:
        part, lists[split] = data.split(split), read_crossbars(split)
        seven, crossbar = part.labels == FEATURE_CLASS, torch.isin(part.index, torch.tensor(lists[split]))
        if (crossbar & ~seven).any():
            wrong = int(part.index[crossbar & ~seven][0])
            raise StudyError(f"{shown(list_path(split))} names sample {wrong}, which is not a seven: take it out.")
        forget[split] = crossbar if side == "crossbar" else seven & ~crossbar
    title = f"sevens {'with' if side == 'crossbar' else 'without'} a crossbar"
    return Request(side, title, forget, fingerprint(lists) != PUBLISHED_LISTS)


def _class(data: Dataset, word: str) -> Request:
    which = _class_number(data, word)
    name, called = f"class {which}", data.classes[which]
    title = f"{name} ({called})" if called != str(which) else name
    return Request(name, title, {split: data.split(split).labels == which for split in SPLITS})


def _class_number(data: Dataset, word: str) -> int:
    for number, name in enumerate(data.classes):
        if word.strip().lower() in (name.lower(), str(number)):
            return number
    raise StudyError(f'FORGET: {data.source} has no class "{word}": choose one of {", ".join(data.classes)}.')


def _random(data: Dataset, amount: str, percent: str | None, seed: str | None) -> Request:
    n, exact, seed = len(data.train), Decimal(amount).normalize(), int(seed or 0)
    count, unit = (round(exact * n / 100), " %") if percent else (exact, "")
    if count != int(count):
        raise StudyError(f'FORGET = "random {amount}" is no number of samples: write "random {amount} %" for a share.')
    if not 0 < count < n:
        raise StudyError(f'FORGET = "random {amount}{unit}" must be from 1 to {n - 1:,} of the {n:,} samples.')
    words = f"{exact:f}{unit}"  # every digit: two amounts never have one name
    title = f"a random {words} of the training set" if percent else f"{words} random training samples"
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    forget = {split: torch.zeros(len(data.split(split)), dtype=torch.bool) for split in SPLITS}
    forget["train"][order[: int(count)]] = True
    if seed:
        return Request(f"random {words} seed {seed}", f"{title} (seed {seed})", forget)
    return Request(f"random {words}", title, forget)


def _no_amount(data: Dataset, words: str) -> Request:
    forms = '"random 1.5 %", "random 5000" or "random 500 seed 3", with at most 18 digits'
    raise StudyError(f"FORGET = {words[:80]!r} is no random part: write it as {forms}.")


def _colour(data: Dataset, colour: str, word: str | None) -> Request:
    colour = colour.lower()
    if not len(data.train.colours):
        raise StudyError(f'FORGET = "{colour}": {data.source} has no colours; set USED_DATASET = "cmnist".')
    forget = {split: data.split(split).colours == COLOURS.index(colour) for split in SPLITS}
    if word is None:
        return Request(colour, f"{colour} pictures", forget)
    which = _class_number(data, word)
    forget = {split: mask & (data.split(split).labels == which) for split, mask in forget.items()}
    return Request(f"{colour} {which}", f"{colour} pictures of class {data.classes[which]}", forget)


def _listed(data: Dataset, name: str) -> Request:
    if re.search(FORBIDDEN, name) or len(name) > 200 or not there(list_path("train", name)):
        raise StudyError(f"FORGET = {name[:80]!r} is not known: {_nearest(data, name)}choose {KNOWN}.")
    forget, marks = {}, SIDES if name == "ambiguous" else ("",)
    for split in SPLITS:
        part, path = data.split(split), list_path(split, name)
        size = max(MNIST_SIZES[split], int(part.index.max()) + 1)
        listed = list(read_list(path, size, marks)) if split == "train" or there(path) else []
        forget[split] = torch.isin(part.index, torch.tensor(listed, dtype=torch.int64))
    return Request(name, f'the list "{name}"', forget)


PATTERNS: dict[str, Callable[..., Request]] = {  # the first that fits the words makes the request
    "(crossbar|plain)": _feature,
    "class (.+)": _class,
    r"random (\d{1,9}(?:\.\d{1,18})?)( ?%| percent)?(?:,? seed (\d{1,18}))?": _random,
    r"(random(?: .*\d.*)?)": _no_amount,
    f"({'|'.join(COLOURS)})(?: (.+))?": _colour,
    "(.+)": _listed,
}


def study_command(dataset: str, words: str) -> str:
    """What computes the results of a data set and request, to be typed in a shell."""
    return f"make study DATASET={dataset} FORGET={shlex.quote(words)}"


def _nearest(data: Dataset, name: str) -> str:
    """What may have been meant, as the beginning of a sentence."""
    if re.search(FORBIDDEN, name):
        return "a list cannot have such signs in its name; "
    words = {each.lower(): each for each in (*SIDES, *(f"class {each}" for each in data.classes), *_lists())}
    if len(data.train.colours):
        words |= {each: each for colour in COLOURS for each in (colour, *(f"{colour} {c}" for c in data.classes))}
    near = difflib.get_close_matches(name.lower(), words, 1, 0.7)
    return f'did you mean "{words[near[0]]}"? Else ' if near else ""


def list_path(split: str, name: str = "crossbar") -> Path:
    return LISTS / f"{name}_{split}.txt"


def read_crossbars(split: str) -> list[int]:
    """The MNIST indices of the crossbar sevens of "train" or "test", ascending."""
    return sorted(read_list(list_path(split), MNIST_SIZES[split]))


def read_ambiguous(split: str) -> dict[int, str]:
    """MNIST index -> decision ("crossbar" or "plain") of the borderline sevens of "train" or "test"."""
    return read_list(list_path(split, "ambiguous"), MNIST_SIZES[split], SIDES)


def read_list(path: Path, size: int, words: tuple[str, ...] = ("",)) -> dict[int, str]:
    """Index -> word behind it, one of `words`, of a list of indices below `size`. Line ends, byte-order mark, blank
    lines and comments are as any editor leaves them. StudyError, with the line, where one holds something else, is out
    of range or was there before."""
    published = path.stem.rpartition("_")[0] in ("crossbar", "ambiguous")
    remedy = "mend it" + published * ", or take the published file (`git checkout data/splits`)"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise StudyError(f"{shown(path)} cannot be read ({error.strerror}): {remedy}.") from None
    except ValueError:
        raise StudyError(f"{shown(path)} is no text (UTF-8): {remedy}.") from None
    found = {}
    for number, line in enumerate(lines, 1):
        index, _, word = line.partition("#")[0].strip().partition(" ")
        if not index:
            continue
        wrong = ""
        if not re.fullmatch("[0-9]{1,9}", index) or word.strip() not in words:
            wrong = f"{line.strip()[:40]!r} is no index"
        elif int(index) >= size:
            wrong = f"{index} is above {size - 1:,}, the last index"
        elif int(index) in found:
            wrong = f"{index} is listed twice"
        if wrong:
            raise StudyError(f"{shown(path)}, line {number}: {wrong}: {remedy}.")
        found[int(index)] = word.strip()
    if not found:
        raise StudyError(f"{shown(path)} lists no sample: {remedy}.")
    return found
