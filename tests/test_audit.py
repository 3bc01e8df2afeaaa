"""The audit over made-up ensembles whose answers are known: unlearned = retrained, unlearned = trained, forgets too much."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.audit import MEASURES, Audit, _View, compare
from helpers.evaluation import cross_entropies, gap_closed
from helpers.tables import forgets_more

N, SIZES = 16, {"forget": 60, "forget_test": 40, "7_retain": 50, "retain": 80, "test": 120}


PROBES = {key: np.array(values) for key, values in (("relearn", [50, 52, 54]), ("relearn_ratio", [0.96, 1, 1.04]))}
PROBES |= {"probe": np.array([0.9, 0.91, 0.92])}


def ensemble(confidence, seed, forget_label=7):
    """Logits [N, n, 10] of all parts: sure of the label everywhere, on the two forget parts by `confidence`."""
    random = np.random.default_rng(seed)
    parts, labels = {}, {}
    for name, size in SIZES.items():
        labels[name] = np.full(size, forget_label) if "forget" in name or name == "7_retain" else np.arange(size) % 10
        logits = random.normal(size=(N, size, 10)) + np.random.default_rng(0).normal(size=(1, size, 10))
        logits[:, np.arange(size), labels[name]] += confidence if "forget" in name else 8.0
        parts[name] = logits
    return parts, labels


def view(confidence, seed):
    return _View.from_logits(*ensemble(confidence, seed))


@pytest.fixture(scope="module")
def checked():
    views = {
        "retrained": view(0.0, 1),
        "trained": view(8.0, 2),
        "gemu": view(0.0, 3),  # as good as retrained
        "gefeu": view(8.0, 4),  # has done nothing
        "ascent": view(-12.0, 5),  # forgets more than retraining does
    }
    return Audit("mnist", "crossbar", N, "", {}, *compare(views, dict.fromkeys(views, PROBES)))


def test_every_value_of_retrained_models_lies_within_its_own_null(checked):
    assert [key for key in MEASURES if not checked.inside("retrained", key)] == []


UNCHANGED = ("attack", "klom_retain", "klom_test", "klom_7_retain")  # where nothing was forgotten
COMPARED = [key for key in MEASURES if key not in ("relearn", "relearn_ratio", "probe", "beyond", "beyond_test")]


@pytest.mark.parametrize("key", COMPARED)
def test_an_ensemble_like_the_retrained_one_is_measured_like_it(checked, key):
    null, found = checked.null[key], checked.kinds["gemu"][key]["value"]
    width = max(null[1] - null[0], 0.02)
    assert null[0] - width <= found <= null[1] + width


@pytest.mark.parametrize("key", [key for key in COMPARED if not key.startswith(UNCHANGED)])
def test_an_ensemble_like_the_trained_one_is_told_from_retraining(checked, key):
    low, high = checked.null[key]
    trained, same = (checked.kinds[kind][key]["value"] for kind in ("trained", "gefeu"))
    assert not low <= trained <= high
    assert same == pytest.approx(trained, rel=0.15, abs=0.03)


def test_u_lira_of_the_same_models_finds_nothing():
    models = view(0.0, 1)
    found, _ = compare({"retrained": models, "same": models}, {kind: PROBES for kind in ("retrained", "same")})
    assert found["same"]["u_lira"]["value"] == pytest.approx(found["retrained"]["u_lira"]["value"])


def test_forgetting_more_than_retraining_is_marked(checked):
    assert checked.kinds["ascent"]["excess"]["value"] > 10 and checked.kinds["ascent"]["beyond"]["value"] > 0.9
    assert checked.kinds["gemu"]["beyond"]["value"] <= checked.null["beyond"][1] + 0.05

    def result(confidence, seed):
        parts, labels = ensemble(confidence, seed)
        loss = cross_entropies(parts["forget"], labels["forget"]).mean(1)
        return SimpleNamespace(loss={"forget_train": loss.tolist()})

    oracle = result(0.0, 1)
    assert forgets_more(result(-12.0, 5), oracle)
    assert not forgets_more(oracle, oracle) and not forgets_more(result(8.0, 2), oracle)


def test_paired_measures_take_another_seed(checked):
    """Model i meets retrained model i + 1: by hand for the tug of war of the trained ensemble."""
    u, r = view(8.0, 2), view(0.0, 1)
    by_hand = [
        np.prod([1 - abs(u.accuracy[s][i] - r.accuracy[s][(i + 1) % N]) for s in ("forget", "retain", "test")])
        for i in range(N)
    ]
    assert checked.kinds["trained"]["tow"]["value"] == pytest.approx(np.mean(by_hand))


def test_the_gap_of_these_ensembles():
    r, t, u = (ensemble(c, s)[0]["forget_test"] for c, s in ((0.0, 1), (8.0, 2), (0.0, 3)))
    assert gap_closed(r, t, u).values.mean() == pytest.approx(1, abs=0.05)
