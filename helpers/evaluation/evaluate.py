"""From ensembles to the results frame: `measure`.

The measures of a kind lie beside its models, in one file for each number of models, which also notes the version of
each measure; those of another version are computed again, the others are kept. Where the test split has no samples of
the kind that is forgotten (a random part, a list without a test list), the measures on its forget set are left out, and
the loss attack takes held-out samples of the classes touched in their place. Where no sample of these classes is
retained, the measures on `neighbours` and the linear probe are left out.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.data.task import Task
from helpers.device import return_memory
from helpers.evaluation.distances import activation_change, gap_closed, weight_distance
from helpers.evaluation.frame import COLUMNS, Rows, select, values
from helpers.evaluation.logits import RETAIN_TRAIN_SAMPLE, Logits, logits_of, outputs_folder, parts_of
from helpers.evaluation.measures import FEWEST_FOR_ATTACKS, MEASURES, TRAIN, View, memorised
from helpers.evaluation.privacy import halves, margin
from helpers.evaluation.relearning import can_probe, forget_loss, linear_probe, relearn_steps, resurgence
from helpers.files import StudyError, fingerprint, load_frame, locked, save_frame, shown, there
from helpers.models.cnn import LAYERS
from helpers.models.ensembles import BASELINES, Ensemble, Kind, baseline, baseline_kind, model_of
from helpers.models.training import RECIPE
from helpers.parallel import compute
from helpers.progress import Work, advance, progress
from helpers.sizes import SIZES
from helpers.unlearning import FRONTIER

ACTIVATION_SAMPLE = 500  # test samples on which activations are compared
DRAWS = 200  # random draws behind the null distributions of paired measures and of single models
VERSION = "version"  # rows of a stored file: at = measure, value = its version
PROBES = [name for name, about in MEASURES.items() if about.compares == "probe"]
STORED = [name for name, about in MEASURES.items() if about.compares not in ("probe", "derived")]


def measure(task: Task, *ensembles: Ensemble, probes: bool = False, stored: bool = False) -> pd.DataFrame:
    """Measures the given ensembles, all of the same size, beside the stored baselines; what is stored is not measured
    again. probes: also the measures that train copies of the first models of each kind further, which takes longest;
    stored: True trains no copy (StudyError if one is missing).

    Returns the frame: the baselines first, then the given ones.
    """
    n = len(ensembles[0])
    given = {ensemble.kind.name: ensemble for ensemble in ensembles}
    every = {name: given.get(name) or baseline(name, task, n, stored=True) for name in BASELINES} | given
    with progress(to_measure(task, [ensemble.kind for ensemble in every.values()], n, probes)):
        if _lacking(task, every):
            _measure(task, every)
            return_memory()
            if left := _lacking(task, every):
                raise StudyError(f"Stored measures of {', '.join(left)} were deleted meanwhile: run the cell again.")
        frames = [_read(task, ensemble.kind, n)[0] for ensemble in every.values()]
        if probes:
            frames += _probe(task, {kind: every[kind] for kind in _probed(every)}, stored)
    return with_derived(pd.concat(frames, ignore_index=True))


def to_measure(task: Task, kinds: list[Kind], n: int, probes: bool) -> list[Work]:
    """The models whose measures are not stored."""
    named = {kind.name: kind for kind in kinds}
    found = [work for kind in kinds if _read(task, kind, n)[1] for work in (_outputs(task, n), _looks(task, n))]
    paths = _probe_paths(task, {name: named[name] for name in _probed(named)}, n) if probes else {}
    return found + [Work(1, _trains()) for path in paths.values() if not there(path)]


def _outputs(task: Task, n: int) -> Work:
    """Outputs of n models: a sample that only goes forward takes a third of the time."""
    return Work(n, (len(task.data.test) + len(task.forget_set("train")[1]) + RETAIN_TRAIN_SAMPLE) / 3)


def _looks(task: Task, n: int) -> Work:
    """The measures of n models' outputs take some twice as long as the outputs."""
    return Work(n, 2 * _outputs(task, n).samples)


