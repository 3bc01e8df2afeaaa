"""Optuna studies for real: run, resumed, interrupted, killed, shared, refused; on Colored MNIST with a short recipe."""

import signal
import sqlite3
import time
from urllib.parse import quote

import nbformat
import optuna
import pytest
from conftest import SETUP, wait_for
from programs import Program, command, run_python

from helpers.run import execute
from helpers.studies import OTHERS
from helpers.unlearning import METHODS

OPEN = """
from helpers import studies
from helpers.data.task import load_task
from helpers.files import StudyError
task = load_task("cmnist")
def told(*arguments, **options):
    try:
        studies.open_study(*arguments, **options)
    except StudyError as error:
        print(error)
"""


def start(folder, *arguments, storage=""):
    return Program(folder, command("tune", "tuned_ascent", "--dataset", "cmnist", *arguments), {"STORAGE": storage})


def work(folder, *arguments, storage=""):
    run = start(folder, *arguments, storage=storage)
    run.wait(200)
    return run


def trials(url, state=None, name="cmnist-tuned_ascent"):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.load_study(study_name=name, storage=url).trials
    return [trial for trial in found if state in (None, trial.state.name)]


def running(url):
    """The settings of the trials that are being measured."""
    return [trial.params for trial in trials(url, "RUNNING") if trial.params]


@pytest.fixture(scope="module")
def url(workshop):
    """Of the usual storage, with a study of two trials."""
    assert work(workshop, "--trials", "2").returncode == 0
    return f"sqlite:///{quote(str(workshop / 'data' / 'studies' / 'studies.db'))}"


def test_a_study_starts_at_the_defaults_and_draws_the_same_in_one_run_as_in_two(workshop, url, tmp_path):
    other = f"sqlite:///{tmp_path}/again.db"
    done = work(workshop, "--trials", "1")
    assert work(workshop, "--trials", "3", storage=other).returncode == 0
    settings = METHODS["tuned_ascent"].settings
    assert trials(url)[0].params == {name: getattr(settings, name) for name in METHODS["tuned_ascent"].searched}
    assert len(trials(url, "COMPLETE")) == 3 and "\n| trial " in done.stdout
    for a, b in zip(trials(url), trials(other), strict=True):
        assert a.params == b.params and a.values == pytest.approx(b.values)


def test_looking_creates_nothing(workshop, url, tmp_path):
    (tmp_path / "empty.db").touch()
    for name in ("absent.db", "empty.db"):
        done = work(workshop, storage=f"sqlite:///{tmp_path / name}")
        assert done.returncode == 1 and 'holds no study "cmnist-tuned_ascent"' in done.stderr.splitlines()[-1]
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("empty.db", 0)]
    code = """
from helpers.report.studies import compare_settings
print(studies.run_all("mine", ("gemu",), 0, task))
study = studies.open_study("cmnist-tuned_ascent", "tuned_ascent", task, look=True)
print(compare_settings("tuned_ascent", study, task, 2, stored=True).data)
"""
    absent, compared = run_python(workshop, OPEN + code).stdout.splitlines()
    assert absent == "{'gemu': None}" and "mine-gemu" not in optuna.study.get_all_study_names(url)
    assert "not stored" in compared and "ALLREADY_TRAINED = False" in compared


