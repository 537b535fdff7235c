"""What an answer may look like, and what a checker says of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class UnreadableError(ValueError):
    """The answer is of no kind that the question asks for."""


def say(problem: str | None) -> None:
    """Print what is wrong, or that nothing is.

    >>> say(None)
    Right.
    >>> say("the sign")
    Not yet: the sign.
    """
    print("Right." if problem is None else f"Not yet: {problem.rstrip('.')}.")  # noqa: T201 -- students read it


def array(answer: Any, shape: tuple[int, ...] | None = None) -> Array:
    """Return an answer as an array of numbers; lists, SymPy matrices and sparse matrices will do.

    Raises:
        UnreadableError: it is none, or has another shape.
    """
    if answer is None or answer is ...:
        raise UnreadableError("there is no answer yet; put yours in place of the dots")
    if hasattr(answer, "toarray"):
        answer = answer.toarray()
    if hasattr(answer, "tolist") and not isinstance(answer, np.ndarray):
        answer = answer.tolist()
    if isinstance(answer, set | frozenset):
        raise UnreadableError("a set has no order; give a list or an array")
    try:
        found = np.array(answer, dtype=float)
    except (TypeError, ValueError):
        raise UnreadableError(f"numbers are asked for, this is {type(answer).__name__}") from None
    if shape is not None and found.shape != shape:
        if found.size == np.prod(shape) and (found.ndim <= 1 or 1 in found.shape):
            return found.reshape(shape)
        raise UnreadableError(f"the shape {shape} is asked for, this is {found.shape}")
    return found


def number(answer: Any) -> float:
    """Return an answer as one number; text such as "1e-3" and SymPy numbers will do."""
    if isinstance(answer, str):
        try:
            return float(answer.strip().rstrip("%"))
        except ValueError:
            raise UnreadableError(f"a number is asked for, this is {answer!r}") from None
    found = array(answer)
    if found.size != 1:
        raise UnreadableError(f"one number is asked for, these are {found.size}")
    return float(found.reshape(-1)[0])


def whole(answer: Any) -> int:
    """Return an answer as a whole number."""
    found = number(answer)
    if found != round(found):
        raise UnreadableError(f"a whole number is asked for, this is {found:g}")
    return round(found)


def tuples(answer: Any) -> set[tuple[int, ...]]:
    """Return an answer as a set of tuples of whole numbers; a single number is a tuple of one."""
    if answer is None or answer is ... or isinstance(answer, str) or not isinstance(answer, Iterable):
        raise UnreadableError("a set or a list of positions is asked for")
    found = set()
    for entry in answer:
        try:
            found.add(tuple(int(value) for value in np.atleast_1d(np.asarray(entry))))
        except (TypeError, ValueError):
            raise UnreadableError(f"{entry!r} is no position") from None
    return found


def yes(answer: Any) -> bool:
    """Return an answer as yes or no."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    if isinstance(answer, str) and answer.strip().lower() in {"yes", "no", "y", "n", "true", "false"}:
        return answer.strip().lower() in {"yes", "y", "true"}
    raise UnreadableError("yes or no is asked for (True or False will do)")


def compare_sets(found: set[tuple[int, ...]], wanted: set[tuple[int, ...]], what: str) -> str | None:
    """Return what is wrong with a set without naming its members."""
    if found == wanted:
        return None
    extra, missing = len(found - wanted), len(wanted - found)
    parts = [f"{extra} of yours {'is' if extra == 1 else 'are'} none" * bool(extra)]
    parts.append(f"{missing} {'is' if missing == 1 else 'are'} missing" * bool(missing))
    return f"of the {what}, " + " and ".join(part for part in parts if part)
