"""Ensembles: N models of one kind that differ in their seed, computed and stored one by one, or found where they are.

The models of a kind lie in one folder, data/models/<data set>/<request>/<kind>-<identity>/, beside their outputs and
measures. The identity is a fingerprint of everything that decides what the models are (data, forget set, recipe,
method, settings and the code that makes them), so models made under other conditions are never mixed up with the
present ones, and stored ones are found on another machine too. Untrained and trained models serve every request: they
lie in `every-request`. Work that was interrupted goes on with the first model that is not stored.
"""

import functools
import platform
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from helpers.data.task import Task
from helpers.device import describe, pick_device, return_memory
from helpers.files import DATA, StudyError, code_fingerprint, fingerprint, load_torch, locked, save_torch, shown, there
from helpers.models.cnn import CNN, new_model
from helpers.models.training import RECIPE, Recipe, Stopwatch, train
from helpers.parallel import compute
from helpers.progress import advance, making, progress

MODELS = DATA / "models"
EVERY_REQUEST = "every-request"
FEWEST_MODELS = 2  # of an ensemble
AGAIN = "again"  # as many more retrained models, of other seeds: what a method as good as retraining would be
BASELINES = {"untrained": "Untrained", "trained": "Trained", "retrained": "Retrained", AGAIN: "Retrained again"}
BASELINES_NOTEBOOK = "netcomp_compare.ipynb"
PARTS = ("identity", "seed", "made", "state", "record")  # of a model's file
WeightsAndRecord = tuple[dict[str, Tensor], dict]  # what making a model returns


@dataclass(frozen=True)
class Kind:
    """What an ensemble is made of. name: "trained", "gemu", ...; title: the same for readers; settings:
    hyper-parameters; identity: fingerprint of everything that decides what its models are; folder: where they lie;
    notebook: which makes it."""

    name: str
    title: str
    settings: dict
    identity: str
    folder: Path
    notebook: str = BASELINES_NOTEBOOK

    def path(self, seed: int) -> Path:
        return self.folder / f"{seed:03d}.pt"


@dataclass(frozen=True)
class Ensemble:
    """N stored models of a kind, whose files are read when they are asked for. seeds: one per model; task: what they
    were made for."""

    kind: Kind
    task: Task
    seeds: range

    def __len__(self):
        return len(self.seeds)

    def content(self, place: int) -> dict:
        """What the file of one model holds: `state`, the weights; `record` with `seconds`, `samples` and, of
        unlearning, `curves` and `noise`; `made`, by what. StudyError where it is damaged or of another model."""
        path = self.kind.path(self.seeds[place])
        remedy = f"delete this file and compute the {self.kind.title} models again with ALLREADY_TRAINED = False."
        content = load_torch(path, remedy, PARTS)
        if not _whole(content, self.task.data.channels):
            raise StudyError(f"{shown(path)} lacks a part of its model, or one has another form: {remedy}")
        if (content["identity"], content["seed"]) != (self.kind.identity, self.seeds[place]):
            raise StudyError(f"{shown(path)} holds a model of another kind or seed than its path says: {remedy}")
        return content

    @functools.cached_property
    def models(self) -> list[CNN]:
        """The N CNNs, on the CPU, in evaluation mode."""
        return [model_of(self.content(place)["state"]).cpu() for place in range(len(self))]

    @functools.cached_property
    def records(self) -> list[dict]:
        return [self.content(place)["record"] for place in range(len(self))]


def _whole(content: dict, channels: int) -> bool:
    """Whether a model's file holds weights, and what else is read of it, in the form in which it was stored."""
    try:
        form = {name: weights.shape for name, weights in content["state"].items()}
        measured = content["record"]["seconds"] + content["record"]["samples"] + 0.0
    except (AttributeError, KeyError, TypeError):
        return False
    return form == _form(channels) and isinstance(measured, float) and isinstance(content["made"], dict)


@functools.cache
def _form(channels: int) -> dict[str, torch.Size]:
    return {name: weights.shape for name, weights in new_model(channels, 0).state_dict().items()}


def baseline(name: str, task: Task, n: int, stored: bool, first: int = 0) -> Ensemble:
    """The "untrained", "trained" or "retrained" ensemble of n models, with the seeds from `first` on; "again": the n
    retrained models that follow the first n.

    stored: True finds it (StudyError if fewer than n are stored), False computes and stores what is missing.
    """
    check_count(n)
    check_stored(stored)
    kind = baseline_kind(name, task)
    arguments = {"make": make_baseline, "arguments": lambda seed: (name, task, RECIPE, seed)}
    first = first or seeds_of(name, n).start
    return gather(kind, task, n, stored, **arguments, samples=samples_of(name, task), first=first)


def seeds_of(kind: str, n: int) -> range:
    """The seeds of n models of a kind."""
    return range(n, 2 * n) if kind == AGAIN else range(n)


def samples_of(name: str, task: Task, recipe: Recipe = RECIPE) -> int:
    """How many samples one model of a baseline is trained on."""
    n = {"untrained": 0, "trained": len(task.data.train)}.get(name, int((~task.forget["train"]).sum()))
    return recipe.steps(n) * min(recipe.batch_size, n)


