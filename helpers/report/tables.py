"""Tables: selections of the results frame, pivoted and shown by pandas.

Each function returns a Styler: a notebook shows it, `.data` is the DataFrame behind it. Cells hold mean ± standard deviation
over the models.
"""

import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from helpers.data.task import NAMES, SIDES, Task, load_task
from helpers.device import STARTED, describe, pick_device
from helpers.evaluation.evaluate import load_results
from helpers.evaluation.frame import (
    MEASURES,
    Measure,
    forgets_more,
    interval,
    mean,
    null_of,
    results_folder,
    select,
    time_share,
    values,
)
from helpers.files import StudyError
from helpers.report.cells import NONE, kinds_in, middle, span, spread, styled
from helpers.sizes import SIZES
from helpers.unlearning import METHODS, OURS, TITLES

# what the table of all measures shows: measure, half, subset, at
SHOWN = (
    *((measure, half, "forget", "") for measure in ("energy_gap", "kl_gap", "kl") for half in ("test", "train")),
    *(("accuracy", half, subset, "") for half, subset in (("test", "forget"), ("train", "forget"))),
    *(("accuracy", "test", subset, "") for subset in ("7_retain", "retain")),
    *((measure, half, "forget", "") for measure in ("tow", "average_gap") for half in ("train", "test")),
    ("loss_attack", "train", "forget", ""),
    *(("u_lira", half, "forget", "") for half in ("train", "test")),
    *(("u_lira_tpr", "train", "forget", rate) for rate in ("0.01", "0.05")),
    *(("klom", half, "forget", at) for half in ("train", "test") for at in ("", "0.95")),
    *(("klom", half, subset, "") for half, subset in (("test", "7_retain"), ("train", "retain"), ("test", "all"))),
    *((measure, half, "forget", "") for measure in ("activation_distance", "js") for half in ("train", "test")),
    *((measure, half, "forget", "") for measure in ("excess", "beyond") for half in ("train", "test")),
    ("relearn_steps", "train", "forget", ""),
    ("probe", "test", "7", ""),
    ("samples_share", "", "", ""),
    ("seconds", "", "", ""),
)


def over(results: pd.DataFrame) -> str:
    """How many models a table is over, and where there is no gap that a share could be of."""
    data, n = results.iloc[0], int(results.seed.max()) + 1
    text = f"Mean ± standard deviation over {n} models; {NAMES[data.dataset]}, forgotten: {data.forget}."
    return f"{text} {no_gap(results)}".strip()


def no_gap(results: pd.DataFrame, subset: str = "forget", half: str = "test") -> str:
    """A warning where trained models are no further from retrained ones than these are from each other; else empty."""
    for measure in ("energy", "kl"):
        floor, ceiling = (mean(results, kind, measure, half, subset) for kind in ("retrained", "trained"))
        if ceiling <= floor:
            return (
                f"There is no gap to close on {subset} ({half}): trained models are no further from retrained ones than those "
                "are from each other, so shares of it mean nothing."
            )
    return ""


def accuracy_table(results: pd.DataFrame) -> Styler:
    """Accuracy in percent on the main subsets of the test half, and on the forget set of the training half."""
    parts = [("test", subset) for subset in ("all", "retain", "7_retain", "forget")] + [("train", "forget")]
    cells = {
        f"{subset} ({half})": [
            spread(values(results, kind, "accuracy", half, subset), 100) for kind in kinds_in(results)
        ]
        for half, subset in parts
    }
    table = pd.DataFrame(cells, pd.Index(map(TITLES.get, kinds_in(results)), name="accuracy, %"))
    return styled(table, over(results))


def subsets_table(results: pd.DataFrame, measure: str = "accuracy") -> Styler:
    """A measure on every subset of the test half and on both parts of the training half; one column per kind."""
    about = MEASURES[measure]
    found = select(results, measure, None, None, kinds=kinds_in(results)).copy()
    found["subset"] = found.subset + found.half.map({"test": "", "train": " (train)"})
    table = found.pivot_table(
        index="subset",
        columns="kind",
        values="value",
        sort=False,
        aggfunc=lambda v: spread(v, about.scale, about.digits),
    )
    return styled(table.rename(columns=TITLES).rename_axis(columns=f"{about.title}, {about.unit}"), over(results))


