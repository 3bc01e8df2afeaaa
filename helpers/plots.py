"""Figures: each one function from results to a Figure. One typeface, one colour for each kind of model everywhere."""

import io
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import optuna.visualization.matplotlib as optuna_plots
import torch
from IPython.display import Image, Markdown, display
from matplotlib import colormaps, pyplot
from matplotlib import figure as mpl_figure
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator
from PIL import Image as Picture
from torch import Tensor

from helpers.audit import MEASURES, Audit, load_audit
from helpers.cnn import LAYERS
from helpers.datasets import COLOURS, NAMES, Dataset
from helpers.ensembles import Ensemble
from helpers.evaluation import RESULTS, Result, cross_entropies, kl_matrix, load_outputs
from helpers.files import StudyError, written_whole
from helpers.metrics import margin
from helpers.split import FEATURE_CLASS, SUBSETS, Task, load_task, read_ambiguous
from helpers.tables import forgets_more
from helpers.transfer import load_walk
from helpers.unlearning import METHODS

# The five main kinds have colours of Okabe and Ito (purple a little lighter). Seen with deuteranopia and protanopia
# (the matrices of Machado et al., severity 1) their pairs differ by at least 15 in CIEDE2000, all twelve kinds by 13.
COLOUR_OF = {
    "untrained": "#6A6A6A",
    "trained": "#0072B2",
    "retrained": "#000000",
    "ascent": "#D55E00",
    "tuned_ascent": "#990000",
    "gemu": "#009E73",
    "gefeu": "#D987B8",
    "finetune": "#66D9FF",
    "neggrad": "#CCCC00",
    "randomlabels": "#214545",
    "ssd": "#332288",
    "salun": "#C0CD98",
}
# what two colours leave open, on screens and in print, the shape says
MARKER_OF = {
    "untrained": "d",
    "trained": "o",
    "retrained": "*",
    "ascent": "v",
    "tuned_ascent": "^",
    "gemu": "s",
    "gefeu": "D",
    "finetune": "P",
    "neggrad": "X",
    "randomlabels": "h",
    "ssd": "<",
    "salun": ">",
}
# for bars where more than HATCHED kinds stand together
HATCH_OF = {
    "untrained": "...",
    "tuned_ascent": "///",
    "finetune": "xxx",
    "neggrad": "---",
    "randomlabels": "+++",
    "ssd": "ooo",
    "salun": "\\\\\\",
}
HATCHED = 5
SHARE = (0.0, 100.0)  # bounds of what is given in %
FAR = 10.0  # points of retain accuracy; a kind that loses more would hide the others
OVER = "over: forgets more than models that never saw the samples, by two of their standard deviations of the loss"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "unlearning",
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
}


class Figure(mpl_figure.Figure):
    """A matplotlib Figure that a notebook shows as a picture, whatever its backend."""

    def _repr_png_(self) -> bytes:
        return _png(self)


def _png(made: mpl_figure.Figure) -> bytes:
    """In 256 colours, which no figure here exceeds to the eye: a third of the size."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
    picture = Picture.open(drawn).convert("RGB").quantize(256, dither=Picture.Dither.NONE)
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 3.2), layout="constrained", **options):
    """A Figure in the repository's style and its axes."""
    mpl.rcParams.update(STYLE)
    made = Figure(figsize=size, dpi=110, layout=layout)
    return made, made.subplots(rows, columns, squeeze=False, **options)


def save_figure(made: Figure, path) -> None:
    """Writes a figure whole; the format follows the suffix."""
    with written_whole(path) as part:
        made.savefig(part, format=path.suffix[1:], dpi=160)


def store(made: Figure, name: str) -> Figure:
    """Stores a figure as PDF under data/results/figures/ and returns it for showing."""
    save_figure(made, RESULTS / "figures" / f"{name}.pdf")
    return made


@dataclass(frozen=True)
class Scene:
    """What the figures show of one data set: task, results of every kind, audit."""

    task: Task
    results: dict[str, Result]
    audit: Audit

    def of(self, *kinds: str) -> dict[str, Result]:
        return {kind: self.results[kind] for kind in kinds}

    def but(self, *kinds: str) -> dict[str, Result]:
        return {kind: result for kind, result in self.results.items() if kind not in kinds}


def scenes(task: Task, found: dict[str, dict[str, Result]]) -> list[Scene]:
    """What there is of the data sets in `found` (dataset -> kind -> Result), on the task's side; one whose audit is not
    stored is named with the notebook that makes it."""
    there = []
    for dataset, results in found.items():
        try:
            check = load_audit(results)
        except StudyError as missing:
            print(f"{NAMES[dataset]} is not shown. {missing}")
            continue
        there.append(Scene(task if dataset == task.data.name else load_task(dataset, task.side), results, check))
    return there


