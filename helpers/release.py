"""A release: the frame in data/report/, from which the README and docs/results.md are written, computed in parts.

A part is a data set, a request and a group of kinds: baselines, methods, frontier. When it is measured its rows are
written to data/report/parts/, where they can be committed; once all parts are there they become measures.csv.gz. So a
release can be interrupted, and go on on another machine, which has to train the baselines again for every request of
which it lacks a part.
"""

import importlib.metadata
import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from helpers.data.request import DEFAULT
from helpers.data.task import DATASETS, Task, check_name, load_data, task_of
from helpers.device import return_memory
from helpers.evaluation.evaluate import measure, to_measure
from helpers.evaluation.frame import COLUMNS, WITHOUT
from helpers.evaluation.measures import MEASURES
from helpers.files import (
    ROOT,
    StudyError,
    code_fingerprint,
    fingerprint,
    load_frame,
    locked,
    save_arrays,
    save_frame,
    shown,
    there,
    written_whole,
)
from helpers.models.ensembles import BASELINES, baseline, check_count
from helpers.progress import Work, in_words, progress
from helpers.report.page import ABOUT, REPORT, about_release, report
from helpers.report.summary import EXAMPLES, examples
from helpers.sizes import QUICK, SIZES
from helpers.unlearning import FRONTIER, METHODS, kind_of, method_of, to_make, unlearned

BESIDE = {"mnist": ("plain", "class 7", "random 1 %"), "cmnist": ("red 7",), "fmnist": ("random 1 %",)}
MODELS = {  # data set, request -> models of each kind; the README shows the first
    (name, words): 30 if words == DEFAULT else 10
    for name, source in DATASETS.items()
    for words in (source.request, *BESIDE.get(name, ()))
}
GROUPS = {"baselines": tuple(BASELINES), "methods": tuple(METHODS), "frontier": tuple(FRONTIER)}
FRAME, PARTS = REPORT / "measures.csv.gz", REPORT / "parts"
DIGITS, MORE_DIGITS = 4, 6  # significant, of the values in the frame, and of those that differ by little
REMEDY = "take the published one (`git checkout data/report`), or delete it: then it is computed again."


@dataclass(frozen=True)
class Part:
    """n models of each kind of a group, on a task; pictures: what they read in some pictures is stored too."""

    task: Task
    n: int
    group: str
    pictures: bool = False

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
        versions = {name: about.version for name, about in MEASURES.items()}
        follows = code_fingerprint("helpers.evaluation.derived")
        return fingerprint([self.n, made, versions, follows, SIZES.probed, SIZES.relearn_steps, SIZES.resurgence])

    @property
    def path(self) -> Path:
        return PARTS / f"{self.name}-{self.key}.csv.gz"

    def rows_of(self, results: pd.DataFrame) -> pd.DataFrame:
        """Its rows among those of all that is measured; without the curves, which no page shows."""
        kinds = [*self.kinds, *(["null"] if self.group == "baselines" else [])]
        mine = (results.dataset == self.task.data.name) & (results.forget == self.task.request.name)
        return results[mine & results.kind.isin(kinds) & (results.measure != "curve")]

    @property
    def title(self) -> str:
        return f"{self.task.data.source}, {self.task.request.title}: {self.group}, {self.n} models"


def release(models: int | None = None, dataset: str | None = None) -> None:
    """Computes the parts that are not there. Once all of them are, writes data/report/ and the pages that show it
    (`report`).

    models: of each kind, for every request; None: as MODELS says; dataset: computes only the parts of this one, for
    example on one of several machines. StudyError with UNLEARNING_QUICK: its numbers mean nothing."""
    if SIZES == QUICK:
        raise StudyError("A release is not made of tiny models: unset UNLEARNING_QUICK.")
    if models is not None:
        check_count(models)
    if dataset is not None:
        check_name(dataset)
    with locked(PARTS):
        every = parts_of({each: models or n for each, n in MODELS.items() if dataset in (None, each[0])})
        found = _stored(every)
        wanted = [each for each in every if each.name not in found]
        print(f"Parts: {len(every)}, of which {len(found)} are there; to be computed: {len(wanted)}.", flush=True)
        start = time.perf_counter()
        with progress(_work(wanted), tell=True):
            for place, part in enumerate(wanted, 1):
                if others := [path for path in PARTS.glob(f"{part.name}-*.csv.gz") if path != part.path]:
                    tqdm.write(f"{shown(others[0])} is of other settings, data or code: computed anew.")
                found[part.name] = _compute(part)
                spent = in_words(time.perf_counter() - start)
                tqdm.write(f"{place} of {len(wanted)} after {spent}: {part.title}, {shown(part.path)}")
        if dataset is not None:
            print("`make release` computes those of the other data sets, and puts all together.")
            return
        _finish(every, found)
    report()


