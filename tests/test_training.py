import copy
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import ROOT, SHORT
from torch.nn.functional import cross_entropy

from helpers.cnn import CNN, new_model
from helpers.training import Recipe, predict, seeded, train
from helpers.unlearning import METHODS, Log
from helpers.unlearning.baselines import importance, wrong_labels
from helpers.unlearning.common import class_balanced, copy_of, fit, sample
from helpers.unlearning.generator import GemuSettings, Generator, generate, maximise_error


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_network_is_the_documented_one():
    model = new_model(3, 0)
    images = torch.randn(2, 3, 28, 28)
    shapes = {name: tuple(value.shape[1:]) for name, value in model.activations(images).items()}
    assert shapes == {"conv1": (32, 14, 14), "conv2": (64, 6, 6), "conv3": (128, 2, 2), "hidden": (128,)}
    logits = model(images)
    assert logits.shape == (2, 10) and not torch.allclose(logits.exp().sum(1), torch.ones(2))
    by_hand = images
    for conv in (model.conv1, model.conv2, model.conv3):  # ReLU first, as the paper's figure has it: the same numbers
        by_hand = torch.max_pool2d(torch.relu(conv(by_hand)), 2)
    by_hand = model.output(torch.relu(model.hidden(by_hand.flatten(1))))
    assert torch.allclose(logits, by_hand, atol=1e-6)


def test_one_rule_gives_each_set_its_passes():
    recipe = Recipe()
    assert (recipe.passes(60_000), recipe.passes(8_835)) == (2, 9)
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(recipe.peak_lr) and rates.index(max(rates)) in (19, 20)
    assert rates[-1] < 0.02 * recipe.peak_lr and rates[0] < 0.06 * recipe.peak_lr


def test_retrained_models_never_see_a_forget_sample(task):
    images, labels = task.retain_set("train")
    index = task.data.train.index[~task.forget["train"]]
    seen = []
    train(images[:3000], labels[:3000], SHORT, 0, on_step=lambda batch: seen.append(index[batch]))
    seen = set(torch.cat(seen).tolist())
    forget = set(task.data.train.index[task.forget["train"]].tolist())
    assert len(seen) > 2_500 and not seen & forget
    assert not set(index.tolist()) & forget and len(index) + len(forget) == 60_000


def test_same_seed_same_model_another_seed_another(task):
    part = task.data.train.images[:2000], task.data.train.labels[:2000]
    a, b, c = (train(*part, SHORT, seed) for seed in (3, 3, 4))
    assert same(a, b) and not same(a, c)


def test_training_learns_the_digits(task, trained_model):
    logits = predict(trained_model, task.data.test.images)
    assert logits.shape == (10_000, 10) and logits.dtype == torch.float32
    assert (logits.argmax(1) == task.data.test.labels).float().mean() > 0.95


@pytest.mark.parametrize("name", METHODS)
def test_a_routine_returns_a_new_model_and_is_a_function_of_its_seed(name, trained_model, small_data):
    before = copy.deepcopy(trained_model)
    method, log = METHODS[name], Log()
    a = method.run(trained_model, small_data, method.settings, 1, log)
    b = method.run(trained_model, small_data, method.settings, 1, Log())
    assert isinstance(a, CNN) and not a.training and same(a, b)
    assert same(trained_model, before) and not same(a, trained_model)
    assert log.samples > 0 and all(len(losses) for losses in log.curves.values())
    if name != "ssd":  # its selection does not depend on the order of the samples much
        assert not same(a, method.run(trained_model, small_data, method.settings, 2, Log()))


def test_gradient_ascent_ascends_and_forgets(trained_model, small_data):
    model = METHODS["ascent"].run(trained_model, small_data, METHODS["ascent"].settings, 0, Log())
    x, y = small_data.forget_images, small_data.forget_labels
    assert cross_entropy(predict(model, x), y) > cross_entropy(predict(trained_model, x), y) + 1


def test_gemu_is_zero_glance(trained_model, small_data):
    """With every forgotten picture replaced by NaN the result is the same, bit by bit."""
    blind = replace(small_data, forget_images=torch.full_like(small_data.forget_images, float("nan")))
    settings = METHODS["gemu"].settings
    a, b = (METHODS["gemu"].run(trained_model, data, settings, 0, Log()) for data in (small_data, blind))
    assert same(a, b)


