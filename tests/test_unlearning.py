"""One suite of claims for every method that is registered."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import SETUP, same
from programs import run_python
from torch.nn.functional import cross_entropy

from helpers import device
from helpers.files import StudyError
from helpers.models.cnn import CNN
from helpers.models.training import RECIPE
from helpers.unlearning import DECLARED, METHODS, TITLES, UnlearningData, unlearn, unlearned
from helpers.unlearning import method as common
from helpers.unlearning.method import IMAGES, LABELS, NOTHING, Log


def run(name, model, data, seed=1, **changes):
    """A method with its defaults, some of them changed: the new model and its log."""
    log, method = Log(), METHODS[name]
    return method.run(model, data, replace(method.settings, **changes), seed, log), log


def in_full_precision(monkeypatch):
    """On processors with bfloat16 too: what a test computes by hand has it."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda device: False)


@pytest.fixture(scope="module", params=("crossbar", "class 7", "random 20 %"))
def data(request, small_data, whole_class, random_fifth):
    """The forget set of a request and some thousand retained samples."""
    return {"crossbar": small_data, "class 7": whole_class, "random 20 %": random_fifth}[request.param]


@pytest.fixture(scope="module", params=METHODS)
def done(request, trained_model, data):
    """name, the model before (a copy), the model that a first run gave, its log."""
    before = copy.deepcopy(trained_model)
    model, log = run(request.param, trained_model, data)
    return request.param, before, model, log


def test_it_leaves_the_given_model_alone_and_returns_another_in_evaluation_mode(done, trained_model):
    _, before, model, _ = done
    assert same(trained_model, before) and not trained_model.training
    assert isinstance(model, CNN) and model is not trained_model and not model.training
    assert not same(model, trained_model)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_same_seed_same_model_another_seed_another(done, trained_model, data):
    name, _, model, _ = done
    assert same(model, run(name, trained_model, data)[0])
    if name == "ssd":  # with its default few weights are dampened here, and those to zero
        model = run(name, trained_model, data, alpha=2.0)[0]
        assert not same(model, run(name, trained_model, data, seed=2, alpha=2.0)[0])
    else:
        assert not same(model, run(name, trained_model, data, seed=2)[0])


def test_it_reads_only_what_it_declares(done, trained_model, data):
    """With pictures of NaN and labels of -1 in place of the rest the result is the same, bit by bit; one that declares
    to read the pictures does read them."""
    name, _, model, _ = done
    reads = METHODS[name].reads
    assert reads in (IMAGES, LABELS, NOTHING)
    if reads == IMAGES:
        blind = run(name, trained_model, data.for_reader(LABELS))[0]
        assert not same(model, blind)
        return
    blind = data.for_reader(reads)
    assert torch.isnan(blind.forget_images).all() and (reads == LABELS or (blind.forget_labels == -1).all())
    assert same(model, run(name, trained_model, blind)[0])


def test_what_it_may_not_read_is_kept_from_it(done, trained_model, data, monkeypatch):
    """On the path that notebooks use."""
    name, given = done[0], []
    monkeypatch.setitem(METHODS, name, replace(METHODS[name], run=lambda model, data, *_: given.append(data) or model))
    unlearn(name, trained_model, data, METHODS[name].settings, 0)
    assert torch.isnan(given[0].forget_images).all() == (METHODS[name].reads != IMAGES)
    assert (given[0].forget_labels == -1).all() == (METHODS[name].reads == NOTHING)


def test_its_log_counts_every_step(done):
    _, _, _, log = done
    assert log.samples > 0 and log.curves and all(len(losses) for losses in log.curves.values())
    assert all(torch.isfinite(torch.stack(losses)).all() for losses in log.curves.values())


def test_it_keeps_to_its_budget_and_repairs_with_at_least_half_of_what_is_left(done, data):
    """Whatever it reads of D_f is part of the budget; Simple Gradient Ascent, one epoch over D_f, has none."""
    name, _, _, log = done
    settings, repaired = METHODS[name].settings, log.curves.get("repair")
    if name == "ascent":
        assert log.samples == len(data.forget_labels)
        return
    assert log.samples <= data.samples(settings.budget) + 1e-6  # thirds are added up
    if repaired:
        each = settings.batch_size * (1 + settings.candidates / 3 * (settings.candidates > 1))
        assert len(repaired) >= 0.35 * data.samples(settings.budget) // each


