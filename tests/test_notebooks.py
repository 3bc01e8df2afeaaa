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
    cells = [cell for cell in nbformat.read(workshop / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    flags = {"USED_DATASET": "cmnist", "N_MODELS": 2, "FORGET": "crossbar", "ALLREADY_TRAINED": False} | flags
    cells.insert(1, nbformat.v4.new_code_cell("\n".join(f"{key} = {value!r}" for key, value in flags.items())))
    kernel.nb.cells = cells
    with pytest.raises(CellExecutionError) as error:
        for at, cell in enumerate(cells):
            kernel.execute_cell(cell, at)
    assert error.value.ename == "StudyError" and sentence in error.value.evalue
    assert not any("run_trials(" in cell.source for cell in cells[: at + 1])  # before minutes are spent
    shown = [output for output in cell.outputs if output.output_type == "error"]
    assert [output.traceback for output in shown] == [[f"StudyError: {error.value.evalue}"]]  # no stack


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
