"""Why the published hyper-parameters of GEMU collapse on another data set, and these do not.

The published setting counts its budgets in forget samples, has learning rates in absolute numbers and weighs the noise
by its summed square. A few changes of unit, one after the other, lead from there to the setting used here; each stage is
run on the same models.
"""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd

from helpers.data.task import Task
from helpers.evaluation.distances import accuracy, gap_closed, kl_per_model
from helpers.evaluation.evaluate import frame_path, read_frame
from helpers.evaluation.frame import Rows
from helpers.evaluation.logits import logits_of
from helpers.files import code_fingerprint, save_frame
from helpers.models.ensembles import baseline
from helpers.models.training import RECIPE, predict
from helpers.unlearning import METHODS, kind_of, unlearned
from helpers.unlearning.generator import GeneratorSettings

MOST_MODELS = 2


def published(task: Task) -> GeneratorSettings:
    """What the published study found for GEMU on MNIST, in the units of GeneratorSettings for this task.

    6 generator epochs over |D_f| samples at rate 0.3 and batch 32; lambda 0.26 on the *summed* square of a sample;
    one hidden layer of 1,024, d = 35; impair on |D_f| noise samples and 11.5 |D_f| retained ones at rate 0.05, repair on
    11.5 |D_f| at rate 0.01. (Its classifier was another one, so this shows the units, not the published figures.)
    """
    n_forget, n_retain = int(task.forget["train"].sum()), int((~task.forget["train"]).sum())
    one = n_forget / (RECIPE.passes(n_retain) * n_retain)  # |D_f| as a share of the samples that retraining sees
    return GeneratorSettings(
        noise_dim=35,
        hidden_layers=1,
        width=1024,
        generator_share=6 * one,
        generator_batch=32,
        generator_lr=0.3 / RECIPE.peak_lr,
        noise_weight=0.26 * task.data.train.images[0].numel(),
        batch_size=32,
        impair_share=12.5 * one,
        impair_noise=1 / 12.5,
        impair_lr=0.05 / RECIPE.peak_lr,
        repair_share=11.5 * one,
        repair_lr=0.01 / RECIPE.peak_lr,
        weight_decay=0.0,
    )


def stages(task: Task) -> dict[str, GeneratorSettings]:
    """What is changed -> settings after that change, from the published ones to ours."""
    old, ours = published(task), METHODS["gemu"].settings

    def taken(start: GeneratorSettings, *names: str) -> GeneratorSettings:
        return replace(start, **{name: getattr(ours, name) for name in names})

    rates = taken(old, "generator_lr", "impair_lr", "repair_lr")
    budgets = taken(rates, "generator_share", "impair_share", "impair_noise", "repair_share", "batch_size")
    return {
        "published": old,
        "rates relative to the recipe's": rates,
        "budgets as shares of retraining": budgets,
        "our generator": replace(ours, weight_decay=0.0),
        "weights that decay": ours,
    }


def walk(task: Task, n: int) -> pd.DataFrame:
    """Runs GEMU at every stage on at most MOST_MODELS of the n models, or loads what was stored. Rows of kind "gemu" with
    the stage in `at`: `accuracy` on retain and `kl_gap` on forget, test half.

    Stages that cost more than half of retraining are left out (where many samples are forgotten the first ones do).
    """
    code = code_fingerprint(sys.modules[__name__], follow="helpers.evaluation")
    path = frame_path(task, kind_of("gemu", task), n, "walk-", code)
    if not path.is_file():
        save_frame(path, _walk(task, n))
    return read_frame(path, "gemu")


def _walk(task: Task, n: int) -> pd.DataFrame:
    few, rows = min(n, MOST_MODELS), Rows()
    at = {name: where.numpy() for name, where in task.subsets("test").items()}
    r, t = (logits_of(baseline(name, task, n, stored=True), task).test[:few] for name in ("retrained", "trained"))
    r, t, labels = r[:, at["forget"]], t[:, at["forget"]], task.data.test.labels.numpy()[at["retain"]]
    ends = [kl_per_model(r, models).mean() for models in (r, t)]
    for stage, settings in stages(task).items():
        if settings.generator_share + settings.impair_share + settings.repair_share > 0.5:
            continue
        ensemble = unlearned("gemu", task, few, stored=False, settings=settings)
        mine = np.stack([predict(model, task.data.test.images).numpy() for model in ensemble.models])
        rows.add("accuracy", accuracy(mine[:, at["retain"]], labels), "test", "retain", stage)
        gap = gap_closed(kl_per_model(r, mine[:, at["forget"]]), *ends)
        rows.add("kl_gap", gap, "test", "forget", stage)
    return rows.frame(task, "gemu")
