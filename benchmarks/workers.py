"""What does sharing the work cost? One process, all cores (loky) and as many Dask workers on this machine, in turn.

Each engine computes the same ensembles from nothing in a process of its own, its start included: trained and retrained
models, then GEMU, GeFeU and Gradient Ascent. Prints seconds, models per second and the ratio to loky; then what one
model sends over the network, as it would be sent.

    python benchmarks/workers.py --dataset cmnist --models 12 --rounds 2
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd

from helpers.data.task import load_task
from helpers.models import ensembles
from helpers.models.ensembles import baseline, make_baseline, state_of
from helpers.models.training import RECIPE
from helpers.parallel import cores
from helpers.unlearning import METHODS, make_unlearned, unlearned

ROOT = Path(__file__).resolve().parent.parent
UNLEARNED = ("gemu", "gefeu", "ascent")


def work(dataset: str, models: int) -> dict[str, float]:
    """Seconds until the baselines, and until everything, is stored."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        ensembles.MODELS = Path(place)
        task = load_task(dataset)
        for name in ("trained", "retrained"):
            baseline(name, task, models, stored=False)
        trained = time.perf_counter() - start
        for name in UNLEARNED:
            unlearned(name, task, models, stored=False)
    return {"baselines": trained, "all": time.perf_counter() - start}


def measured(environment: dict, dataset: str, models: int) -> dict[str, float]:
    """`work` in a new process."""
    command = [sys.executable, __file__, "--dataset", dataset, "--models", str(models), "--work"]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def cluster(workers: int):
    """The address of a Dask scheduler on this machine with so many workers of one thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, env = f"tcp://127.0.0.1:{port}", os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as place:
        commands = [["dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]]
        commands += [["dask_worker", address, "--nthreads", "1", "--local-directory", place]] * workers
        running = []
        try:
            for name, *arguments in commands:
                command = [sys.executable, "-m", f"distributed.cli.{name}", *arguments, "--no-dashboard"]
                running.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL))
            from distributed import Client

            with Client(address, timeout=60, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=120)
            yield address
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait()


def table(dataset: str, models: int, rounds: int) -> pd.DataFrame:
    """Engine by engine: median seconds, models per second (baselines and unlearned ones alike), ratio to loky."""
    engines = {"one process": {"LOKY_MAX_CPU_COUNT": "1"}, f"{cores()} processes (loky)": {}}
    found = {name: [] for name in (*engines, f"{cores()} Dask workers")}
    for _ in range(rounds):
        for name, environment in engines.items():
            found[name].append(measured(environment, dataset, models))
        with cluster(cores()) as address:
            found[f"{cores()} Dask workers"].append(measured({"SCHEDULER": address}, dataset, models))
    rows = {name: {key: np.median([one[key] for one in runs]) for key in runs[0]} for name, runs in found.items()}
    seen = pd.DataFrame(rows).T.rename(columns={"baselines": "baselines, seconds", "all": "all, seconds"})
    seen["models per second"] = models * (2 + len(UNLEARNED)) / seen["all, seconds"]
    seen["of loky's time"] = seen["all, seconds"] / seen["all, seconds"].iloc[1]
    return seen


def sizes(dataset: str) -> dict[str, int]:
    """Bytes that one model sends out and back."""
    task = load_task(dataset)
    state = state_of(baseline("untrained", task, 2, stored=False).models[0])
    settings = METHODS["gemu"].settings
    record = {"seconds": 1.0, "samples": 1.0}
    return {
        "baseline, out": len(cloudpickle.dumps((make_baseline, ("trained", task, RECIPE, 0)))),
        "baseline, back": len(cloudpickle.dumps((state, record))),
        "unlearning, out": len(cloudpickle.dumps((make_unlearned, ("gemu", task, RECIPE, settings, 0, state)))),
        "unlearning, back": len(cloudpickle.dumps(make_unlearned("gemu", task, RECIPE, settings, 0, state))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--models", type=int, default=12, help="of each kind")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.dataset, options.models)))
        return
    print(table(options.dataset, options.models, options.rounds).to_markdown(floatfmt=".3g"))
    print(pd.Series(sizes(options.dataset), name="bytes").to_markdown())


if __name__ == "__main__":
    main()
