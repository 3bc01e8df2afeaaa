"""A release is computed part by part, goes on where it stopped, and is the same however often it was stopped."""

import json
from dataclasses import replace

import pytest
from pandas.testing import assert_frame_equal

from helpers import release as release_module
from helpers import unlearning as unlearning_module
from helpers.data.task import DATASETS, task_of
from helpers.evaluation.evaluate import measure
from helpers.evaluation.frame import COLUMNS
from helpers.files import StudyError, load_frame
from helpers.models.ensembles import BASELINES, baseline
from helpers.release import release, rounded
from helpers.report import page
from helpers.sizes import QUICK
from helpers.unlearning import unlearned

FEW = {"baselines": tuple(BASELINES), "methods": ("ascent", "finetune"), "frontier": ("new_02",)}


@pytest.fixture
def small(digits, here, tmp_path, monkeypatch):
    """Two requests, a few kinds; whatever is written lies in the test's folder."""
    monkeypatch.setattr(release_module, "load_data", lambda name: digits)
    monkeypatch.setattr(release_module, "MODELS", {("mnist", "crossbar"): 2, ("mnist", "class 7"): 2})
    monkeypatch.setattr(release_module, "GROUPS", FEW)
    places = {"REPORT": "", "PARTS": "parts", "ABOUT": "release.json", "FRAME": "measures.csv.gz"}
    for name, place in places.items():
        monkeypatch.setattr(release_module, name, tmp_path / place)
    monkeypatch.setattr(page, "ABOUT", tmp_path / "release.json")
    monkeypatch.setattr(release_module, "report", lambda: None)  # which test_report.py tests
    return tmp_path


def test_a_release_goes_on_where_it_stopped(small, digits, monkeypatch, capsys):
    computed, real, stop = [], release_module._compute, 2

    def noted(part):
        if len(computed) == stop:
            raise KeyboardInterrupt
        computed.append(part.name)
        return real(part)

    monkeypatch.setattr(release_module, "_compute", noted)
    with pytest.raises(KeyboardInterrupt):
        release()
    assert len(list((small / "parts").glob("*.csv.gz"))) == 2 and not (small / "measures.csv.gz").exists()
    stop = None
    release()
    assert computed == [f"mnist-crossbar-{group}" for group in FEW] + [
        "mnist-class-7-baselines",
        "mnist-class-7-methods",
    ]
    said = capsys.readouterr().out
    assert "Parts: 5, of which 0 are there" in said and "of which 2 are there; to be computed: 3" in said
    assert "3 of 3 after" in said and "class 7: methods, 2 models" in said
    found = load_frame(small / "measures.csv.gz", COLUMNS, "")
    for words in ("crossbar", "class 7"):
        task, n = task_of(digits, words), 2
        kinds = ("ascent", "finetune") + ("new_02",) * (words == "crossbar")
        ensembles = [baseline(kind, task, n, stored=True) for kind in BASELINES]
        whole = measure(task, *ensembles, *(unlearned(kind, task, n, stored=True) for kind in kinds), probes=True)
        keys = [column for column in COLUMNS if column != "value"]
        whole = whole[whole.measure != "curve"]
        one, other = (each.sort_values(keys).reset_index(drop=True) for each in (found, rounded(whole)))
        one = one[one.forget == words].reset_index(drop=True)
        assert_frame_equal(one, other.astype(COLUMNS))
        assert len(one) > 1_000
    about = json.loads((small / "release.json").read_text(encoding="utf-8"))
    assert about["sources"] == {"mnist": digits.source} and about["version"] and "torch" in about["machine"]
    assert about["titles"]["mnist, crossbar"] == "sevens with a crossbar" and len(about["parts"]) == 5
    assert about["settings"]["gemu"]["budget"] == 0.1 and "new_20" in about["settings"]
    assert not list((small / "parts").glob("*")) and (small / "examples.npz").exists()

    computed.clear()
    release()
    assert not computed and load_frame(small / "measures.csv.gz", COLUMNS, "").equals(found)
    ascent = unlearning_module.METHODS["ascent"]
    changed = replace(ascent, settings=replace(ascent.settings, lr=ascent.settings.lr / 2))
    monkeypatch.setitem(unlearning_module.METHODS, "ascent", changed)
    release()
    assert computed == ["mnist-crossbar-methods", "mnist-class-7-methods"]
    other = load_frame(small / "measures.csv.gz", COLUMNS, "")
    same = found[~found.kind.isin(FEW["methods"])]
    assert other[~other.kind.isin(FEW["methods"])].reset_index(drop=True).equals(same.reset_index(drop=True))
    assert len(other) == len(found) and not other.equals(found)


def test_a_data_set_can_be_computed_elsewhere(small, digits, monkeypatch, capsys):
    """On one machine, whose files another one has; nothing of them is computed again or lost."""
    other = replace(digits, name="cmnist", source="others")
    monkeypatch.setattr(release_module, "load_data", {"mnist": digits, "cmnist": other}.get)
    monkeypatch.setattr(release_module, "MODELS", {("mnist", "class 7"): 2, ("cmnist", "class 7"): 2})
    monkeypatch.setattr(release_module, "GROUPS", {"baselines": tuple(BASELINES)})
    monkeypatch.setattr(release_module, "load_data", {"cmnist": other}.__getitem__)  # it needs no other data set
    release(dataset="cmnist")
    monkeypatch.setattr(release_module, "load_data", {"mnist": digits, "cmnist": other}.get)
    (stale := small / "parts" / "mnist-class-7-baselines-0123456789.csv.gz").write_bytes(b"of other settings")
    assert "`make release` computes those of the other" in capsys.readouterr().out
    assert not (small / "release.json").exists()
    (path,) = (small / "parts").glob("cmnist*")
    release()
    said = capsys.readouterr().out
    assert "Parts: 2, of which 1 are there; to be computed: 1" in said and "is of other settings, data or code" in said
    assert set(load_frame(small / "measures.csv.gz", COLUMNS, "").dataset) == {"mnist", "cmnist"}
    assert not path.exists() and not stale.exists()


def test_a_release_is_not_made_of_tiny_models(small, monkeypatch):
    monkeypatch.setattr(release_module, "SIZES", QUICK)
    with pytest.raises(StudyError, match="unset UNLEARNING_QUICK"):
        release()


@pytest.mark.parametrize("asked, told", [({"models": 1}, "N_MODELS must be"), ({"dataset": "mnits"}, "did you mean")])
def test_what_cannot_be_released_is_told_first(small, asked, told):
    with pytest.raises(StudyError, match=told):
        release(**asked)
    assert not (small / "parts").exists()


def test_the_release_has_what_the_readme_speaks_of():
    assert next(iter(release_module.MODELS.items())) == (("mnist", "crossbar"), 30)
    assert (
        release_module.MODELS["cmnist", "crossbar"] == 30 and release_module.MODELS["fmnist", "class ankle boot"] == 10
    )
    assert {("mnist", "class 7"), ("mnist", "random 1 %"), ("cmnist", "red 7")} <= set(release_module.MODELS)
    assert {name for name, _ in release_module.MODELS} == set(DATASETS)
