"""What the commands share: their way out, lines of output as they are, tables and progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from typer.core import TyperCommand, TyperGroup

from constraint_algebra.commands.exits import MEANING, end_on_termination, outcomes

WIDTH = 120


class Guarded:
    """Mixed into a command or a group: whatever ends it becomes one sentence and an exit code, see `exits`."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Parse the words and run."""
        with outcomes():
            return super().main(*args, **options)  # type: ignore[misc]

    def invoke(self, ctx: Any) -> Any:
        """Run; inside of Typer, which would take an interruption and a closed pipe for failures of its own."""
        with outcomes():
            return super().invoke(ctx)  # type: ignore[misc]


class Group(Guarded, TyperGroup):
    """Commands of an application, `typer.Typer(cls=Group)`."""


class Command(Guarded, TyperCommand):
    """The only command of an application, `app.command(cls=Command)`."""


def run_alone(function: Callable[..., None]) -> None:
    """Run a script whose only command is this function, with the words that it was given."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=Command, epilog=MEANING)(function)
    with outcomes():
        end_on_termination()
        app()


class PlainConsole(Console):
    """A console that prints names as they are: no markup, no emoji, no colours of its own choice."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        """Print to stdout, or to stderr; 120 columns wide where nobody says how wide it is."""
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)
        if width is None and not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDTH

    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to `outcomes`: Rich would end with exit code 1, which here is a verdict."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True  # nobody looks at the progress; the work goes on


def say(line: str) -> None:
    """Print a line as it is, without wrapping or markup."""
    sys.stdout.write(f"{line}\n")


def bars(last: ProgressColumn | None = None) -> Progress:
    """Return a progress bar on stderr; `last` stands at its end, by default the time that has passed."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, last or TimeElapsedColumn(), console=PlainConsole(stderr=True))
