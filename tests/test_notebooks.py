"""The notebooks in a temporary copy: executed top to bottom, with wrong flags, and as they are committed."""

import json

import nbformat
import papermill
import pytest
from conftest import NOTEBOOKS, ROOT, SETUP, run_python, states
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def execute(folder, name, **parameters):
    parameters = {"USED_DATASET": "cmnist", "N_MODELS": 2} | parameters
    return papermill.execute_notebook(
        str(folder / f"{name}.ipynb"),
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
        ("netcomp_compare", {"N_MODELS": 0}, "N_MODELS = 0 makes no ensemble"),
        ("netcomp_compare", {"N_MODELS": 1}, "seeds are compared with each other: set it to a whole number from 2 up"),
        ("netcomp_compare", {"N_MODELS": "3"}, "N_MODELS = '3' makes no ensemble"),
        ("netcomp_compare", {"USED_DATASET": ["mnist"]}, "USED_DATASET = ['mnist'] is not known"),
        ("netcomp_compare", {"FORGET": "crosbar"}, 'choose "crossbar"'),
        ("netcomp_compare", {"ALLREADY_TRAINED": "False"}, "set it to True or False, without quotes"),
        ("netcomp_compare", {"ALLREADY_TRAINED": True, "N_MODELS": 50}, "models are stored"),
        ("netcomp_SimpleAscent", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("netcomp_GEMU", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("netcomp_GeFeU", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("graphics", {"FORGET": "plain"}, "run netcomp_compare.ipynb"),
        ("generator_optim", {"N_MODELS": 0}, "N_MODELS = 0 makes no ensemble"),
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
def executed(workshop):
    """The whole study, two models of each kind, in order."""
    return {name: execute(workshop, name) for name in NOTEBOOKS}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs_top_to_bottom(executed, name):
    code = [cell for cell in executed[name].cells if cell.cell_type == "code" and cell.source]
    assert all(cell.execution_count for cell in code)
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    tables = [o for cell in code for o in cell.outputs if "<table>" in str(o.get("data", {}).get("text/html", ""))]
    assert len(pictures) >= 4 and len(tables) >= 2


def test_results_are_those_of_the_stored_models(workshop, executed):
    code = (
        SETUP
        + """
import json
from helpers.evaluation import load_result
from helpers.training import predict
ensemble = unlearned("gemu", task, 2, stored=True)
result = load_result("cmnist", "crossbar", "gemu")
images, labels = task.forget_set("test")
right = [float((predict(m, images).argmax(1) == labels).float().mean()) for m in ensemble.models]
print(json.dumps([right, result.accuracy["forget"], result.settings == ensemble.settings, len(result)]))
"""
    )
    done = run_python(workshop, code)
    right, stored, same_settings, n = json.loads(done.stdout.splitlines()[-1])
    assert right == pytest.approx(stored) and same_settings and n == 2


def test_stored_work_is_loaded_without_computing(workshop, executed):
    before = states(workshop)
    notebook = execute(workshop, "netcomp_GeFeU", ALLREADY_TRAINED=True)
    assert states(workshop) == before
    assert nbformat.validate(notebook) is None


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"N_TRIALS": "5"}, "N_TRIALS = '5' is no number of trials"),
        ({"N_TRIALS": 2.5}, "N_TRIALS = 2.5 is no number of trials"),
        ({"STUDY_NAME": "a/b"}, "STUDY_NAME = 'a/b-gemu' names no study"),
        ({"STORAGE": 5}, "STORAGE = 5 is no address"),
    ],
)
def test_wrong_flags_of_studies(workshop, executed, kernel, flags, sentence):
    studies = {"N_TRIALS": 1, "STUDY_NAME": "flags", "STORAGE": "sqlite://"}  # in memory
    run_until_refused(workshop, kernel, "generator_optim", studies | flags, sentence)


STALE = (
    SETUP
    + """
import shutil
from helpers import audit, evaluation, transfer
from helpers.files import StudyError, load_json, save_json
place = evaluation.RESULTS / "cmnist" / "crossbar"
def attempt(what, name, key=None, value=None, code=None):
    path = place / name
    good = path.read_bytes()
    if key:
        stored = load_json(path, "")
        stored[key] = value if not callable(value) else value(stored[key])
        save_json(path, stored)
    try:
        results = evaluation.load_results("cmnist", "crossbar")
        audit.load_audit(results)
        print(what, "accepted", transfer.load_walk("cmnist", "crossbar") is not None)
    except StudyError as error:
        print(what, "refused:", error)
    path.write_bytes(good)
attempt("right", "audit.json")
attempt("another data set's audit", "audit.json", "dataset", "mnist")
attempt("an audit of other models", "audit.json", "identities", lambda found: found | {"gemu": "0123456789"})
attempt("an audit by other code", "audit.json", "code", "0123456789")
attempt("results of other settings", "gemu.json", "identity", "0123456789")
attempt("results by other code", "gemu.json", "code", "0123456789")
attempt("a walk of other models", "transfer.json", "gemu", "0123456789")
"""
)


def test_sealed_results_of_other_models_or_code_are_refused(workshop, executed):
    done = run_python(workshop, STALE)
    assert done.returncode == 0, done.stderr[-1000:]
    right, *audits, settings, code, walk = done.stdout.strip().splitlines()
    assert right == "right accepted True" and walk.endswith("accepted False")
    assert len(audits) == 3 and all(
        "is of other models or code" in line and "run graphics.ipynb" in line for line in audits
    )
    assert all("refused: The results of GEMU" in line and "run netcomp_GEMU.ipynb" in line for line in (settings, code))


def test_committed_notebooks_are_reviewable():
    for path in ROOT.glob("*.ipynb"):
        text = path.read_text()
        assert len(text) < 1_500_000
        notebook = nbformat.reads(text, 4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert "parameters" in first.metadata.tags and "USED_DATASET" in first.source
        assert str(ROOT) not in text and "/home/" not in text
        assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
        assert set(notebook.metadata) <= {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
        assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.get("metadata")]
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(len(cell.source.splitlines()) <= 12 for cell in code)
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # one run, top to bottom
