"""What stands in the cells of tables: means with their spread, ranges, and the look of a table in a notebook."""

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from helpers.models.ensembles import BASELINES
from helpers.unlearning import METHODS

NONE = "–"


def kinds_in(results: pd.DataFrame) -> list[str]:
    """The kinds of models in the frame: baselines first, then the methods in their order."""
    there = set(results.kind)
    return [kind for kind in (*BASELINES, *METHODS) if kind in there]


def spread(sample, scale: float = 1.0, digits: int = 2) -> str:
    """`mean ± standard deviation` over the models; a dash where nothing was measured."""
    sample = scale * np.asarray(sample, float)
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return NONE
    return f"{round(sample.mean(), digits) + 0.0:.{digits}f} ± {sample.std():.{digits}f}"  # + 0.0: no "-0.0"


def span(low: float, high: float, digits: int) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f}" if np.isfinite(low) else NONE


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """For a notebook, with a caption below."""
    return table.style.set_caption(caption).set_table_styles([{"selector": "caption", "props": "caption-side: bottom"}])


def central_range(draws: np.ndarray) -> tuple[float, float]:
    """Where 95 % of the draws lie."""
    return tuple(np.nanquantile(draws, [0.025, 0.975]).tolist())
