"""A method is added to a copy of the repository as the README says: one file, nothing else."""

import json
import subprocess
import sys

from conftest import ROOT, SETUP
from programs import command, run_python

STUDY = (
    SETUP
    + """
import json
import subprocess
import sys

from helpers import studies
from helpers.evaluation.evaluate import measure
from helpers.report import frontier, tables
from helpers.unlearning import METHODS
for name in ("untrained", "trained", "retrained"):
    baseline(name, task, 2, stored=False)
every = [baseline(name, task, 2, stored=True) for name in ("untrained", "trained", "retrained")]
every.append(unlearned("mine", task, 2, stored=False))
results = measure(task, *every, probes=True)
figure = frontier.frontier(results)
study = studies.open_study("mine", "mine", task)
studies.run_trials(study, 2, "mine", task)
print(json.dumps({
    "first": list(METHODS)[:3],
    "columns": list(tables.measures_table(results).data.columns),
    "labels": [text.get_text() for text in figure.axes[0].texts],
    "settings": list(tables.all_settings().data.index),
    "trials": [trial.params for trial in studies.complete(study)],
    "share": float(results.query("kind == 'mine' and measure == 'samples_share'").value.mean()),
}))
"""
)


def test_the_readmes_method_is_one_file_and_shows_in_tables_figures_and_studies(workshop):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = text.split("## Add a method")[1].split("```python\n")[1].split("```")[0]
    (workshop / "helpers" / "unlearning" / "mine.py").write_text(code, encoding="utf-8")
    done = run_python(workshop, STUDY)
    assert done.returncode == 0, done.stderr[-1500:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "My method" in found["columns"] and "My method" in found["settings"]
    assert any(label.startswith("My method") for label in found["labels"])
    assert (
        len(found["trials"]) == 2 and found["trials"][0].items() >= {"layers": 2, "lr": 0.5, "batch_size": 64}.items()
    )
    assert 0.09 < found["share"] < 0.11 and found["first"] == ["gemu", "gefeu", "ascent"]
    help_text = run_python(workshop, command("tune", "--help"))
    assert "mine" in help_text.stdout


def test_the_command_line_says_what_it_can_do_at_once():
    """Without the libraries that take seconds: a new interpreter in which they cannot be imported."""
    code = "import sys\nsys.modules |= dict.fromkeys(('torch', 'numpy', 'pandas', 'optuna', 'matplotlib'))\n"
    for arguments in (("--help",), ("study", "--help"), ("data", "--help")):
        done = subprocess.run(
            [sys.executable, "-c", code + command(*arguments)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and "usage: python -m helpers" in done.stdout, done.stderr