def show(shown: list[Scene], name: str, draw: Callable) -> None:
    """Shows what `draw` makes of each data set, a Figure or a Table, under its name; figures are stored as PDF."""
    for scene in shown:
        task = scene.task
        display(Markdown(f"**{NAMES[task.data.name]}**, {len(scene.results['retrained'])} models of each kind"))
        try:
            made = draw(scene)
        except StudyError as missing:  # the other data set's figures follow all the same
            made = Markdown(f"Not shown. {missing}")
        display(store(made, f"{task.data.name}-{task.side}-{name}") if isinstance(made, Figure) else made)


# ---- pictures ----


def picture_grid(rows: dict[str, Tensor], data: Dataset, width: float = 9.0, captions: dict | None = None) -> Figure:
    """One titled row of pictures per entry. rows: title -> Tensor [k, c, 28, 28], standardised."""
    columns = max(len(images) for images in rows.values())
    # no layout engine: a long title must not push the columns apart
    made, axes = figure(len(rows), columns, (width, (width / columns + 0.28) * len(rows)), layout=None)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for k, picture in enumerate(data.pictures(images)):
            line[k].imshow(picture.permute(1, 2, 0).squeeze(), cmap="gray_r" if data.channels == 1 else None)
            if captions:
                line[k].set_title(captions[title][k], fontsize=7, pad=2)
        line[0].text(0, 1.3 if captions else 1.08, title, transform=line[0].transAxes, fontsize=9, weight="bold")
    made.subplots_adjust(0, 0, 1, 1, wspace=0.05, hspace=0.55 if captions else 0.25)
    return made


def forget_and_retain(task: Task, half: str = "train", k: int = 14) -> Figure:
    """Forget samples, retained sevens, and the borderline ones with the split's decision, side by side."""
    part, forget = task.half(half), task.forget[half]
    sevens = part.labels == FEATURE_CLASS
    chosen = {
        "forget set": forget,
        "retained sevens": sevens & ~forget,
        "retain set": ~forget,
    }
    random = torch.Generator().manual_seed(0)
    rows, captions = {}, {}
    for title, mask in chosen.items():
        where = mask.nonzero().flatten()
        where = where[torch.randperm(len(where), generator=random)[:k]]
        rows[f"{title} ({int(mask.sum()):,})"] = part.images[where]
        captions[f"{title} ({int(mask.sum()):,})"] = [str(int(i)) for i in part.index[where]]
    decisions = read_ambiguous(half)
    where = torch.isin(part.index, torch.tensor(list(decisions))).nonzero().flatten()
    if len(where):
        shown = where[torch.randperm(len(where), generator=random)[:k]]
        title = f"borderline sevens, with the split's decision ({len(where):,})"
        rows[title] = part.images[shown]
        captions[title] = [decisions[int(i)] for i in part.index[shown]]
    return picture_grid(rows, task.data, captions=captions)


def contact_sheet(task: Task, which: str = "crossbar", half: str = "train", page: int = 0, columns: int = 20) -> Figure:
    """A page of 200 sevens of one list ("crossbar", "plain" or "ambiguous") with their MNIST index, to look through."""
    part = task.half(half)
    sevens = part.labels == FEATURE_CLASS
    crossbar = task.forget[half] if task.side == "crossbar" else sevens & ~task.forget[half]
    borderline = torch.isin(part.index, torch.tensor(list(read_ambiguous(half))))
    masks = {"crossbar": crossbar, "plain": sevens & ~crossbar, "ambiguous": borderline & sevens}
    where = masks[which].nonzero().flatten()[page * 10 * columns : (page + 1) * 10 * columns]
    made, axes = figure(10, columns, (columns * 0.62, 10 * 0.72))
    for axis in axes.flat:
        axis.axis("off")
    for axis, at, picture in zip(axes.flat, where, task.data.pictures(part.images[where]), strict=False):
        axis.imshow(picture.permute(1, 2, 0).squeeze(), cmap="gray_r" if task.data.channels == 1 else None)
        axis.set_title(str(int(part.index[at])), fontsize=6, pad=1)
    return made


def noise_pictures(ensemble: Ensemble, data: Dataset, model: int = 0) -> Figure:
    """What the generator of one model makes, from the start to the end of its training, for the same z."""
    noise = ensemble.records[model]["noise"]
    names = ["before its training", *(f"after {i}/{len(noise) - 1} of its training" for i in range(1, len(noise)))]
    return picture_grid(dict(zip(names, noise, strict=True)), data)


