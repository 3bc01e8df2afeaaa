"""The audit: attacks and finer distances of every kind of model, each beside its null distribution: retrained against
retrained.

Per-model measures that compare with a retrained model pair model i with retrained model i + 1, another seed (retrained
models with all others: their mean is the target). Measures
of a whole ensemble (U-LiRA, KLoM, forgetting more than retraining does) compare a random half of the kind's models with
the other half of the retrained ones, 20 times (with fewer than 6 models: the losses alone, all against all). Retrained
models are measured in the same way against themselves: that is the *null*, and as close to it as possible is where an
unlearned ensemble should be; their own value is the mean of the same draws. For measures of one model alone (loss
attack, relearn time, probe) the null is where the mean of a random half of the retrained models lies.

Where the test split has no samples of the kind that is forgotten (a random part, a list without a test list), measures
on its forget set are left out, and the loss attack compares with held-out samples of the classes touched; where nothing
is left of a class, so are those on its neighbours, and the linear probe."""

import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from helpers.data.task import Task
from helpers.device import return_memory
from helpers.evaluation.distances import (
    accuracy,
    activation_distance,
    average_gap,
    cross_entropies,
    energy_distances,
    jensen_shannon,
    kl_per_model,
    streisand,
    tug_of_war,
)
from helpers.evaluation.evaluate import evaluate, frame_path, read_frame
from helpers.evaluation.frame import COLUMNS, Rows, select
from helpers.evaluation.logits import logits_of, parts_of
from helpers.evaluation.privacy import halves, klom, loss_attack, margin, u_lira
from helpers.evaluation.relearning import forget_loss, linear_probe, relearn_steps, resurgence, told_apart
from helpers.files import code_fingerprint, fingerprint, save_frame, there
from helpers.models.ensembles import Ensemble, model_of, state_of
from helpers.models.training import RECIPE
from helpers.parallel import each
from helpers.sizes import SIZES
from helpers.unlearning import FRONTIER

FEWEST = 6  # models for U-LiRA and KLoM
SHIFTS, HALVES = 200, 200  # random draws behind the nulls of paired measures and of single models
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # over the samples, of loss and confidence
KLOM_PARTS = (("train", "forget"), ("test", "forget"), ("test", "neighbours"), ("train", "retain"), ("test", "all"))
FORGET = {
    split: (split, "forget") for split in ("train", "test")
}  # the latter only where the test split has such samples
HELD_OUT = ("test", "held_out")  # which stand in for it in the loss attack
WORST = ("train", "memorised")  # the forget samples that trained models have memorised most
WORST_SHARE = 0.05
U_LIRA_PARTS = (
    *FORGET.values(),
    WORST,
    ("train", "neighbours"),
    ("train", "retain"),
)  # the last two: do those who stay pay?


@dataclass(frozen=True)
class View:
    """What the measures need of one kind. parts: (split, subset) ->
    logits [N, n, 10] and labels [n]; accuracy, margins,
    loss: (split, subset) -> [N], [N, n], [N, n]; attack: AUC of the loss attack [N]."""

    parts: dict
    accuracy: dict
    margins: dict
    loss: dict
    attack: np.ndarray

    @classmethod
    def of(cls, parts: dict) -> "View":
        forget = [part for part in FORGET.values() if part in parts]
        loss = {part: cross_entropies(*parts[part]) for part in forget}
        unseen = loss.get(FORGET["test"])
        members = zip(
            loss[FORGET["train"]], cross_entropies(*parts[HELD_OUT]) if unseen is None else unseen, strict=True
        )
        return cls(
            {part: parts[part] for part in (*forget, WORST)},
            {part: accuracy(*parts[part]) for part in KLOM_PARTS if part in parts},
            {part: margin(*parts[part]) for part in {*KLOM_PARTS, *U_LIRA_PARTS} if part in parts},
            loss,
            np.array([loss_attack(a, b) for a, b in members]),
        )


def audit(task: Task, *ensembles: Ensemble) -> pd.DataFrame:
    """`evaluate` and all measures of the audit over all given ensembles, among them "trained" and "retrained" and all
    of the same size. What is stored is not measured again. Returns the frame, with kind "null"."""
    n, code = len(ensembles[0]), code_fingerprint(sys.modules[__name__], follow="helpers.evaluation")
    results = evaluate(task, *ensembles)
    every = {ensemble.kind.name: ensemble for ensemble in ensembles if ensemble.kind.name != "untrained"}
    main = tuple(ensemble for ensemble in ensembles if ensemble.kind.name not in FRONTIER)
    probed = _probe(task, {ensemble.kind.name: ensemble for ensemble in main if ensemble.kind.name in every}, code)
    paths = {name: frame_path(task, every[name].kind, n, "audit-", code) for name in every}

    missing = [name for name in every if not there(paths[name])]
    if missing:
        known = {name: _parts(task, every[name]) for name in ("trained", "retrained")}
        worst = memorised(*(margin(*parts["train", "forget"]) for parts in known.values()))
        oracle = View.of(_with_worst(known["retrained"], worst))
    jobs = ((name, (task, name, _with_worst(_parts(task, every[name]), worst), oracle)) for name in missing)
    for name, found in each(compared, jobs):
        save_frame(paths[name], found)
    found = [results, *(read_frame(path, name) for name, path in paths.items())]
    found += [_pairs(task, main, code), *probed]
    return_memory()
    return pd.concat(found, ignore_index=True)


