"""The network, its training, and the path on which notebooks get their baselines."""

from dataclasses import replace

import pytest
import torch
from conftest import SHORT, same
from torch.nn.functional import conv2d

from helpers import parallel
from helpers.models import ensembles
from helpers.models.cnn import LAYERS, new_model
from helpers.models.ensembles import baseline
from helpers.models.training import Recipe, predict, train


def test_the_network_is_the_documented_one():
    model = new_model(3, 0)
    images = torch.randn(2, 3, 28, 28)
    shapes = {name: tuple(value.shape[1:]) for name, value in model.activations(images).items()}
    assert shapes == {"conv1": (16, 12, 12), "conv2": (32, 5, 5), "conv3": (64, 3, 3), "hidden": (128,)}
    assert sum(weight.numel() for weight in new_model(1, 0).parameters()) == 98_874  # as its docstring says
    assert tuple(name for name, _ in model.named_children()) == LAYERS
    logits = model(images)
    assert logits.shape == (2, 10) and not torch.allclose(logits.exp().sum(1), torch.ones(2))
    by_hand = torch.relu(conv2d(images, model.conv1.weight, model.conv1.bias, stride=2))
    by_hand = torch.max_pool2d(torch.relu(conv2d(by_hand, model.conv2.weight, model.conv2.bias)), 2)
    by_hand = torch.relu(conv2d(by_hand, model.conv3.weight, model.conv3.bias)).flatten(1)
    by_hand = (
        torch.relu(by_hand @ model.hidden.weight.T + model.hidden.bias) @ model.output.weight.T + model.output.bias
    )
    assert torch.allclose(logits, by_hand, atol=1e-6)


def test_one_rule_gives_each_set_its_passes():
    recipe = Recipe(min_passes=2, min_steps=300)
    assert (recipe.passes(60_000), recipe.passes(8_835)) == (2, 9)
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(recipe.peak_lr) and rates.index(max(rates)) in (19, 20)
    assert rates[-1] < 0.02 * recipe.peak_lr and rates[0] < 0.06 * recipe.peak_lr


def test_same_seed_same_model_another_seed_another(task):
    part = task.data.train.images[:2000], task.data.train.labels[:2000]
    a, b, c = (train(*part, SHORT, seed) for seed in (3, 3, 4))
    assert same(a, b) and not same(a, c)


def test_the_seed_makes_initial_weights_and_order(task):
    """At a rate of 0 the initial weights stay."""
    part, orders = (task.data.train.images[:2000], task.data.train.labels[:2000]), []
    for seed in (3, 4):
        seen = []
        assert same(train(*part, replace(SHORT, peak_lr=0.0), seed, seen.append), new_model(1, seed))
        orders.append(torch.cat(seen))
    assert not torch.equal(*orders)


def test_training_learns_the_digits(task, trained_model):
    logits = predict(trained_model, task.data.test.images)
    assert logits.shape == (10_000, 10) and logits.dtype == torch.float32
    assert (logits.argmax(1) == task.data.test.labels).float().mean() > 0.95


@pytest.fixture
def poisoned(task, tmp_path, monkeypatch):
    """A small part of the task in which every forget picture of the training split is not a number: whatever is trained
    on one has such weights. Models lie in a folder of this test's own."""
    monkeypatch.setattr(ensembles, "MODELS", tmp_path)
    monkeypatch.setattr(ensembles, "RECIPE", SHORT)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    part = task.data.train.pick(slice(0, 6_000))
    forget = task.forget["train"][:6_000]
    images = part.images.clone()
    images[forget] = torch.nan
    data = replace(task.data, train=replace(part, images=images))
    return replace(task, data=data, forget=task.forget | {"train": forget})


def test_retrained_models_never_see_a_forget_sample_and_trained_ones_do(poisoned):
    """On the path that notebooks use."""
    retrained, again, trained = (
        baseline(kind, poisoned, 2, stored=False) for kind in ("retrained", "again", "trained")
    )
    for model in (*retrained.models, *again.models):
        assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert not any(torch.isfinite(weight).all() for model in trained.models for weight in model.parameters())
    images, labels = poisoned.retain_set("train")
    by_hand = train(images, labels, SHORT, 1)
    assert same(retrained.models[1], by_hand) and not same(retrained.models[0], by_hand)  # model i has seed i
