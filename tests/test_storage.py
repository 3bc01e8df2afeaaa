"""Stored models in a temporary copy: interrupted, shared by two processes, damaged, of another split."""

import errno
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import SETUP, states, wait_for
from filelock import FileLock
from programs import Program, run_python

from helpers import files
from helpers.data import mnist
from helpers.files import StudyError, load_torch
from helpers.models import ensembles
from helpers.report import requests

TRAIN = SETUP + 'baseline("trained", task, {n}, stored=False)\n'


def train_three(folder):
    if len(list((folder / "data" / "models").rglob("trained-*/*.pt"))) < 3:
        assert run_python(folder, TRAIN.format(n=3)).returncode == 0


def clear(folder):
    for part in ("models", "results"):
        shutil.rmtree(folder / "data" / part, ignore_errors=True)


def test_a_killed_run_goes_on_and_ends_in_the_same_models(workshop):
    """Killed when it says that it begins, and when its first model is stored."""
    clear(workshop)
    assert run_python(workshop, TRAIN.format(n=3)).returncode == 0
    undisturbed = states(workshop)
    assert len(undisturbed) == 3
    clear(workshop)
    for stored in (0, 1):
        run = Program(workshop, SETUP + "print('ready', flush=True)\n" + TRAIN.format(n=3))
        wait_for(lambda run=run: "ready" in run.stdout)
        wait_for(lambda stored=stored: len(list((workshop / "data" / "models").rglob("*.pt"))) >= stored)
        run.kill()
        run.wait()
        assert all(undisturbed[place] == bits for place, bits in states(workshop).items())
    assert len(states(workshop)) < 3
    assert run_python(workshop, TRAIN.format(n=3)).returncode == 0
    assert states(workshop) == undisturbed
    assert not list((workshop / "data" / "models").rglob("*.part"))


def test_what_may_not_be_read_is_told(tmp_path, task, monkeypatch):
    """As where folders are another user's; here root could read them all the same."""
    real = Path.stat

    def stat(self, **options):
        if tmp_path in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, **options)

    monkeypatch.setattr(ensembles, "MODELS", tmp_path / "models")
    monkeypatch.setattr(mnist, "DOWNLOADS", tmp_path)
    monkeypatch.setattr(requests, "results_folder", lambda task: tmp_path / "results")
    monkeypatch.setattr(Path, "stat", stat)
    for call in (
        lambda: ensembles.baseline("trained", task, 2, stored=True),
        lambda: ensembles.baseline("trained", task, 2, stored=False),
        lambda: mnist.read("MNIST"),
        lambda: requests.stored_results(task),
    ):
        with pytest.raises(StudyError, match=r"cannot be read \(Permission denied\): allow reading"):
            call()


def test_waiting_for_a_lock_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    held = threading.Event()

    def hold():  # as another process does
        with FileLock(tmp_path / ".here.lock"):
            held.set()
            time.sleep(1)

    threading.Thread(target=hold).start()
    held.wait()
    with files.locked(tmp_path / "here"):
        pass
    assert "Waiting for another process that works on" in capsys.readouterr().out


def test_of_two_at_once_one_waits_and_finds_the_models(workshop):
    clear(workshop)
    patience = "from helpers import files\nfiles.PATIENCE = 0.1\n"
    runs = [Program(workshop, patience + TRAIN.format(n=6)) for _ in range(2)]
    assert [run.wait(timeout=200) for run in runs] == [0, 0]
    assert len(states(workshop)) == 6 and sum("Waiting for another process" in run.stdout for run in runs) == 1


