"""What came of one case, and one line of JSON for each in a file that a kill leaves whole but for its last line."""

from __future__ import annotations

import json
import os
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
        values, known, within_one, within_four: input values, those determined, and those of them whose error is within
            one and within four error bars.
        bars: root mean square of the errors in units of their bars, 0 where nothing is determined.
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
    within_one: int = 0
    within_four: int = 0
    bars: float = 0.0
    seconds: float = 0.0
    checks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The record as values that JSON can hold."""
        return asdict(self)


def append(path: Path, record: Record) -> None:
    """Write one line at the end, in one piece, and to the disk."""
    line = (json.dumps(record.to_dict()) + "\n").encode()
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(number, line) != len(line):
            raise OSError(f"{path} took only part of a line: the disk is full; make room and start again")
        os.fsync(number)
    finally:
        os.close(number)


def resumed(path: Path) -> dict[int, Record]:
    """Return what is there, by seed, and cut off a last line that was not written to its end."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return {record.seed: record for record in reversed(_read(content[:whole], path))}


def _read(content: bytes, path: Path) -> list[Record]:
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            found.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number} of {path} is no record of a hunt: {error}; choose another file") from error
    return found
