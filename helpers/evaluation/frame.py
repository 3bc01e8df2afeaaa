"""The results frame: one tidy pandas DataFrame, one value per row (Wickham 2014, Tidy Data).

| column | what it holds |
|---|---|
| dataset, forget | "mnist", ...; the request, "crossbar", "class 7", ... |
| kind | "untrained", "trained", "retrained", a method, or "null": the null distribution, retrained against retrained |
| seed | of the model; empty for a measure of an ensemble as a whole |
| split | "train" or "test"; empty where a measure has none |
| subset | of that split, as `Task.subsets` names them; "forget_red", ...; "memorised": worst cases |
| measure | `MEASURES` in `measures.py`; accuracies and shares from 0 to 1, losses and divergences in nats |
| at | what else it is of: a layer, a class, a phase, a quantile, of `seconds` the machine; else empty |
| step | of a curve; or which of the random draws of halves, for a measure of an ensemble; else empty |
| value | the number |
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from helpers.data.task import Task
from helpers.files import DATA

RESULTS = DATA / "results"
COLUMNS = dict.fromkeys(("dataset", "forget", "kind"), "str") | {"seed": "Int64"}
COLUMNS |= dict.fromkeys(("split", "subset", "measure", "at"), "str") | {"step": "Int64", "value": "float64"}


class Rows:
    """Collects rows of one kind and makes a frame of them."""

    def __init__(self):
        self.rows = []

    def add(self, measure: str, values, split="", subset="", at: str | list[str] = "", by="seed") -> None:
        """values: [N], one per model (by="seed"), per draw or step (by="step"), or one number (by=""); at: of all, or
        one per value."""
        values = np.atleast_1d(np.asarray(values, float))
        places = [at] * len(values) if isinstance(at, str) else at
        for place, (value, at) in enumerate(zip(values, places, strict=True)):
            seed, step = (place if by == column else pd.NA for column in ("seed", "step"))
            self.rows.append((seed, split, subset, measure, at, step, float(value)))

    def frame(self, task: Task, kind: str) -> pd.DataFrame:
        """The rows as a results frame."""
        columns = ["seed", "split", "subset", "measure", "at", "step", "value"]
        found = pd.DataFrame(self.rows, columns=columns)
        return found.assign(dataset=task.data.name, forget=task.request.name, kind=kind)[list(COLUMNS)].astype(COLUMNS)


def results_folder(task: Task) -> Path:
    """data/results/<dataset>/<request>/"""
    return RESULTS / task.data.name / task.folder


def select(results: pd.DataFrame, measure: str, split="", subset="", at="", kinds=None) -> pd.DataFrame:
    """The rows of one measure; kinds: these alone, in this order. A split or subset of None takes all."""
    found = results[results.measure == measure]
    for column, wanted in (("split", split), ("subset", subset), ("at", at)):
        if wanted is not None:
            found = found[found[column] == wanted]
    if kinds is None:
        return found
    order = {kind: place for place, kind in enumerate(kinds)}
    return found[found.kind.isin(order)].sort_values("kind", key=lambda kind: kind.map(order), kind="stable")


def values(results: pd.DataFrame, kind: str, measure: str, split="", subset="", at="") -> np.ndarray:
    """The values of one kind, in the order of seeds or draws: [N]; empty where it was not measured. at: None takes
    all."""
    rows = (results.measure.to_numpy() == measure).nonzero()[0]  # by numpy, since tables ask thousands of times
    wanted_of = {"kind": kind, "split": split, "subset": subset} | ({} if at is None else {"at": at})
    for column, wanted in wanted_of.items():
        rows = rows[results[column].to_numpy()[rows] == wanted]
    return results.value.to_numpy()[rows]


def headline(results: pd.DataFrame) -> str:
    """The split on whose forget set the main numbers are: "test" where it has samples of the kind that was forgotten,
    else "train"."""
    tested = (results.measure == "accuracy") & (results.split == "test") & (results.subset == "forget")
    return "test" if tested.any() else "train"


def mean(results: pd.DataFrame, kind: str, measure: str, split="", subset="", at="") -> float:
    """The mean over the models or draws; nan where it was not measured."""
    found = values(results, kind, measure, split, subset, at)
    return float(found.mean()) if len(found) else np.nan


def time_share(results: pd.DataFrame, kind: str) -> float:
    """Seconds of one model of a kind over those of one retrained model, medians over the models (the first model of a
    process takes longer); nan where these took none."""
    own, whole = (values(results, name, "seconds", at=None) for name in (kind, "retrained"))
    return float(np.median(own) / np.median(whole)) if len(own) and len(whole) and np.median(whole) else np.nan


def interval(sample) -> tuple[float, float]:
    """95 % interval for the mean over models (percentile bootstrap, 9,999 draws, seed 0): [N] -> (low, high).

    For two methods on the same trained models pass the differences: the interval is then a paired one.
    """
    sample = np.asarray(sample, float)
    sample = sample[np.isfinite(sample)]
    if len(sample) < 2:
        return (sample[0], sample[0]) if len(sample) else (np.nan, np.nan)
    found = bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def null_of(results: pd.DataFrame, measure: str, split="", subset="", at="") -> tuple[float, float]:
    """95 % of the null distribution (retrained against retrained); where none is stored, the interval of the retrained
    models' mean."""
    draws = values(results, "null", measure, split, subset, at)
    draws = draws[np.isfinite(draws)]
    if len(draws):
        return tuple(np.quantile(draws, [0.025, 0.975]).tolist())
    return interval(values(results, "retrained", measure, split, subset, at))


def forgets_more(results: pd.DataFrame, kind: str) -> bool:
    """True where a kind's mean loss on the forget training set exceeds that of retrained models by more than two of
    their standard deviations: over-unlearning, which singles the forgotten samples out (Streisand)."""
    usual = values(results, "retrained", "loss", "train", "forget")
    spread = usual.std(ddof=1) if len(usual) > 1 else np.inf
    return bool(mean(results, kind, "loss", "train", "forget") > usual.mean() + 2 * spread)
