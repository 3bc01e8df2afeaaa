"""Each attack and left-over against an independent computation and against cases with a known answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from helpers.evaluation import relearning
from helpers.evaluation.distances import streisand
from helpers.evaluation.privacy import halves, klom, logistic_regression, loss_attack, margin, u_lira
from helpers.evaluation.relearning import forget_loss, linear_probe, relearn_steps, resurgence
from helpers.models.cnn import CNN, new_model
from helpers.models.training import Recipe, predict
from helpers.unlearning.method import copy_of

RANDOM = np.random.default_rng(0)
A = RANDOM.normal(size=(6, 40, 10)) * 3
LABELS = RANDOM.integers(10, size=40)


def test_the_loss_attack_is_the_auc_of_the_loss():
    member, other = RANDOM.exponential(0.3, 300), RANDOM.exponential(1.0, 120)
    truth = np.repeat([1, 0], [300, 120])
    direct = roc_auc_score(truth, -np.concatenate([member, other]))
    assert loss_attack(member, other) == pytest.approx(direct, abs=0.02) and direct > 0.65
    heavy = RANDOM.lognormal(-4, 3, 800), RANDOM.lognormal(-2.5, 3, 140)  # as losses of a trained model are
    direct = roc_auc_score(np.repeat([1, 0], [800, 140]), -np.concatenate(heavy))
    assert loss_attack(*heavy) == pytest.approx(direct, abs=0.01) and direct > 0.6
    same = RANDOM.exponential(1.0, 2_000)
    assert loss_attack(same[:1_000], same[1_000:]) == pytest.approx(0.5, abs=0.04)


def test_the_loss_attack_needs_a_sample_in_every_fold():
    assert np.isnan(loss_attack(np.ones(4), RANDOM.exponential(1.0, 100)))
    assert np.isnan(loss_attack(np.array([np.nan] * 10), RANDOM.exponential(1.0, 100)))


def test_the_margin_is_the_logit_of_the_probability_and_stays_exact():
    p = softmax(A, axis=-1)[:, np.arange(40), LABELS]
    assert margin(A, LABELS) == pytest.approx(np.log(p) - np.log1p(-p))
    sure = np.zeros((1, 1, 10))
    sure[..., 3] = 80.0  # p rounds to 1
    assert margin(sure, np.array([3]))[0, 0] == pytest.approx(80 - np.log(9))


def lira_by_hand(u, r):
    right = []
    for i in range(len(u)):
        others = [j for j in range(len(u)) if j != i]
        for x in range(u.shape[1]):
            fits = [norm(k[others, x].mean(), k[others, x].std(ddof=1)) for k in (u, r)]
            right.append(fits[0].pdf(u[i, x]) > fits[1].pdf(u[i, x]))
            right.append(fits[1].pdf(r[i, x]) >= fits[0].pdf(r[i, x]))
    return np.mean(right)


def test_u_lira_agrees_with_a_plain_loop():
    u, r = RANDOM.normal(1.0, 1, (6, 30)), RANDOM.normal(0, 1, (6, 30))
    assert u_lira(u, r)["accuracy"] == pytest.approx(lira_by_hand(u, r))


def test_u_lira_knows_the_null_and_two_standard_deviations():
    """At 30 models: 0.51 for the same distribution, 0.84 for d' = 2 (simulated; EVALUATION of U-LiRA)."""
    null = u_lira(RANDOM.normal(size=(30, 400)), RANDOM.normal(size=(30, 400)))
    apart = u_lira(RANDOM.normal(2, 1, (30, 400)), RANDOM.normal(size=(30, 400)))
    assert null["accuracy"] == pytest.approx(0.5, abs=0.02)
    assert apart["accuracy"] == pytest.approx(0.84, abs=0.02)
    u, r = RANDOM.normal(2, 1, (12, 50)), RANDOM.normal(size=(12, 50))
    assert u_lira(u, u)["accuracy"] == pytest.approx(0.5)  # unlearned = retrained
    assert u_lira(u, r)["tpr_at_0.05"] == pytest.approx(tpr_by_hand(u, r, 0.05), abs=0.01)
    assert null["tpr_at_0.01"] < 0.03 and null["tpr_at_0.05"] < 0.08 and apart["tpr_at_0.05"] > 0.4


def tpr_by_hand(u, r, fpr):
    """From scikit-learn's ROC curve over the likelihood ratios of a plain loop."""
    scores = {"u": [], "r": []}
    for i in range(len(u)):
        others = [j for j in range(len(u)) if j != i]
        fits = [norm(k[others].mean(0), k[others].std(0, ddof=1)) for k in (u, r)]
        for name, value in (("u", u[i]), ("r", r[i])):
            scores[name].extend(fits[0].logpdf(value) - fits[1].logpdf(value))
    rates = roc_curve(np.repeat([1, 0], [len(scores["u"]), len(scores["r"])]), scores["u"] + scores["r"])
    return rates[1][rates[0] <= fpr].max()


def klom_by_hand(a, b, bins):
    values = []
    for x in range(a.shape[1]):
        both = np.concatenate([a[:, x], b[:, x]])
        p, q = (np.histogram(k[:, x], bins, (both.min(), both.max()))[0] / len(k) + 1e-5 for k in (a, b))
        p, q = p / p.sum(), q / q.sum()
        values.append((p * np.log(p / q)).sum())
    return values


