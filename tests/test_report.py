"""Tables and figures stand for any results; the pages' come from the frame that is committed, and what they name is
there."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, readme_queries
from programs import command, run_python
from scipy.stats import t, ttest_1samp, ttest_ind, ttest_rel

from helpers.__main__ import parser
from helpers.data.request import study_command
from helpers.data.task import SUBSETS
from helpers.evaluation.derived import with_derived
from helpers.evaluation.frame import (
    COLUMNS,
    Estimate,
    Rows,
    ask,
    holm,
    jackknife,
    mean,
    null_of,
    select,
    time_share,
    values,
)
from helpers.files import StudyError, load_arrays, load_frame, save_arrays
from helpers.models.cnn import LAYERS
from helpers.report import export, figures, frontier, page, requests, tables, words
from helpers.report.summary import EXAMPLE_PARTS
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
    undefined = {column for column, cells in tables.overview_table(one).data.items() if set(cells) == {tables.NONE}}
    assert (KL in undefined) == what.startswith("a ceiling") and not tables.no_gap(one)  # which are those of KL alone
    if {"gemu", "gefeu"} <= set(one.kind):
        assert words.conclusions(one).data and tables.paired_table(one, "gefeu", "gemu").data is not None


def test_a_selection_is_what_pandas_gives(committed):
    for dataset in ("mnist", "cmnist"):
        one = page.requests_of(committed)[dataset, "crossbar"]
        plain = one.query("kind == 'gemu' and measure == 'accuracy' and split == 'test' and subset == 'forget'").value
        assert values(one, "gemu", "accuracy", "test", "forget").tolist() == plain.tolist()
        assert len(plain) == tables.models_in(one) >= 10
        assert mean(one, "gemu", "accuracy", "test", "forget") == pytest.approx(plain.mean())
    assert list(select(committed, "seconds", at=None, kinds=["gemu", "trained"]).kind.unique()) == ["gemu", "trained"]


def test_times_on_two_machines_are_not_compared():
    """Parts of a release may come from several."""
    results = made_up(SOME)
    assert time_share(results, "gemu") == pytest.approx(0.1)
    results.loc[(results.measure == "seconds") & (results.kind == "gemu"), "at"] = "a faster one"
    assert np.isnan(time_share(results, "gemu")) and time_share(results, "gefeu") == pytest.approx(0.1)
    assert tables.overview_table(results, ["gemu"]).data["cost: time, % of retraining"].tolist()[0] == tables.NONE


def test_the_committed_frame_is_what_it_says(committed, about):
    assert COMMITTED.stat().st_size < 5_000_000
    assert list(committed.columns) == list(COLUMNS)
    assert set(committed.dataset) == set(about["sources"]) >= {"mnist", "cmnist"}
    assert set(committed.split) == {"", "train", "test"}
    assert about["version"] and about["date"] and "torch" in about["machine"]
    for one in page.requests_of(committed).values():
        accuracies = one[(one.measure == "accuracy") & (one.kind != "null")]
        accuracies = accuracies.groupby(["kind", "split", "subset"]).seed.nunique()
        assert (accuracies == tables.models_in(one)).all()
        assert {*BASE, "gemu", "gefeu", "ascent", "null"} <= set(one.kind)
    shares = committed[committed.measure.isin(["accuracy", "predicted", "u_lira", "beyond", "probe"])]
    shares = shares[shares.kind != "null"]  # of a mean, widened
    assert shares.value.between(0, 1).all()
    assert committed[committed.kind == "null"].seed.isna().all()
    keys = [column for column in COLUMNS if column != "value"]
    assert not committed.duplicated(keys).any()


def between(page: str, mark: str) -> str:
    """What stands between the marks of a page of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0].strip()


KL = "KL divergence from retrained models closed, %"


