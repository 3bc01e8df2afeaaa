"""What defines each unlearning method: its loss, its steps, what it draws anew or leaves alone."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import OTHER_REQUESTS
from test_unlearning import in_full_precision, run
from torch.nn.functional import cross_entropy

from helpers.files import StudyError
from helpers.models.training import predict, seeded
from helpers.unlearning import METHODS, method, teachers
from helpers.unlearning.method import Log, class_balanced, sample
from helpers.unlearning.salun import wrong_labels
from helpers.unlearning.ssd import importance


@pytest.fixture(params=["crossbar", *(pytest.param(name, marks=pytest.mark.thorough) for name in OTHER_REQUESTS)])
def small_data(request, small_data):
    """The forget set of each of three requests, with some thousand retained samples."""
    return request.getfixturevalue(OTHER_REQUESTS[request.param]) if request.param in OTHER_REQUESTS else small_data


def forget_loss(model, data):
    return float(cross_entropy(predict(model, data.forget_images), data.forget_labels))


def test_gradient_ascent_ascends_and_forgets(trained_model, small_data):
    model, _ = run("ascent", trained_model, small_data)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 1


def test_neggrad_ascends_on_the_forget_set_by_its_weight(trained_model, small_data):
    """Against the same steps without ascent, and with less."""
    changes = {"lr": 0.1, "weight_decay": 0.0, "warm_up": 0.0}
    models = [run("neggrad", trained_model, small_data, alpha=a, **changes)[0] for a in (0.5, 0.8, 1.0)]
    most, some, none = (forget_loss(model, small_data) for model in models)
    assert most > some > none and most > forget_loss(trained_model, small_data) + 0.1


def test_fine_tuning_trains_on_retained_samples_alone(trained_model, small_data):
    model, log = run("finetune", trained_model, small_data, lr=0.2, weight_decay=0.0, budget=2.0)
    assert log.curves.keys() == {"repair"}
    x, y = small_data.retain_images[:2000], small_data.retain_labels[:2000]
    assert cross_entropy(predict(model, x), y) < 0.5 * cross_entropy(predict(trained_model, x), y)


@pytest.mark.parametrize("name, others", [("randomlabels", {"weight_decay": 0.0}), ("salun", {"salient": 0.4})])
def test_random_labels_unlearn_the_label_and_keep_the_rest(trained_model, small_data, name, others):
    """Whatever settings a study found."""
    options = {"budget": 0.5, "forget_part": 0.3, "lr": 0.3, "batch_size": 64} | others
    model, _ = run(name, trained_model, small_data, **options)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 0.5
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


@pytest.mark.parametrize("alpha, strength", [(5.0, 0.5), (0.5, 2.0)])
def test_ssd_dampens_just_the_weights_that_matter_more_for_the_forget_set(trained_model, small_data, alpha, strength):
    """By hand from the equations, on the sample of everything that the seed draws; no weight grows."""
    settings = replace(METHODS["ssd"].settings, alpha=alpha, strength=strength, budget=0.5, batch=64)
    model = METHODS["ssd"].run(trained_model, small_data, settings, 0, Log())
    images = torch.cat([small_data.retain_images, small_data.forget_images])
    labels = torch.cat([small_data.retain_labels, small_data.forget_labels])
    random = seeded(0)
    n = len(small_data.retain_labels)
    drawn = sample(len(labels), small_data.samples(0.5) - len(small_data.forget_labels), random)
    drawn = torch.cat([drawn[drawn < n], drawn[drawn >= n]])
    drawn = drawn[torch.randperm(len(drawn), generator=random)]
    general = importance(copy.deepcopy(trained_model), images[drawn], labels[drawn], 64, Log())
    special = importance(copy.deepcopy(trained_model), images[n:], labels[n:], 64, Log())
    moved = 0
    for new, old, i_f, i_d in zip(model.parameters(), trained_model.parameters(), special, general, strict=True):
        factor = torch.where(i_f > alpha * i_d, torch.clamp(strength * i_d / i_f, max=1), torch.ones_like(i_f))
        assert torch.allclose(new, old * torch.nan_to_num(factor, 1.0), rtol=1e-3, atol=1e-7)
        moved += int((new != old).sum())
    assert moved > 300


def test_salun_moves_only_the_weights_with_the_largest_forget_gradient(trained_model, small_data):
    kept = METHODS["salun"].settings.salient
    model, _ = run("salun", trained_model, small_data, saliency_part=0.9)  # enough for all of D_f
    start = copy.deepcopy(trained_model).requires_grad_(True)
    cross_entropy(start(small_data.forget_images), small_data.forget_labels).backward()
    gradient = torch.cat([weight.grad.abs().flatten() for weight in start.parameters()])
    moved = torch.cat([(a != b).flatten() for a, b in zip(model.parameters(), start.parameters(), strict=True)])
    assert 0.8 * kept < moved.float().mean() <= kept + 1e-4
    assert (
        gradient[moved].min() >= gradient.quantile(1 - kept, interpolation="nearest") if len(gradient) < 1e6 else True
    )
    assert gradient[moved].min() >= gradient[~moved].median()


def test_delete_takes_each_samples_own_label_out_of_the_trained_models_outputs(trained_model, small_data, monkeypatch):
    """Forget samples alone, each as often as there are passes; the targets by hand, those of the given model to the
    end."""
    seen, original = [], method.classification_step

    def spy(model, optimizer, images, targets, *rest):
        seen.extend(zip(images.clone(), targets.clone(), strict=True))
        return original(model, optimizer, images, targets, *rest)

    monkeypatch.setattr(method, "classification_step", spy)
    model, log = run("delete", trained_model, small_data, passes=2, budget=0.3, lr=0.05)
    n = len(small_data.forget_labels)
    position = {image.numpy().tobytes(): k for k, image in enumerate(small_data.forget_images)}
    which = torch.tensor([position[image.numpy().tobytes()] for image, _ in seen])
    assert torch.bincount(which).tolist() == [2] * n and log.samples == pytest.approx(2 * n + n / 3)
    targets, labels = torch.stack([target for _, target in seen]).double(), small_data.forget_labels[which]
    p = predict(trained_model, small_data.forget_images).double().exp()[which]
    rest = p.clone()
    rest[torch.arange(len(rest)), labels] = 0
    assert (targets[torch.arange(len(targets)), labels] == 0).all()
    assert torch.allclose(targets, rest / rest.sum(1, keepdim=True), atol=1e-5)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 0.5


def test_delete_makes_its_passes_as_far_as_the_budget_goes(trained_model, whole_class, random_fifth):
    """With the trained model's outputs, at a third of a sample; where D_f is too large, on a part of it."""
    for data in (whole_class, random_fifth):
        n = len(data.forget_labels)
        for share, passes in ((0.02, 1), (0.02, 20), (0.1, 20), (0.3, 2)):
            _, log = run("delete", trained_model, data, budget=share, passes=passes)
            most, wanted = data.samples(share), n * (passes + 1 / 3)
            assert min(wanted, most) - 2 <= log.samples <= min(wanted, most) + 1e-6


