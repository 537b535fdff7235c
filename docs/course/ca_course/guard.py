"""A checker never fails with a traceback: an answer that cannot be read is told what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ca_course.answers import UnreadableError, say


def checker(problem_of: Callable[[Any], str | None]) -> Callable[[Any], None]:
    """Turn a function that returns what is wrong (`None` for nothing) into a checker that says so."""

    @wraps(problem_of)
    def check(answer: Any = None) -> None:
        try:
            say(problem_of(answer))
        except UnreadableError as reason:
            say(str(reason))

    return check
