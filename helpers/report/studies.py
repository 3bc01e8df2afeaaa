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
from helpers.evaluation.evaluate import evaluate
from helpers.evaluation.frame import mean, values
from helpers.objective import Found
from helpers.report.cells import NONE, spread, styled
from helpers.report.style import png
from helpers.studies import again_of, chosen, chosen_trial, complete, finished, kept, mean_of
from helpers.unlearning import METHODS, method_of, unlearned

NOTHING = "There is no finished trial to show: set N_TRIALS above 0 and run this section."


def chosen_table(studies: dict[str, optuna.Study | None]) -> Styler:
    """The chosen point of each study (method -> study) with its two goals, on the tuning models; where there is none, that."""
    rows = {method_of(method).title: _chosen_row(study, method) for method, study in studies.items()}
    note = "On the tuning models: energy distance on forget samples of their training set, accuracy on held-out retained samples."
    return styled(pd.DataFrame(rows).T.fillna(NONE), note)


def _chosen_row(study: optuna.Study | None, method: str) -> dict[str, str]:
    if study is None or not complete(study):
        return {"finished trials": "0: set N_TRIALS above 0"}
    best, trials = chosen_trial(study), finished(study)
    found, limits, ceiling = mean_of(study, best), kept(study, "limits"), kept(study, "ceiling")
    shares = 100 * (1 - np.array(found.energies) / ceiling)
    error = f" (standard error {shares.std(ddof=1) / len(shares) ** 0.5:.1f})" if len(shares) > 1 else ""
    diverged = sum(Found(**trial.user_attrs["found"]).diverged for trial in trials)
    return {
        "finished trials": f"{len(trials)}" + f", {diverged} diverged" * bool(diverged),
        "chosen trial": f"{best.number}, measured {1 + len(again_of(study, best))} times",
        "energy gap closed, %": f"{shares.mean():.1f}{error}",
        "accuracy lost, points": f"{found.lost:.2f}, tolerated {limits[0]:.2f}",
        "lost on the rest of the class": f"{found.lost_class:.2f}, tolerated {limits[1]:.2f}",
        "cost, % of retraining's samples": f"{100 * found.cost:.1f}",
        "hyper-parameters": ", ".join(f"{key} {value:.3g}" for key, value in asdict(chosen(study, method)).items()),
    }


def compare_settings(method: str, study: optuna.Study | None, task: Task, n: int) -> Styler | Markdown:
    """The chosen point of a study beside the defaults, on n models of the reported ensemble, which no study has seen."""
    if study is None or not complete(study):
        return Markdown(NOTHING)
    rows = {}
    for label, point in (("chosen point", chosen(study, method)), ("defaults", METHODS[method].settings)):
        results = evaluate(task, unlearned(method, task, n, stored=False, settings=point))
        oracle = mean(results, "retrained", "accuracy", "test", "retain")
        gaps = {
            f"{word} gap closed, forget ({half}), %": spread(values(results, method, measure, half, "forget"), 100, 1)
            for word, measure in (("energy", "energy_gap"), ("KL", "kl_gap"))
            for half in ("test", "train")
        }
        lost = {
            "lost on retain, points": spread(100 * (oracle - values(results, method, "accuracy", "test", "retain")))
        }
        rows[label] = gaps | lost
    note = f"Mean ± standard deviation over {n} models that were not tuned on."
    return styled(pd.DataFrame(rows).T.rename_axis(index=METHODS[method].title), note)


# ---- figures ----


def optuna_figure(draw: Callable, study: optuna.Study | None, **options) -> Image | Markdown:
    """One of Optuna's own matplotlib plots (`optuna.visualization.matplotlib`) of the first goal, as a picture."""
    if study is None or not complete(study):
        return Markdown(NOTHING)
    if "pareto" in draw.__name__:
        options |= {"target_names": ["energy distance on forget", "points lost"]}
    else:
        options |= {"target": lambda trial: trial.values[0], "target_name": "energy distance on forget"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # that no trial is within the limits stands in the table
        made = draw(study, **options).figure
    made.set_size_inches(8, 3.6)
    pyplot.close(made)
    return Image(png(made))
