"""Tables: selections of the results frame, pivoted and shown by pandas.

Each function returns a Styler: a notebook shows it, `.data` is the DataFrame behind it. Cells hold mean ± standard
deviation over the models.
"""

from dataclasses import asdict, fields

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from helpers.data.task import NAMES
from helpers.evaluation.frame import (
    WITHOUT,
    difference,
    diverged,
    estimate,
    forgets_more,
    headline,
    interval,
    mean,
    null_of,
    select,
    time_share,
    values,
)
from helpers.evaluation.measures import MEASURES, Measure
from helpers.models.ensembles import AGAIN, BASELINES
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, OURS, TITLES

NONE = "–"
FEWEST_FOR_VERDICTS = 6  # models: the spread of fewer says too little
IN_SHORT = (  # columns of the overview
    "distance to retrained models closed, %",
    "accuracy on the forgotten samples, %",
    "accuracy lost on the rest, points",
    "cost: samples, % of retraining",
)
PARTS = tuple(("test", subset) for subset in ("all", "retain", "neighbours", "forget")) + (("train", "forget"),)


def kinds_in(results: pd.DataFrame) -> list[str]:
    """The kinds of models in the frame: baselines first, then the methods in their order."""
    there = set(results.kind)
    return [kind for kind in (*BASELINES, *METHODS) if kind in there]


def spread(sample, scale: float = 1.0, digits: int = 2) -> str:
    """`mean ± standard deviation` over the models; a dash where nothing was measured. A share far below 0, of a method
    that makes confident mistakes, without its digits."""
    sample = scale * np.asarray(sample, float)
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return NONE
    if sample.mean() < -1000:
        return "below -1,000"
    deviation = sample.std(ddof=int(len(sample) > 1))
    return f"{round(sample.mean(), digits) + 0.0:.{digits}f} ± {deviation:.{digits}f}"  # + 0.0: no "-0.0"


def span(low: float, high: float, digits: int) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f}" if np.isfinite(low) else NONE


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """For a notebook, with a caption below."""
    return table.style.set_caption(caption).set_table_styles([{"selector": "caption", "props": "caption-side: bottom"}])


def central_range(draws: np.ndarray) -> tuple[float, float]:  # where 95 % of the draws lie
    return tuple(np.nanquantile(draws, [0.025, 0.975]).tolist())


def over(results: pd.DataFrame) -> str:
    """How many models a table is over, and a note where gap closed is undefined."""
    data, n = results.iloc[0], models_in(results)
    text = f"Mean ± standard deviation over {n} models; {NAMES[data.dataset]}, forgotten: {data.forget}."
    lost = {kind: diverged(results, kind) for kind in kinds_in(results)}
    text += "".join(f" {TITLES[kind]}: {k} of {n} diverged." for kind, k in lost.items() if k)
    if headline(results) == "train":
        text += " The test split has no samples of that kind: forget means the training split's."
    return f"{text} {no_gap(results)}".strip()


def models_in(results: pd.DataFrame) -> int:
    """How many models of each kind a frame is over."""
    return int(results.seed.max()) + 1


def no_gap(results: pd.DataFrame, subset: str = "forget", split: str = "") -> str:
    """A warning where the energy gap closed is undefined (`derived.py`); else empty."""
    split = split or headline(results)
    if np.isfinite(mean(results, "trained", "energy_gap", split, subset)):
        return ""
    return (
        f"Gap closed is undefined on {subset} ({split}): trained and retrained models differ there hardly more than "
        "retrained models of different seeds."
    )


def name_of(results: pd.DataFrame, kind: str) -> str:
    """A kind's title, with a mark where it is a method that forgets more than retraining does."""
    return TITLES[kind] + " (over)" * (kind in METHODS and forgets_more(results, kind))


