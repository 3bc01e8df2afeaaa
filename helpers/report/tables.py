"""Tables: selections of the results frame, pivoted and shown by pandas.

Each function returns a Styler: a notebook shows it, `.data` is the DataFrame behind it. Cells hold mean ± standard
deviation over the models.
"""

import time
from dataclasses import asdict, fields

import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from helpers.data.task import NAMES, Task
from helpers.device import STARTED, describe, pick_device
from helpers.evaluation.frame import forgets_more, headline, interval, mean, null_of, select, time_share, values
from helpers.evaluation.measures import MEASURES, Measure
from helpers.report.cells import NONE, central_range, kinds_in, span, spread, styled
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, OURS, TITLES

PARTS = tuple(("test", subset) for subset in ("all", "retain", "neighbours", "forget")) + (("train", "forget"),)


def over(results: pd.DataFrame) -> str:
    """How many models a table is over, and a note where gap closed is undefined."""
    data, n = results.iloc[0], models_in(results)
    text = f"Mean ± standard deviation over {n} models; {NAMES[data.dataset]}, forgotten: {data.forget}."
    if headline(results) == "train":
        text += " The test split has no samples of that kind: forget means the training split's."
    return f"{text} {no_gap(results)}".strip()


def models_in(results: pd.DataFrame) -> int:
    """How many models of each kind a frame is over."""
    return int(results.seed.max()) + 1


def no_gap(results: pd.DataFrame, subset: str = "forget", split: str = "") -> str:
    """A warning where trained models are no further from retrained ones than these are from each other; else empty."""
    split = split or headline(results)
    for measure in ("energy", "kl"):
        floor, ceiling = (mean(results, kind, measure, split, subset) for kind in ("retrained", "trained"))
        if ceiling <= floor:
            return (
                f"Gap closed is undefined on {subset} ({split}): trained and retrained models do not differ there "
                "more than retrained models among themselves."
            )
    return ""


def name_of(results: pd.DataFrame, kind: str) -> str:
    """A kind's title, with a mark where it is a method that forgets more than retraining does."""
    return TITLES[kind] + " (over)" * (kind in METHODS and forgets_more(results, kind))


def cell(results: pd.DataFrame, kind: str, measure: str, split="", subset="", at="") -> str:
    """Mean and spread over the models, or mean and 95 % range over the draws, in the measure's unit."""
    about = MEASURES[measure]
    found = about.scale * values(results, kind, measure, split, subset, at)
    if not about.drawn:
        return spread(found, digits=about.digits)
    if not np.isfinite(found).any():
        return f"needs {about.least} models"
    return f"{np.nanmean(found):.{about.digits}f} ({span(*central_range(found), about.digits)})"


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
    for measure in ("energy", "energy_gap", "kl", "kl_gap"):
        about = MEASURES[measure]
        cells[f"{about.title}, {about.unit}"] = [cell(results, kind, measure, split, subset) for kind in kinds]
        if measure.endswith("gap"):
            ends = [interval(about.scale * values(results, kind, measure, split, subset)) for kind in kinds]
            cells[f"95 % interval ({measure.removesuffix('_gap')})"] = [span(*each, about.digits) for each in ends]
    table = pd.DataFrame(cells, pd.Index(map(TITLES.get, kinds), name=f"{subset} ({split})"))
    warning = no_gap(results, subset, split) if subset != "forget" else ""
    return styled(table, f"{over(results)} {warning}".strip())


def measures_table(results: pd.DataFrame) -> Styler:
    """Every measure (rows) of every kind (columns), beside its null; bold: the methods closest to what retrained models
    have, and those whose value lies within the interval of the closest; methods that forget more than retraining are
    marked."""
    kinds, rows, bold = [kind for kind in kinds_in(results) if kind != "untrained"], {}, {}
    names = {kind: name_of(results, kind) for kind in kinds}
    for measure, split, subset, at in ((name, *where) for name, about in MEASURES.items() for where in about.shown):
        about, part = MEASURES[measure], (measure, split, subset, at if split else None)
        found = {kind: values(results, kind, *part) for kind in kinds}
        if not any(len(each) for each in found.values()) and models_in(results) >= about.least:
            continue
        label = f"{about.title}{f' {at}' * bool(at)}, {subset} ({split})" if split else about.title
        null = [about.scale * end for end in null_of(results, *part)] if about.aim else (np.nan, np.nan)
        cells = {names[kind]: cell(results, kind, *part) for kind in kinds}
        rows[label] = {"unit": about.unit, "null, 95 %": span(*null, about.digits)} | cells
        bold[label] = [names[kind] for kind in _closest(results, found, about)]
    table = pd.DataFrame(rows).T
    marks = pd.DataFrame("", table.index, table.columns)
    for label, columns in bold.items():
        marks.loc[label, columns] = "font-weight: bold"
    note = (
        f"{over(results)} Relearn time (given up after {SIZES.relearn_steps} steps) and probe: {SIZES.probed} "
        "models. Measures of an ensemble: mean and 95 % range over random halves. Null: what retrained models give "
        "among themselves, or the interval of their mean. Bold: closest to Retrained without forgetting more than "
        "it (over)."
    )
    return styled(table, note).apply(lambda _: marks, axis=None)


