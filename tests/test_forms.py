"""Forms of GEMU and GeFeU: each is the method with the one thing changed that its name says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from conftest import ROOT, same
from scipy.stats import ttest_rel
from torch.nn.functional import one_hot

from helpers import studies
from helpers.evaluation.frame import Estimate
from helpers.models.cnn import CNN, LAYERS
from helpers.models.training import predict, seeded
from helpers.report import forms as reports
from helpers.report.page import page_with
from helpers.report.studies import chosen_table
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
    for name in ("gefeu_features", "gefeu_alone"):
        seen = predict(trained_model, noise_of(name, trained_model, small_data, **longer)[0], CNN.features)
        far[name] = torch.cdist(seen, features).min(1).values.mean()
    assert far["gefeu_features"] < 0.7 * far["gefeu_alone"]
    usual, _ = noise_of("gefeu_features", trained_model, small_data)  # no penalty holds it near grey
    assert usual.square().sum((1, 2, 3)).mean() > 0.3 * small_data.forget_images.square().sum((1, 2, 3)).mean()
    gaussian, _ = noise_of("gemu_gaussian", trained_model, small_data)
    assert abs(gaussian.mean()) < 0.02 and gaussian.std() == pytest.approx(1, abs=0.02)
    around = noise_of("gefeu_gaussian", trained_model, small_data)[0].mean(0)
    assert (around - small_data.forget_images.mean(0)).abs().mean() < 0.15
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


def test_repair_may_learn_the_trained_models_outputs(trained_model, small_data, monkeypatch):
    given = []
    monkeypatch.setattr(forms, "repair", lambda model, data, *_: given.append(data) or model)
    _, log = run("gemu_distilled", trained_model, small_data)
    outputs = predict(trained_model, given[0].retain_images).softmax(1)
    assert torch.allclose(given[0].retain_labels, outputs, atol=1e-5)
    assert len(outputs) == pytest.approx(0.75 * small_data.samples(0.1), abs=2) and log.samples > len(outputs) / 3


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Studies of one trial each, with made-up goals: address, and by how much a form is worse."""
    storage, random = f"sqlite:///{tmp_path_factory.mktemp('forms')}/studies.db", np.random.default_rng(0)
    worse = {
        "gemu_whole": 0.0,
        "gemu_untrained": 8.0,
        "gemu_none": 0.0,
        "gemu_redrawn": -6.0,
        "gemu_hidden": 1.0,
        "gemu": 2.0,
    }
    shared = random.normal(20, 8, 20)
    for name, more in worse.items():
        study = optuna.create_study(study_name=f"mnist-{name}", storage=storage)
        goals = (shared + more + random.normal(0, 1, 20)).tolist()
        told = {"goals": goals, "gap": 90.0 - more, "lost": 0.5, "lost_class": 0.25, "cost": 0.1}
        study.add_trial(optuna.trial.create_trial(value=7.0, user_attrs={"measured": told}))
        study.set_user_attr("confirmed", {"trial": 0, "finalists": [0]} | told)
    return storage, worse


@pytest.fixture
def shown(found, monkeypatch):
    monkeypatch.setattr(studies, "_address", lambda _: found[0])
    return SimpleNamespace(data=SimpleNamespace(name="mnist"), request=SimpleNamespace(name="crossbar"))


def test_the_ablation_is_paired_with_the_whole_on_the_same_models(shown, found):
    goals = {
        name: each.user_attrs["confirmed"]["goals"] for name, each in studies.stored(list(found[1]), "mnist-").items()
    }
    by_hand = ttest_rel(goals["gemu_untrained"], goals["gemu_whole"])
    low, high = by_hand.confidence_interval()
    mean = np.subtract(goals["gemu_untrained"], goals["gemu_whole"]).mean()
    row = reports.ablation_table("gemu", shown).data.loc["generator not trained"]
    assert row["minus as it is"] == f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    assert row["goal"].startswith(f"{np.mean(goals['gemu_untrained']):.1f} (") and row["goal in the study"] == "7.0"
    assert row["median"] == f"{np.median(goals['gemu_untrained']):.1f}" and row["distance closed, %"] == "82.0"
    axis = reports.ablation_figure("gemu", shown).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()][0] == "generator not trained"
    assert axis.lines[0].get_xdata() == pytest.approx([mean, *axis.lines[0].get_xdata()[1:]])
    said = reports.ablation_words("gemu", shown).data
    assert (
        "not trained, GEMU is worse" in said
        and "samples alone, GEMU is neither" in said
        and "impair, GEMU is better" in said
    )


