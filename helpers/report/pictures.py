"""Pictures: the samples themselves, what models read in them, and the noise of the generators."""

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import LogNorm
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from helpers.data.dataset import Dataset
from helpers.data.request import FEATURE_CLASS, SIDES, read_ambiguous, read_crossbars
from helpers.data.task import Task
from helpers.evaluation.distances import kl_per_model
from helpers.evaluation.logits import logits_of, parts_of
from helpers.models.ensembles import Ensemble
from helpers.report.style import Figure, empty, figure

SPLIT_WORDS = {"train": "training", "test": "test"}


def picture_grid(rows: dict[str, Tensor], data: Dataset, width: float = 9.0, captions: dict | None = None) -> Figure:
    """One titled row of pictures per entry. rows: title -> Tensor [k, c, 28, 28], standardised."""
    columns = max(len(images) for images in rows.values())
    # no layout engine: a long title must not push the columns apart
    made, axes = figure(len(rows), columns, (width, (width / columns + 0.28) * len(rows)), layout=None)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for k, picture in enumerate(data.pictures(images)):
            _show(line[k], picture)
            if captions:
                line[k].set_title(captions[title][k], fontsize=7, pad=2)
        line[0].text(0, 1.3 if captions else 1.08, title, transform=line[0].transAxes, fontsize=9, weight="bold")
    made.subplots_adjust(0, 0, 1, 1, wspace=0.05, hspace=0.55 if captions else 0.25)
    made.alt = f"Rows of pictures: {'; '.join(rows)}."
    return made


def _show(axis, picture: Tensor) -> None:
    axis.imshow(picture.permute(1, 2, 0).squeeze().numpy(), cmap="gray_r" if len(picture) == 1 else None)


def forget_and_retain(task: Task, split: str = "train", k: int = 14) -> Figure:
    """Forget samples, their neighbours (retained samples of the same classes) and the whole retain set, side by side;
    for the crossbar also the borderline sevens, with the split's decision."""
    part, forget = task.split(split), task.forget[split]
    chosen = {"forget set": forget, "neighbours": task.neighbours(split), "retain set": ~forget}
    random = torch.Generator().manual_seed(0)
    rows, captions = {}, {}

    def draw(title: str, mask: Tensor, caption) -> None:
        where = mask.nonzero().flatten()
        title = f"{title} ({len(where):,})"
        where = where[torch.randperm(len(where), generator=random)[:k]]
        if len(where):
            rows[title], captions[title] = part.images[where], [caption(int(i)) for i in part.index[where]]

    for title, mask in chosen.items():
        draw(title, mask, str)
    if task.request.name in SIDES:
        decisions = read_ambiguous(split)
        borderline = torch.isin(part.index, torch.tensor(list(decisions)))
        draw("borderline sevens, with the split's decision", borderline, decisions.get)
    made = picture_grid(rows, task.data, captions=captions)
    made.text(0, -0.02, f"Numbers: index in the {SPLIT_WORDS[split]} split.", fontsize=7, va="top")
    return made


def class_rows(data: Dataset, k: int = 20) -> Figure:
    """The first k training samples of each of the ten classes: one row per class."""
    made, axes = figure(1, 1, (0.4 * k, 4.2))
    paper = float(data.channels > 1)
    sheet = torch.full((data.channels, 300, 30 * k), paper)
    for number in range(10):
        for place, picture in enumerate(data.pictures(data.train.images[data.train.labels == number][:k])):
            sheet[:, 30 * number : 30 * number + 28, 30 * place : 30 * place + 28] = picture
    _show(axes[0, 0], sheet)
    axes[0, 0].set_yticks(range(14, 300, 30), data.classes)
    axes[0, 0].set_xticks([])
    axes[0, 0].tick_params(length=0)
    axes[0, 0].spines[:].set_visible(False)
    made.alt = f"The first {k} training pictures of each class of {data.source}: {', '.join(data.classes)}."
    return made


def most_and_least(task: Task, ensemble: Ensemble, k: int = 12) -> Figure:
    """The forget samples that most models of an ensemble read correctly, and those that fewest do, with the share that
    does; of the test split, where that has some."""
    split = "test" if task.forget["test"].any() else "train"
    images, labels = task.forget_set(split)
    found = votes_of(task, ensemble, k=len(labels))
    right = found["votes"][0, np.arange(len(labels)), labels.numpy()] / found["models"][0]
    order = np.argsort(-right, kind="stable")
    chosen = {"read correctly by most": order[:k], "read correctly by fewest": order[::-1][:k]}
    captions = {title: [f"{100 * right[at]:.0f} %" for at in where] for title, where in chosen.items()}
    made = picture_grid({title: images[where.copy()] for title, where in chosen.items()}, task.data, captions=captions)
    said = "; ".join(f"{title}: {', '.join(shares)}" for title, shares in captions.items())
    made.alt = f"Forget samples by the share of {ensemble.kind.title} models that read them correctly: {said}."
    return made


