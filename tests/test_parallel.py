"""Several processes at once: all jobs once, errors and kills told, nothing left running."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, wait_for

from helpers.files import StudyError
from helpers.parallel import cores, forks, one_thread, run_each

pytestmark = pytest.mark.skipif(not forks(), reason="models are computed one after the other on this machine")


def test_every_job_is_done_once_on_one_thread_each(tmp_path):
    done = []

    def work(job, tick):
        with open(tmp_path / str(job), "x") as file:  # a second time would raise
            file.write(f"{torch.get_num_threads()} {os.getpid()}")
        for _ in range(20):
            tick()

    run_each(work, list(range(6)), done.append)
    threads, processes = zip(*((tmp_path / str(job)).read_text().split() for job in range(6)), strict=True)
    assert set(threads) == {"1"} and str(os.getpid()) not in processes and len(set(processes)) <= cores()
    assert sum(done) == 120


def test_a_sentence_of_a_worker_is_raised_here():
    def work(job, tick):
        raise StudyError("do this instead")

    with pytest.raises(StudyError, match="^do this instead$"):
        run_each(work, [0, 1], lambda n: None)


def test_a_killed_worker_is_named_and_the_others_end():
    def work(job, tick):
        if job == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    begin = time.monotonic()
    with pytest.raises(StudyError, match="stopped from outside"):
        run_each(work, [0, 1], lambda n: None)
    assert time.monotonic() - begin < 30 and not multiprocessing.active_children()


ORPHANS = """
import sys, time
from pathlib import Path
from helpers import parallel

def work(job, tick):
    (Path(sys.argv[1]) / str(job)).touch()
    time.sleep(0.2)

if sys.argv[2] == "without the kernel's help":
    parallel._end_with_parent = lambda: None
parallel.run_each(work, list(range(200)), lambda n: None)
"""


@pytest.mark.parametrize("help", ["with the kernel's help", "without the kernel's help"])
def test_workers_take_no_further_job_once_the_parent_was_killed(tmp_path, help):
    run = subprocess.Popen([sys.executable, "-c", ORPHANS, str(tmp_path), help], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.iterdir())) >= 4)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(0.5)  # what was begun may end
    begun = len(list(tmp_path.iterdir()))
    time.sleep(1.5)
    assert len(list(tmp_path.iterdir())) == begun < 200


def test_an_interrupt_ends_all_workers():
    def work(job, tick):
        time.sleep(60)

    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_each(work, [0, 1, 2], lambda n: None)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert not multiprocessing.active_children()


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
