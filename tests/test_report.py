"""Tables and figures stand for any results; the README's come from the frame that is committed."""

import itertools
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from IPython.core.formatters import DisplayFormatter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from nbconvert import HTMLExporter
from programs import command, run_python

from helpers.data.task import SUBSETS
from helpers.evaluation.evaluate import with_derived
from helpers.evaluation.frame import COLUMNS, Rows, interval, mean, null_of, select, values
from helpers.files import StudyError, load_arrays, load_frame
from helpers.models.cnn import LAYERS
from helpers.report import export, figures, frontier, page, pictures, requests, style, summary, tables
from helpers.unlearning import FRONTIER, METHODS, OURS, TITLES

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


def test_labels_name_every_method_and_its_value_beyond_the_axis():
    made = frontier.frontier(ANY["all methods far below"])
    texts = " ".join(text.get_text() for text in made.axes[0].texts)
    assert all(method.title in texts for method in METHODS.values()) and "\N{MINUS SIGN}4,60" in texts


def test_the_frontier_draws_what_the_frame_says():
    """Points and lines by pandas alone."""
    results = ANY["as usual"]
    axis = frontier.frontier(results).axes[0]
    by_hand = (
        100
        * results.query("measure == 'energy_gap' and split == 'test' and subset == 'forget'")
        .groupby("kind")
        .value.mean()
    )
    costs = 100 * results.query("measure == 'samples_share'").groupby("kind").value.mean()
    drawn = {line.get_label(): line.get_ydata()[0] for line in axis.lines}
    for kind in METHODS:
        assert drawn[kind] == pytest.approx(by_hand[kind])
    at = {tuple(np.round(line.get_xydata()[0], 6)) for line in axis.lines if len(line.get_xdata()) == 1}
    assert all((round(costs[kind], 6), round(by_hand[kind], 6)) in at for kind in OURS)
    for base in frontier.LINES:
        kinds = [f"{base}_{share}" for share in ("02", "05", "10", "20", "30", "50")]
        expected = np.column_stack([costs[kinds], by_hand[kinds]])
        assert any(
            np.allclose(line.get_xydata(), expected) for line in axis.lines if len(line.get_xdata()) == len(kinds)
        )
    lost = frontier.point(results, "gemu", "lost on retain, percentage points")[0]
    kept = (
        results.query("measure == 'accuracy' and split == 'test' and subset == 'retain'").groupby("kind").value.mean()
    )
    assert lost == pytest.approx(100 * (kept["retrained"] - kept["gemu"]))


def boxes(artists, canvas):
    """Where artists are drawn, in pixels."""
    return [artist.get_window_extent(canvas.get_renderer()) for artist in artists]


@pytest.mark.parametrize("what", ["committed", "as usual", "equal values", "all methods far below"])
def test_no_name_in_the_frontier_lies_on_another_or_on_a_point(what, committed):
    made = frontier.frontier(committed if what == "committed" else ANY[what])
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    for axis in made.axes:
        names = [text for text in axis.texts if text.get_text()] + [axis.title, axis._left_title, axis.xaxis.label]
        places = [place for place in boxes(names, canvas) if place.width]
        for k, one in enumerate(places):
            assert not any(one.overlaps(other.padded(-1)) for other in places[:k])
        assert all(text.get_fontsize() >= 6.5 for text in axis.texts)
        points = [line for line in axis.lines if len(line.get_xdata()) == 1]
        for point in boxes(points, canvas):
            assert not any(place.overlaps(point.padded(-1)) for place in places[:-3])
        whole = made.bbox.padded(1)
        assert all(whole.x0 <= place.x0 and place.x1 <= whole.x1 for place in places)
    named = [boxes(axis.texts, canvas) for axis in made.axes]
    for left, axis in zip(named, made.axes[1:], strict=False):  # nor in the next panel
        assert axis.bbox.x0 < axis.figure.axes[0].bbox.x1 or all(place.x1 < axis.bbox.x0 for place in left)


def test_labels_stand_apart_and_as_near_as_they_can():
    assert frontier.heights([10, 50, 90], 8, 100).tolist() == [10, 50, 90]
    assert frontier.heights([50, 50], 8, 100).tolist() == pytest.approx([46, 54])
    assert frontier.heights([0, 0, 1], 8, 100).tolist() == pytest.approx([0, 8, 16])
    crowd = frontier.heights([100] * 30, 8, 100)
    assert crowd[0] == pytest.approx(0) and crowd[-1] == pytest.approx(100)
    assert np.diff(crowd) == pytest.approx(np.full(29, 100 / 29)) and not len(frontier.heights([], 8, 100))


