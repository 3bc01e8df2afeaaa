"""What unlearning costs against what it reaches."""

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.ticker import FixedLocator

from helpers.data.task import NAMES
from helpers.evaluation.frame import MEASURES, forgets_more, mean, time_share, values
from helpers.report.style import OVER, Figure, colour_of, figure, marker_of
from helpers.report.tables import no_gap
from helpers.unlearning import METHODS, TITLES


def cost_and_gap(results: pd.DataFrame, measure: str = "energy_gap") -> Figure:
    """Gap closed on the forget test set against time as a share of retraining, one panel per data set in the frame.

    Methods beyond the axis stand at its edge, with their values in words.
    """
    datasets = [name for name in NAMES if name in set(results.dataset)]
    made, axes = figure(1, len(datasets), (4.9 * len(datasets) + 1.2, 4.4), sharey=True)
    over = False
    for axis, dataset in zip(axes[0], datasets, strict=True):
        over |= _one_panel(axis, results[results.dataset == dataset], measure)
        axis.set_title(NAMES[dataset], fontsize=10)
    axes[0, 0].set_ylabel(f"{MEASURES[measure].title} on forget (test), %")
    note = "Whiskers: standard deviation over the models; in brackets: accuracy on retain against retrained models, points."
    made.supxlabel(note + (f"\nOpen marker: {OVER}." if over else ""), fontsize=7.5)
    return made


def _one_panel(axis, results: pd.DataFrame, measure: str) -> bool:
    """Draws one data set; True where a method forgets more than retraining does."""
    oracle, low, high = "retrained", -20.0, 118.0
    axis.set(xscale="log", ylim=(low, high), xlabel="time, % of retraining")
    for level, kind, words in (
        (100, "retrained", "as close as another retrained model"),
        (0, "trained", "Trained: doing nothing"),
    ):
        axis.axhline(level, color=colour_of(kind), lw=0.7, ls=":")
        axis.text(0.01, level + 1, words, fontsize=7.5, color=colour_of(kind), transform=axis.get_yaxis_transform())
    axis.plot(100, 100, marker_of(oracle), ms=10, color=colour_of(oracle), zorder=3)
    axis.annotate(TITLES[oracle], (100, 100), (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
    labels, places, more = [], [], False
    for kind in (kind for kind in METHODS if kind in set(results.kind)):
        gap = 100 * values(results, kind, measure, "test", "forget")
        share = 100 * time_share(results, kind)
        if not (np.isfinite(gap).all() and np.isfinite(share)):
            continue
        lost = 100 * (
            mean(results, kind, "accuracy", "test", "retain") - mean(results, oracle, "accuracy", "test", "retain")
        )
        words, y, over = f"{TITLES[kind]} ({_signed(lost, '+.1f')})", gap.mean(), forgets_more(results, kind)
        if not low < y < high:
            words += f": {_signed(y, ',.0f')} %"
            y = np.clip(y, low + 3, high - 3)
        else:
            axis.errorbar(share, y, gap.std(), color=colour_of(kind), lw=0.8, zorder=2)
        axis.plot(
            share, y, marker_of(kind), ms=6, mfc="white" if over else colour_of(kind), mec=colour_of(kind), zorder=3
        )
        labels.append(axis.text(share, y, words, fontsize=7.5))
        places.append((share, y))
        more |= over
    axis.set_xlim(0.6 * min([share for share, _ in places], default=1.0), 250)
    axis.xaxis.set_major_locator(FixedLocator([0.1, 0.3, 1, 3, 10, 30, 100]))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    if labels:
        axis.figure.draw_without_rendering()  # the layout decides where words have room
        adjust_text(
            labels,
            *zip(*places, strict=True),
            ax=axis,
            expand=(1.25, 1.7),
            iter_lim=300,
            arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.5},
        )
    if no_gap(results):
        axis.set_xlabel("time, % of retraining\nno gap to close: trained models are as close as retrained ones")
    return more


def _signed(value: float, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")