def test_without_studies_a_sentence_says_how_to_make_them(shown):
    assert "tune forms" in reports.ablation_table("gefeu", shown).data
    assert reports.ablation_figure("gefeu", shown).data == reports.ablation_words("gefeu", shown).data == ""


def test_the_page_has_every_study(shown):
    text = reports.forms_text()
    assert (
        text.index("## Every method")
        < text.index("## What the parts of GEMU add")
        < text.index("## Other forms of GEMU")
    )
    assert "| a hidden layer in the generator | 1 | 7.0 |" in text and "GeFeU" not in text


def test_a_method_is_compared_with_reset_at_its_own_budget(tmp_path):
    storage = f"sqlite:///{tmp_path}/studies.db"
    for name, goal in {"reset": 10.0, "gemu": 12.0, "reset_20": 4.0, "gemu_20": 5.0, "new_02": 70.0}.items():
        study = optuna.create_study(study_name=f"mnist-{name}", storage=storage)
        told = {"goals": [goal - 1, goal + 1], "gap": 90.0, "lost": 0.5, "lost_class": 0.25, "cost": 0.1}
        study.add_trial(optuna.trial.create_trial(value=7.0, user_attrs={"measured": told}))
        study.set_user_attr("confirmed", {"trial": 0, "finalists": [0]} | told)
    tenth, few, fifth = reports.forms_text(storage).split("\n## ")[1:]
    assert tenth.startswith("Every method") and "| GEMU | 1 | 7.0 | 12.0 (1.0) | 12.0 | 13.0 | +2.0 " in tenth
    assert few.startswith("At 2 % of") and "| New model, 2 % | 1 | 7.0 | 70.0 (1.0) | 70.0 | 71.0 |" in few
    assert "+" not in few
    assert fifth.startswith("At 20 % of") and "| GEMU, 20 % | 1 | 7.0 | 5.0 (1.0) | 5.0 | 6.0 | +1.0 " in fifth


def test_methods_stand_in_the_order_of_their_goals(committed_studies):
    section = reports.forms_text(committed_studies).split("## ")[1]
    cells = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    goals = [float((fresh if fresh != "–" else value).split()[0]) for _, _, value, fresh, *_ in cells]
    assert len(goals) >= 6 and goals == sorted(goals)


def test_the_committed_page_is_that_of_the_committed_studies(committed_studies):
    page = (ROOT / "docs" / "forms.md").read_text(encoding="utf-8")
    assert page == page_with({"forms": reports.forms_text(committed_studies)}, "docs/forms.md")


def test_the_line_of_the_readme_has_the_differences_of_the_table(shown):
    row = reports.ablation_table("gemu", shown).data.loc["generator not trained"]
    (line,) = reports.parts_lines()
    expected = f"Does training its generator help? GEMU yes, without it {row['minus as it is']}."
    assert line.startswith(expected) and len(line) < 400


def test_the_readme_says_whether_a_method_is_better_than_reset(tmp_path):
    storage, random = f"sqlite:///{tmp_path}/studies.db", np.random.default_rng(0)
    shared, goals = random.normal(20, 8, 20), {}
    for name, more in {"reset": 0.0, "gemu": 0.1, "gefeu": -5.0}.items():
        goals[name] = (shared + more + random.normal(0, 1, 20)).tolist()
        study = optuna.create_study(study_name=f"mnist-{name}", storage=storage)
        told = {"goals": goals[name], "gap": 90.0, "lost": 0.5, "lost_class": 0.25, "cost": 0.1}
        study.add_trial(optuna.trial.create_trial(value=7.0, user_attrs={"measured": told}))
        study.set_user_attr("confirmed", {"trial": 0, "finalists": [0]} | told)
    (line,) = reports.parts_lines(storage)
    for method, said in (("gemu", "GEMU not clearly"), ("gefeu", "GeFeU yes")):
        low, high = ttest_rel(goals[method], goals["reset"]).confidence_interval()
        assert f"{said}, {np.subtract(goals[method], goals['reset']).mean():+.1f} ({low:+.1f} to {high:+.1f})" in line
    optuna.delete_study(study_name="mnist-reset", storage=storage)
    assert reports.parts_lines(storage) == []


