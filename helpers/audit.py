"""The audit: every measure of `metrics` over every kind of model, each beside what chance does to retrained models.

Per-model measures that compare with a retrained model pair model i with retrained model i + 1, another seed. Measures
of a whole ensemble (U-LiRA, KLoM) compare a random half of the kind's models with the other half of the retrained ones,
20 times (with fewer than 4 models: nan). Retrained models are measured in the same way against themselves: that is the *null*, and as close to it as
possible is where an unlearned ensemble should be.
"""

from dataclasses import dataclass

import numpy as np

from helpers.ensembles import RECIPE, Ensemble
from helpers.evaluation import (
    RESULTS,
    Outputs,
    accuracy,
    bootstrap,
    cross_entropies,
    outputs,
    results_folder,
    retain_train_sample,
)
from helpers.files import StudyError, load_json, save_json
from helpers.metrics import (
    activation_distance,
    average_gap,
    forget_loss,
    halves,
    jensen_shannon,
    klom,
    linear_probe,
    loss_attack,
    margin,
    relearn_steps,
    streisand,
    tug_of_war,
    u_lira,
)
from helpers.parallel import run_each
from helpers.split import Task

PROBED = 3  # models of each kind on which relearn time and linear probe are measured
MEASURES = {
    # key: (title, unit or meaning, digits)
    "tow": ("tug of war (ToW)", "1 is best", 3),
    "average_gap": ("average gap", "points, 0 is best", 2),
    "attack": ("loss attack", "AUC, target: retrained", 3),
    "u_lira": ("U-LiRA", "accuracy, 0.5 is best", 3),
    "u_lira_tpr_1": ("U-LiRA at 1 % false positives", "true positives, 0.01 is best", 3),
    "u_lira_tpr_5": ("U-LiRA at 5 % false positives", "true positives, 0.05 is best", 3),
    "klom": ("KLoM forget (train)", "nats, target: null", 2),
    "klom_95": ("KLoM forget, 95th percentile", "nats, target: null", 2),
    "klom_retain": ("KLoM retain (train)", "nats, target: null", 2),
    "klom_test": ("KLoM test", "nats, target: null", 2),
    "activation": ("activation distance, forget (test)", "target: null", 3),
    "js": ("Jensen-Shannon, forget (test)", "nats, target: null", 3),
    "relearn": ("relearn time", "steps, target: retrained", 1),
    "probe": ("linear probe for the crossbar", "balanced accuracy, target: retrained", 3),
    "excess": ("forget loss in excess", "standard deviations of retrained, 0 is best", 1),
    "beyond": ("forget samples beyond every retrained model", "share, 0 is best", 3),
}


@dataclass(frozen=True)
class Audit:
    """n: models of each kind; kinds: kind -> measure -> {value, low, high} (95 % intervals); null: measure ->
    [low, high], where 95 % of the values lie that retrained models give against each other."""

    n: int
    identities: dict[str, str]
    kinds: dict[str, dict[str, dict[str, float]]]
    null: dict[str, list[float]]


def audit(task: Task, *ensembles: Ensemble) -> Audit:
    """Measures all given ensembles, among them "trained" and "retrained" and all of the same size, and stores the
    result as data/results/<dataset>/<side>/audit.json; one of the same models that lies there is loaded."""
    by_kind = {ensemble.kind: ensemble for ensemble in ensembles if ensemble.kind != "untrained"}
    path = results_folder(task) / "audit.json"
    identities = {kind: ensemble.identity for kind, ensemble in by_kind.items()}
    if path.is_file():
        known = load_json(path, "delete this file and run the cell again.")
        if known.get("identities") == identities and known.get("n") == len(by_kind["retrained"]):
            return Audit(**known)
    probes = _probes(task, by_kind)
    views = {kind: _View.of(task, outputs(ensemble, task)) for kind, ensemble in by_kind.items()}
    oracle = views["retrained"]
    n = len(by_kind["retrained"])
    found, null = {}, {}
    for kind, view in views.items():
        found[kind] = _interval(_paired(view, oracle, np.roll(np.arange(n), -1)))
        found[kind] |= _interval({"attack": view.attack} | probes[kind])
        found[kind] |= {key: _summary(values) for key, values in _of_halves(view, oracle).items()}
        excess = streisand(view.loss, oracle.loss)
        found[kind] |= {key: {"value": value, "low": value, "high": value} for key, value in excess.items()}
    random = np.random.default_rng(0)
    shifts = [_paired(oracle, oracle, _derangement(n, random)) for _ in range(200)]
    for key in ("tow", "average_gap", "activation", "js"):
        found["retrained"][key] = _summary([shift[key].mean() for shift in shifts])
        null[key] = np.quantile([shift[key].mean() for shift in shifts], [0.025, 0.975]).tolist()
    for key in MEASURES:
        null.setdefault(key, [found["retrained"][key]["low"], found["retrained"][key]["high"]])
    if n >= 4:
        half = [streisand(oracle.loss[a], oracle.loss[b]) for a, b in halves(n)]
        for key in ("excess", "beyond"):
            null[key] = np.quantile([h[key] for h in half], [0.025, 0.975]).tolist()
    result = Audit(n, identities, found, null)
    save_json(path, vars(result))
    return result