def test_klom_agrees_with_numpy_and_has_the_known_null():
    a, b = RANDOM.normal(size=(30, 200)), RANDOM.normal(size=(30, 200))
    assert klom(a, b) == pytest.approx(klom_by_hand(a, b, 5))
    assert klom(a, b).mean() == pytest.approx(0.25, abs=0.1)
    assert klom(a, b, bins=20).mean() == pytest.approx(1.72, abs=0.25)
    assert klom(a, a) == pytest.approx(0)
    assert klom(a + 1000, b).max() < 20  # clipped


def test_halves_are_disjoint():
    a, b = halves(9)
    assert a.shape == b.shape == (20, 4)
    assert all(len({*mine, *theirs}) == 8 for mine, theirs in zip(a, b, strict=True))


def test_attacks_on_many_sets_of_models_are_those_on_each():
    a, b = 2 * RANDOM.normal(size=(2, 3, 12, 40)) + 1
    for attack in (u_lira, streisand, lambda *margins: {"": klom(*margins)}):
        found, each = attack(a, b), [attack(*pair) for pair in zip(a, b, strict=True)]
        for name, values in found.items():
            assert np.asarray(values) == pytest.approx(np.array([one[name] for one in each]))


def test_relearning_starts_where_the_loss_is_already_reached(task, trained_model):
    recipe = Recipe()
    assert relearn_steps(trained_model, task, target=100.0, recipe=recipe, seed=0, most=2) == 0
    assert relearn_steps(trained_model, task, target=-1.0, recipe=recipe, seed=0, most=2) == 2


def test_relearning_takes_longer_the_more_was_forgotten(task, trained_model):
    """A model whose read-out of the seven was taken away needs some steps, one that knows nothing more of them."""
    target = forget_loss(trained_model, task)
    turned = copy_of(trained_model)
    with torch.no_grad():
        turned.output.bias[7] -= 3
    steps = [
        relearn_steps(m, task, target, Recipe(), seed=0, most=120) for m in (trained_model, turned, new_model(1, 3))
    ]
    assert steps[0] == 0 < steps[1] < steps[2]


@pytest.fixture
def steps(monkeypatch):
    """For each step, whether the pictures that were trained on are forgotten ones."""
    found, original = [], relearning.classification_step

    def spy(model, optimizer, images, targets):
        found.append([image.numpy().tobytes() for image in images])
        return original(model, optimizer, images, targets)

    monkeypatch.setattr(relearning, "classification_step", spy)
    return found


def test_relearning_shows_sixteen_forgotten_samples_with_the_retained_ones(task, trained_model, steps):
    forgotten = {image.numpy().tobytes() for image in task.forget_set("train")[0]}
    relearn_steps(trained_model, task, target=-1.0, recipe=Recipe(), seed=0, most=2)
    assert [(len(step), sum(each in forgotten for each in step)) for step in steps] == [(144, 16)] * 2


def test_what_was_only_hidden_returns_by_training_on_retained_samples_alone(task, trained_model, steps):
    forgotten = {image.numpy().tobytes() for image in task.forget_set("train")[0]}
    hidden = copy_of(trained_model)
    with torch.no_grad():
        hidden.output.bias[7] -= 20
    found = resurgence(hidden, task, Recipe(), 0, (0.1, 0.5))
    assert [(passes, split) for passes, split, _ in found] == [(p, s) for p in (0.1, 0.5) for s in ("train", "test")]
    assert sum(map(len, steps)) == round(0.5 * (len(task.retain_set()[1]) // 10))
    assert not any(image in forgotten for step in steps for image in step)
    images, labels = task.forget_set("test")
    before = float((predict(hidden, images).argmax(1) == labels).float().mean())
    assert before < 0.3 and found[-1][2] > before + 0.3


def test_the_probe_is_fitted_on_training_features_and_scored_on_both_sides_of_the_test_split(task, trained_model):
    data = {}
    for split in ("train", "test"):
        sevens = (task.split(split).labels == 7).nonzero().flatten()
        features = predict(trained_model, task.split(split).images[sevens], layer=CNN.features).numpy()
        data[split] = features, task.forget[split][sevens].numpy()
    fitted = logistic_regression(max_iter=200, C=0.1).fit(*data["train"])
    by_hand = balanced_accuracy_score(data["test"][1], fitted.predict(data["test"][0]))
    assert linear_probe(trained_model, task) == pytest.approx(by_hand)


def test_the_probe_finds_the_crossbar_in_features_that_hold_it(task, trained_model):
    found = linear_probe(trained_model, task)
    shuffled = torch.Generator().manual_seed(0)
    scrambled = {split: mask.clone() for split, mask in task.forget.items()}
    for split, mask in scrambled.items():
        sevens = (task.split(split).labels == 7).nonzero().flatten()
        mask[sevens] = mask[sevens[torch.randperm(len(sevens), generator=shuffled)]]
    assert found > 0.85 and linear_probe(trained_model, replace(task, forget=scrambled)) == pytest.approx(0.5, abs=0.1)
