"""What defines each unlearning method: its loss, its steps, what it draws anew or leaves alone."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import same
from test_unlearning import run
from torch.nn.functional import cross_entropy

from helpers.files import StudyError
from helpers.models.cnn import LAYERS, new_model
from helpers.models.training import RECIPE, predict, seeded
from helpers.unlearning import FRONTIER, METHODS, UnlearningData, finetune, impair, msg, sparse, unlearn
from helpers.unlearning.generator import Generator, GeneratorSettings, generate, maximise_error
from helpers.unlearning.method import Log, class_balanced, sample
from helpers.unlearning.salun import wrong_labels
from helpers.unlearning.ssd import importance


def forget_loss(model, data):
    return float(cross_entropy(predict(model, data.forget_images), data.forget_labels))


def test_gradient_ascent_ascends_and_forgets(trained_model, small_data):
    model, _ = run("ascent", trained_model, small_data)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 1


def test_neggrad_ascends_on_the_forget_set_by_its_weight(trained_model, small_data):
    """Against the same steps without ascent."""
    changes = {"lr": 0.1, "weight_decay": 0.0, "warm_up": 0.0}
    with_ascent, without = (run("neggrad", trained_model, small_data, alpha=a, **changes)[0] for a in (0.8, 1.0))
    assert forget_loss(with_ascent, small_data) > forget_loss(without, small_data) + 0.1
    assert forget_loss(with_ascent, small_data) > forget_loss(trained_model, small_data) + 0.1


def test_fine_tuning_trains_on_retained_samples_alone(trained_model, small_data):
    model, log = run("finetune", trained_model, small_data, lr=0.2, weight_decay=0.0, budget=2.0)
    assert log.curves.keys() == {"repair"}
    x, y = small_data.retain_images[:2000], small_data.retain_labels[:2000]
    assert cross_entropy(predict(model, x), y) < 0.5 * cross_entropy(predict(trained_model, x), y)


def test_random_labels_unlearn_the_label_and_keep_the_rest(trained_model, small_data):
    model, _ = run("randomlabels", trained_model, small_data, budget=0.5, forget_part=0.3, lr=0.3)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 0.5
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


def test_ssd_dampens_just_the_weights_that_matter_more_for_the_forget_set(trained_model, small_data):
    """By hand from the equations, on the sample of everything that the seed draws."""
    settings = replace(METHODS["ssd"].settings, alpha=5.0, strength=0.5, budget=0.2, batch=64)
    model = METHODS["ssd"].run(trained_model, small_data, settings, 0, Log())
    images = torch.cat([small_data.retain_images, small_data.forget_images])
    labels = torch.cat([small_data.retain_labels, small_data.forget_labels])
    random = seeded(0)
    drawn = sample(len(labels), small_data.samples(0.2) - len(small_data.forget_labels), random)
    drawn = torch.cat([drawn[drawn < 6_000], drawn[drawn >= 6_000]])
    drawn = drawn[torch.randperm(len(drawn), generator=random)]
    general = importance(copy.deepcopy(trained_model), images[drawn], labels[drawn], 64, Log())
    special = importance(copy.deepcopy(trained_model), images[6_000:], labels[6_000:], 64, Log())
    moved = 0
    for new, old, i_f, i_d in zip(model.parameters(), trained_model.parameters(), special, general, strict=True):
        factor = torch.where(i_f > 5 * i_d, torch.clamp(0.5 * i_d / i_f, max=1), torch.ones_like(i_f))
        assert torch.allclose(new, old * torch.nan_to_num(factor, 1.0), rtol=1e-3, atol=1e-7)
        moved += int((new != old).sum())
    assert moved > 500


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

    for module in (finetune, impair, msg, sparse):
        monkeypatch.setattr(module, "repair", none)
    return given


@pytest.mark.parametrize("k", [1, 3])
def test_reset_draws_the_last_layers_anew_and_trains_all(trained_model, small_data, unrepaired, k):
    model, _ = run("reset", trained_model, small_data, layers=k)
    assert layers_that_differ(model, trained_model) == list(LAYERS[-k:]) and unrepaired["moving"] == list(LAYERS)
    other, _ = run("reset", trained_model, small_data, layers=k, seed=2)
    assert layers_that_differ(model, other) == list(LAYERS[-k:])


@pytest.mark.parametrize("k", [1, 3])
def test_freeze_moves_the_last_layers_alone(trained_model, small_data, k):
    model, _ = run("freeze", trained_model, small_data, layers=k)
    assert layers_that_differ(model, trained_model) == list(LAYERS[-k:])


def test_a_new_model_owes_nothing_to_the_given_one(trained_model, small_data):
    assert same(run("new", trained_model, small_data)[0], run("new", new_model(1, 99), small_data)[0])


def test_a_new_model_is_what_training_on_retained_samples_gives(trained_model, small_data):
    """With a whole budget it reads the retained digits."""
    model, log = run("new", trained_model, small_data, budget=1.0, lr=0.3)
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9 and log.samples == small_data.samples(1.0)


def test_sparse_fine_tuning_shrinks_the_sum_of_the_weights(trained_model, small_data):
    weak, strong = (run("l1sparse", trained_model, small_data, gamma=g, budget=0.3, lr=0.2)[0] for g in (1e-6, 1e-3))
    sums = [sum(float(weight.detach().abs().sum()) for weight in model.parameters()) for model in (weak, strong)]
    assert sums[1] < 0.8 * sums[0]


def test_msg_draws_anew_where_the_gradients_of_both_sets_agree(trained_model, small_data, unrepaired):
    """By hand, on the retained samples that the seed draws."""
    model, _ = run("msg", trained_model, small_data, redrawn_share=0.3, gradient_part=1.0)  # enough for all of D_f
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
    assert layers_that_differ(model, trained_model) == ["conv1", "conv2", "conv3"]


def test_msg_damps_the_gradients_of_the_other_weights(trained_model, small_data):
    """A vanishing factor leaves them nearly where they were (Adam divides a gradient by its size: only its epsilon
    tells)."""
    model, _ = run("msg", trained_model, small_data, damping=1e-12, weight_decay=0.0, budget=0.6)
    moved = (model.conv2.weight - trained_model.conv2.weight).abs().flatten()
    assert moved.quantile(0.5) < 1e-5 < moved.quantile(0.9)


def entropy(model, images):
    p = predict(model, images).softmax(1)
    return float(-(p * p.clamp_min(1e-12).log()).sum(1).mean())


def test_scrub_leaves_its_teacher_on_the_forget_set_alone(trained_model, small_data):
    options = {"budget": 1.5, "lr": 0.05, "ascent_passes": 2, "ce_part": 0.5}
    still, scrubbed = (run("scrub", trained_model, small_data, ascent_lr=lr, **options)[0] for lr in (1e-9, 0.05))
    assert forget_loss(scrubbed, small_data) > forget_loss(still, small_data) + 0.2
    right = predict(scrubbed, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


def test_a_bad_teacher_makes_the_forget_set_doubtful(trained_model, small_data):
    model, _ = run("badteacher", trained_model, small_data, budget=0.5, lr=0.3, forget_part=0.3)
    assert entropy(model, small_data.forget_images) > 1.5 > entropy(trained_model, small_data.forget_images) + 0.5
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


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
        ("gemu", "impair_layers"),
        ("unsir", "impair_layers"),
    ):
        with pytest.raises(StudyError, match=f"{field} = {k} must be above 0 and at most 5"):
            METHODS[name].check(replace(METHODS[name].settings, **{field: k}))


def test_the_frontier_is_the_same_method_at_other_budgets(task, trained_model):
    data = UnlearningData.of(task, RECIPE, torch.device("cpu"))
    assert list(FRONTIER) == [
        f"{name}_{share}" for name in ("new", "reset") for share in ("02", "05", "10", "20", "30", "50")
    ]
    for name in ("new_02", "reset_02"):
        _, record = unlearn(name, trained_model, data, FRONTIER[name].settings, 0)
        assert record["samples"] == data.samples(0.02)
        assert replace(FRONTIER[name].settings, budget=0.1) == METHODS[name[:-3]].settings


# ---- UNSIR, GEMU and GeFeU ----


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
    trained_model, small_data, steps_of_impair, unrepaired, name
):
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
    assert unrepaired["moving"] == list(LAYERS)  # repair all
    assert unrepaired["samples"] == small_data.samples(1.0) - (log.samples - unrepaired["samples"])


@pytest.mark.parametrize("name", ["gemu", "gefeu", "unsir"])
def test_the_noise_gets_ever_more_wrong(trained_model, small_data, name):
    changes = {"budget": 1.0, "generator_share": 0.2} if name != "unsir" else {}
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
