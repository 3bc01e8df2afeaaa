"""The audit: every measure of `metrics` over every kind of model, each beside what chance does to retrained models.

Per-model measures that compare with a retrained model pair model i with retrained model i + 1, another seed. Measures
of a whole ensemble (U-LiRA, KLoM, forgetting more than retraining does) compare a random half of the kind's models with
the other half of the retrained ones, 20 times (with fewer than 4 models: the losses alone, all against all). Retrained
models are measured in the same way against themselves: that is the *null*, and as close to it as possible is where an
unlearned ensemble should be; their own value is the mean of the same draws. For measures of one model alone (loss
attack, relearn time, probe) the null is where the mean of a random half of the retrained models lies.
"""

import sys
from dataclasses import dataclass

import numpy as np

from helpers import evaluation, metrics
from helpers.datasets import NAMES
from helpers.device import return_memory
from helpers.ensembles import RECIPE, Ensemble
from helpers.evaluation import (
    RESULTS,
    Outputs,
    Result,
    accuracy,
    bootstrap,
    cross_entropies,
    outputs,
    results_folder,
    retain_train_sample,
)
from helpers.files import StudyError, code_fingerprint, load_json, save_json
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

PROBED = 5  # models of each kind on which relearn time and linear probe are measured
_FEW = f"{PROBED} model{'s' * (PROBED > 1)}"
MOST_STEPS = 240  # at which relearning is given up
MEASURES = {
    # key: (title, unit or meaning, digits)
    "tow": ("tug of war (ToW)", "1 is best", 3),
    "tow_test": ("ToW with forget (test)", "1 is best", 3),
    "average_gap": ("average gap", "points, 0 is best", 2),
    "average_gap_test": ("average gap with forget (test)", "points, 0 is best", 2),
    "attack": ("loss attack", "AUC, target: retrained", 3),
    "u_lira": ("U-LiRA on forget (train)", "accuracy, 0.5 is best", 3),
    "u_lira_test": ("U-LiRA on forget (test)", "accuracy, 0.5 is best", 3),
    "u_lira_tpr_1": ("U-LiRA at 1 % false positives", "true positives, 0.01 is best", 3),
    "u_lira_tpr_5": ("U-LiRA at 5 % false positives", "true positives, 0.05 is best", 3),
    "klom": ("KLoM forget (train)", "nats, target: null", 2),
    "klom_95": ("KLoM forget (train), 95th percentile", "nats, target: null", 2),
    "klom_forget_test": ("KLoM forget (test)", "nats, target: null", 2),
    "klom_forget_test_95": ("KLoM forget (test), 95th percentile", "nats, target: null", 2),
    "klom_7_retain": ("KLoM 7_retain", "nats, target: null", 2),
    "klom_retain": ("KLoM retain (train)", "nats, target: null", 2),
    "klom_retain_95": ("KLoM retain (train), 95th percentile", "nats, target: null", 2),
    "klom_test": ("KLoM test", "nats, target: null", 2),
    "klom_test_95": ("KLoM test, 95th percentile", "nats, target: null", 2),
    "activation_train": ("activation distance, forget (train)", "target: null", 3),
    "activation": ("activation distance, forget (test)", "target: null", 3),
    "js_train": ("Jensen-Shannon, forget (train)", "nats, target: null", 3),
    "js": ("Jensen-Shannon, forget (test)", "nats, target: null", 3),
    "relearn": (f"relearn time, {_FEW}", f"steps, at most {MOST_STEPS}, target: retrained", 1),
    "relearn_ratio": (f"relearn time / retrained, {_FEW}", "1 is best", 2),
    "probe": (f"linear probe for the crossbar, {_FEW}", "balanced accuracy, target: retrained", 3),
    "excess": ("forget loss in excess (train)", "standard deviations of retrained, 0 is best", 1),
    "excess_test": ("forget loss in excess (test)", "standard deviations of retrained, 0 is best", 1),
    "beyond": ("forget samples (train) beyond every retrained model", "share, target: null", 3),
    "beyond_test": ("forget samples (test) beyond every retrained model", "share, target: null", 3),
}


@dataclass(frozen=True)
class Audit:
    """dataset, side; n: models of each kind; kinds: kind -> measure -> {value, low, high} (95 % intervals); null: measure ->
    [low, high], where 95 % of the values lie that retrained models give against each other; code: fingerprint of the
    measures."""

    dataset: str
    side: str
    n: int
    code: str
    identities: dict[str, str]
    kinds: dict[str, dict[str, dict[str, float]]]
    null: dict[str, list[float]]

    def inside(self, kind: str, key: str) -> bool:
        """True where a kind's value lies within the null of that measure."""
        low, high = self.null[key]
        return bool(low - 1e-9 <= self.kinds[kind][key]["value"] <= high + 1e-9)


