"""What unlearning costs against what it reaches: the budget frontier that plain retraining draws, and every method
beside it.

A panel has three parts that share their vertical axis: cost against value, with the lines; the methods side by side,
with their intervals; and their names in a column, in the order of their values. Lengths are in inches, or in points
where a name says so (72 points are an inch).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator
from scipy.optimize import isotonic_regression

from helpers.data.task import NAMES
from helpers.evaluation.frame import difference, estimate, forgets_more, headline, mean, null_of, values
from helpers.report.style import OVER, Figure, colour_of, empty, marker_of
from helpers.report.tables import central_range, models_in, no_gap
from helpers.unlearning import METHODS, OURS, TITLES

LINES = ("new", "reset")
PANELS = {  # what a panel shows -> measure, split, subset
    "distance closed, %": ("energy_gap", "", "forget"),  # of the split that has the headline
    "U-LiRA attack accuracy": ("u_lira", "train", "forget"),
    "accuracy lost on the rest, points": ("accuracy", "test", "retain"),
}
EDGES = {  # of a panel's vertical axis, at most; see `edges`
    "distance closed, %": (0, 104),
    "U-LiRA attack accuracy": (0.4, 1.02),
    "accuracy lost on the rest, points": (-0.3, 2.2),
}
HEAD, FOOT, NOTE = 0.36, 0.56, 0.3  # above and below a row of panels; the note under all
TICKS, GAP, LEADER, END = 0.36, 0.06, 0.15, 0.1  # left of the lines; to the methods; to the names; right of these
SLOT, MOST_SLOTS = 6.0, 5  # points: of methods that stand side by side
TEXT, APART = 6.5, 8.4  # points: size of names, and from one name to the next


@dataclass(frozen=True)
class Dot:
    """A method in a panel. cost: in samples, % of retraining's; value, low, high: as `point` gives them;
    shown: its value, or the edge of the panel beyond which it lies; words: its name, with its value where that lies
    beyond; over: whether it forgets more than retraining does."""

    kind: str
    cost: float
    value: float
    low: float
    high: float
    shown: float
    words: str
    over: bool

    @property
    def inside(self) -> bool:
        return self.shown == self.value

    @property
    def look(self) -> dict:
        """What matplotlib needs to draw its marker."""
        fill = "white" if self.over else colour_of(self.kind)
        size = 5.5 if self.kind in OURS else 4.5
        return {"marker": marker_of(self.kind), "ms": size, "mfc": fill, "mec": colour_of(self.kind), "ls": "none"}

    @property
    def text(self) -> dict:
        """Size and weight of its name."""
        return {"size": TEXT, "weight": "bold" if self.kind in OURS else "normal"}


def frontier(results: pd.DataFrame, width: float = 9.6) -> Figure:
    """Cost in samples against gap closed, attack and accuracy lost, one row of three panels per data set in the frame.

    Lines: a new model, and one whose upper layers were drawn anew, trained on D_r with so many samples; bands and
    whiskers: 95 % intervals; grey: null distribution, retrained against retrained. Lines may leave a panel; methods
    beyond it stand at its edge, with their value.
    """
    frames = {name: results[results.dataset == name] for name in NAMES if name in set(results.dataset)}
    found = {name: {title: dots(mine, title) for title in PANELS} for name, mine in frames.items()}
    tall = tall_enough(found.values())
    height = NOTE + len(frames) * (HEAD + tall + FOOT)
    made = empty((width, height))
    for row, (name, mine) in enumerate(frames.items(), 1):
        bottom = height - row * (HEAD + tall + FOOT) + FOOT
        panels(made, mine, found[name], (0.15, bottom, width - 0.15, tall), named=names_width(found.values()))
        made.text(0.12 / width, (bottom + tall / 2) / height, NAMES[name], rotation=90, ha="center", va="center")
    every = [dot for panel in found.values() for each in panel.values() for dot in each]
    made.text(0.5, 0.06 / height, note(any(dot.over for dot in every)), fontsize=7, ha="center", va="bottom")
    made.alt = " ".join(in_words(mine) for mine in frames.values())
    return made


def note(over: bool) -> str:
    """What stands under the panels."""
    words = "Lines: the same method on several budgets. Right of them: every method, side by side, and its name. "
    words += "Whiskers and bands: 95 % intervals; of U-LiRA the range of 95 % of 20 random halves.\n"
    words += "Grey: null distribution, retrained against retrained. Arrows: values beyond the panel."
    return words + (f" Open marker: {OVER.removeprefix('over: ')}." if over else "")


def in_words(results: pd.DataFrame) -> str:
    """Two sentences for readers who do not see the panels of one data set."""
    part = part_of(results, "distance closed, %")
    gaps = {TITLES[kind]: 100 * mean(results, kind, *part) for kind in METHODS}
    gaps = {title: gap for title, gap in gaps.items() if np.isfinite(gap)}
    about = "samples that a method sees against the distance to retrained models that it closes, an attack and a loss"
    about = f"{NAMES[results.iloc[0].dataset]}: {about}."
    if no_gap(results) or not gaps:
        return about
    order = sorted(gaps, key=gaps.get, reverse=True)
    return f"{about} Distance closed: {', '.join(f'{title} {gaps[title]:.0f} %' for title in order)}."


def part_of(results: pd.DataFrame, title: str) -> tuple[str, str, str]:
    measure, split, subset = PANELS[title]
    return measure, split or headline(results), subset


def point(results: pd.DataFrame, kind: str, title: str) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval (of U-LiRA of the range of 95 % of random halves), of what a panel shows;
    nan where it was not measured."""
    part = part_of(results, title)
    found = values(results, kind, *part)
    if not np.isfinite(found).any():
        return (np.nan,) * 3
    if part[0] == "u_lira":
        return float(np.nanmean(found)), *central_range(found)
    lost = part[0] == "accuracy"
    found = difference(results, "retrained", kind, *part) if lost else estimate(results, kind, *part)
    return 100 * found.mean, 100 * found.low, 100 * found.high


