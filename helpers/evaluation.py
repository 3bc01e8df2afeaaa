"""The measures: how close is an ensemble to models that were retrained without the forget set?

Arrays of logits have the shape [N, n, 10]: N models, n samples. u = unlearned, r = retrained, t = trained. Every
measure that compares kinds of models pairs *different* seeds, so that shared initial weights do not flatter anyone.
`evaluate` computes all measures of a notebook and stores them under `data/results/`.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from helpers.cnn import CNN, LAYERS
from helpers.datasets import NAMES
from helpers.device import describe, pick_device, return_memory
from helpers.ensembles import BASELINES, NOTEBOOKS, RECIPE, Ensemble, baseline, identity_of, unlearn
from helpers.files import (
    DATA,
    StudyError,
    code_fingerprint,
    load_arrays,
    load_json,
    locked,
    save_arrays,
    save_json,
    shown,
)
from helpers.parallel import one_thread
from helpers.split import SUBSETS, Task, task_fingerprint
from helpers.training import Stopwatch, in_parts, predict, seeded, train
from helpers.unlearning import METHODS, UnlearningData

RESULTS = DATA / "results"
RETAIN_TRAIN_SAMPLE = 2_000  # retained training samples on which outputs are kept, drawn with seed 0
ACTIVATION_SAMPLE = 500  # test samples on which activations are compared


# ---- outputs of an ensemble, computed once ----

SAMPLES = ("test", "forget_train", "retain_train")


@dataclass(frozen=True)
class Outputs:
    """Logits of an ensemble, float32 arrays.

    test: [N, n_test, 10] on the test half, forget_train: [N, n_f, 10] on D_f of the training half,
    retain_train: [N, 2000, 10] on a fixed sample of D_r of the training half.
    """

    kind: str
    test: np.ndarray
    forget_train: np.ndarray
    retain_train: np.ndarray


def outputs(ensemble: Ensemble, task: Task) -> Outputs:
    """The logits of an ensemble, from data/results/ if they were computed before."""
    path = _outputs_path(task, ensemble)
    with locked(path):
        if path.is_file():
            found = _read_outputs(path, ensemble, "delete this file and run the cell again.")
            if found:
                return found
        retain = task.data.train.images[retain_train_sample(task)]
        images = dict(zip(SAMPLES, (task.data.test.images, task.forget_set("train")[0], retain), strict=True))
        device = pick_device()
        images = {key: value.to(device) for key, value in images.items()}
        found = {
            key: np.stack([predict(model.to(device), images[key]).numpy() for model in ensemble.models])
            for key in SAMPLES
        }
        for model in ensemble.models:
            model.cpu()
        save_arrays(path, of=np.array([ensemble.kind, ensemble.identity]), **found)
    return Outputs(ensemble.kind, **found)


def _outputs_path(task: Task, of: "Ensemble | Result") -> Path:
    return results_folder(task) / "logits" / f"{of.kind}-{of.identity}-{len(of)}.bin"


def _read_outputs(path: Path, of: "Ensemble | Result", remedy: str) -> Outputs | None:
    """Stored logits; None if they do not say whose they are, StudyError if they are of other models than `of`."""
    arrays = load_arrays(path, remedy)
    owner = arrays.pop("of", None)
    if owner is None or set(arrays) != set(SAMPLES):
        return None
    if owner.tolist() != [of.kind, of.identity] or any(len(logits) != len(of) for logits in arrays.values()):
        raise StudyError(f"{shown(path)} holds the logits of other models than its place says: {remedy}")
    return Outputs(of.kind, **arrays)


def retain_train_sample(task: Task) -> torch.Tensor:
    """Positions in the training half of the fixed sample of D_r on which outputs are kept."""
    retain = (~task.forget["train"]).nonzero().flatten()
    return retain[torch.randperm(len(retain), generator=seeded(0))[:RETAIN_TRAIN_SAMPLE]]


def results_folder(task: Task):
    """data/results/<dataset>/<side>/"""
    return RESULTS / task.data.name / task.side


# ---- measures on logits ----


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p over the last axis, in float64."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of samples whose largest logit is their label's: [N, n, 10], [n] -> [N]."""
    return (logits.argmax(-1) == labels).mean(-1)


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p_y in nats per model and sample: [N, n, 10], [n] -> [N, n]."""
    return -np.take_along_axis(log_softmax(logits), labels[None, :, None], -1)[..., 0]


def histogram(logits: np.ndarray) -> np.ndarray:
    """Share of the samples that each model takes for class 0..9: [N, n, 10] -> [N, 10]."""
    return np.stack([np.bincount(row, minlength=10) / len(row) for row in logits.argmax(-1)])


def kl_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL(p_a || p_b) = sum_c p_a (log p_a - log p_b), mean over samples, in nats, not clamped, for all pairs of models.

    a: [N, n, 10], b: [M, n, 10] -> [N, M]; entry (i, j) compares model i of a with model j of b.
    """
    log_a, log_b = log_softmax(a), log_softmax(b)
    p_a = np.exp(log_a)
    n = a.shape[1]
    self_term = np.einsum("inc,inc->i", p_a, log_a) / n
    cross = np.tensordot(p_a, log_b, axes=([1, 2], [1, 2])) / n
    return self_term[:, None] - cross