def prediction_page(task: Task, results: dict[str, Result], k: int = 12) -> Figure:
    """Crossbar sevens of the test half with the class that most models of each kind take them for."""
    images, at = task.forget_set("test")[0][:k], task.subsets("test")["forget"][:k].numpy()
    votes = {kind: load_outputs(task, result).test[:, at].argmax(-1) for kind, result in results.items()}
    captions = []
    for place in range(len(images)):
        lines = []
        for kind, result in results.items():
            counts = np.bincount(votes[kind][:, place], minlength=10)
            lines.append(f"{result.title}: {counts.argmax()} ({counts.max()})")
        captions.append("\n".join(lines))
    columns, shown = -(-k // 2), slice(2, 26)  # around the digit two pixels on each side are always ground
    made, axes = figure(2, columns, (10, 2 * (10 / columns + 0.13 * len(results))))
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption in zip(axes.flat, task.data.pictures(images), captions, strict=False):
        cut = picture[:, shown, shown].permute(1, 2, 0).squeeze()
        axis.imshow(cut, cmap="gray_r" if task.data.channels == 1 else None)
        axis.set_anchor("N")
        axis.set_title(caption, fontsize=7, pad=2)
    return made


# ---- distributions and measures ----


def accuracy_figure(results: dict[str, Result], subsets=("retain", "7_retain", "forget", "forget_train")) -> Figure:
    """Accuracy of every single model, one panel per subset, one column of dots per kind."""
    made, axes = figure(1, len(subsets), (max(2.4, 0.9 + 0.24 * len(results)) * len(subsets), 3.0))
    for axis, subset in zip(axes[0], subsets, strict=True):
        _dots(axis, results, {kind: 100 * np.array(result.accuracy[subset]) for kind, result in results.items()})
        axis.set_title(subset)
    axes[0, 0].set_ylabel("accuracy, %")
    return made


def _dots(axis, results: dict[str, Result], values: dict[str, np.ndarray]) -> None:
    random = np.random.default_rng(0)
    for x, (kind, ys) in enumerate(values.items()):
        place = x + random.uniform(-0.15, 0.15, len(ys))
        axis.scatter(place, ys, s=14, color=COLOUR_OF[kind], marker=MARKER_OF[kind], alpha=0.6, lw=0)
        axis.hlines(np.mean(ys), x - 0.3, x + 0.3, color=COLOUR_OF[kind], lw=2)
    axis.set_xticks(range(len(values)), [results[kind].title for kind in values], rotation=40, ha="right")


def _whiskers(values: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf)) -> np.ndarray:
    """Standard deviation below and above the mean, [groups, N] -> [2, groups], not beyond what the values can be."""
    mean, spread = values.mean(1), values.std(1)
    return np.stack([mean - np.maximum(mean - spread, bounds[0]), np.minimum(mean + spread, bounds[1]) - mean]).clip(0)


def accuracy_distributions(results: dict[str, Result], subsets=("all", "7_retain", "forget")) -> Figure:
    """Histogram of the models' accuracies with a fitted normal curve, one panel per subset; every kind is drawn equally
    high, so that the wide ones can be read beside the narrow ones."""
    made, axes = figure(1, len(subsets), (3.2 * len(subsets), 2.8))
    for axis, subset in zip(axes[0], subsets, strict=True):
        for kind, result in results.items():
            values = 100 * np.array(result.accuracy[subset])
            mean, std = values.mean(), max(values.std(), 1e-2)
            x = np.linspace(max(mean - 4 * std, 0), min(mean + 4 * std, 100), 200)
            curve = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
            heights, edges = np.histogram(values, 8, (values.min() - 0.1 * std, values.max() + 0.1 * std), density=True)
            top = max(heights.max(), curve.max())
            axis.bar(edges[:-1], heights / top, np.diff(edges), align="edge", color=COLOUR_OF[kind], alpha=0.3)
            axis.plot(x, curve / top, color=COLOUR_OF[kind])
            peak = int(curve.argmax())
            axis.plot(x[peak], curve[peak] / top, MARKER_OF[kind], ms=5, color=COLOUR_OF[kind])
        axis.set_title(subset)
        axis.set_xlabel("accuracy, %")
        axis.set_ylim(0, 1.08)
        axis.set_yticks([])
    axes[0, 0].set_ylabel("density over models,\nfor each kind its highest is 1")
    _legend(made, results)
    return made


def _legend(made: Figure, results: dict[str, Result], columns: int = 6) -> None:
    """Markers and titles of the kinds in rows below the panels."""
    options = {"ls": "none", "ms": 5}
    handles = [
        Line2D([], [], color=COLOUR_OF[k], marker=MARKER_OF[k], label=r.title, **options) for k, r in results.items()
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7.5, frameon=False)


def gap_figure(results: dict[str, Result], subset: str = "forget") -> Figure:
    """KL(retrained || kind) of each model, between the floor and the ceiling."""
    made, axes = figure(1, 1, (2.4 + 0.8 * len(results), 3.2))
    axis = axes[0, 0]
    values = {kind: np.array(result.gap[subset]["kl"]) for kind, result in results.items()}
    _dots(axis, results, values)
    gap = next(iter(results.values())).gap[subset]
    axis.axhline(gap["floor"], color="black", lw=0.8, ls="--")
    axis.axhline(gap["ceiling"], color=COLOUR_OF["trained"], lw=0.8, ls="--")
    ends = (("floor", "floor: retrained", "retrained", "top"), ("ceiling", "ceiling: trained", "trained", "bottom"))
    for end, label, kind, side in ends:
        beside = axis.get_yaxis_transform()
        axis.text(1.02, gap[end], label, va=side, fontsize=7, color=COLOUR_OF[kind], transform=beside)
    axis.set_ylabel(f"KL(retrained || kind) on {subset}, nats")
    if gap["floor"] > 0:  # one model alone has no pairs, and so no value
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    return made


