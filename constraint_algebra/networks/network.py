"""A network: layers in order, shapes propagated, parameters and gradients bound to them by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, Parameters, TorchModel
from constraint_algebra.display import Table, Tabular
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers import activations, trilinear
from constraint_algebra.layers.kinds import Layer, PlacedLayer, Shape, check_shape
from constraint_algebra.networks import binding
from constraint_algebra.networks.walk import Rules, down_through, up

if TYPE_CHECKING:
    import pandas as pd


@checked
class Network(Tabular):
    """A plain chain of layers with all shapes known; needs no PyTorch and holds no parameter values.

    Args:
        input_shape: shape of one sample, `(channels, *spatial)` or `(features,)`.
        layers: the layers in order; those of another network are taken with their hyper-parameters.
        names: one name per layer, the prefix of its parameters' names; by default its index, as in `nn.Sequential`.

    Attributes:
        layers: the layers, each at its place.
        parameter_order: names in the order in which a sequence of parameters or gradients comes: that of the layers, or
            that of the model which `from_torch` read, with those that its forward pass never uses.

    Raises:
        ShapeError: shapes that do not chain, with the name of the layer; or two layers of one name.

    >>> from constraint_algebra.layers import Conv2d, Flatten, Linear, ReLU
    >>> net = Network((1, 4, 4), [Conv2d(2, 3, stride=2, padding=1), ReLU(), Flatten(), Linear(3)])
    >>> net[0].output_shape
    (2, 2, 2)
    >>> net.parameter_shapes["3.weight"]
    (3, 8)
    >>> net
    Network: input 1×4×4, 4 layers, 47 parameters
    name                                       layer output  parameters
       0 Conv2d 1→2, kernel 3×3, stride 2, padding 1  2×2×2          20
       1                                        ReLU  2×2×2           0
       2                                     Flatten      8           0
       3                                  Linear 8→3      3          27
    """

    def __init__(
        self, input_shape: Sequence[int], layers: Sequence[Layer | PlacedLayer], names: Sequence[str] | None = None
    ) -> None:
        """Place every layer and check that the shapes chain."""
        if not layers:
            raise ShapeError("layers: a network needs at least one layer, got none")
        if names is not None and len(names) != len(layers):
            raise ShapeError(f"names: expected one for each of {len(layers)} layers, got {len(names)}")
        shape = check_shape(input_shape)
        placed = []
        for index, layer in enumerate(layers):
            name = names[index] if names is not None else str(index)
            plain = layer.layer if isinstance(layer, PlacedLayer) else layer
            try:
                placed.append(plain.place(shape, name, index))
            except ShapeError as error:
                before = "what precedes it" if index else "the input_shape"
                raise ShapeError(f"layer {name!r} (number {index}) does not fit {before}: {error}") from None
            shape = placed[-1].output_shape
        twice = sorted({layer.name for layer in placed if sum(other.name == layer.name for other in placed) > 1})
        if twice:
            raise ShapeError(
                f"names: each layer needs a name of its own, since parameters go by it; {', '.join(map(repr, twice))}"
                " came more than once"
            )
        self.layers: tuple[PlacedLayer, ...] = tuple(placed)
        self.parameter_order: tuple[str, ...] = tuple(self.parameter_shapes)

    @property
    def input_shape(self) -> Shape:
        """Shape of one input sample."""
        return self.layers[0].input_shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the network's output."""
        return self.layers[-1].output_shape

    @property
    def bilinear(self) -> tuple[PlacedLayer, ...]:
        """The layers with a weight, in order: those that have equations."""
        return tuple(layer for layer in self.layers if layer.is_bilinear)

    @property
    def head(self) -> PlacedLayer | None:
        """The last layer with a weight, if it has one output position and only reshapes follow: it makes the logits."""
        if not self.bilinear:
            return None
        last = self.bilinear[-1]
        follows = self.layers[last.index + 1 :]
        plain = not any(layer.is_activation for layer in follows)
        return last if plain and math.prod(last.outputs) == 1 else None

    @property
    def start(self) -> PlacedLayer | None:
        """The lowest layer whose output gradient is at hand: one output position and a bias, or else the head."""
        single = (layer for layer in self.bilinear if math.prod(layer.outputs) == 1 and layer.bias_name is not None)
        return next(single, self.head)

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shape of every parameter by its name, in order."""
        shapes: dict[str, Shape] = {}
        for layer in self.bilinear:
            shapes[layer.weight_name] = layer.weight_shape
            if layer.bias_name is not None:
                shapes[layer.bias_name] = (layer.filters,)
        return shapes

    @property
    def parameter_count(self) -> int:
        """Number of parameter values."""
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())

    def between(self, lower: PlacedLayer, upper: PlacedLayer) -> tuple[PlacedLayer, ...]:
        """Return the layers between two layers: activations and reshapes between two that have equations."""
        return self.layers[lower.index + 1 : upper.index]

    def after(self, layer: PlacedLayer) -> tuple[PlacedLayer, ...]:
        """Return the layers that follow a layer, up to the next that has equations or to the end."""
        return tuple(takewhile(lambda other: not other.is_bilinear, self.layers[layer.index + 1 :]))

    def __getitem__(self, index: int) -> PlacedLayer:
        """Return a layer at its place; negative indices count from the end."""
        return self.layers[index]

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.layers)

    def __iter__(self) -> Iterator[PlacedLayer]:
        """Iterate over the layers from the input on."""
        return iter(self.layers)

    def __eq__(self, other: object) -> bool:
        """Whether two networks have the same layers, names and shapes."""
        return isinstance(other, Network) and self.layers == other.layers

    def __hash__(self) -> int:
        """Hash of the layers."""
        return hash(self.layers)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per layer: name, layer, output shape, number of parameters."""
        import pandas as pd

        shapes = self.parameter_shapes
        rows = []
        for layer in self.layers:
            names = [layer.weight_name, layer.bias_name] if layer.is_bilinear else []
            count = sum(math.prod(shapes[name]) for name in names if name is not None)
            rows.append((layer.name, describe(layer), shape_text(layer.output_shape), count))
        return pd.DataFrame(rows, columns=["name", "layer", "output", "parameters"])

    def _shown(self) -> Table:
        size = f"{len(self.layers)} layers, {self.parameter_count:,} parameters"
        return Table(self.to_frame(), f"Network: input {shape_text(self.input_shape)}, {size}")

    def forward(self, parameters: Mapping[str, FloatArray], x: FloatArray) -> list[FloatArray]:
        """Return the input and the output of every layer, `len(network) + 1` arrays."""

        def bilinear(layer: PlacedLayer, x: FloatArray) -> FloatArray:
            y = trilinear.forward(layer, parameters[layer.weight_name], x)
            if layer.bias_name is not None:
                y = y + parameters[layer.bias_name].reshape(-1, *(1,) * len(layer.outputs))
            return y

        rules = Rules[FloatArray](
            activation=lambda layer, z: activations.apply(layer.activation, z),
            reshape=lambda layer, y: y.reshape(layer.output_shape),
            bilinear=bilinear,
        )
        return up(self.layers, np.asarray(x, dtype=float).reshape(self.input_shape), rules)

    def backward(
        self,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        output_gradient: FloatArray,
        last: int | None = None,
    ) -> Parameters:
        """Return the gradient of every parameter up to a layer.

        Args:
            parameters: parameter values by name.
            values: what `forward` returned.
            output_gradient: gradient with respect to the output of the layer `last`.
            last: index of the layer to start from, by default the network's last.
        """
        last = len(self.layers) - 1 if last is None else last
        at_last = np.asarray(output_gradient, dtype=float).reshape(self.layers[last].output_shape)
        k = down_through(self.layers[1 : last + 1], at_last, chain_rule(parameters, values))  # at each layer's output
        gradients: Parameters = {}
        for layer in self.bilinear:
            if layer.index <= last:
                gradients[layer.weight_name] = trilinear.weight_gradient(layer, k[layer.index], values[layer.index])
                if layer.bias_name is not None:
                    gradients[layer.bias_name] = trilinear.bias_gradient(layer, k[layer.index])
        return gradients


