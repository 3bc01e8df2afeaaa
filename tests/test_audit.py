"""The audit over made-up ensembles whose answers are known: unlearned = retrained, unlearned = trained, forgets too
much."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from helpers.evaluation.audit import View, compare, memorised
from helpers.evaluation.evaluate import with_shares
from helpers.evaluation.frame import Rows, forgets_more, mean, null_of, values

N = 16
SIZES = {
    ("train", "forget"): 60,
    ("test", "forget"): 40,
    ("test", "neighbours"): 50,
    ("train", "retain"): 80,
    ("train", "neighbours"): 30,
    ("train", "memorised"): 12,
    ("test", "all"): 120,
}
TASK = SimpleNamespace(data=SimpleNamespace(name="mnist"), request=SimpleNamespace(name="crossbar"))
CONFIDENCE = {
    "retrained": 0.0,
    "trained": 8.0,
    "gemu": 0.0,  # as good as retrained
    "gefeu": 8.0,  # has done nothing
    "ascent": -12.0,  # forgets more than retraining does
}


def parts(kind, seed):
    """Logits and labels of all parts: sure of the label everywhere, on the two forget parts by the kind's
    confidence."""
    random, found = np.random.default_rng(seed), {}
    for (split, subset), size in SIZES.items():
        labels = np.full(size, 7) if subset in ("forget", "neighbours", "memorised") else np.arange(size) % 10
        logits = random.normal(size=(N, size, 10)) + np.random.default_rng(0).normal(size=(1, size, 10))
        logits[:, np.arange(size), labels] += CONFIDENCE[kind] if subset in ("forget", "memorised") else 8.0
        found[split, subset] = logits, labels
    return found


VIEWS = {kind: View.of(parts(kind, seed)) for seed, kind in enumerate(CONFIDENCE, 1)}


def losses(kind):
    rows = Rows()
    rows.add("loss", VIEWS[kind].loss["train", "forget"].mean(1), "train", "forget")
    rows.add("samples", np.full(N, 100 if kind == "retrained" else 10))
    return rows.frame(TASK, kind)


@pytest.fixture(scope="module")
def results():
    frames = [compare(TASK, kind, view, VIEWS["retrained"]) for kind, view in VIEWS.items()]
    return with_shares(pd.concat([*frames, *map(losses, VIEWS)], ignore_index=True))


PAIRED = [(m, h, "forget", "") for m in ("tow", "average_gap", "activation_distance", "js") for h in ("train", "test")]
ENSEMBLE = [(m, h, "forget", "") for m in ("u_lira", "klom", "excess") for h in ("train", "test")]
ENSEMBLE += [("u_lira", "train", "memorised", "")]
UNCHANGED = [("u_lira", "train", subset, "") for subset in ("retain", "neighbours")] + [
    ("klom", "test", "neighbours", ""),
    ("klom", "train", "retain", ""),
    ("klom", "test", "all", ""),
]
UNCHANGED += [("loss_attack", "train", "forget", "")]
OTHERS = [("klom", split, "forget", "0.95") for split in ("train", "test")] + [
    ("u_lira_tpr", "train", "forget", "0.05")
]


@pytest.mark.parametrize("part", PAIRED + ENSEMBLE + OTHERS + UNCHANGED)
def test_an_ensemble_like_the_retrained_one_is_measured_like_it(results, part):
    low, high = null_of(results, *part)
    width = max(high - low, 0.02)
    for kind in ("retrained", "gemu"):
        assert low - width <= mean(results, kind, *part) <= high + width


@pytest.mark.parametrize("part", PAIRED + ENSEMBLE + OTHERS)
def test_an_ensemble_like_the_trained_one_is_told_from_retraining(results, part):
    low, high = null_of(results, *part)
    trained, same = (mean(results, kind, *part) for kind in ("trained", "gefeu"))
    assert not low <= trained <= high
    assert same == pytest.approx(trained, rel=0.15, abs=0.03)


def test_the_worst_cases_are_those_learned_by_heart():
    """Forty samples of which two are known to trained models alone."""
    random = np.random.default_rng(0)
    retrained = random.normal(size=(8, 40))
    trained = random.normal(size=(8, 40)) + 1
    trained[:, [3, 31]] += 6
    assert sorted(memorised(trained, retrained)) == [3, 31]


def test_the_energy_distance_of_the_worst_cases_tells(results):
    part = ("energy", "train", "memorised")
    assert abs(mean(results, "gemu", *part)) < 0.05 < 0.3 < mean(results, "gefeu", *part)


def test_u_lira_of_the_same_models_finds_nothing():
    same = compare(TASK, "gemu", VIEWS["retrained"], VIEWS["retrained"])
    null = compare(TASK, "retrained", VIEWS["retrained"], VIEWS["retrained"])
    part = ("u_lira", "train", "forget")
    assert mean(same, "gemu", *part) == pytest.approx(mean(null, "null", *part)) == mean(null, "retrained", *part)


def test_forgetting_more_than_retraining_is_marked(results):
    assert mean(results, "ascent", "excess", "train", "forget") > 10
    assert mean(results, "ascent", "beyond", "train", "forget") > 0.9
    assert [kind for kind in CONFIDENCE if forgets_more(results, kind)] == ["ascent"]


def test_paired_measures_take_another_seed(results):
    """Model i meets retrained model i + 1: by hand for the tug of war of the trained ensemble."""
    u, r = VIEWS["trained"].accuracy, VIEWS["retrained"].accuracy
    subsets = (("train", "forget"), ("train", "retain"), ("test", "all"))
    by_hand = [np.prod([1 - abs(u[s][i] - r[s][(i + 1) % N]) for s in subsets]) for i in range(N)]
    assert values(results, "trained", "tow", "train", "forget") == pytest.approx(by_hand)


def test_shares_are_of_what_retraining_sees(results):
    assert values(results, "gemu", "samples_share") == pytest.approx(np.full(N, 0.1))
    assert values(results, "retrained", "samples_share") == pytest.approx(np.ones(N))
