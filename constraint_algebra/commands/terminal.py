"""What the commands share: one line of output, and bad input as one line and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from constraint_algebra.errors import ConstraintAlgebraError


@contextmanager
def refusals() -> Iterator[None]:
    """Turn bad input into one message on stderr and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except (ConstraintAlgebraError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None


def say(line: str) -> None:
    """Print a line as it is, without wrapping or markup."""
    Console(soft_wrap=True, highlight=False).print(line, markup=False)
