"""Shapes and hyper-parameters of each kind of layer, nothing else.

Shapes are those of one sample, without a batch axis: `(channels, *spatial)` before `Flatten`, `(features,)` after it.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, SupportsIndex

import numpy as np

from constraint_algebra.arguments import checked, names_checked
from constraint_algebra.errors import ShapeError

Shape = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layer:
    """A kind of layer with its hyper-parameters, not yet placed in a network."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape that the layer makes of `input_shape`; `ShapeError` where it cannot take it."""
        return input_shape

    def place(self, input_shape: Sequence[int], name: str = "layer", index: int = 0) -> PlacedLayer:
        """Return the layer bound to an input shape, as `Network` does for each of its layers.

        >>> Conv2d(4, 3, padding=1).place((2, 8, 6)).output_shape
        (4, 8, 6)
        """
        shape = check_shape(input_shape)
        return PlacedLayer(self, name, index, shape, self.output_shape(shape))


@dataclass(frozen=True)
class Conv(Layer):
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
        kind = type(self).__name__
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, _per_axis(kind, name, getattr(self, name), self.axes, least=1))
        for name in ("filters", "groups"):
            object.__setattr__(self, name, _whole(kind, name, getattr(self, name), least=1))
        if self.filters % self.groups:
            raise ShapeError(
                f"{kind}: filters must be a multiple of groups, got {self.filters} filters and {self.groups} groups"
            )
        object.__setattr__(self, "padding", self._normal_padding(kind))
        object.__setattr__(self, "bias", _flag(kind, "bias", self.bias))

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
            return ((_whole(kind, "padding", self.padding),) * 2,) * self.axes
        if len(self.padding) != self.axes:
            raise ShapeError(f"{kind}: padding needs one entry for each of {self.axes} axes, got {self.padding}")
        sides = [tuple(p) if isinstance(p, Sequence) else (p, p) for p in self.padding]
        for side in sides:
            if len(side) != 2:
                raise ShapeError(f"{kind}: padding of an axis is one number or (before, after), got {side}")
        return tuple((_whole(kind, "padding", a), _whole(kind, "padding", b)) for a, b in sides)

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

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return `(filters, *spatial)`; `ShapeError` where the input does not fit."""
        kind = type(self).__name__
        if len(input_shape) != self.axes + 1:
            axes = ", ".join(["channels", *("depth", "height", "width")[-self.axes :]])
            batch = f"; a batch axis is left out: {input_shape[1:]}" if len(input_shape) == self.axes + 2 else ""
            raise ShapeError(f"{kind} needs an input of shape ({axes}), got {input_shape}{batch}")
        if input_shape[0] % self.groups:
            raise ShapeError(f"{kind}: {input_shape[0]} input channels cannot be split into {self.groups} groups")
        sizes = tuple(
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, k, s, (before, after), d in zip(
                input_shape[1:], self.taps, self.strides, self.paddings, self.dilations, strict=True
            )
        )
        if min(sizes) < 1:
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
class Linear(Layer):
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
        object.__setattr__(self, "filters", _whole("Linear", "filters", self.filters, least=1))
        object.__setattr__(self, "bias", _flag("Linear", "bias", self.bias))

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return `(filters,)`; `ShapeError` where the input is not a vector."""
        if len(input_shape) != 1:
            raise ShapeError(f"Linear needs an input of shape (features,), got {input_shape}; put Flatten() before it")
        return (self.filters,)


@names_checked
@dataclass(frozen=True)
class Flatten(Layer):
    """All axes into one, in C order."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return `(number of values,)`."""
        return (math.prod(input_shape),)


@dataclass(frozen=True)
class Activation(Layer):
    """A function applied to each value; the kinds and their mathematics are in `activations`."""


