"""Layers with a weight: convolutions, and what is one in other words.

A linear layer is a convolution with one tap and one position; a scale for each channel, the second half of batch norm,
is a depthwise convolution with one tap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, ClassVar

from constraint_algebra.arguments import names_checked
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import (
    Parametric,
    Shape,
    check_axes,
    check_shape,
    flag,
    per_axis,
    whole,
)

Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Conv(Parametric):
    """A zero-padded convolution (cross-correlation, as in PyTorch) in as many axes as the subclass says.

    Args:
        filters: number of output channels.
        kernel: taps along each axis; one integer stands for all axes, here and below.
        stride: step of the kernel.
        padding: zeros added on both sides, or `(before, after)` per axis, or `"valid"` (none), or `"same"`: as PyTorch
            defines it, an odd total puts the extra zero behind.
        dilation: distance between taps.
        groups: number of groups that channels and filters are split into.
        bias: whether the layer has a bias.

    Raises:
        ShapeError: a hyper-parameter that no convolution can have.

    >>> Conv2d(12, (5, 4), padding="same")
    Conv2d(filters=12, kernel=(5, 4), stride=(1, 1), padding=((2, 2), (1, 2)), dilation=(1, 1), groups=1, bias=True)
    """

    axes: ClassVar[int]
    argument_note: ClassVar[str] = (
        "PyTorch's order is another one: input channels follow from the input shape here, so that its Conv2d(3, 12, 5) "
        "is Conv2d(12, 5)"
    )

    filters: int
    kernel: int | Sequence[int]
    _: KW_ONLY
    stride: int | Sequence[int] = 1
    padding: int | str | Sequence[int] | Sequence[tuple[int, int]] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        """Bring every hyper-parameter to one integer per axis and check it."""
        kind = self._kind
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, per_axis(kind, name, getattr(self, name), self.axes, least=1))
        for name in ("filters", "groups"):
            object.__setattr__(self, name, whole(kind, name, getattr(self, name), least=1))
        if self.filters % self.groups:
            raise ShapeError(
                f"{kind}: filters must be a multiple of groups, got {self.filters} filters and {self.groups} groups"
            )
        object.__setattr__(self, "padding", self._normal_padding(kind))
        object.__setattr__(self, "bias", flag(kind, "bias", self.bias))

    def _normal_padding(self, kind: str) -> Padding:
        kernel, stride, dilation = self.taps, self.strides, self.dilations
        named = self.padding if isinstance(self.padding, str) else None
        if named == "valid":
            return ((0, 0),) * self.axes
        if named == "same":
            if any(step != 1 for step in stride):
                raise ShapeError(f'{kind}: padding="same" needs stride 1, got {stride}; give the padding as numbers')
            totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            return tuple((total // 2, total - total // 2) for total in totals)
        if named is not None:
            raise ShapeError(f'{kind}: padding must be numbers, "valid" or "same", got "{named}"')
        if not isinstance(self.padding, Sequence):
            return ((whole(kind, "padding", self.padding),) * 2,) * self.axes
        if len(self.padding) != self.axes:
            raise ShapeError(f"{kind}: padding needs one entry for each of {self.axes} axes, got {self.padding}")
        sides = [tuple(p) if isinstance(p, Sequence) else (p, p) for p in self.padding]
        for side in sides:
            if len(side) != 2:
                raise ShapeError(f"{kind}: padding of an axis is one number or (before, after), got {side}")
        return tuple((whole(kind, "padding", a), whole(kind, "padding", b)) for a, b in sides)

    @property
    def _kind(self) -> str:
        """What messages call it."""
        return type(self).__name__

    # The constructor accepts short forms; these give the normal form with its exact type.
    @property
    def taps(self) -> Shape:
        """Kernel size along each axis."""
        return tuple(self.kernel)  # type: ignore[arg-type]

    @property
    def strides(self) -> Shape:
        """Stride along each axis."""
        return tuple(self.stride)  # type: ignore[arg-type]

    @property
    def dilations(self) -> Shape:
        """Dilation along each axis."""
        return tuple(self.dilation)  # type: ignore[arg-type]

    @property
    def paddings(self) -> Padding:
        """Zeros `(before, after)` along each axis."""
        return tuple(self.padding)  # type: ignore[arg-type]

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(filters, *spatial)`; `ShapeError` where the input does not fit."""
        kind, input_shape = self._kind, self.single(input_shapes)
        check_axes(kind, self.axes, input_shape)
        if input_shape[0] % self.groups:
            raise ShapeError(f"{kind}: {input_shape[0]} input channels cannot be split into {self.groups} groups")
        sizes = tuple(
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, k, s, (before, after), d in zip(
                input_shape[1:], self.taps, self.strides, self.paddings, self.dilations, strict=True
            )
        )
        if min(sizes, default=1) < 1:
            raise ShapeError(
                f"{kind}: kernel {self.taps} with dilation {self.dilations} is larger than the padded input "
                f"{input_shape[1:]} (padding {self.paddings}); use a smaller kernel or more padding"
            )
        return (self.filters, *sizes)


