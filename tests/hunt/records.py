"""What came of one case, and one line of JSON for each in a file that a kill leaves whole but for its last line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """What came of one case.

    Attributes:
        seed: it is drawn from.
        family: of its activations, "mixed" for several, "none" for none.
        precision: of its gradients.
        graph: whether it is one.
        status: of the result, the name of one of the library's own exceptions, or "no case".
        faults: pairs of kind and words.
        values, known: input values, and those determined.
        below: of those determined, how many have an error bar below one rounding of the input.
        within_one, within_four: of the others, how many have errors within one and within four error bars.
        bars: root mean square of the errors of these others in units of their bars, 0 where there are none.
        seconds: of computing that the reconstruction took.
        checks: what was asked beside the reconstruction.
    """

    seed: int
    family: str
    precision: str
    graph: bool
    status: str
    faults: list[list[str]] = field(default_factory=list)
    values: int = 0
    known: int = 0
    below: int = 0
    within_one: int = 0
    within_four: int = 0
    bars: float = 0.0
    seconds: float = 0.0
    checks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The record as values that JSON can hold."""
        return asdict(self)


def append(path: Path, record: Record, *, wanted: Callable[[], bool] = lambda: True) -> None:
    """Write one line at the end and to the disk, whole, if it is wanted still while nobody else writes.

    The piece of a line that a killed process left there goes first.
    """
    line = (json.dumps(record.to_dict()) + "\n").encode()
    with _alone(path) as number:
        if not wanted():
            return
        end = _whole(number)
        if os.pwrite(number, line, end) != len(line):
            os.ftruncate(number, end)
            raise OSError(f"{path} took only part of a line: the disk is full; make room and start again")
        os.fsync(number)


def resumed(path: Path) -> dict[int, Record]:
    """Return what is there, by seed, and cut off a last line that was not written to its end."""
    if not path.exists():
        return {}
    with _alone(path) as number:
        content = os.pread(number, _whole(number), 0)
    return {record.seed: record for record in reversed(_read(content, path))}


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Open the file while no other process of the hunt, nor one that a killed hunt left, reads or writes it."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield number
    finally:
        os.close(number)


def _whole(number: int) -> int:
    """Cut off what follows the last line break, and return how many bytes are left."""
    size = end = os.fstat(number).st_size
    while end and os.pread(number, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(number, end)
    return end


def _read(content: bytes, path: Path) -> list[Record]:
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            found.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number} of {path} is no record of a hunt: {error}; choose another file") from error
    return found
