"""The benchmark's arithmetic, against numbers that are known."""

import importlib.util
import shutil
import sys

import pytest
import torch
from conftest import ROOT

from helpers import ensembles, evaluation, run
from helpers.ensembles import RECIPE
from helpers.files import StudyError

spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
bench = importlib.util.module_from_spec(spec)
sys.modules["bench"] = bench
spec.loader.exec_module(bench)


def test_the_limit_counts_the_products_of_the_network():
    b = RECIPE.batch_size
    by_hand = [(b * 28 * 28, 9, 32), (b * 12 * 12, 288, 64), (b * 4 * 4, 576, 128), (b, 512, 128), (b, 128, 10)]
    assert bench.products() == by_hand
    assert bench.products(3)[0] == (b * 28 * 28, 27, 32)


def test_the_slope_of_proportional_and_constant_times():
    assert bench.slope({1: 2.0, 3: 6.0, 10: 20.0}) == pytest.approx(1)
    assert bench.slope({1: 4.0, 3: 4.0}) == pytest.approx(0)


def test_the_usual_way_sees_the_same_pictures(task):
    images, labels = zip(*(bench.usual_data(True)[i] for i in (0, 1, 59_999)), strict=True)
    assert list(labels) == task.data.train.labels[[0, 1, 59_999]].tolist()
    assert torch.allclose(torch.stack(images), task.data.train.images[[0, 1, 59_999]], atol=2e-3)


def test_a_part_of_a_task(task):
    small = bench.first(task, 1000)
    assert len(small.data.train) == 1000 and int(small.forget["train"].sum()) == int(task.forget["train"][:1000].sum())


def test_the_short_study_of_the_growth_figure_stays_in_its_place(task, tmp_path):
    before = (ensembles.MODELS, evaluation.RESULTS)
    with bench._stored_in(tmp_path):
        bench._short_study(bench.first(task, 2000), 2)
    assert sorted(path.parent.name.split("-")[0] for path in (tmp_path / "models").rglob("*.pt")) == sorted(
        2 * ["untrained", "trained", "retrained", "gemu"]
    )
    results = {path.stem for path in (tmp_path / "results" / "mnist" / "crossbar").glob("*.json")}
    assert results == {"untrained", "trained", "retrained", "gemu"}
    assert before == (ensembles.MODELS, evaluation.RESULTS)


def test_the_readme_is_changed_between_its_marks_only(tmp_path, monkeypatch):
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    before = (tmp_path / "README.md").read_text()
    run.write_block("performance", "a table")
    after = (tmp_path / "README.md").read_text()
    begin, end = "<!-- performance -->", "<!-- /performance -->"
    assert after.split(begin)[0] == before.split(begin)[0] and after.split(end)[1] == before.split(end)[1]
    assert after.split(begin)[1].split(end)[0].strip() == "a table"
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(StudyError, match="has lost its lines"):
        run.write_block("performance", "a table")