def parts_of(models: dict[tuple[str, str], int]) -> list[Part]:
    """The parts of a release. models: as MODELS."""
    known, found = {}, []
    for (name, words), n in models.items():
        first = name not in known  # of a data set: its frontier too
        if first:
            known[name] = load_data(name)
        task = task_of(known[name], words)
        groups = [group for group in GROUPS if first or group != "frontier"]
        shown_first = (name, words) == next(iter(MODELS))
        found += [Part(task, n, group, pictures=shown_first and group == "methods") for group in groups]
    return found


def _stored(parts: list[Part]) -> dict[str, pd.DataFrame]:
    """Name of a part -> its rows, of those that lie in a file of their own or in the last release."""
    old = about_release().get("parts", {}) if there(FRAME) else {}
    before = load_frame(FRAME, COLUMNS, REMEDY) if old else None
    found = {}
    for part in parts:
        if there(part.path) and (there(PARTS / EXAMPLES) or not part.pictures):
            found[part.name] = load_frame(part.path, COLUMNS, REMEDY)
        elif old.get(part.name) == part.key:
            found[part.name] = part.rows_of(before)
    return found


def _work(parts: list[Part]) -> list[Work]:
    """What is to be made and measured for them; trained models serve all requests on a data set."""
    kinds, found, served = {}, [], set()
    for part in parts:
        kinds.setdefault((part.task, part.n), dict.fromkeys(BASELINES)).update(dict.fromkeys(part.kinds))
    for (task, n), names in kinds.items():
        served_by_others = ("untrained", "trained") if task.data.name in served else ()
        served.add(task.data.name)
        found += to_make(task, n, [name for name in names if name not in served_by_others])
        found += to_measure(task, [kind_of(name, task) for name in names], n, probes=True)
    return found


def _compute(part: Part) -> pd.DataFrame:
    """Makes and measures the models of a part, writes its rows and returns them."""
    task, n = part.task, part.n
    ensembles = [baseline(name, task, n, stored=False) for name in BASELINES]
    ensembles += [unlearned(name, task, n, stored=False) for name in part.kinds if name not in BASELINES]
    rows = rounded(part.rows_of(measure(task, *ensembles, probes=True)))
    if part.pictures:
        save_arrays(PARTS / EXAMPLES, **examples(task, ensembles))
    save_frame(part.path, rows)
    return_memory()
    return rows


def _finish(parts: list[Part], found: dict[str, pd.DataFrame]) -> None:
    """Puts the parts together in data/report/, and deletes their files. found: name -> rows."""
    frame = rounded(pd.concat([found[part.name] for part in parts], ignore_index=True))
    machines = frame[frame.measure == "seconds"]["at"].unique()
    about = {"version": version(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": "; ".join(machines)}
    about["sources"] = {part.task.data.name: part.task.data.source for part in parts}
    about["titles"] = {f"{part.task.data.name}, {part.task.request.name}": part.task.request.title for part in parts}
    about["parts"] = {part.name: part.key for part in parts}
    every = (*METHODS, *FRONTIER)
    about["settings"] = {name: asdict(method_of(name).settings) for name in every}
    save_frame(FRAME, frame)
    if there(PARTS / EXAMPLES):
        (PARTS / EXAMPLES).replace(REPORT / EXAMPLES)
    with written_whole(ABOUT) as file:
        file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for part in parts:
        for path in PARTS.glob(f"{part.name}-*.csv.gz"):
            path.unlink()


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
    """Four significant digits; six of accuracies, which lie near 1, and of the means without one seed, of which
    intervals are made: both differ by little."""
    close = results.measure.str.endswith(WITHOUT) | (results.measure == "accuracy")
    digits = np.where(close, MORE_DIGITS, DIGITS)
    pairs = zip(results.value, digits, strict=True)
    return results.assign(value=[float(f"{value:.{each}g}") for value, each in pairs])