def histogram_figure(results: dict[str, Result]) -> Figure:
    """What each kind of model takes the forget samples of the test half for."""
    made, axes = figure(1, 1, (8.0, 2.8))
    axis = axes[0, 0]
    values = {kind: 100 * np.array(r.histogram).T for kind, r in results.items()}
    _bars(axis, results, values, list(map(str, range(10))), SHARE)
    axis.set_xlabel("predicted class of the forget samples")
    axis.set_ylabel("share, %")
    axis.set_ylim(0, 104)
    return made


def class_accuracy(results: dict[str, Result]) -> Figure:
    """Accuracy per class, mean and standard deviation over the models, with the two kinds of sevens apart; below, what
    is to stay as it is, enlarged, without the kinds that lose most of it."""
    subsets = [s for s in SUBSETS if s not in ("all", "retain", "forget")]
    near = _near(results)
    stay = [s for s in subsets if s not in (str(FEATURE_CLASS), f"{FEATURE_CLASS}_forget")]
    made, axes = figure(2, 1, (9.0, 5.0))
    for axis, chosen, names in ((axes[0, 0], results, subsets), (axes[1, 0], near, stay)):
        step = 0.7 / max(1, len(chosen))
        for k, (kind, result) in enumerate(chosen.items()):
            values = 100 * np.array([result.accuracy[s] for s in names])
            x = np.arange(len(names)) + (k - (len(chosen) - 1) / 2) * step
            options = {"fmt": MARKER_OF[kind], "ms": 4.5, "lw": 1, "color": COLOUR_OF[kind], "capsize": 1.5}
            axis.errorbar(x, values.mean(1), _whiskers(values, SHARE), **options)
        words = {"7_retain": "7 that\nstay", "7_forget": "7 to be\nforgotten"}
        axis.set_xticks(range(len(names)), [words.get(name, name) for name in names])
        axis.set_ylabel("accuracy, %")
    axes[0, 0].set_ylim(-4, 104)
    low, high = axes[1, 0].get_ylim()
    axes[1, 0].set_ylim(low, min(high, 100.1))
    left_out = [r.title for kind, r in results.items() if kind not in near]
    title = "what is to stay, enlarged" + (f", without {' and '.join(left_out)}" if left_out else "")
    axes[1, 0].set_title(title, fontsize=9)
    _legend(made, results)
    return made


def _near(results: dict[str, Result]) -> dict[str, Result]:
    """Without the kinds that lose more than FAR points on retain."""
    oracle = np.mean(results["retrained"].accuracy["retain"]) if "retrained" in results else 1.0
    return {k: r for k, r in results.items() if 100 * (oracle - np.mean(r.accuracy["retain"])) <= FAR}


def layer_figure(results: dict[str, Result], measure: str) -> Figure:
    """measure "distance" (L2 of the weights) or "activation" (mean absolute change), against the trained model."""
    names = {
        "distance": "L2 distance of the weights",
        "activation": "mean absolute change of the activations",
    }
    layers = [*LAYERS, *(["total"] if measure == "distance" else [])]
    made, axes = figure(1, 1, (7.5, 2.8))
    values = {kind: np.array([getattr(r, measure)[layer] for layer in layers]) for kind, r in results.items()}
    _bars(axes[0, 0], results, values, layers)
    axes[0, 0].set_ylabel(f"{names[measure]},\nagainst the trained model", fontsize=8)
    return made


def curves_figure(result: Result) -> Figure:
    """Mean loss over the models at each step, one panel per phase."""
    made, axes = figure(1, len(result.curves), (3.0 * len(result.curves), 2.6))
    for axis, (phase, values) in zip(axes[0], result.curves.items(), strict=True):
        axis.plot(values, color=COLOUR_OF[result.kind])
        axis.set_title(phase)
        axis.set_xlabel("step")
    axes[0, 0].set_ylabel("cross-entropy, nats")
    return made


