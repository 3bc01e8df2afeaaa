"""Ensembles: N models of one kind that differ in their seed, computed and stored one by one, or loaded.

A model's file lies in a folder named after everything that decides what is in it (data, split, side, recipe, method
and settings), so models made under other conditions are never mixed up with the present ones.
Work that was interrupted goes on with the first model that is not stored.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.cnn import CNN, new_model
from helpers.device import pick_device
from helpers.files import DATA, StudyError, fingerprint, load_torch, locked, save_torch, shown
from helpers.split import Task
from helpers.training import Recipe, Stopwatch, train
from helpers.unlearning import METHODS, Log, UnlearningData

MODELS = DATA / "models"
RECIPE = Recipe()
BASELINES = {"untrained": "Untrained", "trained": "Trained", "retrained": "Retrained"}


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
    identity = fingerprint([kind, asdict(RECIPE), task.fingerprint])
    device = pick_device()
    sets = {}

    def make(seed: int, on_step) -> tuple[CNN, dict]:
        if kind == "untrained":
            return new_model(task.data.channels, seed), {"seconds": 0.0, "samples": 0}
        if not sets:
            whole = (task.data.train.images, task.data.train.labels)
            sets["images"], sets["labels"] = (
                part.to(device) for part in (whole if kind == "trained" else task.retain_set("train"))
            )
        n_samples = len(sets["labels"])
        with Stopwatch() as watch:
            model = train(sets["images"], sets["labels"], RECIPE, seed, on_step)
        samples = RECIPE.steps(n_samples) * min(RECIPE.batch_size, n_samples)
        return model, {"seconds": watch.seconds, "samples": samples}

    size = len(task.data.train) - (int(task.forget["train"].sum()) if kind == "retrained" else 0)
    steps = 1 if kind == "untrained" else RECIPE.steps(size)
    return _gather(kind, BASELINES[kind], asdict(RECIPE), identity, task, n, stored, make, steps)


def unlearned(name: str, task: Task, n: int, stored: bool, settings=None) -> Ensemble:
    """The ensemble that method `name` of METHODS makes out of the trained one; model i starts from trained model i.

    settings: hyper-parameters, the method's defaults if None. Raises StudyError if the trained models are missing.
    """
    check_count(n)
    method = METHODS[name]
    settings = settings or method.settings
    trained = baseline("trained", task, n, stored=True)
    identity = fingerprint([name, asdict(settings), trained.identity])
    device = pick_device()
    data = None if stored else UnlearningData.of(task, RECIPE, device)

    def make(seed: int, on_step) -> tuple[CNN, dict]:
        start = trained.models[seed].to(device)
        return unlearn(name, start, data, settings, seed)

    return _gather(name, method.title, asdict(settings), identity, task, n, stored, make, 1)


def unlearn(name: str, model: CNN, data: UnlearningData, settings, seed: int) -> tuple[CNN, dict]:
    """Runs one method on one model; returns the new model and its record (seconds, samples, curves, noise)."""
    log = Log()
    with Stopwatch() as watch:
        result = METHODS[name].run(model, data, settings, seed, log)
    curves = {phase: torch.stack(losses).float().cpu() for phase, losses in log.curves.items()}
    record = {"seconds": watch.seconds, "samples": log.samples, "curves": curves}
    if log.noise:
        record["noise"] = torch.stack(log.noise)
    return result, record


def check_count(n: int) -> None:
    """StudyError unless n is a whole number above 0."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise StudyError(f"N_MODELS = {n!r} makes no ensemble: set it to a whole number from 1 up, for example 10.")


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
        # one bar for the ensemble; its unit is the training step, or the model where steps are few
        total = len(missing) * steps
        with tqdm(
            total=total, desc=f"{title}, {n} models", unit="step" if steps > 1 else "model", mininterval=1
        ) as bar:
            for seed in missing:
                with locked(paths[seed]):
                    if paths[seed].is_file():  # another process made it meanwhile
                        bar.update(steps)
                        continue
                    on_step = (lambda _: bar.update()) if steps > 1 else (lambda _: None)
                    model, record = make(seed, on_step)
                    if steps == 1:
                        bar.update()
                    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
                    save_torch(paths[seed], {"identity": identity, "seed": seed, "state": state, "record": record})
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
    notebook = "netcomp_compare.ipynb" if kind in BASELINES else "the notebook of this method"
    others = [p for p in folder.parent.glob(f"{kind}-*") if p != folder and any(p.glob("*.pt"))]
    remedy = f"run {notebook} with ALLREADY_TRAINED = False and N_MODELS = {n}"
    if found:
        return f"Only {found} of {n} {title} models are stored for {task.data.name}: {remedy}, or lower N_MODELS."
    if others:
        return (
            f"The {title} models stored for {task.data.name} were made with another recipe, split, data source or "
            f"settings than the present ones ({shown(others[0])}): {remedy}."
        )
    return f"No {title} models are stored for {task.data.name} (forget side {task.side}): {remedy}."