def _parts(task: Task, ensemble: Ensemble) -> dict:
    return parts_of(task, logits_of(ensemble, task))


def memorised(trained: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Positions of the WORST_SHARE of forget samples with the largest gap of phi between trained and retrained models,
    [N, n] each: those whose label is known by having seen them (memorisation, Feldman 2020, arXiv:1906.05271)."""
    gap = trained.mean(0) - retrained.mean(0)
    return np.argsort(-gap)[: max(1, round(WORST_SHARE * len(gap)))]


def _with_worst(parts: dict, worst: np.ndarray) -> dict:
    logits, labels = parts["train", "forget"]
    return parts | {WORST: (logits[:, worst], labels[worst])}


def compared(task: Task, name: str, parts: dict, oracle: View) -> pd.DataFrame:
    """As `compare`, of a kind's logits as `parts_of` gives them."""
    return compare(task, name, oracle if name == "retrained" else View.of(parts), oracle)


def compare(task: Task, name: str, view: View, oracle: View) -> pd.DataFrame:
    """All measures of one kind; for "retrained" the nulls too, as rows of kind "null"."""
    rows, n = Rows(), len(oracle.attack)
    shifts = range(1, n) if name == "retrained" else (1,)  # the target itself: the mean over all others
    paired = [_paired(view, oracle, np.roll(np.arange(n), -shift)) for shift in shifts]
    for measure, split in paired[0]:
        rows.add(measure, np.mean([found[measure, split] for found in paired], axis=0), split, "forget")
    rows.add("loss_attack", view.attack, "train", "forget")
    rows.add("energy", energy_distances(view.parts[WORST][0], oracle.parts[WORST][0]), *WORST)
    for (measure, split, subset, at), draws in _of_halves(view, oracle).items():
        rows.add(measure, draws, split, subset, at, by="step")
    for measure, found in (("loss", view.loss), ("margin", view.margins)):
        for quantile in QUANTILES:
            over_samples = np.quantile(found["train", "forget"].mean(0), quantile)
            rows.add(f"{measure}_quantile", over_samples, "train", "forget", str(quantile), by="")
    frames = [rows.frame(task, name)]
    if name == "retrained":
        rows, random = Rows(), np.random.default_rng(0)
        shifts = [_paired(oracle, oracle, _derangement(n, random)) for _ in range(SHIFTS)]
        for measure, split in shifts[0]:
            rows.add(measure, [shift[measure, split].mean() for shift in shifts], split, "forget", by="step")
        rows.add("loss_attack", of_random_halves(oracle.attack), "train", "forget", by="step")
        halved = frames[0][frames[0].step.notna()].assign(kind="null")  # what halves of the retrained ones give
        frames += [rows.frame(task, "null"), halved]
    return pd.concat(frames, ignore_index=True)


def _paired(view: View, oracle: View, partner: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Measures of model i against retrained model partner[i]: (measure, split) -> [N]."""
    found = {}
    for split, forget in ((split, part) for split, part in FORGET.items() if part in view.loss):
        compared = (forget, ("train", "retain"), ("test", "all"))
        mine = {part: view.accuracy[part] for part in compared}
        target = {part: oracle.accuracy[part][partner] for part in compared}
        found["tow", split] = tug_of_war(mine, target)
        mine["attack"], target["attack"] = view.attack, oracle.attack[partner]
        found["average_gap", split] = average_gap(mine, target)
        logits, other = view.parts[forget][0], oracle.parts[forget][0][partner]
        found["activation_distance", split] = activation_distance(logits, other)
        found["js", split] = jensen_shannon(logits, other)
    return found


def _of_halves(view: View, oracle: View) -> dict[tuple[str, str, str, str], list[float]]:
    """Measures of whole ensembles over random halves: (measure, split, subset, at) -> one value per draw."""
    found, n = {}, len(oracle.attack)
    few = n < FEWEST  # a half of two, one left out, has no spread; the losses of all are compared with all

    def note(measure, part, value, at=""):
        found.setdefault((measure, *part, at), []).append(float(value))

    for a, b in [(slice(None), slice(None))] if few else halves(n):
        for part in view.loss:
            for measure, value in streisand(view.loss[part][a], oracle.loss[part][b]).items():
                note(measure, part, value)
        for part in () if few else (part for part in U_LIRA_PARTS if part in view.margins):
            attack = u_lira(view.margins[part][a], oracle.margins[part][b])
            note("u_lira", part, attack["accuracy"])
            for rate in ("0.01", "0.05"):
                note("u_lira_tpr", part, attack[f"tpr_at_{rate}"], rate)
        for part in () if few else (part for part in KLOM_PARTS if part in view.margins):
            each = klom(view.margins[part][a], oracle.margins[part][b])
            note("klom", part, each.mean())
            note("klom", part, np.quantile(each, 0.95), "0.95")
    return found


def of_random_halves(values: np.ndarray) -> np.ndarray:
    """Means of random halves of the models (seed 0)."""
    random = np.random.default_rng(0)
    half = max(1, len(values) // 2)
    return np.array([random.choice(values, half, replace=False).mean() for _ in range(HALVES)])


def _derangement(n: int, random: np.random.Generator) -> np.ndarray:
    """A random order in which no number stays at its place."""
    while True:
        order = random.permutation(n)
        if n < 2 or (order != np.arange(n)).all():
            return order


def _pairs(task: Task, ensembles: tuple[Ensemble, ...], code: str) -> pd.DataFrame:
    """KL(at || kind) for every ordered pair of kinds on the forget set of both halves."""
    of_all = fingerprint([ensemble.kind.identity for ensemble in ensembles])
    path = frame_path(task, replace(ensembles[0].kind, name="all", identity=of_all), len(ensembles[0]), "pairs-", code)
    if not there(path):
        parts = {ensemble.kind.name: _parts(task, ensemble) for ensemble in ensembles}
        frames = []
        for name, mine in parts.items():
            rows = Rows()
            for part in (part for part in FORGET.values() if part in mine):
                for other, theirs in parts.items():
                    rows.add("kl_pair", kl_per_model(theirs[part][0], mine[part][0]), *part, other)
            frames.append(rows.frame(task, name))
        save_frame(path, pd.concat(frames, ignore_index=True))
    return read_frame(path)


def _probe(task: Task, every: dict[str, Ensemble], code: str) -> list[pd.DataFrame]:
    """Relearn time and linear probe of the first models of each kind, and their nulls. One file each: a kill costs
    one."""
    jobs = [(name, seed) for seed in range(min(SIZES.probed, len(every["trained"]))) for name in every]
    keys = [fingerprint([code, SIZES.relearn_steps, SIZES.resurgence_steps, seed]) for _, seed in jobs]
    places = zip(jobs, keys, strict=True)
    paths = [frame_path(task, every[name].kind, len(every[name]), f"probe-{at}-", key) for (name, at), key in places]

    missing = [at for at, path in enumerate(paths) if not there(path)]
    trained = [state_of(model) for model in every["trained"].models[: SIZES.probed]]
    calls = (
        (at, (task, state_of(every[jobs[at][0]].models[jobs[at][1]]), trained[jobs[at][1]], jobs[at][1]))
        for at in missing
    )
    for at, (steps, balanced, back) in each(probe, calls):
        (name, seed), rows = jobs[at], Rows()
        for split, reached in back.items():
            rows.add("resurgence", reached, split, "forget", by="")
        rows.add("relearn_steps", steps, "train", "forget", by="")
        if told_apart(task):
            rows.add("probe", balanced, "test", "forget", by="")
        save_frame(paths[at], rows.frame(task, name).assign(seed=seed).astype(COLUMNS))
    found = [read_frame(path, name) for (name, _), path in zip(jobs, paths, strict=True)]
    frame, rows = pd.concat(found, ignore_index=True), Rows()
    probes = (("relearn_steps", "train", "forget"), ("probe", "test", "forget"))
    for measure, split, subset in (*probes, *(("resurgence", *part) for part in FORGET.values())):
        mine = select(frame, measure, split, subset, kinds=["retrained"]).value.to_numpy()
        if len(mine):
            rows.add(measure, of_random_halves(mine), split, subset, by="step")
    return [frame, rows.frame(task, "null")]


def probe(task: Task, state: dict, trained: dict, seed: int) -> tuple[int, float, dict[str, float]]:
    """Of the model with these weights: relearn time, up to the loss that the trained model has, balanced accuracy of
    the probe, and resurgence."""
    model = model_of(state).cpu()
    target = forget_loss(model_of(trained).cpu(), task)
    steps = relearn_steps(model, task, target, RECIPE, seed, SIZES.relearn_steps)
    return steps, linear_probe(model, task), resurgence(model, task, RECIPE, seed, SIZES.resurgence_steps)
