"""The most memory that a piece of work took."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def with_peak_memory(work: Callable[[], T]) -> tuple[T, float]:
    """Return what the work returns, and the largest resident size of the process meanwhile, in megabytes.

    The size includes the interpreter and what is loaded. Linux forgets earlier peaks on request; elsewhere the peak is
    that of the whole process so far.
    """
    try:
        _RESET.write_text("5")
    except OSError:
        value = work()
        unit = 1 if sys.platform == "darwin" else 1024
        return value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    value = work()
    found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())
    return value, int(found[1]) * 1024 / 1e6 if found else float("nan")
