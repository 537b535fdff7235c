"""Operations that only move values: reshape, permute, pad, slice, shuffle between space and channels, enlarge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.errors import ShapeError, UnknownNameError
from constraint_algebra.layers.base import Affine, Rearrangement, Shape, number, whole

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # NumPy's names


@names_checked
@dataclass(frozen=True)
class Reshape(Rearrangement):
    """The same values in another shape; one size may be -1, and follows from the others.

    >>> Reshape((-1, 2)).output_shape((4, 3))
    (6, 2)
    """

    shape: Sequence[int]

    def __post_init__(self) -> None:
        """Check the shape."""
        _check_sequence("Reshape", "shape", self.shape)
        sizes = tuple(
            -1 if isinstance(size, int) and size == -1 else whole("Reshape", "shape", size, least=1)
            for size in self.shape
        )
        if sizes.count(-1) > 1:
            raise ShapeError(f"Reshape: at most one size is -1, got {sizes}")
        object.__setattr__(self, "shape", sizes)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the new shape; `ShapeError` where it has another number of values."""
        before, sizes = self.single(input_shapes), tuple(self.shape)
        rest, total = math.prod(size for size in sizes if size != -1), math.prod(before)
        after = tuple(total // rest if size == -1 else size for size in sizes)
        if math.prod(after) != total:
            raise ShapeError(f"Reshape: {before} has {total} values, which do not fit {sizes}")
        return after


class Gather(Affine):
    """An operation whose every output is one input value, or a constant."""

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output, in the output's shape; -1 for a constant."""
        raise NotImplementedError

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return the matrix that takes each value."""
        shape = self.single(input_shapes)
        flat = self.sources(shape).ravel()
        rows = np.flatnonzero(flat >= 0)
        return (sp.csr_array((np.ones(len(rows)), (rows, flat[rows])), shape=(len(flat), math.prod(shape))),)


def _check_sequence(kind: str, name: str, values: object) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ShapeError(f"{kind}: {name} must be a sequence with an entry for each axis, got {values!r}")


def _numbered(shape: Shape) -> IntArray:
    return np.arange(math.prod(shape)).reshape(shape)


@names_checked
@dataclass(frozen=True)
class Permute(Gather):
    """The axes of one sample in another order.

    >>> Permute((2, 0, 1)).output_shape((8, 9, 3))
    (3, 8, 9)
    """

    axes: Sequence[int]

    def __post_init__(self) -> None:
        """Check the order."""
        _check_sequence("Permute", "axes", self.axes)
        axes = tuple(whole("Permute", "axes", axis) for axis in self.axes)
        if sorted(axes) != list(range(len(axes))):
            raise ShapeError(f"Permute: axes must be each of 0 to {len(axes) - 1} once, got {axes}")
        object.__setattr__(self, "axes", axes)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the sizes in the new order."""
        shape = self.single(input_shapes)
        if len(shape) != len(self.axes):
            raise ShapeError(f"Permute: {len(self.axes)} axes came for an input of shape {shape}")
        return tuple(shape[axis] for axis in self.axes)

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output."""
        return _numbered(input_shape).transpose(tuple(self.axes))


@names_checked
@dataclass(frozen=True)
class Pad(Gather):
    """Values around the spatial axes.

    Args:
        sides: `(before, after)` for each of the last axes; one number stands for both. Negative numbers cut off.
        mode: "zeros", "reflect", "replicate" or "circular".
        value: what "zeros" puts there.

    >>> Pad(((1, 2),)).output_shape((3, 8))
    (3, 11)
    """

    sides: Sequence[int | tuple[int, int]]
    _: KW_ONLY
    mode: str = "zeros"
    value: float = 0.0

    def __post_init__(self) -> None:
        """Check sides, mode and value."""
        if not isinstance(self.mode, str) or self.mode not in MODES:
            raise UnknownNameError(f"Pad: mode must be one of {', '.join(map(repr, MODES))}, got {self.mode!r}")
        number("Pad", "value", self.value)
        _check_sequence("Pad", "sides", self.sides)
        pairs = [(side, side) if not isinstance(side, Sequence) else tuple(side) for side in self.sides]
        if any(len(pair) != 2 or not all(isinstance(n, int) for n in pair) for pair in pairs):
            raise ShapeError(f"Pad: sides must be (before, after) for each axis, got {self.sides}")
        object.__setattr__(self, "sides", tuple(pairs))

    def _pairs(self, input_shape: Shape) -> list[tuple[int, int]]:
        pairs: list[tuple[int, int]] = list(self.sides)  # type: ignore[arg-type]
        if len(pairs) > len(input_shape):
            raise ShapeError(f"Pad: sides of {len(pairs)} axes came for an input of shape {input_shape}")
        return [(0, 0)] * (len(input_shape) - len(pairs)) + pairs

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the enlarged shape."""
        shape = self.single(input_shapes)
        after = tuple(n + a + b for n, (a, b) in zip(shape, self._pairs(shape), strict=True))
        reach = {"reflect": 1, "circular": 0}.get(self.mode)
        for n, pair in zip(shape, self._pairs(shape), strict=True):
            if reach is not None and max(pair) > n - reach:
                raise ShapeError(f"Pad: {self.mode} padding of {pair} needs more values than the {n} of the axis")
        if min(after) < 1:
            raise ShapeError(f"Pad: sides {self.sides} leave nothing of an input of shape {shape}")
        return after

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output; -1 for the padding's own value."""
        pairs = self._pairs(input_shape)
        added = [(max(a, 0), max(b, 0)) for a, b in pairs]
        padded = _padded(_numbered(input_shape), added, self.mode)
        cut = tuple(slice(max(-a, 0), padded.shape[i] - max(-b, 0)) for i, (a, b) in enumerate(pairs))
        return padded[cut]

    def constant(self, *input_shapes: Shape) -> FloatArray | None:
        """Return the padding's own value where it stands."""
        if self.mode != "zeros" or not self.value:
            return None
        return np.where(self.sources(self.single(input_shapes)).ravel() < 0, self.value, 0.0)


def _padded(places: IntArray, sides: list[tuple[int, int]], mode: str) -> IntArray:
    if mode == "zeros":
        return np.pad(places, sides, constant_values=-1)
    padded: IntArray = np.pad(places, sides, mode=MODES[mode])  # type: ignore[call-overload]
    return padded


@names_checked
@dataclass(frozen=True)
class Slice(Gather):
    """A part of the values: `(start, stop, step)` for each axis of one sample, as of Python's slices.

    >>> Slice(((0, 3, 1), (0, 8, 2))).output_shape((4, 8))
    (3, 4)
    """

    ranges: Sequence[tuple[int | None, int | None, int | None]]

    def __post_init__(self) -> None:
        """Keep the ranges as tuples of three."""
        _check_sequence("Slice", "ranges", self.ranges)
        ranges = tuple(tuple(part) if isinstance(part, Sequence) else (part,) for part in self.ranges)
        if any(len(part) != 3 or not all(n is None or hasattr(n, "__index__") for n in part) for part in ranges):
            raise ShapeError(f"Slice: ranges must be (start, stop, step) for each axis, got {self.ranges}")
        if any(step == 0 for _, _, step in ranges):
            raise ShapeError(f"Slice: a step must not be zero, got {self.ranges}")
        object.__setattr__(self, "ranges", ranges)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the shape of the part; `ShapeError` where nothing is left."""
        shape = self.single(input_shapes)
        if len(self.ranges) > len(shape):
            raise ShapeError(f"Slice: {len(self.ranges)} ranges came for an input of shape {shape}")
        after = self.sources(shape).shape
        if not math.prod(after):
            raise ShapeError(f"Slice: {self.ranges} leaves nothing of an input of shape {shape}")
        return after

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output."""
        return _numbered(input_shape)[tuple(slice(*part) for part in self.ranges)]


@dataclass(frozen=True)
class _Shuffle(Gather):
    factor: int

    def __post_init__(self) -> None:
        """Check the factor."""
        object.__setattr__(self, "factor", whole(type(self).__name__, "factor", self.factor, least=1))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the shape after the shuffle."""
        return self.sources(self.single(input_shapes)).shape


@names_checked
@dataclass(frozen=True)
class PixelShuffle(_Shuffle):
    """Channels become places: `(C·r², H, W)` to `(C, H·r, W·r)` (Shi et al. 2016, arXiv 1609.05158)."""

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output."""
        r = self.factor
        if len(input_shape) != 3 or input_shape[0] % r**2:
            raise ShapeError(f"PixelShuffle needs (channels, height, width), channels of {r**2}s, got {input_shape}")
        C, H, W = input_shape
        parts = _numbered(input_shape).reshape(C // r**2, r, r, H, W)
        return parts.transpose(0, 3, 1, 4, 2).reshape(C // r**2, H * r, W * r)


@names_checked
@dataclass(frozen=True)
class PixelUnshuffle(_Shuffle):
    """Places become channels, the inverse of `PixelShuffle`."""

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output."""
        r = self.factor
        if len(input_shape) != 3 or input_shape[1] % r or input_shape[2] % r:
            raise ShapeError(f"PixelUnshuffle needs (channels, height, width), sizes of {r}s, got {input_shape}")
        C, H, W = input_shape
        parts = _numbered(input_shape).reshape(C, H // r, r, W // r, r)
        return parts.transpose(0, 2, 4, 1, 3).reshape(C * r**2, H // r, W // r)


@names_checked
@dataclass(frozen=True)
class Upsample(Gather):
    """Every value repeated along the spatial axes: nearest-neighbour enlargement by a whole factor.

    >>> Upsample(2).output_shape((3, 4, 4))
    (3, 8, 8)
    """

    factor: int | Sequence[int]

    argument_note: ClassVar[str] = "only nearest-neighbour enlargement by whole factors is affine with one value each"

    def __post_init__(self) -> None:
        """Check the factors."""
        given = self.factor if isinstance(self.factor, Sequence) else (self.factor,)
        factors = tuple(whole("Upsample", "factor", factor, least=1) for factor in given)
        object.__setattr__(self, "factor", factors[0] if not isinstance(self.factor, Sequence) else factors)

    def _factors(self, axes: int) -> Shape:
        factors = tuple(self.factor) if isinstance(self.factor, Sequence) else (self.factor,) * axes
        if len(factors) != axes:
            raise ShapeError(f"Upsample: factor needs one number, or one for each of {axes} axes, got {self.factor}")
        return factors

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(channels, *enlarged)`."""
        channels, *sizes = self.single(input_shapes)
        return (channels, *(n * f for n, f in zip(sizes, self._factors(len(sizes)), strict=True)))

    def sources(self, input_shape: Shape) -> IntArray:
        """Return the flat index of the input value at each output."""
        places = _numbered(input_shape)
        for axis, factor in enumerate(self._factors(len(input_shape) - 1), start=1):
            places = np.repeat(places, factor, axis=axis)
        return places
