"""Optuna studies for real: run, resumed, interrupted, killed, shared, refused; on Colored MNIST with a short recipe."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import nbformat
import numpy as np
import optuna
import pytest
from conftest import SETUP, wait_for
from programs import Program, command, run_python
from sqlalchemy import NullPool, create_engine, inspect

from helpers.objective import DIVERGED
from helpers.run import execute
from helpers.studies import PLAIN
from helpers.unlearning import METHODS
from helpers.unlearning.method import searched

TUNE = ("tune", "tuned_ascent", "--dataset", "cmnist")


def work(folder, *arguments, storage=None, timeout=200):
    return run_python(folder, command(*TUNE, *arguments), timeout, {"STORAGE": storage} if storage else {})


def start(folder, *arguments, storage=None):
    return Program(folder, command(*TUNE, *arguments), {"STORAGE": storage} if storage else {})


def trials(url, name="cmnist-tuned_ascent"):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=url).trials


def count(url, state="COMPLETE"):
    return sum(trial.state.name == state for trial in trials(url))


@pytest.fixture(scope="module")
def url(workshop):
    """Of the usual storage, with a study of two trials."""
    assert work(workshop, "--trials", "2").returncode == 0
    return f"sqlite:///{quote(str(workshop / 'data' / 'studies' / 'studies.db'))}"


def test_a_study_is_run_resumed_and_starts_at_the_defaults(workshop, url):
    assert count(url) == 2
    done = work(workshop, "--trials", "1")
    assert count(url) == 3 and "best trial" in done.stdout
    first = trials(url)[0]
    settings = METHODS["tuned_ascent"].settings
    assert first.params == {name: getattr(settings, name) for name in searched(settings)}
    found = first.user_attrs["measured"]
    assert first.value == pytest.approx(np.mean(found["goals"][-1])) and first.user_attrs["models"] == 2
    assert first.value == pytest.approx(100 - found["gap"] + 10 * found["lost"] + 10 * found["lost_class"])
    assert 0 < found["cost"] <= 0.1


def test_the_same_seed_gives_the_same_trials(workshop, url, tmp_path):
    other = f"sqlite:///{tmp_path / 'again.db'}"
    assert work(workshop, "--trials", "3", storage=other).returncode == 0
    for a, b in zip(trials(url)[:3], trials(other), strict=True):
        assert a.params == b.params and a.values == pytest.approx(b.values)


@pytest.mark.thorough
def test_interrupted_and_killed_trials_do_not_stop_the_study(workshop, url):
    before = count(url)
    run = start(workshop, "--trials", "4")
    wait_for(lambda: [trial for trial in trials(url) if trial.state.name == "RUNNING" and trial.params])
    run.send_signal(signal.SIGINT)
    run.wait(timeout=60)
    assert count(url, "RUNNING") == 0 and count(url, "FAIL") <= 1 and count(url) < before + 4
    run = start(workshop)  # joins
    wait_for(lambda: count(url, "RUNNING"))
    run.kill()
    run.wait(timeout=60)
    done = count(url)
    assert work(workshop).returncode == 0
    assert count(url) == before + 4 >= done


def test_an_interrupt_before_the_goals_are_computed_marks_the_trial_too(workshop, tmp_path):
    """Where Optuna leaves it as running: while the sampler gets ready."""
    code = f"""
from helpers import studies
from helpers.data.task import load_task
task = load_task("cmnist")
study = studies.open_study("stopped", "tuned_ascent", task, "sqlite:///{tmp_path}/s.db")
real = studies.Sampler.before_trial
def stopped(self, study, trial):
    real(self, study, trial)
    raise KeyboardInterrupt
studies.Sampler.before_trial = stopped
try:
    studies.run_trials(study, 1, "tuned_ascent", task)
except KeyboardInterrupt:
    print([trial.state.name for trial in study.trials])
"""
    done = run_python(workshop, code)
    assert done.stdout.splitlines()[-1:] == ["['FAIL']"], done.stderr[-500:]


@pytest.mark.thorough
def test_a_trial_whose_process_was_killed_is_run_again(workshop, tmp_path):
    """By another process that works on the study, with the same hyper-parameters."""
    storage = f"sqlite:///{tmp_path / 'killed.db'}"
    run = start(workshop, "--trials", "12", storage=storage)
    wait_for(lambda: count(storage, "RUNNING") and count(storage) >= 2)
    run.kill()
    run.wait(timeout=60)
    left = [trial.params for trial in trials(storage) if trial.state.name == "RUNNING" and trial.params]
    assert work(workshop, storage=storage).returncode == 0
    found = trials(storage)
    assert count(storage) == 12 and len(left) <= 1
    for params in left:
        assert sum(trial.params == params and trial.state.name == "COMPLETE" for trial in found) == 1


def test_joining_where_nothing_was_asked_for_says_so_at_once(workshop, tmp_path):
    done = work(workshop, storage=f"sqlite:///{tmp_path / 'empty.db'}", timeout=60)
    assert done.returncode == 1 and 'holds no study "cmnist-tuned_ascent"' in done.stderr.splitlines()[-1]
    assert "Trained" not in done.stderr and not (tmp_path / "empty.db").exists()  # nothing was made


def test_looking_makes_no_study_and_what_stands_in_the_way_is_said(workshop, url, tmp_path):
    before = optuna.study.get_all_study_names(url)
    code = f"""
