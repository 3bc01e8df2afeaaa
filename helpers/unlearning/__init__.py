"""The unlearning methods: one file each, found by themselves. `METHODS` is every `Method` that a file here declares,
with the settings that its study found (tuned.json) where it had one, else with the defaults of its file."""

import functools
import importlib
import json
import math
import pkgutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from helpers.data.task import Task
from helpers.device import pick_device
from helpers.files import StudyError, code_fingerprint, fingerprint, shown, there
from helpers.models.cnn import CNN
from helpers.models.ensembles import (
    BASELINES,
    Ensemble,
    Kind,
    WeightsAndRecord,
    baseline,
    baseline_kind,
    check_count,
    check_stored,
    gather,
    kind_folder,
    missing_of,
    model_of,
    samples_of,
    seeds_of,
    state_of,
)
from helpers.models.training import RECIPE, Recipe, Stopwatch
from helpers.progress import Work, making, progress
from helpers.sizes import SIZES
from helpers.unlearning.forms import FEW, forms_of
from helpers.unlearning.method import Log, Method, UnlearningData


def _declared() -> dict[str, Method]:
    """Name -> Method, those with a notebook of their own first, then by name."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Method)]
    order = sorted(found, key=lambda method: (method.notebook == "graphics.ipynb", method.notebook, method.name))
    return {method.name: method for method in order}


def tuned() -> dict[str, dict]:
    """Name of a method or of one at another budget -> the settings that its study found (`studies.adopt`)."""
    try:
        return json.loads(TUNED.read_text(encoding="utf-8")) if there(TUNED) else {}
    except ValueError:
        raise StudyError(f"{shown(TUNED)} is damaged: take the published one (`git checkout helpers`).") from None


def _with(method: Method, settings: dict) -> Method:
    """The method with these settings; StudyError where it has no such ones."""
    try:
        return replace(method, settings=replace(method.settings, **settings))
    except TypeError:
        raise StudyError(f"{shown(TUNED)} names settings that {method.title} has not: take them out of it.") from None


def _at(name: str, share: float) -> Method:
    """A method at another budget, with the settings of the nearest one at which it was tuned."""
    known = {0.1: METHODS[name]}
    for of, at in ELSEWHERE:
        if of == name and name_at(of, at) in tuned():
            known[at] = _with(METHODS[name], tuned()[name_at(of, at)])
    method = known[min(known, key=lambda at: abs(math.log(at / share)))]
    if share == 1.0:  # as retrained models are trained: a check that this is retraining
        method = _with(method, {"lr": 1.0, "warm_up": RECIPE.warm_up, "batch_size": RECIPE.batch_size} | PLAIN)
    return replace(
        method,
        name=name_at(name, share),
        title=f"{method.title}, {100 * share:.0f} %",
        settings=replace(method.settings, budget=share),
        tried=(),
        search=method.search if share == 0.2 else FEW,
    )


def name_at(name: str, share: float) -> str:
    """What a method is called at another budget."""
    return f"{name}_{100 * share:02.0f}"


PLAIN = {"weight_decay": 0.0, "candidates": 1}
TUNED = Path(__file__).with_name("tuned.json")
DECLARED = _declared()  # as their files say
METHODS = {name: _with(method, tuned().get(name, {})) for name, method in DECLARED.items()}
ELSEWHERE = [(name, share) for name in ("new", "reset") for share in (0.02, 0.2, 0.5)]  # where else they are tuned
ELSEWHERE += [("gemu", 0.2), ("gefeu", 0.2)]
# retraining is a curve: what a method must beat at its own cost; at 100 % a new model is a retrained one
SHARES = {"new": (*SIZES.shares, 1.0), "reset": SIZES.shares, "gemu": (0.2,), "gefeu": (0.2,)}
# at 2 and 50 % few settings are searched, at 20 % all
FRONTIER = {at.name: at for at in (_at(name, share) for name, shares in SHARES.items() for share in shares)}
FORMS = forms_of(METHODS["gemu"], METHODS["gefeu"])  # of these two; known to studies alone
OURS = tuple(name for name, method in METHODS.items() if method.notebook != "graphics.ipynb")
TITLES = BASELINES | {name: method.title for name, method in (METHODS | FRONTIER).items()}


def method_of(name: str) -> Method:
    """The method of that name; StudyError with the known names if there is none."""
    if name not in METHODS | FRONTIER | FORMS:
        raise StudyError(f"There is no method {name!r}: choose one of {', '.join(METHODS)}.")
    return (METHODS | FRONTIER | FORMS)[name]


def unlearn(method: Method | str, model: CNN, data: UnlearningData, settings: Any, seed: int) -> tuple[CNN, dict]:
    """Runs one method, or that of this name, on one model; returns the new model and its record (seconds, samples,
    curves, noise)."""
    method, log = method_of(method) if isinstance(method, str) else method, Log()
    with Stopwatch() as watch:
        result = method.run(model, data.for_reader(method.reads), settings, seed, log)
    curves = {phase: torch.stack(losses).float().cpu() for phase, losses in log.curves.items()}
    record = {"seconds": watch.seconds, "samples": log.samples, "curves": curves}
    if log.noise:
        record["noise"] = torch.stack(log.noise).cpu()
    return result, record


def unlearned(name: str, task: Task, n: int, stored: bool, settings: Any = None) -> Ensemble:
    """The ensemble that method `name` makes out of the trained one; model i starts from trained model i, and where
    something was to be forgotten before, from the model that the method left then.

    settings: hyper-parameters, the method's defaults if None. Raises StudyError if the trained models are missing.
    """
    check_count(n)
    check_stored(stored)
    method = method_of(name)
    settings = settings or method.settings
    method.check(settings)
    start = unlearned(name, task.before, n, stored) if task.before else baseline("trained", task, n, stored=True)

    def arguments(seed: int) -> tuple:
        return method, task, RECIPE, settings, seed, state_of(start.models[seed])

    kind, samples = kind_of(name, task, settings), foreseen(name, task, settings)
    return gather(kind, task, n, stored, make_unlearned, arguments, samples)


def make_unlearned(
    method: Method | str, task: Task, recipe: Recipe, settings: Any, seed: int, start: dict
) -> WeightsAndRecord:
    """One unlearned model, from the weights of the trained one (or of what was unlearned before)."""
    model, record = unlearn(method, model_of(start), unlearning_data(task, recipe), settings, seed)
    return state_of(model), record


def foreseen(name: str, task: Task, settings: Any = None) -> float:
    """About how many samples one model of a kind sees: its budget, or the forget set where it has none."""
    if name in BASELINES:
        return samples_of(name, task)
    budget = getattr(settings or method_of(name).settings, "budget", None)
    return len(task.asked()[1]) if budget is None else budget * samples_of("retrained", task)


@functools.lru_cache(1)
def unlearning_data(task: Task, recipe: Recipe) -> UnlearningData:
    """What the methods read, on the device."""
    return UnlearningData.of(task, recipe, pick_device())


def kind_of(name: str, task: Task, settings: Any = None) -> Kind:
    """What makes the models of a kind: task, recipe, settings (the method's defaults if None) and code."""
    if name in BASELINES:
        return baseline_kind(name, task)
    method = method_of(name)
    values = asdict(settings or method.settings)
    code = code_fingerprint(method.run.__module__, follow="helpers.unlearning")
    start = kind_of(name, task.before) if task.before else baseline_kind("trained", task)
    identity = fingerprint([name, values, start.identity, task.fingerprint, code])
    folder = kind_folder(task, task.folder, name, identity)
    return Kind(name, method.title, values, identity, folder, method.notebook)


def every_ensemble(task: Task, n: int, stored: bool) -> list[Ensemble]:
    """All kinds of models that there are, those of the frontier last; the baselines must be stored, the others are
    made where `stored` is False and they are missing."""
    known = [baseline(name, task, n, stored=True) for name in BASELINES]
    with progress(to_make(task, n)):
        return known + [unlearned(name, task, n, stored) for name in METHODS | FRONTIER]


def to_make(task: Task, n: int, kinds: Iterable[str] = (*BASELINES, *METHODS, *FRONTIER)) -> list[Work]:
    """The models of these kinds that are not stored, those of requests that are unlearned before included."""
    lacking = {kind: len(missing_of(Ensemble(kind_of(kind, task), task, seeds_of(kind, n)))) for kind in kinds}
    found = [making(models, foreseen(kind, task)) for kind, models in lacking.items()]
    return found + (to_make(task.before, n, kinds) if task.before else [])