def _closest(results: pd.DataFrame, found: dict[str, np.ndarray], about: Measure) -> list[str]:
    """The method whose mean is closest to that of retrained models, of those that do not over-forget, and those whose
    mean lies within its interval (of the mean over models, or of the draws)."""
    means = {kind: each.mean() for kind, each in found.items() if len(each) and np.isfinite(each.mean())}
    methods = [kind for kind in means if kind in METHODS and not forgets_more(results, kind)]
    if not about.aim or not methods or "retrained" not in means:
        return []
    best = min(methods, key=lambda kind: abs(means[kind] - means["retrained"]))
    low, high = central_range(found[best]) if about.drawn else interval(found[best])
    return [kind for kind in methods if kind == best or low <= means[kind] <= high]


def best_plain(results: pd.DataFrame) -> str | None:
    """The method without a notebook of its own that closes most of the energy gap without forgetting more than
    retraining."""
    plain = [kind for kind in kinds_in(results) if kind in METHODS and kind not in OURS]
    plain = [kind for kind in plain if not forgets_more(results, kind)]
    return max(plain, key=lambda kind: mean(results, kind, "energy_gap", headline(results), "forget"), default=None)


def overview_table(results: pd.DataFrame) -> Styler:
    """At most seven rows: trained, retrained, the three routines, the best of the others, the null."""
    kinds = [kind for kind in ("trained", "retrained", *OURS, best_plain(results)) if kind in set(results.kind)]
    shown = {"energy gap closed, %": "energy_gap", "KL gap closed, %": "kl_gap", "accuracy on forget, %": "accuracy"}
    oracle, rows, split = mean(results, "retrained", "accuracy", "test", "retain"), {}, headline(results)
    for kind in kinds:
        cells = {
            name: spread(values(results, kind, measure, split, "forget"), 100, 1) for name, measure in shown.items()
        }
        lost, share = oracle - values(results, kind, "accuracy", "test", "retain"), 100 * time_share(results, kind)
        cells["lost on retain, percentage points"] = spread(lost, 100)
        cells["time, % of retraining"] = f"{share:.1f}" if kind in METHODS and np.isfinite(share) else NONE
        rows[name_of(results, kind)] = cells
    null = {name: null_of(results, measure, split, "forget") for name, measure in shown.items()}
    rows["null, 95 %"] = {name: span(*(100 * end for end in ends), 1) for name, ends in null.items()}
    return styled(pd.DataFrame(rows).T.fillna(NONE).rename_axis(index="models"), over(results))


def paired_table(results: pd.DataFrame, a: str, b: str, measures=("energy_gap", "kl_gap")) -> Styler:
    """Is method a closer to retraining than b? Differences paired over the models, with bootstrap intervals."""
    rows = {}
    for measure in measures:
        for split in dict.fromkeys((headline(results), "train")):
            first, second = (100 * values(results, kind, measure, split, "forget") for kind in (a, b))
            low, high = interval(first - second)
            word = "yes" if low > 0 else "no" if high < 0 else "undecided"
            difference = f"{(first - second).mean():+.1f} ({low:+.1f} to {high:+.1f})"
            cells = [spread(first, digits=1), spread(second, digits=1), difference, word]
            rows[f"{MEASURES[measure].title}, forget ({split}), %"] = cells
    columns = [TITLES[a], TITLES[b], "difference, percentage points (95 % interval)", f"is {TITLES[a]} closer?"]
    return styled(pd.DataFrame.from_dict(rows, "index", columns=columns), f"Paired by model. {over(results)}")


def settings_table(settings) -> Styler:
    """The exact hyper-parameters of a dataclass, with what they mean."""
    rows = {
        each.name: (f"{getattr(settings, each.name):.4g}", each.metadata.get("meaning", ""))
        for each in fields(settings)
    }
    return styled(pd.DataFrame.from_dict(rows, "index", columns=["value", "meaning"]).rename_axis("setting"))


def all_settings() -> Styler:
    """The hyper-parameters behind every method, and what each may read of the forget set."""
    rows = {
        method.title: (
            method.reads,
            ", ".join(f"{key} = {value:.4g}" for key, value in asdict(method.settings).items()),
            method.source,
        )
        for method in METHODS.values()
    }
    columns = ["reads of the forget set", "hyper-parameters", "source"]
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


def run_note(task: Task, n: int, results: pd.DataFrame) -> Markdown:
    """Which run the outputs of a notebook are from, and how long all its models took when they were computed."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    seconds, minutes = results[results.measure == "seconds"], (time.time() - STARTED) / 60
    return Markdown(
        f"*This run: {task.data.source}, forgotten: {task.request.title}, {n} models of each kind, "
        f"{describe(pick_device())}; ended {when} UTC after {minutes:.1f} minutes. Making the models took "
        f"{seconds.value.sum() / 60:.1f} minutes of processor time on {', '.join(seconds['at'].unique())}; "
        "what is stored is not computed again.*"
    )
