"""Kills of everything long and a full disk: three kills in `make thorough`, ten in `make exhaustive`, which needs a
network and installs other Pythons."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import optuna
import pytest
from conftest import ROOT, SETUP, copy_repository, states, wait_for
from programs import Program, command, run_python

thorough, exhaustive = pytest.mark.thorough, pytest.mark.exhaustive
TIERS = [pytest.param("few", marks=thorough), pytest.param("many", marks=exhaustive)]
KILLS = {"few": 3, "many": 10}
MODELS = 12
TRAIN = SETUP + 'print("ready", flush=True)\nbaseline("trained", task, {n}, stored=False)\n'
UNLEARN = SETUP + "from dataclasses import replace\nfrom helpers.unlearning import METHODS\n"
UNLEARN += 'slow = replace(METHODS["gemu"].settings, budget=0.3)\nprint("ready", flush=True)\n'  # else all is done soon
UNLEARN += 'unlearned("gemu", task, {n}, stored=False, settings=slow)\n'
STUDY = ("tune", "tuned_ascent", "--dataset", "cmnist")
FETCH = (
    "import os; os.environ['UNLEARNING_OFFLINE'] = '0'; from helpers.data import mnist; print('ready', "
    "flush=True); mnist.read('MNIST')"
)


def seconds_of(code, folder, env=None, said="ready"):
    """How long an undisturbed run takes from the moment when it says that it is ready, so that the kills land inside
    one."""
    run = Program(folder, code, env)
    wait_for(lambda: said in run.stdout + run.stderr, 200)
    begin = time.monotonic()
    assert run.wait() == 0, run.stderr[-1000:]
    return time.monotonic() - begin


def kill_at_random(folder, code, seconds, check, kills, env=None, said="ready"):
    """Starts the program again and again and kills it at a random moment of the `seconds` that it works once it is
    ready, until `kills` have hit a live process; `check` looks at what is left, and clears it away where all is
    done. A run that ends before its kill, since other tests leave it more of the machine or little was left to do,
    brings the next moments forward."""
    moments, landed = random.Random(0), 0
    for _ in range(4 * kills):
        run = Program(folder, code, env)
        wait_for(lambda run=run: said in run.stdout + run.stderr or run.poll() is not None, 200)
        begin, moment = time.monotonic(), seconds * moments.uniform(0.3, 0.95)
        while run.poll() is None and time.monotonic() - begin < moment:
            time.sleep(0.05)
        if run.poll() is None:
            landed += 1
        else:
            seconds = time.monotonic() - begin
        run.kill()
        run.wait()
        check()
        if landed == kills:
            break
    assert landed >= kills


def clear(folder, *parts):
    for part in parts:
        shutil.rmtree(folder / "data" / part, ignore_errors=True)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("code", [TRAIN, UNLEARN], ids=["training", "unlearning"])
def test_kills_end_in_the_same_models(workshop, code, tier):
    clear(workshop, "models", "results")
    n, kind = MODELS, "trained" if code is TRAIN else "gemu"
    code = code.format(n=n)
    if kind == "gemu":
        assert run_python(workshop, TRAIN.format(n=n)).returncode == 0  # its time is not that of unlearning
    seconds = seconds_of(code, workshop)
    undisturbed, before = states(workshop), {}
    assert len(undisturbed) == (n if kind == "trained" else 2 * n)
    parts = []  # how many models of the kind each kill left

    def begin_anew():
        for path in (workshop / "data" / "models").rglob(f"{kind}-*/*.pt"):
            path.unlink()
        before.clear()

    def check():
        found = states(workshop)
        assert all(undisturbed[place] == bits for place, bits in found.items())  # nothing half-written
        stamps = {place: (workshop / "data" / "models" / place).stat().st_mtime_ns for place in found}
        assert before.items() <= stamps.items()  # nothing lost, and what was stored is not made again
        before.update(stamps)
        parts.append(sum(f"{kind}-" in place for place in found))
        if found == undisturbed:  # so that the next run has something to do
            begin_anew()

    begin_anew()
    kill_at_random(workshop, code, seconds, check, KILLS[tier])
    assert any(0 < part < n for part in parts)
    assert run_python(workshop, code).returncode == 0
    assert states(workshop) == undisturbed
    time.sleep(2)
    assert not list((workshop / "data" / "models").rglob("*.part"))


@pytest.mark.parametrize("tier", TIERS)
def test_kills_end_in_the_same_trials(workshop, tmp_path, tier):
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def trials(url):
        found = optuna.load_study(study_name="cmnist-tuned_ascent", storage=url).get_trials(deepcopy=False)
        done = [trial for trial in found if trial.state.name == "COMPLETE"]
        return sorted((json.dumps(trial.params), trial.values) for trial in done)

    calm, hit = (f"sqlite:///{tmp_path / name}.db" for name in ("calm", "hit"))
    code, bar = command(*STUDY, "--trials", "12"), "cmnist-tuned_ascent:"  # what says that it works is its bar
    seconds = seconds_of(code, workshop, {"STORAGE": calm}, bar)
    assert len(trials(calm)) == 12
    before = [0]

    def check():
        done = trials(hit)
        assert len(done) >= before[0]  # nothing lost
        before[0] = len(done)

    kill_at_random(workshop, code, seconds, check, KILLS[tier], {"STORAGE": hit}, bar)
    asked = optuna.load_study(study_name="cmnist-tuned_ascent", storage=hit).user_attrs["target"]
    assert run_python(workshop, command(*STUDY), env={"STORAGE": hit}).returncode == 0
    found = trials(hit)
    assert len(found) == asked and len({params for params, _ in found}) == asked


@pytest.mark.parametrize("tier", TIERS)
def test_kills_of_a_download(workshop, tier):
    folder = workshop / "data" / "downloads" / "MNIST" / "raw"
    good = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith("ubyte")}
    assert len(good) == 4
    shutil.rmtree(folder)

    def check():
        for path in folder.glob("*ubyte") if folder.is_dir() else ():
            assert path.read_bytes() == good[path.name]
            path.unlink()  # so that the next run has something to do

    try:
        if "could not be fetched" in run_python(workshop, FETCH).stderr:
            pytest.skip("no source of MNIST can be reached from here")
        check()
        seconds = seconds_of(FETCH, workshop)
        check()
        kill_at_random(workshop, FETCH, seconds, check, KILLS[tier])
        assert run_python(workshop, FETCH).returncode == 0
        assert {path.name: path.read_bytes() for path in folder.glob("*ubyte")} == good
    finally:
        for name, content in good.items():
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(content)


@pytest.fixture
def small_disk(workshop):
    """data/models on a disk of its own: of 256 KB, then one that cannot be written to."""
    clear(workshop, "models")
    place = workshop / "data" / "models"
    place.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a small disk needs rights that this user has not")

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


@thorough
@pytest.mark.parametrize("options, reason", [("size=256k", "No space left"), ("ro", "Read-only")])
def test_a_full_or_closed_disk_is_named(workshop, small_disk, options, reason):
    small_disk(options)
    done = run_python(workshop, TRAIN.format(n=6))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and "StudyError" in last and "written" in last and reason in last


def interpreter(version):
    """Where that Python is, if anywhere: on the path or among pyenv's."""
    places = [shutil.which(f"python{version}")]
    places += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))
    for place in filter(None, places):
        if not subprocess.run([place, "-m", "venv", "--help"], capture_output=True).returncode:
            return place
    return None