# What may stand for a network: a name of the zoo, or a model whose first layer states its input shape. `checked` of
# `arguments` makes a network of it.
NetworkLike = Network | str | TorchModel


def chain_rule(parameters: Mapping[str, FloatArray], values: Sequence[FloatArray]) -> Rules[FloatArray]:
    """Return the rules by which a gradient comes down, or several at once along a last axis.

    Args:
        parameters: parameter values by name.
        values: what `Network.forward` returned.
    """

    def activation(layer: PlacedLayer, k: FloatArray) -> FloatArray:
        slope = activations.formulas(layer.activation).derivative(values[layer.index + 1])
        return k * (slope if k.ndim == slope.ndim else slope[..., None])

    return Rules(
        activation=activation,
        reshape=lambda layer, k: k.reshape(layer.input_shape + k.shape[len(layer.output_shape) :]),
        bilinear=lambda layer, k: trilinear.input_gradient(layer, parameters[layer.weight_name], k),
    )


def named(network: Network, arrays: Any, what: str) -> dict[str, Any]:
    """Return what came under the names of the network's parameters, each array as it is: see `bind`."""
    return binding.by_name(network.parameter_shapes, network.parameter_order, arrays, what)


def bind(network: Network, arrays: Any, what: str) -> Parameters:
    """Return parameters or gradients as float64, checked name by name against the network.

    Args:
        network: the network whose parameters the arrays belong to.
        arrays: parameters or gradients by PyTorch's parameter name, with or without the prefixes of wrappers such as
            `DataParallel`; or a tuple or list of them in the order of the parameters, as `torch.autograd.grad` returns.
            Each is a tensor or an array of any precision.
        what: "parameters" or "gradients", for the messages.

    Raises:
        ParameterError: a name is missing or unknown, a shape differs, or values are no real numbers.
        NonFiniteError: a value is NaN or infinite.
    """
    shapes = network.parameter_shapes
    return {
        name: binding.as_float(name, array, shapes[name], what) for name, array in named(network, arrays, what).items()
    }


def shape_text(shape: Shape) -> str:
    """Return a shape as people write it.

    >>> shape_text((3, 32, 32))
    '3×32×32'
    """
    return "×".join(map(str, shape)) or "1"


def describe(placed: PlacedLayer) -> str:
    """Return one line that says all about a layer, hyper-parameters at their defaults left out."""
    layer = placed.layer
    if not placed.is_bilinear:
        settings = [f"{key} {value:g}" for key, value in vars(layer).items()]
        return ", ".join([placed.kind, *settings])
    words = [f"{placed.kind} {placed.channels}→{placed.filters}"]
    if placed.taps:
        conv: Any = layer
        words.append(f"kernel {shape_text(conv.taps)}")
        words += [
            f"{name} {_short(value)}"
            for name, value, usual in (
                ("stride", conv.strides, 1),
                ("padding", tuple(a if a == b else f"{a}+{b}" for a, b in conv.paddings), 0),
                ("dilation", conv.dilations, 1),
            )
            if set(value) != {usual}
        ]
        if placed.groups > 1:
            words.append(f"{placed.groups} groups")
    if placed.bias_name is None:
        words.append("no bias")
    return ", ".join(words)


def _short(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))