def test_every_layer_of_the_generator_learns_and_each_call_is_fresh(trained_model, small_data):
    settings = GemuSettings(hidden_layers=3, width=64, generator_share=0.2)
    target = torch.eye(10)[7:8]
    random, log = seeded(0), Log()
    generator = maximise_error(trained_model, target, settings, small_data, random, log)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=seeded(0))))
        untrained = Generator(settings, 1)
    for old, new in zip(untrained.parameters(), generator.parameters(), strict=True):
        assert not torch.equal(old, new)
    first, targets = generate(generator, settings, target, 16, random)
    second, _ = generate(generator, settings, target, 16, random)
    assert first.shape == (16, 1, 28, 28) and not torch.allclose(first, second)
    assert torch.equal(targets, target.expand(16, 10))
    errors = torch.stack(log.curves["maximise error"])
    assert errors[-5:].mean() > errors[:5].mean() + 1  # the classifier is ever more wrong on the noise
    assert (predict(trained_model, first).argmax(1) != 7).all()


def test_gefeu_labels_noise_with_the_models_own_outputs(trained_model, small_data, monkeypatch):
    from helpers.unlearning import generator as module

    targets, drawn_from = [], []
    original, train_generator = module.draw, module.maximise_error

    def spy(*arguments):
        z, which = original(*arguments)
        drawn_from.append(which)
        return z, which

    def spy_on_targets(model, given, *arguments):
        targets.append(given)
        return train_generator(model, given, *arguments)

    monkeypatch.setattr(module, "draw", spy)
    monkeypatch.setattr(module, "maximise_error", spy_on_targets)
    METHODS["gefeu"].run(trained_model, small_data, METHODS["gefeu"].settings, 0, Log())
    own = predict(trained_model, small_data.forget_images).double().exp()
    own = (own / own.sum(1, keepdim=True)).float()
    drawn = targets[0][torch.cat(drawn_from)]
    nearest = torch.cdist(drawn, own, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert nearest.max() < 1e-4
    assert len(torch.unique(drawn.round(decimals=4), dim=0)) > 10


def test_repair_goes_on_with_the_optimizer_of_impair(trained_model, small_data, monkeypatch):
    from helpers.unlearning import generator as module

    calls = []
    original = module.fit

    def spy(*arguments, optimizer=None, **options):
        calls.append(optimizer)
        return original(*arguments, optimizer=optimizer, **options)

    monkeypatch.setattr(module, "fit", spy)
    METHODS["gemu"].run(trained_model, small_data, METHODS["gemu"].settings, 0, Log())
    assert calls[0] is None and isinstance(calls[1], torch.optim.Adam)


def test_class_balanced_is_balanced_and_without_repetition(task):
    labels = task.retain_set("train")[1]
    chosen = class_balanced(labels, 1_000, seeded(0))
    assert torch.bincount(labels[chosen]).tolist() == [100] * 10
    assert len(chosen.unique()) == 1_000
    assert len(sample(100, 100, seeded(0)).unique()) == 100


def test_wrong_labels_are_wrong_and_uniform():
    labels = wrong_labels(torch.full((9_000,), 7), seeded(0))
    counts = torch.bincount(labels, minlength=10)
    assert counts[7] == 0 and (counts[counts > 0] - 1_000).abs().max() < 150


def test_importance_is_the_mean_squared_batch_gradient(trained_model, small_data):
    x, y = small_data.forget_images[:96], small_data.forget_labels[:96]
    model = copy.deepcopy(trained_model).requires_grad_(True)
    found = importance(model, x, y, 32, Log())
    expected = 0
    for k in range(3):
        model.zero_grad()
        cross_entropy(model(x[32 * k : 32 * k + 32]), y[32 * k : 32 * k + 32]).backward()
        expected = expected + model.conv2.weight.grad**2 / 3
    assert torch.allclose(found[2], expected, rtol=1e-3, atol=1e-12)


def test_salun_moves_only_the_salient_half(trained_model, small_data):
    model = METHODS["salun"].run(trained_model, small_data, METHODS["salun"].settings, 0, Log())
    moved = sum(int((a != b).sum()) for a, b in zip(model.parameters(), trained_model.parameters(), strict=True))
    total = sum(p.numel() for p in model.parameters())
    assert 0.3 * total < moved <= 0.5 * total + 1


def test_the_readmes_method_works_as_written(trained_model, small_data):
    text = (ROOT / "README.md").read_text()
    code = text.split("## Add a method")[1].split("```python")[1].split("```")[0]
    names = {"dataclass": dataclass, "copy_of": copy_of, "sample": sample, "seeded": seeded, "fit": fit, "Log": Log}
    exec(code, names)
    model = names["my_method"](trained_model, small_data, names["MySettings"](), 0)
    assert isinstance(model, CNN) and not same(model, trained_model)
