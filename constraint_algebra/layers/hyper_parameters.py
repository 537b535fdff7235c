"""What the hyper-parameters of layers are held to: shapes, whole numbers, real numbers, flags."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

import numpy as np

from constraint_algebra.errors import ShapeError

Shape = tuple[int, ...]


def check_shape(shape: Sequence[int], what: str = "input_shape") -> Shape:
    """Return the argument `what` as a tuple of positive integers; `ShapeError` otherwise."""
    if isinstance(shape, str | bytes | Mapping) or not isinstance(shape, Iterable):
        advice = f"; write ({shape!r},)" if hasattr(shape, "__index__") else ""
        raise ShapeError(f"{what} must be one whole number for each axis, such as (3, 32, 32), got {shape!r}{advice}")
    return tuple(whole(what, "size", size, least=1) for size in shape)


def check_axes(kind: str, count: int, input_shape: Shape) -> None:
    """Refuse an input of another number of axes."""
    if len(input_shape) != count + 1:
        axes = ", ".join(["channels", *("depth", "height", "width")[-count:]])
        batch = f"; a batch axis is left out: {input_shape[1:]}" if len(input_shape) == count + 2 else ""
        raise ShapeError(f"{kind} needs an input of shape ({axes}), got {input_shape}{batch}")


def flag(kind: str, name: str, value: object) -> bool:
    """Return a hyper-parameter that is true or false; `ShapeError` otherwise."""
    if not isinstance(value, bool | np.bool_):
        raise ShapeError(f"{kind}: {name} must be True or False, got {value!r}")
    return bool(value)


def whole(kind: str, name: str, value: object, least: int = 0) -> int:
    """Return a hyper-parameter that is a whole number of at least `least`; `ShapeError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or _index(value) < least:
        raise ShapeError(f"{kind}: {name} must be a whole number of at least {least}, got {value!r}")
    return _index(value)


def _index(value: SupportsIndex) -> int:
    """Return a whole number, -1 for what only looks like one: an array of several, a class."""
    try:
        return operator.index(value)
    except TypeError:
        return -1


def number(kind: str, name: str, value: object) -> None:
    """Raise `ShapeError` for a hyper-parameter that is no real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ShapeError(f"{kind}: {name} must be a number, got {value!r}")


def positive(kind: str, name: str, value: float, advice: str) -> None:
    """Raise `ShapeError` for a hyper-parameter that is not positive."""
    number(kind, name, value)
    if not value > 0:
        raise ShapeError(f"{kind}: {name} must be positive, got {value}; {advice}")


def per_axis(kind: str, name: str, value: int | Sequence[int], axes: int, least: int) -> Shape:
    """Return one whole number for each axis; one number stands for all; `ShapeError` otherwise."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes:
        raise ShapeError(f"{kind}: {name} needs one number, or one for each of {axes} axes, got {value!r}")
    return tuple(whole(kind, name, v, least) for v in values)