def cost(results: pd.DataFrame, kind: str) -> float:
    """Samples, in per cent of those that retraining sees."""
    return 100 * mean(results, kind, "samples_share")


def budgets(known: set[str], base: str) -> list[str]:
    """The kinds of a line that are in the frame, whatever budgets the present code would measure: "new_02", "
    "new_05", ..."""
    found = {kind: kind.removeprefix(f"{base}_") for kind in known if kind.startswith(f"{base}_")}
    return sorted((kind for kind, share in found.items() if share.isdecimal()), key=lambda kind: int(found[kind]))


def dots(results: pd.DataFrame, title: str) -> list[Dot]:
    """The methods of a frame that have a value in a panel, from the lowest value to the highest."""
    known, found = set(results.kind), []
    every = {kind: (cost(results, kind), *point(results, kind, title)) for kind in METHODS if kind in known}
    every = {kind: (x, y, *ends) for kind, (x, y, *ends) in every.items() if np.isfinite([x, y]).all() and x > 0}
    low, high = edges([y for _, y, *_ in every.values()], title)
    for kind, (x, y, *ends) in every.items():
        words, shown = TITLES[kind], float(np.clip(y, low, high))
        if shown != y:
            digits = 2 if PANELS[title][0] == "u_lira" else int(abs(y) < 10)
            value = f"{y:,.{digits}f}".replace("-", "\N{MINUS SIGN}")
            words += f" {'↑' if y > high else '↓'} {value}"
        found.append(Dot(kind, x, y, *ends, shown, words, forgets_more(results, kind)))
    return sorted(found, key=lambda dot: dot.value)


def edges(found: list[float], title: str) -> tuple[float, float]:
    """Ends of a panel's vertical axis. found: the methods' values. Where most of them lie together they need room:
    distances closed begin at the tens below their lower quarter, at 70 % at most; accuracy lost ends half a point to a
    point above its upper quarter."""
    low, high = EDGES[title]
    if PANELS[title][0] == "energy_gap" and found:
        low = float(np.clip(10 * np.floor(np.quantile(found, 0.25) / 10), low, 70))
    if PANELS[title][0] == "accuracy" and found:
        high = float(np.clip(0.5 * np.ceil(2 * np.quantile(found, 0.75)) + 0.5, 1, high))
    return low, high


def _edges(found: list[Dot], title: str) -> tuple[float, float]:
    return edges([dot.value for dot in found], title)


