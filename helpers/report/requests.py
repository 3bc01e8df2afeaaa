"""What is hard to forget? The same methods with the same settings on several requests, side by side, from stored
results."""

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.ticker import FixedLocator
from pandas.io.formats.style import Styler
from scipy.stats import t, ttest_ind_from_stats

from helpers.data.request import DEFAULT, study_command
from helpers.data.task import NAMES, Task, task_of
from helpers.evaluation.evaluate import measure
from helpers.evaluation.frame import COLUMNS, diverged, estimate, headline, holm, results_folder
from helpers.files import StudyError, load_frame, there
from helpers.report.frontier import PANELS, point
from helpers.report.style import Figure, colour_of, figure, marker_of
from helpers.report.tables import FEWEST_FOR_VERDICTS, NONE, cell, models_in, no_gap, styled
from helpers.unlearning import OURS, TITLES, unlearned

REQUESTS = ("crossbar", "plain", "class 7", "random 1 %", "red")
KINDS = (*OURS, "reset", "new")  # ours and the plain rivals
FURTHEST = -100.0  # %, of the distance closed in the figure: what lies below stands there, with its value
CELLS = """Mean (95 % interval; of U-LiRA the range of 95 % of 20 random halves), accuracy with its standard deviation
over the models; on the forget set of the test split, or of the training split where that has none. The
attack grows with the number of models: compare it between requests of as many."""
CELLS = CELLS.replace("\n", " ")


def stored_results(task: Task) -> pd.DataFrame:
    """The measures of as many models as the last run of graphics.ipynb had for a task; StudyError where models of the
    present code and settings are not stored."""
    path = results_folder(task) / "measures.csv"
    if not there(path):
        raise StudyError(
            f"There are no results of {NAMES[task.data.name]}, forgotten: {task.request.name}: "
            f"run `{study_command(task.data.name, task.request.name)}` first."
        )
    last = load_frame(path, COLUMNS, "delete it, and run `make study` again.")
    n = models_in(last[last.kind == "retrained"])
    return measure(task, *(unlearned(kind, task, n, stored=True) for kind in KINDS))


def stored_requests(task: Task) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Request -> its frame, of the REQUESTS that this data set can have and that are stored; and how to make the
    others."""
    found, missing = {}, []
    for words in dict.fromkeys((*REQUESTS, task.request.name)):
        try:
            other = task if words == task.request.name else task_of(task.data, words)
        except StudyError:
            continue  # this data set has no such samples
        try:
            found[words] = stored_results(other)
        except StudyError:
            missing.append(f"`{study_command(task.data.name, words)}`")
    return found, missing


def requests_table(found: dict[str, pd.DataFrame], missing: list[str]) -> Styler:
    """One row per request and method. found, missing: as `stored_requests` gives them."""
    notes = [f"{words}: {no_gap(results)}" for words, results in found.items() if no_gap(results)]
    lost = f"Not stored: {', '.join(missing).replace('`', '')}." if missing else ""
    return styled(side_by_side(found), " ".join([CELLS, *notes, lost]).strip())


def side_by_side(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Request, models -> a column per measure, as CELLS says. found: request -> its frame."""
    rows = {}
    for words, results in found.items():
        for kind in (kind for kind in ("retrained", *KINDS) if kind in set(results.kind)):
            cells = {title: _cell(results, kind, title) for title in PANELS}
            cells["accuracy on forget, %"] = cell(results, kind, "accuracy", headline(results), "forget")
            rows[f"{words} ({models_in(results)} models)", TITLES[kind]] = cells
    return pd.DataFrame(rows).T.rename_axis(index=["forgotten", "models"]) if rows else pd.DataFrame()


def _cell(results: pd.DataFrame, kind: str, title: str) -> str:
    value, low, high = point(results, kind, title)
    digits = 1 if PANELS[title][0] == "energy_gap" else 2
    if value < -1000:
        return "below -1,000"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})" if np.isfinite(value) else NONE


