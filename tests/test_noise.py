"""What defines UNSIR, GEMU and GeFeU: the noise, its labels, impair and repair."""

import copy
from dataclasses import replace

import pytest
import torch
from test_starts import layers_that_differ
from test_unlearning import in_full_precision, run
from torch.nn.functional import cross_entropy, one_hot

from helpers.models.cnn import LAYERS
from helpers.models.training import predict, seeded
from helpers.unlearning import DECLARED, METHODS, gefeu, gemu, generator, impair, unsir
from helpers.unlearning.generator import Generator, GeneratorSettings, generate, maximise_error
from helpers.unlearning.method import Log


def test_lambda_is_on_the_sum_of_the_squares_of_a_picture():
    noise = torch.zeros(2, 3, 28, 28)
    noise[0, :, 3, 4], noise[1, 2] = 2.0, 1.0
    assert impair.sum_of_squares(noise) == (3 * 2**2 + 28 * 28) / 2
    for name in ("gemu", "gefeu", "unsir"):
        about = METHODS[name].searched["noise_weight"]
        assert about["low"] < 0.1 <= about["high"] and about["log"]  # the paper's, .1
    assert [DECLARED[name].settings.noise_weight * 784 for name in ("gemu", "unsir")] == pytest.approx([0.03, 1.0])


@pytest.mark.parametrize("name", ["gemu", "unsir"])
def test_noise_descends_on_minus_ce_plus_lambda_times_the_sum(trained_model, small_data, monkeypatch, name):
    """The gradient at every pixel of a batch in its first step, by hand."""
    in_full_precision(monkeypatch)
    module, found = {"gemu": generator, "unsir": unsir}[name], []
    original = module.sum_of_squares

    def spy(noise):
        noise.register_hook(lambda gradient: found.append((noise.detach().clone(), gradient.clone())))
        return original(noise)

    monkeypatch.setattr(module, "sum_of_squares", spy)
    run(name, trained_model, small_data, noise_weight=0.1)
    noise, gradient = found[0]
    by_hand = noise.clone().requires_grad_(True)
    (-cross_entropy(copy.deepcopy(trained_model)(by_hand), torch.full((len(noise),), 7))).backward()
    assert torch.allclose(gradient, by_hand.grad + 0.1 * 2 * noise / len(noise), atol=1e-6)
    assert by_hand.grad.abs().max() > 1e-4 and noise.abs().max() > 0.1


@pytest.fixture
def steps_of_impair(monkeypatch):
    """Pictures and targets of every step of impair."""
    found, original = [], impair.classification_step

    def spy(model, optimizer, images, targets, *rest):
        found.append((images.clone(), targets.clone()))
        return original(model, optimizer, images, targets, *rest)

    monkeypatch.setattr(impair, "classification_step", spy)
    return found


@pytest.mark.parametrize("name", ["gemu", "unsir"])
def test_impair_trains_on_noise_of_the_forgotten_label_and_on_retained_samples(
    trained_model, small_data, steps_of_impair, monkeypatch, name
):
    given = {}

    def repair(model, data, settings, samples, *rest):
        given.update(samples=samples, moving=[n for n in LAYERS if getattr(model, n).weight.requires_grad])
        return model.eval()

    monkeypatch.setattr(impair, "repair", repair)
    settings = {"budget": 1.0, "impair_share": 0.1, "impair_noise": 0.4, "impair_layers": 2}
    model, log = run(name, trained_model, small_data, **settings)
    images, targets = (torch.cat(part) for part in zip(*steps_of_impair, strict=True))
    total = small_data.samples(0.1)
    assert abs(len(images) - total) <= 10  # as many of each class
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    known = small_data.retain_images.flatten(1)
    nearest = torch.cat([torch.cdist(part, known, **exact).min(1).values for part in images.flatten(1).split(64)])
    noise = nearest > 0
    assert int(noise.sum()) == round(0.4 * total) and nearest[noise].min() > 1
    assert (targets[noise].argmax(1) == 7).all() and torch.bincount(targets[~noise].argmax(1)).float().std() < 1
    different = len(torch.unique(images[noise].flatten(1), dim=0))
    assert different == (int(noise.sum()) if name == "gemu" else METHODS["unsir"].settings.noise_batch)
    assert layers_that_differ(model, trained_model) == ["hidden", "output"]  # impair moves the last two
    assert given["moving"] == list(LAYERS)  # repair all
    assert given["samples"] == small_data.samples(1.0) - log.samples


