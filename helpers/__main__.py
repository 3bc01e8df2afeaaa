"""The command line: `python -m helpers study --models 30`, `python -m helpers tune gemu --trials 100`, ..."""

import argparse
import os
import sys

FORGET = (
    'what is forgotten, in the words of FORGET: "crossbar", "plain", "class 7", "random 1 %%", "red 7", the '
    "name of a list"
)


def parser(tunes: bool) -> argparse.ArgumentParser:
    """tunes: whether a method is to be named, which takes the seconds in which the methods are imported."""
    made = argparse.ArgumentParser(prog="python -m helpers", description=__doc__.splitlines()[0])
    commands = made.add_subparsers(dest="command", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what)

    for name, what in (
        ("study", "computes all models and measures, then runs the notebooks; everything lands in data/results/"),
        ("refresh", "runs the committed notebooks in place, so that they carry the outputs of one run"),
    ):
        each = command(name, what)
        each.add_argument("--dataset", help="as USED_DATASET; default: as in the notebooks")
        each.add_argument("--forget", help=f"{FORGET}; default: as in the notebooks")
        each.add_argument("--models", type=int, help="models of each kind; default: as in the notebooks")
    data = command("data", "fetches a data set and says what there is")
    data.add_argument("--dataset", default="mnist", help="as USED_DATASET")
    data.add_argument("--forget", help=FORGET)
    release = command("release", "computes what the README shows, part by part, in data/report/, then as report")
    release.add_argument("--models", type=int, help="models of each kind; default: 30 for the crossbar, else 10")
    release.add_argument("--dataset", help="as USED_DATASET: computes its parts alone")
    command("report", "writes the numbers and figures of README and docs from data/report/ and data/studies/")
    tune = command("tune", "works on an Optuna study; several processes and machines can do so at once")
    what = "a method; all: every method, as many trials as each deserves; forms: those of GEMU and GeFeU"
    tune.add_argument("method", choices=_methods() if tunes else None, help=what)
    tune.add_argument("--study", help="its name; default: DATASET-METHOD, DATASET-REQUEST-METHOD")
    tune.add_argument("--dataset", default="mnist")
    tune.add_argument("--forget", default="crossbar", help=FORGET)
    tune.add_argument("--trials", type=int, default=0, help="trials to add; 0: those that another process asked for")
    tune.add_argument("--adopt", action="store_true", help="with all: let every method have its study's settings")
    tune.add_argument("--storage", default=os.environ.get("STORAGE"), help="any address that Optuna takes")
    return made


def _methods() -> tuple[str, ...]:
    from helpers.unlearning import FORMS, FRONTIER, METHODS

    return ("all", "forms", *METHODS, *FRONTIER, *FORMS)


def describe(dataset: str, forget: str | None) -> str:
    """What a data set holds and, where that is asked, what of it is to be forgotten; fetches it."""
    from helpers.data.task import load_data, load_task

    return load_task(dataset, forget).describe() if forget else load_data(dataset).describe()


def tune(
    method: str, study: str | None, dataset: str, forget: str, trials: int, storage: str | None, adopt: bool
) -> None:
    """Runs trials of a study, or joins another process that does, and prints the best trial; or of all studies."""
    from helpers import studies
    from helpers.data.task import load_task
    from helpers.files import StudyError
    from helpers.report.studies import chosen_table
    from helpers.unlearning import FORMS

    task = load_task(dataset, forget)
    if adopt and method != "all":
        raise StudyError("--adopt goes with tune all: the settings of all methods are to be tuned alike.")
    if method in ("all", "forms"):
        if study or trials:
            raise StudyError(f"tune {method} takes no --study and no --trials: each study has its own.")
        found = studies.tune_all(task, studies.to_tune() if method == "all" else list(FORMS), storage or None)
        print(chosen_table(found).data.T.to_markdown())
        if adopt:
            studies.adopt(found)
        return
    name = study or studies.study_name(method, task)
    opened = studies.open_study(name, method, task, storage or None, trials < 1)
    studies.run_trials(opened, trials, method, task, join=trials < 1)
    print(chosen_table({method: opened}).data.T.to_markdown())


def main() -> None:
    """Runs what was asked for; says in one sentence what went wrong, or how to go on after an interrupt."""
    sys.stdout.reconfigure(errors="replace")  # a terminal that has no sign for "±" shows "?"
    options = vars(parser("tune" in sys.argv[1:2]).parse_args())
    command = options.pop("command")
    try:
        run(command, options)
    except KeyboardInterrupt:
        again = "the same command without --trials" if options.get("trials") else "the same command"
        print(f"\nInterrupted: {again} goes on where it stopped.", file=sys.stderr, flush=True)
        os._exit(130)  # at once: notebooks that are running end with this process


def run(command: str, options: dict) -> None:
    if command in ("study", "refresh", "release", "tune"):
        print("Loading PyTorch and the data ...", flush=True)
    from helpers.files import StudyError  # after the flags were read: torch takes seconds

    try:
        if command == "tune":
            tune(**options)
        elif command == "data":
            print(describe(**options))
        else:
            from helpers.release import release
            from helpers.report.page import report
            from helpers.run import study

            if command in ("report", "release"):
                {"report": report, "release": release}[command](**options)
            else:
                study(in_place=command == "refresh", **options)
    except StudyError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
