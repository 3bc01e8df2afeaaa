"""A release: the frame in data/report/, from which the README and docs/results.md are written, computed in parts.

A part is a data set, a request and a group of kinds: baselines, methods, frontier. When it is measured its rows are
written to data/report/parts/, where they can be committed; once all parts are there they become measures.csv.gz. So a
release can be interrupted, and go on on another machine, which makes the baselines again for what it lacks.
"""

import importlib.metadata
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from helpers.data.request import DEFAULT
from helpers.data.task import DATASETS, NAMES, Task, check_name, load_data, task_of
from helpers.device import return_memory
from helpers.evaluation.evaluate import PROBES, STORED, measure, to_measure
from helpers.evaluation.frame import COLUMNS
from helpers.evaluation.measures import MEASURES
from helpers.files import ROOT, fingerprint, load_frame, save_arrays, save_frame, shown, there, written_whole
from helpers.models.ensembles import BASELINES, baseline, check_count
from helpers.progress import Work, in_words, progress
from helpers.report.export import export
from helpers.report.page import ABOUT, REPORT, about_release, report
from helpers.report.summary import EXAMPLES, examples
from helpers.sizes import SIZES
from helpers.unlearning import FRONTIER, METHODS, kind_of, to_make, unlearned

BESIDE = {"mnist": ("plain", "class 7", "random 1 %"), "cmnist": ("red 7",), "fmnist": ("random 1 %",)}
MODELS = {  # data set, request -> models of each kind; the README shows the first
    (name, words): 30 if words == DEFAULT else 10
    for name, source in DATASETS.items()
    for words in (source.request, *BESIDE.get(name, ()))
}
GROUPS = {"baselines": tuple(BASELINES), "methods": tuple(METHODS), "frontier": tuple(FRONTIER)}
FRAME, PARTS = REPORT / "measures.csv.gz", REPORT / "parts"
DIGITS = 6  # significant, of the values in the frame
REMEDY = "delete it, and run `make release` again."


@dataclass(frozen=True)
class Part:
    """n models of each kind of a group, on a task."""

    task: Task
    n: int
    group: str

    @property
    def kinds(self) -> tuple[str, ...]:
        return GROUPS[self.group]

    @property
    def name(self) -> str:
        return f"{self.task.data.name}-{self.task.folder}-{self.group}"

    @property
    def key(self) -> str:
        """Fingerprint of all that decides its rows, but for the machine: models, their number, measures."""
        made = [kind_of(kind, self.task).identity for kind in ("trained", "retrained", *self.kinds)]
        versions = {name: MEASURES[name].version for name in (*STORED, *PROBES)}
        return fingerprint([self.n, made, versions, SIZES.probed, SIZES.relearn_steps, SIZES.resurgence])

    @property
    def path(self) -> Path:
        return PARTS / f"{self.name}-{self.key}.csv.gz"

    def rows_of(self, results: pd.DataFrame) -> pd.DataFrame:
        """Its rows among those of all that is measured."""
        kinds = [*self.kinds, *(["null"] if self.group == "baselines" else [])]
        mine = (results.dataset == self.task.data.name) & (results.forget == self.task.request.name)
        return results[mine & results.kind.isin(kinds)]

    @property
    def title(self) -> str:
        return f"{NAMES[self.task.data.name]}, {self.task.request.name}, {self.group}, {self.n} models"


def release(models: int | None = None, dataset: str | None = None) -> None:
    """Computes the parts that are not there, and once they all are, writes data/report/ and the pages that show it
    (`report`). models: of each kind, for every request; None: as MODELS says; dataset: only the requests on this one.
    """
    if models is not None:
        check_count(models)
    if dataset is not None:
        check_name(dataset)
    asked = parts_of({each: models or n for each, n in MODELS.items() if dataset in (None, each[0])})
    old = about_release().get("parts", {}) if there(FRAME) else {}
    missing = [part for part in asked if not there(part.path) and old.get(part.name) != part.key]
    print(f"{len(asked) - len(missing)} of {len(asked)} parts are there.", flush=True)
    start = time.perf_counter()
    with progress(_work(missing), tell=True):
        for place, part in enumerate(missing, len(asked) - len(missing) + 1):
            _compute(part, pictures=part.task is asked[0].task)
            spent = in_words(time.perf_counter() - start)
            tqdm.write(f"{place} of {len(asked)}: {part.title}, after {spent}: {shown(part.path)}")
    _finish(asked, old)
    report()


def parts_of(models: dict[tuple[str, str], int]) -> list[Part]:
    """The parts of a release. models: as MODELS."""
    known, found = {}, []
    for (name, words), n in models.items():
        known[name] = known.get(name) or load_data(name)
        first = name not in {part.task.data.name for part in found}  # of a data set: its frontier too
        task = task_of(known[name], words)
        found += [Part(task, n, group) for group in GROUPS if first or group != "frontier"]
    return found


def _work(parts: list[Part]) -> list[Work]:
    """What is to be made and measured for them."""
    kinds = {}  # of each task
    for part in parts:
        kinds.setdefault((part.task, part.n), list(BASELINES)).extend(part.kinds)
    found = []
    for (task, n), names in kinds.items():
        names = list(dict.fromkeys(names))
        found += to_make(task, n, names) + to_measure(task, [kind_of(name, task) for name in names], n, probes=True)
    return found


def _compute(part: Part, pictures: bool) -> None:
    """Makes and measures the models of a part, and writes its rows; pictures: and what they read in some pictures."""
    task, n = part.task, part.n
    ensembles = [baseline(name, task, n, stored=False) for name in BASELINES]
    ensembles += [unlearned(name, task, n, stored=False) for name in part.kinds if name not in BASELINES]
    results = measure(task, *ensembles, probes=True)
    if part.group == "methods":
        export(results, task)  # as a run leaves it: the notebooks set such requests side by side
        if pictures:
            save_arrays(PARTS / EXAMPLES, **examples(task, ensembles))
    for path in PARTS.glob(f"{part.name}-*.csv.gz"):  # of other settings or code
        path.unlink()
    save_frame(part.path, rounded(part.rows_of(results)))
    return_memory()


def _finish(asked: list[Part], old: dict[str, str]) -> None:
    """Puts the parts together. old: name -> key of those that the present frame holds."""
    before = load_frame(FRAME, COLUMNS, REMEDY) if old else None
    frames = [load_frame(each.path, COLUMNS, REMEDY) if there(each.path) else each.rows_of(before) for each in asked]
    frame = pd.concat(frames, ignore_index=True)
    machines = frame[frame.measure == "seconds"]["at"].unique()
    about = {"version": version(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": "; ".join(machines)}
    about["sources"] = {part.task.data.name: part.task.data.source for part in asked}
    about["parts"] = {part.name: part.key for part in asked}
    save_frame(FRAME, frame)
    if there(PARTS / EXAMPLES):
        (PARTS / EXAMPLES).replace(REPORT / EXAMPLES)
    with written_whole(ABOUT) as part:
        part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(PARTS, ignore_errors=True)


def version() -> str:
    """Of the package; where this is a clone, the commit too, and whether the code differs from it."""
    number, git = importlib.metadata.version("feature-unlearning"), ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "helpers"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return number
    return f"{number}, commit {commit.stdout.strip()}{' with changes' if changed else ''}"


def rounded(results: pd.DataFrame) -> pd.DataFrame:
    """Six significant digits: more than is shown anywhere, in half the space."""
    return results.assign(value=[float(f"{value:.{DIGITS}g}") for value in results.value])
