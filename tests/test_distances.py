"""Each distance against an independent computation and against cases with a known answer."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from sklearn.metrics import log_loss

from helpers.evaluation import logits
from helpers.evaluation.distances import (
    accuracy,
    activation_change,
    average_gap,
    cross_entropies,
    energy_distances,
    gap_closed,
    jensen_shannon,
    kl_pairs,
    kl_per_model,
    output_distances,
    predicted_shares,
    streisand,
    tug_of_war,
    weight_distance,
)
from helpers.evaluation.frame import interval
from helpers.models.cnn import new_model

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(4, 50, 10)).astype(np.float32) * 3
OTHERS = RANDOM.normal(size=(4, 50, 10)).astype(np.float32) * 3
LABELS = RANDOM.integers(10, size=50)


def test_accuracy_and_loss_agree_with_scikit_learn():
    for model in range(4):
        p = softmax(LOGITS[model].astype(float), axis=-1)
        assert cross_entropies(LOGITS, LABELS)[model].mean() == pytest.approx(log_loss(LABELS, p, labels=range(10)))
        assert accuracy(LOGITS, LABELS)[model] == np.mean([p[k].argmax() == LABELS[k] for k in range(50)])


def test_loss_is_a_mean_over_samples_not_batches():
    logits = np.zeros((1, 7, 10), np.float32)
    assert cross_entropies(logits, np.zeros(7, int)).mean() == pytest.approx(np.log(10))


def test_kl_agrees_with_scipy_and_is_not_clamped():
    found = kl_pairs(LOGITS, OTHERS)
    for i in range(4):
        for j in range(4):
            a, b = softmax(LOGITS[i].astype(float), -1), softmax(OTHERS[j].astype(float), -1)
            assert found[i, j] == pytest.approx(rel_entr(a, b).sum(-1).mean())
    sure = np.full((1, 1, 10), -200.0)
    sure[..., 3] = 0
    other = np.roll(sure, 1, axis=-1)
    assert kl_pairs(sure, other)[0, 0] == pytest.approx(200)
    assert kl_pairs(LOGITS, LOGITS).diagonal() == pytest.approx(0, abs=1e-12)


def test_kl_per_model_leaves_the_same_seed_out():
    pairs = kl_pairs(LOGITS, OTHERS)
    by_hand = [np.mean([pairs[i, j] for i in range(4) if i != j]) for j in range(4)]
    assert kl_per_model(LOGITS, OTHERS) == pytest.approx(by_hand)
    assert np.isnan(kl_per_model(LOGITS[:1], OTHERS[:1])).all()


def test_the_gap_is_closed_by_retrained_models_and_open_for_trained_ones():
    ends = [kl_per_model(LOGITS, models).mean() for models in (LOGITS, OTHERS)]
    assert gap_closed(kl_per_model(LOGITS, OTHERS), *ends).mean() == pytest.approx(0)
    assert gap_closed(kl_per_model(LOGITS, LOGITS), *ends).mean() == pytest.approx(1)
    assert gap_closed(np.array([4.0, 5.0]), 1.0, 3.0) == pytest.approx([-0.5, -1.0])  # further away than doing nothing
    assert np.isnan(gap_closed(np.ones(3), 2.0, 2.0)).all()  # no gap


def ensemble(n, seed, confidence=4.0, spread=1.0):
    """Logits [n, 60, 10] of models that read class 3 with some confidence and differ by some spread."""
    random = np.random.default_rng(seed)
    found = spread * random.normal(size=(n, 60, 10)) + np.random.default_rng(0).normal(size=(1, 60, 10))
    found[..., 3] += confidence
    return found


def test_the_energy_distance_agrees_with_a_plain_loop():
    u, r = (softmax(x.astype(float), -1) for x in (LOGITS, OTHERS))

    def between(a, b):
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        return np.mean([[np.linalg.norm(a[i, x] - b[j, x]) for i, j in pairs] for x in range(50)])

    by_hand = 2 * between(u, r) - between(u, u) - between(r, r)
    assert energy_distances(LOGITS, OTHERS).mean() == pytest.approx(by_hand)


def test_the_energy_distance_knows_equal_shifted_and_doubting_ensembles():
    retrained, trained = ensemble(12, 1), ensemble(12, 2, confidence=-4.0)
    far = energy_distances(trained, retrained).mean()
    assert energy_distances(ensemble(12, 3), retrained).mean() == pytest.approx(0, abs=0.02 * far)
    assert energy_distances(ensemble(12, 3, confidence=2.0), retrained).mean() > 0.02 * far
    doubters = np.zeros_like(retrained)  # every class alike
    kl = [kl_per_model(retrained, models).mean() for models in (retrained, trained, doubters)]
    flattered = gap_closed(kl[2], kl[0], kl[1])
    honest = gap_closed(energy_distances(doubters, retrained).mean(), 0.0, far)
    assert flattered > 0.6 and honest < flattered - 0.2
    one = np.repeat(ensemble(1, 4), 12, axis=0)  # right on average, but always the same: no distribution over models
    assert energy_distances(one, retrained).mean() > 0.02 * far


def test_the_histogram_counts_every_prediction_once_and_no_phantom():
    shares = predicted_shares(LOGITS)
    assert shares.sum(1) == pytest.approx(1)
    assert shares[0] * 50 == pytest.approx([np.sum(LOGITS[0].argmax(-1) == c) for c in range(10)])


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        low, high = interval(random.normal(1.0, 1.0, size=30))
        hits += low < 1.0 < high
    assert 0.86 <= hits / 100 <= 0.99
    assert interval(np.ones(5)) == (1.0, 1.0) and np.isnan(interval([])).all()


def test_weight_distance_by_hand():
    a, b = new_model(1, 0), new_model(1, 1)
    found = weight_distance(a, b)
    flat = [np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]).astype(float) for m in (a, b)]
    assert found["total"] == pytest.approx(np.linalg.norm(flat[0] - flat[1]))
    layer = np.concatenate(
        [(x - y).detach().numpy().ravel() for x, y in zip(a.conv2.parameters(), b.conv2.parameters(), strict=True)]
    )
    assert found["conv2"] == pytest.approx(np.linalg.norm(layer.astype(float)))
    assert weight_distance(a, a)["total"] == 0


def test_activation_change_by_hand(task):
    a, b = new_model(1, 0), new_model(1, 1)
    images = task.data.test.images[:20]
    found = activation_change(a, b, images)
    assert found["output"] == pytest.approx((a(images) - b(images)).abs().mean().item(), rel=1e-5)
    assert activation_change(a, a, images) == dict.fromkeys(found, 0.0)


def test_the_retain_sample_is_fixed(task):
    first, second = logits.retain_train_sample(task), logits.retain_train_sample(task)
    assert first.equal(second) and len(first.unique()) == logits.RETAIN_TRAIN_SAMPLE
    assert not task.forget["train"][first].any()


A = RANDOM.normal(size=(6, 40, 10)) * 3
B = RANDOM.normal(size=(6, 40, 10)) * 3


def test_tug_of_war_by_hand():
    u = {"forget": np.array([0.9, 0.2]), "retain": np.array([0.99, 0.8]), "test": np.array([0.98, 0.9])}
    r = {"forget": np.array([0.2, 0.2]), "retain": np.array([1.0, 1.0]), "test": np.array([0.99, 1.0])}
    by_hand = [[0.3 * 0.99 * 0.99, 0.3 * 0.99 * 0.98], [1.0 * 0.8 * 0.91, 1.0 * 0.8 * 0.9]]
    assert tug_of_war(u, r) == pytest.approx(np.array(by_hand))
    assert np.diag(tug_of_war(r, r)) == pytest.approx([1, 1])


def test_average_gap_by_hand():
    u = {"forget": np.array([0.9, 0.2]), "retain": np.array([0.98, 1.0]), "attack": np.array([0.7, 0.4])}
    r = {"forget": np.array([0.2]), "retain": np.array([1.0]), "attack": np.array([0.5])}
    assert average_gap(u, r) == pytest.approx(np.array([[(0.7 + 0.02 + 0.2) / 3], [0.1 / 3]]))
    assert average_gap(r, r) == pytest.approx(np.zeros((1, 1)))


def test_distances_of_all_pairs_agree_with_scipy():
    p, q = softmax(A, -1), softmax(B[:4], -1)
    euclidean = [[np.sqrt(((a - b) ** 2).sum(-1)).mean() for b in q] for a in p]
    assert output_distances(A, B[:4]) == pytest.approx(np.array(euclidean))
    found = [[(jensenshannon(a, b, axis=-1) ** 2).mean() for b in q] for a in p]
    assert jensen_shannon(A, B[:4]) == pytest.approx(np.array(found))
    assert np.diag(jensen_shannon(A, A)) == pytest.approx(np.zeros(6), abs=1e-12)
    apart = [[(a.argmax(-1) != b.argmax(-1)).mean() for b in B] for a in A]
    assert jensen_shannon(1e6 * A, 1e6 * B) == pytest.approx(np.log(2) * np.array(apart))  # probabilities of 0


def test_streisand_tells_forgetting_more_from_forgetting_as_much():
    oracle = RANDOM.normal(4, 1, (30, 200)) + RANDOM.normal(0, 0.5, (30, 1))
    same = streisand(RANDOM.normal(4, 1, (30, 200)), oracle)
    over = streisand(oracle + 20, oracle)
    assert abs(same["excess"]) < 1 and same["beyond"] == 0
    assert over["excess"] > 20 and over["beyond"] == 1
    middle = oracle.mean(0) + np.where(np.arange(200) < 50, 0.9, 1.1) * (oracle.max(0) - oracle.mean(0))
    assert streisand(np.tile(middle, (30, 1)), oracle)["beyond"] == 0.75