def requests_figure(found: dict[str, pd.DataFrame]) -> Figure:
    """The same as dots with 95 % intervals, of the attack with the range of random halves: one row for each request and
    method, one panel per measure. found: request -> its frame."""
    rows = [(words, kind) for words, results in found.items() for kind in KINDS if kind in set(results.kind)]
    made, axes = figure(1, len(PANELS), (9.6, 0.8 + 0.17 * (len(rows) + len(found))), sharey=True)
    heights, ticks = {}, {}
    for words, results in found.items():
        ticks[f"{words}, {models_in(results)} models:"] = len(ticks)
        for kind in (kind for of, kind in rows if of == words):
            heights[words, kind] = ticks[TITLES[kind] + " " * len(ticks)] = len(ticks)  # every label a key of its own
    for axis, title in zip(axes[0], PANELS, strict=True):
        for (words, kind), y in heights.items():
            value, *ends = point(found[words], kind, title)
            if not np.isfinite(value):
                continue
            least = FURTHEST if PANELS[title][0] == "energy_gap" else -np.inf
            axis.plot(max(value, least), y, marker_of(kind), ms=5, color=colour_of(kind), clip_on=False)
            if value >= least:
                axis.hlines(y, *np.maximum(ends, least), color=colour_of(kind), lw=1)
            else:
                axis.text(least + 6, y, f"{value:,.0f}".replace("-", "\N{MINUS SIGN}"), fontsize=7, va="center")
        axis.set_title(title, fontsize=9)
        if PANELS[title][0] == "accuracy" and axis.get_xlim()[1] > 10:  # one that loses much would hide the others
            axis.set_xscale("symlog", linthresh=1)
            axis.xaxis.set_major_locator(FixedLocator([-10, -1, 0, 1, 10, 100]))
            axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(axis="y", color="0.93", lw=0.6)
        axis.set_axisbelow(True)
    axes[0, 0].set_yticks(list(ticks.values()), [label.strip() for label in ticks], fontsize=7.5)
    axes[0, 0].set_ylim(max(len(ticks), 1) - 0.4, -0.6)
    for label, word in zip(axes[0, 0].get_yticklabels(), ticks, strict=True):
        label.set_weight("bold" if word.endswith(":") else "normal")
    gaps = {pair: point(found[pair[0]], pair[1], "distance closed, %")[0] for pair in heights}
    said = ", ".join(f"{words}, {TITLES[kind]} {gap:.0f} %" for (words, kind), gap in gaps.items() if np.isfinite(gap))
    made.alt = (
        "Distance to retrained models closed, accuracy of an attack and accuracy lost on the rest, for each request "
        f"and method, with 95 % intervals (attack: range of random halves). Distance closed: {said or 'not measured'}."
    )
    return made


def what_is_hard(found: dict[str, pd.DataFrame]) -> Markdown:
    """The answer of `hardest` where it has one."""
    return Markdown(hardest(found) or "The crossbar and another request are not stored yet: nothing to compare.")


def hardest(found: dict[str, pd.DataFrame]) -> str:
    """Whether the crossbar is harder to forget than the other requests: which share of its own distance GEMU and GeFeU
    close for each. Empty where it is not there, or alone. found: request -> its frame, all of one data set.

    "easier", "harder": Welch's t-test on two shares, with the standard errors of their intervals and as of independent
    models, gives p < 5 % after Holm's correction for all of these tests. Neither with fewer than six models or where
    one of them diverged."""
    lost = [words for words, results in found.items() if no_gap(results)]
    found = {words: results for words, results in found.items() if words not in lost}
    if DEFAULT not in found or len(found) < 2:
        return ""
    gaps = {(kind, words): _gap(mine, kind) for kind in ("gemu", "gefeu") for words, mine in found.items()}
    pairs = [each for each in gaps if each[1] != DEFAULT]
    tests = [ttest_ind_from_stats(*gaps[each], *gaps[each[0], DEFAULT], equal_var=False) for each in pairs]
    adjusted = dict(zip(pairs, holm([test.pvalue for test in tests]), strict=True))
    told = []
    for kind in ("gemu", "gefeu"):
        of = " of the distance" * (not told)
        parts = [f"{100 * gaps[kind, DEFAULT][0]:.0f} %{of} for {DEFAULT}"]
        for words in (words for words in found if words != DEFAULT):
            both = [found[words], found[DEFAULT]]
            sure = adjusted[kind, words] < 0.05 and min(map(models_in, both)) >= FEWEST_FOR_VERDICTS
            sure = sure and not any(diverged(each, kind) for each in both)
            word = "easier" if gaps[kind, words][0] > gaps[kind, DEFAULT][0] else "harder"
            parts.append(f"{100 * gaps[kind, words][0]:.0f} % for {words}{f' ({word})' * bool(sure)}")
        told.append(f"{TITLES[kind]} closes {', '.join(parts)}")
    question = "Is a feature harder to forget than a class or a random part?"
    without = f" Trained and retrained models hardly differ on {', '.join(lost)}." if lost else ""
    return f"{question} With settings tuned for {DEFAULT} {'; '.join(told)} (marked where p < 5 %, Holm).{without}"


def _gap(results: pd.DataFrame, kind: str) -> tuple[float, float, int]:
    """Share of the distance closed: mean, standard error times the root of the number of models, their number."""
    found, n = estimate(results, kind, "energy_gap", headline(results), "forget"), models_in(results)
    return found.mean, (found.high - found.mean) / t.ppf(0.975, n - 1) * n**0.5, n
