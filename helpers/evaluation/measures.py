"""Every measure: its name for readers, its formula, the samples it is computed on, the rows that the table of all
measures shows. To add one, add an entry to MEASURES; to change a formula, raise its `version`, and stored values of
that measure are computed again.

How a measure compares decides which values it has:

- "alone": one value per model, of its outputs alone.
- "all pairs": of a matrix of all pairs of models, one value per model, its mean over the retrained models of other
  seeds. (Papers take the retrained model of the same seed, with which a method shares its initial weights.)
- "energy": of such a matrix, one value per model, whose mean is the energy distance.
- "halves": one value per draw, a random half of the kind's models against the other half of the retrained ones, 20
  draws (with fewer than six models: all against all).
- "weights": one value per model, of its weights or of how it was made (`evaluate._of_models`).
- "probe": one value for each of the first few models, of training a copy of it.
- "derived": computed from other measures when a frame is read.

"all pairs" and "energy" also have the mean without the models of one seed, under their name with "_without": for the
jackknife (`frame.jackknife`). The null distribution of all of them: `nulls.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from helpers.evaluation.distances import (
    accuracy,
    average_gap,
    cross_entropies,
    jensen_shannon,
    joint_distances,
    kl_pairs,
    output_distances,
    predicted_shares,
    streisand,
    tug_of_war,
)
from helpers.evaluation.privacy import klom, loss_attack, margin, u_lira
from helpers.sizes import SIZES

Part = tuple[str, str]  # split, subset
FEWEST_FOR_ATTACKS = 6  # models: U-LiRA halves them and leaves one out, and two must remain for a deviation
FEWEST_FOR_KLOM = 20  # models: it counts them in bins
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # over the samples, of loss and confidence
WORST_SHARE = 0.05
TRAIN, TEST = ("train", "forget"), ("test", "forget")  # the latter only where the test split has such samples
WORST = ("train", "memorised")  # the forget samples that trained models have memorised most
NEAR, RETAIN_TRAIN, EVERYTHING = ("test", "neighbours"), ("train", "retain"), ("test", "all")
HELD_OUT = ("test", "held_out")  # which stand in for the forget set of the test split in the loss attack
KL_PARTS = (TEST, TRAIN, NEAR, ("test", "retain"), EVERYTHING)
KLOM_PARTS = (TRAIN, TEST, NEAR, RETAIN_TRAIN, EVERYTHING)
U_LIRA_PARTS = (TRAIN, TEST, WORST, ("train", "neighbours"), RETAIN_TRAIN)  # the last two: unintended effect on D_r


@dataclass(frozen=True)
class View:
    """What the measures read of one kind of N models. logits: (split, subset) -> [N, n, 10], on `KL_PARTS` and the
    worst cases; accuracy, losses, margins: the same -> [N], [N, n], [N, n], on every part; attack: AUC of the loss
    attack [N]; diverged: [N] bool, whose outputs are not finite (in their place: `evaluate.in_place_of`)."""

    logits: dict[Part, np.ndarray]
    accuracy: dict[Part, np.ndarray]
    losses: dict[Part, np.ndarray]
    margins: dict[Part, np.ndarray]
    attack: np.ndarray
    diverged: np.ndarray

    @classmethod
    def of(cls, parts: dict, worst: np.ndarray, diverged: np.ndarray | None = None) -> "View":
        """parts: as `parts_of` gives them; worst: positions of the worst cases, as `memorised` gives them."""
        outputs, labels = parts[TRAIN]
        parts = parts | {WORST: (outputs[:, worst], labels[worst])}
        losses = {part: cross_entropies(*found) for part, found in parts.items()}
        members = zip(losses[TRAIN], losses[TEST if TEST in parts else HELD_OUT], strict=True)
        return cls(
            {part: parts[part][0] for part in (*KL_PARTS, WORST) if part in parts},
            {part: accuracy(*found) for part, found in parts.items()},
            losses,
            {part: margin(*parts[part]) for part in {*KLOM_PARTS, *U_LIRA_PARTS} if part in parts},
            np.array([loss_attack(member, other) for member, other in members]),
            np.zeros(len(outputs), bool) if diverged is None else diverged,
        )

    def joined(self, other: "View") -> "View":
        """The models of both, those of `other` last."""
        return View(*(_joined(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    def __len__(self):
        return len(self.attack)

    @property
    def every_part(self) -> list[Part]:
        """Every part but the worst cases."""
        return [part for part in self.losses if part != WORST]


def _joined(a, b):
    if isinstance(a, np.ndarray):
        return np.concatenate([a, b])
    return {part: np.concatenate([a[part], b[part]]) for part in a}


def memorised(trained: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Positions of the WORST_SHARE of forget samples with the largest gap of the margin phi between trained [N, n] and
    retrained models: those whose label is known by having seen them (memorisation, Feldman 2020, arXiv:1906.05271).
    The retrained ones are all 2N, "again" included, so that the choice favours neither half of the null."""
    gap = trained.mean(0) - retrained.mean(0)
    return np.argsort(-gap)[: max(1, round(WORST_SHARE * len(gap)))]