def test_every_kind_has_a_look_of_its_own(monkeypatch):
    """A colour each; and in grey, as printed, no two of one shape are alike. A method that is added has one too."""
    kinds = [*BASE, *METHODS]
    assert len({style.colour_of(kind) for kind in kinds}) == len(kinds)
    for one, other in itertools.combinations(kinds, 2):
        grey = [255 * np.dot(to_rgb(style.colour_of(kind)), (0.299, 0.587, 0.114)) for kind in (one, other)]
        assert style.marker_of(one) != style.marker_of(other) or abs(grey[0] - grey[1]) >= 30, (one, other)
    monkeypatch.setattr(style, "METHODS", METHODS | {f"zz{k}": METHODS["gemu"] for k in range(30)})
    looks = {(style.colour_of(kind), style.marker_of(kind)) for kind in style.METHODS}
    assert len(looks) == len(METHODS) + 30
    assert all(style.colour_of(kind) == style.colour_of(kind.split("_")[0]) for kind in FRONTIER)


def test_figures_for_papers_keep_their_text_and_are_the_same_file_again(committed, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "RESULTS", tmp_path)
    task = SimpleNamespace(data=SimpleNamespace(name="mnist"), folder="crossbar")
    files = {}
    for _ in range(2):
        style.store(figures.curves_figure(committed[committed.dataset == "mnist"], "gemu"), task, "curves")
        for path in (tmp_path / "figures").iterdir():
            assert files.setdefault(path.name, path.read_bytes()) == path.read_bytes()
    assert set(files) == {"mnist-crossbar-curves.pdf", "mnist-crossbar-curves.svg"}
    assert b">cross-entropy, nats</text>" in files["mnist-crossbar-curves.svg"]
    pdf = files["mnist-crossbar-curves.pdf"]
    assert b"/FontFile2" in pdf and b"CreationDate" not in pdf and b"/Type3" not in pdf


@pytest.fixture(scope="module")
def readers(task):
    """Kinds of three models, of which every one reads a 7 in everything (trained), or 2, 2 and 3."""
    made = {}
    for kind, read in {"untrained": (0, 0, 0), "trained": (7, 7, 7), "gemu": (2, 3, 2)}.items():
        test = np.eye(10, dtype=np.float32)[list(read)][:, None].repeat(len(task.data.test), 1)
        noise = np.zeros((4, 8, 1, 28, 28), np.float32)
        about = SimpleNamespace(name=kind, title=TITLES[kind])
        made[kind] = SimpleNamespace(kind=about, seeds=range(3), logits=SimpleNamespace(test=test, noise=noise))
    return made


@pytest.fixture
def pictured(task, readers, committed, monkeypatch):
    """Name of a function that a notebook calls -> the figure that it gives."""
    monkeypatch.setattr(pictures, "logits_of", lambda ensemble, task: ensemble.logits)
    monkeypatch.setattr(pictures, "parts_of", lambda task, logits: {("test", "forget"): (logits.test[:, :20], None)})
    one = committed[committed.dataset == "mnist"]
    monkeypatch.setattr(requests, "stored_requests", lambda task: ({"crossbar": one, "plain": one}, []))
    return {
        "forget_and_retain": lambda: pictures.forget_and_retain(task),
        "contact_sheet": lambda: pictures.contact_sheet(task),
        "noise_pictures": lambda: pictures.noise_pictures(readers["gemu"], task),
        "prediction_page": lambda: pictures.prediction_page(task, *readers.values()),
        "heat_map": lambda: pictures.heat_map(task, *readers.values()),
        "phases_picture": lambda: pictures.phases_picture("the trained model's own outputs"),
        "requests_figure": lambda: requests.requests_figure(task),
        "frontier": lambda: frontier.frontier(one),
        "accuracy_figure": lambda: figures.accuracy_figure(one),
        "gap_figure": lambda: figures.gap_figure(one),
        "bars_figure": lambda: figures.bars_figure(one, ["trained", "retrained", "gemu"], "predictions"),
        "class_figure": lambda: figures.class_figure(one, ["trained", "retrained", "gemu"]),
        "curves_figure": lambda: figures.curves_figure(one, "gemu"),
        "audit_figure": lambda: figures.audit_figure(one),
    }


