"""A network: a graph of values, shapes propagated, parameters and gradients bound to its layers by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, Parameters, TorchModel
from constraint_algebra.display import Table, Tabular, draw
from constraint_algebra.errors import ShapeError, UnknownNameError
from constraint_algebra.layers import activations, trilinear
from constraint_algebra.layers.activations import PReLU
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.kinds import Layer, PlacedLayer, Shape, check_shape
from constraint_algebra.layers.normalisation import Standardise
from constraint_algebra.networks import binding, operations, placing
from constraint_algebra.networks.description import describe, shape_text
from constraint_algebra.networks.placing import INPUT
from constraint_algebra.networks.walk import Rules

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    from matplotlib.axes import Axes


@checked
class Network(Tabular):
    """A directed acyclic graph of values with all shapes known; needs no PyTorch and holds no parameter values.

    Args:
        input_shape: shape of one sample, `(channels, *spatial)` or `(features,)`.
        layers: the layers in order: a sequence, each of which reads the one before; or by name, `{name: layer}` or
            `{name: (layer, "name of an input", ...)}`, where "input" is the network's own and a layer without inputs
            reads the one before. Those of another network are taken with their hyper-parameters.
        names: of a sequence, one name per layer, the prefix of its parameters' names; by default its index, as in
            `nn.Sequential`.

    Attributes:
        layers: the layers, each at its place; `BatchNorm` and the like stand as the layers that they consist of.
        is_chain: whether each layer reads the one before, and all are convolutions, linear layers, activations or
            `Flatten`.
        parameter_order: names in the order in which a sequence of parameters or gradients comes: that of the layers, or
            that of the model which `from_torch` read, with those that its forward pass never uses.

    Raises:
        ShapeError: shapes that do not fit, with the name of the layer; two layers of one name; an input that is none.

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

    >>> from constraint_algebra.layers import Add
    >>> Network((4,), {"a": Linear(4), "b": ReLU(), "sum": (Add(), "b", "input"), "head": Linear(2)})
    Network: input 4, 4 layers, 30 parameters
    name   inputs      layer output  parameters
       a    input Linear 4→4      4          20
       b        a       ReLU      4           0
     sum b, input        Add      4           0
    head      sum Linear 4→2      2          10
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | PlacedLayer] | Mapping[str, Any],
        names: Sequence[str] | None = None,
    ) -> None:
        """Place every layer and check that the shapes fit."""
        if not layers:
            raise ShapeError("layers: a network needs at least one layer, got none")
        self._input_shape = check_shape(input_shape)
        self.layers: tuple[PlacedLayer, ...] = tuple(placing.placed(self._input_shape, layers, names))
        self.is_chain: bool = all(placing.is_link(layer) for layer in self.layers)
        self.parameter_order: tuple[str, ...] = tuple(self.parameter_shapes)

    @property
    def input_shape(self) -> Shape:
        """Shape of one input sample."""
        return self._input_shape

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
        plain = all(layer.is_reshape and layer.inputs == (layer.index,) for layer in follows)
        return last if plain and math.prod(last.outputs) == 1 else None

    @property
    def start(self) -> PlacedLayer | None:
        """The lowest layer whose output gradient is at hand: one output position and a bias, or else the head.

        In a graph a value may pass such a layer by, and only the head ends all paths.
        """
        if not self.is_chain:
            return self.head
        single = (layer for layer in self.bilinear if math.prod(layer.outputs) == 1 and layer.bias_name is not None)
        return next(single, self.head)

    @property
    def parameter_shapes(self) -> dict[str, Shape]:
        """Shape of every parameter by its name, in order."""
        shapes: dict[str, Shape] = {}
        for layer in self.layers:
            if layer.is_bilinear:
                shapes[layer.weight_name] = layer.stored_shape
                if layer.bias_name is not None:
                    shapes[layer.bias_name] = layer.stored_bias_shape
            elif isinstance(layer.layer, PReLU):
                shapes[layer.weight_name] = (layer.layer.parameters,)
        return shapes

    @property
    def buffer_shapes(self) -> dict[str, Shape]:
        """Shape of every buffer by its name: what belongs to the parameters and is not trained."""
        standardised = [layer for layer in self.layers if isinstance(layer.layer, Standardise)]
        return {name: layer.input_shape[:1] for layer in standardised for name in operations.buffer_names(layer)}

    @property
    def tracked_shapes(self) -> dict[str, Shape]:
        """Shape of every buffer that a step moves by its name: running statistics of what takes the data's own.

        No value and no gradient depends on them, so that they may be missing among the parameters.
        """
        moved = map(operations.moved_shapes, self.layers)
        return {name: shape for shapes in moved for name, shape in shapes.items()}

    @property
    def mask_shapes(self) -> dict[str, Shape]:
        """Shape of the mask of every dropout by its name, which nobody but the client sees."""
        dropouts = (layer for layer in self.layers if isinstance(layer.layer, Dropout))
        return {operations.mask_name(layer): layer.output_shape for layer in dropouts}

    @property
    def parameter_count(self) -> int:
        """Number of parameter values."""
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())

    def users(self, number: int) -> tuple[PlacedLayer, ...]:
        """Return the layers that read a value; 0 is the network's input, and `layer.number` what a layer makes."""
        return self._users[number]

    @cached_property
    def _users(self) -> tuple[tuple[PlacedLayer, ...], ...]:
        found: list[list[PlacedLayer]] = [[] for _ in range(len(self.layers) + 1)]
        for layer in self.layers:
            for number in dict.fromkeys(layer.inputs):
                found[number].append(layer)
        return tuple(map(tuple, found))

    def named(self, name: str) -> PlacedLayer:
        """Return the layer of a name; `UnknownNameError` where there is none."""
        found = next((layer for layer in self.layers if layer.name == name), None)
        if found is None:
            raise UnknownNameError(
                f"the network has no layer {name!r}; it has {', '.join(x.name for x in self.layers)}"
            )
        return found

    def value_name(self, number: int) -> str:
        """Return the name of a value: "input", or that of the layer which makes it."""
        return self.layers[number - 1].name if number else INPUT

    def shape_of(self, number: int) -> Shape:
        """Return the shape of a value."""
        return self.layers[number - 1].output_shape if number else self.input_shape

    def graph(self) -> nx.MultiDiGraph[str]:
        """Return the network as a graph of its values, by name; edges run from what is read to what it makes.

        >>> from constraint_algebra.layers import Add, Linear, ReLU
        >>> net = Network((4,), {"a": Linear(4), "b": ReLU(), "sum": (Add(), "b", "input")})
        >>> list(net.graph().edges())
        [('input', 'a'), ('input', 'sum'), ('a', 'b'), ('b', 'sum')]
        """
        import networkx as nx

        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        graph.add_node(INPUT, layer=None, kind="input", shape=self.input_shape)
        for layer in self.layers:
            graph.add_node(layer.name, layer=layer, kind=layer.kind, shape=layer.output_shape)
            graph.add_edges_from((self.value_name(number), layer.name) for number in layer.inputs)
        return graph

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the layers as boxes and what each reads as arrows; options as of `plotting.architecture`."""
        axes: Axes = draw(self, ax=ax, **options)
        return axes

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
        return isinstance(other, Network) and self.layers == other.layers and self.input_shape == other.input_shape

    def __hash__(self) -> int:
        """Hash of the layers."""
        return hash(self.layers)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per layer: name, layer, output shape, number of parameters."""
        import pandas as pd

        shapes = self.parameter_shapes
        rows = []
        for layer in self.layers:
            own = (layer.weight_name, f"{layer.weight_name.removesuffix('weight')}bias")
            count = sum(math.prod(shapes[name]) for name in own if layer.has_parameters and name in shapes)
            reads = ", ".join(self.value_name(number) for number in layer.inputs)
            rows.append((layer.name, reads, describe(layer), shape_text(layer.output_shape), count))
        frame = pd.DataFrame(rows, columns=["name", "inputs", "layer", "output", "parameters"])
        return frame.drop(columns="inputs") if self.is_chain else frame

    def _shown(self) -> Table:
        size = f"{len(self.layers)} layers, {self.parameter_count:,} parameters"
        return Table(self.to_frame(), f"Network: input {shape_text(self.input_shape)}, {size}")

    def forward(self, parameters: Mapping[str, FloatArray], x: FloatArray) -> list[FloatArray]:
        """Return all values by number, `len(network) + 1` arrays: the input, and what each layer makes.

        Args:
            parameters: parameters and buffers by name, as `bind` returns them.
            x: the input, in its shape.
        """
        found = [np.asarray(x, dtype=float).reshape(self.input_shape)]
        for layer in self.layers:
            found.append(operations.value(layer, parameters, [found[number] for number in layer.inputs]))
        return found

    def output_gradients(
        self, parameters: Mapping[str, FloatArray], values: Sequence[FloatArray], output_gradient: FloatArray
    ) -> list[FloatArray]:
        """Return the gradient with respect to every value, by number, from that of the output."""
        at = operations.pattern(self.layers, parameters, values)
        k = np.asarray(output_gradient, dtype=float).reshape(self.output_shape)
        return operations.fall(self.layers, parameters, at, k)

    def backward(
        self,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        output_gradient: FloatArray,
        last: int | None = None,
    ) -> Parameters:
        """Return the gradient of every parameter up to a layer.

        Args:
            parameters: parameters and buffers by name, as `bind` returns them.
            values: what `forward` returned.
            output_gradient: gradient with respect to the output of the layer `last`.
            last: index of the layer to start from, by default the network's last.
        """
        layers = self.layers[: len(self.layers) if last is None else last + 1]
        at = operations.pattern(layers, parameters, values)
        at_last = np.asarray(output_gradient, dtype=float).reshape(layers[-1].output_shape)
        k = operations.fall(layers, parameters, at, at_last)
        gradients: Parameters = {}
        for layer in layers:
            x, own = values[layer.inputs[0]], k[layer.number]
            if layer.is_bilinear:
                gradients[layer.weight_name] = trilinear.weight_gradient(layer, own, x)
                if layer.bias_name is not None:
                    gradients[layer.bias_name] = trilinear.bias_gradient(layer, own)
            elif isinstance(layer.layer, PReLU):
                gradients[layer.weight_name] = operations.slope_gradient(layer, x, own)
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
        slope = activations.formulas(layer.activation).derivative_at(values[layer.index], values[layer.index + 1])
        return k * (slope if k.ndim == slope.ndim else slope[..., None])

    return Rules(
        activation=activation,
        reshape=lambda layer, k: k.reshape(layer.input_shape + k.shape[len(layer.output_shape) :]),
        bilinear=lambda layer, k: trilinear.input_gradient(layer, parameters[layer.weight_name], k),
    )