def kl_per_model(reference: np.ndarray, models: np.ndarray) -> np.ndarray:
    """For each model j: KL(reference_i || model_j), mean over the other seeds i != j. -> [N]; nan for N = 1."""
    pairs = kl_pairs(reference, models)
    np.fill_diagonal(pairs, 0.0)
    n = len(pairs)
    return pairs.sum(0) / (n - 1) if n > 1 else np.full(1, np.nan)


@dataclass(frozen=True)
class Gap:
    """Gap closed on a subset, one value per unlearned model, with its two ends in nats.

    values = (ceiling - KL(r || u)) / (ceiling - floor). 1: as good as retraining, 0: no better than doing nothing,
    below 0: worse than doing nothing. ceiling = KL(r || t); floor = KL(r || r) between different seeds.
    """

    values: np.ndarray
    kl: np.ndarray
    floor: float
    ceiling: float


def gap_closed(retrained: np.ndarray, trained: np.ndarray, models: np.ndarray) -> Gap:
    """Logits [N, n, 10] of the three kinds on the same samples -> Gap with N values."""
    floor = float(kl_per_model(retrained, retrained).mean())
    ceiling = float(kl_per_model(retrained, trained).mean())
    kl = kl_per_model(retrained, models)
    return Gap((ceiling - kl) / (ceiling - floor), kl, floor, ceiling)


def bootstrap(values: np.ndarray, draws: int = 10_000, level: float = 0.95) -> tuple[float, float]:
    """Interval for the mean over models (percentile bootstrap, seed 0): [N] -> (low, high).

    For two methods on the same trained models pass the differences: the interval is then a paired one.
    """
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(draws, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- measures on weights and activations ----


def weight_distance(model: CNN, other: CNN) -> dict[str, float]:
    """L2 distance of the weights and biases, per layer and in `total`."""
    squares = {
        layer: sum(
            float((a.detach() - b.detach()).double().square().sum())
            for a, b in zip(getattr(model, layer).parameters(), getattr(other, layer).parameters(), strict=True)
        )
        for layer in LAYERS
    }
    return {layer: value**0.5 for layer, value in squares.items()} | {"total": sum(squares.values()) ** 0.5}


@torch.inference_mode()
def activation_change(model: CNN, other: CNN, images: torch.Tensor) -> dict[str, float]:
    """Mean absolute difference of each layer's activations on images [n, c, 28, 28]; `output` are the logits."""
    sums = dict.fromkeys(LAYERS, 0.0)
    for part in in_parts(images, images.device):
        a, b = (net.activations(part) for net in (model, other))
        a["output"], b["output"] = model.output(a["hidden"]), other.output(b["hidden"])
        for layer in LAYERS:
            sums[layer] += float((a[layer] - b[layer]).abs().mean()) * len(part)
    return {layer: total / len(images) for layer, total in sums.items()}


# ---- a notebook's evaluation ----


@dataclass
class Result:
    """All stored measures of one kind of model; lists hold one entry per model.

    accuracy, loss: subset -> [N] on the test half, and `forget_train`, `retain_train`; histogram: [N][10] on the
    forget test set; gap: subset -> {values, kl, floor, ceiling}; distance, activation: layer -> [N], against the
    trained model of the same seed; seconds, samples: cost per model; curves: phase -> mean loss per step;
    against: identities of the trained and retrained ensembles that it was measured with; code: fingerprint of the
    measures.
    """

    kind: str
    title: str
    dataset: str
    source: str
    side: str
    identity: str
    against: dict[str, str]
    device: str
    settings: dict
    accuracy: dict[str, list[float]]
    loss: dict[str, list[float]]
    histogram: list[list[float]]
    gap: dict[str, dict]
    distance: dict[str, list[float]]
    activation: dict[str, list[float]]
    seconds: list[float]
    samples: list[int]
    code: str
    curves: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self):
        return len(self.seconds)


GAP_SUBSETS = ("forget", "forget_train", "7_retain", "retain", "all")


