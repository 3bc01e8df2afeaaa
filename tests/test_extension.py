"""The recipes of CONTRIBUTING.md in a copy of the repository: a method, a data set, a measure and a figure are added as
it says."""

import json
import subprocess
import sys

from conftest import ROOT
from programs import command, run_python

STUDY = """
import json
from helpers import studies
from helpers.data.task import load_task
from helpers.evaluation.evaluate import measure
from helpers.models.ensembles import baseline
from helpers.report import figures, frontier, tables
from helpers.unlearning import METHODS, unlearned
task = load_task("stripes", "class 3")
every = [baseline(name, task, 2, stored=False) for name in ("untrained", "trained", "retrained", "again")]
results = measure(task, *every, unlearned("mine", task, 2, stored=False), probes=True)
figure = frontier.frontier(results)
study = studies.open_study("mine", "mine", task)
studies.run_trials(study, 2, "mine", task)
print(json.dumps({
    "task": task.describe(),
    "first": list(METHODS)[:3],
    "table": tables.measures_table(results).data.to_markdown(),
    "labels": [text.get_text() for axis in figure.axes for text in axis.texts],
    "settings": list(tables.all_settings().data.index),
    "trials": [trial.params for trial in studies.complete(study)],
    "share": float(results.query("kind == 'mine' and measure == 'samples_share'").value.mean()),
    "entropy": results.query("kind == 'untrained' and measure == 'entropy'").value.tolist(),
    "bars": len(figures.cost_figure(results).axes[0].patches),
}))
"""


def recipe(title: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"## Add {title}")[1].split("```python\n")[1].split("```")[0]


def test_the_recipes_need_one_file_or_one_entry_and_show_in_tables_figures_and_studies(workshop):
    helpers = workshop / "helpers"
    (helpers / "unlearning" / "mine.py").write_text(recipe("a method"), encoding="utf-8")
    (helpers / "data" / "stripes.py").write_text(recipe("a data set"), encoding="utf-8")
    place = helpers / "evaluation" / "measures.py"
    text = place.read_text(encoding="utf-8").replace("    kl_pairs,\n", "    kl_pairs,\n    log_softmax,\n")
    text = text.replace("import numpy as np\n", "import numpy as np\nfrom scipy.special import softmax\n")
    place.write_text(text.replace("MEASURES = {\n", "MEASURES = {\n" + recipe("a measure")), encoding="utf-8")
    with open(helpers / "report" / "figures.py", "a", encoding="utf-8") as file:
        file.write("\n\n" + recipe("a figure"))
    done = run_python(workshop, STUDY)
    assert done.returncode == 0, done.stderr[-1500:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["task"].startswith("stripes in noise: 3,000 training") and "class 3" in found["task"]
    assert "My method" in found["table"] and "My method" in found["settings"]
    assert any(label.startswith("My method") for label in found["labels"])
    assert (
        len(found["trials"]) == 2 and found["trials"][0].items() >= {"layers": 2, "lr": 0.5, "batch_size": 16}.items()
    )
    assert 0.09 < found["share"] < 0.11 and found["first"] == ["gemu", "gefeu", "ascent"]
    assert "entropy of the outputs" in found["table"] and min(found["entropy"]) > 2.0 and found["bars"] == 5
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
