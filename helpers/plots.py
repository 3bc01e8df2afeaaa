"""Figures: each one function from results to a Figure. One typeface, one colour for each kind of model everywhere."""

import io
import warnings

import matplotlib as mpl
import numpy as np
import optuna.visualization.matplotlib as optuna_plots
import torch
from IPython.display import Image
from matplotlib import figure as mpl_figure
from matplotlib import pyplot
from matplotlib.ticker import FixedLocator, LogLocator
from torch import Tensor

from helpers.audit import MEASURES, Audit
from helpers.cnn import LAYERS
from helpers.datasets import COLOURS, NAMES, Dataset
from helpers.ensembles import Ensemble
from helpers.evaluation import RESULTS, Result, cross_entropies, kl_matrix, load_outputs
from helpers.files import written_whole
from helpers.metrics import margin
from helpers.split import FEATURE_CLASS, SUBSETS, Task, read_ambiguous
from helpers.transfer import load_walk

# Okabe and Ito's palette, distinguishable with every common colour blindness
COLOUR_OF = {
    "untrained": "#999999",
    "trained": "#0072B2",
    "retrained": "#000000",
    "ascent": "#D55E00",
    "tuned_ascent": "#F4A582",
    "gemu": "#009E73",
    "gefeu": "#CC79A7",
    "finetune": "#56B4E9",
    "neggrad": "#E69F00",
    "randomlabels": "#8C6D31",
    "ssd": "#7F6FC4",
    "salun": "#B5B000",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "unlearning",
    "pdf.fonttype": 42,
}


class Figure(mpl_figure.Figure):
    """A matplotlib Figure that a notebook shows as a picture, whatever its backend."""

    def _repr_png_(self) -> bytes:
        return _png(self)


def _png(made: mpl_figure.Figure) -> bytes:
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
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


def store(made: Figure, name: str, task: Task) -> Figure:
    """Stores a figure as PDF under data/results/figures/ and returns it for showing."""
    save_figure(made, RESULTS / "figures" / f"{task.data.name}-{task.side}-{name}.pdf")
    return made


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


