"""Stored models in a temporary copy: interrupted, shared by two processes, damaged, of another split."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import SETUP, run_python, states

from helpers.files import write_sealed

TRAIN = SETUP + 'baseline("trained", task, {n}, stored=False)\n'


def train_three(folder):
    if len(list((folder / "data" / "models").rglob("trained-*/*.pt"))) < 3:
        assert run_python(folder, TRAIN.format(n=3)).returncode == 0


def clear(folder):
    for part in ("models", "results"):
        shutil.rmtree(folder / "data" / part, ignore_errors=True)


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
    for name, content in damages.items():
        (tmp_path / name).write_bytes(content)
    stamps = [path.stat().st_mtime_ns for path in (files[0], files[2])]
    code = (
        SETUP
        + f"""
import shutil
from pathlib import Path
from helpers.files import StudyError
for name in {list(damages)}:
    shutil.copy(Path({str(tmp_path)!r}) / name, {str(files[1])!r})
    try:
        baseline("trained", task, 3, stored=True)
    except StudyError as error:
        print(error)
"""
    )
    try:
        sentences = run_python(workshop, code).stdout.strip().splitlines()
        assert len(sentences) == len(damages)
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
def test_a_sealed_pickle_in_place_of_a_model_is_refused_and_not_executed(workshop, tmp_path, form):
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
        write_sealed(path, bait.read_bytes())
        done = run_python(workshop, SETUP + 'baseline("trained", task, 3, stored=True)')
        last = done.stderr.strip().splitlines()[-1]
        assert "StudyError" in last and "001.pt" in last and "ALLREADY_TRAINED = False" in last
        assert not mark.exists()
    finally:
        path.write_bytes(good)


RESULTS = (
    SETUP
    + """
import json, shutil
from helpers import evaluation
from helpers.files import StudyError, load_json, save_json
kinds = ("trained", "retrained")
every = [baseline(kind, task, 2, stored=False) for kind in ("untrained", *kinds)]
every.append(unlearned("ascent", task, 2, stored=False))
evaluate(task, *every)
evaluate(load_task("cmnist", "plain"), *(baseline(k, load_task("cmnist", "plain"), 2, False) for k in ("untrained", *kinds)))
place = evaluation.RESULTS / "cmnist" / "crossbar"


def attempt(what, call):
    try:
        call()
        print(what, "accepted")
    except StudyError as error:
        print(what, "refused:", error)


def load():
    return evaluation.load_results("cmnist", "crossbar", (*kinds, "ascent"))


def spoilt(what, path, spoil, call):
    good = path.read_bytes()
    spoil(path)
    attempt(what, call)
    path.write_bytes(good)


def others(path):
    value = load_json(path, "")
    value["against"]["retrained"] = "0123456789"
    save_json(path, value)


attempt("right", load)
spoilt("models", place / "ascent.json", others, load)
spoilt("kind", place / "ascent.json", lambda path: shutil.copy(place / "trained.json", path), load)
plain = place.parent / "plain" / "trained.json"
spoilt("side", place / "trained.json", lambda path: shutil.copy(plain, path), load)
result = load()["ascent"]
logits = {kind: next((place / "logits").glob(f"{kind}-*.bin")) for kind in ("trained", "ascent")}
swap = lambda path: shutil.copy(logits["trained"], path)
attempt("right", lambda: evaluation.load_outputs(task, result))
spoilt("logits", logits["ascent"], swap, lambda: evaluation.load_outputs(task, result))
spoilt("logits", logits["ascent"], swap, lambda: evaluation.outputs(every[-1], task))
"""
)


def test_results_and_logits_of_other_models_are_refused(workshop):
    done = run_python(workshop, RESULTS)
    assert done.returncode == 0, done.stderr[-1000:]
    lines = [line for line in done.stdout.splitlines() if line]
    right, models, kind, side, also_right, stored, computed = lines
    assert right == also_right == "right accepted"
    assert models.startswith("models refused: ") and "run netcomp_SimpleAscent.ipynb" in models
    assert kind.startswith("kind refused: ") and "run netcomp_SimpleAscent.ipynb" in kind
    assert side.startswith("side refused: ") and "run netcomp_compare.ipynb" in side and "plain" in side
    assert stored.startswith("logits refused: ") and "delete this file and run netcomp_SimpleAscent.ipynb" in stored
    assert computed.startswith("logits refused: ") and "delete this file and run the cell again" in computed


def test_another_split_is_refused(workshop):
    train_three(workshop)
    path = workshop / "data" / "splits" / "crossbar_train.txt"
    original = path.read_text()
    try:
        path.write_text(original.replace("\n148\n", "\n"))
        load = SETUP + 'baseline("trained", task, 3, stored=True)'
        assert "run `python -m helpers.split`" in run_python(workshop, load).stderr.strip().splitlines()[-1]
        subprocess.run([sys.executable, "-m", "helpers.split"], cwd=workshop, check=True)
        done = run_python(workshop, load)
        assert "another recipe, split, data source, settings or code" in done.stderr.strip().splitlines()[-1]
    finally:
        path.write_text(original)


def test_models_belong_to_the_code_that_made_them(workshop):
    train_three(workshop)
    path = workshop / "helpers" / "training.py"
    original = path.read_text()
    load = SETUP + 'print(len(baseline("trained", task, 3, stored=True)))'
    try:
        path.write_text("# a remark\n" + original.replace('"""Trains a new CNN.', '"""Trains a fresh CNN.'))
        assert run_python(workshop, load).stdout.strip() == "3"
        path.write_text(original.replace("(1 - self.warm_up) * steps", "(1.01 - self.warm_up) * steps"))
        assert "settings or code" in run_python(workshop, load).stderr.strip().splitlines()[-1]
    finally:
        path.write_text(original)