@checked
@dataclass(frozen=True)
class PlacedLayer:
    """A layer at its place in a network: it knows its name and both shapes.

    Convolutions and linear layers are *bilinear*; for them the properties below describe one convolution, a linear
    layer being the one without spatial axes.
    """

    layer: Layer
    name: str
    index: int
    input_shape: Shape
    output_shape: Shape

    @property
    def kind(self) -> str:
        """The layer's class name, for tables and messages."""
        return type(self.layer).__name__

    @property
    def is_bilinear(self) -> bool:
        """Whether the layer has a weight, and so equations."""
        return isinstance(self.layer, Conv | Linear)

    @property
    def bilinear(self) -> Conv | Linear:
        """The layer itself, for those that have equations; `ShapeError` for the others."""
        if isinstance(self.layer, Conv | Linear):
            return self.layer
        raise ShapeError(f"layer {self.name} ({self.kind}) has no weight and therefore no equations; choose another")

    @property
    def is_activation(self) -> bool:
        """Whether the layer applies a function to each value."""
        return isinstance(self.layer, Activation)

    @property
    def activation(self) -> Activation:
        """The layer itself, for those that apply a function to each value; `ShapeError` for the others."""
        if isinstance(self.layer, Activation):
            return self.layer
        raise ShapeError(f"layer {self.name} ({self.kind}) is no activation; choose another")

    @property
    def groups(self) -> int:
        """Number of groups, 1 for a linear layer."""
        return self.layer.groups if isinstance(self.layer, Conv) else 1

    @property
    def channels(self) -> int:
        """Number of input channels; for a linear layer the number of input features."""
        return self.input_shape[0]

    @property
    def filters(self) -> int:
        """Number of output channels; for a linear layer the number of output features."""
        return self.bilinear.filters

    @property
    def taps(self) -> Shape:
        """Kernel size along each axis, `()` for a linear layer."""
        return self.bilinear.taps if isinstance(self.bilinear, Conv) else ()

    @property
    def positions(self) -> Shape:
        """Spatial input shape, `()` for a linear layer."""
        return self.input_shape[1:]

    @property
    def outputs(self) -> Shape:
        """Spatial output shape, `()` for a linear layer."""
        return self.output_shape[1:]

    @property
    def unknowns(self) -> int:
        """Number of input values."""
        return math.prod(self.input_shape)

    @property
    def weight_shape(self) -> Shape:
        """Shape of the weight, `(filters, channels / groups, *taps)`, PyTorch's order."""
        return (self.filters, self.channels // self.groups, *self.taps)

    @property
    def weight_name(self) -> str:
        """PyTorch's name of the weight."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def bias_name(self) -> str | None:
        """PyTorch's name of the bias, `None` where the layer has none."""
        if not self.bilinear.bias:
            return None
        return f"{self.name}.bias" if self.name else "bias"

    def with_filters(self, filters: int) -> PlacedLayer:
        """Return the same layer with another number of filters, as studies of minimum filters need it."""
        return replace(self.bilinear, filters=filters).place(self.input_shape, self.name, self.index)


def check_shape(shape: Sequence[int], what: str = "input_shape") -> Shape:
    """Return the argument `what` as a tuple of positive integers; `ShapeError` otherwise."""
    if isinstance(shape, str | bytes | Mapping) or not isinstance(shape, Iterable):
        advice = f"; write ({shape!r},)" if hasattr(shape, "__index__") else ""
        raise ShapeError(f"{what} must be one whole number for each axis, such as (3, 32, 32), got {shape!r}{advice}")
    return tuple(_whole(what, "size", size, least=1) for size in shape)


def _flag(kind: str, name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ShapeError(f"{kind}: {name} must be True or False, got {value!r}")
    return bool(value)


def _whole(kind: str, name: str, value: object, least: int = 0) -> int:
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


def _per_axis(kind: str, name: str, value: int | Sequence[int], axes: int, least: int) -> Shape:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes:
        raise ShapeError(f"{kind}: {name} needs one number, or one for each of {axes} axes, got {value!r}")
    return tuple(_whole(kind, name, v, least) for v in values)
