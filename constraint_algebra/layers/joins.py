"""Joins of several values into one: sums, differences, concatenations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Affine, Shape, whole


def identity(size: int, factor: float = 1.0) -> sp.csr_array:
    """Return a multiple of the identity."""
    return sp.csr_array(factor * sp.eye_array(size, format="csr"))


@names_checked
@dataclass(frozen=True)
class Add(Affine):
    """The sum of values of one shape, or of shapes that NumPy would broadcast to it.

    >>> Add().output_shape((3, 4, 4), (3, 4, 4))
    (3, 4, 4)
    """

    def signs(self, count: int) -> tuple[float, ...]:
        """Return the factor of each of so many inputs."""
        return (1.0,) * count

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the common shape; `ShapeError` where there is none, or fewer than two inputs."""
        kind = type(self).__name__
        if len(input_shapes) < 2:
            raise ShapeError(f"{kind} joins at least two values, got {len(input_shapes)}; name its inputs")
        self.signs(len(input_shapes))  # refuses a number of inputs that it has no signs for
        try:
            return np.broadcast_shapes(*input_shapes)
        except ValueError:
            shapes = " and ".join(map(str, input_shapes))
            raise ShapeError(f"{kind} needs inputs of one shape, got {shapes}") from None

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return a signed identity for each input, with repeated columns where it is broadcast."""
        shape = self.output_shape(*input_shapes)
        return tuple(
            _broadcast(own, shape, sign) for own, sign in zip(input_shapes, self.signs(len(input_shapes)), strict=True)
        )


@names_checked
@dataclass(frozen=True)
class Subtract(Add):
    """The first value less the second."""

    def signs(self, count: int) -> tuple[float, ...]:
        """Return 1 and -1; `ShapeError` for more than two inputs."""
        if count != 2:
            raise ShapeError(f"Subtract takes two values, got {count}")
        return (1.0, -1.0)


@names_checked
@dataclass(frozen=True)
class Concatenate(Affine):
    """Values one after the other along an axis of one sample; channels are axis 0.

    >>> Concatenate().output_shape((3, 4, 4), (5, 4, 4))
    (8, 4, 4)
    """

    axis: int = 0

    def __post_init__(self) -> None:
        """Check the axis."""
        object.__setattr__(self, "axis", whole("Concatenate", "axis", self.axis))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the shape of all together; `ShapeError` where another axis differs."""
        first, axis = input_shapes[0], self.axis
        rest = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in input_shapes}
        if axis >= len(first) or len(rest) != 1:
            shapes = " and ".join(map(str, input_shapes))
            raise ShapeError(f"Concatenate needs inputs that differ along axis {axis} alone, got {shapes}")
        return (*first[:axis], sum(shape[axis] for shape in input_shapes), *first[axis + 1 :])

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return for each input the matrix that puts it to its place."""
        shape, found, start = self.output_shape(*input_shapes), [], 0
        places = np.arange(math.prod(shape)).reshape(shape)
        for own in input_shapes:
            rows = np.take(places, np.arange(start, start + own[self.axis]), axis=self.axis).ravel()
            start += own[self.axis]
            found.append(placing(rows, math.prod(shape)))
        return tuple(found)


def placing(rows: Sequence[int] | np.ndarray, size: int) -> sp.csr_array:
    """Return the matrix that puts value j to place `rows[j]` of so many."""
    count = len(rows)
    return sp.csr_array((np.ones(count), (rows, np.arange(count))), shape=(size, count))


def _broadcast(own: Shape, shape: Shape, sign: float) -> sp.csr_array:
    size = math.prod(shape)
    if own == shape:
        return identity(size, sign)
    columns = np.broadcast_to(np.arange(math.prod(own)).reshape(own), shape).ravel()
    return sp.csr_array((np.full(size, sign), (np.arange(size), columns)), shape=(size, math.prod(own)))
