"""What all benchmarks share: time on one core, tables on the screen, rows in a CSV file."""

from __future__ import annotations

import csv
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from constraint_algebra.errors import StorageError

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


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and PyTorch use one thread for a while."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def keep_one_thread() -> None:
    """Let BLAS and PyTorch use one thread for the rest of the process."""
    import numpy as np
    import torch

    np.linalg.norm(np.eye(2))  # loads BLAS, which the limit needs to find
    torch.set_num_threads(1)
    threadpool_limits(1)


@cache
def provenance() -> dict[str, str]:
    """Return when and where a row was measured: date, commit, versions, processor type."""
    import numpy as np
    import scipy

    describe = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": found.stdout.strip() or "unknown",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def append(path: Path, row: Mapping[str, object]) -> None:
    """Append one row to a CSV file, which gets a header if it is new.

    Raises:
        StorageError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a+", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        else:
            file.seek(0)
            header = next(csv.reader(file), [])
            if header != list(row):
                raise StorageError(
                    f"{path} has the columns {', '.join(header)}, and the row to append {', '.join(row)}: it comes from"
                    " another version of the benchmark; move it away"
                )
        writer.writerow(row)


def read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a CSV file that has these columns, no rows where there is no file.

    Raises:
        StorageError: the file lacks a column.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    rows = pd.read_csv(path)
    missing = [name for name in columns if name not in rows]
    if missing:
        raise StorageError(
            f"{path} lacks the columns {', '.join(missing)}: it comes from another version of the benchmark;"
            " move it away, or begin anew with --restart"
        )
    return rows


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Show a bar with the remaining time; the function given advances it by one and names what was done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda name: bar.update(task, advance=1, description=f"{what}: {name}")


def show(frame: pd.DataFrame, title: str) -> None:
    """Print a table."""
    table = Table(title=title, box=box.SIMPLE)
    for name in frame.columns:
        table.add_column(str(name), justify="right" if pd.api.types.is_numeric_dtype(frame[name]) else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_text(value) for value in row))
    _console().print(table)


def say(text: str) -> None:
    """Print one line."""
    _console().print(text, highlight=False, markup=False, soft_wrap=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR0124
    return f"{value:,}" if isinstance(value, int) else str(value)
