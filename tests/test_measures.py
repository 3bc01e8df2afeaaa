"""Measures over made-up ensembles with known answers: unlearned = retrained, unlearned = trained, forgets too much;
and how stored ones are kept."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHORT

from helpers import parallel
from helpers.evaluation import evaluate
from helpers.evaluation.evaluate import compare, measure, measures_path, with_derived
from helpers.evaluation.frame import Rows, forgets_more, mean, null_of, values
from helpers.evaluation.measures import MEASURES, View, memorised
from helpers.files import StudyError
from helpers.models import ensembles
from helpers.models.ensembles import BASELINES, baseline

N = 16
SIZES = {
    ("train", "forget"): 60,
    ("test", "forget"): 40,
    ("test", "neighbours"): 50,
    ("train", "retain"): 80,
    ("train", "neighbours"): 30,
    ("test", "all"): 120,
}
WORST = np.arange(12)
TASK = SimpleNamespace(data=SimpleNamespace(name="mnist"), request=SimpleNamespace(name="crossbar"))
CONFIDENCE = {
    "retrained": 0.0,
    "trained": 8.0,
    "gemu": 0.0,  # as good as retrained
    "gefeu": 8.0,  # has done nothing
    "ascent": -12.0,  # forgets more than retraining does
}


def parts(kind, seed):
    """Logits and labels of all parts: sure of the label everywhere, on the forget set by the kind's confidence."""
    random, found = np.random.default_rng(seed), {}
    for (split, subset), size in SIZES.items():
        labels = np.full(size, 7) if subset in ("forget", "neighbours") else np.arange(size) % 10
        logits = random.normal(size=(N, size, 10)) + np.random.default_rng(0).normal(size=(1, size, 10))
        logits[:, np.arange(size), labels] += CONFIDENCE[kind] if subset == "forget" else 8.0
        found[split, subset] = logits, labels
    return found


VIEWS = {kind: View.of(parts(kind, seed), WORST) for seed, kind in enumerate(CONFIDENCE, 1)}


@pytest.fixture(scope="module")
def results():
    frames = [compare(TASK, kind, view, VIEWS["retrained"]) for kind, view in VIEWS.items()]
    for kind in VIEWS:
        rows = Rows()
        rows.add("samples", np.full(N, 100 if kind == "retrained" else 10))
        frames.append(rows.frame(TASK, kind))
    return with_derived(pd.concat(frames, ignore_index=True))


FORGET = [("train", "forget", ""), ("test", "forget", "")]
FAR = [(m, *part) for m in ("tow", "average_gap", "activation_distance", "js", "u_lira", "klom") for part in FORGET]
FAR += [("excess", *part) for part in FORGET] + [("klom", "train", "forget", "0.95")]
FAR += [("u_lira", "train", "memorised", ""), ("u_lira_tpr", "train", "forget", "0.05")]
UNCHANGED = [("u_lira", "train", subset, "") for subset in ("retain", "neighbours")]
UNCHANGED += [("klom", "test", "all", ""), ("klom", "train", "retain", ""), ("loss_attack", "train", "forget", "")]


@pytest.mark.parametrize("part", FAR + UNCHANGED)
def test_an_ensemble_like_the_retrained_one_is_measured_like_it(results, part):
    low, high = null_of(results, *part)
    width = max(high - low, 0.02)
    for kind in ("retrained", "gemu"):
        assert low - width <= mean(results, kind, *part) <= high + width


@pytest.mark.parametrize("part", FAR)
def test_an_ensemble_like_the_trained_one_is_told_from_retraining(results, part):
    low, high = null_of(results, *part)
    trained, same = (mean(results, kind, *part) for kind in ("trained", "gefeu"))
    assert not low <= trained <= high
    assert same == pytest.approx(trained, rel=0.15, abs=0.03)


def test_the_gap_is_closed_by_whom_it_should_be(results):
    for name in ("energy_gap", "kl_gap"):
        closed = [mean(results, kind, name, "test", "forget") for kind in ("trained", "retrained", "gemu", "gefeu")]
        assert closed == pytest.approx([0, 1, 1, 0], abs=0.02)
    distance = [mean(results, kind, "energy", "train", "memorised") for kind in ("gemu", "gefeu")]
    assert abs(distance[0]) < 0.05 < 0.3 < distance[1]


def test_the_worst_cases_are_those_learned_by_heart():
    """Forty samples of which two are known to trained models alone."""
    random = np.random.default_rng(0)
    retrained = random.normal(size=(8, 40))
    trained = random.normal(size=(8, 40)) + 1
    trained[:, [3, 31]] += 6
    assert sorted(memorised(trained, retrained)) == [3, 31]


def test_u_lira_of_the_same_models_finds_nothing():
    same, null = (compare(TASK, kind, VIEWS["retrained"], VIEWS["retrained"]) for kind in ("gemu", "retrained"))
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


@pytest.fixture
def small(task, tmp_path, monkeypatch):
    """The first samples of MNIST, whose models and measures lie in a folder of this test's own."""
    monkeypatch.setattr(ensembles, "MODELS", tmp_path)
    monkeypatch.setattr(ensembles, "RECIPE", SHORT)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    picked = {split: task.split(split).pick(slice(n)) for split, n in (("train", 3_000), ("test", 1_000))}
    masks = {split: task.forget[split][: len(part)] for split, part in picked.items()}
    return replace(task, data=replace(task.data, **picked), forget=masks)


def test_a_raised_version_computes_that_measure_alone_again(small, monkeypatch):
    made = [baseline(kind, small, 2, stored=False) for kind in BASELINES]
    first, seen = measure(small, *made), []
    monkeypatch.setitem(MEASURES, "js", replace(MEASURES["js"], version=2, formula=lambda *given: np.full(2, 0.5)))
    monkeypatch.setattr(evaluate, "compare", lambda *given: seen.append(given[-1]) or compare(*given))
    again = measure(small, *made)
    assert seen == [["js"]] * 3 and set(again[again.measure == "js"].value) == {0.5}
    rest = [frame[frame.measure != "js"].sort_values(list(frame.columns)) for frame in (first, again)]
    assert rest[0].reset_index(drop=True).equals(rest[1].reset_index(drop=True))


def test_stored_measures_are_read_without_a_weight_and_say_what_made_the_models(small, monkeypatch):
    made = [baseline(kind, small, 2, stored=False) for kind in BASELINES]
    with pytest.raises(StudyError, match="train copies of the models, and some are missing"):
        measure(small, *made, probes=True, stored=True)
    first = measure(small, *made, probes=True)
    for ensemble in made:
        for seed in ensemble.seeds:
            ensemble.kind.path(seed).write_bytes(b"")  # there, and worth nothing
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # as on another machine
    found = [baseline(kind, small, 2, stored=True) for kind in BASELINES]
    assert measure(small, *found, probes=True, stored=True).equals(first)
    assert measures_path(small, found[1].kind, 2).is_relative_to(found[1].kind.folder)
    assert first[first.measure == "seconds"]["at"].str.contains("torch").all()
