"""A real Dask scheduler with two real workers on this machine: the same numbers as without, and what can go wrong
there."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from conftest import SETUP, copy_repository, states, wait_for
from programs import Program, run_python

pytestmark = pytest.mark.thorough
distributed = pytest.importorskip("distributed", reason="Dask is not installed")
MODELS = SETUP + 'baseline("trained", task, 3, stored=False)\n'


class Cluster:
    """A scheduler at `address` and its workers, which run in `folder`."""

    def __init__(self, folder, workers: int = 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.folder, self.processes = folder, []
        port = self.address.rsplit(":", 1)[1]
        self.scheduler = self.start("dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-show")
        with self.client() as client:
            for _ in range(workers):
                self.add()
            if workers:
                client.wait_for_workers(workers, timeout=120)

    def start(self, what: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.{what}", *arguments, "--no-dashboard"]
        env = os.environ | {"PYTHONPATH": str(self.folder)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        made = subprocess.Popen(command, cwd=self.folder, env=env, **quiet)
        self.processes.append(made)
        return made

    def add(self) -> None:
        self.start("dask_worker", self.address, "--nthreads", "1", "--local-directory", str(self.folder))

    def client(self):
        return distributed.Client(self.address, timeout=60, set_as_default=False)

    def run(self, code: str, folder=None) -> Program:
        return run_python(folder or self.folder, code, env={"SCHEDULER": self.address})

    def begin(self, code: str) -> Program:
        return Program(self.folder, code, {"SCHEDULER": self.address})

    def close(self) -> None:
        for process in self.processes:
            for one in (
                [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []
            ):
                one.kill()


@pytest.fixture(scope="module")
def cluster(workshop):
    made = Cluster(workshop)
    yield made
    made.close()


def busy(cluster) -> list[int]:
    """The process numbers of the workers that compute."""
    with cluster.client() as client:
        working = [address for address, keys in client.processing().items() if keys]
        return list(client.run(os.getpid, workers=working).values()) if working else []


ALL = (
    SETUP
    + """

from helpers.evaluation.evaluate import measure
for kind in ("untrained", "trained", "retrained", "again"):
    baseline(kind, task, 2, stored=False)
every = [baseline(kind, task, 2, stored=True) for kind in ("untrained", "trained", "retrained", "again")]
found = measure(task, *every, unlearned("gefeu", task, 2, stored=False), probes=True)
print(found[~found.measure.isin(["seconds"])].to_csv(index=False, float_format=repr))
"""
)


@pytest.fixture(scope="module")
def alone(workshop, tmp_path_factory):
    """The same without a cluster, in another copy."""
    folder = copy_repository(tmp_path_factory.mktemp("alone") / "copy")
    done = run_python(folder, ALL)
    assert done.returncode == 0, done.stderr[-800:]
    return folder, done.stdout


def test_workers_give_the_same_numbers_to_the_last_bit(cluster, alone):
    done = cluster.run(ALL)
    assert done.returncode == 0, done.stderr[-800:]
    assert states(cluster.folder) == states(alone[0]) and len(states(alone[0])) == 10
    assert done.stdout == alone[1] and "u_lira" not in alone[1] and "relearn_steps" in alone[1]


def test_a_killed_worker_costs_nothing(cluster, alone):
    done = cluster.run("")
    run = cluster.begin(MODELS.replace("3", "4"))
    wait_for(lambda: busy(cluster))
    psutil.Process(busy(cluster)[0]).kill()
    assert run.wait(timeout=200) == 0, run.stderr[-800:]
    assert run_python(alone[0], MODELS.replace("3", "4")).returncode == 0
    assert {k: v for k, v in states(cluster.folder).items() if "/trained" in k} == {
        k: v for k, v in states(alone[0]).items() if "/trained" in k
    }
    assert done.returncode == 0


def test_an_interrupt_leaves_nothing_behind(cluster):
    run = cluster.begin(MODELS.replace("3", "12"))
    wait_for(lambda: busy(cluster))
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=200) != 0 and "KeyboardInterrupt" in run.stderr
    assert not [one for one in children if one.is_running() and one.status() != "zombie"]
    wait_for(lambda: not busy(cluster), 60)  # what was begun may end, what was queued does not begin


def test_a_worker_with_other_code_or_other_data_is_refused(cluster, alone):
    """The caller's copy has one more line of code; then other lists."""
    folder = alone[0]
    path = folder / "helpers" / "sizes.py"
    text = path.read_text()
    try:
        path.write_text(text + "\nMINE = 1\n")
        done = cluster.run(MODELS.replace("3", "6"), folder)
        last = done.stderr.strip().splitlines()[-1]
        assert "has another version of the code than this process: bring it up to date" in last, done.stderr[-800:]
    finally:
        path.write_text(text)
    path = folder / "data" / "splits" / "crossbar_train.txt"
    text = path.read_text()
    try:
        path.write_text(text.replace("\n148\n", "\n"))  # which is in Colored MNIST
        done = cluster.run(MODELS.replace("3", "6"), folder)
        assert "lists in data/splits that differ from those here" in done.stderr.strip().splitlines()[-1], done.stderr[
            -800:
        ]
    finally:
        path.write_text(text)


def test_no_scheduler_and_no_workers_are_told(workshop):
    code = "from helpers import parallel\nparallel.PATIENCE = 2\n" + MODELS.replace("3", "20")
    told = {
        "tcp://127.0.0.1:9": "No Dask scheduler answers at SCHEDULER=tcp://127.0.0.1:9",
        "head": "SCHEDULER=head is no address",
    }
    for address, sentence in told.items():
        last = run_python(workshop, code, env={"SCHEDULER": address}).stderr.strip().splitlines()[-1]
        assert sentence in last and "leave SCHEDULER out" in last
    made = Cluster(workshop, workers=0)
    try:
        done = made.run(MODELS.replace("3", "20"))
        assert "has no workers: start some with `dask worker" in done.stderr.strip().splitlines()[-1]
    finally:
        made.close()


def test_a_scheduler_that_dies_is_told_and_what_was_finished_is_stored(workshop):
    made = Cluster(workshop)
    try:
        before = len([k for k in states(workshop) if "/trained" in k])
        run = made.begin(MODELS.replace("3", str(before + 6)))
        wait_for(lambda: len([k for k in states(workshop) if "/trained" in k]) > before, 120)
        made.scheduler.kill()
        begin = time.monotonic()
        assert run.wait(timeout=150) == 1
        errors = run.stderr
        told = [line for line in errors.splitlines() if "StudyError" in line]
        assert told and "was lost: what was finished is stored, and the same command goes on" in told[-1], errors[
            -1500:
        ]
        assert time.monotonic() - begin < 120
        assert len([k for k in states(workshop) if "/trained" in k]) > before
    finally:
        made.close()
    done = run_python(workshop, MODELS.replace("3", str(before + 6)))
    assert done.returncode == 0
