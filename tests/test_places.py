"""The first notebook from wherever people start it, in a copy that is installed as a user's is: `make thorough`."""

import os
import shutil
import subprocess
import sys
import sysconfig

import nbformat
import pytest
import torch
from conftest import copy_repository, states
from jupyter_client import KernelManager
from nbclient import NotebookClient

pytestmark = pytest.mark.thorough
FLAGS = {"USED_DATASET": "cmnist", "N_MODELS": 2}
NAME = "netcomp_compare.ipynb"


@pytest.fixture
def place(installed):
    """As `installed`, with nothing computed."""
    for part in ("models", "results"):
        shutil.rmtree(installed[0] / "data" / part, ignore_errors=True)
    return installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy with an interpreter of its own, which imports the copy's helpers wherever it is started: (folder,
    python)."""
    folder = copy_repository(tmp_path_factory.mktemp("places") / "my copy")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
    python = folder / ".venv" / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    with open(f"{packages}/copy.pth", "w") as file:
        file.write(f"{folder}\n{sysconfig.get_path('purelib')}\n")
    where = subprocess.run(
        [python, "-c", "import helpers; print(helpers.__file__)"], cwd="/", capture_output=True, text=True
    ).stdout
    assert where.startswith(str(folder))
    return folder, str(python)


def flagged(folder):
    """The notebook with the flags that these runs have."""
    notebook = nbformat.read(folder / NAME, 4)
    at = next(at for at, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    flags = "\n".join(f"{key} = {value!r}" for key, value in FLAGS.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(flags))
    return notebook


def check(notebook, folder):
    """All of it ran, and what it made lies in the copy."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    assert all(cell.execution_count for cell in code)
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert "published pictures" in str(code) or "constructed from MNIST" in str(code)
    assert len([path for path in states(folder) if "trained-" in path]) >= 4


def test_a_kernel_that_was_started_elsewhere(place):
    """As VS Code does when its folder for kernels is another than the notebook's."""
    folder, python = place
    notebook = flagged(folder)
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = python
    client = NotebookClient(notebook, km=manager, resources={"metadata": {"path": "/"}}, timeout=300)
    notebook.cells.append(nbformat.v4.new_code_cell("import os, sys; print(os.getcwd(), sys.prefix)"))
    client.execute()
    assert notebook.cells[-1].outputs[0].text.strip() == f"/ {folder / '.venv'}"
    check(notebook, folder)


def test_papermill_on_the_command_line_from_elsewhere(place, tmp_path):
    folder, python = place
    parameters = [part for key, value in FLAGS.items() for part in ("-p", key, str(value))]
    command = [
        python,
        "-m",
        "papermill",
        "-k",
        "python3",
        str(folder / NAME),
        str(tmp_path / "done.ipynb"),
        *parameters,
    ]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    check(nbformat.read(tmp_path / "done.ipynb", 4), folder)


def test_nbconvert_from_elsewhere(place, tmp_path):
    folder, python = place
    nbformat.write(flagged(folder), folder / "flagged.ipynb")
    command = [python, "-m", "nbconvert", "--to", "notebook", "--execute", str(folder / "flagged.ipynb")]
    done = subprocess.run(
        [*command, "--output-dir", str(tmp_path)], cwd="/", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-1000:]
    check(nbformat.read(tmp_path / "flagged.ipynb", 4), folder)


HIDDEN = """
import torch
from helpers.data.task import load_task
from helpers.models.ensembles import baseline
baseline("trained", load_task("cmnist"), 2, stored=False)
print(torch.cuda.is_available())
"""


def test_with_cuda_hidden_models_are_those_of_the_cpu(place):
    """Where a GPU is visible, another run uses it and makes the same number of models."""
    folder, python = place
    shutil.rmtree(folder / "data" / "models", ignore_errors=True)

    def run(**env):
        done = subprocess.run([python, "-c", HIDDEN], cwd=folder, capture_output=True, text=True, env=os.environ | env)
        assert done.returncode == 0, done.stderr[-1000:]
        made = states(folder)
        shutil.rmtree(folder / "data" / "models")
        return done.stdout.strip(), made

    first, again = run(CUDA_VISIBLE_DEVICES=""), run(CUDA_VISIBLE_DEVICES="-1")
    assert first == again and first[0] == "False" and len(first[1]) == 2
    if torch.cuda.is_available():
        seen = run()
        assert seen[0] == "True" and set(seen[1]) == set(first[1])
