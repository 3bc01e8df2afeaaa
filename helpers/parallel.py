"""Many models, one process per core.

A model is always computed on one thread, so its numbers do not depend on how many are computed beside it; the cores are
used by computing several models at once. Small batches gain most: two threads on one model are hardly faster than one.
This holds on Linux without a GPU (processes are forked and share the data in memory); elsewhere models are computed one
after the other on all threads.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress

import torch

from helpers.device import pick_device
from helpers.files import StudyError

MOST = 8  # processes; each needs about 300 MB of its own
REPORT = 16  # steps between two reports of a process


@contextmanager
def one_thread():
    """The block runs on one thread, as every model of an ensemble does; no effect with a GPU or off Linux."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if forks() else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def forks() -> bool:
    """True where models are computed in forked processes."""
    return sys.platform == "linux" and pick_device().type == "cpu"


def cores() -> int:
    """Processes that work at once."""
    return min(MOST, len(os.sched_getaffinity(0))) if forks() else 1


def _end_with_parent() -> None:
    """Linux then kills this process when its parent dies: nobody would see to the models that it goes on making."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def run_each(work: Callable[[int, Callable], None], jobs: list[int], update: Callable[[int], None]) -> None:
    """Calls work(job, tick) for every job, on all cores; `work` calls tick() once per unit of progress.

    update: called here with the units done since its last call. A StudyError of `work` is raised here; an interrupt
    stops all processes and what they have finished stays.
    """
    if not forks():
        for job in jobs:
            work(job, lambda: update(1))
        return
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    lock, place = context.Lock(), context.Value("l", 0)
    parent = os.getpid()

    def worker():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        _end_with_parent()
        torch.set_num_threads(1)
        pending = 0

        def report(kind, value):
            with lock:
                send.send((kind, value))

        def tick():
            nonlocal pending
            pending += 1
            if pending == REPORT:
                report("steps", pending)
                pending = 0
                end_if_orphaned()

        def end_if_orphaned():  # where the kernel did not see to it
            if os.getppid() != parent:
                os._exit(1)

        try:
            while True:
                end_if_orphaned()
                with place.get_lock():
                    at, place.value = place.value, place.value + 1
                if at >= len(jobs):
                    break
                work(jobs[at], tick)
                report("steps", pending)
                pending = 0
            report("done", None)
        except StudyError as error:
            report("refused", str(error))
        except BaseException:
            report("failed", traceback.format_exc())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside a notebook's own threads
        workers = [context.Process(target=worker, daemon=True) for _ in range(min(cores(), len(jobs)))]
        for process in workers:
            process.start()
    try:
        working = len(workers)
        while working:
            while not receive.poll(1):
                if any(process.exitcode for process in workers):
                    raise StudyError("A worker process was stopped from outside (out of memory?): run the cell again.")
            kind, value = receive.recv()
            if kind == "steps":
                update(value)
            elif kind == "done":
                working -= 1
            elif kind == "refused":
                raise StudyError(value)
            else:
                raise RuntimeError(value)
    finally:
        for process in workers:
            process.terminate()
        for process in workers:
            process.join()