def gap_table(results: pd.DataFrame, subset: str = "forget", half: str = "test") -> Styler:
    """Distance to retrained models on a subset, and the share of the gap to them that is closed, with the interval of its
    mean: in energy distance and in KL divergence."""
    kinds, cells = kinds_in(results), {}
    for measure in ("energy", "kl"):
        for name in (measure, f"{measure}_gap"):
            about = MEASURES[name]
            found = [about.scale * values(results, kind, name, half, subset) for kind in kinds]
            cells[f"{about.title}, {about.unit}"] = [spread(each, digits=about.digits) for each in found]
        cells[f"95 % interval ({measure})"] = [span(*interval(each), about.digits) for each in found]
    table = pd.DataFrame(cells, pd.Index(map(TITLES.get, kinds), name=f"{subset} ({half})"))
    return styled(
        table, over(results) if subset == "forget" else f"{over(results)} {no_gap(results, subset, half)}".strip()
    )


def kl_table(results: pd.DataFrame, kinds: tuple[str, ...], half: str = "test") -> Styler:
    """KL(row || column) on the forget set in nats, with the 95 % interval of its mean over the column's models."""
    found = select(results, "kl_pair", half, "forget", None, kinds)
    cells = {
        TITLES[kind]: {TITLES[at]: each.value for at, each in mine.groupby("at", sort=False) if at in kinds}
        for kind, mine in found.groupby("kind", sort=False)
    }
    table = pd.DataFrame(cells).map(lambda v: f"{v.mean():.2f} ({span(*interval(v), 2)})")
    return styled(table.rename_axis(columns="KL(row || column)"), f"Pairs of different seeds; nats. {over(results)}")


def measures_table(results: pd.DataFrame) -> Styler:
    """Every measure (rows) of every kind (columns), beside its null; bold: the methods closest to what retrained models
    have, and those whose value lies within the interval of the closest; methods that forget more than retraining are marked."""
    kinds = [kind for kind in kinds_in(results) if kind != "untrained"]
    more = {kind for kind in METHODS if kind in kinds and forgets_more(results, kind)}
    rows, bold = {}, {}
    for part in SHOWN:
        measure, half, subset, at = part
        about = MEASURES[measure]
        found = {kind: about.scale * values(results, kind, *part) for kind in kinds}
        if not about.drawn and not any(len(each) for each in found.values()):
            continue
        label = f"{about.title}{f' {at}' * bool(at)}, {subset} ({half})" if half else about.title
        null = null_of(results, *part) if about.aim else (np.nan, np.nan)
        texts = {kind: _cell(each, about) for kind, each in found.items()}
        rows[label] = {
            "unit": about.unit,
            "null, 95 %": span(*(about.scale * end for end in null), about.digits),
        } | texts
        bold[label] = _closest(found, more, about.drawn) if about.aim else set()
    table = pd.DataFrame(rows).T
    marks = pd.DataFrame("", table.index, table.columns)
    for label, kinds_there in bold.items():
        marks.loc[label, list(kinds_there)] = "font-weight: bold"
    names = {kind: TITLES[kind] + " (over)" * (kind in more) for kind in kinds}
    table, marks = table.rename(columns=names), marks.rename(columns=names)
    note = (
        f"{over(results)} Relearn time (given up after {SIZES.relearn_steps} steps) and probe: {SIZES.probed} models. Measures of an "
        "ensemble: mean and 95 % range over random halves. Null: what retrained models give among themselves, or the interval of "
        "their mean. Bold: closest to Retrained without forgetting more than it (over)."
    )
    return styled(table, note).apply(lambda _: marks, axis=None)


def _cell(found: np.ndarray, about: Measure) -> str:
    if not about.drawn:
        return spread(found, digits=about.digits)
    if not np.isfinite(found).any():
        return "needs 4 models"
    return f"{np.nanmean(found):.{about.digits}f} ({span(*middle(found), about.digits)})"


