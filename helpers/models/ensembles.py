"""Ensembles: N models of one kind that differ in their seed, computed and stored one by one, or loaded.

A model's file lies in a folder named after everything that decides what is in it (data, split, side, recipe, method,
settings and the code that makes it), so models made under other conditions are never mixed up with the present ones.
Work that was interrupted goes on with the first model that is not stored.
"""

import functools
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.data.task import Task
from helpers.device import describe, pick_device, return_memory
from helpers.files import (
    DATA,
    StudyError,
    claim,
    code_fingerprint,
    fingerprint,
    load_torch,
    locked,
    save_torch,
    shown,
    there,
)
from helpers.models import cnn, training
from helpers.models.cnn import CNN, new_model
from helpers.models.training import RECIPE, Recipe, Stopwatch, train
from helpers.parallel import each

MODELS = DATA / "models"
FEWEST = 2  # models of an ensemble
ROOM = 20_000_000  # bytes that the models and results of all kinds of one seed take
BASELINES = {"untrained": "Untrained", "trained": "Trained", "retrained": "Retrained"}
BASELINES_NOTEBOOK = "netcomp_compare.ipynb"
Made = tuple[dict[str, Tensor], dict]  # a model's weights, and its record


@dataclass(frozen=True)
class Kind:
    """What an ensemble is made of. name: "trained", "gemu", ...; title: the same for readers; settings:
    hyper-parameters;
    identity: fingerprint of everything that decides what its models are; notebook: which makes it."""

    name: str
    title: str
    settings: dict
    identity: str
    notebook: str = BASELINES_NOTEBOOK


@dataclass(frozen=True)
class Ensemble:
    """kind: what it is made of; models: N CNNs on the CPU in evaluation mode, model i made with seed i;
    records: per model `seconds`, `samples` and, for unlearning, `curves` and `noise`."""

    kind: Kind
    models: list[CNN]
    records: list[dict]

    def __len__(self):
        return len(self.models)


def baseline(name: str, task: Task, n: int, stored: bool, first: int = 0) -> Ensemble:
    """The "untrained", "trained" or "retrained" ensemble of n models, with the seeds from `first` on.

    stored: True loads (StudyError if fewer than n are stored), False computes and stores what is missing.
    """
    check_count(n)
    check_stored(stored)
    kind = baseline_kind(name, task)
    return gather(kind, task, n, stored, make_baseline, lambda seed: (name, task, RECIPE, seed), first)


def make_baseline(name: str, task: Task, recipe: Recipe, seed: int) -> Made:
    """One model of a baseline."""
    if name == "untrained":
        return state_of(new_model(task.data.channels, seed)), {"seconds": 0.0, "samples": 0}
    images, labels = training_set(name, task)
    with Stopwatch() as watch:
        model = train(images, labels, recipe, seed)
    samples = recipe.steps(len(labels)) * min(recipe.batch_size, len(labels))
    return state_of(model), {"seconds": watch.seconds, "samples": samples}


@functools.lru_cache(1)
def training_set(name: str, task: Task) -> tuple[Tensor, Tensor]:
    """What a baseline is trained on, on the device: everything, or D_r alone."""
    whole = (task.data.train.images, task.data.train.labels)
    images, labels = whole if name == "trained" else task.retain_set("train")
    return images.to(pick_device()), labels.to(pick_device())


def state_of(model: CNN) -> dict[str, Tensor]:
    """Its weights, on the CPU, in the plain layout."""
    return {name: value.cpu().contiguous() for name, value in model.state_dict().items()}


def model_of(state: dict[str, Tensor]) -> CNN:
    """The model with these weights, on the device, as stored ones are loaded: ready for use, not for training."""
    model = new_model(state["conv1.weight"].shape[1], 0)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).to(pick_device())


def baseline_kind(name: str, task: Task) -> Kind:
    """Only retrained models depend on what is to be forgotten: the others serve every request."""
    seen = task.fingerprint if name == "retrained" else [task.data.name, task.data.source]
    identity = fingerprint([name, asdict(RECIPE), seen, code_fingerprint(cnn, training)])
    return Kind(name, BASELINES[name], asdict(RECIPE), identity)


def models_folder(kind: Kind, task: Task) -> Path:
    """Where the models of a kind lie: those that serve every request in one place."""
    place = "every-request" if kind.name in ("untrained", "trained") else task.folder
    return MODELS / task.data.name / place / f"{kind.name}-{kind.identity}"