def audit(task: Task, *ensembles: Ensemble) -> Audit:
    """Measures all given ensembles, among them "trained" and "retrained" and all of the same size, and stores the
    result as data/results/<dataset>/<side>/audit.json; one of the same models that lies there is loaded."""
    by_kind = {ensemble.kind: ensemble for ensemble in ensembles if ensemble.kind != "untrained"}
    path = results_folder(task) / "audit.json"
    identities = {kind: ensemble.identity for kind, ensemble in by_kind.items()}
    about = (task.data.name, task.side, len(by_kind["retrained"]), _code(), identities)
    if path.is_file():
        known = load_json(path, "delete this file and run the cell again.")
        if tuple(known.get(key) for key in ("dataset", "side", "n", "code", "identities")) == about:
            return Audit(**known)
    probes = _probes(task, by_kind)
    views = {kind: _View.of(task, outputs(ensemble, task)) for kind, ensemble in by_kind.items()}
    result = Audit(*about, *compare(views, probes))
    save_json(path, vars(result))
    return_memory()
    return result


def compare(views: dict[str, "_View"], probes: dict[str, dict[str, np.ndarray]]) -> tuple[dict, dict]:
    """The measures of all kinds (kind -> measure -> {value, low, high}) and their nulls (measure -> [low, high])."""
    oracle = views["retrained"]
    n = len(oracle.attack)
    found, null = {}, {}
    for kind, view in views.items():
        found[kind] = _interval(_paired(view, oracle, np.roll(np.arange(n), -1)))
        found[kind] |= _interval({"attack": view.attack} | probes[kind])
        found[kind] |= {key: _summary(values) for key, values in _of_halves(view, oracle).items()}
    random = np.random.default_rng(0)
    shifts = [_paired(oracle, oracle, _derangement(n, random)) for _ in range(200)]
    for key in shifts[0]:
        means = [shift[key].mean() for shift in shifts]
        found["retrained"][key] = _summary(means)
        null[key] = np.quantile(means, [0.025, 0.975]).tolist()
    for key, values in ({"attack": oracle.attack} | probes["retrained"]).items():
        null[key] = _of_random_halves(values)
    for key in MEASURES:  # those of halves: what the retrained ones give
        null.setdefault(key, [found["retrained"][key]["low"], found["retrained"][key]["high"]])
    return found, null


def load_audit(results: dict[str, Result]) -> Audit:
    """The stored audit of the models that these results are of; StudyError that names the notebook to run if there is
    none, or one of other models or code."""
    of = results["retrained"]
    remedy = f'run graphics.ipynb with USED_DATASET = "{of.dataset}" and FORGET = "{of.side}".'
    stored = load_json(RESULTS / of.dataset / of.side / "audit.json", remedy)
    identities = {kind: result.identity for kind, result in results.items() if kind != "untrained"}
    try:
        found = Audit(**stored)
    except TypeError:
        found = None
    about = (of.dataset, of.side, len(of), _code())
    if not found or (found.dataset, found.side, found.n, found.code) != about or found.identities != identities:
        raise StudyError(f"The audit of {NAMES[of.dataset]} is of other models or code than its results: {remedy}")
    return found


def _code() -> str:
    return code_fingerprint(evaluation, metrics, sys.modules[__name__])