def _closest(found: dict[str, np.ndarray], more: set[str], drawn: bool) -> set[str]:
    """The method whose mean is closest to that of retrained models, of those that do not over-forget, and those whose mean
    lies within its interval (of the mean over models, or of the draws)."""
    means = {kind: each.mean() for kind, each in found.items() if len(each) and np.isfinite(each.mean())}
    methods = [kind for kind in means if kind in METHODS and kind not in more]
    if not methods or "retrained" not in means:
        return set()
    best = min(methods, key=lambda kind: abs(means[kind] - means["retrained"]))
    low, high = middle(found[best]) if drawn else interval(found[best])
    return {best, *(kind for kind in methods if low <= means[kind] <= high)}


def best_plain(results: pd.DataFrame) -> str | None:
    """The method without a notebook of its own that closes most of the energy gap without forgetting more than retraining."""
    plain = [
        kind for kind in METHODS if kind not in OURS and kind in set(results.kind) and not forgets_more(results, kind)
    ]
    return max(plain, key=lambda kind: mean(results, kind, "energy_gap", "test", "forget"), default=None)


def overview_table(results: pd.DataFrame) -> Styler:
    """At most seven rows: trained, retrained, the three routines, the best of the others, the null."""
    best = best_plain(results)
    kinds = [kind for kind in ("trained", "retrained", *OURS, best) if kind in set(results.kind)]
    rows = {
        TITLES[kind] + " (over)" * (kind in METHODS and forgets_more(results, kind)): _overview(results, kind)
        for kind in kinds
    }
    null = [null_of(results, measure, "test", "forget") for measure in ("energy_gap", "kl_gap", "accuracy")]
    cells = [span(*(100 * end for end in ends), 1) for ends in null] + [NONE, NONE]
    rows["null, 95 %"] = dict(zip(rows["Retrained"], cells, strict=True))
    return styled(pd.DataFrame(rows).T.rename_axis(index="models"), over(results))


def _overview(results: pd.DataFrame, kind: str) -> dict[str, str]:
    lost = 100 * (
        mean(results, "retrained", "accuracy", "test", "retain") - values(results, kind, "accuracy", "test", "retain")
    )
    share = 100 * time_share(results, kind)
    return {
        "energy gap closed, %": spread(values(results, kind, "energy_gap", "test", "forget"), 100, 1),
        "KL gap closed, %": spread(values(results, kind, "kl_gap", "test", "forget"), 100, 1),
        "accuracy on forget, %": spread(values(results, kind, "accuracy", "test", "forget"), 100, 1),
        "lost on retain, points": spread(lost),
        "time, % of retraining": f"{share:.1f}" if kind in METHODS and np.isfinite(share) else NONE,
    }


def paired_table(results: pd.DataFrame, a: str, b: str, measures=("energy_gap", "kl_gap")) -> Styler:
    """Is method a closer to retraining than b? Differences paired over the models, with bootstrap intervals."""
    rows = {}
    for measure in measures:
        for half in ("test", "train"):
            first, second = (100 * values(results, kind, measure, half, "forget") for kind in (a, b))
            low, high = interval(first - second)
            word = "yes" if low > 0 else "no" if high < 0 else "undecided"
            difference = f"{(first - second).mean():+.1f} ({low:+.1f} to {high:+.1f})"
            cells = [spread(first, digits=1), spread(second, digits=1), difference, word]
            rows[f"{MEASURES[measure].title}, forget ({half}), %"] = cells
    names = [TITLES[kind] for kind in (a, b)]
    columns = [*names, "difference, points (95 % interval)", f"is {names[0]} closer?"]
    return styled(pd.DataFrame.from_dict(rows, "index", columns=columns), f"Paired by model. {over(results)}")


