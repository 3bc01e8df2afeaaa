"""The results frame: one tidy pandas DataFrame, one value per row (Wickham 2014, Tidy Data).

| column | what it holds |
|---|---|
| dataset, forget | "mnist", ...; the request, "crossbar", "class 7", ... |
| kind | "untrained", "trained", "retrained", a method, or "null": the null distribution, retrained against retrained |
| seed | of the model; empty for a measure of an ensemble as a whole |
| split | "train" or "test"; empty where a measure has none |
| subset | of that split, as `Task.subsets` names them; "forget_red", ...; "memorised": worst cases |
| measure | `MEASURES` below; accuracies and shares from 0 to 1, losses and divergences in nats |
| at | what else a measure is of: a layer, a predicted class, a phase, a quantile, another kind; else empty |
| step | of a curve; or which of the random draws of halves, for a measure of an ensemble; else empty |
| value | the number |
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from helpers.data.task import Task
from helpers.files import DATA
from helpers.sizes import SIZES

RESULTS = DATA / "results"
COLUMNS = dict.fromkeys(("dataset", "forget", "kind"), "str") | {"seed": "Int64"}
COLUMNS |= dict.fromkeys(("split", "subset", "measure", "at"), "str") | {"step": "Int64", "value": "float64"}


@dataclass(frozen=True)
class Measure:
    """title and unit: for readers; aim: what is best, "retrained" for the value that retrained models have;
    scale, digits: how it is printed; drawn: one value per random draw of halves, not per model."""

    title: str
    unit: str
    aim: str = "retrained"
    scale: float = 1.0
    digits: int = 3
    drawn: bool = False


MEASURES = {
    "accuracy": Measure("accuracy", "%", scale=100, digits=2),
    "loss": Measure("mean cross-entropy", "nats"),
    "predicted": Measure("predictions", "% of the samples, per class", scale=100, digits=1),
    "kl": Measure("KL(retrained || kind)", "nats"),
    "kl_gap": Measure("KL gap closed", "%", "100", 100, 1),
    "energy": Measure("energy distance to retrained", "0 to 2.8", "0", digits=3),
    "energy_gap": Measure("energy gap closed", "%", "100", 100, 1),
    "weight_distance": Measure("L2 distance of the weights from the trained model", ""),
    "activation_change": Measure("mean absolute change of the activations from the trained model", ""),
    "seconds": Measure("wall time of one model", "s", "", digits=2),
    "samples": Measure("samples forward and backward through the classifier", "", "", digits=0),
    "samples_share": Measure("samples, of those that retraining sees", "%", "", 100, 1),
    "curve": Measure("cross-entropy while unlearning, mean over the models", "nats", ""),
    "tow": Measure("tug of war (ToW)", "1 is best", "1"),
    "average_gap": Measure("average gap", "points", "0", 100, 2),
    "activation_distance": Measure("distance of the softmax outputs from retrained ones", ""),
    "js": Measure("Jensen-Shannon divergence from retrained", "nats"),
    "loss_attack": Measure("loss attack", "AUC"),
    "u_lira": Measure("U-LiRA, told from retrained", "accuracy, 0.5 is best", drawn=True),
    "u_lira_tpr": Measure("U-LiRA, true positives at a rate of false ones", "share", drawn=True),
    "klom": Measure("KLoM against retrained", "nats", digits=2, drawn=True),
    "excess": Measure("loss above retrained's", "standard deviations of retrained", "0", digits=1, drawn=True),
    "beyond": Measure("samples lost beyond every retrained model", "share", drawn=True),
    "resurgence": Measure(
        f"accuracy after {SIZES.resurgence_steps} steps on retained samples alone", "%", scale=100, digits=1
    ),
    "relearn_steps": Measure("relearn time", "steps", digits=1),
    "probe": Measure("linear probe for what was forgotten", "balanced accuracy"),
    "loss_quantile": Measure("loss over the samples, mean over the models", "nats"),
    "margin_quantile": Measure("confidence over the samples, mean over the models", "log p - log(1 - p)"),
    "kl_pair": Measure("KL(at || kind)", "nats", ""),
}


class Rows:
    """Collects rows of one kind and makes a frame of them."""

    def __init__(self):
        self.rows = []

    def add(self, measure: str, values, split: str = "", subset: str = "", at: str = "", by: str = "seed") -> None:
        """values: [N], one per model (by="seed"), per draw or step (by="step"), or one number (by="")."""
        for place, value in enumerate(np.atleast_1d(np.asarray(values, float))):
            seed, step = (place if by == column else pd.NA for column in ("seed", "step"))
            self.rows.append((seed, split, subset, measure, at, step, float(value)))

    def frame(self, task: Task, kind: str) -> pd.DataFrame:
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
    """The values of one kind, in the order of seeds or draws: [N]; empty where it was not measured."""
    rows = (results.measure.to_numpy() == measure).nonzero()[0]  # by numpy, since tables ask thousands of times
    for column, wanted in {"kind": kind, "split": split, "subset": subset, "at": at}.items():
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
    own, whole = values(results, kind, "seconds"), values(results, "retrained", "seconds")
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