def test_a_storage_that_cannot_be_opened_is_told_in_one_sentence(workshop, url, tmp_path):
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3" + bytes(3_000))
    reasons = {
        "nonsense": "Could not parse",
        "postgresql://me:secret@127.0.0.1:1/x": "",
        "sqlite:////nowhere/at/all.db": "unable to open database file",
        f"sqlite:///{tmp_path}/damaged.db": "not a database",
        f"{url}?timeout=0.1": "database is locked",
    }
    other = sqlite3.connect(workshop / "data" / "studies" / "studies.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    code = f"for address in {list(reasons)}:\n    told('mine', 'gemu', task, address)"
    lines = run_python(workshop, OPEN + code).stdout.splitlines()
    other.close()
    assert "secret" not in str(lines)
    for line, reason in zip(lines, reasons.values(), strict=True):
        assert "cannot be opened" in line and reason in line and "see that the address is right" in line


def test_a_study_of_something_else_is_refused(workshop, url):
    code = """
name = "cmnist-tuned_ascent"
told(name, "finetune", task)
told(name, "tuned_ascent", load_task("mnist"))
told(name, "tuned_ascent", load_task("cmnist", "plain"), look=True)
told("", "gemu", task)
"""
    *refused, empty = run_python(workshop, OPEN + code).stdout.splitlines()
    others = (
        "method, another code of the method, another fixed setting, another search space",
        "data set, another request, split or data",
        "request, split or data",
    )
    made = 'The study "cmnist-tuned_ascent" was made with another {}: choose a new STUDY_NAME (--study), '
    made += "or, to tune all methods or forms, another --storage."
    assert refused == [made.format(other) for other in others] and "names no study" in empty


@pytest.mark.thorough
def test_an_interrupted_study_goes_on_to_the_number_that_was_asked_for(workshop, tmp_path):
    storage = f"sqlite:///{tmp_path}/stopped.db"
    run = start(workshop, "--trials", "4", storage=storage)
    wait_for(lambda: running(storage))
    run.send_signal(signal.SIGINT)
    run.wait(60)
    assert len(trials(storage, "COMPLETE")) + len(trials(storage, "FAIL")) == len(trials(storage)) < 4
    assert work(workshop, storage=storage).returncode == 0 and len(trials(storage, "COMPLETE")) == 4


@pytest.mark.thorough
def test_two_processes_share_a_study_and_one_sleeps_too_long(workshop, tmp_path):
    storage = f"sqlite:///{tmp_path}/two.db"
    runs = [start(workshop, "--trials", "12", storage=storage) for _ in range(2)]
    wait_for(lambda: len(running(storage)) == 2, 150)
    runs[0].send_signal(signal.SIGSTOP)
    left = running(storage)
    assert runs[1].wait(200) == 0
    time.sleep(5)  # the same as if it had been killed: its trial is run again by whoever works next
    assert work(workshop, "--trials", "1", storage=storage).returncode == 0
    runs[0].send_signal(signal.SIGCONT)
    assert runs[0].wait(60) == 0
    found = [trial.params for trial in trials(storage, "COMPLETE")]
    assert len(found) >= 12 and all(found.count(params) == 1 for params in found)  # no two draw the same
    assert left and all(params in found for params in left)


@pytest.mark.thorough
def test_the_notebook_runs_studies_of_the_plain_side(workshop, tmp_path):
    """generator_optim.ipynb, top to bottom, on Colored MNIST and the other side, in a storage of its own."""
    code = SETUP.replace('"cmnist"', '"cmnist", "plain"')
    code += """
measure(task, *(baseline(kind, task, 2, stored=False) for kind in ("untrained", "trained", "retrained", "again")))
measure(task, *(unlearned(name, task, 2, stored=False) for name in ("gemu", "gefeu")))
"""
    assert run_python(workshop, code).returncode == 0
    storage, target = f"sqlite:///{tmp_path}/mine.db", tmp_path / "done.ipynb"
    flags = {"USED_DATASET": "cmnist", "FORGET": "plain", "STUDY_NAME": "mine", "N_TRIALS": 2, "N_MODELS": 2}
    execute("generator_optim", target, flags | {"STORAGE": storage, "ALLREADY_TRAINED": False}, workshop)
    outputs = str([cell.get("outputs") for cell in nbformat.read(target, 4).cells])
    assert outputs.count("'image/png': 'iVBOR") == 4 and "without a crossbar" in outputs and "not stored" not in outputs
    names = ("gemu", "gefeu", *OTHERS)
    assert all(len(trials(storage, "COMPLETE", f"mine-{name}")) == 2 for name in names)