def sides_table(task: Task) -> Styler:
    """Forgetting the crossbar sevens beside forgetting the plain ones, with the same hyper-parameters, where both are stored."""
    rows, notes = {}, []
    for side in SIDES:
        try:
            results = stored_results(task if side == task.side else load_task(task.data.name, side))
        except StudyError:
            notes.append(f"Forgetting the {side} sevens is not stored: `make study FORGET={side}` makes it.")
            continue
        for kind in ("trained", "retrained", "gemu", "gefeu"):
            cells = {
                f"{subset}, %": spread(values(results, kind, "accuracy", "test", subset), 100, 1)
                for subset in ("forget", "7_retain", "retain")
            }
            gap = {"energy gap closed, %": spread(values(results, kind, "energy_gap", "test", "forget"), 100, 1)}
            rows[side, TITLES[kind]] = gap | cells
        notes.append(over(results))
    return styled(pd.DataFrame(rows).T.rename_axis(index=["forgotten side", "models"]), " ".join(notes))


def stored_results(task: Task) -> pd.DataFrame:
    """What the last run of graphics.ipynb left of a task, made and measured by the present code; StudyError otherwise."""
    path = results_folder(task) / "measures.csv"
    if not path.is_file():
        raise StudyError(
            f"There are no results of {NAMES[task.data.name]}, side {task.side}: "
            f"run `make study DATASET={task.data.name} FORGET={task.side}` first."
        )
    return load_results(task, stored_models(path))


def stored_models(path: Path) -> int:
    """How many models of each kind a measures.csv is over."""
    seeds = pd.read_csv(path, usecols=["kind", "seed"]).query("kind == 'retrained'").seed
    return int(seeds.max()) + 1


def settings_table(settings) -> Styler:
    """The exact hyper-parameters of a dataclass, with what they mean."""
    rows = [
        {
            "setting": each.name,
            "value": f"{getattr(settings, each.name):.4g}",
            "meaning": each.metadata.get("meaning", ""),
        }
        for each in fields(settings)
    ]
    return styled(pd.DataFrame(rows).set_index("setting"))


def all_settings() -> Styler:
    """The hyper-parameters behind every method, and what each may read of the forget set."""
    rows = {
        method.title: {
            "reads of the forget set": method.reads,
            "hyper-parameters": ", ".join(f"{key} = {value:.4g}" for key, value in asdict(method.settings).items()),
            "source": method.source,
        }
        for method in METHODS.values()
    }
    return styled(pd.DataFrame(rows).T)


def cost_table(cost: dict[str, float], title: str) -> Styler:
    """Seconds of one unlearning and one retraining, measured in turn."""
    cells = [f"{cost['unlearning']:.2f} s", f"{cost['retraining']:.2f} s", f"{100 * cost['share']:.1f} %"]
    table = pd.DataFrame({"wall time": cells}, [f"{title}, one model", "retraining, one model", "ratio"])
    return styled(
        table, "Medians of three rounds, measured in turn in this run; of a retraining some fifty of its steps."
    )


def verdict(results: pd.DataFrame, kind: str) -> Styler:
    """What a method must deliver, in numbers: gaps closed, and accuracy against retrained models."""
    rows = {}
    for half in ("test", "train"):
        for measure in ("energy_gap", "kl_gap"):
            closed = 100 * mean(results, kind, measure, half, "forget")
            rows[f"{MEASURES[measure].title}, forget ({half})"] = f"{closed:.1f} %" if np.isfinite(closed) else NONE
    for subset in ("retain", "7_retain", "forget"):
        mine, oracle = (mean(results, each, "accuracy", "test", subset) for each in (kind, "retrained"))
        rows[f"accuracy on {subset} against retrained"] = f"{100 * (mine - oracle):+.2f} points"
    if forgets_more(results, kind):
        rows["loss on forget (train)"] = "above retraining's: it forgets more than retraining does (over-unlearning)"
    return styled(pd.DataFrame({TITLES[kind]: rows}), over(results))


def run_note(task: Task, n: int, results: pd.DataFrame) -> Markdown:
    """Which run the outputs of a notebook are from, and how long all its models took when they were computed."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    minutes, computed = (time.time() - STARTED) / 60, results[results.measure == "seconds"].value.sum() / 60
    return Markdown(
        f"*This run: {task.data.source}, forgotten side {task.side}, {n} models of each kind, "
        f"{describe(pick_device())}; ended {when} UTC after {minutes:.1f} minutes. The models measured here took "
        f"{computed:.1f} minutes of processor time; where they are loaded, they are not computed again.*"
    )