def load_audit(dataset: str, side: str) -> Audit:
    """The stored audit; StudyError that names the notebook to run if there is none."""
    remedy = f'run graphics.ipynb with USED_DATASET = "{dataset}" and FORGET = "{side}".'
    try:
        return Audit(**load_json(RESULTS / dataset / side / "audit.json", remedy))
    except TypeError:
        raise StudyError(
            f"The audit of {dataset} was written by another version of this repository: {remedy}"
        ) from None


@dataclass(frozen=True)
class _View:
    """What the measures need of one kind: accuracy per subset [N], attack [N], phi and loss [N, n], test logits of the
    forget set [N, n, 10]."""

    accuracy: dict[str, np.ndarray]
    attack: np.ndarray
    margins: dict[str, np.ndarray]
    loss: np.ndarray
    forget_test: np.ndarray

    @classmethod
    def of(cls, task: Task, logits: Outputs) -> "_View":
        retain = task.data.train.labels[retain_train_sample(task)].numpy()
        labels = {"forget": task.forget_set("train")[1].numpy(), "retain": retain}
        labels["test"] = task.data.test.labels.numpy()
        parts = {"forget": logits.forget_train, "retain": logits.retain_train, "test": logits.test}
        at = task.forget["test"].numpy()
        loss = cross_entropies(parts["forget"], labels["forget"])
        unseen = cross_entropies(parts["test"][:, at], labels["test"][at])
        return cls(
            {name: accuracy(parts[name], labels[name]) for name in parts},
            np.array([loss_attack(a, b) for a, b in zip(loss, unseen, strict=True)]),
            {name: margin(parts[name], labels[name]) for name in parts},
            loss,
            parts["test"][:, at],
        )


def _paired(view: _View, oracle: _View, partner: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of model i against retrained model partner[i]: name -> [N]."""
    target = {name: values[partner] for name, values in oracle.accuracy.items()}
    mine = view.accuracy | {"attack": view.attack}
    return {
        "tow": tug_of_war(view.accuracy, target),
        "average_gap": 100 * average_gap(mine, target | {"attack": oracle.attack[partner]}),
        "activation": activation_distance(view.forget_test, oracle.forget_test[partner]),
        "js": jensen_shannon(view.forget_test, oracle.forget_test[partner]),
    }


def _of_halves(view: _View, oracle: _View) -> dict[str, list[float]]:
    """Measures of whole ensembles, over random halves: name -> one value per draw."""
    found = {
        key: [] for key in ("u_lira", "u_lira_tpr_1", "u_lira_tpr_5", "klom", "klom_95", "klom_retain", "klom_test")
    }
    if len(oracle.attack) < 4:  # too few to leave one out of a half
        return {key: [np.nan] for key in found}
    for a, b in halves(len(oracle.attack)):
        attack = u_lira(view.margins["forget"][a], oracle.margins["forget"][b])
        forget = klom(view.margins["forget"][a], oracle.margins["forget"][b])
        found["u_lira"].append(attack["accuracy"])
        found["u_lira_tpr_1"].append(attack["tpr_at_0.01"])
        found["u_lira_tpr_5"].append(attack["tpr_at_0.05"])
        found["klom"].append(forget.mean())
        found["klom_95"].append(np.quantile(forget, 0.95))
        for name in ("retain", "test"):
            found[f"klom_{name}"].append(klom(view.margins[name][a], oracle.margins[name][b]).mean())
    return found


def _derangement(n: int, random: np.random.Generator) -> np.ndarray:
    """A random order in which no number stays at its place."""
    while True:
        order = random.permutation(n)
        if n < 2 or (order != np.arange(n)).all():
            return order


def _interval(values: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean over the models with its bootstrap interval."""
    summary = {}
    for key, each in values.items():
        low, high = bootstrap(np.asarray(each, float))
        summary[key] = {"value": float(np.mean(each)), "low": low, "high": high}
    return summary


def _summary(draws: list[float]) -> dict[str, float]:
    """Mean and 95 % range over the random halves."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(np.mean(draws)), "low": float(low), "high": float(high)}


def _probes(task: Task, ensembles: dict[str, Ensemble]) -> dict[str, dict[str, np.ndarray]]:
    """Relearn steps and linear probe of the first PROBED models of each kind; what is stored is not computed again."""
    trained = ensembles["trained"]
    kinds = list(ensembles)
    folder = results_folder(task) / "probes"
    paths = {kind: folder / f"{kind}-{e.identity}-{trained.identity}-{PROBED}.json" for kind, e in ensembles.items()}

    def work(at: int, tick) -> None:
        kind = kinds[at]
        pairs = list(zip(ensembles[kind].models, trained.models, strict=True))[:PROBED]
        relearn = [
            relearn_steps(model, task, forget_loss(start, task), RECIPE, seed)
            for seed, (model, start) in enumerate(pairs)
        ]
        probe = [linear_probe(model, task) for model, _ in pairs]
        save_json(paths[kind], {"relearn": relearn, "probe": probe})
        tick()

    missing = [at for at, kind in enumerate(kinds) if not paths[kind].is_file()]
    run_each(work, missing, lambda done: None)
    found = {kind: load_json(path, "delete this file and run the cell again.") for kind, path in paths.items()}
    return {kind: {key: np.array(values) for key, values in each.items()} for kind, each in found.items()}
