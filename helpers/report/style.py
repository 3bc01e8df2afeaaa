"""One look for all figures: typeface, one colour and marker for each kind of model, pictures of small size."""

import io

import matplotlib as mpl
from matplotlib import figure as mpl_figure
from PIL import Image as Picture

from helpers.data.task import Task
from helpers.evaluation.frame import RESULTS
from helpers.files import StudyError, written_whole
from helpers.unlearning import METHODS

BASE = {"untrained": ("#6A6A6A", "d"), "trained": ("#0072B2", "o"), "retrained": ("#000000", "*")}
# Seen with deuteranopia and protanopia the first nine differ by at least 13 in CIEDE2000, from each other and from
# BASE; what two colours leave open, on screens and in print, the shape says: both lists are gone through at once, and
# their lengths differ.
COLOURS = (
    "#009E73", "#D987B8", "#D55E00", "#66D9FF", "#CCCC00", "#214545", "#C0CD98", "#332288", "#990000", "#56B4E9",
    "#8C6D31",
)  # fmt: skip
MARKERS = "sDv^PXh<>p"
OVER = "over: mean forget loss exceeds that of retrained models by more than two of their standard deviations"
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "unlearning",
    "pdf.fonttype": 42,
}


def colour_of(kind: str) -> str:
    """By the kind's place among the methods; the same in every figure."""
    return BASE[kind][0] if kind in BASE else COLOURS[list(METHODS).index(kind) % len(COLOURS)]


def marker_of(kind: str) -> str:
    return BASE[kind][1] if kind in BASE else MARKERS[list(METHODS).index(kind) % len(MARKERS)]


class Figure(mpl_figure.Figure):
    """A matplotlib Figure that a notebook shows as a picture, whatever its backend."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(made: mpl_figure.Figure) -> bytes:
    """In 256 colours, which no figure here exceeds to the eye: a third of the size."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
    picture = Picture.open(drawn).convert("RGB").quantize(256, dither=Picture.Dither.NONE)
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 3.2), layout="constrained", **options):
    """A Figure in the repository's style and its axes [rows, columns]."""
    mpl.rcParams.update(RC)
    made = Figure(figsize=size, dpi=110, layout=layout)
    return made, made.subplots(rows, columns, squeeze=False, **options)


def save_figure(made: Figure, path) -> None:
    """Writes a figure whole; the format follows the suffix."""
    with written_whole(path) as part:
        made.savefig(part, format=path.suffix[1:], dpi=160)


def store(made: Figure, task: Task, name: str) -> Figure:
    """Stores a figure as PDF under data/results/figures/ and returns it for showing, also where nothing may be
    written."""
    try:
        save_figure(made, RESULTS / "figures" / f"{task.data.name}-{task.folder}-{name}.pdf")
    except StudyError as error:
        print(error)
    return made
