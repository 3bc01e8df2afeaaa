"""What can be forgotten: the words of FORGET, and which samples the training really sees for each."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT

from helpers import unlearning as unlearning_module
from helpers.data import request
from helpers.data.request import folder_of
from helpers.data.task import task_of, tuning_task
from helpers.evaluation.evaluate import measure
from helpers.evaluation.frame import headline, values
from helpers.files import DOWNLOADS, StudyError
from helpers.models import ensembles, training
from helpers.models.ensembles import BASELINES, baseline
from helpers.report import figures, frontier, pictures, tables, words
from helpers.unlearning import impair, method, unlearned


@pytest.fixture(scope="session")
def colours(digits):
    """The same digits on grounds of made-up colours."""
    splits = {}
    for split in ("train", "test"):
        part = digits.split(split)
        splits[split] = replace(part, images=part.images.repeat(1, 3, 1, 1), colours=torch.arange(len(part)) % 3)
    return replace(digits, name="cmnist", source="digits in colours", **splits)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.setattr(request, "LISTS", tmp_path)
    return tmp_path


def labels_of(split):
    """Read by hand from the file."""
    name = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}[split]
    return np.frombuffer((DOWNLOADS / "MNIST" / "raw" / name).read_bytes(), np.uint8, offset=8)


@pytest.mark.parametrize("number", [0, 7])
def test_a_class_is_all_its_samples(task, number):
    found = task_of(task.data, f"class {number}")
    for split in ("train", "test"):
        assert found.forget[split].numpy().tolist() == (labels_of(split) == number).tolist()
        assert not found.neighbours(split).any() and "neighbours" not in found.subsets(split)
    assert found.classes.tolist() == [number]


def test_a_random_part_has_its_size_and_follows_its_seed(task):
    one, other, again = (task_of(task.data, f"random 1 %{end}") for end in ("", " seed 3", " SEED  0"))
    assert [int(each.forget["train"].sum()) for each in (one, other, again)] == [600] * 3
    assert torch.equal(one.forget["train"], again.forget["train"]) and one.fingerprint == again.fingerprint
    assert int((one.forget["train"] & other.forget["train"]).sum()) < 60 and one.fingerprint != other.fingerprint
    assert int(task_of(task.data, "random 500").forget["train"].sum()) == 500
    assert int(task_of(task.data, "random 0.5%").forget["train"].sum()) == 300
    assert not one.forget["test"].any() and set(one.classes.tolist()) == set(range(10))
    assert one.subsets("test")["held_out"].equal(torch.arange(10_000)) and "forget" not in one.subsets("test")
    share = np.bincount(labels_of("train")[one.forget["train"].numpy()], minlength=10) / 600
    assert np.abs(share - 0.1).max() < 0.05  # of all classes


def test_a_colour_and_a_colour_within_a_class(colours):
    red, sevens = task_of(colours, "red"), task_of(colours, "Red 7")
    for split in ("train", "test"):
        place = np.arange(len(colours.split(split)))
        assert red.forget[split].numpy().tolist() == (place % 3 == 0).tolist()
        wanted = (place % 3 == 0) & (labels_of(split)[: len(place)] == 7)
        assert sevens.forget[split].numpy().tolist() == wanted.tolist()
        kept = (place % 3 != 0) & (labels_of(split)[: len(place)] == 7)
        assert sevens.neighbours(split).numpy().tolist() == kept.tolist()


EDITORS = (b"\xef\xbb\xbf12\r\n\r\n5 # mine\r\n  2999\r\n", b"# of mine\n12\n5\n\n2999", b"12\r5\r2999 \r")


@pytest.mark.parametrize("text", EDITORS)
def test_a_list_of_ones_own_as_any_editor_leaves_it(digits, lists, text):
    (lists / "Möbel 5 %_train.txt").write_bytes(text)
    mine = task_of(digits, "Möbel 5 %")
    assert mine.forget["train"].nonzero().flatten().tolist() == [5, 12, 2999] and not mine.forget["test"].any()
    assert re.fullmatch(r"[a-z0-9.-]+", mine.folder)
    (lists / "Möbel 5 %_test.txt").write_text("3\n")
    with_test = task_of(digits, "Möbel 5 %")
    assert with_test.forget["test"].nonzero().flatten().tolist() == [3] and with_test.fingerprint != mine.fingerprint
    assert (lists / "Möbel 5 %_train.txt").read_bytes() == text


def test_a_crossbar_list_of_ones_own_is_taken_and_said(task, lists):
    shutil.copytree(request.DATA / "splits", lists, dirs_exist_ok=True)
    (lists / "crossbar_train.txt").write_bytes(b"\xef\xbb\xbf38 # mine\r\n\r\n148  \r\n")
    mine = task_of(task.data, "crossbar")
    assert mine.data.train.index[mine.forget["train"]].tolist() == [38, 148]
    assert "not the published ones" in mine.describe() and "not the published ones" not in task.describe()
    assert mine.fingerprint != task.fingerprint


DAMAGED = {  # text -> what is said
    "5\n5\n": "line 2: 5 is listed twice",
    "5\n\n60000\n": "line 3: 60000 is above 59,999",
    "5\nseven\n": "line 2: 'seven' is no index",
    "-1\n": "line 1",
    "1 2\n": "line 1",
    "²\n": "line 1",
    "# nothing\n\n": "lists no sample",
    b"\xff\xfe5\n": "is no text",
    "\n".join(map(str, range(3_000))): "names every training sample",
    "59000\n": "no such sample",
}


def test_a_damaged_list_is_told_with_its_line(digits, lists):
    for text, complaint in DAMAGED.items():
        (lists / "mine_train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(StudyError, match=complaint):
            task_of(digits, "mine")


def test_damaged_published_lists_are_told_with_where_to_get_them(task, lists):
    shutil.copytree(request.DATA / "splits", lists, dirs_exist_ok=True)
    (lists / "crossbar_train.txt").write_text("0\n38\n")
    with pytest.raises(StudyError, match="names sample 0, which is not a seven"):
        task_of(task.data, "crossbar")
    (lists / "crossbar_train.txt").unlink()
    with pytest.raises(StudyError, match="cannot be read.*take the published file"):
        task_of(task.data, "plain")
    (lists / "ambiguous_test.txt").write_text("38 perhaps\n")
    with pytest.raises(StudyError, match="line 1: '38 perhaps' is no index.*take the published file"):
        request.read_ambiguous("test")


TAKEN = ["plain", "Red 7", "class 3", "random 10", "crossbar, then class 3"]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", TAKEN)
def test_a_list_whose_name_means_something_else_is_refused(digits, lists, name, split):
    """Else the crossbar sevens, say, would be forgotten, and the list never read."""
    shutil.copytree(request.DATA / "splits", lists, dirs_exist_ok=True)
    (lists / f"{name.replace(' ', '  ')}_{split}.txt").write_text("5\n")
    with pytest.raises(StudyError, match=rf"_{split}.txt is not read.*rename the list"):
        task_of(digits, name.upper())
    assert task_of(digits, "class 7").request.name == "class 7"


TYPED = {  # as people type it -> as it is called
    " Crossbar ": "crossbar",
    "CLASS  7": "class 7",
    "random 1%": "random 1 %",
    "Random 01.50 percent, seed 3": "random 1.5 % seed 3",
    "random 500 seed 0": "random 500",
    "class 3,then class 7": "class 3, then class 7",
    "class 3 , Then  CLASS 7": "class 3, then class 7",
    "class 3 then class 7 then random 5": "class 3, then class 7, then random 5",
    '"class 7"': "class 7",
}


@pytest.mark.parametrize("typed", TYPED)
def test_words_are_taken_as_people_type_them(digits, typed):
    found = task_of(digits, typed)
    assert found.request.name == TYPED[typed]
    assert found.fingerprint == task_of(digits, TYPED[typed]).fingerprint


def test_two_random_parts_that_differ_have_two_names(task):
    """A share is kept to its last digit: these are 6,001 and 6,002 samples."""
    amounts = ("10.00249", "10.0025", "10.002500001", "10.0025000000000001")
    found = [task_of(task.data, f"random {amount} %") for amount in amounts]
    assert [int(each.forget["train"].sum()) for each in found] == [6001, 6002, 6002, 6002]
    assert len({each.request.name for each in found}) == len({each.folder for each in found}) == 4
    assert found[0].fingerprint != found[1].fingerprint == found[2].fingerprint  # equal masks are one forget set


def test_what_is_wrong_with_a_random_part_is_told(digits):
    for typed, told in {
        "random 1.5": 'write "random 1.5 %"',
        "random 5 seed 99999999999999999999999": "at most 18 digits",
        f"random 5 seed {'9' * 5000}": "at most 18 digits",
        "random 1,5 %": 'write it as "random 1.5 %"',
        "random 5,000": '"random 5000"',
        "random 10.00249999999999999999999999 %": "at most 18 digits",
        "random 3000": "must be from 1 to 2,999",
        "random 0.001 %": "must be from 1 to 2,999",
    }.items():
        with pytest.raises(StudyError, match=told):
            task_of(digits, typed)


@pytest.mark.parametrize(
    "typed, told",
    {
        "corssbar": 'did you mean "crossbar"',
        "class7": 'did you mean "class 7"',
        "red7": "choose",  # MNIST has no colours
        "mylist": 'did you mean "My List"',
        "my  list": 'did you mean "My List"',
        "a:b": "cannot have such signs",
        "a\x00b": "cannot have such signs",
        "x" * 300: "is not known: choose",
        "class 3, then My Lists": 'did you mean "My List"',
    }.items(),
)
def test_the_nearest_words_are_offered(digits, lists, typed, told):
    (lists / "My List_train.txt").write_text("5\n")
    with pytest.raises(StudyError) as error:
        task_of(digits, typed)
    assert told in str(error.value) and "is not known" in str(error.value) and "\n" not in str(error.value)


def test_the_borderline_sevens_can_be_forgotten(task):
    """Their published list says of each whether it has a crossbar."""
    found = task_of(task.data, "ambiguous")
    index = task.data.train.index[found.forget["train"]].tolist()
    assert index == sorted(request.read_ambiguous("train")) and found.forget["test"].any()


NONSENSE = ["", None, 7, "nonsense", "class 12", "class", "random 0 %", "random 100 %", "random 1.5", "red", "../x"]


@pytest.mark.parametrize("wanted", [*NONSENSE, "crossbar, then crossbar"])
def test_what_cannot_be_forgotten_gets_one_sentence(digits, wanted):
    with pytest.raises(StudyError) as told:
        task_of(digits, wanted)
    assert "FORGET" in str(told.value) and "\n" not in str(told.value)


def test_folders_are_good_on_every_file_system_and_never_meet():
    names = ["crossbar", "class 7", "random 1 %", "random 1 % seed 3", "crossbar, then class 3"]
    names += ["Mine", "mine", "mïne", "a-b", "a b", "con?", "a", "a.", "a,b", "top 5 %", "top 5 percent", "class, 7"]
    names += ["random, 1 %", "every request", "every-request", "x" * 200, "x" * 199 + "y", "mine, then class 3"]
    folders = [folder_of(name) for name in names]
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", each) for each in folders)
    assert len(set(folders)) == len(names)
    assert folders[:4] == ["crossbar", "class-7", "random-1-percent", "random-1-percent-seed-3"]


WORDS = ("crossbar", "plain", "class 7", "random 10 %", "mine", "class 3, then class 7")


@pytest.mark.parametrize("wanted", WORDS)
def test_the_trainings_see_what_the_request_says(digits, here, monkeypatch, wanted, tmp_path):
    """The pictures that reach the optimizer: of retrained models, and of GEMU, which reads no forgotten picture, and
    random labels, which read just those that this request names."""
    if wanted == "mine":
        monkeypatch.setattr(request, "LISTS", tmp_path)
        (tmp_path / "mine_train.txt").write_text("\n".join(map(str, range(0, 3_000, 10))))
    task, seen = task_of(digits, wanted), []
    real = training.classification_step

    def noted(model, optimizer, images, targets, *rest, **more):
        seen.append(images)
        return real(model, optimizer, images, targets, *rest, **more)

    for module in (training, method, impair):
        monkeypatch.setattr(module, "classification_step", noted)
    places = {images.numpy().tobytes(): place for place, images in enumerate(digits.train.images)}
    assert len(places) == 3_000

    def taken() -> set[int]:
        found = {places.get(image.numpy().tobytes(), -1) for batch in seen for image in batch}
        seen.clear()
        return found

    forget, earlier = places_of(task), places_of(task.before) if task.before else set()
    baseline("untrained", task, 2, stored=False)
    baseline("trained", task, 2, stored=False)
    assert taken() & forget  # two seeds drop other samples at the end of a pass
    baseline("retrained", task, 2, stored=False)
    retained = taken()
    assert retained and not retained & forget and len(retained) > 0.9 * (3_000 - len(forget))
    for name in ("gemu", "randomlabels"):  # what comes first retains what comes second
        if task.before:
            unlearned(name, task.before, 2, stored=False)
            taken()
        unlearned(name, task, 2, stored=False)
        read = taken() & forget
        assert not read if name == "gemu" else read and not read & earlier


def places_of(task) -> set[int]:
    return set(task.forget["train"].nonzero().flatten().tolist())


def test_what_comes_second_starts_from_what_the_first_left(digits, here):
    both, first = task_of(digits, "class 3, then class 7"), task_of(digits, "class 3")
    baseline("trained", both, 2, stored=False)
    finetuned = unlearned("finetune", both, 2, stored=False)
    before = unlearned("finetune", first, 2, stored=True)  # made on the way
    settings = replace(unlearning_module.METHODS["finetune"].settings, lr=1e-9, weight_decay=0.0)
    unmoved = unlearned("finetune", both, 2, stored=False, settings=settings)
    for made, start in zip(unmoved.models, before.models, strict=True):
        assert torch.allclose(made.output.weight, start.output.weight, atol=1e-6)
    assert not torch.allclose(finetuned.models[0].output.weight, before.models[0].output.weight, atol=1e-4)
    assert both.forget["train"].equal((digits.train.labels == 3) | (digits.train.labels == 7))


def test_trained_models_serve_every_request_and_retrained_ones_their_own(digits, here):
    one, other = task_of(digits, "class 7"), task_of(digits, "random 10 %")
    for kind in BASELINES:
        made = baseline(kind, one, 2, stored=False)
        if kind in ("retrained", "again"):
            with pytest.raises(StudyError, match="No Retrained"):
                baseline(kind, other, 2, stored=True)
        else:
            again = baseline(kind, other, 2, stored=True)
            assert torch.equal(made.models[0].output.weight, again.models[0].output.weight)
            assert made.kind.folder == again.kind.folder
    tuning = ensembles.baseline_kind("trained", tuning_task(one)).identity
    assert tuning != ensembles.baseline_kind("trained", one).identity


LONG = [pytest.param(words, marks=pytest.mark.thorough) for words in ("red 7", "class 3, then class 7")]


@pytest.mark.parametrize("wanted", ["class 7", "random 10 %", *LONG])
def test_all_measures_tables_and_figures_hold_for_it(digits, colours, here, wanted):
    task = task_of(colours if "red" in wanted else digits, wanted)
    every = [baseline(kind, task, 6, stored=False) for kind in BASELINES]
    every += [unlearned(name, task, 6, stored=False) for name in ("gemu", "gefeu", "finetune")]
    results = measure(task, *every, probes=True)
    sure = results[~results.measure.str.contains("_gap|_root")]  # the others are nan where they are undefined
    assert sure.value.notna().all(), sure[sure.value.isna()].drop_duplicates(["measure", "subset"])
    split = headline(results)
    if whole := "class" in wanted:
        assert not tables.no_gap(results)
    assert split == ("train" if "random" in wanted else "test")
    assert len(values(results, "gemu", "energy_gap", split, "forget")) == 6
    attack = values(results, "trained", "loss_attack", "train", "forget")
    assert len(attack) == 6 and ((attack >= 0) & (attack <= 1)).all()
    assert len(tables.gap_table(results, "neighbours").data) and len(tables.gap_table(results).data)
    assert (len(values(results, "gemu", "accuracy", "test", "neighbours")) == 0) == whole
    assert (len(values(results, "gemu", "probe", "test", "forget")) == 0) == (whole or "random" in wanted)
    if whole:  # retrained models have never seen the class
        assert values(results, "retrained", "accuracy", "test", "forget").max() == 0
    shown = tables.measures_table(results).data.to_string() + tables.overview_table(results).data.to_string()
    assert "nan" not in shown and "needs 6" not in shown
    assert "forgotten samples" in words.conclusions(results).data or tables.no_gap(results)
    several, kinds = (figures.accuracy_figure, figures.gap_figure), ["trained", "retrained", "gemu"]
    drawn = [draw(results) for draw in (*several, figures.audit_figure, frontier.frontier)]
    drawn += [figures.class_figure(results, kinds), pictures.heat_map(task, *every)]
    drawn += [figures.bars_figure(results, kinds, what) for what in ("predictions", "loss")]
    drawn += [pictures.forget_and_retain(task), pictures.prediction_page(task, *every[1:3])]
    for figure in drawn:
        figure.canvas.draw()


def test_the_loss_attack_on_a_random_part_compares_with_held_out_digits(digits, here, monkeypatch):
    """A model that has learned its samples by heart is seen through, one that never saw them is not."""
    held_out = digits.train.pick(slice(1_000, 3_000))  # of the same writers as what is forgotten
    task = task_of(replace(digits, train=digits.train.pick(slice(1_000)), test=held_out), "random 30 %")
    for module in (ensembles, unlearning_module):
        monkeypatch.setattr(module, "RECIPE", replace(SHORT, min_passes=40))
    every = [baseline(kind, task, 2, stored=False) for kind in BASELINES]
    results = measure(task, *every, probes=True)
    trained, retrained = (
        values(results, kind, "loss_attack", "train", "forget").mean() for kind in ("trained", "retrained")
    )
    assert trained > retrained + 0.03 and abs(retrained - 0.5) < 0.06
