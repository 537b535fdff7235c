"""Studies that go on where they stopped, and the peak of memory."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import constraint_algebra as ca
from paper_repro.benchmarks.memory import with_peak_memory
from paper_repro.benchmarks.resume import resumed

COLUMNS = ("name", "number", "square", "process")


class Run(NamedTuple):
    """A run of a study of squares."""

    name: str
    number: int


def square(run: Run) -> dict[str, object]:
    """Return the row of a run; importable by other processes."""
    if run.number < 0:
        raise ValueError("interrupted")
    return run._asdict() | {"square": run.number**2, "process": os.getpid()}


def test_rows_come_as_asked_and_no_run_is_done_twice(tmp_path) -> None:
    path = tmp_path / "deep" / "rows.csv"
    wanted = [Run("a", number) for number in range(6)]
    with pytest.raises(ValueError, match="interrupted"):
        resumed([*wanted, Run("b", -1)], path, COLUMNS, square)
    kept = path.read_text().splitlines()
    rows = resumed([*wanted, wanted[0]], path, COLUMNS, square)
    assert path.read_text().splitlines()[: len(kept)] == kept
    assert sorted(rows["number"]) == list(range(6))
    assert (rows["square"] == rows["number"] ** 2).all()
    assert {"date", "commit", "numpy"} <= set(rows)
    assert len(resumed(wanted[:2], path, COLUMNS, square)) == 2
    assert len(pd.read_csv(path)) == 6
    assert resumed([], path, COLUMNS, square).shape[0] == 6


def test_processes_share_the_work(tmp_path) -> None:
    rows = resumed([Run("a", number) for number in range(4)], tmp_path / "rows.csv", COLUMNS, square, processes=2)
    assert sorted(rows["square"]) == [0, 1, 4, 9]
    assert os.getpid() not in set(rows["process"])


def test_a_file_of_another_study_is_left_alone(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("name,other\na,1\n")
    with pytest.raises(ca.StorageError, match="lacks the columns number"):
        resumed([Run("a", 1)], path, COLUMNS, square)
    assert path.read_text() == "name,other\na,1\n"


def test_the_peak_is_seen_although_the_memory_is_given_back() -> None:
    _, before = with_peak_memory(lambda: None)
    size, peak = with_peak_memory(lambda: np.ones(40_000_000).size)
    assert size == 40_000_000
    assert 250 < peak - before < 1000
