"""Attacks: can someone tell an unlearned model from a retrained one, or a forgotten sample from one never seen?

Logits have the shape [N, n, 10]: N models, n samples. Each value is to be compared with that of retrained models, and
with its null distribution (`nulls.py`).

scikit-learn is imported where it is used: it takes a second, which most notebooks need not wait for.
"""

import numpy as np

from helpers.evaluation.distances import log_softmax


def loss_attack(member: np.ndarray, other: np.ndarray) -> float:
    """AUC of a logistic regression on per-sample loss, forget training samples against held-out ones of the same kind.

    member: [n], other: [m] losses of one model, nats. 5-fold cross-validated, seed 0; the regression sees log loss,
    since on the loss itself, whose tail is long, it would follow a few samples. 0.5: cannot be told apart; above:
    members have the lower loss; nan where one side has fewer samples than folds. The target is the value of retrained
    models. (After SCRUB, Kurmanji et al. 2023, arXiv:2302.09880, sec. 5, who report the attack's accuracy; an AUC needs
    no threshold.)"""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    losses = np.log(np.maximum(np.concatenate([member, other]), 1e-12))[:, None]
    if not np.isfinite(losses).all() or min(len(member), len(other)) < 5:  # a model that diverged, or too few samples
        return np.nan
    truth = np.repeat([1, 0], [len(member), len(other)])
    scores = np.empty(len(truth))
    for fit, score in StratifiedKFold(5, shuffle=True, random_state=0).split(losses, truth):
        model = logistic_regression().fit(losses[fit], truth[fit])
        slope = model[-1].coef_[0, 0]  # its sign may differ between folds: a low loss means member
        scores[score] = -np.sign(slope or -1) * model.decision_function(losses[score])
    return float(roc_auc_score(truth, scores))


def logistic_regression(**options):
    """On standardised inputs, both classes weighted alike."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", **options))


def margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """z_y - logsumexp of the other logits, in float64: [N, n, 10], [n] -> [N, n].

    The same as phi = log p_y - log(1 - p_y), exact where p_y rounds to 1. (LiRA, Carlini et al. 2022, arXiv:2112.03570;
    EasyDUB calls it the margin.)
    """
    log_p = log_softmax(logits)
    own = np.take_along_axis(log_p, labels[None, :, None], -1)[..., 0]
    others = log_p.copy()
    np.put_along_axis(others, np.broadcast_to(labels[None, :, None], (*log_p.shape[:2], 1)), -np.inf, -1)
    top = others.max(-1)
    return own - (top + np.log(np.exp(others - top[..., None]).sum(-1)))


def u_lira(unlearned: np.ndarray, retrained: np.ndarray) -> dict[str, np.ndarray]:
    """U-LiRA: can an unlearned model be told from a retrained one by its confidence on a forget sample?

    unlearned, retrained: phi, [..., N, n]. Per sample one Gaussian is fitted to each kind; model i is scored by
    Gaussians fitted without model i of either kind. Returns accuracy (0.5: no) and the true positive rate at 1 % and
    5 % false positives, over all samples and models: [...]. They grow with the number of models; the forget set is one
    and the same for all of them. (Hayes et al. 2024, arXiv:2403.01218, algorithm 1.)
    """
    fits = [_without_each(phi) for phi in (unlearned, retrained)]

    def log_density(x, fit):
        mean, std = fit
        return -0.5 * ((x - mean) / std) ** 2 - np.log(std)

    u, r = (log_density(phi, fits[0]) - log_density(phi, fits[1]) for phi in (unlearned, retrained))
    limits = np.quantile(r, (0.99, 0.95), axis=(-2, -1), keepdims=True)
    rates = {f"tpr_at_{fpr:g}": (u > limit).mean((-2, -1)) for fpr, limit in zip((0.01, 0.05), limits, strict=True)}
    return {"accuracy": ((u > 0).mean((-2, -1)) + (r <= 0).mean((-2, -1))) / 2, **rates}


def _without_each(phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per sample of the other models, for each model: [..., N, n] -> [..., N, n] twice."""
    n, middle = phi.shape[-2], phi.mean(-2, keepdims=True)
    centred = phi - middle  # sums of squares stay exact
    total, squares = (each.sum(-2, keepdims=True) for each in (centred, centred**2))
    mean = (total - centred) / (n - 1)
    variance = np.maximum(squares - centred**2 - (n - 1) * mean**2, 0) / (n - 2)
    return middle + mean, np.maximum(np.sqrt(variance), 1e-6)


def klom(a: np.ndarray, b: np.ndarray, bins: int | None = None) -> np.ndarray:
    """KLoM: per sample KL(histogram of a's margins || histogram of b's) over the models, in nats: [..., N, n],
    [..., M, n] -> [..., n].

    Equal bins on the pooled range of the sample, margins clipped at +-100, 1e-5 added to each bin's share; a sixth as
    many bins as models (the authors: 20 bins for 100 and more models), since more bias the estimate upwards; what bias
    is left its null distribution has too. (Georgiev et al. 2024, arXiv:2410.23232, attribute-to-delete.)
    """
    bins = bins or min(20, max(2, min(a.shape[-2], b.shape[-2]) // 6))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):  # a model that diverged
        return np.full((*a.shape[:-2], a.shape[-1]), np.nan)
    a, b = np.clip(a, -100, 100), np.clip(b, -100, 100)
    low = np.minimum(a.min(-2, keepdims=True), b.min(-2, keepdims=True))
    top = np.maximum(a.max(-2, keepdims=True), b.max(-2, keepdims=True))
    width = np.maximum(top - low, 1e-9) / bins

    def shares(values):
        place = np.minimum(((values - low) / width).astype(int), bins - 1)  # the maximum belongs to the last bin
        counts = np.stack([(place == each).mean(-2) for each in range(bins)], -1) + 1e-5
        return counts / counts.sum(-1, keepdims=True)

    p, q = shares(a), shares(b)
    return (p * np.log(p / q)).sum(-1)


def halves(n: int, draws: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Random halves of n models (seed 0): positions in two arrays [draws, n // 2], without a common model in a row, so
    that no model is compared with one that shares its initial weights."""
    random = np.random.default_rng(0)
    order = np.array([random.permutation(n) for _ in range(draws)])
    return order[:, : n // 2], order[:, n // 2 : 2 * (n // 2)]
