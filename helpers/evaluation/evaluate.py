"""From ensembles to the results frame: `measure`.

The measures of a kind lie beside its models, in one file for each number of models, which also notes the version of
each measure; those of another version are computed again, the others are kept. Where the test split has no samples of
the kind that is forgotten (a random part, a list without a test list), the measures on its forget set are left out, and
the loss attack takes held-out samples of the classes touched in their place. Where no sample of these classes is
retained, the measures on `neighbours` and the linear probe are left out.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from helpers.data.task import Task
from helpers.device import return_memory
from helpers.evaluation.derived import FORGOTTEN, with_derived
from helpers.evaluation.distances import activation_change, weight_distance, without_each
from helpers.evaluation.frame import COLUMNS, WITHOUT, Rows
from helpers.evaluation.logits import RETAIN_TRAIN_SAMPLE, Logits, logits_of, outputs_folder, parts_of
from helpers.evaluation.measures import FEWEST_FOR_ATTACKS, MEASURES, TRAIN, Measure, View, memorised
from helpers.evaluation.nulls import by_at, null_draws, null_of_few, of_pairs
from helpers.evaluation.privacy import halves, margin
from helpers.evaluation.relearning import can_probe, forget_loss, linear_probe, relearn_steps, resurgence
from helpers.files import StudyError, fingerprint, load_frame, locked, save_frame, shown, there
from helpers.models.cnn import LAYERS
from helpers.models.ensembles import AGAIN, BASELINES, Ensemble, Kind, baseline, baseline_kind, model_of, seeds_of
from helpers.models.training import RECIPE
from helpers.parallel import compute
from helpers.progress import Work, advance, progress
from helpers.sizes import SIZES
from helpers.unlearning import FRONTIER

ACTIVATION_SAMPLE = 500  # test samples on which activations are compared
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
    return RECIPE.batch_size * SIZES.relearn_steps / 2


def _probed(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in kinds if kind != "untrained" and kind not in FRONTIER]


def measures_path(task: Task, kind: Kind, n: int) -> Path:
    """Where the measures of n models of a kind lie; its name has a key of the trained and retrained models compared
    with."""
    ends = [baseline_kind(name, task).identity for name in ("trained", "retrained")]
    seeds = seeds_of(kind.name, n)
    return outputs_folder(kind, task) / f"measures-{seeds.start}-{seeds.stop}-{fingerprint(ends)}.csv.gz"


def _read(task: Task, kind: Kind, n: int) -> tuple[pd.DataFrame, list[str]]:
    """The stored measures of a kind, and the names of those that it lacks in their present version."""
    path = measures_path(task, kind, n)
    if not there(path):
        return pd.DataFrame(columns=list(COLUMNS)), STORED
    found = _load(path, kind.name)
    versions = found[found.measure == VERSION].set_index("at").value
    lacking = [name for name in STORED if versions.get(name) != MEASURES[name].version]
    names = found.measure.str.removesuffix(WITHOUT)
    return found[~names.isin([VERSION, *lacking])], lacking


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
    for name in dict.fromkeys(("trained", "retrained", AGAIN, *_lacking(task, every))):
        outputs = logits_of(every[name], task)  # store now, load one kind at a time: all together need gigabytes
        _tell_diverged(every[name], outputs)
        advance(f"{every[name].kind.title}: outputs of {len(every[name])} models", _outputs(task, len(every[name])))
    trained_outputs = logits_of(every["trained"], task)
    known = {name: parts_of(task, logits_of(every[name], task)) for name in ("trained", "retrained", AGAIN)}
    of_trained, *of_retrained = (margin(*parts[TRAIN]) for parts in known.values())
    worst = memorised(of_trained, np.concatenate(of_retrained))
    retrained = View.of(known["retrained"], worst)
    del known
    trained = [content["state"] for content in _contents(every["trained"])]

    def arguments(name: str, names: list[str]) -> tuple:
        outputs = in_place_of(logits_of(every[name], task), trained_outputs, task)
        return task, name, names, outputs, _contents(every[name]), worst, retrained, trained

    with locked(outputs_folder(every["retrained"].kind, task) / "measures"):
        lacking = _lacking(task, every)  # another process may have measured some meanwhile
        ordered = sorted(lacking, key=lambda name: name != AGAIN)  # the longest first
        for name, found in compute(measure_one, ((name, arguments(name, lacking[name])) for name in ordered)):
            kind, n = every[name].kind, len(every[name])
            advance(f"{kind.title}: {n} models measured", _looks(task, n))
            frames = [frame for frame in (_read(task, kind, n)[0], found) if len(frame)]
            _store(measures_path(task, kind, n), pd.concat(frames, ignore_index=True))


def _tell_diverged(ensemble: Ensemble, outputs: Logits) -> None:
    """Names models that diverged; StudyError where everything is measured against them."""
    which = ", ".join(str(ensemble.seeds[place]) for place in outputs.diverged.nonzero()[0])
    if which and ensemble.kind.name in BASELINES:
        raise StudyError(
            f"{ensemble.kind.title} model {which} diverged: its outputs are not finite, and nothing can be measured "
            "against it. Train with a smaller peak_lr (helpers/models/training.py)."
        )
    if which:
        tqdm.write(f"{ensemble.kind.title}: model {which} diverged and counts as having forgotten nothing.")


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
    measure; of "again" with null distributions. trained: weights of the trained models."""
    view = retrained if kind == "retrained" else View.of(parts_of(task, logits), worst, logits.diverged)
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
    machines = [re.sub(r"\d+ threads, ", "", content["made"]["device"]) for content in contents]  # each ran on one
    rows.add("seconds", [each["seconds"] for each in records], at=machines)
    rows.add("samples", [each["samples"] for each in records])
    for phase in records[0].get("curves", {}):
        curves = torch.stack([each["curves"][phase] for each in records])
        curves[~curves.isfinite()] = np.nan  # of models that diverged
        rows.add("curve", curves.nanmean(0), at=phase, by="step")
    return rows.frame(task, kind)


