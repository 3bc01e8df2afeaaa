"""Measures ensembles: `evaluate` what a notebook shows, `load_results` what was stored before. Both return the results
frame.

The frame of a kind lies in data/results/<dataset>/<request>/frames/, under a name made of everything that decides what
is in it: the models, the trained and retrained models beside them, their number, the device and the code that measures.
So stored values are never mixed with those of other models or code.
"""

import functools
import sys
from pathlib import Path

import pandas as pd
import torch

from helpers.data.task import NAMES, Task
from helpers.device import describe, pick_device, return_memory
from helpers.evaluation.distances import (
    accuracy,
    activation_change,
    cross_entropies,
    energy_distances,
    gap_closed,
    kl_per_model,
    predicted_shares,
    weight_distance,
)
from helpers.evaluation.frame import COLUMNS, Rows, results_folder
from helpers.evaluation.logits import logits_of, parts_of
from helpers.files import StudyError, code_fingerprint, fingerprint, load_frame, save_frame, shown, there
from helpers.models.cnn import LAYERS
from helpers.models.ensembles import BASELINES, Ensemble, Kind, baseline
from helpers.unlearning import FRONTIER, METHODS, OURS, kind_of

ACTIVATION_SAMPLE = 500  # test samples on which activations are compared
KL_PARTS = (("test", "forget"), ("train", "forget"), ("test", "neighbours"), ("test", "retain"), ("test", "all"))
ENERGY_PARTS = KL_PARTS[:3]
DISTANCES = {"kl": lambda models, oracle: kl_per_model(oracle, models), "energy": energy_distances}


def evaluate(task: Task, *ensembles: Ensemble) -> pd.DataFrame:
    """Measures every given ensemble beside the stored trained and retrained ones; what is stored is not measured again.

    Returns the frame: the baselines first, then the given ones.
    """
    n = len(ensembles[0])
    given = {ensemble.kind.name: ensemble for ensemble in ensembles}
    every = {name: given.get(name) or baseline(name, task, n, stored=True) for name in BASELINES} | given
    frames = []

    @functools.lru_cache(3)  # trained, retrained and the one that is measured
    def parts(name: str) -> dict:
        return parts_of(task, logits_of(every[name], task))

    @functools.cache
    def ends(measure: str, part: tuple[str, str]) -> tuple[float, float]:
        """Floor and ceiling: the distance of retrained models from each other, and of trained ones from them."""
        oracle, before = (parts(name)[part][0] for name in ("retrained", "trained"))
        floor = DISTANCES[measure](oracle, oracle).mean() if measure == "kl" else 0.0
        return floor, DISTANCES[measure](before, oracle).mean()

    for name, ensemble in every.items():
        path = frame_path(task, ensemble.kind, n)
        if not there(path):
            rows = Rows()
            _measure_outputs(rows, parts(name))
            for measure, distance in DISTANCES.items():
                for part in (part for part in (KL_PARTS if measure == "kl" else ENERGY_PARTS) if part in parts(name)):
                    found = distance(parts(name)[part][0], parts("retrained")[part][0])
                    rows.add(measure, found, *part)
                    rows.add(f"{measure}_gap", gap_closed(found, *ends(measure, part)), *part)
            _measure_models(rows, ensemble, every["trained"], task.data.test.images[:ACTIVATION_SAMPLE])
            save_frame(path, rows.frame(task, name))
        frames.append(read_frame(path, name))
    return_memory()
    return with_shares(pd.concat(frames, ignore_index=True))


def frame_path(task: Task, kind: Kind, n: int, what: str = "", code: str = "") -> Path:
    """Where the frame of a kind lies; what: "" for a notebook's measures, or another word for others."""
    ends = [kind_of(name, task).identity for name in ("trained", "retrained")]
    key = fingerprint([kind.identity, ends, n, describe(pick_device()), code or _code()])
    return results_folder(task) / "frames" / f"{what}{kind.name}-{n}-{key}.csv.gz"


def read_frame(path: Path, kind: str = "", remedy: str = "delete this file and run the cell again.") -> pd.DataFrame:
    """A stored frame; StudyError with the remedy where it is damaged or, if a kind is given, is of another one."""
    found = load_frame(path, COLUMNS, remedy)
    if kind and not set(found.kind) <= {kind, "null"}:
        raise StudyError(f"{shown(path)} holds the measures of other models than its place says: {remedy}")
    return found


def _code() -> str:
    return code_fingerprint(sys.modules[__name__], follow="helpers.evaluation")


def _measure_outputs(rows: Rows, parts: dict) -> None:
    for (split, subset), (logits, labels) in parts.items():
        rows.add("accuracy", accuracy(logits, labels), split, subset)
        rows.add("loss", cross_entropies(logits, labels).mean(1), split, subset)
    split = "test" if ("test", "forget") in parts else "train"
    for number, shares in enumerate(predicted_shares(parts[split, "forget"][0]).T):
        rows.add("predicted", shares, split, "forget", str(number))


def _measure_models(rows: Rows, ensemble: Ensemble, trained: Ensemble, images: torch.Tensor) -> None:
    pairs = list(zip(ensemble.models, trained.models, strict=True))
    distances = [weight_distance(*pair) for pair in pairs]
    changes = [activation_change(*pair, images) for pair in pairs]
    for layer in (*LAYERS, "total"):
        rows.add("weight_distance", [each[layer] for each in distances], at=layer)
    for layer in LAYERS:
        rows.add("activation_change", [each[layer] for each in changes], "test", "all", layer)
    for measure in ("seconds", "samples"):
        rows.add(measure, [record[measure] for record in ensemble.records])
    curves = [record.get("curves", {}) for record in ensemble.records]
    for phase in curves[0]:
        rows.add("curve", torch.stack([each[phase] for each in curves]).mean(0), at=phase, by="step")


def with_shares(results: pd.DataFrame) -> pd.DataFrame:
    """Adds `samples_share`, which needs the retrained models beside the others."""
    samples = results[results.measure == "samples"]
    whole = samples[samples.kind == "retrained"].value.mean()
    share = samples.assign(measure="samples_share", value=samples.value / whole)
    return pd.concat([results, share], ignore_index=True)


def load_results(task: Task, n: int, required: tuple[str, ...] = ("retrained", *OURS)) -> pd.DataFrame:
    """The frame of all kinds whose measures are stored for n models, made and measured by the present code.

    Raises StudyError naming the notebook to run where a required kind is missing or is of other models or code.
    """
    found = []
    for name in (*BASELINES, *METHODS, *FRONTIER):
        kind = kind_of(name, task)
        path = frame_path(task, kind, n)
        if there(path):
            found.append(read_frame(path, name, f"delete this file and run {kind.notebook} again."))
        elif name in required:
            raise StudyError(_missing(task, kind, n))
    return with_shares(pd.concat(found, ignore_index=True))


def _missing(task: Task, kind: Kind, n: int) -> str:
    folder = results_folder(task)
    remedy = (
        f'run {kind.notebook} with USED_DATASET = "{task.data.name}", FORGET = "{task.request.name}" and '
        f"N_MODELS = {n} first."
    )
    where = f"{kind.title} on {NAMES[task.data.name]}"
    if any((folder / "frames").glob(f"{kind.name}-*")):
        return (
            f"The stored results of {where} are of another number of models, or of other settings, split or code: "
            f"{remedy}"
        )
    if there(folder / f"{kind.name}.json"):
        return f"The results in {shown(folder)} were written by version 1 of this repository: {remedy}"
    return f"There are no results of {where}: {remedy}"
