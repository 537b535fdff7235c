"""What a study says while it runs: a bar with the remaining time, tables, sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
from rich import box
from rich.progress import TimeRemainingColumn
from rich.table import Table

from constraint_algebra.commands.terminal import PlainConsole, bars, say

__all__ = ["progress", "say", "show"]


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Show a bar with the remaining time; the function given advances it by one and names what was done."""
    with bars(TimeRemainingColumn()) as bar:
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


def _console() -> PlainConsole:
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=200)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"  # noqa: PLR0124
    return f"{value:,}" if isinstance(value, int) else str(value)
