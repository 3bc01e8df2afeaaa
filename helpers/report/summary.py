"""The figure at the top of the README: what models read in forgotten pictures, and what unlearning costs against what
it reaches."""

import numpy as np
import pandas as pd

from helpers.data.task import NAMES, Task
from helpers.files import StudyError
from helpers.models.ensembles import Ensemble
from helpers.report.frontier import FOOT, HEAD, PANELS, dots, in_words, names_width, note, panels, tall_enough
from helpers.report.pictures import DARK, readings, readings_height, said_of, votes_of
from helpers.report.style import Figure, empty
from helpers.report.tables import best_plain
from helpers.unlearning import METHODS, TITLES

EXAMPLES = "examples.npz"  # in data/report/
EXAMPLE_PARTS = ("dataset", "pictures", "labels", "kinds", "votes", "models")
KINDS = ("trained", "retrained", "gemu", "gefeu", "ascent", "reset")  # and the best rival, where that is another
SHOWN = 8  # pictures
WIDTH = 8.8  # inches: a README shows about 880 pixels


def examples(task: Task, ensembles: list[Ensemble]) -> dict[str, np.ndarray]:
    """What trained, retrained and unlearned models read in the first SHOWN forget samples of the test split (of the
    training split, where the test split has none): the first ones, whatever was read in them. As `pictures.votes_of`,
    and "dataset", [1]."""
    kinds = (*KINDS, *METHODS)
    found = votes_of(task, *(ensemble for ensemble in ensembles if ensemble.kind.name in kinds), k=SHOWN)
    return found | {"dataset": np.array([task.data.name])}


def summary(results: pd.DataFrame, shown: dict[str, np.ndarray]) -> Figure:
    """Top: pictures with what models of KINDS and of the best rival read in them; below: the frontier's panels for
    their data set. shown: as `examples` gives it; StudyError where it is of a data set that `results` has not."""
    dataset = str(shown["dataset"][0])
    mine = results[results.dataset == dataset]
    if mine.empty:
        raise StudyError(f"data/report/{EXAMPLES} belongs to another release than the measures: run `make release`.")
    names = {kind: TITLES[kind] for kind in (*KINDS, best_plain(mine)) if kind in shown["kinds"]}
    found = {title: dots(mine, title) for title in PANELS}
    tall, top = tall_enough([found]), readings_height(len(names), len(shown["labels"]), WIDTH)
    height = 0.3 + FOOT + tall + HEAD + 0.4 + top + 0.35
    made = empty((WIDTH, height))
    forget = mine.iloc[0].forget
    for y, title in (
        (height - 0.14, f"What models read in forgotten pictures ({NAMES[dataset]}, forgotten: {forget})"),
        (0.3 + FOOT + tall + HEAD + 0.05, "What unlearning costs and reaches"),
    ):
        made.text(0.05 / WIDTH, y / height, title, fontsize=10, weight="bold", va="center")
    bottom = height - 0.35 - top
    readings(made, shown, names, (0, bottom, WIDTH, top))
    made.text(0.5, (bottom - 0.08) / height, DARK, fontsize=7, ha="center", va="top")
    panels(made, mine, found, (0.0, 0.3 + FOOT, WIDTH, tall), names_width([found]))
    over = any(dot.over for each in found.values() for dot in each)
    made.text(0.5, 0.02 / height, note(over), fontsize=6.5, ha="center", va="bottom")
    made.alt = f"Forgotten pictures and what models read in them. {said_of(shown, names)} {in_words(mine)}"
    return made
