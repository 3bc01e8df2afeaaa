"""Figures show what the frame says, in names that do not meet, in colours and in grey, in words, on paper and on the
screen."""

import itertools
import re
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from IPython.core.formatters import DisplayFormatter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from nbconvert import HTMLExporter
from test_report import ANY, BASE, COMMITTED

from helpers.evaluation.frame import COLUMNS
from helpers.files import StudyError, load_arrays, load_frame
from helpers.report import export, figures, frontier, page, pictures, requests, style, summary
from helpers.unlearning import FRONTIER, METHODS, OURS, TITLES


@pytest.fixture(scope="module")
def committed():
    """The frame of the last release, which may be older than the code."""
    return load_frame(COMMITTED, COLUMNS, "")


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
        kinds = [kind for kind in FRONTIER if kind.startswith(f"{base}_")]  # from the smallest budget to the largest
        expected = np.column_stack([costs[kinds], by_hand[kinds]])
        assert any(
            np.allclose(line.get_xydata(), expected) for line in axis.lines if len(line.get_xdata()) == len(kinds)
        )
    lost = frontier.point(results, "gemu", "accuracy lost on the rest, points")[0]
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


def test_the_panels_give_room_to_where_most_methods_lie():
    gap, attack, lost = frontier.PANELS
    assert frontier.edges([1, 48, 77, 80, 91, 93, 95, 96], gap) == (60, 104)
    assert frontier.edges([95, 96, 97], gap) == (70, 104) and frontier.edges([-300, -2, 5], gap) == (0, 104)
    assert frontier.edges([0.1, 0.2, 0.4, 0.4, 85], lost)[1] == 1
    assert frontier.edges([0.1, 0.8, 0.8, 0.9], lost)[1] == 1.5
    assert frontier.edges([40, 80], lost)[1] == 2.2 and frontier.edges([], lost)[1] == 2.2
    assert frontier.edges([0.7, 0.9], attack) == (0.4, 1.02)


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
        style.store(figures.curves_figure(page.first_of(committed), "gemu"), task, "curves")
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
    one = page.first_of(committed)
    return {
        "forget_and_retain": lambda: pictures.forget_and_retain(task),
        "contact_sheet": lambda: pictures.contact_sheet(task),
        "class_rows": lambda: pictures.class_rows(task.data),
        "most_and_least": lambda: pictures.most_and_least(task, readers["gemu"]),
        "noise_pictures": lambda: pictures.noise_pictures(readers["gemu"], task),
        "prediction_page": lambda: pictures.prediction_page(task, *readers.values()),
        "heat_map": lambda: pictures.heat_map(task, *readers.values()),
        "phases_picture": lambda: pictures.phases_picture("gefeu"),
        "requests_figure": lambda: requests.requests_figure({"crossbar": one, "plain": one}),
        "frontier": lambda: frontier.frontier(one),
        "accuracy_figure": lambda: figures.accuracy_figure(one),
        "gap_figure": lambda: figures.gap_figure(one),
        "bars_figure": lambda: figures.bars_figure(one, ["trained", "retrained", "gemu"], "predictions"),
        "class_figure": lambda: figures.class_figure(one, ["trained", "retrained", "gemu"]),
        "curves_figure": lambda: figures.curves_figure(one, "gemu"),
        "resurgence_figure": lambda: figures.resurgence_figure(one, ["trained", "retrained", "gemu"]),
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


def test_a_method_that_is_far_worse_than_nothing_does_not_hide_the_others(committed):
    one = page.first_of(committed)
    far = (one.kind == "ascent") & one.measure.isin(["energy_gap", "energy_gap_without"])
    made = requests.requests_figure({"crossbar": one.assign(value=one.value.mask(far, -300.0))})
    axis = made.axes[0]
    assert axis.get_xlim()[0] > -150 and [text.get_text() for text in axis.texts] == ["\N{MINUS SIGN}30,000"]
    assert "Gradient Ascent -30000 %" in made.alt


def test_a_model_that_diverged_reads_nothing(task, readers, monkeypatch):
    outputs = readers["gemu"].logits
    lost = SimpleNamespace(test=np.where(np.arange(3)[:, None, None] == 1, np.nan, outputs.test))
    monkeypatch.setattr(pictures, "logits_of", lambda *_: lost)
    (votes,) = pictures.votes_of(task, readers["gemu"], k=8)["votes"]
    assert (votes.sum(1) == 2).all() and (votes[:, 0] == 0).all()


def test_the_summary_shows_what_is_stored(committed, tmp_path, monkeypatch, capsys):
    stored = load_arrays(COMMITTED.parent / "examples.npz", "")
    assert (COMMITTED.parent / "examples.npz").stat().st_size < 30_000
    assert set(summary.KINDS) <= set(stored["kinds"]) and len(stored["pictures"]) == 8
    assert stored["votes"].shape == (len(stored["kinds"]), summary.SHOWN, 10)
    assert (stored["votes"].sum(2) == stored["models"][:, None]).all() and (stored["labels"] == 7).all()
    made = summary.summary(page.first_of(committed), stored)
    words = [text.get_text() for text in made.axes[0].texts]
    at = words.index("GEMU") + 1
    assert words[at : at + 16 : 2] == [str(each.argmax()) for each in stored["votes"][2]]
    names = {text.get_text().split(" ↑")[0] for text in made.axes[3].texts}
    assert {METHODS[kind].title for kind in METHODS if kind in set(committed.kind)} <= names
    with pytest.raises(StudyError, match="another release"):
        summary.summary(committed[committed.dataset == "cmnist"], stored)
    beside = dict(stored) | {"kinds": np.array([*stored["kinds"], "unsir"])}
    beside |= {part: np.concatenate([stored[part], stored[part][-1:]]) for part in ("votes", "models")}
    one = page.first_of(committed)
    best = one.assign(value=one.value.mask((one.kind == "unsir") & (one.measure == "energy_gap"), 1.0))
    for results, shown in ((one, False), (best, True)):  # a row of its own for the best rival
        texts = [text.get_text() for text in summary.summary(results, beside).axes[0].texts]
        assert ("UNSIR" in texts) == shown and {"GEMU", "Reset"} <= set(texts)
    for name in ("measures.csv.gz", "release.json"):
        shutil.copy(COMMITTED.parent / name, tmp_path)
    monkeypatch.setattr(page, "REPORT", tmp_path)
    monkeypatch.setattr(page, "write_page", lambda text, name: None)
    monkeypatch.setattr(page, "frontier", lambda results: style.figure()[0])  # which others test
    page.report()
    assert "examples.npz is missing: take the published one, or run `make release`" in capsys.readouterr().out
    assert (tmp_path / "frontier.png").exists() and not (tmp_path / "summary.png").exists()


def test_figures_are_shown_where_nothing_may_be_written(committed, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.setattr(style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(export, "results_folder", lambda task: tmp_path / "results" / "mnist")
    one, task = (
        page.first_of(committed),
        SimpleNamespace(
            data=SimpleNamespace(name="mnist"), request=SimpleNamespace(name="crossbar"), folder="crossbar"
        ),
    )
    made = figures.bars_figure(one, ["trained"], "predictions")
    assert style.store(made, task, "predictions") is made
    assert "could not be written" in capsys.readouterr().out and "could not be written" in export.export(one, task).data
    assert (tmp_path / "results").read_text() == "a file where the folder should be"
