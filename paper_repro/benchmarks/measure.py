"""What all benchmarks share: time on one core, tables on the screen, rows in a CSV file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from analysis.provenance import provenance
from analysis.rows import append, read
from analysis.screen import progress, say, show
from analysis.threads import keep_one_thread, one_thread

__all__ = ["append", "keep_one_thread", "one_thread", "progress", "provenance", "read", "say", "show"]
RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"


class Timing(NamedTuple):
    """CPU seconds of several repetitions, and what the last one returned.

    >>> Timing((3.0, 1.0, 9.0), "done").median
    3.0
    """

    seconds: tuple[float, ...]
    value: Any

    @property
    def median(self) -> float:
        """The median of the repetitions."""
        return statistics.median(self.seconds)


def timed(function: Callable[[], Any], repetitions: int = 5, *, budget: float = 30.0) -> Timing:
    """Return the CPU time of `function()`, repeated until `repetitions` or `budget` seconds are reached.

    CPU time, because a busy machine lengthens wall time; one BLAS thread, because threads that wait for each other
    count as busy.
    """
    seconds: list[float] = []
    value = None
    with one_thread():
        while not seconds or (len(seconds) < repetitions and sum(seconds) < budget):
            start = time.process_time()
            value = function()
            seconds.append(time.process_time() - start)
    return Timing(tuple(seconds), value)
