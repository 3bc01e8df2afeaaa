"""The command line: `python -m helpers study --models 30`, `python -m helpers tune gemu --trials 100`, ..."""

import argparse
import os
import sys

from helpers.data.request import DEFAULT, KNOWN
from helpers.data.task import DATASETS, load_task
from helpers.files import StudyError
from helpers.unlearning import METHODS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m helpers", description=__doc__.splitlines()[0])
    commands = made.add_subparsers(dest="command", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what)

    for name, what in (
        ("study", "runs the notebooks; executed copies, measures and figures land in data/results/"),
        ("refresh", "runs the committed notebooks in place, so that they carry the outputs of one run"),
    ):
        each = command(name, what)
        each.add_argument("--dataset", help=f"{' or '.join(DATASETS)}; default: as in the notebooks")
        each.add_argument("--forget", help=f"{KNOWN}; default: as in the notebooks".replace("%", "%%"))
        each.add_argument("--models", type=int, help="models of each kind; default: as in the notebooks")
    command("data", "fetches a data set and says what there is").add_argument("--dataset", default="mnist")
    command("report", "writes data/report/ and the README's results from the stored results")
    tune = command("tune", "works on an Optuna study; several processes and machines can do so at once")
    tune.add_argument("method", choices=tuple(METHODS))
    tune.add_argument("--study", help="its name; default: DATASET-METHOD, DATASET-plain-METHOD")
    tune.add_argument("--dataset", default="mnist")
    tune.add_argument("--forget", default=DEFAULT, help="what is forgotten, as in the notebooks")
    tune.add_argument("--trials", type=int, default=0, help="trials to add; 0 joins what another process started")
    tune.add_argument("--confirm", action="store_true", help="then measure the most promising trials again")
    tune.add_argument("--storage", default=os.environ.get("STORAGE"), help="any address that Optuna takes")
    return made


def tune(
    method: str, study: str | None, dataset: str, forget: str, trials: int, confirm: bool, storage: str | None
) -> None:
    from helpers import studies  # Optuna takes a second
    from helpers.report.studies import chosen_table

    task = load_task(dataset, forget)
    side = "" if task.request.name == DEFAULT else f"-{task.folder}"
    opened = studies.open_study(study or f"{dataset}{side}-{method}", method, task, storage or None, trials < 1)
    studies.run_trials(opened, trials, method, task, join=trials < 1)
    if confirm:
        studies.confirm(opened, method, task)
    studies.finished(opened)
    print(chosen_table({method: opened}).data.T.to_markdown())


def main() -> None:
    options = vars(parser().parse_args())
    command = options.pop("command")
    try:
        if command == "tune":
            tune(**options)
        elif command == "data":
            print(load_task(options["dataset"]).describe())
        else:
            from helpers import run  # notebooks' machinery takes seconds

            run.report() if command == "report" else run.run_notebooks(command == "refresh", **options)
    except StudyError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: the same command goes on where it stopped.")


if __name__ == "__main__":
    main()
