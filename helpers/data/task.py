"""Which samples are forgotten: the sevens with a crossbar, or the plain ones.

The crossbar sevens are committed as lists of MNIST indices in `data/splits/` (how they were sorted is told in the
README there). Colored MNIST carries its MNIST index in the file name, so the same lists serve both data sets.
`load_task` puts a data set and its forget set together: everything else starts from a `Task`.
"""

import difflib
import functools
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from helpers.data import cmnist, mnist
from helpers.data.dataset import Dataset, Half
from helpers.device import return_memory
from helpers.files import DATA, StudyError, fingerprint, shown
from helpers.sizes import SIZES

DATASETS = {"mnist": mnist, "cmnist": cmnist}  # a data set is a module with TITLE and load()
NAMES = {name: module.TITLE for name, module in DATASETS.items()}
SPLITS = DATA / "splits"
PUBLISHED_SPLIT = "d80a595218"  # fingerprint of the committed lists
FEATURE_CLASS = 7
SIDES = ("crossbar", "plain")
TUNING = "tuning"
SUBSETS = ("all", "retain", "forget", *map(str, range(10)), "7_retain", "7_forget")


@dataclass(frozen=True, eq=False)
class Task:
    """A data set with one side of the sevens to forget.

    data: Dataset; side: "crossbar" or "plain" (which sevens are forgotten);
    forget: per half ("train", "test") a Tensor [n] bool, True for the forget set D_f; the rest is the retain set D_r;
    fingerprint: identifies data source, split lists and side; stored with every model and result;
    own_lists: whether the split lists differ from the published ones;
    origin: how to make it again, which is what travels to other processes; empty for one that was changed by hand.
    """

    data: Dataset
    side: str
    forget: dict[str, Tensor]
    fingerprint: str
    own_lists: bool = False
    origin: tuple[str, ...] = field(default=(), init=False)  # so that `replace` drops it

    def __reduce__(self):
        if self.origin:
            return _there, (self.origin, self.fingerprint)
        return Task, (self.data, self.side, self.forget, self.fingerprint, self.own_lists)

    def half(self, half: str) -> Half:
        return {"train": self.data.train, "test": self.data.test}[half]

    def forget_set(self, half: str = "train") -> tuple[Tensor, Tensor]:
        """Images [n, c, 28, 28] and labels [n] of D_f."""
        return self._part(half, self.forget[half])

    def retain_set(self, half: str = "train") -> tuple[Tensor, Tensor]:
        """Images [n, c, 28, 28] and labels [n] of D_r."""
        return self._part(half, ~self.forget[half])

    def _part(self, half: str, mask: Tensor) -> tuple[Tensor, Tensor]:
        part = self.half(half)
        return part.images[mask], part.labels[mask]

    def subsets(self, half: str = "test") -> dict[str, Tensor]:
        """Positions (Tensor int64) of every reported subset; `7_forget` is the forget set, named among the classes."""
        labels, forget = self.half(half).labels, self.forget[half]
        masks = {"all": torch.ones_like(forget), "retain": ~forget, "forget": forget}
        masks |= {str(digit): labels == digit for digit in range(10)}
        masks |= {"7_retain": (labels == FEATURE_CLASS) & ~forget, "7_forget": forget}
        return {name: masks[name].nonzero().flatten() for name in SUBSETS}

    def describe(self) -> str:
        """Sizes in one sentence."""
        (n, f), (nt, ft) = ((len(m), int(m.sum())) for m in (self.forget["train"], self.forget["test"]))
        lists = "; the lists in data/splits are not the published ones" if self.own_lists else ""
        return (
            f"{self.data.source}: {n:,} training and {nt:,} test samples, of which {f:,} and {ft:,} "
            f"are to be forgotten (sevens {'with' if self.side == 'crossbar' else 'without'} a crossbar){lists}"
        )


def load_task(dataset: str, forget: str = "crossbar") -> Task:
    """Loads `dataset` ("mnist", "cmnist") with the side `forget` ("crossbar", "plain") of the sevens to forget.

    Raises StudyError for an unknown name or side, for data that cannot be had, and for split lists that are missing,
    damaged, or name samples that are not sevens.
    """
    check_name(dataset)
    check_side(forget)
    data = DATASETS[dataset].load()
    data = replace(data, test=data.test.pick(slice(SIZES.test_samples)))
    return_memory()
    masks, lists = {}, {}
    for half, part in (("train", data.train), ("test", data.test)):
        lists[half] = read_split(half)
        crossbar = torch.isin(part.index, torch.tensor(lists[half]))
        if not bool((part.labels[crossbar] == FEATURE_CLASS).all()):
            wrong = int(part.index[crossbar][part.labels[crossbar] != FEATURE_CLASS][0])
            raise StudyError(f"{shown(split_path(half))} names sample {wrong}, which is not a seven: take it out.")
        seven = part.labels == FEATURE_CLASS
        masks[half] = crossbar if forget == "crossbar" else seven & ~crossbar
    mine = fingerprint(lists)
    task = Task(data, forget, masks, fingerprint([dataset, data.source, mine, forget]), mine != PUBLISHED_SPLIT)
    return _from(task, dataset, forget)