def provenance(task: Task) -> dict:
    """What made a model, beside its seed and settings: recipe, data, split, device and versions."""
    return {
        "recipe": asdict(RECIPE),
        "source": task.data.source,
        "forget": task.request.name,
        "task": task.fingerprint,
        "device": describe(pick_device()),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def check_count(n: int) -> None:
    """StudyError unless n is a whole number from FEWEST up."""
    if isinstance(n, bool) or not isinstance(n, int) or n < FEWEST:
        raise StudyError(
            f"N_MODELS must be a whole number from {FEWEST} up, for example 10, not {n!r}: models of different seeds "
            "are compared with each other."
        )
    if n * ROOM > shutil.disk_usage(DATA.parent).total:
        raise StudyError(
            f"N_MODELS = {n} would need about {n * ROOM / 1e9:,.0f} GB, more than the whole disk has: set it to a "
            "smaller number, for example 30."
        )


def check_stored(stored: bool) -> None:
    """StudyError unless `stored`, a notebook's ALLREADY_TRAINED, is True or False."""
    if not isinstance(stored, bool):
        raise StudyError(f"ALLREADY_TRAINED must be True or False, without quotes, not {stored!r}.")


def gather(
    kind: Kind,
    task: Task,
    n: int,
    stored: bool,
    make: Callable[..., Made],
    arguments: Callable[[int], tuple],
    first: int = 0,
) -> Ensemble:
    """Loads n models of a kind, with the seeds from `first` on; where `stored` is False, makes and stores those that
    are missing.

    make: a function of a module, (*arguments(seed)) -> weights, record; other processes call it. This one writes the
    files."""
    folder = models_folder(kind, task)
    paths = {seed: folder / f"{seed:03d}.pt" for seed in range(first, first + n)}
    missing = [seed for seed, path in paths.items() if not there(path)]
    if stored and missing:
        raise StudyError(_not_stored(kind, task, n, n - len(missing), folder))
    if missing:
        made = {"kind": kind.name, "settings": kind.settings} | provenance(task)
        with tqdm(total=len(missing), desc=f"{kind.title}, {n} models", unit="model") as bar, claimed(paths) as claims:
            while missing:
                jobs = ((seed, arguments(seed)) for seed in claims.free(missing, bar))
                with closing(each(make, jobs)) as found:  # also where storing one fails: nothing works on unseen
                    for seed, (state, record) in found:
                        content = {
                            "identity": kind.identity,
                            "seed": seed,
                            "made": made,
                            "state": state,
                            "record": record,
                        }
                        save_torch(paths[seed], content)
                        claims.give_back(seed)
                        bar.update()
                missing = claims.others(missing)
        return_memory()
    models, records = [], []
    for seed, path in paths.items():
        content = _read(path, kind, seed)
        models.append(_restore(content["state"], task.data.channels, path, kind))
        records.append(content["record"])
    return Ensemble(kind, models, records)


class _Claims:
    """Which models this process makes, by their locks, where another notebook may work on the same ensemble."""

    def __init__(self, paths: dict[int, Path]):
        self.paths, self.held = paths, {}

    def free(self, seeds: list[int], bar: tqdm) -> Iterator[int]:
        """Those of the seeds that nobody else makes; one is claimed when a process is free for it."""
        for seed in seeds:
            lock = claim(self.paths[seed])
            if lock is None:
                continue
            self.held[seed] = lock
            if there(self.paths[seed]):  # made meanwhile
                self.give_back(seed)
                bar.update()
            else:
                yield seed

    def give_back(self, seed: int) -> None:
        self.held.pop(seed).release()

    def others(self, seeds: list[int]) -> list[int]:
        """What others claimed and have not finished; waits for the first of them."""
        left = [seed for seed in seeds if not there(self.paths[seed])]
        if left:
            with locked(self.paths[left[0]]):
                pass
        return left


@contextmanager
def claimed(paths: dict[int, Path]):
    claims = _Claims(paths)
    try:
        yield claims
    finally:
        for seed in list(claims.held):
            claims.give_back(seed)


def _remedy(kind: Kind) -> str:
    return f"delete this file and compute the {kind.title} models again with ALLREADY_TRAINED = False."


def _read(path: Path, kind: Kind, seed: int) -> dict:
    content = load_torch(path, _remedy(kind))
    if not isinstance(content, dict) or (content.get("identity"), content.get("seed")) != (kind.identity, seed):
        raise StudyError(f"{shown(path)} holds another model than its place says: {_remedy(kind)}")
    return content


def _restore(state: dict, channels: int, path: Path, kind: Kind) -> CNN:
    model = new_model(channels, 0)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError):
        raise StudyError(f"{shown(path)} does not fit this network: {_remedy(kind)}") from None
    return model.eval().requires_grad_(False)


def _not_stored(kind: Kind, task: Task, n: int, found: int, folder: Path) -> str:
    others = [p for p in folder.parent.glob(f"{kind.name}-*") if p != folder and any(p.glob("*.pt"))]
    remedy = f"run {kind.notebook} with ALLREADY_TRAINED = False and N_MODELS = {n}"
    if found:
        return f"Only {found} of {n} {kind.title} models are stored for {task.data.name}: {remedy}, or lower N_MODELS."
    if others:
        return (
            f"The {kind.title} models stored for {task.data.name} were made with another recipe, split, data source, "
            f"settings, code or version than the present ones ({shown(others[0])}): {remedy}."
        )
    return f"No {kind.title} models are stored for {task.data.name}, forgotten: {task.request.name}: {remedy}."
