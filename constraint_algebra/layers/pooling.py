"""Pooling: the mean of each window, which is affine, and the largest entry of each window, which is a selection."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import IntArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Affine, Selection, Shape, flag, per_axis, whole

Window = tuple[int, ...]  # the positions along one axis that a window sees


@dataclass(frozen=True)
class _Windows:
    """Windows of a kernel that steps along each spatial axis."""

    axes: ClassVar[int]

    kernel: int | Sequence[int]
    _: KW_ONLY
    stride: int | Sequence[int] | None = None
    padding: int | Sequence[int] = 0
    ceil_mode: bool = False

    def _checked(self) -> None:
        """Bring every hyper-parameter to one integer per axis and check it."""
        kind = type(self).__name__
        object.__setattr__(self, "stride", self.kernel if self.stride is None else self.stride)
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0)):
            object.__setattr__(self, name, per_axis(kind, name, getattr(self, name), self.axes, least=least))
        object.__setattr__(self, "ceil_mode", flag(kind, "ceil_mode", self.ceil_mode))
        for k, p in zip(self.kernel, self.padding, strict=True):  # type: ignore[arg-type]
            if 2 * p > k:
                raise ShapeError(f"{kind}: padding is at most half of the kernel, got {p} for a kernel of {k}")

    def _dilations(self) -> Shape:
        return (1,) * self.axes

    def _axis_windows(self, sizes: Shape) -> list[list[tuple[int, int, int]]]:
        """Return for each axis and window its first place, the place after its last, and its step, before cutting."""
        settings = zip(sizes, self.kernel, self.stride, self.padding, self._dilations(), strict=True)  # type: ignore[arg-type]
        found = []
        for n, k, s, p, d in settings:
            reach = d * (k - 1) + 1
            spare = n + 2 * p - reach
            if spare < 0:
                raise ShapeError(f"{type(self).__name__}: kernel {k} is larger than the padded input ({n} + 2*{p})")
            count = (-(-spare // s) if self.ceil_mode else spare // s) + 1
            if self.ceil_mode and (count - 1) * s >= n + p:  # a window that would begin beyond the input is left out
                count -= 1
            found.append([(o * s - p, o * s - p + reach, d) for o in range(count)])
        return found


@dataclass(frozen=True)
class _Adaptive:
    """Windows of so many outputs along each spatial axis; `None` leaves an axis as it is."""

    axes: ClassVar[int]

    output_size: int | Sequence[int | None]

    def _checked(self) -> None:
        kind, given = type(self).__name__, self.output_size
        sizes = tuple(given) if isinstance(given, Sequence) else (given,) * self.axes
        if len(sizes) != self.axes:
            raise ShapeError(f"{kind}: output_size needs one number, or one for each of {self.axes} axes, got {given}")
        checked = tuple(None if n is None else whole(kind, "output_size", n, least=1) for n in sizes)
        object.__setattr__(self, "output_size", checked)

    def _axis_windows(self, sizes: Shape) -> list[list[tuple[int, int, int]]]:
        wanted = zip(sizes, self.output_size, strict=True)  # type: ignore[arg-type]
        pairs = [(n, n if out is None else out) for n, out in wanted]
        return [[(o * n // out, -(-(o + 1) * n // out), 1) for o in range(out)] for n, out in pairs]


def _shape(layer: _Windows | _Adaptive, input_shape: Shape) -> Shape:
    if len(input_shape) != layer.axes + 1:
        raise ShapeError(
            f"{type(layer).__name__} needs an input with channels and {layer.axes} axes, got {input_shape}"
        )
    return (input_shape[0], *(len(windows) for windows in layer._axis_windows(input_shape[1:])))


def _table(layer: _Windows | _Adaptive, input_shape: Shape) -> IntArray:
    """Return the flat indices of the entries of each window, `(outputs, most)`, -1 where it has fewer."""
    sizes = input_shape[1:]
    axes = [
        [[q for q in range(*window) if 0 <= q < n] for window in windows]
        for n, windows in zip(sizes, layer._axis_windows(sizes), strict=True)
    ]
    strides = [math.prod(sizes[a + 1 :]) for a in range(len(sizes))]
    one: list[list[int]] = []
    for parts in itertools.product(*axes):
        places = itertools.product(*parts)
        one.append([sum(q * step for q, step in zip(place, strides, strict=True)) for place in places])
    most = max(map(len, one))
    table = np.array([entries + [-1] * (most - len(entries)) for entries in one], dtype=np.intp)
    offsets = np.arange(input_shape[0])[:, None, None] * math.prod(sizes)
    return np.where(table < 0, -1, table + offsets).reshape(-1, most)


class _Mean(Affine):
    """The mean of each window."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(channels, *windows)`."""
        return _shape(self, self.single(input_shapes))  # type: ignore[arg-type]

    def _counts(self, input_shape: Shape, table: IntArray) -> np.ndarray:  # noqa: ARG002 -- others need it
        return np.asarray((table >= 0).sum(axis=1))

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return the matrix of means."""
        shape = self.single(input_shapes)
        table = _table(self, shape)  # type: ignore[arg-type]
        rows, columns = np.nonzero(table >= 0)
        share = 1.0 / self._counts(shape, table)[rows]
        size = len(table), math.prod(shape)
        return (sp.csr_array((share, (rows, table[rows, columns])), shape=size),)


@dataclass(frozen=True)
class AvgPool(_Windows, _Mean):
    """The mean of each window.

    Args:
        kernel: size of a window along each axis; one integer stands for all axes, here and below.
        stride: step of the windows, by default their size.
        padding: zeros on both sides of each axis.
        ceil_mode: whether a last window may reach beyond the input.
        count_include_pad: whether zeros of the padding count in the mean.
    """

    count_include_pad: bool = True

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        self._checked()
        kind = type(self).__name__
        object.__setattr__(self, "count_include_pad", flag(kind, "count_include_pad", self.count_include_pad))

    def _counts(self, input_shape: Shape, table: IntArray) -> np.ndarray:
        if not self.count_include_pad:
            return np.asarray((table >= 0).sum(axis=1))
        sizes, padding = input_shape[1:], self.padding
        axes = [
            [min(stop, n + p) - start for start, stop, _ in windows]  # not what lies beyond the padding
            for n, p, windows in zip(sizes, padding, self._axis_windows(sizes), strict=True)  # type: ignore[arg-type]
        ]
        counts = np.array([math.prod(parts) for parts in itertools.product(*axes)])
        return np.tile(counts, input_shape[0])


@dataclass(frozen=True)
class AdaptiveAvgPool(_Adaptive, _Mean):
    """The mean of each of so many windows along each axis; one output is the global mean of each channel."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        self._checked()


