"""Which samples are forgotten: the sevens with a crossbar, or the plain ones.

The crossbar sevens are committed as lists of MNIST indices in `data/splits/` (how they were sorted is told in the
README there). Colored MNIST carries its MNIST index in the file name, so the same lists serve both data sets.
`load_task` puts a data set and its forget set together: everything else starts from a `Task`.
"""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.datasets import Dataset, Half, load_dataset
from helpers.device import return_memory
from helpers.files import DATA, StudyError, fingerprint, shown, written_whole

SPLITS = DATA / "splits"
FEATURE_CLASS = 7
SIDES = ("crossbar", "plain")
SUBSETS = ("all", "retain", "forget", *map(str, range(10)), "7_retain", "7_forget")


@dataclass(frozen=True)
class Task:
    """A data set with one side of the sevens to forget.

    data: Dataset; side: "crossbar" or "plain" (which sevens are forgotten);
    forget: per half ("train", "test") a Tensor [n] bool, True for the forget set D_f; the rest is the retain set D_r;
    fingerprint: identifies data source, split lists and side; stored with every model and result.
    """

    data: Dataset
    side: str
    forget: dict[str, Tensor]
    fingerprint: str

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
        return (
            f"{self.data.source}: {n:,} training and {nt:,} test samples, of which {f:,} and {ft:,} "
            f"are to be forgotten (sevens {'with' if self.side == 'crossbar' else 'without'} a crossbar)"
        )


def load_task(dataset: str, forget: str = "crossbar") -> Task:
    """Loads `dataset` ("mnist", "cmnist") with the side `forget` ("crossbar", "plain") of the sevens to forget.

    Raises StudyError for an unknown name or side, for data that cannot be had, and for split lists that are missing,
    damaged, altered, or name samples that are not sevens.
    """
    check_side(forget)
    data = load_dataset(dataset)
    return_memory()
    masks, lists = {}, {}
    for half, part in (("train", data.train), ("test", data.test)):
        lists[half] = read_split(half)
        crossbar = torch.isin(part.index, torch.tensor(lists[half]))
        if not bool((part.labels[crossbar] == FEATURE_CLASS).all()):
            wrong = int(part.index[crossbar][part.labels[crossbar] != FEATURE_CLASS][0])
            raise StudyError(
                f"{shown(split_path(half))} names sample {wrong}, which is not a seven: "
                "restore the file with `git checkout data/splits`."
            )
        seven = part.labels == FEATURE_CLASS
        masks[half] = crossbar if forget == "crossbar" else seven & ~crossbar
    return Task(data, forget, masks, task_fingerprint(data.name, data.source, forget, lists))


def task_fingerprint(dataset: str, source: str, forget: str, lists: dict[str, list[int]] | None = None) -> str:
    """What a Task carries as its fingerprint; lists: the split lists per half, read if None."""
    return fingerprint([dataset, source, split_fingerprint(lists), forget])


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

    def pick(where: Tensor) -> Half:
        return Half(*(value[where] if len(value) else value for value in vars(task.data.train).values()))

    data = replace(task.data, train=pick(parts["train"]), test=pick(parts["test"]))
    masks = {half: task.forget["train"][where] for half, where in parts.items()}
    return replace(task, data=data, forget=masks, fingerprint=fingerprint([task.fingerprint, "tuning"]))


def split_path(half: str, kind: str = "crossbar"):
    return SPLITS / f"{kind}_{half}.txt"


def read_split(half: str) -> list[int]:
    """The MNIST indices of the crossbar sevens of "train" or "test", ascending.

    Raises StudyError if the list is missing or not a list of ascending indices in range.
    """
    rows = _read_rows(split_path(half), half, ("",))
    return [index for index, _ in rows]


def read_ambiguous(half: str) -> dict[int, str]:
    """MNIST index -> decision ("crossbar" or "plain") of the borderline sevens of "train" or "test"."""
    return dict(_read_rows(split_path(half, "ambiguous"), half, SIDES))


def split_fingerprint(lists: dict[str, list[int]] | None = None) -> str:
    """Fingerprint of the two lists of crossbar sevens."""
    return fingerprint(lists or {half: read_split(half) for half in ("train", "test")})


def _read_rows(path, half: str, words: tuple[str, ...]) -> list[tuple[int, str]]:
    remedy = "restore it with `git checkout data/splits`"
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        raise StudyError(f"{shown(path)} cannot be read: {remedy}.") from None
    except ValueError:
        raise StudyError(f"{shown(path)} is damaged: {remedy}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        index, _, word = line.strip().partition(" ")
        size = 60_000 if half == "train" else 10_000
        if not index.isdecimal() or int(index) >= size or word not in words:
            raise StudyError(f"{shown(path)} is damaged in line {number}: {remedy}.")
        if rows and int(index) <= rows[-1][0]:
            raise StudyError(f"{shown(path)} is not ascending, or lists a sample twice, in line {number}: {remedy}.")
        rows.append((int(index), word))
    if not rows:
        raise StudyError(f"{shown(path)} lists no sample: {remedy}.")
    if _seal(lines) not in lines:
        raise StudyError(
            f"{shown(path)} does not agree with the SHA-256 in its last line: {remedy}, or, if you changed it on "
            "purpose, run `python -m helpers.split`."
        )
    return rows


def _seal(lines: list[str]) -> str:
    """The line that proves the others: SHA-256 of all that are no remarks."""
    body = "\n".join(line for line in lines if not line.startswith("#"))
    return f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}"


def seal_splits() -> None:
    """Renews the last line of all lists, after they were changed on purpose."""
    for path in sorted(SPLITS.glob("*_t*.txt")):
        lines = [line for line in path.read_text(encoding="ascii").splitlines() if not line.startswith("# sha256")]
        with written_whole(path) as part:
            part.write_text("\n".join([*lines, _seal(lines)]) + "\n")


if __name__ == "__main__":
    seal_splits()
