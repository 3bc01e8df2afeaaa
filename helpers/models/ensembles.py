"""Ensembles: N models of one kind that differ in their seed, computed and stored one by one, or loaded.

A model's file lies in a folder named after everything that decides what is in it (data, split, side, recipe, method,
settings and the code that makes it), so models made under other conditions are never mixed up with the present ones.
Work that was interrupted goes on with the first model that is not stored.
"""

import functools
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.data.task import Task
from helpers.device import describe, pick_device, return_memory
from helpers.files import DATA, StudyError, code_fingerprint, fingerprint, load_torch, locked, save_torch, shown, there
from helpers.models import cnn, training
from helpers.models.cnn import CNN, new_model
from helpers.models.training import RECIPE, Stopwatch, train
from helpers.parallel import run_each

MODELS = DATA / "models"
FEWEST = 2  # models of an ensemble
ROOM = 20_000_000  # bytes that the models and results of all kinds of one seed take
BASELINES = {"untrained": "Untrained", "trained": "Trained", "retrained": "Retrained"}
BASELINES_NOTEBOOK = "netcomp_compare.ipynb"


@dataclass(frozen=True)
class Kind:
    """What an ensemble is made of. name: "trained", "gemu", ...; title: the same for readers; settings: hyper-parameters;
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


def baseline(name: str, task: Task, n: int, stored: bool) -> Ensemble:
    """The "untrained", "trained" or "retrained" ensemble of n models.

    stored: True loads (StudyError if fewer than n are stored), False computes and stores what is missing.
    """
    check_count(n)
    check_stored(stored)
    device = pick_device()

    @functools.cache
    def training_set() -> tuple[Tensor, Tensor]:
        whole = (task.data.train.images, task.data.train.labels)
        images, labels = whole if name == "trained" else task.retain_set("train")
        return images.to(device), labels.to(device)

    def make(seed: int, on_step) -> tuple[CNN, dict]:
        if name == "untrained":
            return new_model(task.data.channels, seed), {"seconds": 0.0, "samples": 0}
        images, labels = training_set()
        with Stopwatch() as watch:
            model = train(images, labels, RECIPE, seed, on_step)
        samples = steps * min(RECIPE.batch_size, len(labels))
        return model, {"seconds": watch.seconds, "samples": samples}

    size = len(task.data.train) - (int(task.forget["train"].sum()) if name == "retrained" else 0)
    steps = 1 if name == "untrained" else RECIPE.steps(size)
    if name != "untrained" and not stored:
        training_set()  # once, before processes are forked
    return gather(baseline_kind(name, task), task, n, stored, make, steps)


def baseline_kind(name: str, task: Task) -> Kind:
    identity = fingerprint([name, asdict(RECIPE), task.fingerprint, code_fingerprint(cnn, training)])
    return Kind(name, BASELINES[name], asdict(RECIPE), identity)


def provenance(task: Task) -> dict:
    """What made a model, beside its seed and settings: recipe, data, split, device and versions."""
    return {
        "recipe": asdict(RECIPE),
        "source": task.data.source,
        "side": task.side,
        "task": task.fingerprint,
        "device": describe(pick_device()),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def check_count(n: int) -> None:
    """StudyError unless n is a whole number from FEWEST up."""
    if isinstance(n, bool) or not isinstance(n, int) or n < FEWEST:
        raise StudyError(
            f"N_MODELS = {n!r} makes no ensemble, in which seeds are compared with each other: set it to a whole number "
            f"from {FEWEST} up, for example 10."
        )
    if n * ROOM > shutil.disk_usage(DATA.parent).total:
        raise StudyError(
            f"N_MODELS = {n} would need about {n * ROOM / 1e9:,.0f} GB, more than the whole disk has: set it to a smaller number, "
            "for example 30."
        )


def check_stored(stored: bool) -> None:
    """StudyError unless `stored`, a notebook's ALLREADY_TRAINED, is True or False."""
    if not isinstance(stored, bool):
        raise StudyError(f"ALLREADY_TRAINED = {stored!r} says neither: set it to True or False, without quotes.")


def gather(
    kind: Kind, task: Task, n: int, stored: bool, make: Callable[[int, Callable[[Tensor], None]], tuple], steps: int
) -> Ensemble:
    """Loads models 0..n-1 of a kind; where `stored` is False, makes and stores those that are missing.

    make: (seed, on_step) -> model, record; on_step is called `steps` times.
    """
    folder = MODELS / task.data.name / task.side / f"{kind.name}-{kind.identity}"
    paths = [folder / f"{seed:03d}.pt" for seed in range(n)]
    missing = [seed for seed, path in enumerate(paths) if not there(path)]
    if stored and missing:
        raise StudyError(_not_stored(kind, task, n, n - len(missing), folder))
    if missing:

        def work(seed: int, tick: Callable[[], None]) -> None:
            with locked(paths[seed]):
                if there(paths[seed]):  # another notebook made it meanwhile
                    for _ in range(steps):
                        tick()
                    return
                model, record = make(seed, (lambda _: tick()) if steps > 1 else (lambda _: None))
                made = {"kind": kind.name, "settings": kind.settings} | provenance(task)
                state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
                content = {"identity": kind.identity, "seed": seed, "made": made, "state": state, "record": record}
                save_torch(paths[seed], content)
            if steps == 1:
                tick()

        # one bar for the ensemble; its unit is the training step, or the model where steps are few
        unit, total = ("step", len(missing) * steps) if steps > 1 else ("model", len(missing))
        with tqdm(total=total, desc=f"{kind.title}, {n} models", unit=unit, mininterval=1) as bar:
            run_each(work, missing, bar.update)
        return_memory()
    models, records = [], []
    for seed, path in enumerate(paths):
        content = _read(path, kind, seed)
        models.append(_restore(content["state"], task.data.channels, path, kind))
        records.append(content["record"])
    return Ensemble(kind, models, records)


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
    return f"No {kind.title} models are stored for {task.data.name} (forget side {task.side}): {remedy}."
