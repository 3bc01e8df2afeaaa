"""Tables and figures stand for any results; the README's come from the frame that is committed."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from programs import command, run_python

from helpers.data.task import SUBSETS
from helpers.evaluation.evaluate import with_derived
from helpers.evaluation.frame import COLUMNS, Rows, interval, mean, null_of, select, values
from helpers.files import StudyError, load_frame
from helpers.models.cnn import LAYERS
from helpers.report import export, figures, frontier, page, tables
from helpers.unlearning import FRONTIER, METHODS

COMMITTED = ROOT / "data" / "report" / "measures.csv.gz"


@pytest.fixture(scope="module")
def committed():
    """The frame of the last release, which may be older than the code."""
    return load_frame(COMMITTED, COLUMNS, "")


@pytest.fixture(scope="module")
def about():
    return json.loads((COMMITTED.parent / "release.json").read_text(encoding="utf-8"))


def made_up(kinds, n=5, gap=0.9, floor=0.4, ceiling=5.0, dataset="mnist", seconds=1.0, spread=0.05):
    """A frame as `measure` gives it, of made-up values."""
    task, random, frames = (
        SimpleNamespace(data=SimpleNamespace(name=dataset), request=SimpleNamespace(name="crossbar")),
        np.random.default_rng(0),
        [],
    )
    for kind in kinds:
        rows, noise = Rows(), spread * random.normal(size=n)
        closed = {"trained": 0.0, "retrained": 1.0, "untrained": 0.7}.get(kind, gap)
        for split, subset in [("test", s) for s in SUBSETS] + [("train", "forget"), ("train", "retain")]:
            rows.add("accuracy", 0.9 + 0.1 * noise, split, subset)
            rows.add("loss", 1.0 + noise, split, subset)
            for measure, ends in (("kl", (floor, ceiling)), ("energy", (0.0, 1.6))):
                rows.add(measure, ends[1] - closed * (ends[1] - ends[0]) + 0.01 * noise, split, subset)
        for layer in LAYERS:
            rows.add("weight_distance", 1 + noise, at=layer)
            rows.add("activation_change", 1 + noise, "test", "all", layer)
        for digit in range(10):
            rows.add("predicted", np.full(n, 0.1), "test", "forget", str(digit))
        rows.add("u_lira", np.full(20, 0.7), "train", "forget", by="step")
        rows.add("curve", [1.0, 2.0], at="impair", by="step")
        rows.add("seconds", np.full(n, seconds * (0.1 if kind in METHODS else 1)))
        rows.add("samples", np.full(n, {"retrained": 100.0}.get(kind, 10.0 if kind in METHODS else 2.0 + len(frames))))
        frames.append(rows.frame(task, kind))
    return with_derived(pd.concat(frames, ignore_index=True))


BASE = ("untrained", "trained", "retrained")
SOME = (*BASE, "gemu", "gefeu", "ascent", "new", "reset", "salun")  # figures of all methods take ten seconds
ANY = {
    "as usual": made_up((*BASE, *METHODS, *FRONTIER)),
    "the baselines alone": made_up(BASE),
    "one method": made_up((*BASE, "gemu")),
    "two models": made_up((*BASE, "gemu", "gefeu"), n=2),
    "equal values": made_up(SOME, spread=0.0),
    "all methods far below": made_up((*BASE, *METHODS), gap=-46.0),
    "all methods far above": made_up(SOME, gap=3.0),
    "a ceiling below the floor": made_up(SOME, floor=5.0, ceiling=0.4),
    "a ceiling on the floor": made_up(SOME, floor=1.0, ceiling=1.0, spread=0.0),
    "no time at all": made_up(SOME, seconds=0.0),
    "two data sets": pd.concat([made_up(SOME), made_up((*BASE, "gemu"), dataset="cmnist")]),
}


@pytest.mark.parametrize("what", ANY)
def test_figures_and_tables_stand_for_any_results(what):
    results = ANY[what]
    top = frontier.frontier(results)
    data, about = top._repr_png_()
    assert data[:4] == b"\x89PNG" and about == {"alt": top.alt}
    one = results[results.dataset == "mnist"]
    kinds = [kind for kind in ("trained", "retrained", "gemu") if kind in set(one.kind)]
    for made in (
        figures.accuracy_figure(one),
        figures.gap_figure(one),
        *(figures.bars_figure(one, kinds, what) for what in figures.BARS if what != "accuracy by colour"),
        figures.class_figure(one, kinds),
        figures.curves_figure(one, kinds[-1]),
        figures.audit_figure(one),
    ):
        made.draw_without_rendering()
        assert made.alt.endswith(".") and made.get_figwidth() <= 9.6 and "nan" not in f"{made.alt} {top.alt}".split()
    for table in (
        tables.accuracy_table(one),
        tables.subsets_table(one),
        tables.gap_table(one),
        tables.measures_table(one),
        tables.overview_table(one),
    ):
        assert "<table" in table.to_html() and len(table.data)
    assert "colours" in figures.bars_figure(one, kinds, "accuracy by colour")
    assert ("Gap closed is undefined" in tables.no_gap(one)) == what.startswith("a ceiling")
    assert ("Gap closed is undefined" in str(tables.gap_table(one).to_html())) == what.startswith("a ceiling")
    if {"gemu", "gefeu"} <= set(one.kind):
        assert tables.conclusions(one).data and tables.paired_table(one, "gefeu", "gemu").data is not None


def test_a_selection_is_what_pandas_gives(committed):
    for dataset in ("mnist", "cmnist"):
        one = committed[committed.dataset == dataset]
        plain = one.query("kind == 'gemu' and measure == 'accuracy' and split == 'test' and subset == 'forget'").value
        assert values(one, "gemu", "accuracy", "test", "forget").tolist() == plain.tolist()
        assert len(plain) == tables.models_in(one) >= 10
        assert mean(one, "gemu", "accuracy", "test", "forget") == pytest.approx(plain.mean())
    assert list(select(committed, "seconds", at=None, kinds=["gemu", "trained"]).kind.unique()) == ["gemu", "trained"]


def test_the_committed_frame_is_what_it_says(committed, about):
    assert COMMITTED.stat().st_size < 1_000_000
    assert list(committed.columns) == list(COLUMNS)
    assert set(committed.dataset) == set(about["sources"]) >= {"mnist", "cmnist"}
    assert set(committed.split) == {"", "train", "test"}
    assert about["version"] and about["date"] and "torch" in about["machine"]
    for _, one in committed.groupby("dataset"):
        accuracies = one[one.measure == "accuracy"].groupby(["kind", "split", "subset"]).seed.nunique()
        assert (accuracies == tables.models_in(one)).all()
        assert {*BASE, "gemu", "gefeu", "ascent", "null"} <= set(one.kind)
    shares = committed[committed.measure.isin(["accuracy", "predicted", "u_lira", "beyond", "probe"])]
    assert shares.value.between(0, 1).all()
    assert committed[committed.kind == "null"].seed.isna().all()
    keys = [column for column in COLUMNS if column != "value"]
    assert not committed.duplicated(keys).any()


def test_the_readme_is_made_from_the_committed_frame(committed, about):
    """Its table, by pandas alone, and all of what stands between its marks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    frame = pd.read_csv(COMMITTED)
    frame = frame[(frame.split == "test") & frame.measure.isin(["energy_gap", "kl_gap", "accuracy"])]
    table = 100 * frame.pivot_table(index=["dataset", "kind", "seed"], columns=["measure", "subset"], values="value")
    for dataset in ("mnist", "cmnist"):
        oracle = table.loc[dataset, "retrained"]["accuracy", "retain"].mean()
        for kind, title in (("trained", "Trained"), ("retrained", "Retrained"), ("gemu", "GEMU"), ("gefeu", "GeFeU")):
            mine = table.loc[dataset, kind]
            cells = [("energy_gap", "forget"), ("kl_gap", "forget"), ("accuracy", "forget")]
            shown = [f"{mine[c].mean() + 0.0:.1f} ± {mine[c].std(ddof=0):.1f}".replace("-0.0 ", "0.0 ") for c in cells]
            lost = oracle - mine["accuracy", "retain"]
            shown.append(f"{lost.mean():.2f} ± {lost.std(ddof=0):.2f}".replace("-0.00 ", "0.00 "))
            row = [line for line in block.splitlines() if line.startswith(f"| {title} ")][dataset == "cmnist"]
            assert all(cell in row for cell in shown), (row, shown)
    assert page.results_text(committed, about) == block.strip()
    assert f"{tables.models_in(committed)} models of each kind" in block and about["version"] in block


