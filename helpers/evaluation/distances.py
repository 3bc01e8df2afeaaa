"""Formulas: how far are models from retrained ones, in outputs, decisions, weights and activations?

Arrays of logits have the shape [N, n, 10]: N models, n samples. u = unlearned, r = retrained, t = trained. Every
measure that compares kinds of models pairs *different* seeds, so that shared initial weights make no kind look closer.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.distance import cdist

from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import in_parts


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


def predicted_shares(logits: np.ndarray) -> np.ndarray:
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
    return mean_over_others(kl_pairs(reference, models))


def mean_over_others(pairs: np.ndarray) -> np.ndarray:
    """For each column j of pairs [N, N] the mean over the rows i != j, without those that are nan (of models that
    diverged); nan where there is none."""
    known = np.isfinite(pairs) & ~np.eye(len(pairs), dtype=bool)
    counts = known.sum(0)
    return np.where(counts, np.where(known, pairs, 0.0).sum(0) / np.maximum(counts, 1), np.nan)


def gap_closed(distance: np.ndarray, floor: float, ceiling: float) -> np.ndarray:
    """(ceiling - distance) / (ceiling - floor). 1: as good as retraining, 0: no better than doing nothing, below 0:
    worse.

    ceiling: the distance of the trained models; floor: of retrained ones. nan where the two are equal.
    """
    width = ceiling - floor
    return (ceiling - np.asarray(distance)) / width if width else np.full(np.shape(distance), np.nan)


def energy_distances(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Energy distance between two ensembles' softmax outputs, mean over samples: [N, n, 10] twice -> [N], one value per
    unlearned model, whose mean is the distance."""
    pairs = ((retrained, unlearned), (unlearned, unlearned), (retrained, retrained))
    return energy(*(output_distances(*each) for each in pairs))


def energy(between: np.ndarray, within: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Energy distance D = 2 E||p_u - p_r|| - E||p_u - p_u'|| - E||p_r - p_r'|| (Szekely and Rizzo 2013, "Energy
    statistics", J. Stat. Plan. Inference 143, sec. 2), as one value per unlearned model.

    between: distances of retrained (rows) from unlearned models [N, N]; within: among unlearned; among: among retrained
    ones. Pairs of models of different seeds alone -> [N], whose mean is D. Unbiased, so it can fall a little below 0; 0
    only where the *distributions over models* agree on each sample, so that an ensemble of uncertain models, which KL
    calls close, is far away. D is the square of a metric: a closed share of 80 % is 55 % in units of the metric itself.
    """
    return 2 * mean_over_others(between) - mean_over_others(within) - mean_over_others(among).mean()


def output_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """||softmax_i - softmax_j||_2, mean over samples, for all pairs of models: [N, n, 10], [M, n, 10] -> [N, M]. Its
    energy distance is the mean over the samples of that on each sample; its mean over pairs is known as activation
    distance (Golatkar et al. 2021, arXiv:2012.13431)."""
    p, q = np.exp(log_softmax(a)), np.exp(log_softmax(b))
    return sum(cdist(p[:, x], q[:, x]) for x in range(p.shape[1])) / p.shape[1]


def joint_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same with all outputs of a model as one vector: root mean square over the samples of ||softmax_i -
    softmax_j||_2. Its energy distance is 0 only where the outputs on all samples agree in their *joint* distribution,
    the mean over samples already where they agree on each sample. That some models forget everything and others nothing
    moves it little, though, beside as many samples forgotten at random: the spread of their accuracies shows it."""
    p, q = (np.exp(log_softmax(logits)).reshape(len(logits), -1) for logits in (a, b))
    return cdist(p, q) / np.sqrt(a.shape[1])


def without_each(reduce: Callable[..., np.ndarray], *pairs: np.ndarray) -> np.ndarray:
    """What a jackknife needs: the mean of reduce(*pairs) with model s of every kind left out, for each s: [N, N] each
    -> [N]; nan for N < 3. Models that diverged do not count."""
    n = len(pairs[0])
    if n < 3:
        return np.full(n, np.nan)
    left = [reduce(*(np.delete(np.delete(each, s, 0), s, 1) for each in pairs)) for s in range(n)]
    return np.array([each[np.isfinite(each)].mean() if np.isfinite(each).any() else np.nan for each in left])


def tug_of_war(accuracies: dict, retrained: dict) -> np.ndarray:
    """ToW = product over S in {forget, retain, test} of (1 - |acc_u(S) - acc_r(S)|), for all pairs of models.

    accuracies: subset -> [N]; retrained: the same subsets -> [M]; gives [N, M], 1 is best. (RUM, Zhao et al. 2024,
    arXiv:2406.01257.)
    """
    return np.prod([1 - np.abs(accuracies[s][:, None] - retrained[s]) for s in retrained], axis=0)


def average_gap(values: dict, retrained: dict) -> np.ndarray:
    """Mean over the measures of |value_u - value_r|, for all pairs of models: measure -> [N] and -> [M] give [N, M].
    (SalUn, Fan et al. 2023, arXiv:2310.12508, whose membership inference is a classifier's rate; here it is the AUC of
    the loss attack.)"""
    return np.mean([np.abs(values[s][:, None] - retrained[s]) for s in retrained], axis=0)


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats, summed over classes, mean over samples, for all pairs of models: [N, n, 10],
    [M, n, 10] -> [N, M]. (Chundawat et al. 2022, arXiv:2205.08096.)"""
    p, q = np.exp(log_softmax(a)), np.exp(log_softmax(b))

    def entropies(outputs):
        return -(outputs * np.log(outputs + 1e-300)).sum((-2, -1)) / a.shape[1]

    mixed = np.array([[entropies((mine + theirs) / 2) for theirs in q] for mine in p])
    return mixed - (entropies(p)[:, None] + entropies(q)) / 2


def streisand(unlearned_loss: np.ndarray, retrained_loss: np.ndarray) -> dict[str, np.ndarray]:
    """Does unlearning forget *more* than retraining? Losses on the forget set, [..., N, n] each -> [...].

    excess: mean loss minus that of retrained models, in standard deviations of the retrained models' mean loss;
    beyond: share of samples whose mean loss exceeds the largest one of all retrained models on that sample.
    (The danger, after Golatkar et al. 2020, arXiv:1911.04933: what was forgotten too well stands out.)
    """
    spread = retrained_loss.mean(-1).std(-1, ddof=1)
    excess = (unlearned_loss.mean((-2, -1)) - retrained_loss.mean((-2, -1))) / np.maximum(spread, 1e-9)
    return {"excess": excess, "beyond": (unlearned_loss.mean(-2) > retrained_loss.max(-2)).mean(-1)}


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
