"""A study: a grid of configurations, one row each in a CSV file, that goes on where it stopped.

One process at a time has the file, from the first look at it to the last. Rows are written as they come, so that an
interruption costs the configurations under way and no more; a configuration that fails becomes a row with its error.
Arrays that a row comes with, such as pictures, go into a folder beside it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import aside
from analysis import rows as table
from analysis.executors import Judge, Row, rows_of
from analysis.provenance import Sidecar, commit
from analysis.screen import progress, say
from constraint_algebra import storage
from constraint_algebra.errors import StorageError
from constraint_algebra.files.locks import hidden, locked
from constraint_algebra.files.space import check_folder, folder_within, make

ROOM, BYTES_A_ROW = 2**16, 300  # bytes to ask for before the work; a row of the studies has 100 to 300
ARRAYS = "arrays"  # the entry of a row that holds arrays by name


def run_study(
    wanted: Iterable[Any],
    path: Path,
    columns: Sequence[str],
    judge: Judge,
    *,
    processes: int = 1,
    executor: Executor | None = None,
    what: str = "configurations",
    about: Mapping[str, Any] | None = None,
    constant: Mapping[str, object] | None = None,
    retry_failed: bool = False,
    restart: bool = False,
    also: Sequence[Path] = (),
) -> pd.DataFrame:
    """Do the configurations that the file does not hold yet; return all asked for, in their order.

    Args:
        wanted: `NamedTuple`s of one kind whose fields are columns.
        path: the CSV file. Arrays go into the folder of the same name without suffix, one `.npz` a row.
        columns: its columns, in order: the fields first; `error` is added where it is not among them.
        judge: does one configuration and returns its other columns, and perhaps `arrays`; importable, because other
            processes call it.
        processes: configurations at a time, each process with one BLAS thread.
        executor: where to compute instead.
        what: they are, for the progress bar.
        about: what the JSON file beside the rows says of this session; without it there is none.
        constant: columns that are the same in all rows, such as versions.
        retry_failed: do those again that failed; their rows are removed first.
        restart: begin anew; what was there is kept aside until all rows are done.
        also: other files and folders that belong to the rows, and are kept aside with them.

    Raises:
        StorageError: the file is damaged or has other columns, another process writes to it, or the disk refuses. The
            rows until then are whole, and the row that could not be written is `result` of the exception.
    """
    runs = list(dict.fromkeys(wanted))
    names = [*columns, *({"error"} - set(columns)), *(constant or {})]
    if not runs:
        return table.read(path, columns)
    fields, order = list(runs[0]._fields), [key_of(run) for run in runs]
    if not restart and not retry_failed and path.exists():
        table.read(path, columns)  # a file of another study is refused before any work
        if set(order) <= set(table.keys(path, fields)) and not _interrupted(path):
            _origin(path, about)
            return _asked_for(path, columns, fields, order)  # nothing to write: a folder for reading alone will do
    check_folder(path.parent, ROOM + BYTES_A_ROW * len(runs))
    make(path.parent)
    unfinished = _interrupted(path)
    with locked(path), aside.kept_aside(path, also, begin=restart) as finished:
        table.read(path, columns)
        if retry_failed:
            table.drop_failed(path)
        done = set(table.keys(path, fields))
        todo = [run for run in runs if key_of(run) not in done]
        # Long and short ones in a mixed order, so that the time that remains can be told from the time that has passed.
        todo = [todo[number] for number in np.random.default_rng(0).permutation(len(todo))]
        sidecar = _origin(path, about)
        if todo:
            _compute(todo, path, names, functools.partial(rows_of, judge=judge, processes=processes, executor=executor),
                     what=what, sidecar=sidecar, constant=constant or {})  # fmt: skip
        elif unfinished and sidecar is not None:
            _close(sidecar, path)
        if todo or unfinished:
            table.sort(path, fields, order)
        rows = _asked_for(path, columns, fields, order)
        finished(table.failures(path))
    return rows


def _origin(path: Path, about: Mapping[str, Any] | None) -> Sidecar | None:
    """Return the JSON file beside the rows, if there is to be one; warn of rows that another commit made."""
    if about is None:
        return None
    sidecar = Sidecar(path.with_suffix(".json"), about)
    if path.exists() and (other := sidecar.other_commit()):
        say(f"warning: the rows in {path} come from commit {other}, this is {commit()}; --restart begins anew")
    return sidecar


def key_of(run: Any) -> tuple[str, ...]:
    """Return a configuration as the texts that stand in the file.

    >>> from typing import NamedTuple
    >>> Run = NamedTuple("Run", [("name", str), ("noise", float)])
    >>> key_of(Run("a", 1e-9))
    ('a', '1e-09')
    """
    return tuple(str(value) for value in run)


def arrays_path(path: Path, run: Any) -> Path:
    """Return where the arrays of a configuration are kept.

    >>> from typing import NamedTuple
    >>> Run = NamedTuple("Run", [("name", str), ("number", int)])
    >>> arrays_path(Path("results/study.csv"), Run("cifar10:3", 5)).as_posix()
    'results/study/cifar10-3_5.npz'
    """
    name = "_".join("".join(c if c.isalnum() or c in ".-+" else "-" for c in text) for text in key_of(run))
    return path.with_suffix("") / f"{name}.npz"


def _compute(
    todo: list[Any],
    path: Path,
    names: Sequence[str],
    computed: Callable[[list[Any]], Iterable[Row]],
    *,
    what: str,
    sidecar: Sidecar | None,
    constant: Mapping[str, object],
) -> None:
    fields, kind = todo[0]._fields, type(todo[0])
    with table.RowFile(path, names, lock=False) as file, progress(len(todo), what) as advance:
        new = 0
        if sidecar is not None:
            sidecar.begin()
        try:
            for row in computed(todo):
                arrays = row.pop(ARRAYS, None)
                if arrays is not None:
                    folder_within(path.parent, path.stem)
                    storage.save(arrays_path(path, kind(*(row[name] for name in fields))), arrays, overwrite=True)
                file.append({**row, **constant})
                new += 1
                advance(" ".join(str(row[name]) for name in fields[:2]))
        except BaseException:
            with contextlib.suppress(StorageError):  # what came first is what is told
                _close(sidecar, path, new)
            raise
        _close(sidecar, path, new)


def _close(sidecar: Sidecar | None, path: Path, new: int | None = None) -> None:
    """Say in the JSON file how many rows there are, and how many of this session, if it computed any."""
    if sidecar is not None:
        errors = table.read(path, ["error"])["error"]
        sidecar.end(new_rows=new, rows=len(errors), failed=int(errors.notna().sum()))


def _interrupted(path: Path) -> bool:
    """Return whether an earlier run came to no end, perhaps after its last row."""
    return hidden(path, "lock").exists() or aside.folder_of(path).exists()


def _asked_for(path: Path, columns: Sequence[str], fields: list[str], order: list[tuple[str, ...]]) -> pd.DataFrame:
    found = table.read(path, columns)
    place = {key: number for number, key in enumerate(order)}
    numbers = pd.Series([place.get(key, -1) for key in table.keys(path, fields)], index=found.index, dtype=int)
    return found.loc[numbers[numbers >= 0].sort_values().index].reset_index(drop=True)
