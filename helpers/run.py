"""Runs the notebooks from the command line: `python -m helpers.run study --dataset cmnist --models 30`.

`study` writes executed copies to data/results/notebooks/; `refresh` executes the committed notebooks in place, so that
they carry the outputs of one complete run; `report` writes the README's table and figure from the stored results.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from helpers.datasets import check_name, load_dataset
from helpers.device import return_memory
from helpers.ensembles import check_count
from helpers.evaluation import RESULTS, all_results
from helpers.files import DATA, StudyError, shown, written_whole
from helpers.plots import cost_and_gap, save_figure
from helpers.split import SIDES, check_side
from helpers.tables import findings, overview_table

ROOT = Path(__file__).resolve().parent.parent
STUDY = ("netcomp_compare", "netcomp_SimpleAscent", "netcomp_GEMU", "netcomp_GeFeU", "graphics")


def execute(name: str, target: Path, parameters: dict, root: Path = ROOT) -> None:
    """Executes one notebook of the repository at `root`, top to bottom; its output streams appear on the terminal.

    A copy keeps the flags of the run, in a cell below the committed ones. In place, the run has them in the first cell,
    which gets the committed ones back: the notebook's own line of output tells what was run.
    """
    source = nbformat.read(root / f"{name}.ipynb", 4)
    committed = first_cell(source).source
    if target.parent == root:
        first_cell(source).source, parameters = with_flags(committed, parameters), {}
    notebook = papermill.execute_notebook(
        source,
        None,
        parameters=parameters,
        cwd=str(root),
        kernel_name="python3",
        progress_bar=False,
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
    )
    first_cell(notebook).source = committed
    with written_whole(target) as part:
        nbformat.write(tidy(notebook), part)


def first_cell(notebook):
    """The cell with the flags, tagged `parameters`."""
    return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))


def with_flags(source: str, parameters: dict) -> str:
    """The first cell's source with other values: {"N_MODELS": 30} puts 30 into the line `N_MODELS = ...`."""
    for key, value in parameters.items():
        source, found = re.subn(rf"(?m)^{key} = [^\s#]+", lambda _, k=key, v=value: f"{k} = {v!r}", source)
        if found != 1:
            raise StudyError(f"The first cell has no line `{key} = ...`: put it back.")
    return source


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


def report() -> None:
    """Writes table and figure between the README's marks, from the results of all data sets that are stored."""
    found = all_results(SIDES[0])
    if not found:
        raise StudyError("There are no results yet: run `make study` first.")
    picture = DATA / "report" / "cost_and_gap.png"
    save_figure(cost_and_gap(found), picture)
    said = f"What was found (all measures: `graphics.ipynb`):\n\n{findings(found)}"
    figure = f"![Cost against gap closed]({shown(picture)})"
    write_block("results", f"{figure}\n\n{overview_table(found).markdown()}\n\n{said}")


def write_block(mark: str, text: str) -> None:
    """Puts text between the README's marks of that name; the rest stays as it is."""
    path = ROOT / "README.md"
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = path.read_text().partition(begin)
    if not found or end not in rest:
        raise StudyError(f"README.md has lost its lines {begin} and {end}: put them back where the text should stand.")
    with written_whole(path) as part:
        part.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def flag_of(key: str) -> str:
    """The value, in quotes, of a flag in the first cell of netcomp_compare.ipynb as it stands."""
    source = first_cell(nbformat.read(ROOT / f"{STUDY[0]}.ipynb", 4)).source
    found = re.search(rf"""(?m)^{key} = ["']([^"']*)["']""", source)
    if not found:
        raise StudyError(f"The first cell of {STUDY[0]}.ipynb has no line `{key} = ...` with a word in quotes.")
    return found[1]


def check_data(dataset: str) -> None:
    """Loads a data set once, so that what is missing is said before minutes are spent."""
    data = load_dataset(dataset)
    print(f"{data.source}: {len(data.train):,} training and {len(data.test):,} test samples in memory.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("data", "study", "refresh", "report"))
    parser.add_argument("--dataset", default=None, help="mnist or cmnist; default: as in the notebooks")
    parser.add_argument("--forget", default=None, help="crossbar or plain; default: as in the notebooks")
    parser.add_argument("--models", type=int, default=None, help="models of each kind; default: as in the notebooks")
    options = parser.parse_args()
    parameters = {"USED_DATASET": options.dataset, "FORGET": options.forget, "N_MODELS": options.models}
    parameters = {key: value for key, value in parameters.items() if value is not None}
    try:
        if options.command == "report":
            return report()
        if options.command == "data":
            check_data(options.dataset or "mnist")
            return
        dataset, side = options.dataset or flag_of("USED_DATASET"), options.forget or flag_of("FORGET")
        check_name(dataset)
        if options.models is not None:
            check_count(options.models)
        check_side(side)
        check_data(dataset)
        return_memory()
        minutes = {}
        for name in (*STUDY, *(["generator_optim"] if options.command == "refresh" else [])):
            print(f"\n== {name}.ipynb", flush=True)
            target = ROOT if options.command == "refresh" else RESULTS / "notebooks" / dataset / side
            start = time.perf_counter()
            execute(name, target / f"{name}.ipynb", parameters)
            minutes[name] = (time.perf_counter() - start) / 60
    except StudyError as error:
        sys.exit(f"{error}")
    except PapermillExecutionError as error:
        sys.exit(f"\n{error.evalue}" if error.ename == "StudyError" else str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: the same command goes on where it stopped.")
    print(
        f"\nDone in {sum(minutes.values()):.1f} minutes ({', '.join(f'{name} {m:.1f}' for name, m in minutes.items())}).\n"
        f"  measures:  {shown(RESULTS)}/{dataset}/\n"
        f"  figures:   {shown(RESULTS)}/figures/\n  notebooks: {shown(target)}/"
    )


if __name__ == "__main__":
    main()
