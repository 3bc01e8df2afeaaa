"""A data set with what is to be forgotten: everything else starts from a `Task`."""

import difflib
import functools
import hashlib
import importlib
import pkgutil
import platform
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import helpers.data
from helpers.data.dataset import SPLITS, Dataset, Source, Split
from helpers.data.request import DEFAULT, THEN, THEN_TYPED, Request, folder_of, refuse_hidden_list, request_of
from helpers.device import return_memory
from helpers.files import StudyError, fingerprint
from helpers.sizes import QUICK, SIZES


def _declared() -> dict[str, Source]:
    """Name -> Source, of every file in this folder that declares one."""
    modules = [
        importlib.import_module(f"helpers.data.{info.name}") for info in pkgutil.iter_modules(helpers.data.__path__)
    ]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Source)]
    return {source.name: source for source in sorted(found, key=lambda source: (source.order, source.name))}


DATASETS = _declared()
NAMES = {name: source.title for name, source in DATASETS.items()}
SUBSETS = ("all", "retain", "forget", *map(str, range(10)), "neighbours", "held_out")


@dataclass(frozen=True, eq=False)
class Task:
    """A data set and a request: what of it is to be forgotten.

    data: Dataset; request: Request;
    forget: per split ("train", "test") a Tensor [n] bool, True for the forget set D_f; the rest is the retain set D_r;
    before: the task that was unlearned first, whose unlearned models are the start of this one; None: trained models
    are;
    tuning: whether it is that on which hyper-parameters are tuned (`tuning_task`).
    """

    data: Dataset
    request: Request
    forget: dict[str, Tensor]
    before: "Task | None" = None
    tuning: bool = False

    def __reduce__(self):
        """What travels to other processes: how to load it again. Only what `load_task` and `tuning_task` return can
        travel; one that was changed by hand is refused there."""
        return _load, (self.data.name, self.request.name, self.tuning, self.fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the data and what is to be forgotten; stored with every model and result."""
        masks = [hashlib.sha256(self.forget[split].numpy().tobytes()).hexdigest() for split in SPLITS]
        return fingerprint(
            [self.data.name, self.data.source, self.data.digest, *masks, self.before and self.before.fingerprint]
        )

    @property
    def folder(self) -> str:
        """Where its models and results lie, below the data set."""
        return folder_of(self.request.name)

    @property
    def classes(self) -> Tensor:
        """The classes that the request touches, ascending."""
        return self.data.train.labels[self.forget["train"]].unique()

    def split(self, split: str) -> Split:
        return self.data.split(split)

    def forget_set(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """Images [n, c, 28, 28] and labels [n] of D_f; none where the test split has no samples of this kind."""
        return self._part(split, self.forget[split])

    def retain_set(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """Images [n, c, 28, 28] and labels [n] of D_r."""
        return self._part(split, ~self.forget[split])

    def asked(self) -> tuple[Tensor, Tensor]:
        """Images and labels of what this request adds to those before it: what a method gets as D_f."""
        earlier = self.before.forget["train"] if self.before else torch.zeros_like(self.forget["train"])
        return self._part("train", self.forget["train"] & ~earlier)

    def neighbours(self, split: str) -> Tensor:
        """Tensor [n] bool: retained samples of the classes that the request touches; none for a whole class."""
        return torch.isin(self.split(split).labels, self.classes) & ~self.forget[split]

    def _part(self, split: str, mask: Tensor) -> tuple[Tensor, Tensor]:
        part = self.split(split)
        return part.images[mask], part.labels[mask]

    def subsets(self, split: str = "test") -> dict[str, Tensor]:
        """Positions (Tensor int64) of every reported subset that has samples.

        `neighbours`: retained samples of the classes touched; `held_out`: where the test split has no forget set, its
        samples of those classes, which stand in where a measure needs samples like the forgotten ones that no model has
        seen.
        """
        labels, forget = self.split(split).labels, self.forget[split]
        masks = {
            "all": torch.ones_like(forget),
            "retain": ~forget,
            "forget": forget,
            "neighbours": self.neighbours(split),
        }
        masks |= {str(number): labels == number for number in range(10)}
        masks["held_out"] = masks["neighbours"] & (not forget.any())
        return {name: masks[name].nonzero().flatten() for name in SUBSETS if masks[name].any()}

    def describe(self) -> str:
        """Sizes in one sentence."""
        f, ft = (int(self.forget[split].sum()) for split in SPLITS)
        lists = "; the lists in data/splits are not the published ones" if self.request.own_lists else ""
        there = f"{f:,} and {ft:,}" if ft else f"{f:,} of the training split"
        lists += "; UNLEARNING_QUICK: tiny models on a part of the data, whose numbers mean nothing" * (SIZES == QUICK)
        return f"{self.data.describe()}, of which {there} are to be forgotten ({self.request.title}){lists}"


def load_task(dataset: str, forget: str = DEFAULT) -> Task:
    """Loads `dataset` ("mnist", "cmnist", "fmnist") with what is to be forgotten, in the words of
    `helpers/data/request.py`; "A, then B" is B after A was unlearned.

    Raises StudyError for an unknown name or request, for data that cannot be had, and for lists that are missing or
    damaged.
    """
    return task_of(load_data(dataset), forget)


def load_data(dataset: str) -> Dataset:
    """The data set of that name; StudyError for an unknown name and for data that cannot be had."""
    check_name(dataset)
    data = DATASETS[dataset].load()
    for split, most in (("train", SIZES.train_samples), ("test", SIZES.test_samples)):
        n = len(data.split(split))
        if most and n > most:
            drawn = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values
            part = data.split(split).pick(drawn)
            data = replace(data, **{split: part}, digest=fingerprint([data.digest, split, most]))
    return_memory()
    return data


def task_of(data: Dataset, words: str) -> Task:
    """The task of a data set that is loaded already; as `load_task`."""
    *first, last = THEN_TYPED.split(words) if isinstance(words, str) else [words]
    if first:
        refuse_hidden_list(words)
    request = request_of(last, data)
    if not first:
        return Task(data, request, request.forget)
    before = task_of(data, THEN.join(first))
    forget = {split: request.forget[split] | before.forget[split] for split in SPLITS}
    if torch.equal(forget["train"], before.forget["train"]):
        raise StudyError(f"FORGET = {words!r}: nothing is left of {request.title} after what comes before it.")
    if forget["train"].all():
        raise StudyError(f"FORGET = {words!r} names every training sample: leave some to retain.")
    name, title = f"{before.request.name}{THEN}{request.name}", f"{before.request.title}, then {request.title}"
    own_lists = before.request.own_lists or request.own_lists
    return Task(data, Request(name, title, forget, own_lists), forget, before)


@functools.lru_cache(2)
def _load(dataset: str, forget: str, tuning: bool, expected: str) -> Task:
    """The task in another process, which loads it once; StudyError where it is not the one that was sent."""
    task = load_task(dataset, forget)
    task = tuning_task(task) if tuning else task
    if task.fingerprint != expected:
        raise StudyError(
            f"The worker on {platform.node()} has {task.data.source} or lists in data/splits that differ from those "
            "here: give it the same data/downloads and data/splits (a task that was changed by hand cannot be sent)."
        )
    return task


def check_name(name: str) -> None:
    """StudyError unless `name` is that of a data set; offers the nearest."""
    if not isinstance(name, str) or name not in DATASETS:
        written = {key: key for key in NAMES} | {title.lower(): key for key, title in NAMES.items()}
        close = difflib.get_close_matches(str(name).lower(), written, n=1, cutoff=0.3)
        near = written[close[0]] if close else next(iter(NAMES))
        known = ", ".join(f'"{key}"' for key in NAMES)
        raise StudyError(f'USED_DATASET = {name!r} is not known: did you mean "{near}"? Known are {known}.')


def tuning_task(task: Task) -> Task:
    """The task on which hyper-parameters are tuned: no sample of the test split occurs in it.

    One tenth of the training split (drawn with seed 0) stands in for the test split; models are trained on the rest.
    """
    n = len(task.data.train)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    parts = {"test": order[: n // 10].sort().values, "train": order[n // 10 :].sort().values}
    splits = {split: task.data.train.pick(where) for split, where in parts.items()}
    data = replace(task.data, source=f"{task.data.source}, tuning", **splits)
    masks = {split: task.forget["train"][where] for split, where in parts.items()}
    return replace(task, data=data, forget=masks, before=task.before and tuning_task(task.before), tuning=True)