def test_the_verdicts_on_parts_are_corrected_for_their_number(shown, monkeypatch):
    """A p-value of .03 is one of three; the words of the README and of the notebooks follow the same verdicts."""
    monkeypatch.setattr(reports, "_more", lambda *_: Estimate(2.0, 0.2, 3.8, 0.03))
    assert "GEMU not that it shows, without it +2.0 (+0.2 to +3.8)" in reports.parts_lines()[0]
    assert "is worse" not in reports.ablation_words("gemu", shown).data
    monkeypatch.setattr(reports, "_more", lambda *_: Estimate(2.0, 0.2, 3.8, 0.01))
    assert (
        "GEMU yes, without it +2.0 (+0.2 to +3.8)" in reports.parts_lines()[0]
        and "is worse" in reports.ablation_words("gemu", shown).data
    )


def test_studies_that_cannot_be_compared_have_no_difference(found):
    """Not measured again yet, on another number of models, or on other ones: no verdict, no number that favours it."""
    made = studies.stored(["gemu_whole", "gemu_untrained"], "mnist-", found[0])
    whole, other = made.values()
    assert np.isfinite(reports._more(other, whole).mean)
    identity, told = whole.user_attrs.get("identity", {}), other.user_attrs["confirmed"]
    for lost in (
        {"confirmed": told | {"goals": told["goals"][:3]}},
        {"confirmed": told, "identity": identity | {"request, split or data": "another"}},
        {},
    ):
        changed = SimpleNamespace(study_name="x", user_attrs=lost, get_trials=other.get_trials)
        assert not np.isfinite(reports._more(changed, whole).mean)
    assert reports._row(changed, whole) == {"trials": "1 so far"}


def test_the_table_of_a_form_has_its_settings(found):
    made = studies.stored(["gemu_whole"], "mnist-", found[0])
    shown = chosen_table({"gemu_whole": made["gemu_whole"]}).data
    assert "noise wrong" in shown.loc["GEMU, as it is, tuned anew", "hyper-parameters"]


def test_the_figure_of_repair_on_outputs_shows_what_each_reads_at_each_cost(monkeypatch):
    right = {"trained": 4, "retrained": 1, "gemu": 1, "gemu_distilled": 3}  # of four samples, by the second model
    made = []

    def ensemble(name, task, n, stored, settings=None):
        made.append((name, stored, settings and settings.budget))
        return name

    def parts(task, name):
        labels, logits = np.arange(4), np.zeros((2, 4, 10))  # the first model reads all as 0: one is right
        logits[1, range(right[name]), range(right[name])] = 1.0
        logits[1, range(right[name], 4), 9] = 1.0
        return {("train", "forget"): (logits, labels)}

    monkeypatch.setattr(reports, "unlearned", ensemble)
    monkeypatch.setattr(reports, "baseline", ensemble)
    monkeypatch.setattr(reports, "logits_of", lambda name, task: name)
    monkeypatch.setattr(reports, "parts_of", parts)
    task = SimpleNamespace(forget={"test": np.zeros(3, bool)})
    figure = reports.distillation_figure(task, 2, True)
    assert made[2:] == [(name, True, share) for name in ("gemu_distilled", "gemu") for share in (0.03, 0.06, 0.1)]
    outputs, labels = (each.lines[0].get_ydata() for each in figure.axes[0].containers)
    assert list(outputs) == 3 * [50.0] and list(labels) == 3 * [25.0]  # means of 25 and 75, of 25 and 25
    assert "50 % after the trained model's outputs, 25 % after labels" in figure.alt
    assert [line.get_ydata()[0] for line in figure.axes[0].lines[:2]] == [62.5, 25.0]
    assert figure.axes[0].get_ylabel() == "accuracy on the forget set (train), %"