@dataclass(frozen=True)
class _View:
    """What the measures need of one kind. accuracy: part -> [N]; attack: AUC [N]; margins: part -> [N, n]; loss: part
    -> [N, n]; logits: part -> [N, n, 10]. Parts: forget (training half), forget_test, 7_retain, retain, test."""

    accuracy: dict[str, np.ndarray]
    attack: np.ndarray
    margins: dict[str, np.ndarray]
    loss: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]

    @classmethod
    def of(cls, task: Task, logits: Outputs) -> "_View":
        retain = task.data.train.labels[retain_train_sample(task)].numpy()
        labels = {"forget": task.forget_set("train")[1].numpy(), "retain": retain}
        labels["test"] = task.data.test.labels.numpy()
        parts = {"forget": logits.forget_train, "retain": logits.retain_train, "test": logits.test}
        for name, subset in (("forget_test", "forget"), ("7_retain", "7_retain")):
            at = task.subsets("test")[subset].numpy()
            labels[name], parts[name] = labels["test"][at], parts["test"][:, at]
        return cls.from_logits(parts, labels)

    @classmethod
    def from_logits(cls, parts: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> "_View":
        """parts: part -> logits [N, n, 10]; labels: part -> [n]."""
        forgotten = ("forget", "forget_test")
        loss = {name: cross_entropies(parts[name], labels[name]) for name in forgotten}
        return cls(
            {name: accuracy(parts[name], labels[name]) for name in parts},
            np.array([loss_attack(a, b) for a, b in zip(loss["forget"], loss["forget_test"], strict=True)]),
            {name: margin(parts[name], labels[name]) for name in parts},
            loss,
            {name: parts[name] for name in forgotten},
        )


def _paired(view: _View, oracle: _View, partner: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of model i against retrained model partner[i]: name -> [N]."""
    found = {}
    for forget, end in (("forget", ""), ("forget_test", "_test")):
        parts = (forget, "retain", "test")
        mine = {part: view.accuracy[part] for part in parts}
        target = {part: oracle.accuracy[part][partner] for part in parts}
        found[f"tow{end}"] = tug_of_war(mine, target)
        mine["attack"], target["attack"] = view.attack, oracle.attack[partner]
        found[f"average_gap{end}"] = 100 * average_gap(mine, target)
    for part, end in (("forget", "_train"), ("forget_test", "")):
        mine, target = view.logits[part], oracle.logits[part][partner]
        found[f"activation{end}"] = activation_distance(mine, target)
        found[f"js{end}"] = jensen_shannon(mine, target)
    return found


def _of_halves(view: _View, oracle: _View) -> dict[str, list[float]]:
    """Measures of whole ensembles, over random halves: name -> one value per draw."""
    klom_keys = {"klom": "forget"} | {f"klom_{part}": part for part in ("forget_test", "7_retain", "retain", "test")}
    tails = ("klom", "klom_forget_test", "klom_retain", "klom_test")
    keys = ("u_lira", "u_lira_test", "u_lira_tpr_1", "u_lira_tpr_5", "excess", "excess_test", "beyond", "beyond_test")
    found = {key: [] for key in (*keys, *klom_keys, *(f"{key}_95" for key in tails))}
    n = len(oracle.attack)
    few = n < 4  # too few to leave one out of a half; the losses of all are compared with all
    for a, b in [(slice(None), slice(None))] if few else halves(n):
        for part, end in (("forget", ""), ("forget_test", "_test")):
            for key, value in streisand(view.loss[part][a], oracle.loss[part][b]).items():
                found[f"{key}{end}"].append(value)
        if few:
            break
        attack = u_lira(view.margins["forget"][a], oracle.margins["forget"][b])
        found["u_lira"].append(attack["accuracy"])
        found["u_lira_tpr_1"].append(attack["tpr_at_0.01"])
        found["u_lira_tpr_5"].append(attack["tpr_at_0.05"])
        attack = u_lira(view.margins["forget_test"][a], oracle.margins["forget_test"][b])
        found["u_lira_test"].append(attack["accuracy"])
        for key, part in klom_keys.items():
            each = klom(view.margins[part][a], oracle.margins[part][b])
            found[key].append(each.mean())
            if key in tails:
                found[f"{key}_95"].append(np.quantile(each, 0.95))
    return {key: values or [np.nan] for key, values in found.items()}


def _of_random_halves(values: np.ndarray) -> list[float]:
    """Where 95 % of the means of a random half of the models lie (10,000 draws, seed 0)."""
    random = np.random.default_rng(0)
    half = max(1, len(values) // 2)
    means = [random.choice(values, half, replace=False).mean() for _ in range(10_000)]
    return np.quantile(means, [0.025, 0.975]).tolist()


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
    """Relearn steps (and their ratio to the mean of the retrained models) and linear probe of the first PROBED models of
    each kind; what is stored is not computed again."""
    trained = ensembles["trained"]
    jobs = [(kind, at) for at in range(min(PROBED, len(trained))) for kind in ensembles]
    code = code_fingerprint(metrics)
    folder = results_folder(task) / "probes"

    def place(kind: str, at: int):
        return folder / f"{kind}-{ensembles[kind].identity}-{trained.identity}-{code}-{at}.json"

    def work(job: int, tick) -> None:
        kind, at = jobs[job]
        model, start = ensembles[kind].models[at], trained.models[at]
        target = forget_loss(start, task)
        relearn = relearn_steps(model, task, target, RECIPE, at, MOST_STEPS)
        save_json(place(kind, at), {"kind": kind, "relearn": relearn, "probe": linear_probe(model, task)})
        tick()

    run_each(work, [job for job, key in enumerate(jobs) if not place(*key).is_file()], lambda done: None)
    found = {kind: {"relearn": [], "probe": []} for kind in ensembles}
    for kind, at in jobs:
        path = place(kind, at)
        stored = load_json(path, "delete this file and run the cell again.")
        if stored.get("kind") != kind:
            raise StudyError(f"{path.name} holds the probes of another kind: delete this file and run the cell again.")
        for key, values in found[kind].items():
            values.append(stored[key])
    found = {kind: {key: np.array(values, float) for key, values in each.items()} for kind, each in found.items()}
    usual = found["retrained"]["relearn"].mean()
    for each in found.values():
        each["relearn_ratio"] = each["relearn"] / max(usual, 1)
    return found
