"""Kills of everything long, damaged files, a full disk: three kills and twenty damages in `make thorough`, ten and two
hundred in `make exhaustive` (needs a network)."""

import json
import os
import random
import shutil
import subprocess
import sys
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
UNLEARN = SETUP + 'print("ready", flush=True)\nunlearned("gemu", task, {n}, stored=False)\n'
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
    done."""
    moments, landed = random.Random(0), 0
    for _ in range(4 * kills):
        run = Program(folder, code, env)
        wait_for(lambda run=run: said in run.stdout + run.stderr or run.poll() is not None, 200)
        time.sleep(seconds * moments.uniform(0.3, 0.95))
        landed += run.poll() is None
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


DAMAGE = (
    SETUP
    + r"""
import hashlib, json, random

from helpers import studies
from helpers.data.request import read_ambiguous
from helpers.data.task import load_task
from helpers.evaluation.evaluate import measure
from helpers.evaluation.logits import logits_of
from helpers.files import DATA, StudyError

kinds = ("untrained", "trained", "retrained")
every = [baseline(kind, task, 2, stored=False) for kind in kinds]
every += [unlearned(name, task, 2, stored=False) for name in ("ascent", "gemu", "gefeu")]
measure(task, *every)
study = studies.open_study("cmnist-tuned_ascent", "tuned_ascent", task)
studies.run_trials(study, 3, "tuned_ascent", task)


def digest(*arrays):
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def of_models():
    found = [baseline(kind, task, 2, stored=True) for kind in kinds]
    found += [unlearned(name, task, 2, stored=True) for name in ("ascent", "gemu", "gefeu")]
    return digest(*(v.numpy() for e in found for m in e.models for v in m.state_dict().values()))


def of_results():
    logits = [logits_of(ensemble, task) for ensemble in every]
    parts = (part for each in logits for part in vars(each).values() if part is not None)
    return [digest(*parts), measure(task, *every).to_csv()]


def of_downloads():
    data = load_task("cmnist").data
    return [digest(data.train.images.numpy(), data.train.labels.numpy(), data.test.images.numpy()), data.source]


def of_splits():
    return [read_ambiguous("train"), read_ambiguous("test")]


def of_studies():
    found = studies.open_study("cmnist-tuned_ascent", "tuned_ascent", task, look=True)
    best = studies.best_trial(found)
    return [best.number, best.value, best.params, [(t.params, t.value) for t in studies.complete(found)]]


READ = {"downloads": of_downloads, "models": of_models, "results": of_results}
READ |= {"splits": of_splits, "studies": of_studies}


def files(part):
    return sorted(p for p in (DATA / part).rglob("*") if p.is_file() and p.suffix in (
        "", ".pt", ".npz", ".txt", ".db", ".gz") and not p.name.endswith((".lock", ".part")))


def stamps():
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for part in READ for p in files(part)}


def flipped(b, at):
    return b[:at] + bytes([b[at] ^ (1 << random.randrange(8))]) + b[at + 1 :]


random.seed(0)
HOW = {
    "cut": lambda b: b[: random.randrange(len(b))],
    "flipped": lambda b: flipped(b, random.randrange(len(b))),
    "empty": lambda b: b"",
    "foreign": lambda b: random.randbytes(len(b)),
    "holed": lambda b: (lambda at: b[:at] + bytes(min(512, len(b) - at)) + b[at + 512 :])(random.randrange(len(b))),
}
EACH = {"downloads": 1, "models": 2, "results": 2, "splits": 4, "studies": 12}
FEW = len(sys.argv) > 1  # one file of each part, damaged once in each way
for part, read in READ.items():
    right = json.dumps(read())
    assert json.dumps(read()) == right
    for path in random.Random(0).sample(files(part), 1) if FEW else files(part):
        good = path.read_bytes()
        for how, change in HOW.items():
            for _ in range(1 if FEW else EACH[part]):
                path.write_bytes(change(good))
                before = stamps()
                try:
                    outcome = "same" if json.dumps(read()) == right else "WRONG"
                except StudyError as error:
                    outcome = "refused: " + str(error)
                except Exception as error:
                    outcome = f"RAISED {type(error).__name__}: {error}"
                touched = [str(p) for p, stamp in stamps().items() if p != path and before.get(p) != stamp]
                lost = [str(p) for p in before if not p.exists() and p != path]
                print(json.dumps([part, path.name, how, outcome, touched + lost]), flush=True)
                path.write_bytes(good)
"""
)


@pytest.mark.parametrize("least", [pytest.param(20, marks=thorough), pytest.param(200, marks=exhaustive)])
def test_damaged_files_are_named_or_make_no_difference(workshop, least):
    clear(workshop, "models", "results")
    (workshop / "data" / "studies").mkdir(exist_ok=True)
    few = "import sys\nsys.argv[1:] = ['few']\n" if least == 20 else ""
    done = run_python(workshop, few + DAMAGE, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(found) >= least
    wrong = [row for row in found if not (row[3] == "same" or row[3].startswith("refused: ")) or row[4]]
    assert not wrong, wrong[:10]
    remedies = ("set N_TRIALS", "keep a copy", "delete", "restore", "run ", "put ", "move")
    for part, name, how, outcome, _ in found:
        if outcome != "same":
            assert "\n" not in outcome and any(word in outcome for word in remedies), (part, name, how, outcome)


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


@thorough
def test_without_network_once_the_data_are_there(workshop):
    apart = ["unshare", "-r", "-n"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("a process without network needs `unshare` and rights that this user has not")
    fetch = "from helpers.data import cmnist; print(cmnist.load().source)"
    source = run_python(workshop, fetch).stdout.strip()
    assert source
    clear(workshop, "models", "results")
    cells = nbformat.read(workshop / "netcomp_compare.ipynb", 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    code.insert(1, 'USED_DATASET, N_MODELS = "cmnist", 2')
    offline = [*apart, sys.executable, "-c", "\n".join([*code, "print(task.data.source)"])]
    env = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(offline, cwd=workshop, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.strip().splitlines()[-1] == source


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
