"""Measures over made-up ensembles with known answers: unlearned = retrained, unlearned = trained, forgets too much;
and how stored ones are kept."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, SHORT, readme_queries, same
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import t

from helpers import parallel
from helpers.evaluation import evaluate, measures
from helpers.evaluation.derived import with_derived
from helpers.evaluation.distances import energy_distances, kl_per_model
from helpers.evaluation.evaluate import compare, in_place_of, measure, measures_path
from helpers.evaluation.frame import Rows, forgets_more, mean, null_of, values
from helpers.evaluation.logits import Logits, parts_of
from helpers.evaluation.measures import MEASURES, View, memorised
from helpers.evaluation.nulls import splits
from helpers.evaluation.privacy import halves, klom, loss_attack
from helpers.evaluation.relearning import forget_loss
from helpers.files import StudyError, save_frame
from helpers.models import ensembles
from helpers.models.cnn import new_model
from helpers.models.ensembles import BASELINES, baseline, baseline_kind, state_of

N = 20
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
    "again": 0.0,
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


def test_the_queries_of_the_readme_find_what_was_measured(results, tmp_path):
    save_frame(tmp_path / "measures.csv.gz", results)
    found = readme_queries(tmp_path / "measures.csv.gz")
    assert len(found) == 4
    (reads,) = re.findall(r"`(pd\.read_csv\(path, .*?\))`", (ROOT / "README.md").read_text(encoding="utf-8"))
    holed = results.assign(value=results.value.where(results.index > 0))  # as of a measure that could not be computed
    holed.to_csv(tmp_path / "holed.csv", index=False)
    plain = eval(reads, {"pd": pd, "path": tmp_path / "holed.csv"})
    assert plain.value.dtype == float and (plain["at"] == "").any() and "null" in set(plain.kind)
    for query, table in found.items():
        measure, split, subset = re.findall("'(\\w+)'", query)
        for kind, value in table.iloc[:, 0].items():
            assert value == pytest.approx(mean(results, kind, measure, split, subset)), (query, kind)


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
    for kind in ("again", "gemu"):
        assert low - width <= mean(results, kind, *part) <= high + width


@pytest.mark.parametrize("part", FAR)
def test_an_ensemble_like_the_trained_one_is_told_from_retraining(results, part):
    low, high = null_of(results, *part)
    trained, same = (mean(results, kind, *part) for kind in ("trained", "gefeu"))
    assert not low <= trained <= high
    assert same == pytest.approx(trained, rel=0.15, abs=0.03)


def test_the_gap_is_closed_by_whom_it_should_be(results):
    for name in ("energy_gap", "joint_gap", "kl_gap"):
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
    same, own = (compare(TASK, kind, VIEWS["retrained"], VIEWS["retrained"]) for kind in ("gemu", "retrained"))
    part = ("u_lira", "train", "forget")
    assert mean(same, "gemu", *part) == pytest.approx(mean(own, "retrained", *part))


def test_forgetting_more_than_retraining_is_marked(results):
    assert mean(results, "ascent", "excess", "train", "forget") > 10
    assert mean(results, "ascent", "beyond", "train", "forget") > 0.9
    assert [kind for kind in CONFIDENCE if forgets_more(results, kind)] == ["ascent"]


def test_a_model_meets_retrained_models_of_other_seeds(results):
    """By hand for the tug of war of the trained ensemble."""
    u, r = VIEWS["trained"].accuracy, VIEWS["retrained"].accuracy
    subsets = (("train", "forget"), ("train", "retain"), ("test", "all"))
    pairs = [[np.prod([1 - abs(u[s][i] - r[s][j]) for s in subsets]) for j in range(N) if j != i] for i in range(N)]
    by_hand = np.mean(pairs, axis=1)
    assert values(results, "trained", "tow", "train", "forget") == pytest.approx(by_hand)


PART = ("train", "forget")


def test_kl_is_that_of_the_kind_from_retrained_models(results):
    by_hand = kl_per_model(VIEWS["retrained"].logits[PART], VIEWS["trained"].logits[PART])
    assert values(results, "trained", "kl", *PART) == pytest.approx(by_hand)


def test_the_joint_distance_is_between_vectors_of_all_outputs(results):
    u, r = (softmax(VIEWS[kind].logits[PART], -1).reshape(N, -1) for kind in ("trained", "retrained"))

    def apart(a, b):
        return cdist(a, b)[~np.eye(N, dtype=bool)].mean() / SIZES[PART] ** 0.5

    by_hand = 2 * apart(r, u) - apart(u, u) - apart(r, r)
    assert mean(results, "trained", "joint", *PART) == pytest.approx(by_hand)


def test_the_attack_is_on_forgotten_and_held_out_samples_and_part_of_the_average_gap(results):
    mine, usual = VIEWS["trained"], VIEWS["retrained"]
    losses = mine.losses[PART][3], mine.losses["test", "forget"][3]
    assert mine.attack[3] == loss_attack(*losses)
    others, three = np.arange(N) != 3, (PART, ("train", "retain"), ("test", "all"))
    gaps = [np.abs(mine.accuracy[s][3] - usual.accuracy[s][others]).mean() for s in three]
    by_hand = np.mean([*gaps, np.abs(mine.attack[3] - usual.attack[others]).mean()])
    assert values(results, "trained", "average_gap", *PART)[3] == pytest.approx(by_hand)


def test_tow_and_average_gap_are_of_forgotten_retained_and_all_samples():
    def view(forget, retain, everything, attack):
        accuracies = {PART: forget, ("train", "retain"): retain, ("test", "all"): everything}
        return SimpleNamespace(
            accuracy={part: np.array([each]) for part, each in accuracies.items()}, attack=np.array([attack])
        )

    mine, usual = view(0.9, 0.8, 0.7, 0.8), view(0.5, 0.95, 0.9, 0.5)
    tow, gap = (MEASURES[name].formula(mine, usual, PART).item() for name in ("tow", "average_gap"))
    assert tow == pytest.approx(0.6 * 0.85 * 0.8) and gap == pytest.approx((0.4 + 0.15 + 0.2 + 0.3) / 4)


def test_klom_is_that_of_the_kind_from_retrained_models(results):
    a, b = (positions[0] for positions in halves(N))
    by_hand = klom(VIEWS["gemu"].margins[PART][a], VIEWS["retrained"].margins[PART][b]).mean()
    assert values(results, "gemu", "klom", *PART)[0] == pytest.approx(by_hand)


def test_the_sets_of_the_null_are_the_two_halves_of_all_retrained_models():
    for a, b in splits(7):
        assert len(a) == 7 and sorted([*a, *b]) == list(range(14))


def test_the_null_is_drawn_from_both_sets_of_retrained_models(results):
    """Of a measure with one value per model."""
    pool = np.concatenate([VIEWS[kind].losses[PART].mean(1) for kind in ("retrained", "again")])
    by_hand = [pool[:N].mean() + pool[a].mean() - pool[b].mean() for a, b in splits(N)]
    assert values(results, "null", "loss", *PART) == pytest.approx(by_hand)


@pytest.mark.parametrize("measure, of", [("probe", np.mean), ("relearn_steps", np.median)])
def test_the_null_of_probes_is_of_as_many_models_as_were_probed_of_a_method(measure, of):
    """Of 20 retrained ones five, against the other 15."""
    probed = np.random.default_rng(0).normal(size=20) ** 2
    frame = pd.concat(
        [frame_of_probes(kind, measure, each) for kind, each in zip(HALVES, np.split(probed, 2), strict=True)]
    )
    orders = [np.concatenate(both) for both in splits(10)]
    by_hand = [of(probed) + of(probed[order[:5]]) - of(probed[order[5:]]) for order in orders]
    assert evaluate._null_of_probes(TASK, frame).value.to_numpy() == pytest.approx(by_hand)


def test_probes_are_stored_apart_for_every_number_of_models(monkeypatch, task):
    """Of 6 models number 6 is one retrained again, of 10 it is a retrained one."""
    monkeypatch.setattr(evaluate, "SIZES", replace(evaluate.SIZES, probed=5))
    kinds = {kind: baseline_kind(kind, task) for kind in ("trained", *HALVES)}
    what, again = {}, {}
    for n in (6, 10):
        for (kind, place), path in evaluate._probe_paths(task, kinds, n).items():
            assert what.setdefault(path, (kind, place)) == (kind, place)
            again[n] = again.get(n, 0) + (kind == "again")
    assert again == {6: 6, 10: 10}


HALVES = ("retrained", "again")


def frame_of_probes(kind, measure, found):
    rows = Rows()
    rows.add(measure, found, "test", "forget")
    return rows.frame(TASK, kind)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dist", ["normal", "exponential"])
def test_about_one_in_twenty_equal_few_is_outside_the_null_of_probes(dist):
    """Five models; of the skewed values of relearning, and of medians, up to twice as many as it says."""
    random, outside = np.random.default_rng(0), dict.fromkeys(("probe", "relearn_steps"), 0)
    for _ in range(2_000):
        for name in outside:
            sets = {kind: getattr(random, dist)(size=5 if kind == "gemu" else 10) for kind in (*HALVES, "gemu")}
            frame = pd.concat([frame_of_probes(kind, name, each) for kind, each in sets.items()])
            frame = pd.concat([frame, evaluate._null_of_probes(TASK, frame)])
            low, high = null_of(frame, name, "test", "forget")
            mine = np.median(sets["gemu"]) if MEASURES[name].median else sets["gemu"].mean()
            outside[name] += not low <= mine <= high
    assert all(0.03 <= times / 2_000 <= 0.1 for times in outside.values()), outside


def test_the_null_has_room_for_few_models_and_few_draws():
    """By hand: ends between which 95 % of further draws lie, times the quantile of t over that of the normal."""
    draws, rows, null = np.random.default_rng(0).normal(size=199), Rows(), Rows()
    rows.add("kl", np.ones(3), *PART)
    null.add("kl", draws, *PART, by="step")
    low, high = null_of(pd.concat([rows.frame(TASK, "retrained"), null.frame(TASK, "null")]), "kl", *PART)
    fifth, last = np.sort(draws)[[4, -5]]
    wider, centre = t.ppf(0.975, 4) / 1.959964, np.median(draws)
    assert (low, high) == pytest.approx((centre + wider * (fifth - centre), centre + wider * (last - centre)), rel=1e-5)


@pytest.mark.parametrize("shift, lost, over", [(0.2, False, False), (2.0, False, True), (2.0, True, False)])
def test_forgetting_more_is_more_than_chance_and_not_of_models_that_diverged(shift, lost, over):
    """lost: all of the larger loss is that of one model, which diverged."""
    usual, own = Rows(), Rows()
    usual.add("loss", np.linspace(-1, 1, 10), *PART)
    own.add("loss", np.linspace(-1, 1, 10) + (10 * shift * (np.arange(10) == 9) if lost else shift), *PART)
    own.add("diverged", (np.arange(10) == 9) & lost, *PART)
    frame = pd.concat([usual.frame(TASK, "retrained"), own.frame(TASK, "gemu")])
    assert forgets_more(frame, "gemu") == over


def test_a_model_is_trained_further_to_the_loss_of_the_trained_one(task, trained_model, monkeypatch):
    """One that diverged counts as the trained model."""
    given, most = [], evaluate.SIZES.relearn_steps
    monkeypatch.setattr(evaluate, "relearn_steps", lambda model, task, goal, *_: given.append((model, goal)) or most)
    monkeypatch.setattr(evaluate, "resurgence", lambda *_: [])
    monkeypatch.setattr(evaluate, "linear_probe", lambda *_: 0.5)
    trained, other = (state_of(model) for model in (trained_model, new_model(1, 3)))
    lost = {name: torch.full_like(weight, torch.nan) for name, weight in trained.items()}
    for state in (other, lost):
        found = evaluate.probe(task, state, trained, 0)
        assert ("relearn_steps", "train", "", most) in found and ("relearn_given_up", "train", "", True) in found
    assert [goal for _, goal in given] == pytest.approx([forget_loss(trained_model, task)] * 2)
    assert same(given[1][0], trained_model) and not same(given[0][0], trained_model)


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
    monkeypatch.setitem(
        MEASURES, "js", replace(MEASURES["js"], version=99, formula=lambda a, b, part: np.full((len(a), len(b)), 0.5))
    )
    monkeypatch.setattr(evaluate, "compare", lambda *given: seen.append(given[-1]) or compare(*given))
    again = measure(small, *made)
    assert seen == [["js"]] * 4 and set(again[again.measure == "js"].value) == {0.5}
    rest = [frame[frame.measure != "js"].sort_values(list(frame.columns)) for frame in (first, again)]
    assert rest[0].reset_index(drop=True).equals(rest[1].reset_index(drop=True))


def test_stored_measures_are_read_without_a_weight_and_say_what_made_the_models(small, monkeypatch):
    made = [baseline(kind, small, 2, stored=False) for kind in BASELINES]
    pools = []
    monkeypatch.setattr(evaluate, "memorised", lambda *margins: pools.append(margins) or memorised(*margins))
    with pytest.raises(StudyError, match="train copies of the models, and some are missing"):
        measure(small, *made, probes=True, stored=True)
    first = measure(small, *made, probes=True)
    assert [len(each) for each in pools[0]] == [2, 4]  # the worst cases, by all retrained models
    assert (values(first, "trained", "weight_distance", at="total") == 0).all()  # each from its own
    for ensemble in made:
        for seed in ensemble.seeds:
            ensemble.kind.path(seed).write_bytes(b"")  # there, and worth nothing
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # as on another machine
    found = [baseline(kind, small, 2, stored=True) for kind in BASELINES]
    assert measure(small, *found, probes=True, stored=True).equals(first)
    assert all(measures_path(small, each.kind, 2).is_relative_to(each.kind.folder) for each in found)
    assert first[first.measure == "seconds"]["at"].str.contains("torch").all()


def test_the_intervals_leave_a_seed_of_every_kind_out(results):
    """The energy distance without seed 3 is that of the ensembles without their model 3; so is the gap closed."""
    part, keep = ("test", "forget"), np.arange(N) != 3
    views = {kind: VIEWS[kind].logits[part][keep] for kind in ("trained", "retrained", "gemu")}
    by_hand = {kind: energy_distances(views[kind], views["retrained"]).mean() for kind in ("trained", "gemu")}
    for kind, distance in by_hand.items():
        assert values(results, kind, "energy_without", *part)[3] == pytest.approx(distance)
    gap = values(results, "gemu", "energy_gap_without", *part)[3]
    assert gap == pytest.approx(1 - by_hand["gemu"] / by_hand["trained"])
    roots = values(results, "gefeu", "energy_root", *part)
    full = mean(results, "gefeu", "energy", *part) / mean(results, "trained", "energy", *part)
    assert roots == pytest.approx([1 - full**0.5])


def test_a_model_that_diverged_counts_as_having_done_nothing(task):
    """In place of its outputs stand those of the trained model on the forget set, and guesses elsewhere."""
    n, sizes = 3, {"test": len(task.data.test), "forget_train": int(task.forget["train"].sum()), "retain_train": 2_000}
    random = np.random.default_rng(0)
    trained, mine = (
        Logits(*(random.normal(size=(n, size, 10)).astype(np.float32) for size in sizes.values()), None) for _ in "ab"
    )
    mine.test[1, 5], mine.retain_train[1] = np.nan, np.inf
    assert mine.diverged.tolist() == [False, True, False]
    found, forget = in_place_of(mine, trained, task), task.forget["test"].numpy()
    assert np.array_equal(found.forget_train[1], trained.forget_train[1])
    assert np.array_equal(found.test[1, forget], trained.test[1, forget])
    guesses = np.concatenate([found.test[1, ~forget], found.retain_train[1]])
    assert np.abs(guesses).max() < 1e-5 and (np.bincount(guesses.argmax(1)) > 0.08 * len(guesses)).all()
    assert np.array_equal(found.test[[0, 2]], mine.test[[0, 2]]) and in_place_of(trained, trained, task) is trained
    view = View.of(parts_of(task, found), np.arange(5), mine.diverged)
    assert all(np.isfinite(each).all() for each in (*view.logits.values(), *view.losses.values(), view.attack))


CALIBRATED = {10: ["accuracy", "loss", "loss_attack", "energy", "joint", "kl", "tow", "average_gap"], 20: ["klom"]}
CALIBRATED[10] += ["activation_distance", "js", "u_lira", "excess", "beyond"]


def test_a_method_as_good_as_retraining_lies_in_the_null_as_often_as_it_says(monkeypatch):
    """Ensembles of ten small models of one distribution: one in twenty is outside (`make exhaustive`: 2,000 draws)."""
    outside = shares_outside(monkeypatch, ["accuracy", "energy", "kl", "tow", "u_lira"], 10, draws=40, seed=1)
    assert max(outside.values()) <= 0.15 and sum(outside.values()) > 0.05, outside


@pytest.mark.exhaustive
@pytest.mark.parametrize("n", CALIBRATED)
def test_one_in_twenty_equal_ensembles_is_outside_the_null(n, monkeypatch):
    outside = shares_outside(monkeypatch, CALIBRATED[n], n, draws=2_000, seed=0)
    assert all(0.04 <= share <= 0.06 for share in outside.values()), outside


def shares_outside(monkeypatch, measured: list[str], n: int, draws: int, seed: int) -> dict[str, float]:
    """Measure -> how often n models of the retrained models' own distribution are outside their null. The loss attack
    without its cross-validated regression, which takes a second for one draw."""
    monkeypatch.setattr(measures, "loss_attack", lambda member, other: (member[:, None] < other).mean())
    random, outside, part = np.random.default_rng(seed), dict.fromkeys(measured, 0), ("train", "forget")
    for _ in range(draws):
        views = {kind: a_few(random, n) for kind in ("retrained", "again", "gemu")}
        frames = [compare(TASK, kind, view, views["retrained"], measured) for kind, view in views.items()]
        found = pd.concat(frames, ignore_index=True)
        for name in measured:
            low, high = null_of(found, name, *part)
            outside[name] += not low <= mean(found, "gemu", name, *part) <= high
    assert all(MEASURES[name].compared for name in measured)
    return {name: times / draws for name, times in outside.items()}


def a_few(random, n: int) -> View:
    """n models on a few samples, which differ in how sure they are of each."""
    found = {}
    for (split, subset), size in (
        (("train", "forget"), 12),
        (("test", "held_out"), 12),
        (("train", "retain"), 6),
        (("test", "all"), 8),
    ):
        logits = random.normal(size=(n, size, 10)) + 2 * random.normal(size=(n, 1, 10))
        found[split, subset] = logits, np.arange(size) % 10
    return View.of(found, np.arange(3))