def _trains() -> float:
    """Samples on which the probes train copies of one model: relearning mostly ends early, and most layers rest."""
    return RECIPE.batch_size * (SIZES.resurgence_steps + SIZES.relearn_steps) / 4


def _probed(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in kinds if kind != "untrained" and kind not in FRONTIER]


def measures_path(task: Task, kind: Kind, n: int) -> Path:
    """Where the measures of n models of a kind lie; its name has a key of the trained and retrained models compared
    with."""
    ends = [baseline_kind(name, task).identity for name in ("trained", "retrained")]
    return outputs_folder(kind, task) / f"measures-{n}-{fingerprint(ends)}.csv.gz"


def _read(task: Task, kind: Kind, n: int) -> tuple[pd.DataFrame, list[str]]:
    """The stored measures of a kind, and the names of those that it lacks in their present version."""
    path = measures_path(task, kind, n)
    if not there(path):
        return pd.DataFrame(columns=list(COLUMNS)), STORED
    found = _load(path, kind.name)
    versions = found[found.measure == VERSION].set_index("at").value
    lacking = [name for name in STORED if versions.get(name) != MEASURES[name].version]
    return found[~found.measure.isin([VERSION, *lacking])], lacking


def _load(path: Path, kind: str) -> pd.DataFrame:
    """A stored frame; StudyError where it is damaged or of another kind."""
    remedy = "delete this file and run the cell again."
    found = load_frame(path, COLUMNS, remedy)
    if not set(found.kind) <= {kind, "null"}:
        raise StudyError(f"{shown(path)} holds the measures of another kind than its path says: {remedy}")
    return found


def _lacking(task: Task, every: dict[str, Ensemble]) -> dict[str, list[str]]:
    """Kind -> names of the measures that are not stored in their present version; kinds that lack none are left out."""
    found = {name: _read(task, ensemble.kind, len(ensemble))[1] for name, ensemble in every.items()}
    return {name: names for name, names in found.items() if names}


def _measure(task: Task, every: dict[str, Ensemble]) -> None:
    """Computes and stores what each kind lacks."""
    for name in ("trained", "retrained", *_lacking(task, every)):
        logits_of(every[name], task)  # store now, load one kind at a time: all together need gigabytes
        advance(f"{every[name].kind.title}: outputs of {len(every[name])} models", _outputs(task, len(every[name])))
    known = {name: parts_of(task, logits_of(every[name], task)) for name in ("trained", "retrained")}
    worst = memorised(*(margin(*parts[TRAIN]) for parts in known.values()))
    retrained = View.of(known.pop("retrained"), worst)
    trained = [content["state"] for content in _contents(every["trained"])]
    with locked(outputs_folder(every["retrained"].kind, task) / "measures"):
        jobs = (
            (name, (task, name, names, logits_of(every[name], task), _contents(every[name]), worst, retrained, trained))
            for name, names in _lacking(task, every).items()  # another process may have measured some meanwhile
        )
        for name, found in compute(measure_one, jobs):
            kind, n = every[name].kind, len(every[name])
            advance(f"{kind.title}: {n} models measured", _looks(task, n))
            frames = [frame for frame in (_read(task, kind, n)[0], found) if len(frame)]
            _store(measures_path(task, kind, n), pd.concat(frames, ignore_index=True))


def _store(path: Path, frame: pd.DataFrame) -> None:
    with locked(path.parent):  # as everything that is written there
        save_frame(path, frame)


def _contents(ensemble: Ensemble) -> list[dict]:
    return [ensemble.content(place) for place in range(len(ensemble))]