def prediction_page(task: Task, ensembles: list[Ensemble], k: int = 12) -> Figure:
    """Crossbar sevens of the test half with the class that most models of each kind take them for."""
    images = task.forget_set("test")[0][:k]
    captions = []
    for picture in images:
        lines = []
        for ensemble in ensembles:
            with torch.inference_mode():
                votes = torch.stack([model(picture[None]).argmax() for model in ensemble.models])
            digit, count = max(((int(d), int((votes == d).sum())) for d in votes.unique()), key=lambda pair: pair[1])
            lines.append(f"{ensemble.title}: {digit} ({count})")
        captions.append("\n".join(lines))
    made, axes = figure(2, -(-k // 2), (10, 2.2 + 0.4 * len(ensembles)))
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption in zip(axes.flat, task.data.pictures(images), captions, strict=False):
        axis.imshow(picture.permute(1, 2, 0).squeeze(), cmap="gray_r" if task.data.channels == 1 else None)
        axis.set_title(caption, fontsize=6.5, pad=2)
    return made


# ---- distributions and measures ----


def accuracy_figure(results: dict[str, Result], subsets=("retain", "7_retain", "forget", "forget_train")) -> Figure:
    """Accuracy of every single model, one panel per subset, one column of dots per kind."""
    made, axes = figure(1, len(subsets), (2.4 * len(subsets), 3.0))
    for axis, subset in zip(axes[0], subsets, strict=True):
        _dots(axis, results, {kind: 100 * np.array(result.accuracy[subset]) for kind, result in results.items()})
        axis.set_title(subset)
    axes[0, 0].set_ylabel("accuracy, %")
    return made


def _dots(axis, results: dict[str, Result], values: dict[str, np.ndarray]) -> None:
    random = np.random.default_rng(0)
    for x, (kind, ys) in enumerate(values.items()):
        axis.scatter(x + random.uniform(-0.15, 0.15, len(ys)), ys, s=12, color=COLOUR_OF[kind], alpha=0.6, lw=0)
        axis.hlines(np.mean(ys), x - 0.3, x + 0.3, color=COLOUR_OF[kind], lw=2)
    axis.set_xticks(range(len(values)), [results[kind].title for kind in values], rotation=40, ha="right")


def accuracy_distributions(results: dict[str, Result], subsets=("all", "7_retain", "forget")) -> Figure:
    """Histogram of the models' accuracies with a fitted normal curve, one panel per subset."""
    made, axes = figure(1, len(subsets), (3.2 * len(subsets), 2.8))
    for axis, subset in zip(axes[0], subsets, strict=True):
        for kind, result in results.items():
            values = 100 * np.array(result.accuracy[subset])
            mean, std = values.mean(), max(values.std(), 1e-3)
            x = np.linspace(mean - 4 * std, mean + 4 * std, 200)
            axis.hist(values, bins=8, density=True, color=COLOUR_OF[kind], alpha=0.3)
            curve = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
            axis.plot(x, curve, color=COLOUR_OF[kind], label=result.title)
        axis.set_title(subset)
        axis.set_xlabel("accuracy, %")
        axis.set_yticks([])
    axes[0, 0].set_ylabel("density over models")
    axes[0, -1].legend(fontsize=7, frameon=False)
    return made


def gap_figure(results: dict[str, Result], subset: str = "forget") -> Figure:
    """KL(retrained || kind) of each model, between the floor and the ceiling."""
    made, axes = figure(1, 1, (2.4 + 0.8 * len(results), 3.2))
    axis = axes[0, 0]
    values = {kind: np.array(result.gap[subset]["kl"]) for kind, result in results.items()}
    _dots(axis, results, values)
    gap = next(iter(results.values())).gap[subset]
    axis.axhline(gap["floor"], color="black", lw=0.8, ls="--")
    axis.axhline(gap["ceiling"], color=COLOUR_OF["trained"], lw=0.8, ls="--")
    for end, label, kind in (("floor", "floor: retrained", "retrained"), ("ceiling", "ceiling: trained", "trained")):
        beside = axis.get_yaxis_transform()
        axis.text(1.02, gap[end], label, va="center", fontsize=7, color=COLOUR_OF[kind], transform=beside)
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
    _bars(
        axis, results, {kind: 100 * np.array(r.histogram).T for kind, r in results.items()}, list(map(str, range(10)))
    )
    axis.set_xlabel("predicted class of the forget samples")
    axis.set_ylabel("share, %")
    axis.set_ylim(0, 102)
    return made


def class_accuracy(results: dict[str, Result]) -> Figure:
    """Accuracy per class, mean and standard deviation over the models, with the two kinds of sevens apart."""
    made, axes = figure(1, 1, (9.0, 2.8))
    axis = axes[0, 0]
    subsets = [s for s in SUBSETS if s not in ("all", "retain", "forget")]
    for k, (kind, result) in enumerate(results.items()):
        values = 100 * np.array([result.accuracy[s] for s in subsets])
        x = np.arange(len(subsets)) + (k - (len(results) - 1) / 2) * 0.1
        axis.errorbar(x, values.mean(1), values.std(1), fmt="o", ms=4, lw=1, color=COLOUR_OF[kind], label=result.title)
    axis.set_xticks(range(len(subsets)), subsets)
    axis.set_ylabel("accuracy, %")
    axis.set_ylim(-2, 102)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return made


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
    """Gap closed against accuracy lost on retain, one panel per data set; the area of a dot is its cost.

    Methods outside the frame stand at its edge as triangles, with their values in words.
    found: dataset -> kind -> Result.
    """
    made, axes = figure(1, len(found), (5.4 * len(found), 4.4))
    x_low, x_high, y_low, y_high = -0.4, 3.0, -40, 135
    for axis, (dataset, results) in zip(axes[0], found.items(), strict=True):
        oracle, labels = results["retrained"], []
        for kind, result in results.items():
            if kind == "untrained":
                continue
            gap = 100 * np.array(result.gap[subset]["values"])
            lost = 100 * (np.mean(oracle.accuracy["retain"]) - np.array(result.accuracy["retain"]))
            share = np.mean(result.seconds) / np.mean(oracle.seconds)
            x, y = np.clip(lost.mean(), x_low, x_high), np.clip(gap.mean(), y_low, y_high)
            text = result.title if kind in ("trained", "retrained") else f"{result.title} ({100 * share:.1f} %)"
            if (x, y) == (lost.mean(), gap.mean()):
                axis.errorbar(x, y, gap.std(), lost.std(), color=COLOUR_OF[kind], lw=0.8)
                axis.scatter(x, y, s=15 + 300 * min(share, 1), color=COLOUR_OF[kind], alpha=0.8, lw=0)
            else:
                axis.plot(x, y, "v" if y == y_low else ">", color=COLOUR_OF[kind], clip_on=False)
                text += f": {gap.mean():,.0f} %, {lost.mean():.0f} points"
            labels.append((x, y, text, COLOUR_OF[kind]))
        axis.axhline(100, color="black", lw=0.6, ls=":")
        axis.axhline(0, color="black", lw=0.6, ls=":")
        axis.set_xlim(x_low, x_high)
        axis.set_ylim(y_low, y_high)
        _place_labels(axis, labels)
        axis.set_xlabel("accuracy lost on retain against retrained models, points")
        axis.set_title(f"{NAMES[dataset]}, {len(oracle)} models of each kind", fontsize=9)
    axes[0, 0].set_ylabel(f"gap to retraining closed on {subset}, %")
    made.supxlabel("in brackets, and as area: time as a share of retraining; whiskers: standard deviation", fontsize=7)
    return made


def _place_labels(axis, labels: list[tuple[float, float, str, str]]) -> None:
    """Writes the labels (x, y, text, colour) in a column, in the order of their points, with a thin line to each."""
    (x_low, x_high), (y_low, y_high) = axis.get_xlim(), axis.get_ylim()
    lowest = y_low
    for x, y, text, colour in sorted(labels, key=lambda label: label[1]):
        row = 0.04 * (y_high - y_low)
        below = y <= y_low  # these have longer texts
        left = x_low + (0.52 if below else 0.67) * (x_high - x_low)
        lowest = max(y if below or x < left else y + row, lowest + row)  # not on a point in the column itself
        place = (left, lowest)
        line = {"arrowstyle": "-", "color": colour, "lw": 0.4, "relpos": (0 if x < place[0] else 1, 0.5)}
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # whiskers pass behind the words
        axis.annotate(text, (x, y), place, fontsize=7, color=colour, arrowprops=line, va="center", bbox=ground)


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
    axis.set_ylabel("loss minus that of\nretrained models, nats", fontsize=8)
    return made


def kl_heat_map(task: Task, results: dict[str, Result], subset: str = "forget") -> Figure:
    """KL(row || column) between all kinds of models; the diagonal compares different seeds of one kind."""
    kinds, matrix = kl_matrix(task, results, subset)
    made, axes = figure(1, 1, (1.8 + 0.6 * len(kinds), 1.2 + 0.5 * len(kinds)))
    axis = axes[0, 0]
    axis.imshow(np.log10(np.maximum(matrix, 1e-3)), cmap="cividis_r")
    titles = [results[kind].title for kind in kinds]
    axis.set_xticks(range(len(kinds)), titles, rotation=40, ha="right")
    axis.set_yticks(range(len(kinds)), titles)
    dark = np.log10(np.maximum(matrix, 1e-3)) > np.log10(np.maximum(matrix, 1e-3)).mean()
    for (i, j), value in np.ndenumerate(matrix):
        axis.text(
            j,
            i,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark[i, j] else "black",
        )
    axis.set_title(f"KL(row || column) on {subset}, nats", fontsize=9)
    return made


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
    _bars(axes[0, 0], results, values, [f"{name} ({(colours == c).sum()})" for c, name in enumerate(COLOURS)])
    axes[0, 0].set_ylabel("accuracy on forget, %")
    axes[0, 0].set_xlabel("ground colour (forget samples of the test half)")
    return made


def _bars(axis, results: dict[str, Result], values: dict[str, np.ndarray], names: list[str]) -> None:
    """Groups of bars, one bar per kind: values: kind -> [groups, N]; the whisker is the standard deviation."""
    width = 0.8 / max(1, len(values))
    for k, (kind, each) in enumerate(values.items()):
        x = np.arange(len(names)) + (k - (len(values) - 1) / 2) * width
        options = {"color": COLOUR_OF[kind], "label": results[kind].title, "error_kw": {"lw": 0.7}}
        axis.bar(x, each.mean(1), width, yerr=each.std(1), **options)
    axis.set_xticks(range(len(names)), names)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def transfer_figure(task: Task) -> Figure:
    """Retain accuracy and gap closed from the published setting of GEMU to the one used here, for the data sets on which
    `transfer.walk` was run."""
    made, axes = figure(1, 2, (9.5, 3.0))
    for dataset, marker in zip(NAMES, ("o", "s"), strict=True):
        stages = load_walk(dataset, task.side)
        for axis, key in zip(axes[0], ("retain", "gap"), strict=True):
            if not stages:
                continue
            values = 100 * np.array([stage[key] for stage in stages])
            x = np.arange(len(values)) + (0.08 if marker == "s" else -0.08)
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
    """The expert's measures of every kind with 95 % intervals; grey: where retrained models lie among themselves."""
    kinds = [kind for kind in results if kind in found.kinds]
    made, axes = figure(2, 3, (10, 0.8 + 0.34 * len(kinds)), sharey=True)
    for axis, key in zip(axes.flat, PANELS, strict=True):
        title, unit, _ = MEASURES[key]
        axis.axvspan(*found.null[key], color="0.85", lw=0)
        for y, kind in enumerate(reversed(kinds)):
            entry = found.kinds[kind][key]
            axis.hlines(y, entry["low"], entry["high"], color=COLOUR_OF[kind], lw=1.2)
            axis.plot(entry["value"], y, "o", ms=4, color=COLOUR_OF[kind])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(unit, fontsize=7)
        axis.set_yticks(range(len(kinds)), [results[kind].title for kind in reversed(kinds)], fontsize=7)
        if key == "excess":
            axis.set_xscale("symlog", linthresh=5)
            axis.xaxis.set_major_locator(FixedLocator([-20, 0, 20, 200, 2000]))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
    return made


def streisand_figure(task: Task, results: dict[str, Result]) -> Figure:
    """Loss and confidence on each forget sample of the training half, as distributions over the samples of their mean
    over the models; what retrained models give is the target, more loss is over-unlearning."""
    labels = task.forget_set("train")[1].numpy()
    made, axes = figure(1, 2, (9.5, 0.8 + 0.26 * len(results)), sharey=True)
    logits = [load_outputs(task, result).forget_train for result in results.values()]
    views = (
        ("loss on the forget samples, nats", [cross_entropies(each, labels).mean(0) for each in logits]),
        ("confidence log p - log(1 - p) in the true class", [margin(each, labels).mean(0) for each in logits]),
    )
    target = list(results).index("retrained")
    for axis, (title, values) in zip(axes[0], views, strict=True):
        boxes = axis.boxplot(
            values[::-1], orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6
        )
        for box, median, kind in zip(boxes["boxes"], boxes["medians"], reversed(results), strict=True):
            box.set(facecolor=COLOUR_OF[kind], alpha=0.6, lw=0.5)
            median.set(color="black")
        axis.axvline(np.median(values[target]), color="black", lw=0.8, ls="--")
        axis.set_xlabel(title, fontsize=8)
        axis.set_xscale("symlog", linthresh=20)
        axis.xaxis.set_major_locator(FixedLocator([-1000, -100, -20, -10, 0, 10, 20, 100, 1000]))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_yticks(range(1, len(results) + 1), [r.title for r in reversed(results.values())], fontsize=7)
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
