"""The results frame: one tidy pandas DataFrame, one value per row (Wickham 2014, Tidy Data).

| column | what it holds |
|---|---|
| dataset, forget | "mnist", ...; the request, "crossbar", "class 7", ... |
| kind | "untrained", "trained", "retrained", "again" (as many more retrained models), a method, or "null": the null
distribution (`nulls.py`) |
| seed | of the model (of "again" minus N); empty for a measure of an ensemble as a whole |
| split | "train" or "test"; empty where a measure has none |
| subset | of that split, as `Task.subsets` names them; "forget_red", ...; "memorised": worst cases |
| measure | `MEASURES` in `measures.py`; accuracies and shares from 0 to 1, losses and divergences in nats; with
"_without" at the end: the mean without the models of that seed, for intervals |
| at | what else it is of: a layer, a class, a phase, a quantile, of `seconds` the machine; else empty |
| step | of a curve; or which of the random draws of halves, for a measure of an ensemble; else empty |
| value | the number |
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, norm, t, ttest_ind

from helpers.data.task import Task
from helpers.evaluation.measures import MEASURES
from helpers.files import DATA, StudyError, load_frame

RESULTS = DATA / "results"
WITHOUT = "_without"  # at the end of a measure's name: its mean without the models of that seed
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


def read_results(path: str | Path) -> pd.DataFrame:
    """A stored results frame: measures.csv.gz of a release, measures.csv of a run."""
    return load_frame(Path(path), COLUMNS, "give the path of a file that `make study` or `make release` wrote.")


def ask(results: pd.DataFrame, measure: str, split="", subset="", at="") -> pd.DataFrame:
    """The mean of a measure over the models or draws: a row per kind, a column per data set and request.

    It is never taken over splits, subsets, layers or quantiles: StudyError where these are left out, with those that
    there are, and for a measure that the frame has not."""
    if list(getattr(results, "columns", ())) != list(COLUMNS) or results.empty or results["at"].isna().any():
        raise StudyError("That is no results frame with all its columns: read it by `read_results(path)`.")
    every = select(results, measure, None, None, None)
    if every.empty or measure.endswith(WITHOUT):
        raise StudyError(_not_there(results, measure))
    places = every[["split", "subset", "at"]].drop_duplicates().to_numpy().tolist()
    if measure == "curve" or [split, subset, at] not in places:
        told = "; ".join(", ".join(repr(word) for word in place) for place in places[:30])
        told += "; and others" * (len(places) > 30)
        why = "has one value per step: use select" if measure == "curve" else "has no such rows"
        raise StudyError(f"{measure} {why}, with split, subset and at as one of: {told}.")
    found = select(every, measure, split, subset, at)
    return found.pivot_table("value", "kind", ["dataset", "forget"], "mean", dropna=False, sort=False)


def _not_there(results: pd.DataFrame, measure: str) -> str:
    if measure in MEASURES:
        least = MEASURES[measure].least
        return f"{measure} was not measured{f': it needs {least} models of each kind' * (least > 1)}."
    names = sorted(name for name in set(results.measure) if not name.endswith(WITHOUT))
    near = difflib.get_close_matches(str(measure), names, 1, 0.4) or names
    return f"The frame has no measure {measure!r}: did you mean {near[0]!r}?"


def select(results: pd.DataFrame, measure: str, split="", subset="", at="", kinds=None) -> pd.DataFrame:
    """The rows of one measure; kinds: these alone, in this order. None takes every split, subset or `at`."""
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
    """The mean over the models or draws that have a finite value; nan where it was not measured."""
    found = values(results, kind, measure, split, subset, at)
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else np.nan


def time_share(results: pd.DataFrame, kind: str) -> float:
    """Seconds of one model of a kind over those of one retrained model, medians over the models (the first model of a
    process takes longer); nan where these took none, or were made on other machines."""
    own, whole = (select(results, "seconds", at=None, kinds=[name]) for name in (kind, "retrained"))
    machines = set(own["at"]) & set(whole["at"])
    own, whole = (each[each["at"].isin(machines)].value for each in (own, whole))
    return float(np.median(own) / np.median(whole)) if len(own) and len(whole) and np.median(whole) else np.nan


def interval(sample, of: Callable = np.mean) -> tuple[float, float]:
    """95 % interval for the mean over models, or another statistic in its place (percentile bootstrap, 9,999 draws,
    seed 0): [N] -> (low, high)."""
    sample = np.asarray(sample, float)
    sample = sample[np.isfinite(sample)]
    if len(sample) < 2:
        return (sample[0], sample[0]) if len(sample) else (np.nan, np.nan)
    found = bootstrap((sample,), of, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Estimate:
    """A mean over N models with its 95 % interval; p: two-sided, of 0."""

    mean: float
    low: float
    high: float
    p: float = np.nan


def estimate(results: pd.DataFrame, kind: str, measure: str, split="", subset="", at="") -> Estimate:
    """Of distances to retrained models and gaps closed by the jackknife over seeds, with the retrained models and the
    ceiling recomputed; of other measures by the t distribution over models."""
    found = values(results, kind, measure, split, subset, at)
    left = values(results, kind, measure + WITHOUT, split, subset, at)
    if len(left) > 2 and np.isfinite(left).all():
        return jackknife(float(found.mean()), left)
    found = found[np.isfinite(found)]
    return t_estimate(found) if len(found) else Estimate(np.nan, np.nan, np.nan)


def difference(results: pd.DataFrame, a: str, b: str, measure: str, split="", subset="", at="") -> Estimate:
    """Kind a minus kind b, paired by seed: by the jackknife where there is one, else by the t distribution of the
    differences between models of one seed."""
    found = [values(results, kind, measure, split, subset, at) for kind in (a, b)]
    left = [values(results, kind, measure + WITHOUT, split, subset, at) for kind in (a, b)]
    if not all(len(each) for each in found):
        return Estimate(np.nan, np.nan, np.nan)
    if len(left[0]) == len(left[1]) > 2 and np.isfinite(left).all():
        return jackknife(float(found[0].mean() - found[1].mean()), left[0] - left[1])
    return t_estimate(found[0] - found[1])


def jackknife(full: float, left: np.ndarray) -> Estimate:
    """Of a statistic whose value is `full`, and left[s] without the models of seed s: [N] (Efron and Stein 1981, "The
    jackknife estimate of variance", Ann. Statist. 9)."""
    n = len(left)
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    return _with_t(full, error, n)


def t_estimate(sample: np.ndarray) -> Estimate:
    """Of the mean of independent values: [N]."""
    n = len(sample)
    return _with_t(float(sample.mean()), float(sample.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan, n)


def _with_t(full: float, error: float, n: int) -> Estimate:
    half = t.ppf(0.975, n - 1) * error if n > 1 else np.nan
    p = 2 * t.sf(abs(full) / error, n - 1) if error > 0 else float(full == 0)
    return Estimate(full, full - half, full + half, float(p) if np.isfinite(full + error) else np.nan)


def holm(ps: list[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979, Scand. J. Statist. 6), in the given order."""
    order, adjusted, largest = np.argsort(ps), [np.nan] * len(ps), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted


def null_of(results: pd.DataFrame, measure: str, split="", subset="", at="") -> tuple[float, float]:
    """95 % of the null distribution; where none is stored, the interval of the retrained models' mean.

    The splits of a pool of 2N models vary as little as that sample does: as for a t-test, the range is widened by the
    ratio of the quantiles of t with 2N - 2 degrees of freedom and of the normal distribution, where a measure needs
    that room (`Measure.room`)."""
    draws = values(results, "null", measure, split, subset, at)
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return interval(values(results, "retrained", measure, split, subset, at))
    retrained = results[results.kind == "retrained"]  # of the probes fewer models than of the rest
    n = retrained.seed[retrained.measure == measure].nunique() or retrained.seed.nunique()
    centre, wider = np.median(draws), t.ppf(0.975, max(1, 2 * n - 2)) / norm.ppf(0.975)
    wider = wider if measure not in MEASURES or MEASURES[measure].room else 1.0
    ends = np.quantile(draws, [0.025, 0.975], method="weibull")  # beyond which 5 % of further draws lie
    low, high = (centre + wider * (end - centre) for end in ends)
    return float(low), float(high)


def forgets_more(results: pd.DataFrame, kind: str) -> bool:
    """True where a kind's mean loss on the forget training set exceeds that of retrained models by Welch's t-test
    (one-sided, 2.5 %; the spread of the kind's own models counts too): over-unlearning, which singles the forgotten
    samples out (Streisand). Models that diverged do not count."""
    own, usual = (values(results, name, "loss", "train", "forget") for name in (kind, "retrained"))
    lost = values(results, kind, "diverged", "train", "forget")
    own = own[lost == 0] if len(lost) == len(own) else own
    if len(own) < 2 or len(usual) < 2:
        return False
    if not own.std() + usual.std() > 0:
        return bool(own.mean() > usual.mean())
    return bool(ttest_ind(own, usual, equal_var=False, alternative="greater").pvalue < 0.025)


def diverged(results: pd.DataFrame, kind: str) -> int:
    """How many models of a kind diverged."""
    return int(values(results, kind, "diverged", "train", "forget").sum())