def measure_one(
    task: Task,
    kind: str,
    names: list[str],
    logits: Logits,
    contents: list[dict],
    worst: np.ndarray,
    retrained: View,
    trained: list[dict],
) -> pd.DataFrame:
    """The named measures of one kind, from its outputs and the contents of its files, with the version of every
    measure; of "retrained" with null distributions. trained: weights of the trained models."""
    view = retrained if kind == "retrained" else View.of(parts_of(task, logits), worst)
    frames, rows = [compare(task, kind, view, retrained, names)], Rows()
    if any(MEASURES[name].compares == "weights" for name in names):
        of_models = _of_models(task, kind, contents, trained)
        frames.append(of_models[of_models.measure.isin(names)])
    for name in STORED:
        rows.add(VERSION, MEASURES[name].version, at=name, by="")
    return pd.concat([frame for frame in (*frames, rows.frame(task, kind)) if len(frame)], ignore_index=True)


def _of_models(task: Task, kind: str, contents: list[dict], trained: list[dict]) -> pd.DataFrame:
    """The measures of weights and of how the models were made."""
    rows, images = Rows(), task.data.test.images[:ACTIVATION_SAMPLE]
    pairs = [
        (model_of(content["state"]).cpu(), model_of(state).cpu())
        for content, state in zip(contents, trained, strict=True)
    ]
    distances = [weight_distance(*pair) for pair in pairs]
    changes = [activation_change(*pair, images) for pair in pairs]
    for layer in (*LAYERS, "total"):
        rows.add("weight_distance", [each[layer] for each in distances], at=layer)
    for layer in LAYERS:
        rows.add("activation_change", [each[layer] for each in changes], "test", "all", layer)
    records = [content["record"] for content in contents]
    rows.add("seconds", [each["seconds"] for each in records], at=[content["made"]["device"] for content in contents])
    rows.add("samples", [each["samples"] for each in records])
    for phase in records[0].get("curves", {}):
        curves = torch.stack([each["curves"][phase] for each in records])
        rows.add("curve", curves.mean(0), at=phase, by="step")
    return rows.frame(task, kind)


def compare(task: Task, kind: str, view: View, retrained: View, names: list[str] = STORED) -> pd.DataFrame:
    """The named measures of outputs of one kind; of "retrained" also their null distributions, as rows of kind
    "null"."""
    rows, null, n, random = Rows(), Rows(), len(retrained), np.random.default_rng(0)
    shifts = [np.roll(np.arange(n), -shift) for shift in (range(1, n) if kind == "retrained" else (1,))]
    chance = [_derangement(n, random) for _ in range(DRAWS)] if kind == "retrained" else []
    draws = list(halves(n)) if n >= FEWEST_FOR_ATTACKS else [(slice(None), slice(None))]  # all models against all
    for name in names:
        about = MEASURES[name]
        formula, here = about.formula, [part for part in about.parts or view.every_part if part in view.losses]
        for part in here if n >= about.least and formula else ():
            if about.compares == "pairs":
                found = np.mean([formula(view, retrained, partner, part) for partner in shifts], axis=0)
                null.add(name, [formula(view, retrained, at, part).mean() for at in chance], *part, by="step")
            elif about.compares == "halves":
                drawn = pd.DataFrame([_by_at(formula(view, retrained, a, b, part)) for a, b in draws])
                for target in (rows, null) if kind == "retrained" else (rows,):
                    for at in drawn:
                        target.add(name, drawn[at], *part, at, by="step")
                continue
            else:
                found = formula(view, *([retrained] if about.compares == "all pairs" else []), part)
                if about.null and kind == "retrained":
                    null.add(name, of_random_halves(found), *part, by="step")
            for at, values_of in _by_at(found).items():
                rows.add(name, values_of, *part, at, by="seed" if np.ndim(values_of) else "")
    frames = [rows.frame(task, kind), null.frame(task, "null")]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _by_at(found) -> dict:
    """What a formula gave, as a dictionary from `at` to values."""
    return found if isinstance(found, dict) else {"": found}