import sqlite3
from helpers import studies
from helpers.data.task import load_task
from helpers.files import StudyError
task = load_task("cmnist")
def told(call):
    try:
        call()
    except StudyError as error:
        print(error)
print(studies.run_all("nobodys", ("gemu",), 0, task))
told(lambda: studies.open_study("mine", "gemu", task, "sqlite://"))
told(lambda: studies.open_study("mine", "gemu", task, "sqlite:////nowhere/at/all.db"))
told(lambda: studies.open_study("mine", "gemu", task, {f"sqlite:///{tmp_path}/empty.db"!r}, look=True))
studies.BUSY = 0.1
other = sqlite3.connect({str(workshop / "data" / "studies" / "studies.db")!r}, isolation_level=None)
other.execute("BEGIN EXCLUSIVE")
told(lambda: studies.open_study("mine", "gemu", task))
"""
    (tmp_path / "empty.db").touch()
    absent, memory, nowhere, empty, locked = run_python(workshop, code).stdout.strip().splitlines()
    assert absent == "{'gemu': None}"
    assert "keeps no trial beyond this notebook" in memory and "see that its folder is there" in nowhere
    assert 'holds no study "mine"' in empty and not (tmp_path / "empty.db").stat().st_size  # no table was made
    assert "another program holds it" in locked and "database is locked" in locked and "git" not in locked
    assert optuna.study.get_all_study_names(url) == before


@pytest.mark.thorough
def test_two_at_once_draw_different_points(workshop, tmp_path):
    storage = f"sqlite:///{tmp_path / 'two.db'}"
    runs = [start(workshop, "--trials", "8", storage=storage) for _ in range(2)]
    assert [run.wait(timeout=200) for run in runs] == [0, 0]
    found = [tuple(trial.params.values()) for trial in trials(storage) if trial.state.name == "COMPLETE"]
    assert 8 <= len(found) < 18 and len(set(found)) == len(found)


def test_a_study_of_another_kind_is_refused(workshop):
    code = """
from helpers.files import StudyError
from helpers.data.task import load_task
from helpers.studies import open_study
for method, dataset in (("finetune", "cmnist"), ("tuned_ascent", "mnist")):
    try:
        open_study("cmnist-tuned_ascent", method, load_task(dataset))
    except StudyError as error:
        print(error)
"""
    lines = run_python(workshop, code).stdout.strip().splitlines()
    assert len(lines) == 2 and all("choose a new STUDY_NAME" in line for line in lines)
    assert "another method, space" in lines[0] and "another task, dataset" in lines[1]


@pytest.mark.thorough
def test_the_notebook_runs_studies_of_the_plain_side(workshop, tmp_path):
    """generator_optim.ipynb, top to bottom, on Colored MNIST and the other side, in a storage of its own."""
    code = SETUP.replace('"cmnist"', '"cmnist", "plain"')
    code += """
measure(task, *(baseline(kind, task, 2, stored=False) for kind in ("untrained", "trained", "retrained")))
measure(task, *(unlearned(name, task, 2, stored=False) for name in ("gemu", "gefeu")))
"""
    done = run_python(workshop, code)
    assert done.returncode == 0, done.stderr[-500:]
    flags = {"USED_DATASET": "cmnist", "FORGET": "plain", "STUDY_NAME": "mine", "N_TRIALS": 2, "N_MODELS": 2}
    storage = f"sqlite:///{tmp_path / 'mine.db'}"
    target = tmp_path / "done.ipynb"
    execute("generator_optim", target, flags | {"STORAGE": storage}, workshop)
    notebook = nbformat.read(target, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("image/png" in o.get("data", {}) for cell in code for o in cell.outputs) == 6
    assert "without a crossbar" in str([cell.outputs for cell in code[:4]])
    studies = {f"mine-{name}" for name in ("gemu", "gefeu", *PLAIN)}
    assert set(optuna.study.get_all_study_names(storage)) == studies
    assert all(len(trials(storage, name)) == 2 for name in studies)


def test_a_damaged_storage_is_named(workshop, url):
    path = workshop / "data" / "studies" / "studies.db"
    good = path.read_bytes()
    try:
        path.write_bytes(good[:1000] + b"\0" * 3000)
        done = work(workshop, "--trials", "1")
        assert done.returncode == 1 and "studies.db cannot be opened" in done.stderr.splitlines()[-1]
        assert "the file is damaged" in done.stderr.splitlines()[-1]
    finally:
        path.write_bytes(good)


def test_trials_that_diverge_are_recorded(workshop, tmp_path):
    code = f"""