@pytest.mark.parametrize("name", ["gemu", "gefeu"])
def test_impair_shows_what_the_trained_generator_makes(trained_model, small_data, steps_of_impair, monkeypatch, name):
    """The pictures from the z that were drawn last, GeFeU's added to forgotten pictures, with the targets that were
    drawn with them: the forgotten label, or what the model reads in the picture apart from its label."""
    made, drawn, module = [], [], {"gemu": gemu, "gefeu": gefeu}[name]
    train, draw = generator.maximise_error, generator.draw
    monkeypatch.setattr(module, "maximise_error", lambda *a, **b: made.append(train(*a, **b)) or made[-1])
    monkeypatch.setattr(generator, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    run(name, trained_model, small_data, **({"read_part": 1.0} if name == "gefeu" else {}))
    z, which = drawn[-1]
    images, labels = (torch.cat(part) for part in zip(*steps_of_impair, strict=True))
    by_hand, wanted = made[0](z).detach(), one_hot(small_data.forget_labels, 10).float()
    if name == "gefeu":
        by_hand += small_data.forget_images[which]
        wanted = predict(trained_model, small_data.forget_images).softmax(1) * (1 - wanted)
        wanted /= wanted.sum(1, keepdim=True)
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    distance, at = torch.cdist(by_hand.flatten(1), images.flatten(1), **exact).min(1)
    assert (
        len(z) > (100 if name == "gemu" else 70)
        and distance.max() < 1e-3
        and torch.allclose(labels[at], wanted[which], atol=1e-4)
    )
    assert len(torch.unique(which)) > 10


def test_gemu_labels_noise_with_each_forgotten_class_as_often_as_it_is_forgotten(
    trained_model, small_data, monkeypatch
):
    found, three_of_four = [], torch.where(torch.arange(len(small_data.forget_labels)) % 4 > 0, 5, 3)
    monkeypatch.setattr(gemu, "impair_and_repair", lambda model, data, noise, *_: found.append(noise(4_000)[1]))
    run("gemu", trained_model, replace(small_data, forget_labels=three_of_four))
    shares = found[0].mean(0)
    assert shares[5] == pytest.approx(0.75, abs=0.04) and shares[3] + shares[5] == 1


def test_weights_decay_while_impair_trains(trained_model, small_data, monkeypatch):
    monkeypatch.setattr(impair, "repair", lambda model, *_: model.eval())
    models = [run("gemu", trained_model, small_data, weight_decay=decay)[0] for decay in (0.0, 9.0)]
    norms = [float(model.hidden.weight.detach().norm()) for model in models]
    assert norms[1] < 0.95 * norms[0]


@pytest.mark.parametrize("name", ["gemu", "gefeu", "unsir"])
def test_the_noise_gets_ever_more_wrong(trained_model, small_data, name):
    changes = {"budget": 1.0, "generator_share": 0.2, "noise_weight": 1e-4} if name != "unsir" else {}
    _, log = run(name, trained_model, small_data, **changes)
    errors = torch.stack(log.curves["maximise error"])
    assert errors[-5:].mean() > errors[:3].mean() + 1


def test_every_layer_of_the_generator_learns_and_each_call_is_fresh(trained_model, small_data):
    settings = GeneratorSettings(budget=1.0, hidden_layers=3, width=64, generator_share=0.2)
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


def test_the_generator_of_gefeu_learns_what_moves_a_picture_away_from_what_the_model_reads(trained_model, small_data):
    """The error of its first step, by hand, from the noise of a generator as it was drawn."""
    _, log = run("gefeu", trained_model, small_data, read_part=1.0)
    settings, random = METHODS["gefeu"].settings, seeded(1)
    made = generator.new_generator(settings, small_data, random)
    z, which = generator.draw(settings, len(small_data.forget_labels), settings.generator_batch, random)
    seen = trained_model(small_data.forget_images[which] + made(z)).detach()
    own = predict(trained_model, small_data.forget_images).softmax(1)[which]
    by_hand = float(cross_entropy(seen, own))
    assert log.curves["maximise error"][0] == pytest.approx(by_hand, rel=0.02) and by_hand < 2


def test_gefeu_draws_the_last_layers_anew_before_impair(trained_model, small_data, monkeypatch):
    found = []
    monkeypatch.setattr(gefeu, "impair_and_repair", lambda model, *_: found.append(model) or model)
    for seed, redrawn in ((1, 2), (2, 2), (1, 0)):
        METHODS["gefeu"].run(
            trained_model, small_data, replace(METHODS["gefeu"].settings, redrawn=redrawn), seed, Log()
        )
    assert [layers_that_differ(model, trained_model) for model in found] == [["hidden", "output"]] * 2 + [[]]
    assert layers_that_differ(*found[:2]) == ["hidden", "output"]
