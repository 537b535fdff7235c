"""How an answer is read, whatever it looks like, and what a checker says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy.logic.boolalg import BooleanAtom

Array = NDArray[np.float64]
MORE_DIGITS = "the digits that you give are right; give more digits"


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
    except (TypeError, ValueError, OverflowError):
        raise UnreadableError(f"numbers are asked for, this is {type(answer).__name__}") from None
    if not np.isfinite(found).all():
        raise UnreadableError("finite numbers are asked for; something was divided by zero, or is too large")
    if shape is not None and found.shape != shape:
        if found.size == np.prod(shape) and (found.ndim <= 1 or 1 in found.shape):
            return found.reshape(shape)
        raise UnreadableError(f"the shape {shape} is asked for, this is {found.shape}")
    return found


def number(answer: Any) -> float:
    """Return an answer as one number; text such as "1e-3", "5 %" or "60 dB" and SymPy numbers will do.

    >>> number("5 %"), number("60 dB")
    (0.05, 60.0)
    """
    scale = 1.0
    if isinstance(answer, str):
        text = answer.strip()
        scale = 0.01 if text.endswith("%") else 1.0
        try:
            answer = float(re.sub(r"\s*(%|dB)$", "", text, flags=re.IGNORECASE))
        except ValueError:
            raise UnreadableError(f"a number is asked for, this is {answer!r}") from None
    found = array(answer)
    if found.size != 1:
        raise UnreadableError(f"one number is asked for, these are {found.size}")
    return scale * float(found.reshape(-1)[0])


def whole(answer: Any) -> int:
    """Return an answer as a whole number."""
    found = number(answer)
    if found != round(found):
        raise UnreadableError(f"a whole number is asked for, this is {found:g}")
    return round(found)


def positions(answer: Any, axes: int = 1, mask: tuple[int, ...] | None = None) -> set[tuple[int, ...]]:
    """Return an answer as a set of positions, each a tuple of whole numbers.

    A single position, what `np.nonzero` returns, and a mask of True and False will do as well.

    Args:
        answer: the student's.
        axes: numbers of a position.
        mask: shape that a mask has, `None` where it makes no sense.

    >>> positions((np.array([1, 3]),)) == positions([1, 3]) == positions([False, True, False, True], mask=(4,))
    True
    """
    if answer is None or answer is ... or isinstance(answer, str):
        raise UnreadableError("a set or a list of positions is asked for")
    if isinstance(answer, tuple) and len(answer) == axes and all(np.ndim(part) == 1 for part in answer):
        answer = np.transpose(answer)  # from np.nonzero: an array for each axis
    elif isinstance(answer, Iterable) and not hasattr(answer, "shape"):
        answer = list(answer)
    found = array(answer)
    if np.asarray(answer).dtype == bool:
        if found.shape != mask:
            raise UnreadableError("a set or a list of positions is asked for, or a mask with a value for each place")
        found = np.argwhere(found).astype(float)
    if axes > 1 and found.size and found.shape[-1:] != (axes,) and found.size != axes:
        raise UnreadableError(f"each position has {axes} numbers")
    if (found != np.round(found)).any():
        raise UnreadableError("positions are whole numbers")
    return {tuple(int(value) for value in place) for place in found.reshape(-1, axes)}


def yes(answer: Any) -> bool:
    """Return an answer as yes or no."""
    text = str(answer).strip().lower() if isinstance(answer, str | bool | np.bool_ | BooleanAtom) else ""
    if text not in {"yes", "no", "y", "n", "true", "false"}:
        raise UnreadableError("yes or no is asked for (True or False will do)")
    return text in {"yes", "y", "true"}


def is_rounded(found: Any, right: Any) -> bool:
    """Whether an answer is the right one, rounded to the digits given; an answer of zeros alone has none.

    Args:
        found: the numbers read; together they have the digits of the one that is given to most.
        right: the right numbers, in the same shape.

    >>> is_rounded([2.96, -1.1], [2.9647, -1.0985]), is_rounded([2.97, -1.1], [2.9647, -1.0985])
    (True, False)
    """
    given, wanted = np.ravel(found), np.ravel(right)
    digits = [Decimal(f"{value:.7g}").normalize() for value in given if value]
    if not digits or given.shape != wanted.shape:
        return False
    step = 10.0 ** min(int(value.as_tuple().exponent) for value in digits)
    return bool((np.abs(given - wanted) <= step / 2 * (1 + 1e-6)).all())


def compare_sets(found: set[tuple[int, ...]], wanted: set[tuple[int, ...]], what: str) -> str | None:
    """Return what is wrong with a set without naming its members."""
    if found == wanted:
        return None
    extra, missing = len(found - wanted), len(wanted - found)
    parts = [f"{extra} of yours {'is' if extra == 1 else 'are'} none" * bool(extra)]
    parts.append(f"{missing} {'is' if missing == 1 else 'are'} missing" * bool(missing))
    return f"of the {what}, " + " and ".join(part for part in parts if part)
