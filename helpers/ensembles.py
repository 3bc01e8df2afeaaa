"""Ensembles: N models of one kind that differ in their seed, computed and stored one by one, or loaded.

A model's file lies in a folder named after everything that decides what is in it (data, split, side, recipe, method,
settings and the code that makes it), so models made under other conditions are never mixed up with the present ones.
Work that was interrupted goes on with the first model that is not stored.
"""

import functools
import inspect
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers import cnn, training
from helpers.cnn import CNN, new_model
from helpers.device import describe, pick_device, return_memory
from helpers.files import DATA, StudyError, code_fingerprint, fingerprint, load_torch, locked, save_torch, shown
from helpers.parallel import run_each
from helpers.split import Task, split_fingerprint
from helpers.training import Recipe, Stopwatch, train
from helpers.unlearning import CHEAP, METHODS, Log, UnlearningData, common

MODELS = DATA / "models"
RECIPE = Recipe()
FEWEST = 2  # models of an ensemble
BASELINES = {"untrained": "Untrained", "trained": "Trained", "retrained": "Retrained"}
NOTEBOOKS = (  # which notebook makes a kind
    dict.fromkeys(BASELINES, "netcomp_compare.ipynb")
    | dict.fromkeys(METHODS, "graphics.ipynb")
    | {"ascent": "netcomp_SimpleAscent.ipynb", "gemu": "netcomp_GEMU.ipynb", "gefeu": "netcomp_GeFeU.ipynb"}
)


@dataclass(frozen=True)
class Ensemble:
    """kind: "trained", "gemu", ...; title: the same for readers; settings: hyper-parameters;
    models: N CNNs on the CPU in evaluation mode, model i made with seed i;
    records: per model `seconds`, `samples` and, for unlearning, `curves` and `noise`; identity: fingerprint."""

    kind: str
    title: str
    settings: dict
    models: list[CNN]
    records: list[dict]
    identity: str

    def __len__(self):
        return len(self.models)


def baseline(kind: str, task: Task, n: int, stored: bool) -> Ensemble:
    """The "untrained", "trained" or "retrained" ensemble of n models.

    stored: True loads (StudyError if fewer than n are stored), False computes and stores what is missing.
    """
    check_count(n)
    check_stored(stored)
    identity, device = identity_of(kind, task.fingerprint), pick_device()

    @functools.cache
    def training_set() -> tuple[Tensor, Tensor]:
        whole = (task.data.train.images, task.data.train.labels)
        images, labels = whole if kind == "trained" else task.retain_set("train")
        return images.to(device), labels.to(device)

    def make(seed: int, on_step) -> tuple[CNN, dict]:
        if kind == "untrained":
            return new_model(task.data.channels, seed), {"seconds": 0.0, "samples": 0}
        images, labels = training_set()
        with Stopwatch() as watch:
            model = train(images, labels, RECIPE, seed, on_step)
        samples = steps * min(RECIPE.batch_size, len(labels))
        return model, {"seconds": watch.seconds, "samples": samples}

    size = len(task.data.train) - (int(task.forget["train"].sum()) if kind == "retrained" else 0)
    steps = 1 if kind == "untrained" else RECIPE.steps(size)
    if kind != "untrained" and not stored:
        training_set()  # once, before processes are forked
    return _gather(kind, BASELINES[kind], asdict(RECIPE), identity, task, n, stored, make, steps)


def unlearned(name: str, task: Task, n: int, stored: bool, settings=None) -> Ensemble:
    """The ensemble that method `name` of METHODS makes out of the trained one; model i starts from trained model i.

    settings: hyper-parameters, the method's defaults if None. Raises StudyError if the trained models are missing.
    """
    check_count(n)
    check_stored(stored)
    method = METHODS[name]
    settings = settings or method.settings
    trained = baseline("trained", task, n, stored=True)
    identity, device = identity_of(name, task.fingerprint, settings), pick_device()
    data = None if stored else UnlearningData.of(task, RECIPE, device)

    def make(seed: int, on_step) -> tuple[CNN, dict]:
        start = trained.models[seed].to(device)
        return unlearn(name, start, data, settings, seed)

    return _gather(name, method.title, asdict(settings), identity, task, n, stored, make, 1)


def identity_of(kind: str, task_fingerprint: str, settings=None) -> str:
    """Fingerprint of everything that decides what the models of a kind are: task, recipe, settings (the method's defaults
    if None) and the code that makes them."""
    if kind in BASELINES:
        return fingerprint([kind, asdict(RECIPE), task_fingerprint, code_fingerprint(cnn, training)])
    method = METHODS[kind]
    code = code_fingerprint(common, inspect.getmodule(method.run))
    return fingerprint([kind, asdict(settings or method.settings), identity_of("trained", task_fingerprint), code])


