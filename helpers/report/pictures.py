"""Pictures: the samples themselves, what models read in them, and the noise of the generators."""

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import LogNorm
from torch import Tensor

from helpers.data.dataset import Dataset
from helpers.data.request import FEATURE_CLASS, SIDES, read_ambiguous, read_crossbars
from helpers.data.task import Task
from helpers.evaluation.distances import kl_per_model
from helpers.evaluation.logits import logits_of, parts_of
from helpers.models.ensembles import Ensemble
from helpers.report.style import Figure, figure


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
    return made


def _show(axis, picture: Tensor) -> None:
    axis.imshow(picture.permute(1, 2, 0).squeeze(), cmap="gray_r" if len(picture) == 1 else None)


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
    return picture_grid(rows, task.data, captions=captions)


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
    made, axes = figure(1, 1, (columns * 0.62, 10 * 0.72))
    paper = float(task.data.channels > 1)  # white: 1 in colours, 0 where `gray_r` shows ink
    sheet = torch.full((task.data.channels, 10 * 34, columns * 30), paper)  # one picture: 200 axes would take seconds
    for place, (at, picture) in enumerate(zip(where, task.data.pictures(part.images[where]), strict=True)):
        y, x = 34 * (place // columns), 30 * (place % columns)
        sheet[:, y + 6 : y + 34, x : x + 28] = picture
        axes[0, 0].text(x + 14, y + 4, int(part.index[at]), fontsize=6, ha="center")
    _show(axes[0, 0], sheet)
    axes[0, 0].axis("off")
    return made


def noise_pictures(ensemble: Ensemble, task: Task) -> Figure:
    """What the generator of the first model makes, from the start to the end of its training, for the same z."""
    noise = torch.from_numpy(logits_of(ensemble, task).noise)
    names = ["before its training", *(f"after {i}/{len(noise) - 1} of its training" for i in range(1, len(noise)))]
    return picture_grid(dict(zip(names, noise, strict=True)), task.data)


def prediction_page(task: Task, *ensembles: Ensemble, k: int = 12) -> Figure:
    """Forget samples with the class that most models of each kind take them for: of the test split, where that has
    some."""
    split = "test" if task.forget["test"].any() else "train"
    images, at = task.forget_set(split)[0][:k], task.forget[split].nonzero().flatten()[:k].numpy()
    outputs = {ensemble.kind.title: logits_of(ensemble, task) for ensemble in ensembles}
    seen = {title: each.test[:, at] if split == "test" else each.forget_train[:, :k] for title, each in outputs.items()}
    votes = {title: each.argmax(-1) for title, each in seen.items()}
    columns, shown = -(-k // 2), slice(2, 26)  # around the digit two pixels on each side are always ground
    made, axes = figure(2, columns, (10, 2 * (10 / columns + 0.13 * len(votes))))
    for axis in axes.flat:
        axis.axis("off")
    for place, (axis, picture) in enumerate(zip(axes.flat, task.data.pictures(images), strict=False)):
        counts = {title: np.bincount(each[:, place], minlength=10) for title, each in votes.items()}
        _show(axis, picture[:, shown, shown])
        axis.set_anchor("N")
        axis.set_title(
            "\n".join(f"{title}: {c.argmax()} ({c.max()})" for title, c in counts.items()), fontsize=7, pad=2
        )
    return made


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
    axes[0, 0].set(title=f"KL(row || column) on forget ({split}), nats", xlabel="", ylabel="")
    axes[0, 0].set_xticks(axes[0, 0].get_xticks(), table.columns, rotation=40, ha="right")
    return made
