"""Optuna studies for real: run, resumed, interrupted, killed, shared, refused; on Colored MNIST with a short recipe."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import nbformat
import optuna
import pytest
from conftest import SETUP, wait_for
from programs import Program, command, run_python
from sqlalchemy import NullPool, create_engine, inspect

from helpers.run import execute
from helpers.studies import PLAIN
from helpers.unlearning import METHODS
from helpers.unlearning.method import searched

TUNE = ("tune", "tuned_ascent", "--dataset", "cmnist")
OPEN = """
from helpers import studies
from helpers.data.task import load_task
from helpers.files import StudyError
task = load_task("cmnist")
def told(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except StudyError as error:
        print(error)
"""


def start(folder, *arguments, storage=None):
    return Program(folder, command(*TUNE, *arguments), {"STORAGE": storage} if storage else {})


def work(folder, *arguments, storage=None):
    run = start(folder, *arguments, storage=storage)
    run.wait(200)
    return run


def trials(url, name="cmnist-tuned_ascent", state=None):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.load_study(study_name=name, storage=url).trials
    return [trial for trial in found if state in (None, trial.state.name)]


@pytest.fixture(scope="module")
def url(workshop):
    """Of the usual storage, with a study of two trials."""
    assert work(workshop, "--trials", "2").returncode == 0
    return f"sqlite:///{quote(str(workshop / 'data' / 'studies' / 'studies.db'))}"


def test_a_study_starts_at_the_defaults_and_draws_the_same_in_one_run_as_in_two(workshop, url, tmp_path):
    other = f"sqlite:///{tmp_path / 'again.db'}"
    done = work(workshop, "--trials", "1")
    assert work(workshop, "--trials", "3", storage=other).returncode == 0
    settings = METHODS["tuned_ascent"].settings
    assert trials(url)[0].params == {name: getattr(settings, name) for name in searched(settings)}
    assert len(trials(url, state="COMPLETE")) == 3 and "best trial" in done.stdout
    for a, b in zip(trials(url)[:3], trials(other), strict=True):
        assert a.params == b.params and a.values == pytest.approx(b.values)


def test_looking_creates_nothing(workshop, url, tmp_path):
    before = optuna.study.get_all_study_names(url)
    (tmp_path / "empty.db").touch()
    for name in ("absent.db", "empty.db"):
        done = work(workshop, storage=f"sqlite:///{tmp_path / name}")
        assert done.returncode == 1 and 'holds no study "cmnist-tuned_ascent"' in done.stderr.splitlines()[-1]
        assert "Trained" not in done.stderr  # no model either
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("empty.db", 0)]
    code = """
from helpers.report.studies import compare_settings
print(studies.run_all("mine", ("gemu",), 0, task))
study = studies.open_study("cmnist-tuned_ascent", "tuned_ascent", task, look=True)
print(compare_settings("tuned_ascent", study, task, 2, stored=True).data)
"""
    absent, compared = run_python(workshop, OPEN + code).stdout.splitlines()
    assert absent == "{'gemu': None}" and optuna.study.get_all_study_names(url) == before
    assert "not stored" in compared and "ALLREADY_TRAINED = False" in compared


def test_a_storage_that_cannot_be_opened_is_told_in_one_sentence(workshop, url, tmp_path):
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 3" + bytes(3_000))
    code = f"""
import sqlite3
for address in ("nonsense", "postgresql://me:secret@127.0.0.1:1/x", "sqlite:////nowhere/at/all.db",
                "sqlite:///{tmp_path}/damaged.db", {url!r} + "?timeout=0.1"):
    if "timeout" in address:
        other = sqlite3.connect({str(workshop / "data" / "studies" / "studies.db")!r}, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    told(studies.open_study, "mine", "gemu", task, address)
"""
    lines = run_python(workshop, OPEN + code).stdout.splitlines()
    reasons = ("Could not parse", "", "unable to open database file", "not a database", "database is locked")
    assert len(lines) == len(reasons) and "secret" not in str(lines)
    for line, reason in zip(lines, reasons, strict=True):
        assert "cannot be opened" in line and reason in line and "see that the address is right" in line


def test_a_study_of_something_else_is_refused(workshop, url):
    code = """
from dataclasses import replace
name = "cmnist-tuned_ascent"
told(studies.open_study, name, "finetune", task)
told(studies.open_study, name, "tuned_ascent", load_task("mnist"))
told(studies.open_study, name, "tuned_ascent", load_task("cmnist", "plain"), look=True)
studies.RECIPE, studies.SIZES = replace(studies.RECIPE, batch_size=3), replace(studies.SIZES, tuning_models=3)
told(studies.open_study, name, "tuned_ascent", task)
for name in ("", "a/b"):
    told(studies.open_study, name, "gemu", task)
"""
    *refused, empty, slash = run_python(workshop, OPEN + code).stdout.splitlines()
    others = ["method, another search space", "data set, another request, split or data", "request, split or data"]
    others.append("training recipe, another number of tuning models")
    made = 'The study "cmnist-tuned_ascent" was made with another {}: choose a new STUDY_NAME (--study).'
    assert refused == [made.format(other) for other in others]
    assert "names no study" in empty and "names no study" in slash


def test_a_trial_that_another_process_took_over_is_left_to_it(workshop, tmp_path):
    code = f"""
study = studies.open_study("taken", "tuned_ascent", task, "sqlite:///{tmp_path}/t.db")
real = studies.Objective.__call__
def slept(self, trial):
    if not any(t.state.name == "FAIL" for t in study.trials):  # meanwhile another process gave it back to the queue
        study.tell(trial.number, state=studies.optuna.trial.TrialState.FAIL)
        study.enqueue_trial(study.trials[trial.number].params)
    return real(self, trial)
studies.Objective.__call__ = slept
studies.run_trials(study, 2, "tuned_ascent", task)
"""
    done = run_python(workshop, OPEN + code)
    assert done.returncode == 0, done.stderr[-500:]
    states = [trial.state.name for trial in trials(f"sqlite:///{tmp_path}/t.db", "taken")]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.thorough
def test_an_interrupted_study_goes_on_to_the_number_that_was_asked_for(workshop, tmp_path):
    storage = f"sqlite:///{tmp_path / 'stopped.db'}"
    run = start(workshop, "--trials", "4", storage=storage)
    wait_for(lambda: [trial for trial in trials(storage, state="RUNNING") if trial.params])
    run.send_signal(signal.SIGINT)
    run.wait(60)
    assert {trial.state.name for trial in trials(storage)} <= {"COMPLETE", "FAIL"} and len(trials(storage)) < 4
    assert work(workshop, storage=storage).returncode == 0
    assert len(trials(storage, state="COMPLETE")) == 4


@pytest.fixture
def postgresql(tmp_path_factory):
    """The address of a PostgreSQL server that runs for one test."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not any(found):
        pytest.skip("PostgreSQL is not installed (initdb was not found)")
    folder, user = tmp_path_factory.mktemp("postgresql"), []
    binaries, port = Path(next(filter(None, found))).resolve().parent, 54_000 + os.getpid() % 1_000
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
        for path in (folder, *folder.parents[:3]):
            path.chmod(0o755)

    def call(program, *options):
        arguments = [*user, binaries / program, "-D", folder / "data", *options]
        subprocess.run(arguments, check=True, capture_output=True, cwd=folder)

    call("initdb", "-A", "trust", "-U", "study")
    call("pg_ctl", "-w", "-l", folder / "log", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    yield f"postgresql://study@127.0.0.1:{port}/postgres"
    call("pg_ctl", "-m", "immediate", "stop")


@pytest.mark.thorough
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_processes_share_a_study_and_one_of_them_is_killed(workshop, tmp_path, request, database):
    storage = f"sqlite:///{tmp_path}/two.db" if database == "sqlite" else request.getfixturevalue("postgresql")
    assert 'holds no study "cmnist-tuned_ascent"' in work(workshop, storage=storage).stderr.splitlines()[-1]
    if database == "postgresql":
        assert not inspect(create_engine(storage, poolclass=NullPool)).get_table_names()  # looking made none
    runs = [start(workshop, "--trials", "12", storage=storage) for _ in range(2)]
    wait_for(lambda: len([trial for trial in trials(storage, state="RUNNING") if trial.params]) == 2, 150)
    runs[0].kill()
    runs[0].wait(60)
    left = [trial.params for trial in trials(storage, state="RUNNING") if trial.params]
    assert runs[1].wait(200) == 0
    found = [trial.params for trial in trials(storage, state="COMPLETE")]
    assert len(found) >= 12 and all(found.count(params) == 1 for params in found)  # no two draw the same
    assert [params in found for params in left].count(True) >= len(left) - 1 > 0  # one is run again, one goes on


@pytest.mark.thorough
def test_the_notebook_runs_studies_of_the_plain_side(workshop, tmp_path):
    """generator_optim.ipynb, top to bottom, on Colored MNIST and the other side, in a storage of its own."""
    code = SETUP.replace('"cmnist"', '"cmnist", "plain"')
    code += """
measure(task, *(baseline(kind, task, 2, stored=False) for kind in ("untrained", "trained", "retrained")))
measure(task, *(unlearned(name, task, 2, stored=False) for name in ("gemu", "gefeu")))
"""
    assert run_python(workshop, code).returncode == 0
    storage, target = f"sqlite:///{tmp_path / 'mine.db'}", tmp_path / "done.ipynb"
    flags = {"USED_DATASET": "cmnist", "FORGET": "plain", "STUDY_NAME": "mine", "N_TRIALS": 2, "N_MODELS": 2}
    execute("generator_optim", target, flags | {"STORAGE": storage, "ALLREADY_TRAINED": False}, workshop)
    outputs = str([cell.get("outputs") for cell in nbformat.read(target, 4).cells])
    assert outputs.count("image/png") == 6 and "without a crossbar" in outputs and "not stored" not in outputs
    studies = {f"mine-{name}" for name in ("gemu", "gefeu", *PLAIN)}
    assert set(optuna.study.get_all_study_names(storage)) == studies
    assert all(len(trials(storage, name)) == 2 for name in studies)
