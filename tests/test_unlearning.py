"""One suite of claims for every method that is registered, and what defines each of them."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import SETUP, run_python, same
from helpers.unlearning.randomlabels import wrong_labels
from torch.nn.functional import cross_entropy

from helpers.files import StudyError
from helpers.models.cnn import CNN
from helpers.models.training import RECIPE, predict, seeded
from helpers.unlearning import METHODS, TITLES, UnlearningData, unlearn, unlearned
from helpers.unlearning.generator import Generator, GeneratorSettings, generate, maximise_error
from helpers.unlearning.method import IMAGES, LABELS, NOTHING, Log, class_balanced, sample, searched
from helpers.unlearning.ssd import importance

# ---- claims of every method ----


def run(name, model, data, seed=1, **changes):
    """A method with its defaults, some of them changed: the new model and its log."""
    log, method = Log(), METHODS[name]
    return method.run(model, data, replace(method.settings, **changes), seed, log), log


@pytest.fixture(scope="module", params=METHODS)
def done(request, trained_model, small_data):
    """name, the model before (a copy), the model that a first run gave, its log."""
    before = copy.deepcopy(trained_model)
    model, log = run(request.param, trained_model, small_data)
    return request.param, before, model, log


def test_it_leaves_the_given_model_alone_and_returns_another_in_evaluation_mode(done, trained_model):
    _, before, model, _ = done
    assert same(trained_model, before) and not trained_model.training
    assert isinstance(model, CNN) and model is not trained_model and not model.training
    assert not same(model, trained_model)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_same_seed_same_model_another_seed_another(done, trained_model, small_data):
    name, _, model, _ = done
    assert same(model, run(name, trained_model, small_data)[0])
    if name == "ssd":  # with its default few weights are dampened here, and those to zero
        model = run(name, trained_model, small_data, alpha=2.0)[0]
        assert not same(model, run(name, trained_model, small_data, seed=2, alpha=2.0)[0])
    else:
        assert not same(model, run(name, trained_model, small_data, seed=2)[0])


def test_it_reads_only_what_it_declares(done, trained_model, small_data):
    """With pictures of NaN and labels of -1 in place of the rest the result is the same, bit by bit; one that declares to
    read the pictures does read them."""
    name, _, model, _ = done
    reads = METHODS[name].reads
    assert reads in (IMAGES, LABELS, NOTHING)
    if reads == IMAGES:
        blind = run(name, trained_model, small_data.for_reader(LABELS))[0]
        assert not same(model, blind)
        return
    blind = small_data.for_reader(reads)
    assert torch.isnan(blind.forget_images).all() and (reads == LABELS or (blind.forget_labels == -1).all())
    assert same(model, run(name, trained_model, blind)[0])


def test_what_it_may_not_read_is_kept_from_it(done, trained_model, small_data, monkeypatch):
    """On the path that notebooks use."""
    name, given = done[0], []
    monkeypatch.setitem(METHODS, name, replace(METHODS[name], run=lambda model, data, *_: given.append(data) or model))
    unlearn(name, trained_model, small_data, METHODS[name].settings, 0)
    assert torch.isnan(given[0].forget_images).all() == (METHODS[name].reads != IMAGES)
    assert (given[0].forget_labels == -1).all() == (METHODS[name].reads == NOTHING)


def test_its_log_counts_every_step(done, small_data):
    _, _, _, log = done
    assert log.samples > 0 and log.curves and all(len(losses) for losses in log.curves.values())
    assert all(torch.isfinite(torch.stack(losses)).all() for losses in log.curves.values())


def test_it_stays_within_a_tenth_of_retraining(done, task, trained_model):
    name = done[0]
    data = UnlearningData.of(task, RECIPE, torch.device("cpu"))
    _, record = unlearn(name, trained_model, data, METHODS[name].settings, 0)
    assert record["samples"] <= round(0.1 * data.samples(1.0))


def test_it_declares_what_others_must_know(done):
    name = done[0]
    method = METHODS[name]
    assert method.name == name and method.title == TITLES[name] and "arXiv:" in method.source
    for field, about in searched(method.settings).items():
        value = getattr(method.settings, field)
        assert about["meaning"] and type(value) is about["type"]
        assert value in about["choices"] if about["choices"] else about["low"] <= value <= about["high"]
    with pytest.raises(StudyError, match=method.title.replace("+", r"\+")):
        method.check(replace(method.settings, **{next(iter(vars(method.settings))): "many"}))


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
        print(name, i, equal.index(True) if sum(equal) == 1 else equal)
"""
)


def test_model_i_starts_from_trained_model_i(workshop):
    """For every method, on the path that notebooks use."""
    done = run_python(workshop, START)
    assert done.returncode == 0, done.stderr[-1000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[::2]] == list(METHODS) and all(row[1] == row[2] for row in rows), rows


def test_an_unknown_method_is_refused(task):
    with pytest.raises(StudyError, match="There is no method 'gemo': choose one of gemu, gefeu"):
        unlearned("gemo", task, 2, stored=True)