def tall_enough(found) -> float:
    """Height of a panel that has room for the names. found: as `dots` gives them, of each data set by panel."""
    most = max((len(each) for panel in found for each in panel.values()), default=0)
    return max(2.4, (most + 1) * APART / 72)


def names_width(found) -> dict[str, float]:
    """Width of the longest name of each panel. found: as in `tall_enough`."""
    found = list(found)
    return {
        title: max((_width(dot.words, **dot.text) for panel in found for dot in panel[title]), default=0.0)
        for title in PANELS
    }


def _width(words: str, size: float, weight: str) -> float:
    return TextPath((0, 0), words, size=size, prop=FontProperties(weight=weight)).get_extents().width / 72


def panels(made: Figure, results: pd.DataFrame, found: dict[str, list[Dot]], box: tuple, named: dict) -> None:
    """A row of panels for one data set. box: left, bottom, width, height of the lines' axes with all that stands beside
    them; found: as `dots` gives them, by panel; named: width of the longest name, by panel."""
    left, bottom, width, height = box
    slots = {title: _slots(each, _edges(each, title), 72 * height) for title, each in found.items()}
    beside = MOST_SLOTS * SLOT / 72 * any(found.values())
    around = {title: TICKS + GAP + beside + LEADER + named[title] + END for title in PANELS}
    lines = max(0.6, (width - sum(around.values())) / len(PANELS))
    whole = made.get_size_inches()
    for title in PANELS:
        at = ((left + TICKS) / whole[0], bottom / whole[1], lines / whole[0], height / whole[1])
        axis = made.add_axes(at)
        models = f", {models_in(results)} models" * (PANELS[title][0] == "u_lira")
        axis.set_title(title + models, fontsize=9, loc="left", pad=9)
        _lines(axis, results, title, found[title], beside / lines, GAP / lines)
        _methods(axis, found[title], slots[title], title, (lines, height, beside))
        _ticks(axis, 72 * lines)
        left += lines + around[title]
    if no_gap(results):
        axis = made.axes[-len(PANELS)]
        axis.set_title("distance closed is undefined:\ntrained and retrained do not differ", fontsize=7, loc="left")


def _ticks(axis, points: float) -> None:
    """As many on the axis of costs as have room. points: its width."""
    decades = np.diff(np.log10(axis.get_xlim()))[0]
    steps = (1, 2, 5) if 0.3 * points > 18 * decades else (1, 5) if 0.3 * points > 16 * decades else (1,)
    ticks = [step * 10.0**power for power in range(-6, 7) for step in steps]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.tick_params(labelsize=7)
    axis.set_xlabel("cost in samples,\n% of retraining's", fontsize=7)


def _usual(found: list[Dot]) -> float:
    """The cost that most methods have, nearly; nan without methods."""
    return float(np.median([dot.cost for dot in found])) if found else np.nan


def _lines(axis, results: pd.DataFrame, title: str, found: list[Dot], beside: float, gap: float) -> None:
    """Cost against value: the two lines, the null distribution (behind the methods too), our own methods and those of
    another cost than most have."""
    known, part, (low, high) = set(results.kind), part_of(results, title), _edges(found, title)
    null = np.array(null_of(results, *part))
    scale = 1 if part[0] == "u_lira" else 100
    null = scale * (mean(results, "retrained", *part) - null if part[0] == "accuracy" else null)
    if np.isfinite(null).all():
        ends = np.clip([null.min(), null.max()], low, high)
        for x in ([0, 1], [1 + gap, 1 + gap + beside]) if beside else ([0, 1],):
            across = axis.get_yaxis_transform()
            axis.fill_between(x, *ends, color="0.87", lw=0, zorder=0, transform=across, clip_on=False)
    costs, usual = [], _usual(found)
    for base in (*LINES, *OURS):
        kinds = budgets(known, base)
        kinds += [base] * (base in OURS and bool(kinds))
        every = {cost(results, kind): point(results, kind, title) for kind in kinds}
        x = sorted(at for at, ends in every.items() if np.isfinite(at) and np.isfinite(ends[0]))
        if x:
            ends = np.array([every[at] for at in x])
            looks = {"color": colour_of(base), "marker": marker_of(base)}
            axis.plot(x, ends[:, 0], lw=1.4, ms=3, zorder=2, **looks)
            axis.fill_between(x, *ends[:, 1:].T, color=colour_of(base), alpha=0.2, lw=0, zorder=1)
            costs += x
    for dot in found:
        costs.append(dot.cost)
        apart = abs(np.log(dot.cost / usual)) > np.log(1.25)
        if apart or dot.kind in OURS:
            axis.plot(dot.cost, dot.shown, **dot.look, zorder=4, clip_on=False)
        if apart and dot.inside:
            axis.plot([dot.cost, 2000], [dot.shown] * 2, color=colour_of(dot.kind), lw=0.7, ls=":", zorder=1)
    costs = [x for x in costs if np.isfinite(x) and x > 0] or [1, 100]
    axis.set(xscale="log", ylim=(low, high), xlim=(0.75 * min(costs), 1.35 * max(costs)))
    if np.isfinite(usual):
        axis.axvline(usual, color="0.75", lw=0.6, zorder=0)


