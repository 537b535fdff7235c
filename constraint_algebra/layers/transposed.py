"""Transposed convolutions: zeros between the values of the input, and then a convolution of stride 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.layers.base import Affine, Compound, Layer, Shape, check_axes, per_axis
from constraint_algebra.layers.convolutions import Conv, Conv1d, Conv2d, Conv3d, Padding


@dataclass(frozen=True)
class Spread(Affine):
    """Zeros between the values along each spatial axis, and around them: what a transposed convolution does first.

    Args:
        steps: distance of neighbouring values along each axis afterwards.
        sides: places added `(before, after)` along each axis; negative numbers cut off.
    """

    steps: Shape
    sides: Padding

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(channels, *spread)`."""
        channels, *sizes = self.single(input_shapes)
        axes = zip(sizes, self.steps, self.sides, strict=True)
        return (channels, *((n - 1) * step + 1 + before + after for n, step, (before, after) in axes))

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return the matrix that puts each value to its place."""
        shape = self.single(input_shapes)
        places = np.indices(shape).reshape(len(shape), -1)
        for axis, (step, (before, _)) in enumerate(zip(self.steps, self.sides, strict=True), start=1):
            places[axis] = places[axis] * step + before
        after = self.output_shape(shape)
        inside = ((places >= 0) & (places < np.array(after)[:, None])).all(axis=0)
        rows, columns = np.ravel_multi_index(tuple(places[:, inside]), after), np.flatnonzero(inside)
        return (sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(math.prod(after), math.prod(shape))),)


class _Turned:
    """A convolution whose weight PyTorch stores with channels first and its taps turned about."""

    @property
    def _kind(self) -> str:
        """What messages call it: as the user wrote it."""
        return f"ConvTranspose{self.axes}d"  # type: ignore[attr-defined]

    def stored_shape(self, weight_shape: Shape) -> Shape:
        """Return `(channels, filters / groups, *taps)`."""
        groups: int = self.groups  # type: ignore[attr-defined]
        return (weight_shape[1] * groups, weight_shape[0] // groups, *weight_shape[2:])

    def canonical(self, weight: Any, weight_shape: Shape) -> Any:
        """Return `(filters, channels / groups, *taps)`."""
        return self._turned(weight).reshape(weight_shape + weight.shape[len(weight_shape) :])

    def stored(self, weight: Any, weight_shape: Shape) -> Any:
        """Return `(channels, filters / groups, *taps)`."""
        return self._turned(weight).reshape(self.stored_shape(weight_shape) + weight.shape[len(weight_shape) :])

    def _turned(self, weight: Any) -> Any:
        groups: int = self.groups  # type: ignore[attr-defined]
        taps = tuple(range(3, 3 + self.axes))  # type: ignore[attr-defined]
        by_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return np.flip(by_group.swapaxes(1, 2), axis=taps)


@dataclass(frozen=True)
class TurnedConv1d(_Turned, Conv1d):
    """The convolution inside `ConvTranspose1d`."""


@dataclass(frozen=True)
class TurnedConv2d(_Turned, Conv2d):
    """The convolution inside `ConvTranspose2d`."""


@dataclass(frozen=True)
class TurnedConv3d(_Turned, Conv3d):
    """The convolution inside `ConvTranspose3d`."""


@dataclass(frozen=True)
class ConvTranspose(Compound):
    """A transposed convolution: zeros between the values of its input, and then a convolution of stride 1.

    Args:
        filters: number of output channels.
        kernel: taps along each axis; one integer stands for all axes, here and below.
        stride: distance of neighbouring input values in the output.
        padding: values cut off on both sides of each axis.
        output_padding: values added at the end of each axis.
        dilation: distance between taps.
        groups: number of groups that channels and filters are split into.
        bias: whether the layer has a bias.

    Raises:
        ShapeError: a hyper-parameter that no transposed convolution can have.

    >>> from constraint_algebra.layers import ConvTranspose2d
    >>> ConvTranspose2d(3, 4, stride=2, padding=1).output_shape((8, 5, 6))
    (3, 10, 12)
    """

    axes: ClassVar[int]
    _inner: ClassVar[type[Conv]]

    filters: int
    kernel: int | Sequence[int]
    _: KW_ONLY
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0
    output_padding: int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        """Bring every hyper-parameter to one integer per axis; the convolution checks the others."""
        kind = type(self).__name__
        for name, least in (("kernel", 1), ("stride", 1), ("dilation", 1), ("padding", 0), ("output_padding", 0)):
            object.__setattr__(self, name, per_axis(kind, name, getattr(self, name), self.axes, least=least))
        self._convolution()

    def _convolution(self) -> Conv:
        return self._inner(self.filters, self.kernel, dilation=self.dilation, groups=self.groups, bias=self.bias)

    def parts(self, input_shape: Shape) -> list[tuple[str, Layer]]:
        """Return the spreading and the convolution."""
        check_axes(type(self).__name__, self.axes, input_shape)
        conv = self._convolution()
        axes = zip(conv.taps, conv.dilations, _shape(self.padding), _shape(self.output_padding), strict=True)
        sides = tuple((d * (k - 1) - p, d * (k - 1) - p + extra) for k, d, p, extra in axes)
        return [(".spread", Spread(_shape(self.stride), sides)), ("", conv)]


def _shape(values: int | Sequence[int]) -> Shape:
    return tuple(values)  # type: ignore[arg-type]


@names_checked
@dataclass(frozen=True)
class ConvTranspose1d(ConvTranspose):
    """A transposed convolution over `(channels, width)`; see `ConvTranspose`."""

    axes: ClassVar[int] = 1
    _inner: ClassVar[type[Conv]] = TurnedConv1d


@names_checked
@dataclass(frozen=True)
class ConvTranspose2d(ConvTranspose):
    """A transposed convolution over `(channels, height, width)`; see `ConvTranspose`."""

    axes: ClassVar[int] = 2
    _inner: ClassVar[type[Conv]] = TurnedConv2d


@names_checked
@dataclass(frozen=True)
class ConvTranspose3d(ConvTranspose):
    """A transposed convolution over `(channels, depth, height, width)`; see `ConvTranspose`."""

    axes: ClassVar[int] = 3
    _inner: ClassVar[type[Conv]] = TurnedConv3d
