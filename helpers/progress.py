"""One bar for all that is being computed: how many models of a kind are made or measured, and the time left.

It advances by samples, since a retrained model takes ten times as long as an unlearned one; its words count models.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

MODEL = 3_500  # samples that are trained on in the time that making a model takes besides
FORMAT = "{desc} |{bar}| {percentage:3.0f} % [{elapsed}, {remaining} left]"
TIMED = 20  # seconds after the first model, after which the time of the whole is told
_open: "_Bar | None" = None  # of this process


@dataclass(frozen=True)
class Work:
    """models: so many, of one kind; samples: that one of them sends through training, or as many as take the same
    time."""

    models: int
    samples: float

    @property
    def size(self) -> float:
        return self.models * self.samples


def making(models: int, samples: float) -> Work:
    """Models that are trained on so many samples each."""
    return Work(models, samples + MODEL if samples else 0)


class _Bar:
    def __init__(self, total: float, tell: bool):
        self.bar = tqdm(
            total=total, desc="Starting processes", leave=False, bar_format=FORMAT, smoothing=0, mininterval=0.5
        )
        self.tell, self.first = tell, None

    def advance(self, what: str, work: Work) -> None:
        self.bar.total = max(self.bar.total, self.bar.n + work.size)  # more than was foreseen
        self.bar.set_description_str(what, refresh=False)
        self.bar.update(work.size)
        if not work.size:
            return
        now = time.monotonic()
        self.first = self.first or (self.bar.n, now)  # before that processes have to start
        if self.tell and now > self.first[1] + TIMED:
            self.tell = False
            rate = (self.bar.n - self.first[0]) / (now - self.first[1])
            left = in_words((self.bar.total - self.bar.n) / rate)
            self.bar.write(f"Making and measuring the models will take about {left}.")


@contextmanager
def progress(works: Iterable[Work], tell: bool = False) -> Iterator[None]:
    """Shows one bar over all `works` while the block runs; nothing where there are none, or where a bar is shown
    already, which then goes on. tell: also says how long the whole will take, as soon as that is known."""
    global _open
    total = sum(work.size for work in works)
    if _open or not total:
        yield
        return
    _open = _Bar(total, tell)
    try:
        yield
    finally:
        _open.bar.close()
        _open = None


def advance(what: str, work: Work) -> None:
    """Some of the work is done. what: for example "GEMU: 3 of 10 models made"."""
    if _open:
        _open.advance(what, work)


def in_words(seconds: float) -> str:
    """ "40 seconds", "12 minutes", "2.5 hours"."""
    for size, unit in ((3_600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{int(unit == 'hours')}f} {unit}"
    return f"{max(1, round(seconds))} seconds"
