"""Runs the notebooks from the command line (`python -m helpers`).

`study` writes executed copies to data/results/notebooks/; `refresh` executes the committed notebooks in place, so that
they carry the outputs of one complete run.
"""

import ast
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from tqdm import tqdm

from helpers.data.task import NAMES, Task, load_task
from helpers.device import describe, pick_device, return_memory
from helpers.evaluation.evaluate import measure, to_measure
from helpers.evaluation.frame import RESULTS, headline, mean, results_folder
from helpers.files import ROOT, StudyError, shown, written_whole
from helpers.models.ensembles import AGAIN, BASELINES, Ensemble, baseline, check_count, missing_of
from helpers.progress import in_words, making, progress
from helpers.report.forms import distillation
from helpers.report.html import write_page
from helpers.report.tables import in_short, kinds_in
from helpers.unlearning import FRONTIER, METHODS, every_ensemble, foreseen, kind_of, to_make, unlearned

QUIET = ["--IPKernelApp.log_level=50"]  # else every kernel warns of TCP when it starts, and of its end
STUDY = ("netcomp_compare", "netcomp_SimpleAscent", "netcomp_GEMU", "netcomp_GeFeU", "graphics")


def execute(name: str, target: Path, parameters: dict, root: Path = ROOT) -> None:
    """Executes one notebook of the repository at `root`, top to bottom.

    A copy keeps the flags of the run, in a cell below the committed ones; a notebook that is executed in place does
    not: its own line of output tells what was run.
    """
    source = nbformat.read(root / f"{name}.ipynb", 4)
    if not any("parameters" in cell.metadata.get("tags", []) for cell in source.cells):
        raise StudyError(f'{name}.ipynb has no cell with the tag "parameters": give it to the cell with the flags.')
    options = {"cwd": str(root), "kernel_name": "python3", "progress_bar": False, "extra_arguments": QUIET}
    try:
        notebook = papermill.execute_notebook(source, None, parameters, **options)
    except papermill.PapermillExecutionError as error:
        raise StudyError(error.evalue if error.ename == "StudyError" else str(error)) from None
    if target.parent == root:
        notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
            cell.execution_count = count  # as without the cell that held the flags
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    with written_whole(target) as part:
        nbformat.write(tidy(notebook), part)