def evaluate(task: Task, *ensembles: Ensemble, store: bool = True) -> dict[str, Result]:
    """Measures every given ensemble beside the stored trained and retrained ones, and stores the results
    (unless `store` is False).

    Returns kind -> Result, the baselines included, in the order untrained, trained, retrained, then the given ones.
    """
    n = len(ensembles[0])
    given = {ensemble.kind: ensemble for ensemble in ensembles}
    kinds = {kind: given.get(kind) or baseline(kind, task, n, stored=True) for kind in BASELINES} | given
    logits = {kind: outputs(ensemble, task) for kind, ensemble in kinds.items()}
    against = {kind: kinds[kind].identity for kind in ("trained", "retrained")}
    results = {}
    for kind, ensemble in kinds.items():
        path = results_folder(task) / f"{kind}.json"
        results[kind] = _known(path, ensemble, against)
        if results[kind] is None:
            results[kind] = _measure(task, ensemble, kinds["trained"], logits, against)
            if store:
                save_json(path, vars(results[kind]))
    return_memory()
    return results


def _known(path: Path, ensemble: Ensemble, against: dict[str, str]) -> Result | None:
    """The stored result, if it is of exactly these models and measures."""
    try:
        found = Result(**load_json(path, ""))
    except (StudyError, TypeError):
        return None
    mine = (ensemble.identity, against, len(ensemble), _code(), describe(pick_device()))
    return found if (found.identity, found.against, len(found), found.code, found.device) == mine else None


def _code() -> str:
    return code_fingerprint(sys.modules[__name__])


def _measure(
    task: Task, ensemble: Ensemble, trained: Ensemble, logits: dict[str, Outputs], against: dict[str, str]
) -> Result:
    mine = logits[ensemble.kind]
    views = {"forget_train": mine.forget_train, "retain_train": mine.retain_train}
    labels = {
        "forget_train": task.forget_set("train")[1].numpy(),
        "retain_train": task.data.train.labels[retain_train_sample(task)].numpy(),
    }
    at = {name: where.numpy() for name, where in task.subsets("test").items()}
    for name in SUBSETS:
        views[name], labels[name] = mine.test[:, at[name]], task.data.test.labels.numpy()[at[name]]

    def gap(subset):
        r, t = (
            o.forget_train if subset == "forget_train" else o.test[:, at[subset]]
            for o in (logits["retrained"], logits["trained"])
        )
        return gap_closed(r, t, views[subset])

    gaps = {subset: gap(subset) for subset in GAP_SUBSETS}
    images = task.data.test.images[:ACTIVATION_SAMPLE]
    pairs = list(zip(ensemble.models, trained.models, strict=True))
    distances = [weight_distance(a, b) for a, b in pairs]
    changes = [activation_change(a, b, images) for a, b in pairs]
    curves = [record.get("curves", {}) for record in ensemble.records]
    return Result(
        kind=ensemble.kind,
        title=ensemble.title,
        dataset=task.data.name,
        source=task.data.source,
        side=task.side,
        identity=ensemble.identity,
        against=against,
        device=describe(pick_device()),
        settings=ensemble.settings,
        accuracy={name: accuracy(views[name], labels[name]).tolist() for name in views},
        loss={name: cross_entropies(views[name], labels[name]).mean(1).tolist() for name in views},
        histogram=histogram(views["forget"]).tolist(),
        gap={
            name: {"values": g.values.tolist(), "kl": g.kl.tolist(), "floor": g.floor, "ceiling": g.ceiling}
            for name, g in gaps.items()
        },
        distance={layer: [d[layer] for d in distances] for layer in (*LAYERS, "total")},
        activation={layer: [c[layer] for c in changes] for layer in LAYERS},
        seconds=[record["seconds"] for record in ensemble.records],
        samples=[record["samples"] for record in ensemble.records],
        code=_code(),
        curves={phase: torch.stack([curve[phase] for curve in curves]).mean(0).tolist() for phase in (curves[0] or {})},
    )


def load_result(dataset: str, side: str, kind: str) -> Result:
    """A stored Result; StudyError that names the notebook to run if there is none, or another in its place."""
    notebook = NOTEBOOKS[kind]
    path = RESULTS / dataset / side / f"{kind}.json"
    remedy = f'run {notebook} with USED_DATASET = "{dataset}" and FORGET = "{side}" first.'
    try:
        found = Result(**load_json(path, remedy))
    except TypeError:
        raise StudyError(f"{path.name} was written by another version of this repository: {remedy}") from None
    if (found.dataset, found.side, found.kind) != (dataset, side, kind):
        raise StudyError(
            f"{shown(path)} holds the results of {found.title} on {found.dataset}, side {found.side}, which belong "
            f"elsewhere: {remedy}"
        )
    present = identity_of(kind, task_fingerprint(dataset, found.source, side))
    if (found.identity, found.code) != (present, _code()):
        raise StudyError(
            f"The results of {found.title} on {NAMES[dataset]} are of another split, recipe, settings or code than the "
            f"present ones: {remedy}"
        )
    return found