def cost_and_gap(found: dict[str, dict[str, Result]], subset: str = "forget") -> Figure:
    """Gap closed against time as a share of retraining, one panel per data set.

    Methods outside the frame stand at its edge as arrows, with their values in words. found: dataset -> kind -> Result.
    """
    made, axes = figure(1, len(found), (max(4.9 * len(found), 7.0), 4.9), sharey=True, sharex=True)
    points = {dataset: _costs_and_gaps(results, subset) for dataset, results in found.items()}
    shown = [gap for each in points.values() for _, gap, _ in each.values() if gap.mean() > 0]
    y_low = max(-40.0, min([-12.0, *(gap.mean() - gap.std() - 12 for gap in shown)]))
    y_high = min(140.0, max([112.0, *(gap.mean() + gap.std() + 4 for gap in shown if gap.mean() < 130)]))
    cheapest = min((share for each in points.values() for share, _, _ in each.values()), default=1.0)
    for axis, (dataset, results) in zip(axes[0], found.items(), strict=True):
        axis.set_xscale("log")
        axis.set_xlim(0.6 * cheapest, 170)
        axis.set_ylim(y_low, y_high)
        axis.axhline(100, color=COLOUR_OF["retrained"], lw=0.7, ls=":")
        axis.axhline(0, color=COLOUR_OF["trained"], lw=0.7, ls=":")
        left = 0.65 * cheapest
        axis.text(left, 101.5, "as close as another retrained model", fontsize=8, color=COLOUR_OF["retrained"])
        axis.text(left, 1.5, "Trained: doing nothing", fontsize=8, color=COLOUR_OF["trained"])
        axis.plot(100, 100, MARKER_OF["retrained"], ms=11, color=COLOUR_OF["retrained"], zorder=3)
        axis.annotate("Retrained", (100, 100), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        labels, outside = [], {y_low: [], y_high: []}
        for kind, (share, gap, change) in points[dataset].items():
            over = forgets_more(results[kind], results["retrained"])
            text = f"{results[kind].title} ({_signed(change, '+.1f')})"
            if y_low <= gap.mean() <= y_high:
                axis.errorbar(share, gap.mean(), gap.std(), color=COLOUR_OF[kind], lw=0.8, capsize=2, zorder=2)
                options = {"mec": COLOUR_OF[kind] if over else "0.2", "mew": 0.5, "zorder": 3}
                options["mfc"] = "white" if over else COLOUR_OF[kind]
                axis.plot(share, gap.mean(), MARKER_OF[kind], ms=6, **options)
                labels.append((share, gap.mean(), text + (", over" if over else "")))
                continue
            words = f"{results[kind].title}: {_signed(gap.mean(), ',.0f')} % closed ({_signed(change, '+.1f')})"
            edge = y_low if gap.mean() < y_low else y_high
            outside[edge].append((share, words + (", over" if over else ""), COLOUR_OF[kind]))
        for edge, inwards in ((y_low, 1), (y_high, -1)):
            for row, (share, words, colour) in enumerate(sorted(outside[edge], reverse=True)):
                at = edge + inwards * (4 + 5.5 * row)
                arrow = {"color": colour, "arrowstyle": "-|>", "lw": 1.5}
                axis.annotate("", (share, edge), (share, at + 4 * inwards), arrowprops=arrow)
                right = share > 5 * cheapest and share > 8  # there the words have no room on the right
                place = {
                    "textcoords": "offset points",
                    "va": "center",
                    "ha": "right" if right else "left",
                    "fontsize": 8,
                }
                axis.annotate(words, (share, at), (-6 if right else 6, 0), in_layout=False, **place)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_yticks(range(0, 101, 20))
        axis.set_xlabel("cost: time as a share of retraining, %")
        axis.set_title(f"{NAMES[dataset]}, {len(results['retrained'])} models of each kind", fontsize=10)
        made.draw_without_rendering()  # the layout decides where words have room
        _place_labels(axis, labels)
    axes[0, 0].set_ylabel(f"gap to retraining closed on {subset}, %")
    note = (
        "In brackets: accuracy on retain against retrained models, points; whiskers: standard deviation over the models"
    )
    if any(
        forgets_more(r, results["retrained"]) for results in found.values() for k, r in results.items() if k in METHODS
    ):
        note += ".\n" + OVER[0].upper() + OVER[1:]
    made.supxlabel(note + ".", fontsize=8)
    return made


def _signed(value: float, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _costs_and_gaps(results: dict[str, Result], subset: str) -> dict[str, tuple[float, np.ndarray, float]]:
    """Method -> share of the time of retraining in %, gap closed of each model in %, change on retain in points."""
    oracle = results["retrained"]
    return {
        kind: (
            100 * np.mean(result.seconds) / np.mean(oracle.seconds),
            100 * np.array(result.gap[subset]["values"]),
            100 * (np.mean(result.accuracy["retain"]) - np.mean(oracle.accuracy["retain"])),
        )
        for kind, result in results.items()
        if kind in METHODS
    }


def _place_labels(axis, labels: list[tuple[float, float, str]]) -> None:
    """Writes the labels (x, y, text) beside their points; those of a crowd in a column right of it, with thin lines
    that do not cross. The layout must be drawn."""
    box = axis.get_window_extent()
    height = 12.5 * axis.figure.dpi / 72 / box.height  # of a row, as a share of the axis
    places = axis.transAxes.inverted().transform(axis.transData.transform([(x, y) for x, y, _ in labels]))
    words = [4.6 * len(text) * axis.figure.dpi / 72 / box.width + 0.03 for _, _, text in labels]

    side_of = {}

    def span(k: int, side: int) -> tuple[float, float]:
        u = places[k][0]
        return (u, u + words[k]) if side > 0 else (u - words[k], u)

    def blocked(k: int, side: int) -> bool:
        """Whether a label on that side leaves the axis or meets a point or another label."""
        low, high = span(k, side)
        v = places[k][1]
        taken = [(u, u, w) for j, (u, w) in enumerate(places) if j != k]
        taken += [(*span(j, other), places[j][1]) for j, other in side_of.items() if other and j != k]
        return (
            low < 0
            or high > 1
            or any(b > low - 0.02 and a < high + 0.02 and abs(w - v) < 1.2 * height for a, b, w in taken)
        )

    for k in range(len(labels)):
        side_of[k] = next((side for side in (1, -1) if not blocked(k, side)), 0)
    ceiling = axis.transAxes.inverted().transform(axis.transData.transform((1, 100)))[1] - 0.9 * height
    while True:  # a label in the way of the column goes to the other side, or into the column
        crowd = [k for k, side in side_of.items() if not side]
        if not crowd:
            break
        left = max(places[k][0] for k in crowd) + 0.08
        top = min(np.mean([places[k][1] for k in crowd]) + height * (len(crowd) - 1) / 2, ceiling)
        slots = [top - row * height for row in range(len(crowd))]
        reach = (slots[-1] - height, slots[0] + height)
        right = [k for k, side in side_of.items() if side > 0 and reach[0] < places[k][1] < reach[1]]
        hit = [
            k
            for k in right
            if places[k][0] < left + max(words[j] for j in crowd) and places[k][0] + words[k] > left - 0.06
        ]
        if not hit:
            break
        for k in hit:
            side_of[k] = 0 if blocked(k, -1) else -1
    options = {"fontsize": 8, "va": "center", "annotation_clip": False, "in_layout": False}
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.8}  # whiskers pass behind the words
    for k, side in side_of.items():
        x, y, text = labels[k]
        place = {"xytext": (6 * side, 0), "textcoords": "offset points", "ha": "left" if side > 0 else "right"}
        if side:
            axis.annotate(text, (x, y), bbox=ground, **place, **options)
    if not crowd:
        return
    order = sorted(crowd, key=lambda k: -places[k][1])

    def crosses(a: int, b: int, slot_a: float, slot_b: float) -> bool:
        """Whether the lines from two points to the column change sides left of it."""
        start = max(places[a][0], places[b][0])
        at = [v + (slot - v) * (start - u) / (left - u) for (u, v), slot in ((places[a], slot_a), (places[b], slot_b))]
        return (at[0] - at[1]) * (slot_a - slot_b) < 0

    for _ in range(len(order) ** 2):
        for row in range(len(order) - 1):
            if crosses(order[row], order[row + 1], slots[row], slots[row + 1]):
                order[row], order[row + 1] = order[row + 1], order[row]
    for k, v in zip(order, slots, strict=True):
        x, y, text = labels[k]
        line = {"arrowstyle": "-", "color": "0.5", "lw": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3}
        axis.annotate(text, (x, y), (left, v), textcoords="axes fraction", arrowprops=line, ha="left", **options)


def loss_change(results: dict[str, Result], subsets=("retain", "7_retain", "forget", "forget_train")) -> Figure:
    """Mean cross-entropy of each kind minus that of the retrained models, per subset."""
    made, axes = figure(1, 1, (8.0, 2.8))
    axis, oracle = axes[0, 0], results["retrained"]
    values = {
        kind: np.array([np.array(result.loss[s]) - np.mean(oracle.loss[s]) for s in subsets])
        for kind, result in results.items()
        if kind != "retrained"
    }
    _bars(axis, results, values, list(subsets))
    axis.axhline(0, color="black", lw=0.8)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.yaxis.set_major_locator(FixedLocator([-100, -10, -1, -0.1, 0, 0.1, 1, 10, 100, 1000, 10_000]))
    axis.yaxis.set_major_formatter("{x:g}")
    ends = [(each.mean(1), each.std(1)) for each in values.values()]
    low, high = min(np.min(m - s) for m, s in ends), max(np.max(m + s) for m, s in ends)
    axis.set_ylim(1.6 * min(low, -0.1), 1.6 * max(high, 0.1))
    axis.set_ylabel("loss minus that of\nretrained models, nats", fontsize=8)
    return made


def kl_heat_map(task: Task, results: dict[str, Result], subset: str = "forget") -> Figure:
    """KL(row || column) between all kinds of models; the diagonal compares different seeds of one kind. The colours end
    at 0.1 and 10 nats, so that a kind far from everything does not take them all; the digits give the value."""
    kinds, matrix = kl_matrix(task, results, subset)
    made, axes = figure(1, 1, (2.6 + 0.58 * len(kinds), 1.4 + 0.42 * len(kinds)))
    axis, norm, colours = axes[0, 0], LogNorm(0.1, 10, clip=True), colormaps["cividis_r"]
    image = axis.imshow(np.maximum(matrix, 1e-3), cmap=colours, norm=norm, aspect="auto")
    titles = [results[kind].title for kind in kinds]
    axis.set_xticks(range(len(kinds)), titles, rotation=40, ha="right")
    axis.set_yticks(range(len(kinds)), titles)
    for (i, j), value in np.ndenumerate(matrix):
        ink = _ink(colours(float(norm(max(value, 1e-3)))))
        text = f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
        axis.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    bar = made.colorbar(image, ax=axis, extend="both", ticks=[0.1, 0.3, 1, 3, 10], format="{x:g}", shrink=0.8, pad=0.01)
    bar.minorticks_off()
    bar.set_label("nats", fontsize=8)
    axis.set_title(f"KL(row || column) on {subset}, nats", fontsize=9)
    return made


def _ink(ground) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = to_rgb(ground)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"


def colour_accuracy(task: Task, results: dict[str, Result]) -> Figure | str:
    """Accuracy on the forget test set per ground colour: is the crossbar forgotten, or a colour?"""
    if not len(task.data.test.colours):
        return f'{task.data.name} has no colours; with USED_DATASET = "cmnist" this shows the forget set by colour.'
    made, axes = figure(1, 1, (6.5, 2.8))
    forget = task.forget["test"].numpy()
    colours, labels = task.data.test.colours.numpy()[forget], task.data.test.labels.numpy()[forget]
    values = {}
    for kind, result in results.items():
        right = load_outputs(task, result).test[:, forget].argmax(-1) == labels
        values[kind] = 100 * np.stack([right[:, colours == c].mean(1) for c in range(3)])
    _bars(axes[0, 0], results, values, [f"{name} ({(colours == c).sum()})" for c, name in enumerate(COLOURS)], SHARE)
    axes[0, 0].set_ylabel("accuracy on forget, %")
    axes[0, 0].set_xlabel("ground colour (forget samples of the test half)")
    return made


def _bars(
    axis,
    results: dict[str, Result],
    values: dict[str, np.ndarray],
    names: list[str],
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> None:
    """Groups of bars, one bar per kind: values: kind -> [groups, N]; the whisker is the standard deviation, within the
    bounds of what the values can be."""
    width = 0.8 / max(1, len(values))
    for k, (kind, each) in enumerate(values.items()):
        x = np.arange(len(names)) + (k - (len(values) - 1) / 2) * width
        # grey whiskers: black ones vanish in the bar of the retrained models
        options = {"color": COLOUR_OF[kind], "label": results[kind].title, "error_kw": {"lw": 0.8, "ecolor": "0.45"}}
        if len(values) > HATCHED and kind in HATCH_OF:
            options |= {"hatch": HATCH_OF[kind], "edgecolor": "white", "lw": 0}
        axis.bar(x, each.mean(1), width, yerr=_whiskers(each, bounds), **options)
    axis.set_xticks(range(len(names)), names)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def transfer_figure(task: Task) -> Figure:
    """Retain accuracy and gap closed from the published setting of GEMU to the one used here, for the data sets on which
    `transfer.walk` was run."""
    made, axes = figure(1, 2, (9.5, 3.0))
    for place, (dataset, marker) in enumerate(zip(NAMES, itertools.cycle("osDv"), strict=False)):
        stages = load_walk(dataset, task.side)
        for axis, key in zip(axes[0], ("retain", "gap"), strict=True):
            if not stages:
                continue
            values = 100 * np.array([stage[key] for stage in stages])
            x = np.arange(len(values)) + 0.16 * (place - 0.5)
            label = f"{NAMES[dataset]}, {values.shape[1]} models"
            axis.errorbar(x, values.mean(1), values.std(1), fmt=f"{marker}-", lw=1, ms=5, label=label)
            axis.set_xticks(range(len(stages)), [stage["change"] for stage in stages], fontsize=7)
    axes[0, 0].set_ylabel("accuracy on retain, %")
    axes[0, 1].set_ylabel("gap closed on forget, %")
    axes[0, 1].set_yscale("symlog", linthresh=100)
    axes[0, 1].yaxis.set_major_locator(FixedLocator([-10_000, -1000, -100, -50, 0, 25, 50, 75, 100]))
    axes[0, 1].yaxis.set_major_formatter("{x:g}")
    axes[0, 1].minorticks_off()
    axes[0, 0].legend(fontsize=7, frameon=False)
    return made


# ---- the audit ----

PANELS = ("attack", "u_lira", "klom", "relearn", "probe", "excess")


def audit_figure(results: dict[str, Result], found: Audit) -> Figure:
    """The expert's measures of every kind with 95 % intervals; grey: where retrained models lie among themselves.
    Open markers and "over": kinds that forget more than retrained models do."""
    kinds = [kind for kind in results if kind in found.kinds]
    over = _over(results)
    made, axes = figure(2, 3, (10, 1.3 + 0.36 * len(kinds)), sharey=True)
    for axis, key in zip(axes.flat, PANELS, strict=True):
        title, unit, _ = MEASURES[key]
        axis.axvspan(*found.null[key], color="0.85", lw=0)
        for y, kind in enumerate(reversed(kinds)):
            entry = found.kinds[kind][key]
            axis.hlines(y, entry["low"], entry["high"], color=COLOUR_OF[kind], lw=1.2)
            options = {"mfc": "white" if kind in over else COLOUR_OF[kind], "mec": COLOUR_OF[kind], "clip_on": False}
            axis.plot(entry["value"], y, MARKER_OF[kind], ms=5, zorder=3, **options)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(unit, fontsize=7.5)
        axis.xaxis.set_major_locator(MaxNLocator(4))  # more would run into each other in a narrow panel
        axis.set_yticks(range(len(kinds)), _marked(results, kinds[::-1], over), fontsize=7.5)
        axis.margins(x=0.07)
        if key == "excess":
            ends = [found.kinds[kind][key]["value"] for kind in kinds]
            _symmetric_log(axis, min(ends), max(ends), 10)
    if over & set(kinds):
        made.supxlabel(f"open marker and {OVER}", fontsize=7.5)
    return made


def _over(results: dict[str, Result]) -> set[str]:
    """The methods that forget more than retrained models do."""
    return {kind for kind, r in results.items() if kind in METHODS and forgets_more(r, results["retrained"])}


def _marked(results: dict[str, Result], kinds: list[str], over: set[str]) -> list[str]:
    return [results[kind].title + (" (over)" if kind in over else "") for kind in kinds]


def _symmetric_log(axis, low: float, high: float, linear: float, parts: int = 2) -> None:
    """An x axis that is linear around 0 and logarithmic beyond `linear`, with ticks in both and room at its ends."""
    axis.set_xscale("symlog", linthresh=linear, linscale=1.5)
    steps = (1, 3) if max(-low, high) < 30 * linear else (1,)  # more would touch
    powers = [f * 10.0**p for p in range(-1, 6) for f in steps if f * 10.0**p > linear]
    part = [linear * (f + 1) / parts for f in range(parts)]
    ticks = np.array([*(-t for t in powers), *(-t for t in part), 0, *part, *powers])
    transform = axis.xaxis.get_transform()
    ends = transform.transform(np.array([low, high], float))
    ends += 0.06 * (ends[1] - ends[0]) * np.array([-1, 1])
    axis.set_xlim(*transform.inverted().transform(ends))
    at = transform.transform(ticks)
    inside = ticks[(at >= ends[0]) & (at <= ends[1])]
    axis.xaxis.set_major_locator(FixedLocator(inside))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", labelsize=8)
    axis.minorticks_off()


def streisand_figure(task: Task, results: dict[str, Result]) -> Figure:
    """Loss and confidence on each forget sample of the training half, as distributions over the samples of their mean
    over the models; what retrained models give is the target, more loss is over-unlearning ("over")."""
    labels, kinds, over = task.forget_set("train")[1].numpy(), list(results), _over(results)
    made, axes = figure(1, 2, (9.5, 1.2 + 0.26 * len(kinds)), sharey=True)
    logits = [load_outputs(task, result).forget_train for result in results.values()]
    views = (
        ("loss on the forget samples, nats", [cross_entropies(each, labels).mean(0) for each in logits], 4),
        ("confidence log p - log(1 - p) in the true class", [margin(each, labels).mean(0) for each in logits], 2),
    )
    target = kinds.index("retrained")
    for axis, (title, values, parts) in zip(axes[0], views, strict=True):
        boxes = axis.boxplot(
            values[::-1], orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6
        )
        for box, median, kind in zip(boxes["boxes"], boxes["medians"], reversed(kinds), strict=True):
            box.set(facecolor="white" if kind in over else COLOUR_OF[kind], edgecolor=COLOUR_OF[kind], lw=1)
            median.set(color="black" if kind in over else _ink(COLOUR_OF[kind]), lw=1.2)
        axis.axvline(np.median(values[target]), color="black", lw=0.8, ls="--", zorder=0)
        axis.set_xlabel(title, fontsize=8)
        spans = np.array([np.quantile(each, (0.05, 0.95)) for each in values])
        _symmetric_log(axis, spans.min(), spans.max(), 10, parts)
        axis.set_yticks(range(1, len(kinds) + 1), _marked(results, kinds[::-1], over), fontsize=7.5)
    note = "boxes: quartiles, whiskers: 5 to 95 % of the samples; dashed: median of retrained models"
    made.supxlabel(f"{note}\nopen box and {OVER}" if over else note, fontsize=7.5)
    return made


# ---- studies ----


def trade_off_figure(study) -> Image:
    """The two goals of every finished trial; those that no other trial beats in both are marked."""
    return _optuna(optuna_plots.plot_pareto_front, study, target_names=["KL on forget", "points lost"])


def history_figure(study) -> Image:
    """The first goal over the trials."""
    return _optuna(
        optuna_plots.plot_optimization_history, study, target=lambda t: t.values[0], target_name="KL on forget"
    )


def importance_figure(study) -> Image:
    """How much each hyper-parameter matters for the first goal (fANOVA)."""
    return _optuna(optuna_plots.plot_param_importances, study, target=lambda t: t.values[0], target_name="KL on forget")


def parallel_figure(study) -> Image:
    """All hyper-parameters of every trial against the first goal."""
    return _optuna(
        optuna_plots.plot_parallel_coordinate, study, target=lambda t: t.values[0], target_name="KL on forget"
    )


def _optuna(draw, study, **options) -> Image:
    """One of Optuna's own matplotlib plots as a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = draw(study, **options).figure
    made.set_size_inches(8, 3.6)
    pyplot.close(made)
    return Image(_png(made))
