"""Figures: each one function from the results frame to a Figure.

Whatever the results are, a figure is drawn: what has no value is left out, what lies beyond an axis stands at its edge
in words.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from helpers.data.dataset import COLOURS
from helpers.evaluation.frame import estimate, forgets_more, headline, interval, mean, null_of, select, values
from helpers.evaluation.measures import MEASURES
from helpers.models.cnn import LAYERS
from helpers.report.style import OVER, Figure, colour_of, figure, hatch_of, marker_of
from helpers.report.tables import central_range, kinds_in, models_in, no_gap
from helpers.unlearning import METHODS, TITLES

FAR = 10.0  # percentage points of retain accuracy; a kind that loses more would hide the others
PANELS = (  # of the audit: measure, split, subset
    ("loss_attack", "train", "forget"),
    ("u_lira", "train", "forget"),
    ("klom", "train", "forget"),
    ("relearn_steps", "train", "forget"),
    ("probe", "test", "forget"),
    ("excess", "train", "forget"),
)


def _titled(found: pd.DataFrame, kinds: list[str], scale: float = 1.0) -> dict:
    """What seaborn needs to colour a selection by kind: its data, order and palette."""
    kinds = [kind for kind in kinds if kind in set(found.kind)]
    data = found.assign(models=found.kind.map(TITLES), value=scale * found.value)
    names = [TITLES[kind] for kind in kinds]
    return {
        "data": data,
        "hue": "models",
        "hue_order": names,
        "palette": dict(zip(names, map(colour_of, kinds), strict=True)),
    }


def _axis_label(measure: str) -> str:
    about = MEASURES[measure]
    return f"{about.title}, {about.unit}" if about.unit else about.title


def _dots(axis, results: pd.DataFrame, kinds: list[str], measure: str, split: str, subset: str) -> None:
    """One row of dots per kind, from the top, one dot per model, a line at the mean."""
    random = np.random.default_rng(0)
    for y, kind in enumerate(kinds):
        x = MEASURES[measure].scale * values(results, kind, measure, split, subset)
        colour = colour_of(kind)
        axis.scatter(x, y + random.uniform(-0.22, 0.22, len(x)), s=9, color=colour, alpha=0.6, lw=0, clip_on=False)
        if len(x):
            axis.vlines(x.mean(), y - 0.36, y + 0.36, color=colour, lw=2)
    axis.set_yticks(range(len(kinds)), map(TITLES.get, kinds))
    axis.set_ylim(len(kinds) - 0.4, -0.6)
    axis.grid(axis="y", color="0.93", lw=0.6)
    axis.set_axisbelow(True)


def _said(results: pd.DataFrame, kinds: list[str], measure: str, split: str, subset: str, digits=1, at="") -> str:
    """The means of the kinds in a sentence: "Trained 95.6, Retrained 10.7"."""
    means = {kind: MEASURES[measure].scale * mean(results, kind, measure, split, subset, at) for kind in kinds}
    return ", ".join(
        f"{TITLES[kind]} {round(value, digits) + 0.0:.{digits}f}" for kind, value in means.items() if np.isfinite(value)
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"


def accuracy_figure(results: pd.DataFrame, kinds: list[str] | None = None) -> Figure:
    """Accuracy of every single model, one panel per subset."""
    kinds = list(kinds or kinds_in(results))
    parts = (("test", "retain"), ("test", "neighbours"), ("test", "forget"), ("train", "forget"))
    parts = [part for part in parts if len(values(results, "trained", "accuracy", *part))]
    made, axes = figure(1, len(parts), (9.6, 1.1 + 0.2 * len(kinds)), sharey=True)
    for axis, (split, subset) in zip(axes[0], parts, strict=True):
        _dots(axis, results, kinds, "accuracy", split, subset)
        axis.set_title(f"{subset} ({split})")
        axis.set_xlabel("accuracy, %")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(FixedLocator(range(0, 101, 25)) if high - low > 50 else MaxNLocator(4))
        if high - low > 50:
            axis.set_xlim(min(low, 0), max(high, 100))
    axes[0, 0].tick_params(axis="y", labelsize=7.5 if len(kinds) > 6 else 9)
    split = headline(results)
    made.alt = (
        "Accuracy of every single model on retained and forgotten samples, one row per kind of model. Means on the "
        f"forget set ({split}), in %: {_said(results, kinds, 'accuracy', split, 'forget')}."
    )
    return made


def gap_figure(results: pd.DataFrame, kinds: list[str] | None = None) -> Figure:
    """Distance of each model to retrained ones on the forget set: energy distance, and KL between floor and ceiling."""
    kinds, split = list(kinds or kinds_in(results)), headline(results)
    made, axes = figure(1, 2, (9.6, 1.2 + 0.26 * len(kinds)), sharey=True)
    for axis, measure in zip(axes[0], ("energy", "kl"), strict=True):
        _dots(axis, results, kinds, measure, split, "forget")
        axis.set_xlabel(f"{_axis_label(measure)}, forget ({split})", fontsize=8)
        ends = {kind: mean(results, kind, measure, split, "forget") for kind in ("retrained", "trained")}
        sides = ["right", "left"] if ends["trained"] < ends["retrained"] else ["left", "right"]
        for (kind, end), word, side in zip(ends.items(), ("floor", "ceiling"), sides, strict=True):
            axis.axvline(end, color=colour_of(kind), lw=0.8, ls="--")
            above = 1.02 if word == "floor" else 1.1  # where both ends are close the words stand one above the other
            looks = {"fontsize": 7, "color": colour_of(kind), "transform": axis.get_xaxis_transform()}
            axis.text(end, above, f"{word}: {TITLES[kind].lower()}", ha=side, **looks)
    if select(results, "kl", split, "forget", kinds=kinds).value.gt(0).all():
        axis = axes[0, 1]
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    if no_gap(results):
        made.supxlabel(no_gap(results), fontsize=7, wrap=True)
    made.alt = (
        f"Distance of every single model to retrained models on the forget set ({split}). Mean energy distance: "
        f"{_said(results, kinds, 'energy', split, 'forget', 2)}; mean KL divergence in nats: "
        f"{_said(results, kinds, 'kl', split, 'forget', 2)}."
    )
    return made


BARS = {  # what bars show -> measure, factor, label of the axis
    "predictions": ("predicted", 100, "share, %"),
    "accuracy by colour": ("accuracy", 100, "accuracy on forget, %"),
    "loss": ("loss", 1, "loss minus that of\nretrained models, nats"),
    "weights": ("weight_distance", 1, "L2 distance of the weights\nfrom the trained model"),
    "activations": ("activation_change", 1, "mean absolute change of the\nactivations from the trained model"),
}


def bars_figure(results: pd.DataFrame, kinds: list[str], what: str) -> Figure | str:
    """Groups of bars, one bar per kind; the whisker is the standard deviation over the models.

    what: "predictions", the classes that the forget samples are taken for (of the test split, where that has some);
    "accuracy by colour", on the forget set of the test split (Colored MNIST); "loss", mean cross-entropy per subset
    minus that of the retrained models; "weights", "activations", how far each layer moved from the trained model."""
    measure, factor, label = BARS[what]
    found, x = select(results, measure, None, None, None, kinds), "at"
    made, axes = figure(1, 1, (8.0, 2.8))
    axis, order, split = axes[0, 0], list(map(str, range(10))), headline(results)
    if what == "predictions":
        found = found[found.split == split]
        axis.set(xlabel=f"predicted class of the forget samples ({split})", ylim=(0, 104))
    elif what == "accuracy by colour":
        x, order = "subset", [f"forget_{colour}" for colour in COLOURS]
        found = found[found.subset.isin(order)]
        if found.empty:
            return "There are no colours here: on Colored MNIST this shows the forget set by colour."
        axis.set_xlabel("ground colour of the forget samples (test)")
        found, order = found.assign(subset=found.subset.str.removeprefix("forget_")), list(COLOURS)
    elif what == "loss":
        x, found = "part", found.assign(part=found.subset + " (" + found.split + ")")
        target = found[found.kind == "retrained"].groupby("part").value.mean()
        found = found.assign(value=found.value - found.part.map(target))[found.kind != "retrained"]
        order = ["retain (test)", "neighbours (test)", "forget (test)", "forget (train)"]
        axis.axhline(0, color="black", lw=0.8)
        axis.set_yscale("symlog", linthresh=0.1)
        axis.yaxis.set_major_locator(FixedLocator([-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100, 1000, 10_000]))
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        order = [*LAYERS, "total"]
        found = (
            found[found.kind != "trained"] if found.kind.nunique() > 1 else found
        )  # which is no distance from itself
        axis.set_xlabel("layer")
    label_below = axis.get_xlabel()
    about = _titled(found, kinds, factor)
    order = [place for place in order if place in set(found[x])]
    whiskers = {"errorbar": "sd", "err_kws": {"color": "0.45", "linewidth": 0.8}}
    sns.barplot(**about, x=x, y="value", order=order, ax=axis, saturation=1, **whiskers)
    there = [kind for kind in kinds if TITLES[kind] in about["hue_order"]]
    for bars, kind in zip(axis.containers, there, strict=False):
        for bar in bars:
            bar.set(hatch=hatch_of(kind), edgecolor="white", linewidth=0)
    axis.set_xlabel(label_below)
    axis.set_ylabel(label, fontsize=8)
    if axis.get_legend():
        for key, kind in zip(axis.get_legend().legend_handles, there, strict=False):
            key.set(hatch=hatch_of(kind), edgecolor="white", linewidth=0)
        sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=None, fontsize=8, frameon=False)
    means, said = about["data"].groupby([x, "models"], sort=False).value.mean(), []
    for place in order:
        each = {name: means[place, name] for name in about["hue_order"] if (place, name) in means}
        if what != "predictions" or max(each.values()) >= 10:  # the classes that matter
            said.append(f"{place}: " + ", ".join(f"{name} {_short(value)}" for name, value in each.items()))
    shown = f"{label} of the {axis.get_xlabel()}" if what == "predictions" else label
    made.alt = f"One bar for each kind of model: {' '.join(shown.split())}. {'; '.join(said)}."
    return made


def class_figure(results: pd.DataFrame, kinds: list[str]) -> Figure:
    """Accuracy per class, mean and standard deviation over the models, with the forget set and its neighbours beside
    them; below, enlarged, the subsets that should stay as they are, without the kinds that lose most on them."""
    there = set(select(results, "accuracy", "test", None).subset)
    subsets = [name for name in (*map(str, range(10)), "neighbours", "forget") if name in there]
    stay = [name for name in subsets if name != "forget" and not _touched(results, name)]
    oracle = mean(results, "retrained", "accuracy", "test", "retain")
    near = [kind for kind in kinds if 100 * (oracle - mean(results, kind, "accuracy", "test", "retain")) <= FAR]
    made, axes = figure(2, 1, (9.0, 5.0))
    found = select(results, "accuracy", "test", None, kinds=kinds)
    words = {"neighbours": "neigh-\nbours", "forget": "to be\nforgotten"}
    for axis, there, names in ((axes[0, 0], kinds, subsets), (axes[1, 0], near, stay)):
        about = _titled(found[found.kind.isin(there) & found.subset.isin(names)], there, 100)
        markers = [marker_of(kind) for kind in there if TITLES[kind] in about["hue_order"]]
        looks = {"linestyles": "none", "markersize": 4.5, "err_kws": {"linewidth": 1}, "dodge": 0.6, "markers": markers}
        if not about["data"].empty:
            sns.pointplot(**about, x="subset", y="value", order=names, errorbar="sd", ax=axis, **looks)
            if axis is axes[0, 0]:  # below are the same kinds
                sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=None, fontsize=8, frameon=False)
            else:
                axis.get_legend().remove()
        low, high = axis.get_ylim()
        axis.set(ylabel="accuracy, %", xlabel="", ylim=(max(low, -3), min(high, 103)))
        axis.set_xticks(range(len(names)), [words.get(name, name) for name in names])
    left_out = [TITLES[kind] for kind in kinds if kind not in near]
    title = "what should stay as it is, enlarged" + (f", without {' and '.join(left_out)}" if left_out else "")
    axes[1, 0].set_title(title, fontsize=9)
    axes[1, 0].set_xlabel("class, or subset, of the test split")
    made.alt = (
        "Accuracy per class of the test split, mean and standard deviation over the models. Means on all retained "
        f"samples, in %: {_said(results, kinds, 'accuracy', 'test', 'retain')}."
    )
    return made


def _touched(results: pd.DataFrame, subset: str) -> bool:
    """Whether a class loses something in retrained models, and more than FAR points of it: what is forgotten is of
    it."""
    before, after = (mean(results, kind, "accuracy", "test", subset) for kind in ("trained", "retrained"))
    return subset.isdecimal() and 100 * (before - after) > FAR


TRAINED_ON = {  # phase -> what its cross-entropy is of
    "maximise error": "noise, classifier frozen",
    "impair": "noise and retained samples",
    "repair": "retained samples",
    "ascend": "the forget set",
}


def curves_figure(results: pd.DataFrame, kind: str) -> Figure:
    """Cross-entropy at each step, mean over the models: one panel for each phase, in their order of time, a common
    axis of cross-entropy."""
    phases = list(select(results, "curve", at=None, kinds=[kind]).groupby("at", sort=False))
    widths = [max(1.0, min(2.5, len(each) / 40)) for _, each in phases] or [1.0]
    options = {"sharey": True, "gridspec_kw": {"width_ratios": widths}}
    made, axes = figure(1, len(widths), (min(9.6, 2.4 + 2.4 * len(widths)), 2.7), **options)
    for place, (axis, (phase, each)) in enumerate(zip(axes[0], phases, strict=False), 1):
        steps = each.step.to_numpy(int) + 1
        axis.plot(steps, each.value, color=colour_of(kind), marker="." if len(steps) < 20 else None)
        number = f"{place}. " if len(phases) > 1 else ""
        axis.set_title(f"{number}{phase}", fontsize=9, weight="bold", loc="left", pad=16)
        below = f"on {TRAINED_ON[phase]}" if phase in TRAINED_ON else ""
        below = below.replace("on noise", "on pictures with noise") if kind == "gefeu" else below
        axis.text(0, 1.03, below, fontsize=7.5, transform=axis.transAxes)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes[0, 0].set_ylabel("cross-entropy, nats")
    every = np.concatenate([each.value for _, each in phases] or [[1.0]])
    if every.min() > 0 and every.max() > 30 * every.min():
        axes[0, 0].set_yscale("log")
        axes[0, 0].yaxis.set_major_formatter("{x:g}")
    said = [f"{phase} from {each.value.iloc[0]:.3g} to {each.value.iloc[-1]:.3g}" for phase, each in phases]
    made.alt = f"Cross-entropy of {TITLES[kind]} at each step, in nats, mean over the models: {', '.join(said)}."
    return made


def resurgence_figure(results: pd.DataFrame, kinds: list[str]) -> Figure:
    """Accuracy on the forget set while a model is trained on retained samples alone: what was only hidden returns. Mean
    over the models that were probed; grey: the null distribution."""
    made, axes = figure(1, 2, (9.6, 2.8), sharey=True)
    for axis, split in zip(axes[0], ("train", "test"), strict=True):
        found = select(results, "resurgence", split, "forget", None)
        passes = sorted({float(at) for at in found["at"] if at})
        null = np.array([null_of(results, "resurgence", split, "forget", f"{at:g}") for at in passes])
        if len(null) and np.isfinite(null).all():
            axis.fill_between(passes, *(100 * null.T), color="0.85", lw=0)
        for kind in (kind for kind in kinds if kind in set(found.kind)):
            y = [100 * mean(results, kind, "resurgence", split, "forget", f"{at:g}") for at in passes]
            axis.plot(passes, y, color=colour_of(kind), marker=marker_of(kind), ms=4, label=TITLES[kind])
        axis.set_title(f"forget ({split})", fontsize=9)
        axis.set_xlabel("passes over a tenth of the retained samples", fontsize=8)
    axes[0, 0].set_ylabel("accuracy, %", fontsize=8)
    axes[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, frameon=False)
    last = f"{max(passes, default=0):g}"
    said = _said(results, kinds, "resurgence", "train", "forget", 0, last)
    made.alt = (
        f"Accuracy on the forget set while models are trained on retained samples alone; after {last} passes over a "
        f"tenth of them, training split, in %: {said or 'not measured'}."
    )
    return made


def audit_figure(results: pd.DataFrame) -> Figure:
    """Attacks and left-overs of every kind with 95 % intervals, of measures of an ensemble with the range of 95 % of
    random halves; grey: the null distribution, retrained against retrained."""
    kinds = [kind for kind in kinds_in(results) if kind != "untrained"][::-1]
    more = {kind for kind in kinds if kind in METHODS and forgets_more(results, kind)}
    made, axes = figure(2, 3, (9.6, 1.3 + 0.36 * len(kinds)), sharey=True)
    for axis, part in zip(axes.flat, PANELS, strict=True):
        about = MEASURES[part[0]]
        less = mean(results, "null", *part) if about.less_null else 0.0
        low, high = null_of(results, *part)
        if np.isfinite(low):
            axis.axvspan(low - less, high - less, color="0.85", lw=0)
        for y, kind in enumerate(kinds):
            found = values(results, kind, *part) - less
            if not np.isfinite(found).any():
                continue
            each = estimate(results, kind, *part)
            ends = central_range(found) if about.drawn else (each.low, each.high)
            ends = interval(found, np.median) if about.median else ends
            axis.hlines(y, *ends, color=colour_of(kind), lw=1.2)
            fill = "white" if kind in more else colour_of(kind)
            axis.plot(
                np.nanmedian(found) if about.median else np.nanmean(found),
                y,
                marker_of(kind),
                ms=5,
                zorder=3,
                mfc=fill,
                mec=colour_of(kind),
                clip_on=False,
            )
        if not np.isfinite(select(results, *part).value).any():
            why = f"needs {about.least} models of each kind" if about.drawn else "not measured"
            axis.text(0.5, 0.5, why, ha="center", fontsize=8, transform=axis.transAxes)
        n = min(
            (len(each) for kind in kinds if len(each := values(results, kind, *part)) and not about.drawn), default=0
        )
        n = n or models_in(results)
        axis.set_title(f"{about.title}, {n} model{'s' * (n != 1)}", fontsize=9)
        axis.set_xlabel(about.unit, fontsize=7.5)
        axis.xaxis.set_major_locator(MaxNLocator(4))  # more would run into each other in a narrow panel
        axis.set_yticks(range(len(kinds)), [TITLES[kind] + " (over)" * (kind in more) for kind in kinds], fontsize=7.5)
        if part[0] == "excess":
            axis.set_xscale("symlog", linthresh=10)
            axis.xaxis.set_major_locator(FixedLocator([-100, 0, 1e4, 1e8]))
            axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if abs(x) < 1e4 else f"$10^{round(np.log10(x))}$")
            axis.xaxis.set_minor_locator(NullLocator())
    if more:
        made.supxlabel(f"open marker and {OVER}", fontsize=7.5)
    told = _said(results, kinds[::-1], "u_lira", "train", "forget", 2)
    made.alt = (
        "Attacks on every kind of model and what is left of the forgotten samples, with 95 % intervals or ranges, "
        "beside what retrained models have against each other"
        + (f". Accuracy of U-LiRA with {models_in(results)} models: {told}." if told else ".")
    )
    return made
