"""Who is called best, closer, over or diverged: each verdict against a computation by hand, and where it must not be
given."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind
from test_measures import PART, TASK, VIEWS, N, parts
from test_report import BASE, made_up

from helpers.evaluation import evaluate
from helpers.evaluation.derived import with_derived
from helpers.evaluation.distances import output_distances
from helpers.evaluation.evaluate import compare
from helpers.evaluation.frame import Rows, difference, estimate, forgets_more, holm, jackknife, mean, values
from helpers.evaluation.measures import MEASURES, View
from helpers.evaluation.nulls import splits
from helpers.evaluation.privacy import halves, u_lira
from helpers.files import StudyError
from helpers.report import figures, frontier, tables, words

WHERE = ("test", "forget")


def frame_of(kind, task=TASK, **measured):
    """A frame of one kind; measured: measure -> values, or (values, how `Rows.add` takes them)."""
    rows = Rows()
    for measure, found in measured.items():
        rows.add(measure, found, *PART)
    return rows.frame(task, kind)


@pytest.fixture(scope="module")
def diverged():
    """Ensembles in which model 3 of GEMU, otherwise as good as retrained, diverged."""
    lost = np.arange(N) == 3
    view, trained = VIEWS["gemu"], VIEWS["trained"]
    outputs = {part: np.where(lost[:, None, None], trained.logits[part], view.logits[part]) for part in view.logits}
    mine = View.of(
        {part: (outputs.get(part, parts("gemu", 4)[part][0]), parts("gemu", 4)[part][1]) for part in parts("gemu", 4)},
        np.arange(12),
        lost,
    )
    views = VIEWS | {"gemu": mine}
    return lost, views, with_derived(
        pd.concat([compare(TASK, kind, views[kind], views["retrained"]) for kind in views], ignore_index=True)
        .pipe(lambda found: pd.concat([found, frame_of("retrained", samples=np.full(N, 100))], ignore_index=True))
    )  # fmt: skip


def energy_by_hand(u, r, pairs_of=output_distances):
    """Energy distance of ensembles u and r, given as model number -> outputs [n, 10]."""

    def apart(a, b):
        found = [pairs_of(a[i][None], b[j][None]).item() for i in a for j in b if i != j]
        return np.mean(found)

    return 2 * apart(u, r) - apart(u, u) - apart(r, r)


def test_a_diverged_model_closes_nothing_and_takes_nothing_from_the_others(diverged):
    lost, views, found = diverged
    r, t = ({i: views[kind].logits[PART][i] for i in range(N)} for kind in ("retrained", "trained"))
    u = {i: views["gemu"].logits[PART][i] for i in range(N) if not lost[i]}
    closed = (N - 1) / N * (1 - energy_by_hand(u, r) / energy_by_hand(t, r))
    assert mean(found, "gemu", "energy_gap", *PART) == pytest.approx(closed)
    assert values(found, "gemu", "energy_gap", *PART)[3] == pytest.approx(0)
    left = values(found, "gemu", "energy_gap_without", *PART)
    for seed in (3, 5):  # without the model that diverged, and without another one
        r_, t_, u_ = ({i: each for i, each in models.items() if i != seed} for models in (r, t, u))
        share = len(u_) / (N - 1)
        assert left[seed] == pytest.approx(share * (1 - energy_by_hand(u_, r_) / energy_by_hand(t_, r_)))
    assert 0 < mean(found, "gemu", "joint_gap", *PART) < (N - 1) / N + 0.02
    elsewhere = [mean(found, kind, "energy", "test", "neighbours") for kind in ("trained", "gemu")]
    assert values(found, "gemu", "energy", "test", "neighbours")[3] != pytest.approx(elsewhere[0])  # as it is


def test_gaps_without_a_seed_have_the_floor_and_the_ceiling_without_it(diverged):
    _, _, found = diverged
    kl = {kind: values(found, kind, "kl_without", *WHERE) for kind in ("trained", "retrained", "gefeu")}
    by_hand = (kl["trained"] - kl["gefeu"]) / (kl["trained"] - kl["retrained"])
    assert values(found, "gefeu", "kl_gap_without", *WHERE) == pytest.approx(by_hand)
    energy = {kind: values(found, kind, "energy_without", *WHERE) for kind in ("trained", "ascent")}
    roots = 1 - np.sqrt(np.maximum(energy["ascent"], 0) / energy["trained"])
    assert values(found, "ascent", "energy_root_without", *WHERE) == pytest.approx(roots)


def test_a_diverged_model_is_said_in_every_table_and_never_makes_a_kind_best_or_closer():
    kinds = ("gemu", "gefeu", "reset", "new", "salun")
    usual = made_up((*BASE, *kinds), n=8, spread=0.01)
    gap = {"gemu": 0.99, "reset": 0.98, "salun": 0.7}
    for kind, more in gap.items():
        rows = (usual.kind == kind) & (usual.measure == "energy_gap")
        usual.loc[rows, "value"] = more + 0.001 * np.arange(rows.sum())
    marks = [frame_of(kind, diverged=np.arange(8) == 3) for kind in ("gemu", "reset")]
    lost = pd.concat([usual, *marks], ignore_index=True)
    assert tables.best_plain(usual) == "reset" and tables.best_plain(lost) == "salun"
    assert "GEMU: 1 of 8 diverged." in tables.over(lost) and "diverged" not in tables.over(usual)
    assert tables.cell(lost, "gemu", "accuracy", *WHERE).endswith(", 1 of 8 diverged")
    short = tables.in_short(lost, ["gemu", "salun"]).iloc[:, 0]
    assert short["GEMU"].endswith("1 of 8 diverged") and "diverged" not in short["SalUn"]
    assert tables.paired_table(usual, "gemu", "salun", ("energy_gap",)).data.iloc[0, -1] == "yes"
    assert tables.paired_table(lost, "gemu", "salun", ("energy_gap",)).data.iloc[0, -1] == "no: 1 of 8 diverged"
    said = words.conclusions(lost).data
    assert "1 of 8 models of GEMU diverged and count as having closed nothing" in said
    assert "GEMU is closer" in words.conclusions(usual).data.replace("GEMU and GeFeU are closer", "GEMU is closer")
    assert "GEMU is closer" not in said and "GEMU and GeFeU are closer" not in said
    new = pd.concat([usual, frame_of("new", diverged=np.arange(8) < 2)], ignore_index=True)
    assert "2 of 8 models of New model diverged and count as having closed nothing" in words.conclusions(new).data
    alone = usual[~usual.kind.isin(["reset", "new", "salun"])]
    assert "cannot tell" not in words.conclusions(alone).data and "rival" not in words.conclusions(alone).data
    few = usual[usual.seed.isna() | (usual.seed < 5)]
    assert "5 models of each kind cannot tell: 6 are needed" in words.conclusions(few).data
    learned = words.what_was_learned(lost, "gemu").data
    assert "no verdict, 1 of 8 models diverged" in learned and "1 of 8 models diverged and count" in learned
    assert "diverged" not in words.what_was_learned(usual, "gemu").data
    best = tables._closest(lost, ["gefeu", "salun"], {}, MEASURES["accuracy"], ("accuracy", *WHERE))
    assert best == []


def test_gradient_ascent_that_diverged_is_not_called_harmless():
    usual = made_up((*BASE, "gemu", "gefeu", "ascent"), n=8)
    lost = pd.concat([usual, frame_of("ascent", diverged=np.arange(8) < 3)], ignore_index=True)
    assert "3 of 8 models of Gradient Ascent diverged" in words.conclusions(lost).data
    assert "than retraining: it classifies" in words.conclusions(usual).data
    assert "than retraining: it classifies" not in words.conclusions(lost).data


@pytest.mark.parametrize("apart, undefined", [(0.3, False), (0.5, True)])
def test_a_gap_that_its_null_distribution_spans_is_undefined(apart, undefined):
    """Trained models are at distance 1.6; a method as good as retraining would be at -apart to +apart."""
    kinds = (*BASE, "gemu", "gefeu", "reset")
    usual = made_up(kinds)
    raw = usual[~usual.measure.str.contains("_gap|_root|_share")]
    rows = Rows()
    rows.add("energy", np.linspace(-apart, apart, 201), *WHERE, by="step")
    found = with_derived(pd.concat([raw, rows.frame(TASK, "null")], ignore_index=True).assign(forget="crossbar"))
    assert bool(tables.no_gap(found)) == undefined and not tables.no_gap(usual)
    table = tables.overview_table(found, ["gemu"]).data
    assert (table.loc["GEMU", "distance to retrained models closed, %"] == tables.NONE) == undefined
    assert table.loc["GEMU", "KL divergence from retrained models closed, %"] != tables.NONE
    assert (tables.paired_table(found, "gefeu", "gemu").data.iloc[0, -1] == tables.NONE) == undefined
    assert (tables.best_plain(found) is None) == undefined
    assert np.isfinite(frontier.point(found, "gemu", "distance closed, %")[0]) != undefined
    assert ("undefined" in words.conclusions(found).data) == undefined
    null = "as good as retraining:"
    assert (null in words.conclusions(found).data) != undefined and null not in words.conclusions(usual).data


def test_a_diverged_model_is_named_where_it_is_measured(monkeypatch):
    said = []
    monkeypatch.setattr(evaluate.tqdm, "write", said.append)
    for name, title in (("gemu", "GEMU"), ("retrained", "Retrained")):
        ensemble = SimpleNamespace(kind=SimpleNamespace(name=name, title=title), seeds=range(4))
        outputs = SimpleNamespace(diverged=np.array([False, True, False, True]))
        if name == "gemu":
            evaluate._tell_diverged(ensemble, outputs)
            assert said == ["GEMU: model 1, 3 diverged and counts as having forgotten nothing."]
        else:
            with pytest.raises(StudyError, match="Retrained model 1, 3 diverged: its outputs are not finite"):
                evaluate._tell_diverged(ensemble, outputs)


@pytest.mark.parametrize("spread, shift", [(1.0, 1.0), (6.0, 1.0), (6.0, 8.0)])
def test_over_is_by_the_standard_error_of_the_difference(spread, shift):
    """A kind whose own models vary much is not over for the mean of a few of them."""
    random = np.random.default_rng(0)
    usual, own = random.normal(size=10), random.normal(size=10)
    own = shift + spread * (own - own.mean()) + usual.mean()
    results = pd.concat([frame_of("retrained", loss=usual), frame_of("gemu", loss=own)])
    by_hand = ttest_ind(own, usual, equal_var=False)
    expected = by_hand.statistic > 0 and by_hand.pvalue / 2 < 0.025
    assert forgets_more(results, "gemu") == expected == ((spread, shift) != (6.0, 1.0))


def test_differences_and_bold_are_paired_by_seed():
    """Two methods whose models rise and fall together: a small difference is one."""
    random = np.random.default_rng(0)
    shared, frames = random.normal(size=12), []
    for kind, more in (("retrained", 0.0), ("gemu", 1.0), ("gefeu", 1.3), ("reset", 1.02)):
        own = 5 * shared + more + 0.1 * random.normal(size=12)
        frames.append(frame_of(kind, loss=own, energy=own, energy_without=(own.sum() - own) / 11))
    results = pd.concat(frames, ignore_index=True)
    a, b = (values(results, kind, "energy_without", *PART) for kind in ("gefeu", "gemu"))
    full = mean(results, "gefeu", "energy", *PART) - mean(results, "gemu", "energy", *PART)
    assert difference(results, "gefeu", "gemu", "energy", *PART) == jackknife(full, a - b)
    assert estimate(results, "gemu", "energy", *PART).high - estimate(results, "gemu", "energy", *PART).low > 4
    for measure in ("loss", "energy"):
        found = {kind: values(results, kind, measure, *PART) for kind in ("retrained", "gemu", "gefeu", "reset")}
        closest = tables._closest(results, ["gemu", "gefeu", "reset"], found, MEASURES[measure], (measure, *PART))
        assert closest == ["gemu", "reset"], measure


def test_the_verdicts_of_the_conclusions_are_corrected_for_their_number(monkeypatch):
    """A p-value of .03 is one of four."""
    results = made_up((*BASE, "gemu", "gefeu", "reset", "new"), n=8)
    monkeypatch.setattr(
        words,
        "difference",
        lambda *_: difference(results, "gemu", "gemu", "loss", *PART).__class__(0.1, 0.01, 0.19, 0.03),
    )
    assert holm([0.03] * 4) == [pytest.approx(0.12)] * 4
    assert "closer to" not in words.conclusions(results).data
    assert "neither clearly more nor less" in words.what_was_learned(results, "gemu").data
    monkeypatch.setattr(words, "holm", lambda ps: ps)
    assert "closer to" in words.conclusions(results).data
    assert "neither" not in words.what_was_learned(results, "gemu").data


def test_the_null_of_attacks_is_the_mean_over_the_halves(diverged):
    _, views, found = diverged
    pool, (a, b) = np.concatenate([views[kind].margins[PART] for kind in ("retrained", "again")]), halves(N)
    mine, theirs = splits(N)[0]
    by_hand = [u_lira(pool[mine[x]], pool[theirs[y]])["accuracy"] for x, y in zip(a, b, strict=True)]
    assert values(found, "null", "u_lira", *PART)[0] == pytest.approx(np.mean(by_hand))


def test_klom_is_shown_from_twenty_models_on_and_minus_its_null(diverged):
    _, views, found = diverged
    few = {
        kind: View.of({part: (logits[:19], y) for part, (logits, y) in parts(kind, 1).items()}, np.arange(12))
        for kind in ("retrained", "gemu")
    }
    some = compare(TASK, "gemu", few["gemu"], few["retrained"], ["klom", "accuracy"])
    assert set(some.measure) == {"accuracy"}
    raw, null = (mean(found, kind, "klom", *PART) for kind in ("gefeu", "null"))
    assert null > 0.1 and tables.cell(found, "gefeu", "klom", *PART).startswith(f"{raw - null:.2f} (")


def test_medians_are_medians_and_a_number_of_models_stands_beside_what_grows_with_it(diverged):
    _, _, found = diverged
    steps = np.array([1.0, 2.0, 3.0, 100.0, 240.0])
    with_steps = pd.concat([found, *(frame_of(kind, relearn_steps=steps) for kind in ("retrained", "gemu", "gefeu"))])
    assert tables.cell(with_steps, "gefeu", "relearn_steps", *PART) == "3"
    assert figures.audit_figure(with_steps).axes[0].get_title().endswith(" models")
    rows = tables.measures_table(with_steps).data
    told = [label for label in rows.index if label.startswith("U-LiRA, told from retrained, forget (train)")]
    assert told == [f"U-LiRA, told from retrained, forget (train), {N} models"]
    assert rows.loc["relearn time, forget (train)", "GeFeU"] == "3"


def test_what_too_few_samples_left_unmeasured_is_said(diverged):
    _, _, found = diverged
    lost = found.assign(value=found.value.where(found.measure != "loss_attack"))
    note = str(tables.measures_table(lost).to_html())
    assert "Not measured, for there are no or too few such samples: " in note and "loss attack, forget (train)" in note
    assert "loss attack, forget (train)" not in tables.measures_table(lost).data.index


@pytest.mark.exhaustive
@pytest.mark.parametrize("spread, shift", [(0.3, 3.0), (1.0, 1.5), (1.0, 0.7)])
def test_the_jackknife_covers_the_gap_in_nineteen_of_twenty_ensembles(spread, shift):
    """Ten models of each kind, whose outputs on a few samples differ by a shift and in spread; the true share from
    ensembles of 400."""
    random = np.random.default_rng(0)

    def drawn(n, move, by):
        return move + by * random.normal(size=(n, 6, 10)) * np.linspace(0.5, 1.5, 6)[None, :, None]

    def gap_and_left(n):
        views = {}
        for kind, move, by in (("retrained", 0.0, 1.0), ("trained", 4.0, 1.0), ("gemu", shift, spread)):
            logits = drawn(n, 0.0, by)
            logits[..., 0] += move
            views[kind] = logits
        pairs = {
            kind: [
                output_distances(views[a], views[b])
                for a, b in (("retrained", kind), (kind, kind), ("retrained", "retrained"))
            ]
            for kind in ("trained", "gemu")
        }
        found = {}
        for kind, each in pairs.items():
            among = [np.where(np.eye(n, dtype=bool), np.nan, matrix) for matrix in each]
            found[kind] = [2 * np.nanmean(a) - np.nanmean(b) - np.nanmean(c) for a, b, c in [among]] + [
                2 * np.nanmean(np.delete(np.delete(among[0], s, 0), s, 1))
                - np.nanmean(np.delete(np.delete(among[1], s, 0), s, 1))
                - np.nanmean(np.delete(np.delete(among[2], s, 0), s, 1))
                for s in range(n if n < 50 else 0)
            ]
        gaps = 1 - np.array(found["gemu"]) / np.array(found["trained"])
        return gaps[0], gaps[1:]

    truth, covered = np.mean([gap_and_left(200)[0] for _ in range(5)]), 0
    for _ in range(1_000):
        found = jackknife(*gap_and_left(10))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 1_000 <= 0.995