def test_the_readme_lists_every_method():
    methods = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- methods -->")[1].split("<!-- /methods -->")[0]
    )
    assert methods.strip() == tables.all_settings().data.drop(columns="hyper-parameters").to_markdown()
    assert all(f"| {m.title} " in methods and m.source in methods for m in METHODS.values())


def test_a_report_needs_nothing_but_the_committed_frame(tmp_path):
    """In a copy without data, models and results it leaves the README as it is."""
    for part in ("helpers", "data/report"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    shutil.copy(ROOT / "README.md", tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text.replace("± ", "+- "), encoding="utf-8")
    done = run_python(tmp_path, command("report"))
    assert done.returncode == 0, done.stderr[-1000:]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
    assert all(
        (tmp_path / "data" / "report" / f"{name}.png").stat().st_size > 10_000 for name in ("frontier", "summary")
    )


def test_words_say_what_the_frame_says(committed):
    one = committed[committed.dataset == "mnist"]
    said = tables.conclusions(one).data
    assert len(said.splitlines()) == 3
    for kind in ("gemu", "gefeu"):
        assert f"{100 * mean(one, kind, 'energy_gap', 'test', 'forget'):.0f} %" in said
        assert f"{mean(one, kind, 'u_lira', 'train', 'forget'):.2f}" in said
    best = max(("gemu", "gefeu"), key=lambda kind: mean(one, kind, "energy_gap", "test", "forget"))
    plain = tables.best_plain(one)
    difference = values(one, best, "energy_gap", "test", "forget") - values(one, plain, "energy_gap", "test", "forget")
    low, high = interval(difference)
    word = "closer than" if low > 0 else "not as close as" if high < 0 else "not told apart"
    assert word in said and METHODS[plain].title in said
    low, high = null_of(one, "u_lira", "train", "forget")
    assert f"{low:.2f} to {high:.2f}" in said


def test_tables_tex_needs_booktabs_alone(committed, tmp_path):
    text = export.tables_tex(committed[committed.dataset == "mnist"])
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") == 2
    for table in text.split(r"\end{tabular}")[:2]:
        body = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len(body) > 7 and len({line.count("&") for line in body}) == 1 and "±" not in table and r"\%" in table
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + text + "\n\\end{document}\n"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    latex = shutil.which("pdflatex")
    if latex:
        command = [latex, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


def test_a_name_with_signs_of_latex_stands_in_a_caption(committed):
    one = committed[committed.dataset == "mnist"].assign(forget="my_list, 1 %")
    assert r"forgotten: my\_list, 1 \%." in export.tables_tex(one)


def test_the_readme_is_changed_between_its_marks_only(tmp_path, monkeypatch):
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    before = (tmp_path / "README.md").read_text(encoding="utf-8")
    page.write_page(page.page_with({"performance": "a table"}))
    after = (tmp_path / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- performance -->", "<!-- /performance -->"
    assert after.split(begin)[0] == before.split(begin)[0] and after.split(end)[1] == before.split(end)[1]
    assert after.split(begin)[1].split(end)[0].strip() == "a table"
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(StudyError, match="has lost its lines"):
        page.page_with({"performance": "a table"})
