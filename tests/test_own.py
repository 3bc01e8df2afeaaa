"""A method of one's own, tried without touching helpers/."""

import importlib.util
import json
import os
import subprocess
import sys

import nbformat
import pytest
import torch
from conftest import ROOT, SETUP, SHORT
from programs import run_python

from helpers import own
from helpers.files import StudyError
from helpers.unlearning import METHODS, TITLES
from helpers.unlearning.method import Log

MINE = """
import torch
from torch.nn.functional import cross_entropy

RATE = 0.5

def steps(model, data):
    # a comment
    order = torch.arange(128)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE * data.recipe.peak_lr)
    for at in order.split(64):
        loss = cross_entropy(model(data.retain_images[at]), data.retain_labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model

def two_steps(model, data, seed):
    "Says what it does."
    with torch.no_grad():
        model(data.retain_images[:30])
    return (lambda given: steps(given, data))(model)
"""


def module(folder, text=MINE, name="mine"):
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"{name}_{abs(hash(text))}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def identity(folder, text, name):
    return own.fingerprint(own._source_of(module(folder, text, name).two_steps, set()))


def test_what_the_function_does_and_uses_names_its_models(tmp_path):
    known = identity(tmp_path, MINE, "a")
    same = MINE.replace("# a comment", "# another").replace("Says what it does", "Something else")
    assert identity(tmp_path, same, "b") == known
    changes = {"RATE = 0.5": "RATE = 0.4", "arange(128)": "arange(192)", ":30": ":20"}
    changes["import cross_entropy"] = "import nll_loss as cross_entropy"
    for place, (old, new) in enumerate(changes.items()):
        assert identity(tmp_path, MINE.replace(old, new), f"c{place}") != known


def test_a_class_of_the_notebook_counts_by_its_methods(tmp_path):
    text = MINE.replace(
        "def two_steps",
        """class Rate:
    factor = 2.0

    def of(self, data):
        return self.factor * RATE


def two_steps""",
    ).replace("return (lambda", "Rate().of(data)\n    return (lambda")
    known = identity(tmp_path, text, "d")
    for place, (old, new) in enumerate(
        [("factor = 2.0", "factor = 3.0"), ("self.factor * RATE", "self.factor + RATE")]
    ):
        assert identity(tmp_path, text.replace(old, new), f"e{place}") != known


def run(function, samples, model, data):
    log, settings = Log(), own.OwnSettings("", samples)
    return own._runner(function)(model, data, settings, 0, log), log.samples


def test_its_cost_is_counted_given_or_measured(tmp_path, trained_model, small_data):
    mine = module(tmp_path)
    before = [weights.clone() for weights in trained_model.parameters()]
    model, counted = run(mine.two_steps, "counted", trained_model, small_data)
    assert counted == 128 + 30 / 3 and not model.training
    assert all(map(torch.equal, before, trained_model.parameters())), "the trained model was changed"
    assert not all(map(torch.equal, before, model.parameters()))
    assert run(mine.two_steps, "77", trained_model, small_data)[1] == 77
    assert 1 < run(mine.two_steps, "time", trained_model, small_data)[1] < 60_000

    def nothing(model, data, seed):
        return model

    def buggy(model, data, seed):
        images = data.retain_images
        return images.nothing(model)

    with pytest.raises(StudyError, match="buggy failed on model 0, in its line 3: AttributeError: .*nothing"):
        run(buggy, "counted", trained_model, small_data)
    with pytest.raises(StudyError, match='give samples=NUMBER.*or samples="time"'):
        run(nothing, "counted", trained_model, small_data)
    with pytest.raises(StudyError, match="returned list: it must return a model"):
        run(lambda model, data, seed: [model], "77", trained_model, small_data)


CONFIGURED = """
import sys
from dataclasses import dataclass
from helpers import own

@dataclass
class Config:
    rate: float = 0.5

class Plain:
    def __init__(self):
        self.names = {"conv1", "conv2", "dense", "output"}

config, plain, layers = Config(), Plain(), {"conv1", "conv2", "dense", "output"}

def two_steps(model, data, seed):
    return model if config.rate and plain.names and layers else Config(0.1)

if __name__ == "__main__":
    print(own.fingerprint(own._source_of(two_steps, set())))
"""


def test_objects_and_sets_name_the_same_models_in_every_kernel(tmp_path):
    """Python orders a set of texts anew in each process."""
    found = []
    for place, text in enumerate((CONFIGURED, CONFIGURED, CONFIGURED.replace("Config(), Pl", "Config(0.4), Pl"))):
        path = tmp_path / f"configured{place > 1:d}.py"
        path.write_text(text, encoding="utf-8")
        environment = os.environ | {"PYTHONHASHSEED": str(place), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] == found[1] != found[2]


def null(model, data, seed):
    return model


@pytest.mark.parametrize(
    "function, options, sentence",
    [
        (lambda model, data, seed: model, {}, "this one has no name"),
        (METHODS["gemu"].run, {}, "the name gemu is taken"),
        (null, {}, "the name null is taken"),
        (print, {}, "source of print cannot be read"),
        (SHORT.lr_at, {"samples": "none"}, "give a number above 0"),
        (SHORT.lr_at, {"samples": -3}, "give a number above 0"),
    ],
)
def test_what_cannot_stand_in_a_table_is_refused(task, function, options, sentence):
    with pytest.raises(StudyError, match=sentence):
        own.own_method(function, task, 2, **options)
    assert set(TITLES) >= set(METHODS) and "print" not in METHODS


def test_it_stands_beside_the_others_and_is_made_anew_only_when_it_changed(workshop):
    (workshop / "mine.py").write_text(MINE, encoding="utf-8")
    code = (
        SETUP
        + """
import json, sys
sys.path.insert(0, ".")
from mine import two_steps
from helpers.own import own_method
from helpers.report import frontier, tables
for name in ("untrained", "trained", "retrained", "again"):
    baseline(name, task, 2, stored=False)
others = [unlearned(name, task, 2, stored=False) for name in ("gemu", "reset", "new")]
mine = own_method(two_steps, task, 2)
results = measure(task, *others, mine)
print(json.dumps({
    "times": [mine.kind.path(seed).stat().st_mtime_ns for seed in range(2)],
    "table": tables.beside_table(results, "two_steps").data.to_markdown(),
    "panel": [text.get_text() for axis in frontier.frontier(results).axes for text in axis.texts],
    "share": results.query("kind == 'two_steps' and measure == 'samples'").value.tolist(),
}))
"""
    )
    found = [json.loads(run_python(workshop, code).stdout.splitlines()[-1]) for _ in range(2)]
    assert found[0] == found[1] and found[0]["share"] == [138, 138]
    assert all(name in found[0]["table"] for name in ("Two steps", "Reset", "New model", "GEMU", "Retrained"))
    assert any("Two steps" in text for text in found[0]["panel"])
    (workshop / "mine.py").write_text(MINE.replace("RATE = 0.5", "RATE = 0.4"), encoding="utf-8")
    assert json.loads(run_python(workshop, code).stdout.splitlines()[-1])["times"] != found[0]["times"]


def test_the_example_of_the_readme_is_that_of_the_notebook():
    block = (ROOT / "README.md").read_text(encoding="utf-8").split("## Add yours")[1].split("```")[1]
    cells = [cell.source for cell in nbformat.read(ROOT / "graphics.ipynb", 4).cells if "own_method" in cell.source]
    parts = [[line for line in text.splitlines() if line and "own_method(" not in line] for text in (block, cells[0])]
    assert parts[1] == parts[0][1:]
    assert len(parts[0]) - 1 < 10