from dataclasses import replace
from helpers import studies
from helpers.data.task import load_task
task = load_task("cmnist")
real = studies.Objective.__call__
studies.Objective.__call__ = lambda self, s, best=None: real(self, replace(s, lr=1e30), best)
study = studies.open_study("diverging", "tuned_ascent", task, "sqlite:///{tmp_path}/d.db")
studies.run_trials(study, 2, "tuned_ascent", task)
"""
    done = run_python(workshop, code)
    assert done.returncode == 0, done.stderr[-500:]
    found = trials(f"sqlite:///{tmp_path}/d.db", "diverging")
    assert [t.state.name for t in found] == ["COMPLETE"] * 2
    assert all(t.value == DIVERGED and t.user_attrs["models"] == 0 for t in found)


def test_a_trial_that_another_process_took_over_is_left_to_it(workshop, tmp_path):
    code = f"""
from helpers import studies
from helpers.data.task import load_task
task = load_task("cmnist")
study = studies.open_study("taken", "tuned_ascent", task, "sqlite:///{tmp_path}/t.db")
real = studies.Objective.__call__
def slept(self, settings, best=None):
    found = study.get_trials()
    if not any(t.state.name == "FAIL" for t in found):  # meanwhile another process gave it back to the queue
        mine = next(t for t in found if t.state.name == "RUNNING")
        study._storage.set_trial_state_values(mine._trial_id, studies.TrialState.FAIL)
        study.enqueue_trial(mine.params)
    return real(self, settings, best)
studies.Objective.__call__ = slept
studies.run_trials(study, 2, "tuned_ascent", task)
"""
    done = run_python(workshop, code)
    assert done.returncode == 0, done.stderr[-500:]
    found = trials(f"sqlite:///{tmp_path}/t.db", "taken")
    assert sorted(t.state.name for t in found) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert found[1].params == found[0].params and found[1].state.name == "COMPLETE"


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    places = [shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    places = [place for place in places if place]
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if not places:
        pytest.skip("PostgreSQL is not installed (initdb was not found)")
    folder = tmp_path_factory.mktemp("postgresql")
    binaries, prefix = os.path.dirname(os.path.realpath(places[-1])), []
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        prefix = ["runuser", "-u", "postgres", "--"]
        for path in (folder, *list(folder.parents)[:3]):
            os.chmod(path, 0o755)
        shutil.chown(folder, "postgres")
    data, port = folder / "data", 54_000 + os.getpid() % 1_000
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call = {"check": True, "capture_output": True, "cwd": folder}
    subprocess.run([*prefix, f"{binaries}/initdb", "-D", data, "-A", "trust", "-U", "study"], **call)
    subprocess.run(
        [*prefix, f"{binaries}/pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **call
    )
    yield f"postgresql://study@127.0.0.1:{port}/postgres"
    subprocess.run([*prefix, f"{binaries}/pg_ctl", "-D", data, "-m", "immediate", "stop"], **call)


@pytest.mark.thorough
def test_two_workers_share_a_postgresql_study_and_survive_a_kill(workshop, url, postgresql):
    looked = work(workshop, storage=postgresql)
    assert looked.returncode == 1 and 'holds no study "cmnist-tuned_ascent"' in looked.stderr.splitlines()[-1]
    assert not inspect(create_engine(postgresql, poolclass=NullPool)).get_table_names()  # looking made none
    ask = f"""
from helpers.data.task import load_task
from helpers.studies import open_study
open_study("cmnist-tuned_ascent", "tuned_ascent", load_task("cmnist"), {postgresql!r}).set_user_attr("target", 24)
"""
    assert run_python(workshop, ask).returncode == 0
    workers = [start(workshop, storage=postgresql) for _ in range(2)]
    wait_for(lambda: count(postgresql, "RUNNING") == 2, 150)
    workers[0].kill()
    workers[0].wait(60)
    assert workers[1].wait(timeout=100) == 0
    assert count(postgresql) == 24
