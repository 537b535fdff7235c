"""A study of squares, importable by other processes: one configuration fails, one kills its worker, some take long."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS = ("name", "number", "square", "process")


class Run(NamedTuple):
    """A configuration of the study."""

    name: str
    number: float


def square(run: Run) -> dict[str, object]:
    """Return the other columns of a row; a negative number fails."""
    if run.number < 0:
        raise ValueError(f"no square\nof {run.number}")
    return {"square": run.number**2, "process": os.getpid()}


def deadly(run: Run) -> dict[str, object]:
    """As `square`, but "deadly" kills the process that computes it."""
    if run.name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return square(run)


def dies_twice(run: Run) -> dict[str, object]:
    """As `square`, but the first two processes that come to number 3 are killed there; a folder counts them."""
    if run.number == 3:
        for time_of_death in ("first", "second"):
            if not (mark := Path(run.name) / time_of_death).exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return square(run)


def slow(run: Run) -> dict[str, object]:
    """As `square`, in a tenth of a second; `name` is a file that gets a line for every time that it is computed."""
    time.sleep(0.1)
    with Path(run.name).open("a") as log:
        log.write(f"{run.number}\n")
    return square(run)


def pictured(run: Run) -> dict[str, object]:
    """As `square`, with an array."""
    return square(run) | {"arrays": {"picture": np.full((2, 2), run.number)}}


def interrupted(run: Run) -> dict[str, object]:
    """As `square`, but number 4 is where somebody presses Ctrl-C."""
    if run.number == 4:
        raise KeyboardInterrupt
    return square(run)
