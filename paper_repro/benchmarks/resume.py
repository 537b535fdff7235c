"""A study that goes on where it stopped: one row a run in a CSV file, in as many processes as one likes.

Every process has one BLAS thread. Rows are written as they come, so that an interruption costs the runs under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from paper_repro.benchmarks import measure

Row = dict[str, object]


class Key(Protocol):
    """What tells a run from another: a `NamedTuple` of plain values."""

    _fields: tuple[str, ...]


def resumed(
    wanted: Iterable[Any],
    path: Path,
    columns: Sequence[str],
    judge: Callable[[Any], Row],
    *,
    processes: int = 1,
    what: str = "runs",
) -> pd.DataFrame:
    """Do the runs that the file does not hold yet, each appended as it ends; return all asked for, in their order.

    Args:
        wanted: runs, `NamedTuple`s of one kind whose fields are columns.
        path: the CSV file.
        columns: its columns, in order; provenance is added.
        judge: does one run and returns its row; importable, because other processes call it.
        processes: runs at a time.
        what: they are, for the progress bar.

    Raises:
        StorageError: the file has other columns.
    """
    runs = list(dict.fromkeys(wanted))
    if not runs:
        return measure.read(path, columns)
    fields = list(runs[0]._fields)
    kind = type(runs[0])
    done = {kind(*key) for key in measure.read(path, columns)[fields].itertuples(index=False)}
    todo = [run for run in runs if run not in done]
    # Long and short runs in a mixed order, so that the time that remains can be told from the time that has passed.
    todo = [todo[number] for number in np.random.default_rng(0).permutation(len(todo))]
    with measure.progress(len(todo), what) as advance:
        for row in _rows(todo, judge, processes):
            measure.append(path, {name: row.get(name) for name in columns} | measure.provenance())
            advance(" ".join(str(row[name]) for name in fields[:2]))
    rows = measure.read(path, columns)
    place = {run: number for number, run in enumerate(runs)}
    order = pd.Series([place.get(kind(*key), -1) for key in rows[fields].itertuples(index=False)], index=rows.index)
    asked = order[order >= 0].sort_values()
    return rows.loc[asked.index].reset_index(drop=True)


def _rows(todo: Sequence[Any], judge: Callable[[Any], Row], processes: int) -> Iterator[Row]:
    if processes == 1:
        with measure.one_thread():
            yield from map(judge, todo)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=measure.keep_one_thread) as pool:
        futures = [pool.submit(judge, run) for run in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