def cell(results: pd.DataFrame, kind: str, measure: str, split="", subset="", at="") -> str:
    """Mean and spread over the models, or their median, or mean and 95 % range over the draws, in the measure's unit;
    and how many models diverged."""
    about = MEASURES[measure]
    found = about.scale * values(results, kind, measure, split, subset, at)
    if about.less_null:
        found = found - about.scale * mean(results, "null", measure, split, subset, at or "")
    if not np.isfinite(found).any():
        return f"needs {about.least} models" if about.drawn else NONE
    if about.drawn:
        words = f"{np.nanmean(found):.{about.digits}f} ({span(*central_range(found), about.digits)})"
    elif about.median or len(found) == 1:
        words = f"{np.nanmedian(found):.{about.digits}f}"
    else:
        words = spread(found, digits=about.digits)
    lost = diverged(results, kind)
    return words + (f", {lost} of {models_in(results)} diverged" if lost else "")


def accuracy_table(results: pd.DataFrame) -> Styler:
    """Accuracy in percent on the main subsets of the test split, and on the forget set of the training split."""
    kinds, there = kinds_in(results), [part for part in PARTS if len(values(results, "trained", "accuracy", *part))]
    cells = {f"{part[1]} ({part[0]})": [cell(results, kind, "accuracy", *part) for kind in kinds] for part in there}
    return styled(pd.DataFrame(cells, pd.Index(map(TITLES.get, kinds), name="accuracy, %")), over(results))


def subsets_table(results: pd.DataFrame, measure: str = "accuracy") -> Styler:
    """A measure on every subset of the test split and on both parts of the training split; one column per kind."""
    about, kinds = MEASURES[measure], kinds_in(results)
    parts = select(results, measure, None, None, kinds=kinds)[["split", "subset"]].drop_duplicates()
    rows = {
        subset + " (train)" * (split == "train"): [cell(results, kind, measure, split, subset) for kind in kinds]
        for split, subset in parts.itertuples(index=False)
    }
    table = pd.DataFrame.from_dict(rows, "index", columns=[TITLES[kind] for kind in kinds])
    return styled(table.rename_axis("subset").rename_axis(columns=f"{about.title}, {about.unit}"), over(results))


def gap_table(results: pd.DataFrame, subset: str = "forget", split: str = "") -> Styler:
    """Distance to retrained models on a subset, and the share of the gap to them that is closed, with the interval of
    its mean: in energy distance and in KL divergence."""
    kinds, cells, split = kinds_in(results), {}, split or headline(results)
    if not len(values(results, "trained", "accuracy", split, subset)):
        return styled(
            pd.DataFrame({subset: ["nothing: the request takes the classes that it touches whole"]}), over(results)
        )
    for measure in ("energy", "energy_gap", "energy_root", "kl", "kl_gap"):
        about = MEASURES[measure]
        if not len(values(results, "trained", measure, split, subset)):
            continue
        cells[f"{about.title}, {about.unit}"] = [cell(results, kind, measure, split, subset) for kind in kinds]
        if measure.endswith("gap"):
            found = [estimate(results, kind, measure, split, subset) for kind in kinds]
            ends = [span(100 * each.low, 100 * each.high, about.digits) for each in found]
            cells[f"95 % interval ({measure.removesuffix('_gap')})"] = ends
    table = pd.DataFrame(cells, pd.Index(map(TITLES.get, kinds), name=f"{subset} ({split})"))
    warning = no_gap(results, subset, split) if subset != "forget" else ""
    return styled(table, f"{over(results)} {warning}".strip())