def named(network: Network, arrays: Any, what: str) -> dict[str, Any]:
    """Return what came under the names of the network's parameters, each array as it is: see `bind`."""
    if what != "parameters":
        return binding.by_name(network.parameter_shapes, network.parameter_order, arrays, what)
    buffers, moved = network.buffer_shapes, network.tracked_shapes | network.mask_shapes
    return binding.by_name(network.parameter_shapes, network.parameter_order, arrays, what, buffers, moved)


def bind(network: Network, arrays: Any, what: str) -> Parameters:
    """Return parameters or gradients as float64, checked name by name against the network.

    Weights come in the order `(filters, channels / groups, *taps)`, which is PyTorch's but for those of batch norm and
    of transposed convolutions.

    Args:
        network: the network whose parameters the arrays belong to.
        arrays: parameters or gradients by PyTorch's parameter name, with or without the prefixes of wrappers such as
            `DataParallel`; or a tuple or list of them in the order of the parameters, as `torch.autograd.grad` returns.
            Each is a tensor or an array of any precision. To the parameters belong the buffers of batch norm, as in
            `model.state_dict()`; those that a step in training mode moves may be missing.
        what: "parameters" or "gradients", for the messages.

    Raises:
        ParameterError: a name is missing or unknown, a shape differs, values are no real numbers, or a running variance
            is not positive.
        NonFiniteError: a value is NaN or infinite.
        UnsupportedLayerError: dropout in training mode, and its mask is not among the parameters.
    """
    shapes = network.parameter_shapes | network.buffer_shapes | network.tracked_shapes | network.mask_shapes
    bound = {
        name: binding.as_float(name, array, shapes[name], what) for name, array in named(network, arrays, what).items()
    }
    if what == "parameters":
        operations.check_variances(network, bound)
        operations.check_masks(network, bound)
    return canonical(network, bound)


def canonical(network: Network, arrays: Mapping[str, FloatArray]) -> Parameters:
    """Return arrays by parameter name from PyTorch's order, weights to `(filters, channels / groups, *taps)`."""
    found = dict(arrays)
    for layer in network.bilinear:
        if layer.weight_name in found:
            found[layer.weight_name] = layer.canonical(found[layer.weight_name])
        if layer.bias_name in found and len(layer.stored_bias_shape) > 1:
            found[layer.bias_name] = found[layer.bias_name].reshape(-1)
    return found


def stored(network: Network, arrays: Mapping[str, FloatArray]) -> Parameters:
    """Return arrays by parameter name as PyTorch stores them; the inverse of `canonical`."""
    found = dict(arrays)
    for layer in network.bilinear:
        if layer.weight_name in found:
            found[layer.weight_name] = layer.stored(found[layer.weight_name])
        if layer.bias_name in found and len(layer.stored_bias_shape) > 1:
            found[layer.bias_name] = found[layer.bias_name].reshape(layer.stored_bias_shape)
    return found
