"""Scaling and shifting by known numbers, such as the normalisation of an input image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Affine, Shape, number

Numbers = float | Sequence[float]


class Diagonal(Affine):
    """A factor and a shift for each value, the same throughout a channel."""

    def _pair(self) -> tuple[FloatArray, FloatArray]:
        """Return factor and shift, each one number or one for each channel."""
        raise NotImplementedError

    def _each(self, values: FloatArray, shape: Shape) -> FloatArray:
        """Return numbers for every value, flat."""
        if values.ndim and len(values) != shape[0]:
            raise ShapeError(
                f"{type(self).__name__}: {len(values)} numbers came for the {shape[0]} channels of {shape}"
            )
        return np.repeat(values, math.prod(shape[1:])) if values.ndim else np.full(math.prod(shape), float(values))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the same shape; `ShapeError` where the numbers do not fit its channels."""
        shape = self.single(input_shapes)
        for values in self._pair():
            self._each(values, shape)
        return shape

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return the diagonal matrix."""
        return (diagonal(self._each(self._pair()[0], self.single(input_shapes))),)

    def constant(self, *input_shapes: Shape) -> FloatArray | None:
        """Return the shift of every value."""
        shift = self._each(self._pair()[1], self.single(input_shapes))
        return shift if shift.any() else None


@names_checked
@dataclass(frozen=True)
class Scale(Diagonal):
    """`factor * x + shift`, each one number or one for each channel.

    >>> Scale(0.5).maps((1, 2))[0].toarray()
    array([[0.5, 0. ],
           [0. , 0.5]])
    """

    factor: Numbers = 1.0
    shift: Numbers = 0.0

    def __post_init__(self) -> None:
        """Check that they are numbers."""
        _check_numbers(self, "factor", "shift")

    def _pair(self) -> tuple[FloatArray, FloatArray]:
        return np.asarray(self.factor), np.asarray(self.shift)


@names_checked
@dataclass(frozen=True)
class Normalise(Diagonal):
    """`(x - mean) / std`, each one number or one for each channel, as images are prepared.

    >>> Normalise(0.5, 0.25).constant((1, 2))
    array([-2., -2.])
    """

    mean: Numbers
    std: Numbers

    def __post_init__(self) -> None:
        """Check that they are numbers, and that no std is zero."""
        _check_numbers(self, "mean", "std")
        if not np.all(np.asarray(self.std)):
            raise ShapeError(f"Normalise: std must not be zero, got {self.std}")

    def _pair(self) -> tuple[FloatArray, FloatArray]:
        factor = 1 / np.asarray(self.std, dtype=float)
        return factor, -np.asarray(self.mean) * factor


def _check_numbers(layer: Diagonal, *names: str) -> None:
    """Bring hyper-parameters to a number, or a tuple of numbers."""
    for name in names:
        value = getattr(layer, name)
        several = isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim > 0)
        entries = list(value) if several else [value]
        for entry in entries:
            number(type(layer).__name__, name, entry)
            if not math.isfinite(entry):
                raise ShapeError(f"{type(layer).__name__}: {name} must be finite, got {value!r}")
        object.__setattr__(layer, name, tuple(map(float, entries)) if several else float(value))


def diagonal(values: FloatArray) -> sp.csr_array:
    """Return a diagonal matrix."""
    places = np.arange(len(values))
    return sp.csr_array((np.asarray(values, dtype=float), (places, places)), shape=(len(values),) * 2)
