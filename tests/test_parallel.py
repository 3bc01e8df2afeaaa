"""Several processes at once: all jobs once, errors and kills told, nothing left running."""

import _thread
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, wait_for
from joblib.externals.loky import get_reusable_executor
from programs import Program

from helpers import parallel
from helpers.files import StudyError
from helpers.parallel import compute, cores, one_thread

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU all models are computed in one process")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.delenv("SCHEDULER", raising=False)
    # interrupts are ignored where a shell started the tests in the background
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    get_reusable_executor().shutdown(wait=True)


def children() -> list:
    """Processes that work (Python keeps a tracker of semaphores for as long as it runs, and the tests a server to fork
    from)."""
    found = [one for one in psutil.Process().children(recursive=True) if one.is_running()]
    helping = ("resource_tracker", "multiprocessing.forkserver")
    return [one for one in found if not any(name in " ".join(one.cmdline()) for name in helping)]


def test_every_job_is_done_once_on_one_thread_each(tmp_path):
    def work(job, folder):
        with open(f"{folder}/{job}", "x") as file:  # a second time would raise
            file.write(f"{torch.get_num_threads()} {os.getpid()}")
        return job**2

    found = dict(compute(work, ((job, (job, str(tmp_path))) for job in range(6))))
    assert found == {job: job**2 for job in range(6)}
    threads, processes = zip(*((tmp_path / str(job)).read_text().split() for job in range(6)), strict=True)
    assert set(threads) == {"1"} and str(os.getpid()) not in processes and len(set(processes)) <= cores() == 2


def test_with_one_core_or_here_no_other_process_works():
    def work():
        return os.getpid(), torch.get_num_threads()

    assert dict(compute(work, [("a", ())], here=True)) == {"a": (os.getpid(), 1)}
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    assert dict(compute(work, [("a", ()), ("b", ())])) == dict.fromkeys("ab", (os.getpid(), 1))
    assert not children()


@pytest.mark.parametrize("here", [True, False])
def test_what_a_job_raises_is_raised_here_with_its_name(here):
    def refuse(job):
        raise StudyError("do this instead")

    def fail(job):
        return 1 // job

    with pytest.raises(StudyError, match="^do this instead$"):
        list(compute(refuse, [(0, (0,)), (1, (1,))], here))
    with pytest.raises(ZeroDivisionError) as caught:
        list(compute(fail, [(f"model {job}", (job,)) for job in (1, 0, 2)], here))
    assert "This happened while fail worked on model 0." in caught.value.__notes__


def test_jobs_are_taken_only_when_a_process_is_nearly_free():
    """So that two notebooks at once can share what is to be done."""
    taken = []

    def jobs():
        for job in range(20):
            taken.append(job)
            yield job, (job,)

    for place, _ in enumerate(compute(lambda job: time.sleep(0.2), jobs())):
        assert len(taken) <= place + 1 + 3 * cores()


def test_a_killed_worker_is_named_and_the_others_end():
    def work(job):
        if job == 0:
            psutil.Process().kill()
        time.sleep(60)

    begin = time.monotonic()
    with pytest.raises(StudyError, match="stopped from outside"):
        list(compute(work, [(0, (0,)), (1, (1,))]))
    wait_for(lambda: not children(), 20)
    assert time.monotonic() - begin < 40


def test_after_a_kill_the_next_call_works():
    def work(job):
        if job == 0:
            psutil.Process().kill()
        return job

    with pytest.raises(StudyError, match="stopped from outside"):
        list(compute(work, [(0, (0,))]))
    assert dict(compute(work, [(1, (1,)), (2, (2,))])) == {1: 1, 2: 2}


def test_workers_whose_code_was_edited_meanwhile_are_refused(monkeypatch):
    """They import what lies on the disk; this process has what lay there when it started."""
    monkeypatch.setattr(parallel, "SOURCES", parallel.SOURCES | {"helpers.sizes": "before"})
    with pytest.raises(StudyError, match="another version of the code .*restart the notebook's kernel"):
        list(compute(lambda job: job, [(0, (0,))]))


ORPHANS = """
import sys, time
from pathlib import Path
from helpers.parallel import compute

def jobs():
    for job in range(200):
        yield job, (sys.argv[1], job)

def work(folder, job):
    (Path(folder) / str(job)).touch()
    time.sleep(0.2)

list(compute(work, jobs()))
"""


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "SIGHUP"])
def test_workers_end_with_their_parent_whatever_ends_it(tmp_path, how):
    """As a batch system, a full memory and a closed terminal do."""
    run = Program(ROOT, f"import sys\nsys.argv[1:] = [{str(tmp_path)!r}]\n{ORPHANS}")
    wait_for(lambda: len(list(tmp_path.iterdir())) >= 4)
    workers = [one for one in psutil.Process(run.pid).children(recursive=True) if "loky" in " ".join(one.cmdline())]
    assert workers
    run.send_signal(getattr(signal, how))
    run.wait()
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers), 20)
    assert len(list(tmp_path.iterdir())) < 200


def test_an_interrupt_ends_all_workers(tmp_path):
    def work(folder):
        (Path(folder) / "begun").touch()
        time.sleep(60)

    def interrupt():
        wait_for((tmp_path / "begun").exists)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        list(compute(work, [(job, (str(tmp_path),)) for job in range(3)]))
    wait_for(lambda: not children(), 20)


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_gpu_is_driven_by_one_process(monkeypatch):
    monkeypatch.setattr(parallel, "pick_device", lambda: torch.device("cuda"))
    assert cores() == 1