def load_results(dataset: str, side: str, required=("trained", "retrained", "ascent", "gemu", "gefeu")) -> dict:
    """All stored results of a data set and side, kind -> Result; all of them belong to the same models.

    Raises StudyError naming the notebook to run if a required one is missing, is of another number of models, or was
    measured with other trained and retrained models than those whose results are stored.
    """
    kinds = [*BASELINES, *METHODS]
    found = {
        kind: load_result(dataset, side, kind)
        for kind in kinds
        if kind in required or (RESULTS / dataset / side / f"{kind}.json").is_file()
    }
    against = {kind: found[kind].identity for kind in ("trained", "retrained")}
    for kind, result in found.items():
        if result.against != against:
            raise StudyError(
                f"The results of {result.title} were measured with other trained and retrained models than those "
                f'stored now: run {NOTEBOOKS[kind]} with USED_DATASET = "{dataset}" and FORGET = "{side}" again.'
            )
        if len(result) != len(found["retrained"]):
            raise StudyError(
                f"The results of {result.title} are over {len(result)} models, those of Retrained over "
                f"{len(found['retrained'])}: run {NOTEBOOKS[kind]} with the same N_MODELS."
            )
    return found


def all_results(side: str) -> dict[str, dict[str, Result]]:
    """dataset -> kind -> Result, for the data sets whose results are stored; says which notebooks make the others."""
    found = {}
    for dataset in NAMES:
        try:
            found[dataset] = load_results(dataset, side)
        except StudyError as missing:
            print(f"{NAMES[dataset]} is not shown. {missing}")
    return found


def load_outputs(task: Task, result: Result) -> Outputs:
    """The stored logits behind a Result."""
    path, notebook = _outputs_path(task, result), NOTEBOOKS[result.kind]
    if not path.is_file():
        raise StudyError(f"{shown(path)} is missing: run {notebook} first.")
    found = _read_outputs(path, result, f"delete this file and run {notebook} again.")
    if not found:
        raise StudyError(f"{shown(path)} was written by another version of this repository: run {notebook} first.")
    return found


def kl_matrix(task: Task, results: dict[str, Result], subset: str = "forget") -> tuple[list[str], np.ndarray]:
    """KL(row || column) in nats for every ordered pair of kinds on a subset of the test half, or on "forget_train", over
    different seeds.

    Returns the kinds and the matrix [k, k].
    """
    kinds, found = kl_intervals(task, results, subset)
    return kinds, found[..., 0]


def kl_intervals(task: Task, results: dict[str, Result], subset: str = "forget") -> tuple[list[str], np.ndarray]:
    """As `kl_matrix`, each entry with the bootstrap interval of its mean over the models of the column: the kinds and an
    array [k, k, 3] of mean, low, high."""
    found = {kind: load_outputs(task, result) for kind, result in results.items()}
    if subset == "forget_train":
        logits = {kind: each.forget_train for kind, each in found.items()}
    else:
        at = task.subsets("test")[subset].numpy()
        logits = {kind: each.test[:, at] for kind, each in found.items()}
    pairs = [[kl_per_model(a, b) for b in logits.values()] for a in logits.values()]
    return list(results), np.array([[(each.mean(), *bootstrap(each)) for each in row] for row in pairs])


@dataclass(frozen=True)
class Cost:
    """Seconds of one unlearning and one retraining, measured alternately in one run."""

    unlearning: list[float]
    retraining: list[float]

    @property
    def share(self) -> float:
        """Median of unlearning over median of retraining."""
        return float(np.median(self.unlearning) / np.median(self.retraining))


def cost_side_by_side(name: str, task: Task, trained: Ensemble, rounds: int = 3, steps: int = 50) -> Cost:
    """Unlearns with method `name` and retrains from scratch, in turn, each on one thread as in the ensembles.

    Of a retraining `steps` steps are timed (one pass, where it has fewer), since all are alike.
    """
    device = pick_device()
    data = UnlearningData.of(task, RECIPE, device)
    times = {"unlearn": [], "retrain": []}
    start = trained.models[0].to(device)
    n = len(data.retain_labels)
    part = slice(0, steps * RECIPE.batch_size)
    images, labels = data.retain_images[part], data.retain_labels[part]
    once = replace(RECIPE, min_passes=1, min_steps=1)
    with one_thread():  # as in the ensembles
        for turn in range(rounds):
            with Stopwatch() as watch:
                unlearn(name, start, data, METHODS[name].settings, turn)
            times["unlearn"].append(watch.seconds)
            with Stopwatch() as watch:
                train(images, labels, once, turn)
            times["retrain"].append(watch.seconds * RECIPE.steps(n) / once.steps(len(labels)))
    start.cpu()
    return Cost(times["unlearn"], times["retrain"])