def compare(task: Task, kind: str, view: View, retrained: View, names: list[str] = STORED) -> pd.DataFrame:
    """The named measures of outputs of one kind; of "again", the second set of retrained models, also their null
    distributions, as rows of kind "null"."""
    rows, null, n = Rows(), Rows(), len(retrained)
    halved = halves(n) if n >= FEWEST_FOR_ATTACKS else (np.arange(n)[None], np.arange(n)[None])  # all against all
    pool = retrained.joined(view) if kind == AGAIN else None
    for name in names:
        about = MEASURES[name]
        for part in (part for part in about.parts or view.every_part if part in view.losses):
            if n < about.least or not about.formula:
                continue
            if about.compares == "halves":
                for at, drawn in by_at(about.formula(view, retrained, *halved, part)).items():
                    rows.add(name, drawn, *part, at, by="step")
            else:
                for at, found in _values(about, view, retrained, part).items():
                    rows.add(name, found, *part, at, by="seed" if np.ndim(found) else "")
                if about.compares in ("all pairs", "energy"):
                    rows.add(f"{name}{WITHOUT}", _without_each(about, view, retrained, part), *part)
            if pool is not None and about.compared:
                for at, draws in null_draws(about, pool, part, halved).items():
                    null.add(name, draws, *part, at, by="step")
    frames = [rows.frame(task, kind), null.frame(task, "null")]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _values(about: Measure, view: View, retrained: View, part: tuple) -> dict:
    """`at` -> [N] or a number, of a measure with one value per model."""
    if about.compares in ("all pairs", "energy"):
        return {"": of_pairs(about, *_pairs(about, view, retrained, part))}
    return by_at(about.formula(view, part))


def _pairs(about: Measure, view: View, retrained: View, part: tuple) -> list[np.ndarray]:
    """What `of_pairs` takes: matrices of retrained models against the kind's; of the energy distance also within the
    kind and among retrained models."""
    against = [(retrained, view), (view, view), (retrained, retrained)][: 3 if about.compares == "energy" else 1]
    found = [about.formula(*each, part) for each in against]
    if about.compares == "energy" and part[1] in FORGOTTEN and view.diverged.any():  # in `derived.py` as trained ones
        found[0][:, view.diverged] = found[1][:, view.diverged] = found[1][view.diverged] = np.nan
    return found