def measures_table(results: pd.DataFrame) -> Styler:
    """Every measure (rows) of every kind (columns), beside its null distribution; bold: the methods closest to what
    retrained models have, and those that cannot be told from the closest; methods that forget more than retraining are
    marked."""
    kinds, rows, bold = [kind for kind in kinds_in(results) if kind != "untrained"], {}, {}
    names, n, missing = {kind: name_of(results, kind) for kind in kinds}, models_in(results), []
    sound = [kind for kind in kinds if kind in METHODS and _sound(results, kind)]
    for measure, about in MEASURES.items():
        some = results[results.measure.isin([measure, measure + WITHOUT, "loss", "diverged"])]  # all it asks
        for split, subset, at in about.shown:
            part = (measure, split, subset, at if split else None)
            found = {kind: values(some, kind, *part) for kind in kinds}
            label = f"{about.title}{f' {at}' * bool(at)}, {subset} ({split})" if split else about.title
            if not any(np.isfinite(each).any() for each in found.values()) and n >= about.least:
                missing.append(label)
                continue
            label += f", {n} models" * about.drawn
            less = mean(some, "null", *part) if about.less_null else 0.0
            null = [about.scale * (end - less) for end in null_of(some, *part)] if about.compared else (np.nan, np.nan)
            cells = {names[kind]: cell(some, kind, *part) for kind in kinds}
            rows[label] = {"unit": about.unit, "null, 95 %": span(*null, about.digits)} | cells
            bold[label] = [names[kind] for kind in _closest(some, sound, found, about, part)]
    table = pd.DataFrame(rows).T
    marks = pd.DataFrame("", table.index, table.columns)
    for label, columns in bold.items():
        marks.loc[label, columns] = "font-weight: bold"
    note = (
        f"{over(results)} Relearning (given up after {SIZES.relearn_steps} steps), resurgence (passes over a tenth of "
        f"the retained samples) and probe: {SIZES.probed} models, of retrained ones up to {2 * SIZES.probed}, null of "
        f"{SIZES.probed}. Measures of an ensemble: mean and "
        "range of 95 % of 20 random halves; U-LiRA grows with their number. KLoM: minus the mean of its null. Null: "
        "95 % of what a method as good as retraining would have. Bold: closest to Retrained without forgetting more "
        "than it (over) and without models that diverged, and those not told from the closest (paired by seed or half)."
        + f" Not measured, for there are no or too few such samples: {'; '.join(missing)}."
        * bool(missing)
    )
    return styled(table, note).apply(lambda _: marks, axis=None)


def _closest(results: pd.DataFrame, sound: list[str], found: dict, about: Measure, part: tuple) -> list[str]:
    """The method whose mean is closest to that of retrained models, of those that do not over-forget or diverge, and
    those that differ from it by less than the 95 % interval of the difference, paired by seed or draw."""
    means = {kind: (np.median if about.median else np.mean)(each) for kind, each in found.items() if len(each)}
    means = {kind: value for kind, value in means.items() if np.isfinite(value)}
    methods = [kind for kind in means if kind in sound]
    if not about.compared or not methods or "retrained" not in means:
        return []
    best = min(methods, key=lambda kind: abs(means[kind] - means["retrained"]))
    return [kind for kind in methods if kind == best or _like(results, kind, best, found, about, part)]


def _like(results: pd.DataFrame, kind: str, best: str, found: dict, about: Measure, part: tuple) -> bool:
    if len(found[kind]) != len(found[best]):
        return False
    apart = difference(results, kind, best, *part)
    low, high = central_range(found[kind] - found[best]) if about.drawn else (apart.low, apart.high)
    low, high = interval(found[kind] - found[best], np.median) if about.median else (low, high)
    return bool(low <= 0 <= high)


def _sound(results: pd.DataFrame, kind: str) -> bool:
    """Whether a kind may be called best: it neither forgets more than retraining nor has models that diverged."""
    return not forgets_more(results, kind) and not diverged(results, kind)


def best_plain(results: pd.DataFrame) -> str | None:
    """The best of the rivals: the method without a notebook of its own that closes most of the energy distance without
    forgetting more than retraining. A new model is no rival: it starts from no trained model."""
    plain = [kind for kind in kinds_in(results) if kind in METHODS and kind not in (*OURS, "new")]
    plain = [kind for kind in plain if _sound(results, kind) and not no_gap(results)]
    return max(plain, key=lambda kind: mean(results, kind, "energy_gap", headline(results), "forget"), default=None)