def _slots(found: list[Dot], edges: tuple[float, float], points: float) -> list[int]:
    """Which of the columns each method stands in, so that neither markers nor whiskers meet, or markers alone do not
    where there would be too many columns; 0 for those beyond the panel. points: height of the panel."""
    scale, taken, slots = points / (edges[1] - edges[0]), [[] for _ in range(MOST_SLOTS)], []
    for dot in found:
        middle = scale * dot.shown
        reach = [scale * end for end in np.clip([dot.low, dot.high], *edges)]
        reach = (min(reach[0], middle - 3.5), max(reach[1], middle + 3.5))
        free = [all(low > reach[1] or high < reach[0] for _, (low, high) in column) for column in taken]
        if not any(free):
            free = [all(abs(other - middle) > 7 for other, _ in column) for column in taken]
        slot = free.index(True) if any(free) else min(range(MOST_SLOTS), key=lambda each: len(taken[each]))
        if dot.inside:
            taken[slot].append((middle, reach))
        slots.append(slot * dot.inside)
    return slots


def heights(wanted, apart: float, room: float) -> np.ndarray:
    """Where labels stand that want to be at heights [n], ascending: as near to them as they can be (least squares) with
    at least `apart` between two of them, or what there is of it, within 0 to room."""
    steps = min(apart, room / max(1, len(wanted) - 1)) * np.arange(len(wanted))
    if not len(steps):
        return steps
    return isotonic_regression(np.asarray(wanted, float) - steps).x.clip(0, room - steps[-1]) + steps


def _methods(axis, found: list[Dot], slots: list[int], title: str, sizes: tuple[float, float, float]) -> None:
    """The methods side by side, and their names. sizes: width and height of the axes, width of the methods."""
    (low, high), (width, height, beside) = _edges(found, title), sizes
    scale, across = (high - low) / height, axis.get_yaxis_transform()
    places = low + scale * heights([(dot.shown - low) / scale for dot in found], APART / 72, height)
    looks = {"transform": across, "clip_on": False}
    for dot, slot, place in zip(found, slots, places, strict=True):
        x, end = 1 + (GAP + (slot + 0.5) * SLOT / 72) / width, 1 + (GAP + beside) / width
        name = end + LEADER / width
        leader = {"color": "0.65", "lw": 0.5}
        if dot.kind in LINES:  # as its line in the panel
            leader = {"color": colour_of(dot.kind), "lw": 1.4}
        if dot.inside:
            axis.plot([x, x], np.clip([dot.low, dot.high], low, high), color=colour_of(dot.kind), lw=0.8, **looks)
            axis.plot([x, end, name - 0.03 / width], [dot.shown, dot.shown, place], **leader, **looks)
            axis.plot(x, dot.shown, **dot.look, **looks, zorder=4, label=dot.kind)
        elif dot.kind in LINES:
            axis.plot([end, name - 0.03 / width], [place, place], **leader, **looks)
        axis.text(name, place, dot.words, transform=across, va="center_baseline", **dot.text)
    if found:
        middle = 1 + (GAP + beside / 2) / width
        under = f"all, most\nat {_usual(found):.2g} %"
        axis.text(middle, -0.02, under, fontsize=TEXT, ha="center", va="top", transform=axis.transAxes)