def _without_each(about: Measure, view: View, retrained: View, part: tuple) -> np.ndarray:
    return without_each(functools.partial(of_pairs, about), *_pairs(about, view, retrained, part))


def in_place_of(logits: Logits, trained: Logits, task: Task) -> Logits:
    """Outputs in which a model that diverged has forgotten nothing and knows nothing else: on the forget set those of
    the trained model of the same seed, elsewhere those of a model that finds all classes equally likely (but for 1e-6,
    so that it does not always say class 0)."""
    if not logits.diverged.any():
        return logits
    forget, arrays = task.forget["test"].numpy(), (logits.test, logits.forget_train, logits.retain_train)
    test, forget_train, retain_train = (array.copy() for array in arrays)
    for model in logits.diverged.nonzero()[0]:
        for guesses in (test[model], retain_train[model]):
            guesses[:] = np.random.default_rng(0).normal(0, 1e-6, guesses.shape)
        forget_train[model], test[model, forget] = trained.forget_train[model], trained.test[model, forget]
    return replace(logits, test=test, forget_train=forget_train, retain_train=retain_train)


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
                for measured, split, at, value in found:
                    rows.add(measured, value, split, "forget", at, by="")
                advance(f"{every[name].kind.title}: copies of model {place} trained further", Work(1, _trains()))
                _store(paths[name, place], rows.frame(task, name))
    found = [_load(path, name).assign(seed=place) for (name, place), path in paths.items()]
    frame = pd.concat(found, ignore_index=True).astype(COLUMNS)
    return [frame, _null_of_probes(task, frame)]


def _null_of_probes(task: Task, frame: pd.DataFrame) -> pd.DataFrame:
    """The null distributions of the probes, over as many models as were probed of a method."""
    rows = Rows()
    pool = frame[frame.kind.isin(["retrained", AGAIN])]
    for (name, split, at), found in pool.groupby(["measure", "split", "at"], sort=False):
        both = [found[found.kind == kind].value.to_numpy() for kind in ("retrained", AGAIN)]
        of = np.median if MEASURES[name].median else np.mean
        n = min(SIZES.probed, len(both[0]))
        rows.add(name, null_of_few(np.concatenate(both), n, of), split, "forget", at, by="step")
    return rows.frame(task, "null")


def _probe_paths(task: Task, kinds: dict[str, Kind], n: int) -> dict[tuple[str, int], Path]:
    """Kind, place of the model -> where its probes lie, of the first few models."""
    versions, trained = [MEASURES[name].version for name in PROBES], baseline_kind("trained", task).identity
    key = fingerprint([versions, SIZES.relearn_steps, SIZES.resurgence, trained])
    return {
        (name, place): outputs_folder(kind, task)
        / f"{seeds_of(name, n)[place]:03d}-{_probes_of(name, place)}-{key}.csv.gz"
        for place in range(min(2 * SIZES.probed, n))  # of retrained models twice as many: for the null distribution
        for name, kind in kinds.items()
        if place < SIZES.probed or name in ("retrained", AGAIN)
    }


def _probes_of(name: str, place: int) -> str:
    """Retrained models and those retrained "again" lie in one folder; which of the two a seed is, and in which place,
    depends on N."""
    return f"probes-again-{place}" if name == AGAIN else "probes"


def probe(task: Task, state: dict, trained: dict, seed: int) -> list[tuple[str, str, str, float]]:
    """Of the model with these weights (measure, split, at, value): resurgence; relearn time, up to the loss that the
    trained model has, and whether it was given up; balanced accuracy of the linear probe."""
    if not all(bool(weights.isfinite().all()) for weights in state.values()):
        state = trained  # a model that diverged counts as having forgotten nothing
    model = model_of(state).cpu()
    target = forget_loss(model_of(trained).cpu(), task)
    back = resurgence(model, task, RECIPE, seed, SIZES.resurgence)
    found = [("resurgence", split, f"{passes:g}", reached) for passes, split, reached in back]
    steps = relearn_steps(model, task, target, RECIPE, seed, SIZES.relearn_steps)
    found += [("relearn_steps", "train", "", steps), ("relearn_given_up", "train", "", steps >= SIZES.relearn_steps)]
    return found + ([("probe", "test", "", linear_probe(model, task))] if can_probe(task) else [])
