"""Forms of GEMU and GeFeU: each is the method with the one thing changed that its name says."""

from dataclasses import replace

import pytest
import torch
from conftest import same
from torch.nn.functional import one_hot

from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import predict, seeded
from helpers.unlearning import FORMS, METHODS, forms
from helpers.unlearning.method import Log


def run(name, model, data, seed=1, **changes):
    """The new model and its log."""
    form, log = FORMS[name], Log()
    return form.run(model, data, replace(form.settings, **changes), seed, log), log


@pytest.fixture(scope="module", params=FORMS)
def done(request, trained_model, small_data):
    return request.param, *run(request.param, trained_model, small_data)


def test_it_keeps_to_the_budget_of_its_method_and_gives_the_same_again(done, trained_model, small_data):
    name, model, log = done
    budget = small_data.samples(FORMS[name].settings.budget)
    assert 0.9 * budget < log.samples <= budget + 1 and not model.training
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert same(model, run(name, trained_model, small_data)[0])


@pytest.mark.parametrize("name", ["gemu", "gefeu"])
def test_the_whole_is_the_method_itself_and_no_other_form_is(name, trained_model, small_data):
    settings = METHODS[name].settings
    itself = METHODS[name].run(trained_model, small_data, settings, 1, Log())
    assert same(itself, run(f"{name}_whole", trained_model, small_data)[0])
    others = [other for other in FORMS if other.startswith(name) and other != f"{name}_whole"]
    changed = [run(other, trained_model, small_data)[0] for other in others]
    assert len(others) > 10 and not any(same(itself, model) for model in changed)


def noise_of(name, model, data, **changes):
    """What impair is given: 64 pictures and their targets."""
    settings = replace(FORMS[name].settings, **changes)
    return forms._noise(model, data, settings, 1, seeded(1), Log())(64)


def test_noise_is_what_the_form_says(trained_model, small_data):
    longer = {"generator_share": 0.2, "generator_lr": 0.5, "budget": 1.0}
    wrong, _ = noise_of("gemu_whole", trained_model, small_data, **longer)
    alike, seven = noise_of("gemu_likeness", trained_model, small_data, **longer)
    assert (predict(trained_model, wrong).argmax(1) != 7).all() and (predict(trained_model, alike).argmax(1) == 7).all()
    assert (seven.argmax(1) == 7).all()
    features = predict(trained_model, small_data.forget_images, CNN.features)
    far = {}
    for name in ("gefeu_features", "gefeu_whole"):
        seen = predict(trained_model, noise_of(name, trained_model, small_data, **longer)[0], CNN.features)
        far[name] = torch.cdist(seen, features).min(1).values.mean()
    assert far["gefeu_features"] < 0.7 * far["gefeu_whole"]
    gaussian, _ = noise_of("gemu_gaussian", trained_model, small_data)
    assert abs(gaussian.mean()) < 0.02 and gaussian.std() == pytest.approx(1, abs=0.02)
    pictures, wrong_labels = noise_of("gemu_random", trained_model, small_data)
    shown = {tuple(picture.flatten().tolist()) for picture in small_data.forget_images}
    assert all(tuple(picture.flatten().tolist()) in shown for picture in pictures)
    assert (wrong_labels.argmax(1) != 7).all() and len(wrong_labels.argmax(1).unique()) > 5
    assert len(noise_of("gemu_none", trained_model, small_data)[0]) == 0


def test_labels_may_be_the_outputs_without_the_own_one(trained_model, small_data):
    outputs = predict(trained_model, small_data.forget_images).softmax(1)
    by_hand = outputs * (1 - one_hot(small_data.forget_labels, 10))
    by_hand /= by_hand.sum(1, keepdim=True)
    _, targets = noise_of("gefeu_pictures", trained_model, small_data)
    nearest = torch.cdist(targets, by_hand, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert nearest.max() < 1e-4 and targets[:, 7].max() == 0


def test_noise_may_begin_around_the_mean_picture(trained_model, small_data):
    few = {"generator_share": 1e-9}
    centred, plain = (
        noise_of(name, trained_model, small_data, **few)[0].mean(0) for name in ("gemu_centred", "gemu_whole")
    )
    mean = small_data.retain_images.mean(0)
    assert (centred - mean).abs().mean() < 0.5 * (plain - mean).abs().mean()


def test_impair_may_move_chosen_weights_alone(trained_model, small_data, monkeypatch):
    monkeypatch.setattr(forms, "repair", lambda model, *_: model)
    model, _ = run("gemu_chosen", trained_model, small_data, weight_decay=0.0)
    layers = FORMS["gemu_chosen"].settings.impair_layers
    for (name, before), after in zip(trained_model.named_parameters(), model.parameters(), strict=True):
        moved = (before != after).float().mean()
        assert moved <= 0.5 + 1 / before.numel() if name.split(".")[0] in LAYERS[-layers:] else moved == 0


@pytest.mark.parametrize("name, layers", [("gemu_redrawn", METHODS["gemu"].settings.impair_layers), ("gemu_output", 1)])
def test_layers_are_drawn_anew(name, layers, trained_model, small_data, monkeypatch):
    seen = []
    monkeypatch.setattr(forms, "repair", lambda model, *_: model)
    monkeypatch.setattr(forms, "_impair", lambda *given: seen.append(given))
    model, _ = run(name, trained_model, small_data)
    drawn = [name for name in LAYERS if not same(getattr(model, name), getattr(trained_model, name))]
    assert drawn == list(LAYERS[-layers:]) and len(seen) == (name == "gemu_output")


def test_each_round_impairs_half_as_much_as_the_one_before_and_repairs_twice(trained_model, small_data, monkeypatch):
    impaired, repaired = [], []
    monkeypatch.setattr(forms, "_impair", lambda *given: impaired.append(given[4]))
    monkeypatch.setattr(forms, "repair", lambda *given: repaired.append(given[3]))
    _, log = run("gemu_rounds", trained_model, small_data, budget=1.0, impair_share=0.4)
    assert [each / impaired[0] for each in impaired] == pytest.approx([1, 1 / 2, 1 / 4], rel=0.01)
    assert [each / repaired[0] for each in repaired] == pytest.approx([1, 2, 4], rel=0.01)
    assert sum(repaired) + log.samples == pytest.approx(small_data.samples(1.0), abs=5)


def test_forms_of_gemu_read_no_picture_but_the_one_that_says_so(trained_model, small_data):
    """GEMU's own are blind to pictures, as GEMU is."""
    blind = replace(small_data, forget_images=torch.full_like(small_data.forget_images, torch.nan))
    made = {}
    for name in (name for name in FORMS if name.startswith("gemu")):
        made[name] = [run(name, trained_model, data)[0] for data in (small_data, blind)]
    assert {name for name, both in made.items() if not same(*both)} == {"gemu_random"}