@dataclass(frozen=True)
class Measure:
    """title, unit: for readers; compares: see above; parts: (split, subset) on which it is computed, where there are
    such samples; None: on every part;

    formula, by `compares`: "alone": (view, part) -> [N]; "all pairs", "energy": (view, other, part) -> [N, M], model i
    against model j; "halves": (view, other, a, b, part) -> [draws], models a[k] against models b[k] of the other kind,
    a and b [draws, N // 2]. What has several values per model or draw gives a dictionary from `at` to values;

    shown: (split, subset, at) of its rows in the table of all measures; least: models that it needs; compared: whether
    the value of retrained models is the best one; median: whether the models' median is shown, not their mean;
    less_null: whether it is shown minus the mean of its null distribution; room: whether that is widened for few models
    (`null_of`), without which 6 to 7 % of equal ensembles are outside "95 %"; not of U-LiRA, KLoM, `beyond`, tug of war
    and average gap, of which 5 % are outside without and 3 to 4 % with it (`make exhaustive` simulates it); scale,
    digits: how it is printed; version: raised when the formula changes."""

    title: str
    unit: str = ""
    compares: str = "alone"
    formula: Callable | None = None
    parts: tuple[Part, ...] | None = None
    shown: tuple[tuple[str, str, str], ...] = ()
    least: int = 1
    compared: bool = True
    median: bool = False
    less_null: bool = False
    room: bool = True
    scale: float = 1.0
    digits: int = 3
    version: int = 1

    @property
    def drawn(self) -> bool:
        """Whether it has one value per random draw of halves, not per model."""
        return self.compares == "halves"


def on(*parts: Part, at: tuple[str, ...] = ("",)) -> tuple[tuple[str, str, str], ...]:
    """Rows to show: every part with every `at`."""
    return tuple((*part, each) for part in parts for each in at)


def _three_accuracies(view: View, split: str) -> dict:
    return {part: view.accuracy[part] for part in ((split, "forget"), RETAIN_TRAIN, EVERYTHING)}


def _tow(view: View, other: View, part: Part) -> np.ndarray:
    return tug_of_war(_three_accuracies(view, part[0]), _three_accuracies(other, part[0]))


def _average_gap(view: View, other: View, part: Part) -> np.ndarray:
    return average_gap(*(_three_accuracies(each, part[0]) | {"attack": each.attack} for each in (view, other)))


def _u_lira(view: View, retrained: View, a, b, part: Part) -> np.ndarray:
    return u_lira(view.margins[part][a], retrained.margins[part][b])["accuracy"]


def _u_lira_tpr(view: View, retrained: View, a, b, part: Part) -> dict[str, np.ndarray]:
    found = u_lira(view.margins[part][a], retrained.margins[part][b])
    return {rate: found[f"tpr_at_{rate}"] for rate in ("0.01", "0.05")}


def _klom(view: View, retrained: View, a, b, part: Part) -> dict[str, np.ndarray]:
    each = klom(view.margins[part][a], retrained.margins[part][b])
    return {"": each.mean(-1), "0.95": np.quantile(each, 0.95, axis=-1)}


def _quantiles(samples: np.ndarray) -> dict[str, float]:
    """Over the samples, of the mean over the models: [N, n] -> one number per quantile."""
    return {str(quantile): np.quantile(samples.mean(0), quantile) for quantile in QUANTILES}


def _predicted(view: View, part: Part) -> dict[str, np.ndarray]:
    return {str(number): shares for number, shares in enumerate(predicted_shares(view.logits[part]).T)}


