"""Many models at once, on the cores of this machine or on a cluster, by joblib.

A model is always computed on one thread, so its numbers do not depend on where, or beside how many others, it is
computed; small batches gain little from a second thread. What goes out are settings, seeds and weights, of a kind that
is measured also its outputs; each process loads the data once and keeps it. The caller alone writes files.

- By default joblib's loky processes run on every core that this process may use (Linux, macOS, Windows; the environment
  variable LOKY_MAX_CPU_COUNT lowers that) and end with the process that started them. With one core, or with a GPU,
  which one process drives, all is computed in this process.
- With the environment variable SCHEDULER, the address of a Dask scheduler, its workers compute.
"""

import functools
import os
import platform
import re
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress

import cloudpickle
import joblib
import psutil
import torch
from tqdm import tqdm

from helpers import SOURCES
from helpers.device import has_fast_bfloat16, pick_device
from helpers.files import StudyError, fingerprint
from helpers.sizes import SIZES

PATIENCE = 10  # seconds in which a scheduler must answer
LOOK_AFTER = 3  # seconds after which a worker looks whether its parent is still there
CODE = "version of the code"
UNREMARKABLE = (  # warnings: outputs of an ensemble are megabytes, an interrupt stops tasks, workers give memory back
    "Sending large graph", ".*tasks which were still being processed", "A worker stopped while some jobs",
)  # fmt: skip
_TURN = threading.Lock()  # a Dask worker may have several threads, but there is one random state


@contextmanager
def one_thread():
    """The block runs on one thread, as every model of an ensemble does; no effect with a GPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if pick_device().type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def scheduler() -> str:
    """The address of the Dask scheduler; empty without one."""
    return os.environ.get("SCHEDULER", "").strip()


def cores() -> int:
    """Processes that work at once on this machine."""
    return joblib.cpu_count() if pick_device().type == "cpu" else 1


def compute(work: Callable, jobs: Iterable[tuple[Hashable, tuple]], here: bool = False) -> Iterator[tuple]:
    """Yields (name, work(*arguments)) for every (name, arguments) of `jobs`, in the order in which they are finished.

    work: a function of a module; jobs: taken from as processes become free. here: in this process unless there is a
    cluster. What `work` raises is raised here with the job's name; an interrupt stops all that was begun."""
    if not scheduler() and (here or cores() == 1):
        for name, arguments in jobs:
            with one_thread():
                result = _done(work, name, arguments)
            yield name, result
        return
    client = _client(scheduler()) if scheduler() else None
    expected = state() if client else {CODE: state()[CODE]}  # processes of this machine may differ in nothing else
    if client:
        for worker, found in _states(client).items():  # one that comes later is compared with its first job
            _compare(expected, found, worker)
    # packed here, since errors while a worker unpacks a call are not reported
    calls = (joblib.delayed(_work_on)(expected, name, cloudpickle.dumps((work, arguments))) for name, arguments in jobs)
    options = {"client": client} if client else {"initializer": _end_with, "initargs": (os.getpid(),)}
    with joblib.parallel_config(backend="dask" if client else "loky", **options), warnings.catch_warnings():
        for expectable in UNREMARKABLE:
            warnings.filterwarnings("ignore", expectable)
        pool = joblib.Parallel(n_jobs=cores(), return_as="generator_unordered", batch_size=1)
        try:
            yield from pool(calls)
        except StudyError:
            raise
        except Exception as error:
            if told := _told(error):
                raise StudyError(told) from None
            raise


def _work_on(expected: dict, name: Hashable, packed: bytes) -> tuple:
    """What a process of the pool does."""
    _quiet()
    _compare(expected, state(), platform.node())
    with _TURN, one_thread():
        work, arguments = cloudpickle.loads(packed)
        return name, _done(work, name, arguments)


def _end_with(parent: int) -> None:
    """Ends this worker seconds after its parent has ended, in whatever way: a worker of loky waits for minutes."""

    def watch():
        with suppress(psutil.Error):  # the parent is gone already
            process = psutil.Process(parent)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(LOOK_AFTER)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@functools.cache
def _quiet() -> None:
    """Bars are drawn by the caller alone."""
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)


def _compare(expected: dict, found: dict, worker: str) -> None:
    differs = ", ".join(key for key, value in expected.items() if found.get(key) != value)
    if differs:
        raise StudyError(
            f"The worker on {worker} has another {differs} than this process: bring it up to date and start it again "
            "(where helpers/ was edited meanwhile: restart the notebook's kernel)."
        )


def _done(work: Callable, name: Hashable, arguments: tuple):
    try:
        return work(*arguments)
    except StudyError:
        raise
    except Exception as error:
        error.add_note(f"This happened while {work.__name__} worked on {name}.")
        raise


def state() -> dict[str, str]:
    """What must be alike wherever models of one ensemble are computed, in words."""
    return {
        CODE: fingerprint(SOURCES),
        "version of torch": torch.__version__.partition("+")[0],
        "size of the study (UNLEARNING_QUICK)": repr(SIZES),
        "number format": str(has_fast_bfloat16(pick_device())),
    }


@functools.cache
def _client(address: str):
    """Connected to the scheduler at that address, which has workers; StudyError otherwise."""
    if not re.fullmatch(r"\w+://[^/\s]+:\d+", address):
        raise StudyError(f"SCHEDULER={address} is no address: give one like tcp://head:8786, or leave SCHEDULER out.")
    try:
        from distributed import Client
    except ImportError:
        raise StudyError("SCHEDULER needs Dask: pip install 'distributed', here and on every worker.") from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
        workers = client.ncores()
    except (OSError, ValueError, TimeoutError) as error:
        raise StudyError(
            f"No Dask scheduler answers at SCHEDULER={address} ({type(error).__name__}): start one with `dask "
            "scheduler`, or leave SCHEDULER out."
        ) from None
    if not workers:
        client.close()
        raise StudyError(
            f"The scheduler at {address} has no workers: start some with `dask worker {address} --nthreads 1`."
        )
    return client


def _states(client) -> dict[str, dict]:
    try:
        return client.run(state)
    except ModuleNotFoundError:
        raise StudyError(
            "A worker cannot import this repository: start it in the repository's folder, or `pip install -e .` there."
        ) from None


def _told(error: Exception) -> str:
    """A sentence for what happens to processes, whatever library says so; empty for other errors."""
    kind = type(error).__name__
    if kind in ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker"):
        return (
            "A worker process was stopped from outside (out of memory?): run the cell again, which goes on where it "
            "stopped; on fewer cores (LOKY_MAX_CPU_COUNT) less memory is needed."
        )
    if kind in ("CancelledError", "FutureCancelledError", "CommClosedError", "ClosedClientError", "TimeoutError"):
        _client.cache_clear()
        return (
            f"The connection to the scheduler at {scheduler()} was lost: what was finished is stored, and the same "
            "command goes on when the scheduler runs again."
        )
    return ""
