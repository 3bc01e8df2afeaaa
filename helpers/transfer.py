"""Why the published hyper-parameters of GEMU collapse on another data set, and these do not.

The published setting counts its budgets in forget samples, has learning rates in absolute numbers and weighs the noise
by its summed square. A few changes of unit, one after the other, lead from there to the setting used here; each stage is
run on the same models.
"""

from dataclasses import replace

import numpy as np

from helpers.ensembles import RECIPE, baseline, identity_of, unlearned
from helpers.evaluation import RESULTS, accuracy, gap_closed, outputs, results_folder
from helpers.files import load_json, save_json
from helpers.split import Task, task_fingerprint
from helpers.training import predict
from helpers.unlearning import METHODS, GemuSettings

MOST_MODELS = 2


def published(task: Task) -> GemuSettings:
    """What the published study found for GEMU on MNIST, in the units of GemuSettings for this task.

    6 generator epochs over |D_f| samples at rate 0.3 and batch 32; lambda 0.26 on the *summed* square of a sample;
    one hidden layer of 1,024, d = 35; impair on |D_f| noise samples and 11.5 |D_f| retained ones at rate 0.05, repair on
    11.5 |D_f| at rate 0.01. (Its classifier was another one, so this shows the units, not the published figures.)
    """
    n_forget, n_retain = int(task.forget["train"].sum()), int((~task.forget["train"]).sum())
    one = n_forget / (RECIPE.passes(n_retain) * n_retain)  # |D_f| as a share of the samples that retraining sees
    return GemuSettings(
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


def stages(task: Task) -> dict[str, GemuSettings]:
    """What is changed -> settings after that change, from the published ones to ours."""
    old, ours = published(task), METHODS["gemu"].settings

    def taken(start: GemuSettings, *names: str) -> GemuSettings:
        return replace(start, **{name: getattr(ours, name) for name in names})

    rates = taken(old, "generator_lr", "impair_lr", "repair_lr")
    budgets = taken(rates, "generator_share", "impair_share", "impair_noise", "repair_share", "batch_size")
    return {
        "published": old,
        "rates relative\nto the recipe's": rates,
        "budgets as shares\nof retraining": budgets,
        "our\ngenerator": replace(ours, weight_decay=0.0),
        "weights that\ndecay": ours,
    }


def walk(task: Task, n: int) -> None:
    """Runs GEMU at every stage on at most MOST_MODELS of the n models and stores accuracy and gap closed in transfer.json.

    Stages that cost more than half of retraining are left out (where many samples are forgotten the first ones do).
    """
    few, at = min(n, MOST_MODELS), task.subsets("test")
    labels = task.data.test.labels.numpy()
    logits = {kind: outputs(baseline(kind, task, n, stored=True), task).test for kind in ("trained", "retrained")}
    found = []
    for label, settings in stages(task).items():
        if settings.generator_share + settings.impair_share + settings.repair_share > 0.5:
            continue
        ensemble = unlearned("gemu", task, few, stored=False, settings=settings)
        mine = np.stack([predict(model, task.data.test.images).numpy() for model in ensemble.models])
        retrained, trained, unlearn = (x[:few, at["forget"]] for x in (logits["retrained"], logits["trained"], mine))
        gap = gap_closed(retrained, trained, unlearn).values
        found.append(
            {
                "change": label,
                "retain": accuracy(mine[:, at["retain"]], labels[at["retain"]]).tolist(),
                "gap": gap.tolist(),
            }
        )
    about = {"source": task.data.source, "gemu": identity_of("gemu", task.fingerprint)}
    save_json(results_folder(task) / "transfer.json", about | {"stages": found})


def load_walk(dataset: str, side: str) -> list[dict] | None:
    """Per stage {change, retain, gap}, the last two a value per model; None if it was not run for that data set, or with
    another split, recipe, settings or code."""
    path = RESULTS / dataset / side / "transfer.json"
    if not path.is_file():
        return None
    stored = load_json(path, "delete this file and run netcomp_GEMU.ipynb again.")
    present = identity_of("gemu", task_fingerprint(dataset, stored.get("source", ""), side))
    return stored["stages"] if stored.get("gemu") == present else None
