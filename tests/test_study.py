"""The stored study in a temporary copy: interrupted, damaged, misused, and its notebooks executed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import pytest
from conftest import NOTEBOOKS, ROOT, run_python
from papermill.exceptions import PapermillExecutionError

SETUP = """
from helpers.ensembles import baseline, unlearned
from helpers.evaluation import evaluate
from helpers.split import load_task
task = load_task("cmnist")
"""
TRAIN = SETUP + 'baseline("trained", task, {n}, stored=False)\n'


def states(folder):
    """Model files by place, as the bits of their weights (times differ from run to run)."""
    code = """
import hashlib, json, torch
from helpers.ensembles import MODELS
from helpers.files import load_torch
found = {}
for path in sorted(MODELS.rglob("*.pt")):
    state = load_torch(path, "")["state"]
    found[str(path.relative_to(MODELS))] = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()
print(json.dumps(found))
"""
    return json.loads(run_python(folder, code).stdout)


def train_three(folder):
    if len(list((folder / "data" / "models").rglob("trained-*/*.pt"))) < 3:
        assert run_python(folder, TRAIN.format(n=3)).returncode == 0


def clear(folder):
    for part in ("models", "results"):
        shutil.rmtree(folder / "data" / part, ignore_errors=True)


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


def test_a_killed_run_goes_on_and_ends_in_the_same_models(workshop):
    clear(workshop)
    assert run_python(workshop, TRAIN.format(n=3)).returncode == 0
    undisturbed = states(workshop)
    assert len(undisturbed) == 3
    clear(workshop)
    moments = random.Random(0)
    for _ in range(3):
        run = subprocess.Popen([sys.executable, "-c", TRAIN.format(n=3)], cwd=workshop, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(2.5, 7))
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert all(undisturbed[place] == bits for place, bits in states(workshop).items())
    assert run_python(workshop, TRAIN.format(n=3)).returncode == 0
    assert states(workshop) == undisturbed
    assert not list((workshop / "data" / "models").rglob("*.part"))


def test_two_at_once_share_the_work(workshop):
    clear(workshop)
    runs = [
        subprocess.Popen([sys.executable, "-c", TRAIN.format(n=3)], cwd=workshop, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [run.wait(timeout=200) for run in runs] == [0, 0]
    assert len(states(workshop)) == 3


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "foreign", "swapped"])
def test_a_damaged_model_is_named_and_nothing_else_is_touched(workshop, kind):
    train_three(workshop)
    files = sorted((workshop / "data" / "models").rglob("trained-*/*.pt"))
    victim, others = files[1], [files[0], files[2]]
    good, stamps = victim.read_bytes(), [path.stat().st_mtime_ns for path in others]
    at = random.Random(kind).randrange(len(good))
    victim.write_bytes(
        {
            "cut": good[:at],
            "flipped": good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :],
            "empty": b"",
            "foreign": b"PK\x03\x04" + bytes(1000),
            "swapped": others[0].read_bytes(),
        }[kind]
    )
    try:
        done = run_python(workshop, SETUP + 'baseline("trained", task, 3, stored=True)')
        assert done.returncode != 0
        sentence = done.stderr.strip().splitlines()[-1]
        assert "001.pt" in sentence and "ALLREADY_TRAINED = False" in sentence
        assert [path.stat().st_mtime_ns for path in others] == stamps
    finally:
        victim.write_bytes(good)


def test_another_split_is_refused(workshop):
    train_three(workshop)
    path = workshop / "data" / "splits" / "crossbar_train.txt"
    original = path.read_text()
    try:
        path.write_text("\n".join(original.splitlines()[:-1]) + "\n")
        done = run_python(workshop, SETUP + 'baseline("trained", task, 3, stored=True)')
        assert "another recipe, split, data source or settings" in done.stderr.strip().splitlines()[-1]
    finally:
        path.write_text(original)


@pytest.mark.parametrize(
    "name, flags, sentence",
    [
        ("netcomp_compare", {"USED_DATASET": "cminst"}, 'did you mean "cmnist"'),
        ("netcomp_compare", {"N_MODELS": 0}, "N_MODELS = 0 makes no ensemble"),
        ("netcomp_compare", {"ALLREADY_TRAINED": True, "N_MODELS": 50}, "models are stored"),
        ("netcomp_GEMU", {"FORGET": "plain"}, "run netcomp_compare.ipynb with ALLREADY_TRAINED = False"),
        ("graphics", {"FORGET": "plain"}, "run netcomp_compare.ipynb"),
    ],
)
def test_wrong_flags_give_one_sentence_with_the_remedy(workshop, name, flags, sentence):
    with pytest.raises(PapermillExecutionError) as error:
        execute(workshop, name, **flags)
    assert error.value.ename == "StudyError" and sentence in error.value.evalue
    assert len(error.value.traceback) == 1  # the sentence alone, no stack


@pytest.fixture(scope="module")
def executed(workshop):
    """The whole study, two models of each kind, in order."""
    clear(workshop)
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
        assert all(len(cell.source.splitlines()) <= 12 for cell in notebook.cells if cell.cell_type == "code")