PAIRS, FORGET_PARTS = "all pairs", (TEST, TRAIN)
MEASURES = {
    "energy_gap": Measure("energy distance closed", "%", "derived", shown=on(*FORGET_PARTS), scale=100, digits=1),
    "energy_root": Measure(
        "the same in units of its root, which is a metric", "%", "derived", shown=on(*FORGET_PARTS), scale=100, digits=1
    ),
    "joint_gap": Measure(
        "energy distance of all outputs as one vector, closed", "%", "derived", shown=on(*FORGET_PARTS), scale=100,
        digits=1,
    ),
    "kl_gap": Measure("KL divergence closed", "%", "derived", shown=on(*FORGET_PARTS), scale=100, digits=1),
    "energy": Measure(
        "energy distance to retrained", "0 to 2.8", "energy",
        lambda view, other, part: output_distances(view.logits[part], other.logits[part]),
        (*KL_PARTS[:3], WORST), on(WORST), version=4,
    ),
    "joint": Measure(
        "energy distance of all outputs as one vector", "0 to 2.8", "energy",
        lambda view, other, part: joint_distances(view.logits[part], other.logits[part]), FORGET_PARTS,
        version=2,
    ),
    "kl": Measure(
        "KL(retrained || kind)", "nats", PAIRS,
        lambda view, other, part: kl_pairs(view.logits[part], other.logits[part]),
        KL_PARTS, on(*FORGET_PARTS), version=2,
    ),
    "accuracy": Measure(
        "accuracy",
        "%",
        formula=lambda view, part: view.accuracy[part],
        shown=on(*FORGET_PARTS, NEAR, ("test", "retain")),
        scale=100,
        digits=2,
    ),
    "loss": Measure("mean cross-entropy", "nats", formula=lambda view, part: view.losses[part].mean(1)),
    "predicted": Measure(
        "predictions", "% of the samples, per class", formula=_predicted, parts=FORGET_PARTS, scale=100, digits=1
    ),
    "tow": Measure("tug of war (ToW)", "1 is best", PAIRS, _tow, FORGET_PARTS, on(TRAIN, TEST), room=False, version=2),
    "average_gap": Measure(
        "average gap", "percentage points", PAIRS, _average_gap, FORGET_PARTS, on(TRAIN, TEST), room=False, scale=100,
        digits=2, version=2,
    ),
    "loss_attack": Measure(
        "loss attack", "AUC", formula=lambda view, part: view.attack, parts=(TRAIN,), shown=on(TRAIN)
    ),
    "u_lira": Measure(
        "U-LiRA, told from retrained", "accuracy, 0.5 is best", "halves", _u_lira, U_LIRA_PARTS, on(*U_LIRA_PARTS),
        least=FEWEST_FOR_ATTACKS, room=False, version=2,
    ),
    "u_lira_tpr": Measure(
        "U-LiRA, true positive rate at a false positive rate of", "share", "halves", _u_lira_tpr, FORGET_PARTS,
        on(TRAIN, at=("0.01", "0.05")), least=FEWEST_FOR_ATTACKS, room=False,
    ),
    "klom": Measure(
        "KLoM against retrained", "nats", "halves", _klom, KLOM_PARTS,
        (*on(TRAIN, TEST, at=("", "0.95")), *on(NEAR, RETAIN_TRAIN, EVERYTHING)), least=FEWEST_FOR_KLOM, less_null=True,
        room=False, digits=2, version=2,
    ),
    "activation_distance": Measure(
        "distance of the softmax outputs from retrained ones", "", PAIRS,
        lambda view, other, part: output_distances(view.logits[part], other.logits[part]),
        FORGET_PARTS, on(TRAIN, TEST), version=2,
    ),
    "js": Measure(
        "Jensen-Shannon divergence from retrained", "nats", PAIRS,
        lambda view, other, part: jensen_shannon(view.logits[part], other.logits[part]),
        FORGET_PARTS, on(TRAIN, TEST), version=2,
    ),
    "excess": Measure(
        "excess loss over retrained", "standard deviations of retrained", "halves",
        lambda view, retrained, a, b, part: streisand(view.losses[part][a], retrained.losses[part][b])["excess"],
        FORGET_PARTS, on(TRAIN, TEST), digits=1,
    ),
    "beyond": Measure(
        "samples with a larger loss than in every retrained model", "share", "halves",
        lambda view, retrained, a, b, part: streisand(view.losses[part][a], retrained.losses[part][b])["beyond"],
        FORGET_PARTS, on(TRAIN, TEST), room=False,
    ),
    "loss_quantile": Measure(
        "loss over the samples, mean over the models", "nats",
        formula=lambda view, part: _quantiles(view.losses[part]), parts=(TRAIN,), compared=False,
    ),
    "margin_quantile": Measure(
        "confidence over the samples, mean over the models", "log p - log(1 - p)",
        formula=lambda view, part: _quantiles(view.margins[part]), parts=(TRAIN,),
        compared=False,
    ),
    "resurgence": Measure(
        "resurgence: accuracy after passes over a tenth of the retained samples", "%", "probe",
        shown=on(TRAIN, TEST, at=(f"{SIZES.resurgence[-1]:g}",)), scale=100, digits=1, version=2,
    ),
    "relearn_steps": Measure("relearn time", "steps, median", "probe", shown=on(TRAIN), digits=0, median=True),
    "relearn_given_up": Measure("not relearned", "% of the models", "probe", shown=on(TRAIN), scale=100, digits=0),
    "probe": Measure("linear probe", "balanced accuracy, forget set against neighbours", "probe", shown=on(TEST)),
    "diverged": Measure(
        "models that diverged", formula=lambda view, part: view.diverged.astype(float), parts=(TRAIN,), compared=False
    ),
    "weight_distance": Measure("L2 distance of the weights from the trained model", "", "weights"),
    "activation_change": Measure(
        "mean absolute change of the activations from the trained model", "", "weights"
    ),
    "curve": Measure("cross-entropy while unlearning, mean over the models", "nats", "weights", compared=False),
    "samples": Measure("samples forward and backward through the classifier", "", "weights", compared=False, digits=0),
    "samples_share": Measure(
        "samples, of those that retraining sees", "%", "derived", shown=(("", "", ""),), compared=False, scale=100,
        digits=1,
    ),
    "seconds": Measure("wall time of one model", "s", "weights", shown=(("", "", ""),), compared=False, digits=2),
}  # fmt: skip