def _from(task: Task, *origin: str) -> Task:
    object.__setattr__(task, "origin", origin)
    return task


@functools.lru_cache(2)
def _again(origin: tuple[str, ...]) -> Task:
    return tuning_task(_again(origin[:-1])) if origin[-1] == TUNING else load_task(*origin)


def _there(origin: tuple[str, ...], expected: str) -> Task:
    """The task in another process, which loads the data once and keeps it."""
    task = _again(origin)
    if task.fingerprint != expected:
        raise StudyError(
            f"The worker on {platform.node()} has {task.data.source} or split lists that differ from those here: give it the same "
            "data/downloads and data/splits, and start it again."
        )
    return task


def check_name(name: str) -> None:
    """StudyError unless `name` is that of a data set; offers the nearest."""
    if not isinstance(name, str) or name not in DATASETS:
        written = {key: key for key in NAMES} | {"colored": "cmnist", "colored mnist": "cmnist"}
        close = difflib.get_close_matches(str(name).lower(), written, n=1, cutoff=0.3)
        near = written[close[0]] if close else "mnist"
        known = " and ".join(f'"{key}"' for key in NAMES)
        raise StudyError(f'USED_DATASET = {name!r} is not known: did you mean "{near}"? Known are {known}.')


def check_side(forget: str) -> None:
    """StudyError unless `forget` is "crossbar" or "plain"."""
    if forget not in SIDES:
        raise StudyError(f'FORGET = {forget!r} is not known: choose "crossbar" (the default) or "plain".')


def tuning_task(task: Task) -> Task:
    """The task on which hyper-parameters are tuned: no sample of the test half occurs in it.

    One tenth of the training half (drawn with seed 0) stands in for the test half; models are trained on the rest.
    """
    n = len(task.data.train)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    parts = {"test": order[: n // 10].sort().values, "train": order[n // 10 :].sort().values}
    data = replace(task.data, **{half: task.data.train.pick(where) for half, where in parts.items()})
    masks = {half: task.forget["train"][where] for half, where in parts.items()}
    origin = (*task.origin, TUNING) if task.origin else ()
    return _from(replace(task, data=data, forget=masks, fingerprint=fingerprint([task.fingerprint, TUNING])), *origin)


def split_path(half: str, kind: str = "crossbar") -> Path:
    return SPLITS / f"{kind}_{half}.txt"


def read_split(half: str) -> list[int]:
    """The MNIST indices of the crossbar sevens of "train" or "test", ascending.

    Raises StudyError if the list is missing or not a list of ascending indices in range.
    """
    return [index for index, _ in _read_rows(split_path(half), half, ("",))]


def read_ambiguous(half: str) -> dict[int, str]:
    """MNIST index -> decision ("crossbar" or "plain") of the borderline sevens of "train" or "test"."""
    return dict(_read_rows(split_path(half, "ambiguous"), half, SIDES))


def _read_rows(path: Path, half: str, words: tuple[str, ...]) -> list[tuple[int, str]]:
    remedy = "mend it, or take the published file (`git checkout data/splits`, or the repository's page)"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise StudyError(f"{shown(path)} cannot be read ({error.strerror}): {remedy}.") from None
    except ValueError:
        raise StudyError(f"{shown(path)} is no text: {remedy}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        index, _, word = line.partition("#")[0].strip().partition(" ")
        if not index:
            continue
        size = 60_000 if half == "train" else 10_000
        if not index.isdecimal() or int(index) >= size or word.strip() not in words:
            raise StudyError(f"{shown(path)} is damaged in line {number}: {remedy}.")
        if rows and int(index) <= rows[-1][0]:
            raise StudyError(f"{shown(path)} is not ascending, or lists a sample twice, in line {number}: {remedy}.")
        rows.append((int(index), word.strip()))
    if not rows:
        raise StudyError(f"{shown(path)} lists no sample: {remedy}.")
    return rows