def every_ensemble(task: Task, n: int, stored: bool) -> list[Ensemble]:
    """All kinds of models that there are; the baselines and the three routines are loaded, the cheap methods of
    `helpers.unlearning` are made where `stored` is False and they are missing."""
    known = [baseline(kind, task, n, stored=True) for kind in BASELINES]
    return known + [unlearned(name, task, n, stored or name not in CHEAP) for name in METHODS]


def unlearn(name: str, model: CNN, data: UnlearningData, settings, seed: int) -> tuple[CNN, dict]:
    """Runs one method on one model; returns the new model and its record (seconds, samples, curves, noise)."""
    log = Log()
    with Stopwatch() as watch:
        result = METHODS[name].run(model, data, settings, seed, log)
    curves = {phase: torch.stack(losses).float().cpu() for phase, losses in log.curves.items()}
    record = {"seconds": watch.seconds, "samples": log.samples, "curves": curves}
    if log.noise:
        record["noise"] = torch.stack(log.noise).cpu()
    return result, record


def provenance(task: Task) -> dict:
    """What made a model, beside its seed and settings: recipe, data, split, device and versions."""
    return {
        "recipe": asdict(RECIPE),
        "source": task.data.source,
        "side": task.side,
        "task": task.fingerprint,
        "split": split_fingerprint(),
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


def check_stored(stored: bool) -> None:
    """StudyError unless `stored`, a notebook's ALLREADY_TRAINED, is True or False."""
    if not isinstance(stored, bool):
        raise StudyError(f"ALLREADY_TRAINED = {stored!r} says neither: set it to True or False, without quotes.")


def folder_of(task: Task, kind: str, identity: str) -> Path:
    """data/models/<dataset>/<side>/<kind>-<identity>/"""
    return MODELS / task.data.name / task.side / f"{kind}-{identity}"


def _gather(
    kind: str,
    title: str,
    settings: dict,
    identity: str,
    task: Task,
    n: int,
    stored: bool,
    make: Callable[[int, Callable[[Tensor], None]], tuple[CNN, dict]],
    steps: int,
) -> Ensemble:
    """Loads models 0..n-1 of a kind; where `stored` is False, makes and stores those that are missing."""
    folder = folder_of(task, kind, identity)
    paths = [folder / f"{seed:03d}.pt" for seed in range(n)]
    missing = [seed for seed, path in enumerate(paths) if not path.is_file()]
    if stored and missing:
        raise StudyError(_not_stored(kind, title, task, n, n - len(missing), folder))
    if missing:

        def work(seed: int, tick: Callable[[], None]) -> None:
            with locked(paths[seed]):
                if paths[seed].is_file():  # another notebook made it meanwhile
                    for _ in range(steps):
                        tick()
                    return
                model, record = make(seed, (lambda _: tick()) if steps > 1 else (lambda _: None))
                made = {"kind": kind, "settings": settings} | provenance(task)
                state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
                content = {"identity": identity, "seed": seed, "made": made, "state": state, "record": record}
                save_torch(paths[seed], content)
            if steps == 1:
                tick()

        # one bar for the ensemble; its unit is the training step, or the model where steps are few
        unit, total = ("step", len(missing) * steps) if steps > 1 else ("model", len(missing))
        with tqdm(total=total, desc=f"{title}, {n} models", unit=unit, mininterval=1) as bar:
            run_each(work, missing, bar.update)
        return_memory()
    models, records = [], []
    for seed, path in enumerate(paths):
        content = _read(path, identity, seed, title)
        models.append(_restore(content["state"], task.data.channels, path, title))
        records.append(content["record"])
    return Ensemble(kind, title, settings, models, records, identity)


def _remedy(path: Path, title: str) -> str:
    return f"delete this file and compute the {title} models again with ALLREADY_TRAINED = False."


def _read(path: Path, identity: str, seed: int, title: str) -> dict:
    content = load_torch(path, _remedy(path, title))
    if not isinstance(content, dict) or (content.get("identity"), content.get("seed")) != (identity, seed):
        raise StudyError(f"{shown(path)} holds another model than its place says: {_remedy(path, title)}")
    return content


def _restore(state: dict, channels: int, path: Path, title: str) -> CNN:
    model = new_model(channels, 0)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError):
        raise StudyError(f"{shown(path)} does not fit this network: {_remedy(path, title)}") from None
    return model.eval().requires_grad_(False)


def _not_stored(kind: str, title: str, task: Task, n: int, found: int, folder: Path) -> str:
    others = [p for p in folder.parent.glob(f"{kind}-*") if p != folder and any(p.glob("*.pt"))]
    remedy = f"run {NOTEBOOKS[kind]} with ALLREADY_TRAINED = False and N_MODELS = {n}"
    if found:
        return f"Only {found} of {n} {title} models are stored for {task.data.name}: {remedy}, or lower N_MODELS."
    if others:
        return (
            f"The {title} models stored for {task.data.name} were made with another recipe, split, data source, "
            f"settings or code than the present ones ({shown(others[0])}): {remedy}."
        )
    return f"No {title} models are stored for {task.data.name} (forget side {task.side}): {remedy}."