class _Largest(Selection):
    """The largest entry of each window."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(channels, *windows)`."""
        return _shape(self, self.single(input_shapes))  # type: ignore[arg-type]

    def windows(self, input_shape: Shape) -> IntArray:
        """Return the flat indices of the entries of each window, `(outputs, most)`, -1 where a window has fewer."""
        return _table(self, input_shape)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MaxPool(_Windows, _Largest):
    """The largest entry of each window, of equal ones the first; arguments as for `AvgPool`, and `dilation`."""

    dilation: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        self._checked()
        dilation = per_axis(type(self).__name__, "dilation", self.dilation, self.axes, least=1)
        object.__setattr__(self, "dilation", dilation)

    def _dilations(self) -> Shape:
        return tuple(self.dilation)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AdaptiveMaxPool(_Adaptive, _Largest):
    """The largest entry of each of so many windows along each axis."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        self._checked()


@names_checked
@dataclass(frozen=True)
class Maxout(Selection):
    """The largest of each group of neighbouring channels (Goodfellow et al. 2013, arXiv 1302.4389).

    >>> Maxout(2).output_shape((6, 4, 4))
    (3, 4, 4)
    """

    pieces: int

    def __post_init__(self) -> None:
        """Check the number of channels in a group."""
        object.__setattr__(self, "pieces", whole("Maxout", "pieces", self.pieces, least=1))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(channels / pieces, *spatial)`."""
        channels, *sizes = self.single(input_shapes)
        if channels % self.pieces:
            raise ShapeError(f"Maxout: {channels} channels cannot be split into groups of {self.pieces}")
        return (channels // self.pieces, *sizes)

    def windows(self, input_shape: Shape) -> IntArray:
        """Return the flat indices of the channels of each group."""
        places = np.arange(math.prod(input_shape)).reshape(input_shape[0] // self.pieces, self.pieces, -1)
        return np.asarray(places.swapaxes(1, 2).reshape(-1, self.pieces))


@names_checked
@dataclass(frozen=True)
class Mean(Affine):
    """The mean over some axes of one sample, such as `(1, 2)` for the global mean of each channel."""

    axes: Sequence[int]
    _: KW_ONLY
    keepdims: bool = False

    def __post_init__(self) -> None:
        """Check the axes."""
        given = self.axes if isinstance(self.axes, Sequence) else (self.axes,)
        axes = tuple(sorted(whole("Mean", "axes", axis) for axis in given))
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "keepdims", flag("Mean", "keepdims", self.keepdims))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the shape without the axes, or with one in their place."""
        shape = self.single(input_shapes)
        if not self.axes or self.axes[-1] >= len(shape) or len(set(self.axes)) != len(self.axes):
            raise ShapeError(f"Mean: axes must be some of 0 to {len(shape) - 1}, each once, got {self.axes}")
        if self.keepdims:
            return tuple(1 if axis in self.axes else n for axis, n in enumerate(shape))
        return tuple(n for axis, n in enumerate(shape) if axis not in self.axes) or (1,)

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return the matrix of means."""
        shape = self.single(input_shapes)
        kept = tuple(1 if axis in self.axes else n for axis, n in enumerate(shape))
        rows = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), shape).ravel()
        size, share = math.prod(shape), math.prod(kept) / math.prod(shape)
        return (sp.csr_array((np.full(size, share), (rows, np.arange(size))), shape=(math.prod(kept), size)),)


