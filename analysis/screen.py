"""What a study says while it runs: a bar with the remaining time, tables, sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


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