def entropy(model, images):
    p = predict(model, images).softmax(1)
    return float(-(p * p.clamp_min(1e-12).log()).sum(1).mean())


def test_scrub_leaves_its_teacher_on_the_forget_set_alone(trained_model, crossbar):
    """Of a whole class, or a random part, its steps towards the teacher bring back what the others took away."""
    small_data = crossbar
    options = {"budget": 1.0, "lr": 0.05, "ascent_passes": 2, "ce_part": 0.5}
    still, scrubbed = (run("scrub", trained_model, small_data, ascent_lr=lr, **options)[0] for lr in (1e-9, 0.05))
    assert forget_loss(scrubbed, small_data) > forget_loss(still, small_data) + 0.2
    right = predict(scrubbed, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_scrub_has_a_temperature_in_both_kl_terms_and_none_in_ce(trained_model, small_data, monkeypatch, temperature):
    """The losses of its steps, by hand and in double precision."""
    in_full_precision(monkeypatch)
    given, original = [], teachers.divergence

    def spy(teacher, logits, images, *rest):
        given.append((logits.detach().double(), images))
        return original(teacher, logits, images, *rest)

    monkeypatch.setattr(teachers, "divergence", spy)
    options = {"temperature": temperature, "ce_part": 0.25, "ascent_passes": 1, "ascent_lr": 0.2}
    _, log = run("scrub", trained_model, small_data, **options)
    labels = {x.numpy().tobytes(): y for x, y in zip(small_data.retain_images, small_data.retain_labels, strict=True)}
    expected = {"maximise KL": [], "minimise": []}
    for logits, images in given:
        t, s = (x.double() / temperature for x in (predict(trained_model, images), logits))
        p, q = t.exp() / t.exp().sum(1, keepdim=True), s.exp() / s.exp().sum(1, keepdim=True)
        kl = temperature**2 * (p * (p / q).log()).sum() / len(images)
        known = [labels.get(x.numpy().tobytes()) for x in images]
        if None in known:
            expected["maximise KL"].append(kl)
        else:
            own = (logits.exp() / logits.exp().sum(1, keepdim=True))[torch.arange(len(known)), torch.stack(known)]
            expected["minimise"].append(-0.25 * own.log().mean() + 0.75 * kl)
    assert log.curves.keys() == expected.keys()
    for phase, losses in expected.items():
        assert torch.allclose(torch.stack(log.curves[phase]).double(), torch.stack(losses), rtol=1e-3, atol=1e-4)
    assert max(expected["maximise KL"]) > 0.1


def test_a_bad_teacher_makes_the_forget_set_doubtful(trained_model, small_data):
    model, _ = run("badteacher", trained_model, small_data, budget=0.5, lr=0.3, forget_part=0.3)
    assert entropy(model, small_data.forget_images) > entropy(trained_model, small_data.forget_images) + 1
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


def test_the_bad_teacher_mixes_the_forget_set_into_all_of_its_steps(trained_model, small_data, monkeypatch):
    """As the authors do, who shuffle forget and retain samples together; also where there are fewer than steps."""
    seen, original = [], teachers.divergence
    monkeypatch.setattr(
        teachers, "divergence", lambda teacher, logits, images: seen.append(images) or original(teacher, logits, images)
    )
    run("badteacher", trained_model, small_data, forget_part=0.02, batch_size=16)
    forgotten = {x.numpy().tobytes() for x in small_data.forget_images}
    steps, places = 0, []
    for images in seen:
        part = [x.numpy().tobytes() in forgotten for x in images]
        assert all(part) or not any(part)
        steps += not any(part)
        places += [steps] * sum(part)
    assert len(places) > 8 and all(
        any(a < at <= a + steps / 4 for at in places) for a in (0, steps / 4, steps / 2, 0.75 * steps)
    )


def test_the_bad_teacher_is_another_random_network_for_every_seed(trained_model, small_data, monkeypatch):
    drawn, original = [], teachers.new_model
    monkeypatch.setattr(teachers, "new_model", lambda channels, seed: drawn.append(seed) or original(channels, seed))
    for seed in (1, 2):
        run("badteacher", trained_model, small_data, seed=seed)
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("budget", [0, 0.0, -0.1, 1.5])
def test_a_budget_that_makes_no_sense_is_refused(budget):
    method = METHODS["new"]
    with pytest.raises(StudyError, match="budget = .* (must be above 0 and at most 1|is no float)"):
        method.check(replace(method.settings, budget=budget))


@pytest.mark.parametrize("k", [0, 6])
def test_layers_that_there_are_not_are_refused(k):
    for name, field in (
        ("reset", "layers"),
        ("freeze", "layers"),
        ("euk", "layers"),
        ("not", "layer"),
        ("gemu", "impair_layers"),
        ("unsir", "impair_layers"),
    ):
        with pytest.raises(StudyError, match=f"{field} = {k} must be above 0 and at most 5"):
            METHODS[name].check(replace(METHODS[name].settings, **{field: k}))


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