def tidy(notebook):
    """Removes what only concerns the machine of the run, and shows progress bars as a terminal would: their end."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        cell.metadata.pop("jupyter", None)
        outputs, streams = [], {}
        for output in cell.get("outputs", []):
            if output.output_type != "stream":
                outputs.append(output)
            elif output.name in streams:
                streams[output.name].text += output.text
            else:
                streams[output.name] = output
                outputs.append(output)
        for output in streams.values():
            lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.text.split("\n")]
            output.text = "\n".join(line for line in lines if line.strip()) + "\n"
        if "outputs" in cell:
            cell.outputs = [output for output in outputs if output.output_type != "stream" or output.text.strip()]
    return notebook


def flags_of(names: tuple[str, ...] = STUDY, given: dict | None = None) -> dict:
    """USED_DATASET, FORGET and N_MODELS in the tagged cells of the notebooks as they stand, or as `given`; StudyError
    where one has no such cell, or where they disagree on one that is not given."""
    found = dict(given or {})
    for name in names:
        path = str(ROOT / f"{name}.ipynb").replace("{", "{{").replace("}", "}}")  # papermill fills in what stands in {}
        flags = papermill.inspect_notebook(path)
        for key in ("USED_DATASET", "FORGET", "N_MODELS"):
            if key not in flags:
                raise StudyError(f'{name}.ipynb has no {key} in a cell with the tag "parameters": put it back.')
            value = ast.literal_eval(flags[key]["default"])
            if found.setdefault(key, value) != value and key not in (given or {}):
                raise StudyError(
                    f"The notebooks disagree on {key} ({found[key]!r}, but {value!r} in {name}.ipynb): set it alike "
                    "in all of them, or give it on the command line."
                )
    return found


def study(
    dataset: str | None = None, forget: str | None = None, models: int | None = None, in_place: bool = False
) -> None:
    """Computes all models and measures, then executes the notebooks, which load them; a flag that is None is as it
    stands in the notebooks. in_place: the committed notebooks, generator_optim.ipynb included, instead of copies."""
    asked = {"USED_DATASET": dataset, "FORGET": forget, "N_MODELS": models}
    parameters = {key: value for key, value in asked.items() if value is not None}
    names = (*STUDY, *(["generator_optim"] if in_place else []))
    flags, start = flags_of(names, parameters), time.perf_counter()
    check_count(flags["N_MODELS"])
    task = load_task(flags["USED_DATASET"], flags["FORGET"])  # what is missing is said before minutes are spent
    print(f"{task.describe()}.\n{flags['N_MODELS']} models of each kind on {describe(pick_device())}.", flush=True)
    results = compute_all(task, flags["N_MODELS"])
    return_memory()
    target = ROOT if in_place else RESULTS / "notebooks" / task.data.name / task.folder
    execute_all(names, target, parameters)
    if not in_place:
        title = f"{NAMES[task.data.name]}, forgotten: {task.request.name}"
        write_page(target / "graphics.ipynb", results_folder(task) / "report.html", title)
    print(f"\n{for_terminal(closing_table(results))}\n\nDone in {in_words(time.perf_counter() - start)}.")
    found = {"the whole as one page": results_folder(task) / "report.html", "notebooks": target}
    found |= {"figures": RESULTS / "figures", "all values": results_folder(task) / "measures.csv"}
    print("\n".join(f"  {what + ':':<23}{shown(path)}" for what, path in found.items() if path.exists()))


def closing_table(results: pd.DataFrame) -> pd.DataFrame:
    """Every kind: baselines first, then the methods from the closest to retrained models to the farthest."""
    methods, split = [kind for kind in kinds_in(results) if kind in METHODS], headline(results)
    methods.sort(key=lambda kind: -mean(results, kind, "energy_gap", split, "forget"))
    return in_short(results, [kind for kind in ("trained", "retrained", AGAIN) if kind in set(results.kind)] + methods)


def for_terminal(table: pd.DataFrame) -> str:
    """The closing table in 100 columns, and what its headings mean."""
    short = ("closed, %", "read right, %", "lost, points", "cost, %")
    means = [f"  {word.split(',')[0] + ':':<23}{column}" for word, column in zip(short, table.columns, strict=True)]
    return "\n".join([table.set_axis(short, axis=1).to_markdown(), *means])


def compute_all(task: Task, n: int) -> pd.DataFrame:
    """Makes and measures all models that are not stored, under one bar; returns the frame of the whole comparison."""
    kinds = [kind_of(name, task) for name in (*BASELINES, *METHODS, *FRONTIER)]
    lacking = to_make(task, n) + to_measure(task, kinds, n, probes=True)
    more = [(name, settings) for name, budgets in distillation().items() for settings in budgets]
    more = [(name, settings) for name, settings in more if name not in METHODS or settings != METHODS[name].settings]
    for name, settings in more:
        missing = missing_of(Ensemble(kind_of(name, task, settings), task, range(n)))
        lacking.append(making(len(missing), foreseen(name, task, settings)))
    with progress(lacking, tell=True):
        for name in BASELINES:
            baseline(name, task, n, stored=False)
        for name, settings in more:
            unlearned(name, task, n, False, settings)
        return measure(task, *every_ensemble(task, n, stored=False), probes=True)


def execute_all(names: tuple[str, ...], target: Path, parameters: dict) -> None:
    """Executes notebooks that load what is stored, two at a time: each takes seconds to start. graphics.ipynb, which
    takes longest, comes first."""
    with tqdm(total=len(names), desc="Notebooks", unit="notebook", leave=False) as bar:
        pool = ThreadPoolExecutor(2)
        try:
            ordered = sorted(names, key=lambda name: name != "graphics")
            running = [pool.submit(execute, name, target / f"{name}.ipynb", parameters) for name in ordered]
            for each in as_completed(running):
                each.result()
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