@names_checked
@dataclass(frozen=True)
class Conv1d(Conv):
    """A convolution over `(channels, width)`; see `Conv`."""

    axes: ClassVar[int] = 1


@names_checked
@dataclass(frozen=True)
class Conv2d(Conv):
    """A convolution over `(channels, height, width)`; see `Conv`."""

    axes: ClassVar[int] = 2


@names_checked
@dataclass(frozen=True)
class Conv3d(Conv):
    """A convolution over `(channels, depth, height, width)`; see `Conv`."""

    axes: ClassVar[int] = 3


@names_checked
@dataclass(frozen=True)
class Linear(Parametric):
    """A fully connected layer, `z = W x + b`: a convolution with one tap and one position.

    >>> Linear(10).output_shape((192,))
    (10,)
    """

    argument_note: ClassVar[str] = (
        "PyTorch's order is another one: input features follow from the input shape here, so that its Linear(20, 10) "
        "is Linear(10)"
    )

    filters: int
    _: KW_ONLY
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the number of output features."""
        object.__setattr__(self, "filters", whole("Linear", "filters", self.filters, least=1))
        object.__setattr__(self, "bias", flag("Linear", "bias", self.bias))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(filters,)`; `ShapeError` where the input is not a vector."""
        input_shape = self.single(input_shapes)
        if len(input_shape) != 1:
            raise ShapeError(f"Linear needs an input of shape (features,), got {input_shape}; put Flatten() before it")
        return (self.filters,)


@names_checked
@dataclass(frozen=True)
class ChannelScale(Parametric):
    """A factor, and a shift, for each channel: a depthwise convolution with one tap; the second half of batch norm.

    Args:
        bias: whether there is a shift.
        shape: the shape in which factors and shifts are stored, where that is not `(channels,)`: layer norm over
            several axes has one for each entry of these.

    >>> ChannelScale().place((4, 8, 8)).weight_shape, ChannelScale().place((4, 8, 8)).stored_shape
    ((4, 1, 1, 1), (4,))
    """

    _: KW_ONLY
    bias: bool = True
    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        object.__setattr__(self, "bias", flag("ChannelScale", "bias", self.bias))
        if self.shape is not None:
            object.__setattr__(self, "shape", check_shape(self.shape, "ChannelScale: shape"))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the same shape; `ShapeError` where it has another number of channels."""
        shape = self.single(input_shapes)
        if self.shape is not None and math.prod(self.shape) != shape[0]:
            raise ShapeError(
                f"ChannelScale: factors of shape {self.shape} do not fit the {shape[0]} channels of {shape}"
            )
        return shape

    def at(self, input_shape: Shape) -> Conv:
        """Return the depthwise convolution."""
        return _depthwise(len(input_shape) - 1, input_shape[0], self.bias)

    def stored_shape(self, weight_shape: Shape) -> Shape:
        """Return `(channels,)`, or another shape that was given."""
        return weight_shape[:1] if self.shape is None else tuple(self.shape)

    def stored_bias_shape(self, filters: int) -> Shape:
        """Return the shape of the factors."""
        return self.stored_shape((filters,))

    def canonical(self, weight: Any, weight_shape: Shape) -> Any:
        """Return the factors with the axes of a weight."""
        return weight.reshape(weight_shape)

    def stored(self, weight: Any, weight_shape: Shape) -> Any:
        """Return the factors in the shape in which they are stored."""
        return weight.reshape(self.stored_shape(weight_shape))


@lru_cache(maxsize=256)
def _depthwise(axes: int, channels: int, bias: bool) -> Conv:
    return _in_axes(axes)(channels, (1,) * axes, groups=channels, bias=bias)


@lru_cache(maxsize=16)
def _in_axes(axes: int) -> type[Conv]:
    """Return the class of convolutions in a number of axes."""
    known = {1: Conv1d, 2: Conv2d, 3: Conv3d}
    return known.get(axes) or type(f"Conv{axes}d", (Conv,), {"axes": axes, "__doc__": "Convolution in other axes."})