def of_random_halves(sample: np.ndarray) -> np.ndarray:
    """Means of random halves of the models (seed 0): [N] -> [DRAWS]."""
    random = np.random.default_rng(0)
    size = max(1, len(sample) // 2)
    return np.array([random.choice(sample, size, replace=False).mean() for _ in range(DRAWS)])


def _derangement(n: int, random: np.random.Generator) -> np.ndarray:
    """A random order in which no number stays at its place."""
    while True:
        order = random.permutation(n)
        if n < 2 or (order != np.arange(n)).all():
            return order


def _probe(task: Task, every: dict[str, Ensemble], stored: bool) -> list[pd.DataFrame]:
    """The probes of the first models of each kind, and their null distributions. One file per model: a killed process
    loses one."""
    paths = _probe_paths(task, {name: ensemble.kind for name, ensemble in every.items()}, len(every["trained"]))
    if not all(map(there, paths.values())):
        if stored:
            raise StudyError(
                "The probes train copies of the models, and some are missing: set ALLREADY_TRAINED = False."
            )
        missing = (at for at, path in paths.items() if not there(path))
        jobs = (
            (at, (task, every[at[0]].content(at[1])["state"], every["trained"].content(at[1])["state"], at[1]))
            for at in missing
        )
        with locked(outputs_folder(every["retrained"].kind, task) / "measures"):
            for (name, place), found in compute(probe, jobs):
                rows = Rows()
                for measured, split, value in found:
                    rows.add(measured, value, split, "forget", by="")
                advance(f"{every[name].kind.title}: copies of model {place} trained further", Work(1, _trains()))
                _store(paths[name, place], rows.frame(task, name).assign(seed=place).astype(COLUMNS))
    frame, rows = pd.concat([_load(path, name) for (name, _), path in paths.items()], ignore_index=True), Rows()
    for measured in PROBES:
        for split in ("train", "test"):
            mine = values(frame, "retrained", measured, split, "forget")
            if len(mine):
                rows.add(measured, of_random_halves(mine), split, "forget", by="step")
    return [frame, rows.frame(task, "null")]


def _probe_paths(task: Task, kinds: dict[str, Kind], n: int) -> dict[tuple[str, int], Path]:
    """Kind, place of the model -> where its probes lie, of the first few models."""
    versions, trained = [MEASURES[name].version for name in PROBES], baseline_kind("trained", task).identity
    key = fingerprint([versions, SIZES.relearn_steps, SIZES.resurgence_steps, trained])
    return {
        (name, place): outputs_folder(kind, task) / f"{place:03d}-probes-{key}.csv.gz"
        for place in range(min(SIZES.probed, n))
        for name, kind in kinds.items()
    }


def probe(task: Task, state: dict, trained: dict, seed: int) -> list[tuple[str, str, float]]:
    """Of the model with these weights (measure, split, value): resurgence; relearn time, up to the loss that the
    trained model has; balanced accuracy of the linear probe."""
    model = model_of(state).cpu()
    target = forget_loss(model_of(trained).cpu(), task)
    back = resurgence(model, task, RECIPE, seed, SIZES.resurgence_steps)
    found = [("resurgence", split, reached) for split, reached in back.items()]
    found += [("relearn_steps", "train", relearn_steps(model, task, target, RECIPE, seed, SIZES.relearn_steps))]
    return found + ([("probe", "test", linear_probe(model, task))] if can_probe(task) else [])


def with_derived(results: pd.DataFrame) -> pd.DataFrame:
    """Adds what follows from other measures: the gap closed in energy distance and in KL divergence, from the floor
    (retrained models; 0 for the energy distance) to the ceiling (trained ones), and `samples_share`."""
    frames = [results]
    for name in ("energy", "kl"):
        found = select(results, name, None, None)
        for _, part in found.groupby(["split", "subset"], sort=False):
            ceiling, floor = (part[part.kind == kind].value.to_numpy().mean() for kind in ("trained", "retrained"))
            closed = gap_closed(part.value, 0.0 if name == "energy" else floor, ceiling)
            frames.append(part.assign(measure=f"{name}_gap", value=closed))
    samples = results[results.measure == "samples"]
    whole = samples[samples.kind == "retrained"].value.mean()
    frames.append(samples.assign(measure="samples_share", value=samples.value / whole))
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