def test_a_terminal_without_a_sign_shows_another(workshop):
    """As where the locale is C or ISO-8859-1; in a new interpreter, since a forked one has its streams already."""
    mine = workshop / "data" / "splits" / "Sève – 7_train.txt"
    mine.write_text("\n".join(map(str, range(100))), encoding="utf-8")
    for encoding in ("ascii", "iso-8859-1"):
        done = subprocess.run(
            [sys.executable, "-m", "helpers", "data", "--forget", "Sève – 7"],
            cwd=workshop,
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert done.returncode == 0 and 'the list "S' in done.stdout.decode(encoding), done.stderr
    mine.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of Unix")
@pytest.mark.parametrize(
    "command, told",
    [
        ("study", "command goes on"),
        pytest.param("tune gemu --trials 30", "without --trials", marks=pytest.mark.thorough),
    ],
)
def test_after_ctrl_c_the_last_line_says_what_to_do(workshop, command, told):
    """On a terminal, whose Ctrl-C reaches the workers too; while models are trained."""
    import pty

    clear(workshop)
    main, side = pty.openpty()
    run = subprocess.Popen(
        ["setsid", "--ctty", "env", "--default-signal=INT",  # also where the tests run in the background of a shell
         sys.executable, "-m", "helpers", *command.split(), "--dataset", "cmnist"],
        cwd=workshop, stdin=side, stdout=side, stderr=side, env=os.environ | {"LOKY_MAX_CPU_COUNT": "2"},
    )  # fmt: skip
    os.close(side)
    wait_for(lambda: states(workshop), 100)
    os.write(main, b"\x03")
    screen = ""
    with suppress(OSError):  # at the end
        while part := os.read(main, 10_000).decode(errors="replace"):
            screen += part
    os.close(main)
    clear(workshop)
    assert run.wait(30) == 130 and "Traceback" not in screen, screen[-3000:]
    assert told in screen.strip().splitlines()[-1], screen[-3000:]


def test_a_damaged_model_is_named_and_nothing_else_is_touched(workshop, tmp_path):
    train_three(workshop)
    files = sorted((workshop / "data" / "models").rglob("trained-*/*.pt"))
    good, other = files[1].read_bytes(), files[0].read_bytes()
    at = random.Random(0).randrange(len(good))
    damages = {
        "cut": good[:at],
        "flipped": good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :],
        "empty": b"",
        "foreign": b"PK\x03\x04" + bytes(1000),
        "swapped": other,
    }
    whole = load_torch(files[1], "")
    for part in whole:  # a file without its record, ...
        torch.save({name: value for name, value in whole.items() if name != part}, tmp_path / f"without {part}")
    torch.save(whole | {"state": dict(list(whole["state"].items())[1:])}, tmp_path / "without a layer")
    torch.save(whole | {"record": {"seconds": 1.0}}, tmp_path / "without samples")
    torch.save(list(whole), tmp_path / "a list")
    wide = whole["state"] | {"conv1.weight": torch.zeros(16, 1, 6, 6)}
    for part, value in (("record", None), ("state", None), ("state", wide), ("made", 5)):
        torch.save(whole | {part: value}, tmp_path / f"{part} {type(value).__name__}")
    torch.save(whole | {"record": {"seconds": "x", "samples": 1}}, tmp_path / "seconds in words")
    for name, content in damages.items():
        (tmp_path / name).write_bytes(content)
    damages = sorted(path.name for path in tmp_path.iterdir())
    stamps = [path.stat().st_mtime_ns for path in (files[0], files[2])]
    code = (
        SETUP
        + f"""
import shutil
from pathlib import Path
from helpers.files import StudyError
for name in {damages}:
    shutil.copy(Path({str(tmp_path)!r}) / name, {str(files[1])!r})
    try:
        baseline("trained", task, 3, stored=True).models
    except StudyError as error:
        print(error)
"""
    )
    try:
        sentences = run_python(workshop, code).stdout.strip().splitlines()
        assert len(sentences) == len(damages)
        assert len(damages) == 18
        assert all("001.pt" in sentence and "ALLREADY_TRAINED = False" in sentence for sentence in sentences)
        assert [path.stat().st_mtime_ns for path in (files[0], files[2])] == stamps
    finally:
        files[1].write_bytes(good)


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_in_place_of_a_model_is_refused_and_not_executed(workshop, tmp_path, form):
    train_three(workshop)
    path = sorted((workshop / "data" / "models").rglob("trained-*/*.pt"))[1]
    good, mark, bait = path.read_bytes(), tmp_path / "executed", tmp_path / "bait"
    if form == "pickle":
        bait.write_bytes(pickle.dumps(Malicious(mark)))
        pickle.loads(bait.read_bytes())
    else:
        torch.save({"identity": path.parent.name, "seed": 1, "state": Malicious(mark)}, bait)
        torch.load(bait, weights_only=False)
    mark.rmdir()  # it is there: the bait works
    try:
        path.write_bytes(bait.read_bytes())
        done = run_python(workshop, SETUP + 'baseline("trained", task, 3, stored=True).models')
        last = done.stderr.strip().splitlines()[-1]
        assert "StudyError" in last and "001.pt" in last and "ALLREADY_TRAINED = False" in last
        assert not mark.exists()
    finally:
        path.write_bytes(good)


