"""Tables and figures of Optuna studies."""

import warnings
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import optuna
import pandas as pd
from IPython.display import Image, Markdown
from matplotlib import pyplot
from pandas.io.formats.style import Styler

from helpers.data.task import Task
from helpers.evaluation.evaluate import measure
from helpers.evaluation.frame import mean, values
from helpers.files import StudyError
from helpers.models.ensembles import check_stored
from helpers.objective import best_trial, complete, winner
from helpers.report.style import png
from helpers.report.tables import NONE, spread, styled
from helpers.studies import chosen
from helpers.unlearning import METHODS, method_of, unlearned

NO_TRIAL = "There is no finished trial to show: set N_TRIALS above 0 and run this section."
NOT_STORED = "The models for this comparison are not stored: set ALLREADY_TRAINED = False to make them."


def chosen_table(studies: dict[str, optuna.Study | None]) -> Styler:
    """The best trial of each study (method -> study), as measured on the tuning models."""
    rows = {method_of(method).title: _chosen_row(study, method) for method, study in studies.items()}
    note = (
        "On the tuning models: energy distance on forget samples of their training set, accuracy on held-out "
        "retained samples. Fresh models: as many others, which no trial has seen; of the best trials the one with the "
        "lowest mean over both is shown."
    )
    return styled(pd.DataFrame(rows).T.fillna(NONE), note)


def _chosen_row(study: optuna.Study | None, method: str) -> dict[str, str]:
    """Column -> cell."""
    best, fresh = winner(study) if study else (None, {})
    if not best:
        return {"finished trials": "0: set N_TRIALS above 0"}
    trials, found = complete(study), best.user_attrs["measured"]
    goals, shown = found["goals"], fresh or found
    early = sum(len(trial.user_attrs["measured"]["goals"]) < len(goals) for trial in trials)
    return {
        "finished trials": f"{len(trials)}, {early} of them given up early",
        "trial": f"{best.number}, on {len(goals)} models",
        "goal (standard error)": _goal(found),
        "the same on fresh models": _goal(fresh) if fresh else NONE,
        "distance closed, %": f"{shown['gap']:.1f}",
        "accuracy lost, percentage points": f"{shown['lost']:.2f}",
        "lost of the classes touched": f"{shown['lost_class']:.2f}",
        "cost, % of retraining's samples": f"{100 * found['cost']:.1f}",
        "hyper-parameters": ", ".join(f"{key} {_short(value)}" for key, value in asdict(chosen(study, method)).items()),
    }


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _goal(measured: dict) -> str:
    """Mean and standard error. measured: as `objective.told` gives it."""
    goals = np.array(measured["goals"])
    return f"{goals.mean():.1f} ({goals.std(ddof=1) / len(goals) ** 0.5:.1f})"


def compare_settings(method: str, study: optuna.Study | None, task: Task, n: int, stored: bool) -> Styler | Markdown:
    """What `chosen` gives beside the settings in use, on n models of the reported ensemble, which no study has seen;
    one row where these are the same.

    stored: True trains nothing; where models are missing, or there is no trial, a sentence says what to do."""
    check_stored(stored)
    if study is None or best_trial(study) is None:
        return Markdown(NO_TRIAL)
    rows, found, used = {}, chosen(study, method), METHODS[method].settings
    wanted = {"winner of the study, in use": used} if found == used else {"winner of the study": found, "in use": used}
    for label, settings in wanted.items():
        try:
            models = unlearned(method, task, n, stored, settings)
        except StudyError:
            if stored:
                return Markdown(NOT_STORED)
            raise
        results = measure(task, models)
        oracle = mean(results, "retrained", "accuracy", "test", "retain")
        gaps = {
            f"{word} gap closed, forget ({split}), %": spread(values(results, method, gap, split, "forget"), 100, 1)
            for word, gap in (("energy", "energy_gap"), ("KL", "kl_gap"))
            for split in ("test", "train")
        }
        lost = spread(100 * (oracle - values(results, method, "accuracy", "test", "retain")))
        rows[label] = gaps | {"accuracy lost on retain, percentage points": lost}
    note = f"Mean ± standard deviation over {n} models on which nothing was tuned."
    return styled(pd.DataFrame(rows).T.rename_axis(index=METHODS[method].title), note)


# ---- figures ----


def optuna_figure(draw: Callable, study: optuna.Study | None, **options) -> Image | Markdown:
    """One of Optuna's own matplotlib plots (`optuna.visualization.matplotlib`) as a picture."""
    if study is None or best_trial(study) is None:
        return Markdown(NO_TRIAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = draw(study, **options).figure
    made.set_size_inches(8, 3.6)
    if draw.__name__ == "plot_optimization_history":  # the worst trials would press all others into one line
        goals = [trial.value for trial in complete(study)]
        made.axes[0].set_ylim(top=max(2 * np.median(goals), 1.1 * min(goals)))
    pyplot.close(made)
    alt = draw.__name__.removeprefix("plot_").replace("_", " ")
    return Image(png(made), alt=f"Optuna's plot of the study {study.study_name}: {alt}.")