def cells_by_hand(frame, dataset, forget, kind) -> dict[str, str]:
    """Column -> cell of the pages' tables, by pandas alone."""
    frame = frame[(frame.dataset == dataset) & (frame.forget == forget)]
    split = "test" if ((frame.split == "test") & (frame.subset == "forget")).any() else "train"
    tested = frame[frame.split == "test"].pivot_table(
        index=["kind", "seed"], columns=["measure", "subset"], values="value"
    )
    one = frame[frame.split == split]
    table = 100 * one.pivot_table(index=["kind", "seed"], columns=["measure", "subset"], values="value")
    mine = table.loc[kind]

    def cell(sample, digits):
        if sample.isna().all():
            return tables.NONE
        text = f"{sample.mean() + 0.0:.{digits}f} ± {sample.std():.{digits}f}"
        return text.removeprefix("-") if float(text.split()[0]) == 0 else text

    share = frame[(frame.kind == kind) & (frame.measure == "samples_share")].value.mean()
    kept = 100 * tested["accuracy", "retain"]
    return {
        "distance to retrained models closed, %": cell(mine["energy_gap", "forget"], 1),
        KL: cell(mine["kl_gap", "forget"], 1),
        "accuracy on the forgotten samples, %": cell(mine["accuracy", "forget"], 1),
        "accuracy lost on the rest, points": cell(kept["retrained"].mean() - kept[kind], 2),
        "cost: samples, % of retraining": "–" if kind == "trained" else f"{100 * share:.1f}",
    }


def tables_of(text: str) -> list[pd.DataFrame]:
    """The Markdown tables of a text."""
    found = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    cells = [[[cell.strip() for cell in line.strip("|").split(" | ")] for line in each.splitlines()] for each in found]
    return [pd.DataFrame([row[1:] for row in rows[2:]], [row[0] for row in rows[2:]], rows[0][1:]) for rows in cells]


def test_the_pages_are_made_from_the_committed_frame(committed, about, committed_studies):
    """Their tables by pandas alone, and all of what stands between their marks."""
    first, full = between("README.md", "results"), between("docs/results.md", "results")
    frame = pd.read_csv(COMMITTED)
    titles = {"trained": "Trained", "retrained": "Retrained", "gemu": "GEMU", "gefeu": "GeFeU", "reset": "Reset"}
    titles |= {"new": "New model", "ascent": "Gradient Ascent"}
    whole = [table for table in tables_of(full) if "cost: samples, % of retraining" in table.columns]
    assert len(whole) == len(page.requests_of(committed))
    for (dataset, forget), table in zip(page.requests_of(committed), whole, strict=True):
        assert {method.title for kind, method in METHODS.items() if kind in set(committed.kind)} < set(table.index)
        for kind, title in titles.items():
            by_hand = cells_by_hand(frame, dataset, forget, kind)
            for column in (KL, next(iter(by_hand))):
                if table.loc[title, column] == "below -1,000":
                    assert float(by_hand.pop(column).split()[0]) < -1000
            assert table.loc[title, list(by_hand)].to_dict() == by_hand
    (table,) = tables_of(first)
    assert len(table) == 7
    first_request = next(iter(page.requests_of(committed)))
    for kind, title in (
        (kind, title) for kind, title in titles.items() if title in table.index.str.split(" \\(").str[0]
    ):
        row = table.loc[[name for name in table.index if name.split(" (")[0] == title][0]]
        by_hand = cells_by_hand(frame, *first_request, kind)
        assert row.to_dict() == {column: by_hand[column] for column in table.columns}
    assert first == page.first_screen(committed, about) and full == page.results_text(committed, about)
    assert between("README.md", "conclusions") == page.conclusions_text(committed, committed_studies)
    assert between("README.md", "conclusions").startswith(words.conclusions(page.first_of(committed)).data)
    for text in (first, full):
        assert f"{tables.models_in(committed)} models of each kind" in text and about["version"] in text


