"""Real digits, real training, small sizes. `workshop` is a temporary copy of the repository, in which everything is
tiny.

Nothing is downloaded here: MNIST was fetched before (`make test` does), and whether a copy has the published archive of
Colored MNIST is decided by the fixture that makes it.
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

os.environ.pop("UNLEARNING_QUICK", None)  # which a worker inherits from the process that started it

from helpers import parallel  # noqa: E402
from helpers import unlearning as unlearning_module  # noqa: E402
from helpers.data import mnist  # noqa: E402
from helpers.data.task import load_task  # noqa: E402
from helpers.evaluation import evaluate  # noqa: E402
from helpers.files import DOWNLOADS, load_torch  # noqa: E402
from helpers.models import ensembles  # noqa: E402
from helpers.models.training import Recipe, seeded, train  # noqa: E402
from helpers.sizes import QUICK  # noqa: E402
from helpers.unlearning import UnlearningData, unlearning_data  # noqa: E402
from helpers.unlearning.method import sample  # noqa: E402

# after the import: this process keeps the usual sizes, those that it starts are quick
os.environ |= {"UNLEARNING_QUICK": "1", "UNLEARNING_OFFLINE": "1"}
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: their threads would only wait for each other
    os.environ |= {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}  # of the processes that they start
    torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT.parent / "shared" / "data" / "colorized-MNIST.tar.gz"
needs_published = pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published Colored MNIST archive is not here")
SHORT = Recipe(min_passes=1, min_steps=20)
SETUP = """
from helpers.data.task import load_task
from helpers.evaluation.evaluate import measure
from helpers.models.ensembles import baseline
from helpers.unlearning import unlearned
task = load_task("cmnist")
"""
# files, the longest first
LONG = ("notebooks", "studies", "notebooks_published", "storage", "unlearning", "extension", "methods")
NOTEBOOKS = ("netcomp_compare", "netcomp_SimpleAscent", "netcomp_GEMU", "netcomp_GeFeU", "graphics")


def pytest_collection_modifyitems(items):
    """Long files first: what comes last would keep one core busy while the other has nothing left to do."""
    names = [f"test_{name}" for name in LONG]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


@pytest.fixture(scope="session")
def task():
    return load_task("mnist")


@pytest.fixture(scope="session")
def digits(task):
    """The first 3,000 and 1,000 digits."""
    splits = {split: task.split(split).pick(slice(n)) for split, n in (("train", 3_000), ("test", 1_000))}
    return replace(task.data, source="the first MNIST digits", **splits)


@pytest.fixture
def committed_studies(tmp_path):
    """The address of the committed studies, whatever was tuned here since."""
    done = subprocess.run(["git", "show", "HEAD:data/studies/studies.db"], cwd=ROOT, capture_output=True)
    if done.returncode:
        pytest.skip("no git repository: the studies may be others than the published ones")
    (tmp_path / "committed.db").write_bytes(done.stdout)
    return f"sqlite:///{tmp_path}/committed.db"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Models and results in a folder of the test's own, a short recipe, one model of each kind probed, all in this
    process."""
    monkeypatch.setattr(evaluate, "SIZES", QUICK)
    for module in (ensembles, unlearning_module):
        monkeypatch.setattr(module, "RECIPE", SHORT)
    monkeypatch.setattr(ensembles, "MODELS", tmp_path / "models")
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    for cache in (ensembles.training_set, unlearning_data):
        cache.cache_clear()


FEW_PASSES = Recipe(min_passes=3, min_steps=1)
OTHER_REQUESTS = {"class 7": "whole_class", "random 20 %": "random_fifth"}  # -> fixture


@pytest.fixture(scope="session")
def small_data(crossbar):
    return crossbar


@pytest.fixture(scope="session")
def crossbar(task):
    """The whole forget set and 6,000 retained samples."""
    data = UnlearningData.of(task, FEW_PASSES, torch.device("cpu"))
    return replace(data, retain_images=data.retain_images[:6000], retain_labels=data.retain_labels[:6000])


@pytest.fixture(scope="session")
def whole_class(task):
    """As `small_data` for the request "class 7": 600 sevens, more than a third of what the budget allows, no seven
    retained."""
    part = task.data.train.pick(slice(6_000))
    sevens = part.labels == 7
    return UnlearningData(
        part.images[sevens], part.labels[sevens], part.images[~sevens], part.labels[~sevens], FEW_PASSES
    )


@pytest.fixture(scope="session")
def random_fifth(task):
    """As `small_data` for a random fifth: 1,200 samples of all classes, nearly the whole budget."""
    part = task.data.train.pick(slice(6_000))
    fifth = torch.zeros(6_000, dtype=torch.bool)
    fifth[sample(6_000, 1_200, seeded(0))] = True
    return UnlearningData(part.images[fifth], part.labels[fifth], part.images[~fifth], part.labels[~fifth], FEW_PASSES)


@pytest.fixture(scope="session")
def trained_model(crossbar):
    """Trained for three passes on 6,840 real digits."""
    images = torch.cat([crossbar.retain_images, crossbar.forget_images])
    labels = torch.cat([crossbar.retain_labels, crossbar.forget_labels])
    return train(images, labels, Recipe(min_passes=3, min_steps=1), seed=0)


def copy_repository(target: Path, archive: bool = False) -> Path:
    """Code, notebooks and splits, with MNIST and, where asked for, the archive of Colored MNIST; no models, no
    results."""
    target.mkdir(parents=True)
    for path in (*ROOT.glob("*.ipynb"), ROOT / "pyproject.toml", ROOT / "README.md"):
        shutil.copy(path, target)
    shutil.copytree(ROOT / "docs", target / "docs")
    shutil.copytree(ROOT / "helpers", target / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "splits", target / "data" / "splits")
    mnist.read("MNIST")  # which puts it there, if it lies where an earlier version kept it
    shutil.copytree(DOWNLOADS / "MNIST", target / "data" / "downloads" / "MNIST")
    if archive:
        shutil.copy(PUBLISHED, target / "data" / "downloads")
    return target


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("work") / "why? a {copy} 100%ab 5%20 ü")


def readme_queries(path: Path) -> dict[str, pd.DataFrame]:
    """What the README's block on the results frame gives for the frame at `path`: query -> table, none empty."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "measures.csv" in block]
    names, found = {}, {}
    for statement in ast.parse(block).body:
        source = ast.unparse(statement).replace("data/report/measures.csv.gz", str(path))
        if isinstance(statement, ast.Expr):
            found[source] = eval(source, names)
            assert len(found[source]) > 1 and not found[source].isna().all(axis=None)
        else:
            exec(source, names)
    return found


def same(a, b) -> bool:
    """Two models, weight by weight."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def states(folder: Path) -> dict[str, str]:
    """Model files by place, as the bits of their weights (times differ from run to run)."""
    found = {}
    models = folder / "data" / "models"
    for path in sorted(models.rglob("*.pt")):
        state = load_torch(path, "")["state"]
        bits = b"".join(value.numpy().tobytes() for value in state.values())
        found[str(path.relative_to(models))] = hashlib.sha256(bits).hexdigest()
    return found


def wait_for(condition, seconds=60):
    """Until the condition holds; a storage whose tables are still being made does not hold it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except Exception as error:  # noqa: BLE001 - whatever the database's driver raises
            last = error
        else:
            last = None
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain ({last})")
