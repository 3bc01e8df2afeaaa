"""The notebooks in a temporary copy: executed top to bottom, with wrong flags, and as they are committed.

Colored MNIST is constructed here; `test_notebooks_published.py` runs the same on the published pictures.
"""

import html
import json
import shutil
import subprocess

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import NOTEBOOKS, ROOT, SETUP
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from programs import command, run_python

from helpers import run
from helpers.files import StudyError


def execute(folder, name, **parameters):
    parameters = {"USED_DATASET": "cmnist", "N_MODELS": 2} | parameters
    return papermill.execute_notebook(
        nbformat.read(folder / f"{name}.ipynb", 4),
        None,
        parameters,
        cwd=str(folder),
        kernel_name="python3",
        progress_bar=False,
    )


@pytest.fixture(scope="module")
def kernel(workshop):
    """One kernel in the copy's folder, as Jupyter starts it."""
    client = NotebookClient(nbformat.v4.new_notebook(), resources={"metadata": {"path": str(workshop)}}, timeout=120)
    with client.setup_kernel():
        yield client


@pytest.mark.parametrize(
    "name, flags, sentence",
    [
        ("netcomp_compare", {"USED_DATASET": "cminst"}, 'did you mean "cmnist"'),
        ("netcomp_compare", {"N_MODELS": 0}, "N_MODELS must be a whole number from 2 up, for example 10, not 0"),
        ("netcomp_compare", {"N_MODELS": 1}, "not 1: models of different seeds are compared"),
        ("netcomp_compare", {"N_MODELS": "3"}, "N_MODELS must be a whole number from 2 up, for example 10, not '3'"),
        ("netcomp_compare", {"USED_DATASET": ["mnist"]}, "USED_DATASET = ['mnist'] is not known"),
        ("netcomp_compare", {"FORGET": "crosbar"}, 'choose "crossbar"'),
        ("netcomp_compare", {"ALLREADY_TRAINED": "False"}, "ALLREADY_TRAINED must be True or False, without quotes"),
        ("netcomp_compare", {"ALLREADY_TRAINED": True, "N_MODELS": 50}, "models are stored"),
        ("netcomp_SimpleAscent", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("netcomp_GEMU", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("netcomp_GeFeU", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("graphics", {"FORGET": "plain"}, "run netcomp_compare.ipynb"),
        ("generator_optim", {"N_MODELS": 0}, "N_MODELS must be a whole number from 2 up, for example 10, not 0"),
        ("generator_optim", {"FORGET": "plain", "N_TRIALS": 5}, "run netcomp_compare.ipynb"),
    ],
)
def test_wrong_flags_give_one_sentence_with_the_remedy(workshop, kernel, name, flags, sentence):
    cells = run_until_refused(workshop, kernel, name, flags, sentence)
    assert not any("run_trials(" in cell.source for cell in cells)  # before minutes are spent


def run_until_refused(workshop, kernel, name, flags, sentence):
    """Runs the notebook's cells until one is refused with the sentence alone, no stack; returns those that were run."""
    cells = [cell for cell in nbformat.read(workshop / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    flags = {"USED_DATASET": "cmnist", "N_MODELS": 2, "FORGET": "crossbar", "ALLREADY_TRAINED": False} | flags
    cells.insert(1, nbformat.v4.new_code_cell("\n".join(f"{key} = {value!r}" for key, value in flags.items())))
    kernel.nb.cells = cells
    with pytest.raises(CellExecutionError) as error:
        for at, cell in enumerate(cells):
            kernel.execute_cell(cell, at)
    assert error.value.ename == "StudyError" and sentence in error.value.evalue
    shown = [output for output in cell.outputs if output.output_type == "error"]
    assert [output.traceback for output in shown] == [[f"StudyError: {error.value.evalue}"]]
    return cells[: at + 1]


@pytest.fixture(scope="module")
def study(workshop):
    """The whole study from the command line, two models of each kind."""
    done = run_python(workshop, command("study", "--dataset", "cmnist", "--models", "2"), timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def executed(workshop, study):
    folder = workshop / "data" / "results" / "notebooks" / "cmnist" / "crossbar"
    return {name: nbformat.read(folder / f"{name}.ipynb", 4) for name in NOTEBOOKS}


def test_a_study_shows_one_bar_one_table_and_where_things_are(workshop, study):
    lines = study.stdout.splitlines()
    assert "2 models of each kind on cpu" in study.stdout and "Done in" in study.stdout
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[1:3] == ["Trained", "Retrained"] and rows[-1] == "Null distribution, 95 %"
    assert {"GEMU", "GeFeU", "Reset", "New model", "Retrained again"} <= set(rows)
    assert max(map(len, lines[2:])) <= 120 and "UNLEARNING_QUICK" in study.stdout
    named = [workshop / line.split()[-1] for line in lines[-4:]]
    assert all(path.exists() for path in named), lines[-4:]
    told = study.stderr + study.stdout
    assert ("Making and measuring the models will take about" in told) or "[00:2" not in told  # not within 20 s
    bars = study.stderr.replace("\r", "\n").splitlines()
    assert any("of 2 models made" in line for line in bars), study.stderr[-1000:]
    assert any("models measured" in line for line in bars) and "Traceback" not in study.stderr
    assert "IPKernelApp" not in study.stderr  # the kernels have nothing to say
    assert "make study" not in study.stdout  # nothing about data sets that were not asked for


def test_the_page_asks_for_nothing_and_shows_every_figure(workshop, executed):
    page = (workshop / "data" / "results" / "cmnist" / "crossbar" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in page and 'src="data:image/png' in page
    cells = [cell for cell in executed["graphics"].cells if "notebook-only" not in cell.metadata.get("tags", [])]
    shown = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert page.count("<img") == len(shown) >= 6 and page.count("<table") >= 3
    assert "No description" not in page and "load_task" not in page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
CHROMIUM_FLAGS += "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
PHONE = """<!doctype html><iframe width=400 height=900 srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const inside = document.querySelector("iframe"), page = inside.contentDocument;
  const found = {{
    width: page.documentElement.scrollWidth,
    images: [...page.images].map((i) => [i.complete && i.naturalWidth, i.getBoundingClientRect().width, i.alt]),
    font: parseFloat(getComputedStyle(page.querySelector("p")).fontSize),
    asked: inside.contentWindow.performance.getEntriesByType("resource").map((e) => e.name),
  }};
  found.asked = found.asked.filter((name) => !name.startsWith("data:"));
  document.body.textContent = JSON.stringify(found);
}});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page in (Debian: chromium)")
def test_the_page_can_be_read_on_a_phone(workshop, executed, tmp_path):
    page = (workshop / "data" / "results" / "cmnist" / "crossbar" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "phone.html").write_text(PHONE.format(page=html.escape(page)), encoding="utf-8")
    place = (tmp_path / "phone.html").as_uri()
    call = [CHROMIUM, *CHROMIUM_FLAGS.split(), f"--user-data-dir={tmp_path}/profile", place]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    found = json.loads(html.unescape(done.stdout.split("<body>")[1].split("</body>")[0]))
    assert found["width"] <= 400 and found["font"] >= 14 and found["asked"] == []
    assert len(found["images"]) >= 6
    for there, width, alt in found["images"]:
        assert there and 250 < width <= 400 and len(alt) > 20


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs_top_to_bottom(executed, name):
    code = [cell for cell in executed[name].cells if cell.cell_type == "code" and cell.source]
    assert all(cell.execution_count for cell in code)
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    tables = [o for cell in code for o in cell.outputs if "<table" in str(o.get("data", {}).get("text/html", ""))]
    assert len(pictures) >= 4 and len(tables) >= 2


def test_the_data_are_those_that_the_fixture_chose(workshop, executed):
    archive = (workshop / "data" / "downloads" / "colorized-MNIST.tar.gz").is_file()
    assert ("published pictures" in str(executed["graphics"])) == archive
    assert ("constructed from MNIST" in str(executed["graphics"])) != archive


def test_the_frame_that_is_left_is_of_the_stored_models(workshop, executed):
    """Recomputed from the models by hand, and from what the user finds in measures.csv."""
    code = (
        SETUP
        + """
import json
from helpers.models.training import predict
ensemble = unlearned("gemu", task, 2, stored=True)
images, labels = task.forget_set("test")
print(json.dumps([float((predict(m, images).argmax(1) == labels).float().mean()) for m in ensemble.models]))
"""
    )
    right = json.loads(run_python(workshop, code).stdout.splitlines()[-1])
    folder = workshop / "data" / "results" / "cmnist" / "crossbar"
    frame = pd.read_csv(folder / "measures.csv", keep_default_na=False, na_values=[""])
    mine = frame.query("kind == 'gemu' and measure == 'accuracy' and split == 'test' and subset == 'forget'")
    assert mine.value.tolist() == pytest.approx(right) and mine.seed.tolist() == [0, 1]
    assert set(frame.kind) >= {"untrained", "trained", "retrained", "gemu", "ssd", "null"}
    assert "booktabs" in (folder / "tables.tex").read_text()


def test_without_studies_the_notebook_of_studies_says_so_and_goes_on(workshop, executed):
    notebook = execute(workshop, "generator_optim", STUDY_NAME="nobodys")
    shown = str([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])
    assert shown.count("There is no finished trial to show") >= 6 and "0: set N_TRIALS above 0" in shown
    assert "is GeFeU closer?" in shown  # its last section
    assert not (workshop / "data" / "studies").exists()


def test_a_release_of_tiny_models_is_refused(workshop):
    done = run_python(workshop, command("release", "--models", "2"))
    assert done.returncode == 1 and "unset UNLEARNING_QUICK" in done.stderr.splitlines()[-1]
    assert not (workshop / "data" / "report").exists()


def test_stored_work_is_loaded_without_computing(workshop, executed):
    files = [
        path
        for part in ("models", "results")
        for path in (workshop / "data" / part).rglob("*.*")
        if path.suffix not in (".pdf", ".svg")
    ]
    before = {path: path.stat().st_mtime_ns for path in files if path.is_file()}
    notebook = execute(workshop, "netcomp_GeFeU", ALLREADY_TRAINED=True)
    assert before and before == {path: path.stat().st_mtime_ns for path in before}
    assert nbformat.validate(notebook) is None


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"N_TRIALS": "5"}, "N_TRIALS = '5' is no number of trials"),
        ({"N_TRIALS": 2.5}, "N_TRIALS = 2.5 is no number of trials"),
        ({"N_TRIALS": -5}, "N_TRIALS = -5 is no number of trials"),
        ({"STUDY_NAME": "a/b"}, "STUDY_NAME = 'a/b-gemu' names no study"),
        ({"STORAGE": 5}, "STORAGE = 5 is no address"),
        ({"STORAGE": "sqlite://"}, "keeps no trial beyond this notebook"),
    ],
)
def test_wrong_flags_of_studies(workshop, executed, kernel, flags, sentence, tmp_path):
    studies = {"N_TRIALS": 1, "STUDY_NAME": "flags", "STORAGE": f"sqlite:///{tmp_path}/flags.db"}
    run_until_refused(workshop, kernel, "generator_optim", studies | flags, sentence)
    assert not (tmp_path / "flags.db").exists()  # no study was begun


def test_flags_that_disagree_and_a_tag_that_was_lost(tmp_path, monkeypatch):
    """As after editing one notebook alone, and in an editor that drops tags."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    for name in NOTEBOOKS:
        notebook = nbformat.read(ROOT / f"{name}.ipynb", 4)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert run.flags_of() == {"USED_DATASET": "mnist", "FORGET": "crossbar", "N_MODELS": 10}
    notebook.cells[1].source = notebook.cells[1].source.replace('"mnist"', '"cmnist"')
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    with pytest.raises(StudyError, match="disagree on USED_DATASET .'mnist', but 'cmnist' in graphics.ipynb"):
        run.study(models=2)
    notebook.cells[1].metadata.pop("tags")
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    for refused in (run.flags_of, lambda: run.execute(name, tmp_path / "done.ipynb", {}, tmp_path)):
        with pytest.raises(StudyError, match='graphics.ipynb has no .*the tag "parameters"'):
            refused()


def test_a_notebook_that_was_run_in_place_with_other_flags_keeps_its_own_and_counts_its_cells(tmp_path):
    first, second = nbformat.v4.new_code_cell("N_MODELS = 10"), nbformat.v4.new_code_cell("2 * N_MODELS")
    first.metadata["tags"] = ["parameters"]
    made = {"language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[first, second], metadata=made), tmp_path / "one.ipynb")
    run.execute("one", tmp_path / "one.ipynb", {"N_MODELS": 3}, tmp_path)
    code = nbformat.read(tmp_path / "one.ipynb", 4).cells
    assert [cell.source for cell in code] == ["N_MODELS = 10", "2 * N_MODELS"]
    assert [cell.execution_count for cell in code] == [1, 2] and code[1].outputs[0].execution_count == 2
    assert code[1].outputs[0].data["text/plain"] == "6"


def test_committed_notebooks_are_reviewable():
    for path in ROOT.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert len(text) < 1_500_000
        notebook = nbformat.reads(text, 4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert "parameters" in first.metadata.tags and "USED_DATASET" in first.source
        assert str(ROOT) not in text and "/home/" not in text
        assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
        assert set(notebook.metadata) <= {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
        for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
            pictured = "image/png" in output.get("data", {})
            assert (not output.get("metadata")) != pictured
            assert not pictured or len(output.metadata["image/png"]["alt"]) > 20 and len(output.metadata) == 1
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(len(cell.source.splitlines()) <= 12 for cell in code)
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # one run, top to bottom
