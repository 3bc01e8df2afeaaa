"""What a study minimises: the goal by hand, and when a point is left early."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from helpers import objective as objective_module
from helpers.evaluation.distances import energy_distances
from helpers.objective import DIVERGED, FIRST_SEED, Measured, Objective, is_worse, value_of


def test_a_point_is_left_early_only_where_a_paired_test_finds_it_worse():
    """The models differ far more than the points: it is the paired difference that tells."""
    random = np.random.default_rng(1)
    spread, noise = random.normal(0, 15, 20), random.normal(0, 1, (3, 20))
    best = [(10 + spread + noise[0])[:n].tolist() for n in (4, 10, 20)]
    for worse_by, left in ((0.0, None), (8.0, 4), (-5.0, None)):
        point = 10 + worse_by + spread + noise[1]
        found = next(
            (n for n, theirs in zip((4, 10), best, strict=False) if is_worse(point[:n].tolist(), theirs)), None
        )
        assert found == left
        by_hand = ttest_rel(point[:4], best[0], alternative="greater").pvalue < 0.05
        assert is_worse(point[:4].tolist(), best[0]) == by_hand
    assert not is_worse([3.0], [1.0])  # one model tells nothing


def test_a_point_that_was_left_early_has_the_best_ones_value_plus_the_difference():
    best = Measured([[1.0, 3.0], [1.0, 3.0, 5.0, 7.0]])
    assert value_of(best, None) == 4.0 == value_of(best, best)
    assert value_of(Measured([[2.0, 8.0]]), best) == 4.0 + 3.0  # its own two models alone would give 5
    assert value_of(Measured([]), best) == DIVERGED


@pytest.mark.parametrize("worse_by, looks", [(0.0, [4, 10, 20]), (50.0, [4])])
def test_an_objective_measures_no_further_model_than_it_needs(monkeypatch, worse_by, looks):
    """With outputs of models made up; the goal by hand from the three formulas."""
    made, random = [], np.random.default_rng(0)
    objective = object.__new__(Objective)
    objective.method, objective.task, objective.looks, objective.states = "new", None, [4, 10, 20], [None] * 20
    objective.samples, objective.labels, objective.own = 100, np.arange(50) % 10, np.arange(50) % 10 == 7
    objective.reference, objective.ceiling, objective.reached = random.normal(size=(20, 30, 10)), 0.5, [1.0, 1.0]
    forget, retain = random.normal(size=(20, 30, 10)), 5 * np.eye(10)[objective.labels] + np.zeros((20, 1, 1))
    retain[:, :5] = 0.0  # each model takes the first samples for a 0: one of them is right

    def outputs(method, task, recipe, settings, seed, state):
        made.append(seed)
        return forget[seed - FIRST_SEED], retain[seed - FIRST_SEED], 10

    monkeypatch.setattr(objective_module, "outputs", outputs)
    whole = objective(None)
    assert made == list(range(FIRST_SEED, FIRST_SEED + 20)) and [len(part) for part in whole.goals] == [4, 10, 20]
    by_hand = 100 * energy_distances(forget, objective.reference) / 0.5 + 10 * 100 * 4 / 50 + 0.0
    assert whole.goals[-1] == pytest.approx(by_hand) and (whole.lost, whole.lost_class) == (pytest.approx(8), 0)
    assert whole.cost == 0.1 and whole.gap == pytest.approx(
        100 - 200 * energy_distances(forget, objective.reference).mean()
    )
    made.clear()
    best = replace(whole, goals=[(np.array(part) - worse_by).tolist() for part in whole.goals])
    best.goals[0][0] += 0.1  # differences that are all alike have no spread
    again = objective(None, best)
    assert [len(part) for part in again.goals] == looks and len(made) == looks[-1]


def test_outputs_that_are_not_finite_end_a_trial(monkeypatch):
    objective = object.__new__(Objective)
    objective.method, objective.task, objective.looks, objective.states = "new", None, [4, 10], [None] * 10
    bad = np.full((3, 10), np.nan)
    monkeypatch.setattr(objective_module, "outputs", lambda *_: (bad, bad, 1))
    assert objective(None) == Measured([])
