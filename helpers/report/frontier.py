"""What unlearning costs against what it reaches: the budget frontier that plain retraining draws, and every method
beside it."""

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.ticker import FixedLocator

from helpers.data.task import NAMES
from helpers.evaluation.frame import forgets_more, headline, interval, mean, null_of, values
from helpers.report.style import OVER, Figure, colour_of, figure, marker_of
from helpers.report.tables import central_range, no_gap
from helpers.unlearning import METHODS, OURS, TITLES

LINES = ("new", "reset")
PANELS = {  # what a panel shows -> measure, split, subset
    "energy gap closed, %": ("energy_gap", "", "forget"),  # of the split that has the headline
    "told apart by U-LiRA, accuracy": ("u_lira", "train", "forget"),
    "lost on retain, percentage points": ("accuracy", "test", "retain"),
}
EDGES = {
    "energy gap closed, %": (0, 104),
    "told apart by U-LiRA, accuracy": (0.4, 1.02),
    "lost on retain, percentage points": (-0.3, 2.2),
}


def frontier(results: pd.DataFrame) -> Figure:
    """Cost in samples against gap closed, attack and accuracy lost, one row of three panels per data set in the frame.

    Lines: a new model, and one whose upper layers were drawn anew, trained on D_r with so many samples; bands and
    whiskers: 95 % intervals; grey: null distribution, retrained against retrained. What lies beyond a panel stands at
    its edge.
    """
    datasets = [name for name in NAMES if name in set(results.dataset)]
    made, axes = figure(len(datasets), len(PANELS), (9.6, 0.7 + 3.1 * len(datasets)))
    over = False
    for row, dataset in zip(axes, datasets, strict=True):
        mine = results[results.dataset == dataset]
        for axis, title in zip(row, PANELS, strict=True):
            over |= _panel(axis, mine, title)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("samples, % of those that retraining sees", fontsize=8)
        row[0].set_ylabel(NAMES[dataset], fontsize=10)
        if no_gap(mine):
            row[0].set_xlabel("gap closed is undefined: trained and retrained models do not differ", fontsize=8)
    note = "Grey: null distribution, retrained against retrained. Whiskers and bands: 95 % intervals."
    made.supxlabel(note + (f" Open marker: {OVER}." if over else ""), fontsize=7)
    return made


def part_of(results: pd.DataFrame, title: str) -> tuple[str, str, str]:
    measure, split, subset = PANELS[title]
    return measure, split or headline(results), subset


def point(results: pd.DataFrame, kind: str, title: str) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval, of what a panel shows; nan where it was not measured."""
    part = part_of(results, title)
    found = values(results, kind, *part)
    if not np.isfinite(found).any():
        return (np.nan,) * 3
    if part[0] == "u_lira":
        return float(np.nanmean(found)), *central_range(found)
    if part[0] == "accuracy":
        found = mean(results, "retrained", *part) - found
    return 100 * float(found.mean()), *(100 * end for end in interval(found))


def cost(results: pd.DataFrame, kind: str) -> float:
    """Samples, in per cent of those that retraining sees."""
    return 100 * mean(results, kind, "samples_share")


def budgets(known: set[str], base: str) -> list[str]:
    """The kinds of a line that are in the frame, whatever budgets the present code would measure: "new_02", "
    "new_05", ..."""
    return sorted(kind for kind in known if kind.startswith(f"{base}_"))


def _panel(axis, results: pd.DataFrame, title: str) -> bool:
    """Draws one panel; True where a method in it forgets more than retraining does."""
    known, part = set(results.kind), part_of(results, title)
    low, high = EDGES[title]
    axis.set(xscale="log", ylim=(low, high), xlim=(0.15, 130))
    null = np.array(null_of(results, *part))
    scale = 1 if part[0] == "u_lira" else 100
    null = scale * (mean(results, "retrained", *part) - null if part[0] == "accuracy" else null)
    if np.isfinite(null).all():
        axis.axhspan(null.min(), null.max(), color="0.87", lw=0, zorder=0)
    for base in LINES:
        kinds = budgets(known, base)
        if kinds:
            x, ends = [cost(results, kind) for kind in kinds], np.array([point(results, kind, title) for kind in kinds])
            axis.plot(
                x, ends[:, 0].clip(low, high), color=colour_of(base), lw=1.4, marker=marker_of(base), ms=3, zorder=2
            )
            axis.fill_between(x, *ends[:, 1:].T.clip(low, high), color=colour_of(base), alpha=0.2, lw=0, zorder=1)
    labels, places, more = [], [], False
    shown = [kind for kind in METHODS if kind in known and not (kind in LINES and f"{kind}_10" in known)]
    for kind in shown:
        x, (y, *ends) = cost(results, kind), point(results, kind, title)
        if not (np.isfinite(y) and np.isfinite(x) and x > 0):
            continue
        over, words, ours = forgets_more(results, kind), TITLES[kind], kind in OURS
        if not low < y < high:
            words += f": {y:,.{2 if scale == 1 else 0}f}".replace("-", "\N{MINUS SIGN}")
            y = np.clip(y, low + 0.02 * (high - low), high - 0.02 * (high - low))
        else:
            axis.vlines(x, *np.clip(ends, low, high), color=colour_of(kind), lw=0.8, zorder=2)
        fill = "white" if over else colour_of(kind)
        axis.plot(x, y, marker_of(kind), ms=6 if ours else 4, mfc=fill, mec=colour_of(kind), zorder=4 if ours else 3)
        if part[0] == "energy_gap" or ours:
            labels.append(axis.text(x, y, words, fontsize=7 if ours else 6, weight="bold" if ours else "normal"))
            places.append((x, y))
        more |= over
    axis.xaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    if part[0] == "energy_gap":
        for base in LINES:
            kinds = budgets(known, base)
            if kinds:
                below = base == LINES[0]  # the lower line's name stands below its first point, the other's above
                y = point(results, kinds[0], title)[0] + (-3 if below else 3)
                looks = {"fontsize": 7, "ha": "center", "va": "top" if below else "bottom"}
                words = axis.text(cost(results, kinds[0]), y, TITLES[base], **looks)
                words.set_color(colour_of(base))
                words.set_position((words.get_position()[0], np.clip(words.get_position()[1], low + 1, high - 1)))
    if labels:
        axis.figure.draw_without_rendering()  # the layout decides where words have room
        looks = {"arrowstyle": "-", "color": "0.6", "lw": 0.5}
        adjust_text(labels, *zip(*places, strict=True), ax=axis, expand=(1.3, 1.4), iter_lim=300, arrowprops=looks)
    return more