def overview_table(results: pd.DataFrame, kinds: list[str] | None = None) -> Styler:
    """How close to retraining, at what cost. kinds: the rows; None: trained, retrained, GEMU, GeFeU, the best rival,
    a new model and Gradient Ascent. The last row is 95 % of the null distribution."""
    best, names = best_plain(results), dict(TITLES)
    if kinds is None:
        ours = [kind for kind in OURS if kind != "ascent"]
        kinds = [k for k in ("trained", "retrained", *ours, best, "new", "ascent") if k in set(results.kind)]
        names |= {"trained": "Trained (nothing forgotten)", "retrained": "Retrained (the target)"}
        names |= {best: f"{names.get(best)} (best rival)", "new": f"{names.get('new')} (from new weights)"}
    shown = {
        "distance to retrained models closed, %": "energy_gap",
        "the same in units of its root, %": "energy_root",
        "KL divergence from retrained models closed, %": "kl_gap",
        "accuracy on the forgotten samples, %": "accuracy",
    }
    shown = {column: name for column, name in shown.items() if name in set(results.measure)}  # not of older releases
    oracle, rows, split = mean(results, "retrained", "accuracy", "test", "retain"), {}, headline(results)
    for kind in kinds:
        cells, method = {}, kind in METHODS
        for column, measure in shown.items():
            found = 100 * values(results, kind, measure, split, "forget")
            cells[column] = f"{found[0]:.1f}" if len(found) == 1 else spread(found, digits=1)
        if lost := diverged(results, kind):
            cells[next(iter(shown))] += f", {lost} of {models_in(results)} diverged"
        lost = 100 * (oracle - values(results, kind, "accuracy", "test", "retain"))
        cells["accuracy lost on the rest, points"] = spread(lost)
        share, attack = mean(results, kind, "samples_share"), mean(results, kind, "u_lira", "train", "forget")
        costs = {"cost: samples, % of retraining": share, "cost: time, % of retraining": time_share(results, kind)}
        for column, cost in costs.items():
            cells[column] = f"{100 * cost:.1f}" if (method or kind == "retrained") and np.isfinite(cost) else NONE
        cells["U-LiRA attack accuracy, %"] = f"{100 * attack:.0f}" if attack == attack else NONE
        cells["forgets more than retraining"] = ("no", "yes")[forgets_more(results, kind)] if method else NONE
        rows[names[kind]] = cells
    null = {column: null_of(results, measure, split, "forget") for column, measure in shown.items()}
    last = last_row(results)
    rows[last] = {column: span(*(100 * end for end in ends), 1) for column, ends in null.items()}
    ends = [100 * (oracle - end) for end in null_of(results, "accuracy", "test", "retain")[::-1]]
    rows[last]["accuracy lost on the rest, points"] = span(*ends, 2)
    low, high = null_of(results, "u_lira", "train", "forget")
    rows[last]["U-LiRA attack accuracy, %"] = span(100 * low, 100 * high, 0)
    return styled(pd.DataFrame(rows).T.fillna(NONE).rename_axis(index="models"), over(results))


def last_row(results: pd.DataFrame) -> str:
    """What stands below the kinds of models: older releases have no null distribution of every measure."""
    return "Null distribution, 95 %" if AGAIN in set(results.kind) else "Retrained, 95 % interval"


BESIDE = ("gemu", "reset", "new")  # what decides whether another method is worth its cost


def beside_table(results: pd.DataFrame, kind: str) -> Styler:
    """A method beside trained and retrained models, GEMU, and the two that need no idea of unlearning at the same cost:
    Reset and a new model."""
    kinds = ["trained", "retrained", kind, *(name for name in BESIDE if name != kind and name in set(results.kind))]
    return styled(in_short(results, kinds), over(results))


