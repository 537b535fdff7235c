"""The kinds of operations that a network is made of, and a layer at its place.

| kind | its value | what is known of it |
| --- | --- | --- |
| parametric | trilinear in weight, input and output gradient | weight, gradient and bias equations |
| affine | `M x + c` | M and c, from shapes |
| pointwise | σ of each value | on which side of each kink: its *pattern* |
| selection | one entry of each window | which one: its *pattern* |
| normalisation | `(x - mean) / s` by the statistics of the values themselves | their groups |

Shapes are those of one sample, without a batch axis: `(channels, *spatial)`, or `(features,)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import scipy.sparse as sp

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.hyper_parameters import (
    Shape,
    check_axes,
    check_shape,
    flag,
    number,
    per_axis,
    positive,
    whole,
)

__all__ = [
    "Activation",
    "Affine",
    "Compound",
    "Layer",
    "Normalisation",
    "Parametric",
    "PlacedLayer",
    "Rearrangement",
    "Selection",
    "Shape",
    "check_axes",
    "check_shape",
    "flag",
    "number",
    "per_axis",
    "positive",
    "whole",
]


@dataclass(frozen=True)
class Layer:
    """A kind of layer with its hyper-parameters, not yet placed in a network."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the shape that the layer makes of its inputs' shapes; `ShapeError` where it cannot take them."""
        return self.single(input_shapes)

    def single(self, input_shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the only input; `ShapeError` where there are several."""
        if len(input_shapes) != 1:
            raise ShapeError(f"{type(self).__name__} reads one value, got {len(input_shapes)}; join them first")
        return input_shapes[0]

    def place(self, input_shape: Sequence[int], name: str = "layer", index: int = 0) -> PlacedLayer:
        """Return the layer bound to an input shape, as `Network` does for each of its layers.

        >>> from constraint_algebra.layers import Conv2d
        >>> Conv2d(4, 3, padding=1).place((2, 8, 6)).output_shape
        (4, 8, 6)
        """
        shape = check_shape(input_shape)
        return PlacedLayer(self, name, index, shape, self.output_shape(shape))


@dataclass(frozen=True)
class Parametric(Layer):
    """A layer with a weight, and so with equations: a convolution, or one at least in other words.

    Each has `filters`, `bias`, and if it is a convolution `groups` and `taps`.
    """

    def at(self, input_shape: Shape) -> Parametric:  # noqa: ARG002 -- others need it
        """Return the same layer as a convolution or linear layer over inputs of a shape."""
        return self

    def stored_shape(self, weight_shape: Shape) -> Shape:
        """Return the shape in which PyTorch stores the weight."""
        return weight_shape

    def stored_bias_shape(self, filters: int) -> Shape:
        """Return the shape in which PyTorch stores the bias."""
        return (filters,)

    def canonical(self, weight: Any, weight_shape: Shape) -> Any:  # noqa: ARG002 -- others need it
        """Return a weight as PyTorch stores it in the order `(filters, channels / groups, *taps)`."""
        return weight

    def stored(self, weight: Any, weight_shape: Shape) -> Any:  # noqa: ARG002 -- others need it
        """Return a weight as PyTorch stores it; the inverse of `canonical`."""
        return weight


@dataclass(frozen=True)
class Affine(Layer):
    """An operation `M x + c` with known coefficients; of several inputs the sum of `M x` of each."""

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return M for each input, `(outputs, inputs)`, over flat values in C order."""
        raise NotImplementedError

    def constant(self, *input_shapes: Shape) -> FloatArray | None:  # noqa: ARG002 -- others need it
        """Return c, flat; `None` where it is zero."""
        return None


@dataclass(frozen=True)
class Rearrangement(Affine):
    """The same values in the same order, in another shape."""

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:
        """Return the identity."""
        return (sp.csr_array(sp.eye_array(math.prod(self.single(input_shapes)), format="csr")),)


@dataclass(frozen=True)
class Activation(Layer):
    """A function applied to each value; the kinds and their mathematics are in `activations`."""


@dataclass(frozen=True)
class Selection(Layer):
    """One entry of each window: the largest, of equal ones the first."""

    def windows(self, input_shape: Shape) -> IntArray:
        """Return the flat indices of the entries of each window, `(outputs, most)`, -1 where a window has fewer."""
        raise NotImplementedError


@dataclass(frozen=True)
class Normalisation(Layer):
    """Values made comparable by their own statistics, `x̂ = (x - mean) / s` with `s = sqrt(var + eps)`, group by group.

    Groups are runs of equal length in C order, such as the channels. Mean and variance are those of a group; where
    `centred` is false the mean is left out, and the variance is the mean square.
    """

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        raise NotImplementedError

    @property
    def centred(self) -> bool:
        """Whether the mean is taken away."""
        return True

    def runs(self, input_shape: Shape) -> int:
        """Return the number of groups."""
        raise NotImplementedError


@dataclass(frozen=True)
class Compound(Layer):
    """What is written as one layer and stands for several, one after the other; only a `Network` places it."""

    def parts(self, input_shape: Shape) -> list[tuple[str, Layer]]:
        """Return the layers that it stands for, each with what its name has after that of the compound."""
        raise NotImplementedError

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the shape behind all parts."""
        shape = self.single(input_shapes)
        for _, layer in self.parts(shape):
            shape = layer.output_shape(shape)
        return shape

    def place(self, input_shape: Sequence[int], name: str = "layer", index: int = 0) -> PlacedLayer:  # noqa: ARG002 -- others need it
        """Refuse: it has no single place."""
        raise ShapeError(
            f"{type(self).__name__} stands for several layers; write Network(input_shape, [it]) and choose one of those"
        )


@checked
@dataclass(frozen=True)
class PlacedLayer:
    """A layer at its place in a network: it knows its name, what it reads, and all shapes.

    Values are numbered: 0 is the network's input, and `index + 1` what the layer makes. Parametric layers are
    *bilinear*; for them the properties below describe one convolution, a linear layer being the one without spatial
    axes.

    Attributes:
        layer: its kind and hyper-parameters.
        name: the prefix of its parameters' names.
        index: its place among the layers.
        input_shape, output_shape: of its first input, and of what it makes.
        inputs: numbers of the values that it reads; by default that of the layer before.
        further: shapes of the inputs after the first.
    """

    layer: Layer
    name: str
    index: int
    input_shape: Shape
    output_shape: Shape
    inputs: tuple[int, ...] = ()
    further: tuple[Shape, ...] = ()

    def __post_init__(self) -> None:
        """Read what the layer before makes, if nothing else is said."""
        if not self.inputs:
            object.__setattr__(self, "inputs", (self.index,))

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of all inputs."""
        return (self.input_shape, *self.further)

    @property
    def number(self) -> int:
        """Number of the value that it makes."""
        return self.index + 1

    @property
    def kind(self) -> str:
        """The layer's class name, for tables and messages."""
        return type(self.layer).__name__

    @property
    def is_bilinear(self) -> bool:
        """Whether the layer has a weight, and so equations."""
        return isinstance(self.layer, Parametric)

    @property
    def bilinear(self) -> Any:
        """The layer as a convolution or linear layer, for those that have equations; `ShapeError` for the others."""
        if isinstance(self.layer, Parametric):
            return self.layer.at(self.input_shape)
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
    def is_affine(self) -> bool:
        """Whether the layer is linear with known coefficients."""
        return isinstance(self.layer, Affine)

    @property
    def is_reshape(self) -> bool:
        """Whether the layer only arranges its values in another shape, in the same order."""
        return isinstance(self.layer, Rearrangement)

    @property
    def is_selection(self) -> bool:
        """Whether the layer chooses an entry of each window."""
        return isinstance(self.layer, Selection)

    @property
    def selection(self) -> Selection:
        """The layer itself, for those that choose an entry of each window; `ShapeError` for the others."""
        if isinstance(self.layer, Selection):
            return self.layer
        raise ShapeError(f"layer {self.name} ({self.kind}) selects nothing; choose another")

    @property
    def is_normalisation(self) -> bool:
        """Whether the layer takes statistics of the values that it reads."""
        return isinstance(self.layer, Normalisation)

    @property
    def normalisation(self) -> Normalisation:
        """The layer itself, for those that take statistics of what they read; `ShapeError` for the others."""
        if isinstance(self.layer, Normalisation):
            return self.layer
        raise ShapeError(f"layer {self.name} ({self.kind}) takes no statistics; choose another")

    @property
    def is_source(self) -> bool:
        """Whether what the layer makes is no affine function of what it reads: an unknown of its own."""
        return self.is_activation or self.is_selection or self.is_normalisation

    @property
    def groups(self) -> int:
        """Number of groups, 1 for a linear layer."""
        layer = self.layer.at(self.input_shape) if isinstance(self.layer, Parametric) else self.layer
        groups: int = layer.groups if hasattr(type(layer), "groups") else 1  # type: ignore[attr-defined]
        return groups

    @property
    def channels(self) -> int:
        """Number of input channels; for a linear layer the number of input features."""
        return self.input_shape[0]

    @property
    def filters(self) -> int:
        """Number of output channels; for a linear layer the number of output features."""
        filters: int = self.bilinear.filters
        return filters

    @property
    def taps(self) -> Shape:
        """Kernel size along each axis, `()` for a linear layer."""
        layer = self.bilinear
        taps: Shape = layer.taps if hasattr(type(layer), "taps") else ()
        return taps

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
        """Shape of the weight, `(filters, channels / groups, *taps)`; PyTorch's but for what `stored` says."""
        return (self.filters, self.channels // self.groups, *self.taps)

    @property
    def stored_shape(self) -> Shape:
        """Shape in which PyTorch stores the weight."""
        return self._parametric.stored_shape(self.weight_shape)

    @property
    def stored_bias_shape(self) -> Shape:
        """Shape in which PyTorch stores the bias."""
        return self._parametric.stored_bias_shape(self.filters)

    def canonical(self, weight: Any) -> Any:
        """Return a weight, or its gradient, as PyTorch stores it in the order of `weight_shape`."""
        return self._parametric.canonical(weight, self.weight_shape)

    def stored(self, weight: Any) -> Any:
        """Return a weight, or its gradient, as PyTorch stores it; the inverse of `canonical`."""
        return self._parametric.stored(weight, self.weight_shape)

    @property
    def has_parameters(self) -> bool:
        """Whether the layer is trained: it has a weight, or slopes."""
        return self.is_bilinear or hasattr(type(self.layer), "parameters")

    @property
    def _parametric(self) -> Parametric:
        assert isinstance(self.layer, Parametric)
        return self.layer

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
        return replace(self.bilinear, filters=filters).place(self.input_shape, self.name, self.index)  # type: ignore[no-any-return]