def test_every_figure_of_the_notebooks_says_in_words_what_it_shows(pictured):
    """With the numbers where there are some; and so does the page that is made of a notebook."""
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("*.ipynb"))
    called = set(re.findall(r"\b(?:figures|frontier|pictures)\.(\w+)\(", code)) | {"requests_figure"}
    assert called <= set(pictured)
    made = {name: draw() for name, draw in pictured.items()}
    for name, figure in made.items():
        assert len(figure.alt) > 40 and figure.alt.endswith("."), name
        assert figure.get_figwidth() <= 9.65 and not re.search(r"\bnan\b", figure.alt), name
    assert "GEMU 92 %" in made["frontier"].alt and "Trained 95.6" in made["accuracy_figure"].alt
    assert "Trained 100 %, GEMU 0 %" in made["prediction_page"].alt
    data, about = DisplayFormatter().format(made["curves_figure"])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("shown")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": "AAAA"}, metadata=about)]
    page = HTMLExporter(template_name="classic").from_notebook_node(notebook)[0]
    assert data["text/plain"] == f"<Figure: {made['curves_figure'].alt}>" and "image/png" in data
    assert f'alt="{made["curves_figure"].alt}"' in page


def test_what_models_read_is_counted_as_it_was(task, readers, pictured):
    found = pictures.votes_of(task, *readers.values(), k=8)
    assert found["votes"].shape == (3, 8, 10) and found["votes"].sum() == 3 * 8 * 3
    assert (found["votes"][2, :, 2] == 2).all() and (found["votes"][2, :, 3] == 1).all()
    assert (found["labels"] == 7).all() and found["kinds"].tolist() == ["untrained", "trained", "gemu"]
    raw = task.data.pictures(task.forget_set("test")[0][:8])[:, 0]
    assert found["pictures"].dtype == np.uint8 and np.abs(255 - found["pictures"] - 255 * raw.numpy()).max() <= 0.5
    words = [text.get_text() for text in pictures.prediction_page(task, readers["gemu"], k=8).axes[0].texts]
    assert words == ["GEMU", *["2", "2/3"] * 8]
    assert summary.examples(task, list(readers.values()))["kinds"].tolist() == ["trained", "gemu"]


def test_the_summary_shows_what_is_stored(committed, tmp_path, monkeypatch, capsys):
    stored = load_arrays(COMMITTED.parent / "examples.npz", "")
    assert (COMMITTED.parent / "examples.npz").stat().st_size < 30_000
    assert stored["votes"].shape == (len(summary.KINDS), summary.SHOWN, 10) and len(stored["pictures"]) == 8
    assert (stored["votes"].sum(2) == stored["models"][:, None]).all() and (stored["labels"] == 7).all()
    made = summary.summary(committed, stored)
    words = [text.get_text() for text in made.axes[0].texts]
    at = words.index("GEMU") + 1
    assert words[at : at + 16 : 2] == [str(each.argmax()) for each in stored["votes"][2]]
    names = {text.get_text().split(" ↑")[0] for text in made.axes[3].texts}
    assert {METHODS[kind].title for kind in METHODS if kind in set(committed.kind)} <= names
    with pytest.raises(StudyError, match="another release"):
        summary.summary(committed[committed.dataset == "cmnist"], stored)
    for name in ("measures.csv.gz", "release.json"):
        shutil.copy(COMMITTED.parent / name, tmp_path)
    monkeypatch.setattr(page, "REPORT", tmp_path)
    monkeypatch.setattr(page, "write_page", lambda text: None)
    monkeypatch.setattr(page, "frontier", lambda results: style.figure()[0])  # which others test
    page.report()
    assert "examples.npz is missing: take the published one, or run `make release`" in capsys.readouterr().out
    assert (tmp_path / "frontier.png").exists() and not (tmp_path / "summary.png").exists()


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


def test_figures_are_shown_where_nothing_may_be_written(committed, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.setattr(style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(export, "results_folder", lambda task: tmp_path / "results" / "mnist")
    one, task = (
        committed[committed.dataset == "mnist"],
        SimpleNamespace(
            data=SimpleNamespace(name="mnist"), request=SimpleNamespace(name="crossbar"), folder="crossbar"
        ),
    )
    made = figures.bars_figure(one, ["trained"], "predictions")
    assert style.store(made, task, "predictions") is made
    assert "could not be written" in capsys.readouterr().out and "could not be written" in export.export(one, task).data
    assert (tmp_path / "results").read_text() == "a file where the folder should be"


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
