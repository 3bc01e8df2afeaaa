"""Which of Optuna's samplers finds better hyper-parameters of GEMU? Multivariate TPE beside Gaussian processes.

`python benchmarks/samplers.py --trials 150 --repeats 3 --models 2` runs studies in memory, with the goals, constraints and search
space of `helpers/studies.py`, the same seeds for both, one process per core. Prints for each the share of the KL gap that the best
admissible trial closes (one that loses at most the tolerated accuracy at the affordable cost), and the seconds that
the sampler itself took.
"""

import argparse
import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import optuna
import pandas as pd
import torch

from helpers.data.task import load_task
from helpers.objective import AFFORDABLE, Objective, suggest
from helpers.parallel import cores
from helpers.studies import STARTUP, admit
from helpers.unlearning import METHODS
from helpers.unlearning.method import searched

SAMPLERS = {
    "TPE, multivariate": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, n_startup_trials=STARTUP
    ),
    "Gaussian processes": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP),
}


def run(name: str, seed: int, trials: int, models: int, method: str = "gemu") -> dict:
    """One study: the gap that its best admissible trial closes, and after how many trials of the number asked for."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective = Objective(method, load_task("mnist"), models)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=SAMPLERS[name](seed))
    study.enqueue_trial({key: asdict(METHODS[method].settings)[key] for key in searched(METHODS[method].settings)})
    begin, working = time.perf_counter(), 0.0

    def goals(trial: optuna.Trial) -> tuple[float, float]:
        nonlocal working
        start, settings = time.perf_counter(), suggest(trial, method)
        values = objective(settings)
        working += time.perf_counter() - start
        return admit(trial, objective, *values)

    study.optimize(goals, n_trials=trials)
    found = {"sampler": name, "seed": seed, "sampler's seconds": round(time.perf_counter() - begin - working)}
    for part in (trials // 3, 2 * trials // 3, trials):
        good = [
            t.user_attrs["gap"]
            for t in study.trials[:part]
            if t.values[1] <= objective.tolerated and t.user_attrs["cost"] <= AFFORDABLE
        ]
        found[f"gap closed after {part}, %"] = round(100 * max(good, default=float("nan")), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", type=int, default=2, help="tuning models behind each trial")
    options = parser.parse_args()
    Objective("gemu", load_task("mnist"), options.models)  # trains the tuning models, once
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(run, name, seed, options.trials, options.models)
            for seed in range(options.repeats)
            for name in SAMPLERS
        ]
        print(pd.DataFrame([job.result() for job in jobs]).to_markdown(index=False))


if __name__ == "__main__":
    main()
