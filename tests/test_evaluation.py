import numpy as np
import pytest
from scipy.special import rel_entr, softmax
from sklearn.metrics import log_loss

from helpers import evaluation
from helpers.cnn import new_model
from helpers.evaluation import (
    accuracy,
    activation_change,
    bootstrap,
    cross_entropies,
    gap_closed,
    histogram,
    kl_pairs,
    kl_per_model,
    weight_distance,
)

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
    retrained, trained = LOGITS, OTHERS
    assert gap_closed(retrained, trained, trained).values.mean() == pytest.approx(0)
    assert gap_closed(retrained, trained, retrained).values.mean() == pytest.approx(1)
    near = retrained[:1] + RANDOM.normal(size=retrained.shape) * 0.1  # retrained seeds that nearly agree
    assert gap_closed(near, near * 0.5, trained).values.mean() < 0  # further away than doing nothing


def test_the_histogram_counts_every_prediction_once_and_no_phantom():
    shares = histogram(LOGITS)
    assert shares.sum(1) == pytest.approx(1)
    assert shares[0] * 50 == pytest.approx([np.sum(LOGITS[0].argmax(-1) == c) for c in range(10)])


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(random.normal(1.0, 1.0, size=30), draws=1_000)
        hits += low < 1.0 < high
    assert 0.88 <= hits / 200 <= 0.99
    assert bootstrap(np.ones(5)) == (1.0, 1.0)


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
    first, second = evaluation.retain_train_sample(task), evaluation.retain_train_sample(task)
    assert first.equal(second) and len(first.unique()) == evaluation.RETAIN_TRAIN_SAMPLE