def make_baseline(name: str, task: Task, recipe: Recipe, seed: int) -> WeightsAndRecord:
    """One model of a baseline."""
    if name == "untrained":
        return state_of(new_model(task.data.channels, seed)), {"seconds": 0.0, "samples": 0}
    images, labels = training_set(name, task)
    with Stopwatch() as watch:
        model = train(images, labels, recipe, seed)
    return state_of(model), {"seconds": watch.seconds, "samples": samples_of(name, task, recipe)}


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
    """The model with these weights, on the device, ready for use, not for training."""
    model = new_model(state["conv1.weight"].shape[1], 0)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).to(pick_device())


def baseline_kind(name: str, task: Task) -> Kind:
    """Only retrained models depend on what is to be forgotten: the others serve every request."""
    if name == AGAIN:
        return replace(baseline_kind("retrained", task), name=AGAIN, title=BASELINES[AGAIN])
    seen = task.fingerprint if name == "retrained" else [task.data.name, task.data.source, task.data.digest]
    code = code_fingerprint("helpers.data.dataset", "helpers.models.cnn", "helpers.models.training")
    identity = fingerprint([name, asdict(RECIPE), seen, code])
    place = task.folder if name == "retrained" else EVERY_REQUEST
    return Kind(name, BASELINES[name], asdict(RECIPE), identity, kind_folder(task, place, name, identity))


def kind_folder(task: Task, place: str, name: str, identity: str) -> Path:
    """data/models/<data set>/<place>/<name>-<identity>; place: the request's folder, or `every-request`."""
    return MODELS / task.data.name / place / f"{name}-{identity}"


def made_by(task: Task) -> dict:
    """What made a model, beside its seed and settings: recipe, data, forget set, device and versions."""
    return {
        "recipe": asdict(RECIPE),
        "source": task.data.source,
        "forget": task.request.name,
        "task": task.fingerprint,
        "device": describe(pick_device()),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def check_count(n: int) -> None:
    """StudyError unless n is a whole number from FEWEST_MODELS up."""
    if isinstance(n, bool) or not isinstance(n, int) or n < FEWEST_MODELS:
        raise StudyError(
            f"N_MODELS must be a whole number from {FEWEST_MODELS} up, for example 10, not {n!r}: models of different "
            "seeds are compared with each other."
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
    make: Callable[..., WeightsAndRecord],
    arguments: Callable[[int], tuple],
    samples: float,
    first: int = 0,
) -> Ensemble:
    """The n models of a kind with the seeds from `first` on; where `stored` is False, those that are missing are made
    and stored, by one process at a time.

    make: a function of a module, (*arguments(seed)) -> weights, record; other processes call it. This one writes the
    files. samples: about so many that one model is trained on, for the bar."""
    ensemble = Ensemble(kind, task, range(first, first + n))
    if not missing_of(ensemble):
        return ensemble
    if stored:
        raise StudyError(_not_stored(ensemble))
    with locked(kind.folder):
        missing = missing_of(ensemble)  # another process may have made them meanwhile
        made = {"kind": kind.name, "settings": kind.settings} | made_by(task)
        jobs = ((seed, arguments(seed)) for seed in missing)
        with (
            progress([making(len(missing), samples)]),
            closing(compute(make, jobs)) as found,  # stops the workers also where storing a model fails
        ):
            advance(f"{kind.title}: {n - len(missing)} of {n} models made", making(0, samples))
            for done, (seed, (state, record)) in enumerate(found, n - len(missing) + 1):
                content = {"identity": kind.identity, "seed": seed, "made": made, "state": state, "record": record}
                if not all(bool(weights.isfinite().all()) for weights in state.values()):
                    tqdm.write(f"{kind.title}: model {seed} diverged, its weights are not finite.")
                _drop_results(kind, seed)
                save_torch(kind.path(seed), content)
                advance(f"{kind.title}: {done} of {n} models made", making(1, samples))
    return_memory()
    return ensemble


def _drop_results(kind: Kind, seed: int) -> None:
    """Deletes what was computed from a model that was deleted and is made anew."""
    for path in list(kind.folder.rglob("*.*")):
        of_one = re.fullmatch(r"(\d+)-(logits|probes)-.+", path.name)
        of_all = re.fullmatch(r"measures-(\d+)-(\d+)-.+", path.name)
        if (of_one and int(of_one[1]) == seed) or (of_all and int(of_all[1]) <= seed < int(of_all[2])):
            path.unlink()


def missing_of(ensemble: Ensemble) -> list[int]:
    """The seeds of the models that are not stored."""
    return [seed for seed in ensemble.seeds if not there(ensemble.kind.path(seed))]


def _not_stored(ensemble: Ensemble) -> str:
    kind, task, n = ensemble.kind, ensemble.task, len(ensemble)
    found = n - len(missing_of(ensemble))
    others = [p for p in kind.folder.parent.glob(f"{kind.name}-*") if p != kind.folder and any(p.glob("*.pt"))]
    remedy = f"run {kind.notebook} with ALLREADY_TRAINED = False and N_MODELS = {n}"
    if found:
        return f"Only {found} of {n} {kind.title} models are stored for {task.data.name}: {remedy}, or lower N_MODELS."
    if others:
        return (
            f"The {kind.title} models stored for {task.data.name} were made with another recipe, forget set, data "
            f"source, settings or code than the present ones ({shown(others[0])}): {remedy}."
        )
    return f"No {kind.title} models are stored for {task.data.name}, forgotten: {task.request.name}: {remedy}."
