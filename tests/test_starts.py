"""What defines the methods that change a model and then train it on D_r: which weights they change, how, and what
trains."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import OTHER_REQUESTS, same
from test_unlearning import in_full_precision, run
from torch.nn.functional import cross_entropy

from helpers import unlearning
from helpers.models.cnn import LAYERS, new_model
from helpers.models.training import RECIPE, predict, seeded
from helpers.unlearning import FEW, FRONTIER, METHODS, UnlearningData, ct, distortion, finetune, msg, negation, unlearn
from helpers.unlearning.method import rate, sample


@pytest.fixture(params=["crossbar", *(pytest.param(name, marks=pytest.mark.thorough) for name in OTHER_REQUESTS)])
def small_data(request, small_data):
    """The forget set of each of three requests, with some thousand retained samples."""
    return request.getfixturevalue(OTHER_REQUESTS[request.param]) if request.param in OTHER_REQUESTS else small_data


def layers_that_differ(a, b):
    return [name for name in LAYERS if not same(getattr(a, name), getattr(b, name))]


@pytest.fixture
def unrepaired(monkeypatch):
    """Methods as they are before D_r repairs: repair gives back the model as it is, and notes what it was given."""
    given = {}

    def none(model, data, settings, samples, random, log, **options):
        given.update(samples=samples, moving=[n for n in LAYERS if getattr(model, n).weight.requires_grad])
        log.step("repair", torch.zeros(()), samples)
        return model.eval()

    for module in (ct, distortion, finetune, msg, negation):
        monkeypatch.setattr(module, "repair", none)
    return given


@pytest.mark.parametrize("k", [1, 3])
def test_reset_draws_the_last_layers_anew_and_trains_all(trained_model, small_data, unrepaired, k):
    model, _ = run("reset", trained_model, small_data, layers=k)
    assert layers_that_differ(model, trained_model) == list(LAYERS[-k:]) and unrepaired["moving"] == list(LAYERS)
    other, _ = run("reset", trained_model, small_data, layers=k, seed=2)
    assert layers_that_differ(model, other) == list(LAYERS[-k:])


@pytest.mark.parametrize("k", [1, 3])
def test_eu_k_trains_the_last_layers_alone_from_new_weights(trained_model, small_data, k):
    """The lower layers stay bit by bit; of the upper ones of the given model nothing is left."""
    model, log = run("euk", trained_model, small_data, layers=k, candidates=1)
    assert layers_that_differ(model, trained_model) == list(LAYERS[-k:]) and log.samples == small_data.samples(0.1)
    given = copy.deepcopy(trained_model)
    for name in LAYERS[-k:]:
        getattr(given, name).weight.data += 1
    assert same(model, run("euk", given, small_data, layers=k, candidates=1)[0])
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.8


@pytest.mark.parametrize("k", [1, 3])
def test_freeze_moves_the_last_layers_alone(trained_model, small_data, k):
    model, _ = run("freeze", trained_model, small_data, layers=k)
    assert layers_that_differ(model, trained_model) == list(LAYERS[-k:])


def test_a_new_model_owes_nothing_to_the_given_one(trained_model, small_data):
    assert same(run("new", trained_model, small_data)[0], run("new", new_model(1, 99), small_data)[0])


def test_a_new_model_is_what_training_on_retained_samples_gives(trained_model, small_data):
    """With a whole budget it reads the retained digits."""
    model, log = run("new", trained_model, small_data, budget=1.0, lr=0.3, candidates=1)
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9 and log.samples == small_data.samples(1.0)


def steps_by_hand(model, samples, lrs, change, **options):
    """Adam on the samples, a batch of 256 for each learning rate; change(weight, old weight, name, step) follows."""
    model, (images, labels) = copy.deepcopy(model).requires_grad_(True), samples
    optimizer = torch.optim.Adam(model.parameters(), **options)
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        at = slice(256 * step, 256 * step + 256)
        optimizer.zero_grad()
        cross_entropy(model(images[at]), labels[at]).backward()
        optimizer.step()
        for name, weight in model.named_parameters():
            weight.data = change(weight.data, before[name], name, step)
    return model


def close(a, b):
    return all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_l1_sparse_shrinks_every_weight_after_each_step_of_adam(trained_model, small_data, monkeypatch):
    """Two steps by hand: the second has half the rate and half the gamma, so a quarter of the threshold."""
    in_full_precision(monkeypatch)
    n = 3 * len(small_data.retain_labels)  # samples that retraining sees
    changes = {"lr": 1.0, "gamma": 0.5, "warm_up": 0.0, "batch_size": 256, "candidates": 1, "budget": 512 / n}
    model, _ = run("l1sparse", trained_model, small_data, **changes)
    drawn = sample(len(small_data.retain_labels), 512, seeded(1))

    def shrink(weight, old, name, step):
        by = (0.01 * 0.5, 0.005 * 0.25)[step]
        return torch.where(weight > by, weight - by, torch.where(weight < -by, weight + by, torch.zeros(())))

    data = small_data.retain_images[drawn], small_data.retain_labels[drawn]
    by_hand = steps_by_hand(trained_model, data, (0.01, 0.005), shrink)
    assert close(model, by_hand)
    assert sum(int((weight == 0).sum()) for weight in model.parameters()) > 1_000


def test_l1_sparse_leaves_exact_zeros_and_a_smaller_norm(trained_model, small_data):
    weak, strong = (run("l1sparse", trained_model, small_data, gamma=g, budget=0.3, lr=0.2)[0] for g in (1e-3, 0.5))
    sums = [sum(float(weight.detach().abs().sum()) for weight in model.parameters()) for model in (weak, strong)]
    zeros = [sum(int((weight == 0).sum()) for weight in model.parameters()) for model in (weak, strong)]
    assert sums[1] < 0.8 * sums[0] and zeros[1] > 5_000 > 10 * zeros[0]


def test_msg_draws_anew_where_the_gradients_of_both_sets_agree(trained_model, small_data, unrepaired):
    """By hand, on the retained samples that the seed draws."""
    model, _ = run("msg", trained_model, small_data, redrawn_share=0.3, gradient_part=1.0, budget=0.3)  # for all of D_f
    start = copy.deepcopy(trained_model).requires_grad_(True)
    drawn = sample(len(small_data.retain_labels), len(small_data.forget_labels), seeded(1))
    gradients = []
    for x, y in (
        (small_data.retain_images[drawn], small_data.retain_labels[drawn]),
        (small_data.forget_images, small_data.forget_labels),
    ):
        start.zero_grad()
        cross_entropy(start(x), y).backward()
        gradients.append({name: getattr(start, name).weight.grad.clone() for name in LAYERS})
    for name in ("conv1", "conv2", "conv3"):
        moved = getattr(model, name).weight != getattr(trained_model, name).weight
        assert moved.float().mean() == pytest.approx(0.3, abs=0.01)
        distance = (gradients[0][name] - gradients[1][name]).abs()
        assert distance[moved].max() <= distance[~moved].min() * 1.01
        drawn_anew = getattr(model, name).weight[moved].detach()  # as the authors draw: Kaiming normal, fan out
        wanted = torch.empty_like(getattr(model, name).weight)
        torch.nn.init.kaiming_normal_(wanted, mode="fan_out", nonlinearity="relu", generator=seeded(5))
        assert float(drawn_anew.std() / wanted.std()) == pytest.approx(1, abs=0.15) and drawn_anew.mean().abs() < 0.02
        assert drawn_anew.abs().max() > 2 * drawn_anew.std()  # a uniform distribution ends at 1.7
    assert layers_that_differ(model, trained_model) == ["conv1", "conv2", "conv3"]


def test_msg_makes_a_tenth_of_the_step_where_weights_are_not_redrawn(trained_model, small_data, monkeypatch):
    """Two steps by hand from where it begins to train, weight decay whole; the factor on the gradient would be lost in
    Adam."""
    in_full_precision(monkeypatch)
    given, original = {}, msg.repair

    def spy(model, data, settings, samples, random, log, **options):
        given.update(start=copy.deepcopy(model), random=copy.deepcopy(random.get_state()), samples=samples)
        return original(model, data, settings, samples, random, log, **options)

    monkeypatch.setattr(msg, "repair", spy)
    changes = {
        "lr": 1.0,
        "weight_decay": 0.5,
        "warm_up": 0.0,
        "batch_size": 256,
        "candidates": 1,
        "budget": 600 / 18_000,
    }
    model, _ = run("msg", trained_model, small_data, damping=0.1, redrawn_share=0.3, **changes)
    random = torch.Generator()
    random.set_state(given["random"])
    drawn = sample(len(small_data.retain_labels), given["samples"], random)
    assert 256 < len(drawn) <= 512
    redrawn = {f"conv{k}.weight": getattr(given["start"], f"conv{k}").weight for k in (1, 2, 3)}
    redrawn = {name: weight != dict(trained_model.named_parameters())[name] for name, weight in redrawn.items()}

    def damp(weight, old, name, step):
        moved, decay = weight - old, (0.01, 0.005)[step] * 0.5 * old
        part = torch.where(redrawn[name], 1.0, 0.1) if name in redrawn else 1.0
        return old - decay + part * moved

    data = small_data.retain_images[drawn], small_data.retain_labels[drawn]
    by_hand = steps_by_hand(given["start"], data, (0.01, 0.005), damp)
    assert close(model, by_hand)
    steps = (model.conv2.weight - given["start"].conv2.weight).abs()
    part = redrawn["conv2.weight"]
    assert steps[~part].median() < 0.25 * steps[part].median()


def test_ct_transposes_every_kernel_and_trains_all_layers(trained_model, small_data, unrepaired):
    model, log = run("ct", trained_model, small_data)
    for name in ("conv1", "conv2", "conv3"):
        new, old = (getattr(each, name).weight.detach() for each in (model, trained_model))
        for row in range(old.shape[2]):
            assert torch.equal(new[:, :, row, :], old[:, :, :, row])
        assert not torch.equal(new, old) and torch.equal(getattr(model, name).bias, getattr(trained_model, name).bias)
    assert layers_that_differ(model, trained_model) == ["conv1", "conv2", "conv3"]
    assert unrepaired["moving"] == list(LAYERS) and log.samples == small_data.samples(0.1)


@pytest.mark.parametrize("layer", range(1, 6))
def test_not_negates_just_one_layer_and_trains_all(trained_model, small_data, unrepaired, layer):
    model, log = run("not", trained_model, small_data, layer=layer)
    name = LAYERS[layer - 1]
    assert layers_that_differ(model, trained_model) == [name]
    for new, old in zip(getattr(model, name).parameters(), getattr(trained_model, name).parameters(), strict=True):
        assert torch.equal(new + old, torch.zeros_like(old)) and old.abs().max() > 0
    assert unrepaired["moving"] == list(LAYERS) and log.samples == small_data.samples(0.1)


@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_weight_distortion_adds_the_same_noise_to_all_weights(trained_model, small_data, unrepaired, sigma):
    model, _ = run("distortion", trained_model, small_data, sigma=sigma)
    noise = [(a - b).detach().flatten() for a, b in zip(model.parameters(), trained_model.parameters(), strict=True)]
    for part in noise:
        error = 4 * sigma / len(part) ** 0.5  # four standard errors of a mean
        assert part.mean().abs() < error and abs(part.std() - sigma) < error
    every = torch.cat(noise) / sigma
    assert every.pow(4).mean() == pytest.approx(3, rel=0.05)  # normal: a uniform distribution has 1.8
    assert (every[:-1] * every[1:]).mean().abs() < 0.02 and unrepaired["moving"] == list(LAYERS)


def test_the_frontier_is_the_same_method_at_other_budgets(task, trained_model):
    data = UnlearningData.of(task, RECIPE, torch.device("cpu"))
    shares = {"new": ("02", "05", "10", "20", "30", "50", "100"), "reset": ("02", "05", "10", "20", "30", "50")}
    shares |= {"gemu": ("20",), "gefeu": ("20",)}
    assert list(FRONTIER) == [f"{name}_{share}" for name, of_it in shares.items() for share in of_it]
    for name in ("new_02", "reset_02"):
        _, record = unlearn(name, trained_model, data, FRONTIER[name].settings, 0)
        assert 0.98 * data.samples(0.02) < record["samples"] <= data.samples(0.02) + 1e-6
        few = dict.fromkeys(FEW, 0.5)  # which alone may be tuned there
        assert replace(FRONTIER[name].settings, budget=0.1, **few) == replace(METHODS[name[:-3]].settings, **few)


def test_a_new_model_with_the_whole_budget_is_trained_as_a_retrained_one(small_data):
    """Steps, learning rates and batches are the recipe's."""
    settings, n = FRONTIER["new_100"].settings, len(small_data.retain_labels)
    assert (settings.budget, settings.batch_size, settings.candidates, settings.weight_decay) == (1.0, 256, 1, 0.0)
    recipe, steps = RECIPE, RECIPE.steps(n)
    usual = [recipe.lr_at(step, steps) for step in range(steps)]
    mine = [settings.lr * recipe.peak_lr * rate(step, steps, settings.warm_up) for step in range(steps)]
    assert mine == pytest.approx(usual, abs=0.02 * recipe.peak_lr)


def test_at_another_budget_stand_the_settings_of_the_nearest_one_at_which_it_was_tuned(monkeypatch):
    monkeypatch.setattr(unlearning, "tuned", lambda: {"reset_02": {"lr": 0.7}, "reset_50": {"lr": 0.2}})
    usual = METHODS["reset"].settings.lr
    found = {share: unlearning._at("reset", share) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9)}
    assert [at.settings.lr for at in found.values()] == [0.7, 0.7, usual, usual, usual, 0.2, 0.2, 0.2]
    assert [at.settings.budget for at in found.values()] == list(found)
    assert set(found[0.2].searched) == set(METHODS["reset"].searched) and set(found[0.02].searched) == set(FEW)
