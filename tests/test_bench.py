"""The benchmark's arithmetic, against numbers that are known."""

import importlib.util
import sys

import pytest
import torch
from conftest import ROOT

from helpers.models import ensembles
from helpers.models.training import RECIPE

spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
bench = importlib.util.module_from_spec(spec)
sys.modules["bench"] = bench
spec.loader.exec_module(bench)


def test_the_limit_counts_the_products_of_the_network():
    b = RECIPE.batch_size
    by_hand = [(b * 12 * 12, 36, 16), (b * 10 * 10, 144, 32), (b * 3 * 3, 288, 64), (b, 576, 128), (b, 128, 10)]
    assert bench.products() == by_hand
    assert bench.products(3)[0] == (b * 12 * 12, 108, 16)


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
    before = ensembles.MODELS
    with bench._stored_in(tmp_path):
        bench._short_study(bench.first(task, 2000), 2)
    kinds = ["untrained", "trained", "retrained", "gemu"]
    # of retrained models twice as many, and their measures in a file of their own
    for pattern, each, retrained in (
        ("[0-9]*.pt", 2, 4),
        ("measures-0-2-*.csv.gz", 1, 1),
        ("measures-2-4-*.csv.gz", 0, 1),
    ):
        made = [str(path) for path in (tmp_path / "models").rglob(pattern)]
        found = {kind: sum(f"/{kind}-" in path for path in made) for kind in kinds}
        assert found == dict.fromkeys(kinds, each) | {"retrained": retrained}
    assert before == ensembles.MODELS
