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
BASE["again"] = ("#555555", "*")
# One colour for each method and some to spare. What two of them leave open, in print without colours or to a reader who
# sees few, the shape says: both lists are gone through at once, their lengths share no divisor, and kinds of one shape
# differ by 30 of 255 steps of grey.
COLOURS = (
    "#009E73", "#D987B8", "#D55E00", "#6EB76E", "#B7DB6E", "#004949", "#6E6E49", "#49496E", "#920000", "#DB6EDB",
    "#92DBB7", "#002592", "#4925DB", "#6E2525", "#499292", "#92B725", "#56B4E9", "#00E600", "#E60066", "#CC00E6",
    "#00E6CC", "#E6E600", "#E69966",
)  # fmt: skip
MARKERS = "sDv^PXh<>p"
HATCHES = ("///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
OVER = "over: mean forget loss exceeds that of retrained models by more than chance (97.5 %)"
RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # Verdana is as wide, where an SVG is shown without DejaVu
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "unlearning",
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
}
NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # the same figure is the same file


def colour_of(kind: str) -> str:
    """By the kind's place among the methods; the same in every figure."""
    return BASE[kind][0] if kind in BASE else COLOURS[_place(kind) % len(COLOURS)]


def marker_of(kind: str) -> str:
    """As `colour_of`."""
    return BASE[kind][1] if kind in BASE else MARKERS[_place(kind) % len(MARKERS)]


def hatch_of(kind: str) -> str:
    """Of bars, whose colours may be the same grey in print."""
    return {"untrained": "||", "again": "||"}.get(kind, "") if kind in BASE else HATCHES[_place(kind) % len(HATCHES)]


def _place(kind: str) -> int:
    """Among the methods; a method on another budget ("new_10") stands where the method does."""
    return list(METHODS).index(kind if kind in METHODS else kind.rpartition("_")[0])


class Figure(mpl_figure.Figure):
    """A matplotlib Figure that a notebook shows as a picture, whatever its backend. alt: what it shows, in words, for
    readers who do not see it. A notebook keeps it twice: as the output's text, and as metadata of the picture, of which
    nbconvert makes the picture's alternative text (`--template classic`; its default template knows none)."""

    alt: str = ""

    def __repr__(self) -> str:
        return f"<Figure: {self.alt}>" if self.alt else super().__repr__()

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return png(self), {"alt": self.alt}


def png(made: mpl_figure.Figure, dpi: int = 100) -> bytes:
    """In 256 colours, which no figure here exceeds to the eye: a third of the size."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    picture = Picture.open(drawn).convert("RGB").quantize(256, dither=Picture.Dither.NONE)
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 3.2), layout="constrained", **options):
    """A Figure in the repository's style and its axes [rows, columns]. size: in inches."""
    made = empty(size, layout)
    return made, made.subplots(rows, columns, squeeze=False, **options)


def empty(size: tuple[float, float], layout=None) -> Figure:
    """A Figure without axes. size: in inches."""
    mpl.rcParams.update(RC)
    return Figure(figsize=size, dpi=110, layout=layout)


def save_figure(made: Figure, path) -> None:
    """Writes a figure whole; the format follows the suffix. The same figure gives the same bytes."""
    kind = path.suffix[1:]
    with written_whole(path) as part:
        if kind == "png":
            part.write_bytes(png(made, 160))
        else:
            made.savefig(part, format=kind, dpi=160, metadata=NO_DATE.get(kind))


def store(made: Figure, task: Task, name: str) -> Figure:
    """Stores a figure as PDF and SVG under data/results/figures/ and returns it for showing, also where nothing may be
    written."""
    try:
        for suffix in ("pdf", "svg"):
            save_figure(made, RESULTS / "figures" / f"{task.data.name}-{task.folder}-{name}.{suffix}")
    except StudyError as error:
        print(error)
    return made