def contact_sheet(task: Task, which: str = "forget", split: str = "train", page: int = 0, columns: int = 20) -> Figure:
    """A page of 200 samples with their index, to look through: of the forget set, or of the sevens of one list of MNIST
    ("crossbar", "plain" or "ambiguous")."""
    part, mask = task.split(split), task.forget[split]
    if which != "forget":
        listed = read_ambiguous(split) if which == "ambiguous" else read_crossbars(split)
        mask = (part.labels == FEATURE_CLASS) & (
            torch.isin(part.index, torch.tensor(list(listed))) ^ (which == "plain")
        )
    where = mask.nonzero().flatten()[page * 10 * columns : (page + 1) * 10 * columns]
    rows = max(1, -(-len(where) // columns))
    made, axes = figure(1, 1, (columns * 0.48, rows * 0.56))
    paper = float(task.data.channels > 1)  # white: 1 in colours, 0 where `gray_r` shows ink
    sheet = torch.full((task.data.channels, 34 * rows, 30 * columns), paper)  # one picture: 200 axes would take seconds
    for place, (at, picture) in enumerate(zip(where, task.data.pictures(part.images[where]), strict=True)):
        y, x = 34 * (place // columns), 30 * (place % columns)
        sheet[:, y + 6 : y + 34, x : x + 28] = picture
        axes[0, 0].text(x + 14, y + 4, int(part.index[at]), fontsize=6, ha="center")
    _show(axes[0, 0], sheet)
    axes[0, 0].axis("off")
    what = {"forget": f"the forget set ({task.request.name})"}.get(which, f"the sevens listed as {which}")
    made.alt = f"{len(where)} pictures of {what}, {SPLIT_WORDS[split]} split, each with its index; page {page + 1}."
    return made


def noise_pictures(ensemble: Ensemble, task: Task) -> Figure:
    """What the generator of the first model makes, from the start to the end of its training, for the same z."""
    noise = torch.from_numpy(logits_of(ensemble, task).noise)
    names = ["before its training", *(f"after {i}/{len(noise) - 1} of its training" for i in range(1, len(noise)))]
    made = picture_grid(dict(zip(names, noise, strict=True)), task.data)
    made.alt = f"Noise of the generator of {ensemble.kind.title} for the same z: {', '.join(names)}."
    return made


def prediction_page(task: Task, *ensembles: Ensemble, k: int = 12) -> Figure:
    """Forget samples with the class that most models of each kind take them for: of the test split, where that has
    some."""
    found = votes_of(task, *ensembles, k=k)
    names = {each.kind.name: each.kind.title for each in ensembles}
    height = readings_height(len(names), len(found["labels"]), 9.6) + 0.3
    made = empty((9.6, height))
    readings(made, found, names, (0, 0.3, 9.6, height - 0.3))
    made.text(0.5, 0.1 / height, DARK, fontsize=8, ha="center")
    made.alt = f"Forgotten pictures and the class that most models of each kind read in them. {said_of(found, names)}"
    return made


DARK = "Large: the class that most models read, and how many of them do. Dark: another class than that of the picture."


def votes_of(task: Task, *ensembles: Ensemble, k: int) -> dict[str, np.ndarray]:
    """What models read in the first k forget samples, of the test split where that has some.

    "pictures": [k, 28, 28] or [k, 28, 28, 3] uint8, as seen; "labels": [k]; "kinds": [n] names; "votes": [n, k, 10],
    the number of models of each kind that read each class; "models": [n], how many there are."""
    split = "test" if task.forget["test"].any() else "train"
    images, labels = (part[:k] for part in task.forget_set(split))
    at, votes = task.forget[split].nonzero().flatten()[:k].numpy(), []
    for ensemble in ensembles:
        outputs = logits_of(ensemble, task)
        shown = outputs.test[:, at] if split == "test" else outputs.forget_train[:, :k]
        sound = np.isfinite(shown).all(-1, keepdims=True)  # a model that diverged reads nothing
        votes.append(((shown.argmax(-1)[:, :, None] == np.arange(10)) & sound).sum(0))
    pictures = (255 * task.data.pictures(images)).round().to(torch.uint8).permute(0, 2, 3, 1)
    pictures = 255 - pictures[..., 0] if pictures.shape[-1] == 1 else pictures  # ink is dark
    return {
        "pictures": np.asarray(pictures),
        "labels": labels.numpy().astype(np.int16),
        "kinds": np.array([ensemble.kind.name for ensemble in ensembles]),
        "votes": np.stack(votes).astype(np.int16),
        "models": np.array([len(ensemble.seeds) for ensemble in ensembles], np.int16),
    }


NAMED, ROW = 1.2, 0.22  # inches: width of the kinds' names, height of a row of readings


def readings_height(kinds: int, k: int, width: float) -> float:
    """Inches that `readings` takes."""
    return min(0.9, (width - NAMED) / max(k, 6)) + 0.06 + ROW * kinds


def readings(made: Figure, found: dict[str, np.ndarray], names: dict[str, str], box: tuple) -> None:
    """Pictures in a row, below each what models read in it, a row per kind. found: as `votes_of` gives it; names: kind
    -> title, those to show; box: left, bottom, width, height in inches."""
    left, bottom, width, height = box
    whole, k = made.get_size_inches(), len(found["labels"])
    column = (width - NAMED) / max(k, 6)
    side = min(0.9, column) - 0.06
    axis = made.add_axes([left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]])
    for place, picture in enumerate(found["pictures"]):
        x = NAMED + (place + 0.5) * column
        extent = (x - side / 2, x + side / 2, height - side, height)
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    for row, (kind, title) in enumerate(names.items()):
        y, at = height - side - 0.06 - ROW * (row + 0.5), list(found["kinds"]).index(kind)
        axis.text(NAMED - 0.08, y, title, ha="right", va="center_baseline", fontsize=8)
        for place, counts in enumerate(found["votes"][at]):
            x, read = NAMED + (place + 0.5) * column, int(counts.argmax())
            wrong = read != found["labels"][place]
            corner, looks = (x - column / 2 + 0.02, y - ROW / 2 + 0.01), {"fc": "0.25" if wrong else "white"}
            axis.add_patch(Rectangle(corner, column - 0.04, ROW - 0.02, ec="0.25", lw=0.5, **looks))
            ink = {"color": "white" if wrong else "black", "va": "center_baseline"}
            axis.text(x - 0.1, y, read, ha="center", fontsize=10, weight="bold", **ink)
            axis.text(x, y, f"{counts.max()}/{found['models'][at]}", ha="left", fontsize=6.5, **ink)
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.axis("off")


def said_of(found: dict[str, np.ndarray], names: dict[str, str]) -> str:
    """How often each kind reads the class of the pictures, in words."""
    votes, labels = found["votes"], found["labels"]
    right = votes[:, np.arange(len(labels)), labels].sum(1) / (found["models"] * max(1, len(labels)))
    shares = {kind: share for kind, share in zip(found["kinds"], right, strict=True) if kind in names}
    said = ", ".join(f"{names[kind]} {100 * share:.0f} %" for kind, share in shares.items())
    return f"Right readings over {len(labels)} pictures and all models: {said}."


def heat_map(task: Task, *ensembles: Ensemble, split: str = "") -> Figure:
    """KL(row || column) in nats between all kinds on the forget set (of the test split, where that has some); the
    diagonal compares different seeds of one kind. The colours end at 0.1 and 10 nats, so that a kind far from
    everything does not take them all; the digits give the value."""
    split = split or ("test" if task.forget["test"].any() else "train")
    outputs = {each.kind.title: parts_of(task, logits_of(each, task))[split, "forget"][0] for each in ensembles}
    rows = {row: {name: kl_per_model(a, b).mean() for name, b in outputs.items()} for row, a in outputs.items()}
    table = pd.DataFrame.from_dict(rows, "index")
    made, axes = figure(1, 1, (2.6 + 0.58 * len(table), 1.4 + 0.42 * len(table)))
    words = table.map(lambda v: f"{v:.{2 if v < 9.995 else 1 if v < 99.95 else 0}f}")
    looks = {"cmap": "cividis_r", "norm": LogNorm(0.1, 10, clip=True), "fmt": "", "annot_kws": {"size": 8}}
    bar = {"ticks": [0.1, 0.3, 1, 3, 10], "format": "{x:g}", "extend": "both", "label": "nats"}
    sns.heatmap(table.clip(lower=1e-3), annot=words, ax=axes[0, 0], cbar_kws=bar, **looks)
    shades = axes[0, 0].collections[0].to_rgba(table.clip(lower=1e-3).to_numpy().ravel())
    for text, shade in zip(axes[0, 0].texts, shades, strict=True):
        text.set_color("black" if shade[:3] @ (0.2126, 0.7152, 0.0722) > 0.46 else "white")  # whichever is further
    axes[0, 0].set(title=f"KL(row || column) on forget ({split}), nats", xlabel="", ylabel="")
    axes[0, 0].set_xticks(axes[0, 0].get_xticks(), table.columns, rotation=40, ha="right")
    nearest = table.loc[table.index[0]].drop(table.index[0]).idxmin() if len(table) > 1 else table.index[0]
    made.alt = (
        f"KL divergence in nats between the outputs of {', '.join(table)} on the forget set ({split}), each kind "
        f"against each; from {table.index[0]} the nearest other kind is {nearest}."
    )
    return made


def phases_picture(method: str) -> Figure:
    """The three phases of GEMU or GeFeU as boxes and arrows."""
    noise, labels, later = {
        "gemu": ("noise", "the labels of the forget set", "the labels of the forget set"),
        "gefeu": (
            "forgotten\npicture\nwith noise",
            "the trained model's output for the picture",
            "the same without the picture's label",
        ),
    }[method]
    y = "y" if method == "gemu" else "y'"
    moved = "last layers" if method == "gemu" else "last layers,\nsome drawn anew"
    made, axes = figure(1, 1, (9.6, 3.3), layout=None)
    axis = axes[0, 0]
    made.subplots_adjust(0, 0, 1, 1)
    axis.set(xlim=(0, 9.6), ylim=(0, 3.3))
    axis.axis("off")
    grey = {"boxstyle": "round,pad=0,rounding_size=0.06", "ec": "black", "lw": 0.9}

    def box(x: float, y: float, words: str, width=1.0, height=0.46, moves=False) -> None:
        axis.add_patch(
            FancyBboxPatch((x - width / 2, y - height / 2), width, height, fc="0.82" if moves else "w", **grey)
        )
        axis.text(x, y, words, ha="center", va="center", fontsize=8)

    def arrow(*ends: tuple[float, float], bend: float = 0.0, dashed: bool = False) -> None:
        looks = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 1, "color": "black", "shrinkA": 0, "shrinkB": 0}
        looks |= {"connectionstyle": f"arc3,rad={bend}", "ls": "--" if dashed else "-"}
        axis.add_patch(FancyArrowPatch(*ends, **looks))

    titles = ("1. Maximise the error", "2. Impair", "3. Repair")
    for x, title in zip((0.1, 4.15, 7.35), titles, strict=True):
        axis.text(x, 3.12, title, fontsize=10, weight="bold", va="center")
    for x in (4.0, 7.2):
        axis.axvline(x, 0.1, 0.97, color="0.7", lw=0.8)
    axis.text(0.18, 2.3, "z", fontsize=10, style="italic", ha="center", va="center")
    box(0.92, 2.3, "generator", 0.85, moves=True)
    box(1.99, 2.3, noise, 0.7, 0.46 if method == "gemu" else 0.62)
    box(3.2, 2.3, "classifier,\nfrozen", 1.0)
    arrow((0.28, 2.3), (0.49, 2.3))
    arrow((1.35, 2.3), (1.63, 2.3))
    arrow((2.35, 2.3), (2.69, 2.3))
    box(3.2, 1.3, "error", 0.7)
    arrow((3.2, 2.06), (3.2, 1.54))
    arrow((2.84, 1.3), (0.92, 2.05), bend=-0.25, dashed=True)
    axis.text(1.55, 1.12, "trains the generator\nto make it larger", fontsize=7.5, ha="center", va="center")
    below, beside = ("\n".join(textwrap.wrap(words, 22)) for words in (f"y: {labels}", f"{y}: {later}"))
    box(3.0, 0.45, below, 1.6)
    arrow((3.2, 0.69), (3.2, 1.06))
    box(4.85, 2.3, "some retained\nsamples", 0.95)
    box(4.85, 1.4, "noise,\nlabelled y" if method == "gemu" else "pictures with\nnoise: y'", 0.95)
    box(4.98, 0.45, beside, 1.6)
    width, height = (1.0, 0.46) if method == "gemu" else (1.2, 0.62)
    box(6.45, 1.85, f"classifier,\n{moved}", width, height, moves=True)
    arrow((4.85, 0.69), (4.85, 1.16))
    arrow((5.34, 2.25), (6.44 - width / 2, 1.95))
    arrow((5.34, 1.45), (6.44 - width / 2, 1.75))
    box(7.85, 1.85, "retained\nsamples", 0.85)
    box(9.0, 1.85, "classifier,\nall layers", 0.95, moves=True)
    arrow((8.29, 1.85), (8.51, 1.85))
    axis.text(8.4, 0.45, "grey: what is trained\ndashed: what the error drives", fontsize=7.5, ha="center", va="center")
    made.alt = (
        f"Three phases. 1: a generator turns z into noise; it is trained so that the frozen classifier's error on "
        f"{' '.join(noise.split())} against y, {labels}, grows. 2: {' '.join(noise.split())}, labelled {y}, {later}, "
        f"and some retained samples train the classifier's {' '.join(moved.split())}. "
        "3: retained samples train all layers."
    )
    return made