# ---- what defines each ----


def forget_loss(model, data):
    return float(cross_entropy(predict(model, data.forget_images), data.forget_labels))


def test_gradient_ascent_ascends_and_forgets(trained_model, small_data):
    model, _ = run("ascent", trained_model, small_data)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 1


def test_neggrad_ascends_on_the_forget_set_by_its_weight(trained_model, small_data):
    """Against the same steps without ascent."""
    with_ascent, without = (run("neggrad", trained_model, small_data, alpha=a, lr=0.1)[0] for a in (0.8, 1.0))
    assert forget_loss(with_ascent, small_data) > forget_loss(without, small_data) + 0.1
    assert forget_loss(with_ascent, small_data) > forget_loss(trained_model, small_data) + 0.1


def test_fine_tuning_trains_on_retained_samples_alone(trained_model, small_data):
    model, log = run("finetune", trained_model, small_data, lr=0.2, weight_decay=0.0, share=2.0)
    assert log.curves.keys() == {"fine-tune"}
    x, y = small_data.retain_images[:2000], small_data.retain_labels[:2000]
    assert cross_entropy(predict(model, x), y) < 0.5 * cross_entropy(predict(trained_model, x), y)


def test_random_labels_unlearn_the_label_and_keep_the_rest(trained_model, small_data):
    model, _ = run("randomlabels", trained_model, small_data, share=0.3, forget_part=0.3, lr=0.3)
    assert forget_loss(model, small_data) > forget_loss(trained_model, small_data) + 0.5
    right = predict(model, small_data.retain_images).argmax(1) == small_data.retain_labels
    assert right.float().mean() > 0.9


def test_ssd_dampens_just_the_weights_that_matter_more_for_the_forget_set(trained_model, small_data):
    """By hand from the equations, on the sample of everything that the seed draws."""
    settings = replace(METHODS["ssd"].settings, alpha=5.0, strength=0.5, share=0.2, batch=64)
    model = METHODS["ssd"].run(trained_model, small_data, settings, 0, Log())
    images = torch.cat([small_data.retain_images, small_data.forget_images])
    labels = torch.cat([small_data.retain_labels, small_data.forget_labels])
    random = seeded(0)
    drawn = sample(len(labels), small_data.samples(0.2), random)
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
    kept = METHODS["salun"].settings.kept
    model, _ = run("salun", trained_model, small_data)
    start = copy.deepcopy(trained_model).requires_grad_(True)
    cross_entropy(start(small_data.forget_images), small_data.forget_labels).backward()
    gradient = torch.cat([weight.grad.abs().flatten() for weight in start.parameters()])
    moved = torch.cat([(a != b).flatten() for a, b in zip(model.parameters(), start.parameters(), strict=True)])
    assert 0.8 * kept < moved.float().mean() <= kept + 1e-4
    assert (
        gradient[moved].min() >= gradient.quantile(1 - kept, interpolation="nearest") if len(gradient) < 1e6 else True
    )
    assert gradient[moved].min() >= gradient[~moved].median()


# ---- GEMU and GeFeU ----


@pytest.fixture
def fits(monkeypatch):
    """What each training phase of the two was given."""
    from helpers.unlearning import generator as module

    calls, original = {}, module.fit

    def spy(model, images, targets, order, recipe, lr, log, phase, *rest, **options):
        calls[phase] = {"images": images, "targets": targets, "order": order, **options}
        return original(model, images, targets, order, recipe, lr, log, phase, *rest, **options)

    monkeypatch.setattr(module, "fit", spy)
    return calls


def test_gemu_impairs_with_noise_of_the_forgotten_label_and_repairs_without(trained_model, small_data, fits):
    settings = METHODS["gemu"].settings
    run("gemu", trained_model, small_data)
    total = small_data.samples(settings.impair_share)
    n = round(settings.impair_noise * total)
    impair, repair = fits["impair"], fits["repair"]
    assert n > 50 and (impair["targets"][:n].argmax(1) == 7).all() and set(impair["order"].tolist()) >= set(range(n))
    pictures = torch.cat([small_data.retain_images, small_data.forget_images]).flatten(1)
    noise, kept = impair["images"][:n].flatten(1), impair["images"][n:].flatten(1)
    assert torch.cdist(noise, pictures).min() > 1 and len(torch.unique(noise, dim=0)) == n
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    assert torch.cdist(kept[:50], small_data.retain_images.flatten(1), **exact).min(1).values.max() == 0
    assert repair["images"] is small_data.retain_images and repair["targets"] is small_data.retain_labels


def test_repair_goes_on_with_the_optimizer_of_impair(trained_model, small_data, fits):
    run("gemu", trained_model, small_data)
    assert "optimizer" not in fits["impair"] and isinstance(fits["repair"]["optimizer"], torch.optim.Adam)


def test_every_layer_of_the_generator_learns_and_each_call_is_fresh(trained_model, small_data):
    settings = GeneratorSettings(hidden_layers=3, width=64, generator_share=0.2)
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