RESULTS = (
    SETUP
    + """
import shutil
from helpers.evaluation.evaluate import measures_path
from helpers.evaluation.logits import logits_of
import numpy as np
from helpers.files import StudyError, load_arrays
every = [baseline(kind, task, 2, stored=False) for kind in ("untrained", "trained", "retrained", "again")]
every.append(unlearned("ascent", task, 2, stored=False))
right = measure(task, *every)
path, other = (measures_path(task, every[place].kind, 2) for place in (4, 1))
load = lambda n=2: measure(task, unlearned("ascent", task, n, stored=True))


def attempt(what, call):
    try:
        print(what, "accepted", call() is not None)
    except StudyError as error:
        print(what, "refused:", error)


def spoilt(what, path, spoil, call):
    good = path.read_bytes()
    spoil(path)
    attempt(what, call)
    path.write_bytes(good)


print("same", load().equals(right) and measure(task, *every).equals(right))
spoilt("cut", path, lambda path: path.write_bytes(path.read_bytes()[:500]), load)
holed = lambda path: path.write_bytes(path.read_bytes()[:-30] + bytes(2) + path.read_bytes()[-28:])
spoilt("flipped", path, holed, load)
spoilt("kind", path, lambda path: shutil.copy(other, path), load)
attempt("number", lambda: load(3))
logits = path.with_name("000-logits-1.npz")
swap = lambda path: shutil.copy(path.with_name("001-logits-1.npz"), path)
spoilt("logits", logits, swap, lambda: logits_of(every[4], task))
for part in ("of", "test", "forget_train", "retain_train"):
    kept = {name: value for name, value in load_arrays(logits, "").items() if name != part}
    spoilt(f"{part} missing", logits, lambda path: np.savez(path, **kept), lambda: logits_of(every[4], task))
    kept[part] = np.zeros(3)
    spoilt(f"{part} missing", logits, lambda path: np.savez(path, **kept), lambda: logits_of(every[4], task))
"""
)


def test_results_and_logits_that_are_damaged_or_of_other_models_are_refused(workshop):
    done = run_python(workshop, RESULTS)
    assert done.returncode == 0, done.stderr[-1000:]
    same, cut, flipped, kind, number, logits, *lacking = [line for line in done.stdout.splitlines() if line]
    assert same == "same True"
    assert all("is damaged" in line and "delete this file" in line for line in (cut, flipped))
    assert kind.startswith("kind refused: ") and "holds the measures of another kind" in kind
    assert number.startswith("number refused: Only 2 of 3 Gradient Ascent models") and "N_MODELS = 3" in number
    assert logits.startswith("logits refused: ") and "delete this file and run the cell again" in logits
    assert len(lacking) == 8 and all("missing refused: " in line and "delete this file" in line for line in lacking)


def test_unlearned_models_belong_to_the_code_that_made_them(workshop):
    """That of a method, and of what it uses."""
    assert run_python(workshop, RESULTS).returncode == 0
    code = SETUP + 'print(len(measure(task, unlearned("ascent", task, 2, stored=True))))'
    assert run_python(workshop, code).stdout.strip().isdecimal()
    for place, old, new in (("ascent.py", "sign=-1.0", "sign=-1.1"), ("method.py", "max(1, int(most))", "int(most)")):
        path = workshop / "helpers" / "unlearning" / place
        original = path.read_text()
        try:
            path.write_text(original.replace(old, new, 1))
            last = run_python(workshop, code).stderr.strip().splitlines()[-1]
            assert "settings or code than the present ones" in last and "run netcomp_SimpleAscent" in last
        finally:
            path.write_text(original)


def test_another_split_is_refused(workshop):
    """For what depends on it: trained models serve every request."""
    make = SETUP + 'baseline("retrained", task, 2, stored={stored})'
    assert run_python(workshop, make.format(stored=False)).returncode == 0
    path = workshop / "data" / "splits" / "crossbar_train.txt"
    original = path.read_text()
    try:
        path.write_text(original.replace("\n148\n", "\n"))
        done = run_python(workshop, make.format(stored=True))
        assert "another recipe, forget set, data source, settings or code" in done.stderr.strip().splitlines()[-1]
    finally:
        path.write_text(original)


def test_models_belong_to_the_code_that_made_them(workshop):
    train_three(workshop)
    path = workshop / "helpers" / "models" / "training.py"
    original = path.read_text()
    load = SETUP + 'print(len(baseline("trained", task, 3, stored=True)))'
    try:
        path.write_text("# a remark\n" + original.replace('"""Trains a new CNN.', '"""Trains a fresh CNN.'))
        assert run_python(workshop, load).stdout.strip() == "3"
        path.write_text(original.replace("(1 - self.warm_up) * steps", "(1.01 - self.warm_up) * steps"))
        assert "settings or code than" in run_python(workshop, load).stderr.strip().splitlines()[-1]
    finally:
        path.write_text(original)
