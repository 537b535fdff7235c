"""A checker never fails with a traceback: an answer that cannot be read is told what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ca_course.reading import UnreadableError, say


def checker(problem_of: Callable[[Any], str | None]) -> Callable[[Any], None]:
    """Turn a function that returns what is wrong (`None` for nothing) into a checker that says so."""

    @wraps(problem_of)
    def check(answer: Any = None) -> None:
        try:
            say(problem_of(answer))
        except UnreadableError as reason:
            say(str(reason))
        except Exception as error:  # an answer that nobody thought of
            say(f"this answer cannot be read ({type(error).__name__}: {error}); compare its form with the example")

    return check