def test_a_hundredth_is_enough_to_finish_within(done, trained_model, data):
    """A budget below every floor: one batch of the recipe."""
    name = done[0]
    if "budget" in vars(METHODS[name].settings):
        model, log = run(name, trained_model, data, budget=0.01)
        assert log.samples <= data.samples(0.01) + 1e-6 and data.samples(0.01) == 256
        assert all(torch.isfinite(weight).all() for weight in model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_its_log_counts_what_went_through_the_classifier(name, trained_model, small_data, monkeypatch):
    """Forward and backward as one, forward alone as a third."""
    seen, features = [], CNN.features

    def counted(model, images):
        seen.append(len(images) if torch.is_grad_enabled() else len(images) / 3)
        return features(model, images)

    monkeypatch.setattr(CNN, "features", counted)
    _, log = run(name, trained_model, small_data)
    assert log.samples == pytest.approx(sum(seen))


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if "candidates" in each.searched])
def test_repair_takes_the_hardest_of_the_candidates_within_the_budget(name, trained_model, data, monkeypatch):
    seen, hardest = [], common.hardest
    in_full_precision(monkeypatch)

    def watched(model, images, targets, at, n):
        taken = hardest(model, images, targets, at, n)
        with torch.no_grad():
            losses = cross_entropy(model(images[at]), targets[at], reduction="none")
        chosen = torch.isin(at, taken)
        seen.append((len(at), n, float(losses[chosen].min() - losses[~chosen].max()) if n < len(at) else 0.0))
        return taken

    monkeypatch.setattr(common, "hardest", watched)
    _, log = run(name, trained_model, data, candidates=4, batch_size=16)
    budget = data.samples(METHODS[name].settings.budget)
    assert 0.95 * budget < log.samples <= budget + 1e-6 and len(log.curves["repair"]) == len(seen)
    first = sum(looked == n for looked, n, _ in seen)  # which trained on all samples
    assert sum(n for _, n, _ in seen[:first]) == pytest.approx(
        0.1 * sum(n + (at > n) * at / 3 for at, n, _ in seen), abs=2
    )
    assert {(looked, n) for looked, n, _ in seen[first:-1]} == {(64, 16)} and seen[-1][0] == 4 * seen[-1][1]
    assert min(apart for _, _, apart in seen) >= 0


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if "weight_decay" in each.searched])
def test_weight_decay_shrinks_weights(name, trained_model, small_data):
    models = [run(name, trained_model, small_data, weight_decay=decay)[0] for decay in (0.0, 9.0)]
    norms = [sum(float(weight.detach().square().sum()) for weight in model.parameters()) for model in models]
    assert norms[1] < 0.99 * norms[0]


def test_a_method_gets_the_seed_on_the_path_that_notebooks_use(trained_model, small_data):
    settings = METHODS["finetune"].settings
    models = [unlearn("finetune", trained_model, small_data, settings, seed)[0] for seed in (1, 2)]
    assert same(models[0], run("finetune", trained_model, small_data, seed=1)[0]) and not same(*models)


def test_methods_get_every_retained_sample_and_no_forgotten_one(task):
    data, part, forget = UnlearningData.of(task, RECIPE, torch.device("cpu")), task.data.train, task.forget["train"]
    assert torch.equal(data.retain_images, part.images[~forget]) and torch.equal(
        data.forget_images, part.images[forget]
    )
    assert torch.equal(data.retain_labels, part.labels[~forget]) and torch.equal(
        data.forget_labels, part.labels[forget]
    )


def test_it_declares_what_others_must_know(done):
    name = done[0]
    method = METHODS[name]
    assert method.name == name and method.title == TITLES[name] and "arXiv:" in method.source
    for field, about in method.searched.items():
        value = getattr(method.settings, field)
        assert about["meaning"] and type(value) is about["type"]
        assert value in about["choices"] if about["choices"] else about["low"] <= value <= about["high"]
    for settings in method.tried:
        method.check(replace(method.settings, **settings))
        for field, value in settings.items():
            about = method.searched[field]
            assert value in about["choices"] if about["choices"] else about["low"] <= value <= about["high"]
    with pytest.raises(StudyError, match=method.title.replace("+", r"\+")):
        method.check(replace(method.settings, **{next(iter(vars(method.settings))): "many"}))


def test_searches_reach_no_decay_and_small_rates():
    """Where a paper has no weight decay the default is 0 as well."""
    decaying = {"gemu", "gefeu", "freeze", "euk", "reset", "new", "msg", "ct", "scrub"}
    for name, method in METHODS.items():
        fields = method.searched
        for field, about in fields.items():
            if field == "weight_decay":
                assert about["low"] == 0 and not about["log"]
            elif field == "lr" or field.endswith("_lr"):
                assert about["low"] <= 0.005 and about["log"]
        decay = getattr(DECLARED[name].settings, "weight_decay", 0)
        assert (decay > 0) == (name in decaying) and (not decay or "weight_decay" in fields), name


START = (
    SETUP
    + """
import torch
from helpers.models.training import RECIPE
from helpers.unlearning import METHODS, UnlearningData, unlearn
trained = baseline("trained", task, 2, stored=False)
data = UnlearningData.of(task, RECIPE, torch.device("cpu"))
torch.set_num_threads(1)
for name, method in METHODS.items():
    made = unlearned(name, task, 2, stored=False)
    for i, model in enumerate(made.models):
        by_hand = [unlearn(name, start, data, method.settings, i)[0] for start in trained.models]
        equal = [all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters())) for other in by_hand]
        print(name, i, i if name == "new" and all(equal) else equal.index(True) if sum(equal) == 1 else equal)
"""
)


def test_model_i_starts_from_trained_model_i(workshop):
    """For every method, on the path that notebooks use; a new model is the same wherever it starts."""
    done = run_python(workshop, START)
    assert done.returncode == 0, done.stderr[-1000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[::2]] == list(METHODS) and all(row[1] == row[2] for row in rows), [
        row for row in rows if row[1] != row[2]
    ]


def test_an_unknown_method_is_refused(task):
    with pytest.raises(StudyError, match="There is no method 'gemo': choose one of gemu, gefeu"):
        unlearned("gemo", task, 2, stored=True)
