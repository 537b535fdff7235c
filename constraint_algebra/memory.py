"""How much memory a step may take, asked before anything is allocated.

    CONSTRAINT_ALGEBRA_MEMORY=40G constraint-algebra reconstruct ...

The limit is four fifths of the memory that the system calls available, or what this variable of the environment says.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from constraint_algebra.errors import MemoryLimitError, ParameterError

VARIABLE = "CONSTRAINT_ALGEBRA_MEMORY"
SHARE = 0.8  # of what is available
UNASKED = 2**28  # bytes below which nobody asks the system; asking takes as long as a small product
UNKNOWN = 2**33  # where the system does not say
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def limit() -> int:
    """Return how many bytes one step may take.

    Raises:
        ParameterError: the variable of the environment is no size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return int(SHARE * _available())
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)i?b?", text.lower(), re.ASCII)
    if found is None:
        raise ParameterError(VARIABLE, f"{VARIABLE} is a size such as 8G or 500M, got {text!r}; set it anew")
    return int(float(found[1]) * _UNITS[found[2]])


def demand(what: str, size: float, advice: str) -> None:
    """Refuse what would take more than `limit()`.

    Args:
        what: would take so much, as the subject of a sentence.
        size: bytes that are surely needed.
        advice: what to do instead of raising the limit.

    Raises:
        MemoryLimitError: it would be too much; with both figures.

    >>> demand("a thousand numbers", 8000, "take fewer")
    """
    if size <= UNASKED and VARIABLE not in os.environ:
        return
    most = limit()
    if size > most:
        raise MemoryLimitError(
            f"{what} would take {size_text(size)} of memory, and at most {size_text(most)} may be taken; {advice}, or"
            f" raise the limit with {VARIABLE}, such as {VARIABLE}={_larger(size)}"
        )


def size_text(size: float) -> str:
    """Return a number of bytes as people write it.

    >>> size_text(8), size_text(3 * 2**29)
    ('8 bytes', '1.5 GiB')
    """
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{int(size):,} bytes"


def _larger(size: float) -> str:
    return f"{int(size / 2**30) + 1}G"


def _available() -> int:
    """Return the bytes that can be allocated without swapping: the least of what system and control group say."""
    found = [size for size in (_of_system(), _of_group()) if size is not None]
    return min(found, default=UNKNOWN)


def _of_system() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _of_group() -> int | None:
    """Return what is left of a container's memory; `None` where there is no such limit."""
    with suppress(OSError, ValueError):
        most = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text("ascii").strip()
        return max(int(most) - int(used), 0)
    return None