@exhaustive
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_python(tmp_path, version):
    """Set up as `make` does, in a copy; then the first notebook. Installs several GB."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    copy = copy_repository(tmp_path / "copy")
    shutil.copy(ROOT / "requirements.txt", copy)
    subprocess.run([python, "-m", "venv", ".venv"], cwd=copy, check=True)
    mine = str(copy / ".venv" / "bin" / "python")
    try:
        pip = subprocess.run(
            [mine, "-m", "pip", "install", "-q", "-r", "requirements.txt"], cwd=copy, capture_output=True, text=True
        )
        if pip.returncode and "connection" in pip.stderr.lower():
            pytest.skip("no package index can be reached from here")
        assert pip.returncode == 0, pip.stderr[-1000:]
        flags = {"USED_DATASET": "cmnist", "N_MODELS": 2}
        code = f"""
import sys
from pathlib import Path
from helpers.run import execute
execute("netcomp_compare", Path({str(tmp_path)!r}) / "done.ipynb", {flags!r}, Path.cwd())
print(sys.version_info[:2])
"""
        done = subprocess.run([mine, "-c", code], cwd=copy, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-1000:]
        assert done.stdout.strip().splitlines()[-1] == str(tuple(map(int, version.split("."))))
        notebook = nbformat.read(tmp_path / "done.ipynb", 4)
        assert notebook.metadata.language_info.version.startswith(version)  # the kernel is that Python too
    finally:
        shutil.rmtree(copy / ".venv")