def test_requests_stand_side_by_side_on_the_pages(about, monkeypatch):
    monkeypatch.setattr(page, "parts_lines", lambda storage: [])
    gaps = {"crossbar": 0.9, "class 7": 0.97, "random 1 %": 0.5, "plain": 0.9}
    one = pd.concat([made_up(SOME, 6, gap).assign(forget=words) for words, gap in gaps.items()])
    about = about | {"titles": {"mnist, class 7": "class 7 (seven)"}}
    both = pd.concat([one, made_up(SOME, dataset="cmnist")], ignore_index=True)
    (line,) = [line for line in page.conclusions_text(both).splitlines() if "harder to forget than" in line]
    closed = "for crossbar, 97 % for class 7 (easier), 50 % for random 1 % (harder), 90 % for plain"
    assert f"GEMU closes 90 % of the distance {closed}; GeFeU closes 90 % {closed} (marked" in line and len(line) < 370
    few = pd.concat([made_up(SOME, 5, gap).assign(forget=words) for words, gap in gaps.items()], ignore_index=True)
    assert "(easier)" not in page.conclusions_text(few)
    assert "harder" not in page.conclusions_text(one[one.forget != "crossbar"])
    text = page.results_text(both, about)
    beside, *whole = tables_of(text)
    assert len(whole) == 5 and list(beside.index[:2]) == ["MNIST, crossbar (6 models)"] * 2
    assert beside["models"].tolist() == ["Retrained", *(METHODS[kind].title for kind in requests.KINDS)] * 5
    assert [cell.split()[0] for cell in beside[beside.models == "GEMU"]["distance closed, %"]][:3] == [
        "90.0",
        "97.0",
        "50.0",
    ]
    assert "requests.png" in text and "## MNIST, forgotten: class 7 (seven)" in text
    assert "requests.png" not in page.results_text(made_up(SOME), about)
    alone = page.conclusions_text(made_up(SOME))
    assert alone == words.conclusions(made_up(SOME)).data


def test_the_first_figure_is_told_in_words_of_the_frame(committed):
    one = page.first_of(committed)
    words = re.search(r"!\[(.*?)\]\(data/report/summary\.png\)", between("README.md", "results"))[1]
    for kind, title in (("trained", "Trained"), ("retrained", "Retrained"), ("gemu", "GEMU")):
        assert f"{title} {100 * mean(one, kind, 'accuracy', 'test', 'forget'):.0f} %" in words
    best = tables.best_plain(one)
    assert f"{METHODS[best].title} {100 * mean(one, best, 'energy_gap', 'test', 'forget'):.0f} %" in words


def test_the_readme_says_in_a_line_what_each_method_does():
    methods = between("README.md", "methods")
    assert methods == page.methods_text()
    (table,) = tables_of(methods)
    assert list(table.index) == [method.title for method in METHODS.values()]
    for method in METHODS.values():
        assert f"\n{method.title}: " in "\n" + sys.modules[method.run.__module__].__doc__, method.name
        assert method.source.split(", arXiv:")[0] in table.loc[method.title, "paper"]
        assert table.loc[method.title, "access to the forget set"] == method.reads
    said = table["what it does"]
    assert said.is_unique and said.str.len().between(30, 150).all() and not said.str.contains("D_|et al").any()


def test_a_method_without_a_line_of_its_own_is_told_by_the_first_sentence(monkeypatch):
    module = types.ModuleType("somebodys", "Forgets by magic, at a rate\nof 0.5. And more.\n\nOther: no.")
    monkeypatch.setitem(sys.modules, "somebodys", module)
    run = SimpleNamespace(__module__="somebodys")
    assert page.does(SimpleNamespace(title="Mine", run=run)) == "Forgets by magic, at a rate of 0.5"
    module.__doc__ = "Two.\n\nMine: does this\nand that.\nOther: no.\n"
    assert page.does(SimpleNamespace(title="Mine", run=run)) == "does this and that"
    module.__doc__ = None
    assert page.does(SimpleNamespace(title="Mine", run=run)) == tables.NONE