@names_checked
@dataclass(frozen=True)
class AvgPool1d(AvgPool):
    """The mean of each window over `(channels, width)`; see `AvgPool`."""

    axes: ClassVar[int] = 1


@names_checked
@dataclass(frozen=True)
class AvgPool2d(AvgPool):
    """The mean of each window over `(channels, height, width)`; see `AvgPool`."""

    axes: ClassVar[int] = 2


@names_checked
@dataclass(frozen=True)
class AvgPool3d(AvgPool):
    """The mean of each window over `(channels, depth, height, width)`; see `AvgPool`."""

    axes: ClassVar[int] = 3


@names_checked
@dataclass(frozen=True)
class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """The mean of each of so many windows over `(channels, width)`; see `AdaptiveAvgPool`."""

    axes: ClassVar[int] = 1


@names_checked
@dataclass(frozen=True)
class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """The mean of each of so many windows over `(channels, height, width)`; see `AdaptiveAvgPool`."""

    axes: ClassVar[int] = 2


@names_checked
@dataclass(frozen=True)
class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """The mean of each of so many windows over `(channels, depth, height, width)`; see `AdaptiveAvgPool`."""

    axes: ClassVar[int] = 3


@names_checked
@dataclass(frozen=True)
class MaxPool1d(MaxPool):
    """The largest entry of each window over `(channels, width)`; see `MaxPool`."""

    axes: ClassVar[int] = 1


@names_checked
@dataclass(frozen=True)
class MaxPool2d(MaxPool):
    """The largest entry of each window over `(channels, height, width)`; see `MaxPool`."""

    axes: ClassVar[int] = 2


@names_checked
@dataclass(frozen=True)
class MaxPool3d(MaxPool):
    """The largest entry of each window over `(channels, depth, height, width)`; see `MaxPool`."""

    axes: ClassVar[int] = 3


@names_checked
@dataclass(frozen=True)
class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """The largest entry of each of so many windows over `(channels, width)`; see `AdaptiveMaxPool`."""

    axes: ClassVar[int] = 1


@names_checked
@dataclass(frozen=True)
class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """The largest entry of each of so many windows over `(channels, height, width)`; see `AdaptiveMaxPool`."""

    axes: ClassVar[int] = 2


@names_checked
@dataclass(frozen=True)
class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """The largest entry of each of so many windows over `(channels, depth, height, width)`; see `AdaptiveMaxPool`."""

    axes: ClassVar[int] = 3