def short_table(results: pd.DataFrame) -> Styler:
    """The seven rows of `overview_table`, in short."""
    return styled(in_short(results), over(results))


def in_short(results: pd.DataFrame, kinds: list[str] | None = None) -> pd.DataFrame:
    """The columns of `overview_table` that everything else stands on."""
    return overview_table(results, kinds).data[list(IN_SHORT)]


def paired_table(results: pd.DataFrame, a: str, b: str, measures=("energy_gap", "kl_gap")) -> Styler:
    """Is method a closer to retraining than b? Differences paired by seed, with 95 % intervals (`frame.difference`)."""
    rows = {}
    for measure in measures:
        for split in dict.fromkeys((headline(results), "train")):
            first, second = (100 * values(results, kind, measure, split, "forget") for kind in (a, b))
            apart = difference(results, a, b, measure, split, "forget")
            word = "yes" if apart.low > 0 else "no" if apart.high < 0 else "undecided"
            word = word if models_in(results) >= FEWEST_FOR_VERDICTS else f"needs {FEWEST_FOR_VERDICTS} models"
            if lost := diverged(results, a):
                word = f"no: {lost} of {models_in(results)} diverged"
            more = f"{100 * apart.mean:+.1f} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})"
            cells = [spread(first, digits=1), spread(second, digits=1), more, word]
            cells = cells if np.isfinite(apart.mean) else [NONE] * len(cells)
            rows[f"{MEASURES[measure].title}, forget ({split}), %"] = cells
    columns = [TITLES[a], TITLES[b], "difference, percentage points (95 % interval)", f"is {TITLES[a]} closer?"]
    return styled(pd.DataFrame.from_dict(rows, "index", columns=columns), f"Paired by model. {over(results)}")


RECIPE_MEANS = {
    "batch_size": "samples per step",
    "peak_lr": "highest learning rate of Adam; it rises linearly, then falls linearly to 0",
    "warm_up": "part of the steps in which it rises",
    "min_passes": "passes over the training set, at least",
    "min_steps": "steps, at least: a small training set gets more passes",
}


def settings_table(settings) -> Styler:
    """The exact hyper-parameters of a dataclass, of a method or of the training recipe, with what they mean."""
    means = {f.name: f.metadata.get("meaning", RECIPE_MEANS.get(f.name, "")) for f in fields(settings)}
    rows = {name: (_short(getattr(settings, name)), meaning) for name, meaning in means.items()}
    return styled(pd.DataFrame.from_dict(rows, "index", columns=["value", "meaning"]).rename_axis("setting"))


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def all_settings() -> Styler:
    """The hyper-parameters behind every method, and what each may read of the forget set."""
    rows, columns = {}, ["access to the forget set", "hyper-parameters", "source"]
    for method in METHODS.values():
        values_of = ", ".join(f"{key} = {_short(value)}" for key, value in asdict(method.settings).items())
        rows[method.title] = (method.reads, values_of, method.source)
    return styled(pd.DataFrame.from_dict(rows, "index", columns=columns))


def cost_table(results: pd.DataFrame, kind: str) -> Styler:
    """Seconds and samples of one model of a kind beside one retrained model, as noted when they were made."""
    rows = {}
    for name in (kind, "retrained"):
        seconds, samples = (values(results, name, measure, at=None) for measure in ("seconds", "samples"))
        rows[f"{TITLES[name]}, one model"] = [f"{np.median(seconds):.2f} s", f"{samples.mean():,.0f}"]
    rows["ratio"] = [f"{100 * time_share(results, kind):.1f} %", f"{100 * mean(results, kind, 'samples_share'):.1f} %"]
    table = pd.DataFrame.from_dict(rows, "index", columns=["wall time (median)", "samples through the classifier"])
    made = ", ".join(results[results.measure == "seconds"]["at"].unique())
    return styled(table, f"One core per model; made on {made}. `make bench` measures both in turn in one run.")