def test_the_first_screen_answers():
    """In 60 lines: the question, a figure, a table of at most seven rows and five columns, what was found, commands."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150 and max(map(len, lines)) <= 400
    first = "\n".join(lines[:60])
    assert len(re.findall(r"[.?](?:\s|$)", lines[2])) == 2  # the question, in two sentences
    assert len(re.findall(r"^!\[", first, re.MULTILINE)) == 1
    table = tables_of(between("README.md", "results"))[0]
    assert len(table) <= 7 and table.shape[1] <= 4  # beside the names
    assert "<!-- /results -->" in first and "<!-- /conclusions -->" in first
    assert 3 <= len(re.findall(r"^\d\. ", between("README.md", "conclusions"), re.MULTILINE)) <= 7
    definitions = first.split("<!-- /results -->")[1].split("<!-- conclusions -->")[0].strip().splitlines()
    assert len(definitions) <= 4
    for line in ("make study ", "make test ", "UNLEARNING_QUICK=1 make study MODELS=6 "):
        assert line in first


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
MADE = (
    "data/report/parts",
    "data/downloads",
    "data/models",
    "data/results",
    "data/studies",
    "helpers/unlearning/tuned.json",
)  # by runs
EXAMPLES = ("NAME", "<", "*")  # in names that stand for others


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_is_there(name):
    """Every relative link, every file and folder, every make target, every page of docs from the README."""
    text = (ROOT / name).read_text(encoding="utf-8")
    place = (ROOT / name).parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not re.match(r"https?:|#", link)]
    missing = [link for link in links if not (place / link.split("#")[0]).exists()]
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    files = re.findall(
        r"(?<![\w/.-])(?:helpers|data|docs|tests|benchmarks)/[\w/.<>*-]*|\b\w+\.ipynb|\b[A-Z]+\.md", code
    )
    files = [file for file in files if not file.startswith(MADE) and not any(sign in file for sign in EXAMPLES)]
    missing += [file for file in files if not (ROOT / file).exists()]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    asked = re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z]+)\b", code)
    assert not missing and set(asked) <= set(targets), (missing, asked)
    if name == "README.md":
        assert {page for page in PAGES if page.startswith("docs/")} <= set(links) and asked and files


CALLED = {"jupyter", "jupyterlab", "jinja2", "tabulate", "psycopg", "pytest-xdist", "ruff", "pytest"}  # not imported
IMPORTED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipython"}


def test_every_package_that_is_used_is_pinned_and_no_other():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.split(r"\[|==", line)[0] for line in lines if re.fullmatch(r"[\w-]+(\[\w+\])?==[\w.]+", line)}
    assert {line for line in lines if line.split("[")[0].split("==")[0] not in pinned and line[0] != "#"} == {"-e ."}
    used = set()
    for path in [*(ROOT / "helpers").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            used |= {name.partition(".")[0] for name in [*names, getattr(node, "module", None)] if name}
    used -= {*sys.stdlib_module_names, "helpers"}
    assert {IMPORTED_AS.get(name, name) for name in used} | CALLED == pinned


def test_commands_that_messages_name_work():
    """Every one in the code between two backticks: its target, its flags, its files and programs are there."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "helpers").rglob("*.py")))
    named = set(re.findall(r"`((?:make|python|git|dask|pip) [^`{\"]+)", re.sub(r"\"\n +f?\"", "", code)))
    makefile, checked = (ROOT / "Makefile").read_text(encoding="utf-8"), set()
    for program, *rest in (shlex.split(each) for each in named):
        checked.add(program)
        if program == "make":
            assert f"\n{rest[0]}:" in makefile, rest
        elif program == "python":
            parser(tunes=True).parse_args(rest[2:] or ["study"])
        elif program == "git":
            assert rest[0] == "checkout" and (ROOT / rest[1]).is_dir(), rest
        else:
            assert program == "pip" or shutil.which(program, path=str(Path(sys.executable).parent)), program
    assert {"make", "python", "git", "dask"} <= checked


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize("forget", ["class 7", "it's $HOME", 'a "b" `c`', r"100 % \ #1; a & b*", "x, then y", "ü{z}"])
def test_words_arrive_as_they_were_given_to_make(forget):
    """As the advice to compute other results says it, and from the environment."""
    advised = study_command("fmnist", forget)
    for shell, env in ((f"{advised} -n", {}), ("make -n study", {"FORGET": forget, "DATASET": "fmnist"})):
        done = subprocess.run(shell, shell=True, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
        (line,) = [line for line in done.stdout.splitlines() if "-m helpers study" in line]
        found = parser(tunes=False).parse_args(shlex.split(line)[3:])
        assert (found.dataset, found.forget, found.models) == ("fmnist", forget, None)


def test_the_queries_of_the_readme_find_what_pandas_finds(committed):
    """On the release's frame, read as the README says; `tests/test_measures.py` asks a frame of the present code."""
    found = readme_queries(COMMITTED)
    (reads,) = re.findall(r"`(pd\.read_csv\(path, .*?\))`", (ROOT / "README.md").read_text(encoding="utf-8"))
    plain = eval(reads, {"pd": pd, "path": COMMITTED})
    assert plain.astype(COLUMNS).equals(committed)
    for query, table in found.items():
        measure, split, subset = re.findall(r'[\'"](\w+)[\'"]', query)
        for (dataset, forget), column in table.items():
            rows = plain[(plain.measure == measure) & (plain.split == split) & (plain["at"] == "")]
            rows = rows[(rows.subset == subset) & (rows.dataset == dataset) & (rows.forget == forget)]
            usual = rows.groupby("kind").value.mean()
            assert column.dropna().sort_index().to_dict() == pytest.approx(usual.sort_index().to_dict())
    assert len(found) == 4 and {"null", "gemu"} <= set(plain.kind) and (plain["at"] == "").any()


ASKED = {  # what is asked for -> what is said
    ("acuracy", "test", "forget"): "no measure 'acuracy': did you mean 'accuracy'",
    ("u_lira",): "u_lira has no such rows, .*one of: 'train', 'forget', ''; ",
    ("accuracy", None, "forget"): "accuracy has no such rows",
    ("energy_gap_without", "test", "forget"): "no measure 'energy_gap_without': did you mean 'energy_gap'",
    ("accuracy", "test", "neighbors"): "'test', 'neighbours', ''",
    ("weight_distance",): "'', '', 'conv1'",
    ("curve", "", "", "repair"): "one value per step",
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_question_that_leaves_something_out_is_told_what_there_is(committed, asked):
    """Instead of a mean over several quantities, or nothing."""
    with pytest.raises(StudyError, match=ASKED[asked]):
        ask(committed, *asked)


def test_only_a_whole_results_frame_is_asked(committed, tmp_path):
    """Not one that pandas read with its own idea of what is missing, not a part of one, not a path."""
    committed[:2_000].to_csv(tmp_path / "some.csv", index=False)
    for frame in (committed[:0], committed.drop(columns="at"), pd.read_csv(tmp_path / "some.csv"), "measures.csv"):
        with pytest.raises(StudyError, match="read it by `read_results"):
            ask(frame, "accuracy", "test", "forget")
    with pytest.raises(StudyError, match="u_lira was not measured: it needs 6 models of each kind"):
        ask(committed[committed.measure != "u_lira"], "u_lira", "train", "forget")


def test_a_report_needs_nothing_but_what_is_committed(tmp_path):
    """Frame and studies: in a copy without data, models and results it leaves both pages as they are."""
    for part in ("helpers", "data/report", "data/studies", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    shutil.copy(ROOT / "README.md", tmp_path)
    pages = {name: (tmp_path / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md")}
    for name, text in pages.items():
        (tmp_path / name).write_text(text.replace("± ", "+- "), encoding="utf-8")
    done = run_python(tmp_path, command("report"))
    assert done.returncode == 0, done.stderr[-1000:]
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in pages} == pages
    assert (tmp_path / "data" / "report" / "frontier.png").stat().st_size > 10_000


@pytest.mark.parametrize("part", ["version", "date", "machine", "sources"])
def test_a_release_that_lacks_a_part_is_told(tmp_path, monkeypatch, about, part):
    shutil.copy(COMMITTED, tmp_path)
    monkeypatch.setattr(page, "REPORT", tmp_path)
    monkeypatch.setattr(page, "ABOUT", tmp_path / "release.json")
    page.ABOUT.write_text(json.dumps({key: value for key, value in about.items() if key != part}), encoding="utf-8")
    with pytest.raises(StudyError, match="release.json is missing or damaged: take the published one"):
        page.released()


@pytest.mark.parametrize("part", EXAMPLE_PARTS)
def test_pictures_that_lack_a_part_are_told(tmp_path, part):
    whole = load_arrays(COMMITTED.parent / "examples.npz", "", EXAMPLE_PARTS)
    save_arrays(tmp_path / "examples.npz", **{name: value for name, value in whole.items() if name != part})
    with pytest.raises(StudyError, match="make release"):
        load_arrays(tmp_path / "examples.npz", page.REMEDY, EXAMPLE_PARTS)


@pytest.mark.parametrize("dataset", ["mnist", "cmnist"])
def test_words_say_what_the_frame_says(committed, dataset):
    one = page.requests_of(committed)[dataset, "crossbar"]
    lines = words.conclusions(one).data.splitlines()
    close, compared, attack, *_ = [line for line in lines if " diverged and count as " not in line]
    ascent = lines[-1]
    for kind in ("gemu", "gefeu"):
        assert f"{100 * mean(one, kind, 'energy_gap', 'test', 'forget'):.1f} %" in close
        assert f"{100 * mean(one, kind, 'accuracy', 'test', 'forget'):.1f} %" in close
    best = tables.best_plain(one)
    kept = (
        100 * one.query("measure == 'accuracy' and split == 'test' and subset == 'retain'").groupby("kind").value.mean()
    )
    lost = (kept["retrained"] - kept).round(2)
    assert f"lose {lost['gemu']:.2f} and {lost['gefeu']:.2f} percentage points of accuracy on the rest" in close
    assert all(f"% closed, {lost[kind]:.2f} points lost" in compared for kind in (best, "new"))
    losses = one.query("measure == 'loss' and split == 'train' and subset == 'forget'").groupby("kind").value
    usual = losses.get_group("retrained")
    careful = [kind for kind, own in losses if ttest_ind(own, usual, equal_var=False).statistic < 0]
    careful += [kind for kind, own in losses if ttest_ind(own, usual, equal_var=False).pvalue >= 0.05]
    gaps = one.query("measure == 'energy_gap' and split == 'test' and subset == 'forget'").groupby("kind").value.mean()
    assert gaps[best] == max(gaps[k] for k in careful if k in METHODS and k not in ("gemu", "gefeu", "new"))
    rival = f"the best rival, {METHODS[best].title}"
    told = []
    for sentence, other, name in zip(
        re.split(r"(?<=\))\. ", compared), (best, "new"), (rival, "a new model"), strict=True
    ):
        assert name in sentence
        for kind in ("gemu", "gefeu"):
            found = [100 * values(one, name, "energy_gap", "test", "forget") for name in (kind, other)]
            left = [100 * values(one, name, "energy_gap_without", "test", "forget") for name in (kind, other)]
            usual = ttest_rel(*found)
            low, high = usual.confidence_interval()
            more, p = (found[0] - found[1]).mean(), usual.pvalue
            if len(left[0]):  # the jackknife, by hand
                n, apart = len(left[0]), left[0] - left[1]
                error = np.sqrt((n - 1) / n * ((apart - apart.mean()) ** 2).sum())
                low, high = more - t.ppf(0.975, n - 1) * error, more + t.ppf(0.975, n - 1) * error
                p = 2 * t.sf(abs(more) / error, n - 1)
            told.append((p, "closer to retraining" if more > 0 else "further from", sentence))
            assert f"{more:+.1f}" in sentence and f"{low:+.1f} to {high:+.1f}" in sentence
    sure = True
    for rank, (p, word, sentence) in enumerate(sorted(told)):  # Holm, step by step
        sure = sure and p * (len(told) - rank) < 0.05
        assert (word if sure else "clearly apart") in sentence
    low, high = null_of(one, "u_lira", "train", "forget")
    right = {kind: mean(one, kind, "u_lira", "train", "forget") for kind in ("gemu", "gefeu", best, "new")}
    assert f"give {100 * low:.1f} to {100 * high:.1f} %" in attack
    assert all(f"{100 * each:.1f} %" in attack for each in right.values())
    assert ("all of them" in attack) == (min(right.values()) > high)
    lost = mean(one, "retrained", "accuracy", "test", "retain") - mean(one, "ascent", "accuracy", "test", "retain")
    assert "forgets more than retraining" in ascent and f"loses {100 * lost:.0f} percentage points" in ascent


def test_the_best_rival_is_neither_ours_nor_a_new_model():
    made = made_up(SOME, spread=0.0)
    closed = made.kind.map({"gemu": 1.0, "new": 1.0, "reset": 0.95, "salun": 0.9}).where(made.measure == "energy_gap")
    assert tables.best_plain(made.assign(value=closed.fillna(made.value))) == "reset"


def test_words_on_an_attack_that_fails_on_some(committed):
    """U-LiRA of made-up accuracy on one method and on all, beside the null distribution of the frame."""
    one = page.first_of(committed)
    attack, best = (one.measure == "u_lira") & (one.kind != "null"), tables.best_plain(one)
    for kinds, said in (
        (("gefeu", best, "new"), "GEMU"),
        ((), "all of them"),
        (("gemu", "gefeu", best, "new"), "none"),
    ):
        made = one.assign(value=one.value.mask(attack, 0.9).mask(attack & one.kind.isin(kinds), 0.5))
        assert f"So it distinguishes {said}" in words.conclusions(made).data.splitlines()[2]
    assert len(words.conclusions(one[one.measure != "u_lira"]).data.splitlines()) == 3  # as of fewer than six models


def test_words_on_two_methods_that_differ():
    clear, none = (Estimate(0.032, 0.03, 0.034, 0.001), 0.004), (Estimate(0.001, -0.02, 0.022, 0.9), 1.0)
    further = (Estimate(-0.032, -0.034, -0.03, 0.001), 0.004)
    same, mixed = (
        words._compared(both, "X", "80.0 % closed", again=False) for both in ([clear, clear], [none, further])
    )
    assert same.startswith("GEMU and GeFeU are closer to retraining than X (80.0 % closed): +3.2 points (95 % interval")
    again = words._compared([clear, clear], "X", "80.0 % closed", again=True)
    assert again.startswith("Both are closer to retraining than X (80.0 % closed): +3.2 points (+3.0 to +3.4) and")
    assert mixed.startswith(
        "GEMU is not clearly apart from X (80.0 % closed), GeFeU is further from retraining: +0.1 points"
    )
    assert words._compared([none, none], "X", "80.0 % closed", again=True).startswith(
        "Neither is clearly apart from X (80.0 % closed)"
    )
    unsure = (Estimate(0.032, 0.001, 0.063, 0.04), 0.12)  # significant alone, not among several comparisons
    assert words._compared([unsure, unsure], "X", "80.0 % closed", False).startswith(
        "GEMU and GeFeU are not clearly apart from X"
    )


def test_holm_agrees_with_its_definition():
    ps = [0.01, 0.04, 0.03, 0.005]
    assert holm(ps) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_jackknife_of_a_mean_is_the_t_interval():
    sample = np.random.default_rng(0).normal(size=12)
    left = np.array([np.delete(sample, place).mean() for place in range(12)])
    found, usual = jackknife(sample.mean(), left), ttest_1samp(sample, 0)
    assert (found.low, found.high) == pytest.approx(tuple(usual.confidence_interval()))
    assert found.p == pytest.approx(usual.pvalue)


def test_tables_tex_needs_booktabs_alone(committed, tmp_path):
    text = export.tables_tex(page.first_of(committed))
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
    one = page.first_of(committed).assign(forget=r"100 %, &my_list #1 a^b {x} ~$5\z")
    escaped = r"100 \%, \&my\_list \#1 a\textasciicircum{}b \{x\} \textasciitilde{}\$5\textbackslash{}z."
    assert f"forgotten: {escaped}" in export.tables_tex(one)


@pytest.mark.parametrize("name, mark", [("README.md", "results"), ("docs/speed.md", "performance")])
def test_a_page_is_changed_between_its_marks_only(tmp_path, monkeypatch, name, mark):
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    before = (tmp_path / name).read_text(encoding="utf-8")
    page.write_page(page.page_with({mark: "a table"}, name), name)
    after = (tmp_path / name).read_text(encoding="utf-8")
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    assert after.split(begin)[0] == before.split(begin)[0] and after.split(end)[1] == before.split(end)[1]
    assert after.split(begin)[1].split(end)[0].strip() == "a table"
    (tmp_path / name).write_text("nothing")
    with pytest.raises(StudyError, match="has lost its lines"):
        page.page_with({mark: "a table"}, name)
