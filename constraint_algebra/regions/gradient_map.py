"""The gradients as a function of the input, at a given output gradient k of one layer, and its Jacobian.

The output gradient of `network.start` is known to an observer: with a bias it is the bias gradient. With it held fixed
the gradients of that layer and of all below are a function of the network's input alone; the layers above add nothing,
as the rows of `start` give its whole input and all that is above is a function of that.

Along a direction dx every layer's input moves by dh and every output gradient by dk,

    dz = B(W) dh,    dh' = σ'(z) dz                          up through a layer and the activation on it
    dk = σ''(z) dz * arriving + σ'(z) * (B(W')^T dk')        down, zero at `start`
    A(k) dh + A(dk) h,    sum of dk                          the rows of the layer's weight and bias

Where all activations are linear in pieces dk is zero, and within a region the map is linear. The curvature follows from
the formulas in terms of the output y = σ(z): the derivative is d(y), so that σ''(z) = d'(y) d(y).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import formulas, is_piecewise_linear
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.walk import Rules, down_through, up


class Point(NamedTuple):
    """What happens at one input.

    Attributes:
        values: the input and the output of every layer up to `start`.
        slopes: the derivative of each activation by its index.
        k: the gradient that arrives at the output of every layer up to `start`.
    """

    values: list[FloatArray]
    slopes: dict[int, FloatArray]
    k: list[FloatArray]


@dataclass(frozen=True, eq=False)
class GradientMap:
    """The gradients of all weights and biases up to a layer, as a function of the input.

    Rows are the entries of these gradients, in the order of the parameters and each in C order; columns the input
    values in C order.

    Attributes:
        network: the architecture.
        parameters: weights and biases by name.
        start: the layer whose output gradient is held fixed.
        k: that gradient.
        fixed: slopes by the index of an activation, each in the shape of its output, by which it multiplies whatever
            the input; the map is then that of a network whose pattern is given, with its plateaus at zero.

    >>> from constraint_algebra.layers import Linear, Tanh
    >>> network = Network((1,), [Linear(1, bias=False), Tanh(), Linear(1)])
    >>> values = {"0.weight": np.ones((1, 1)), "2.weight": np.ones((1, 1)), "2.bias": np.zeros(1)}
    >>> of_x = GradientMap(network, values, network.start, np.ones(1))    # x(1 - y²), y and 1 for y = tanh x
    >>> of_x.value(np.zeros(1)), of_x.jacobian(np.zeros(1)).ravel()
    (array([0., 0., 1.]), array([1., 1., 0.]))
    """

    network: Network
    parameters: Mapping[str, FloatArray]
    start: PlacedLayer
    k: FloatArray
    fixed: Mapping[int, FloatArray] = field(default_factory=dict)

    @cached_property
    def layers(self) -> tuple[PlacedLayer, ...]:
        """The layers up to `start`."""
        return self.network.layers[: self.start.index + 1]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each gradient by name, in the order of the rows."""
        below = {name for x in self.layers if x.is_bilinear for name in (x.weight_name, x.bias_name)}
        return {name: shape for name, shape in self.network.parameter_shapes.items() if name in below}

    @property
    def rows(self) -> int:
        """Number of gradient entries."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def unknowns(self) -> int:
        """Number of input values."""
        return math.prod(self.network.input_shape)

    @property
    def linear(self) -> bool:
        """Whether every activation is linear in pieces, so that the map is linear in every region."""
        return not any(layer.is_activation and self._bends(layer) for layer in self.layers)

    def flat(self, gradients: Mapping[str, FloatArray]) -> FloatArray:
        """Return gradients by name as one vector, in the order of the rows; what belongs to layers above is left out.

        Arrays with a last axis more than the parameter, of several gradients, give a matrix.
        """
        return np.concatenate(
            [
                gradients[name].reshape(math.prod(shape), *gradients[name].shape[len(shape) :])
                for name, shape in self.shapes.items()
            ]
        )

    def by_name(self, rows: FloatArray) -> Parameters:
        """Return a vector of rows as gradients by name: the inverse of `flat`."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        parts = np.split(rows, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def value(self, x: FloatArray) -> FloatArray:
        """Return all gradients at an input, shape `(rows,)`."""
        at = self.at(x)
        return self._gradients(at, at.k)

    def for_other(self, k: FloatArray, x: FloatArray) -> FloatArray:
        """Return the gradients for other output gradients k of `start`, `(rows, n)` for k of shape `(filters, n)`."""
        at = self.at(x)
        return self._gradients(at, self._back(k.reshape(*self.start.output_shape, -1), at.slopes))

    def _gradients(self, at: Point, k: list[FloatArray]) -> FloatArray:
        rows: Parameters = {}
        for layer in self.layers:
            if layer.is_bilinear:
                i = layer.index
                rows[layer.weight_name] = trilinear.weight_gradient(layer, k[i], at.values[i])
                if layer.bias_name is not None:
                    several = k[i].shape[len(layer.output_shape) :]
                    rows[layer.bias_name] = k[i].reshape(layer.filters, -1, *several).sum(axis=1)
        return self.flat(rows)

    def slopes(self, x: FloatArray) -> dict[int, FloatArray]:
        """Return the derivative of each activation at an input, by its index in the network."""
        return self.at(x).slopes

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Return the derivative of all gradients with respect to the input, shape `(rows, unknowns)`.

        At a kink the derivative counts that PyTorch takes there.
        """
        return self.jvp(x, np.eye(self.unknowns))

    def jvp(self, x: FloatArray, directions: FloatArray) -> FloatArray:
        """Return the Jacobian times directions: shape `(rows, n)` for directions of shape `(unknowns, n)`."""
        at = self.at(x)
        several = np.asarray(directions, dtype=float).reshape(*self.network.input_shape, -1)
        dh = self._up(at, several, {})
        dk = self._down(at, dh, {}, self.layers[1:])
        rows: Parameters = {}
        for layer in self.layers:
            if layer.is_bilinear:
                i = layer.index
                rows[layer.weight_name] = trilinear.weight_gradients(layer, at.k[i], dh[i])
                moved, n = dk[i], several.shape[-1:]
                if moved is not None:
                    rows[layer.weight_name] += trilinear.weight_gradient(layer, moved, at.values[i])
                if layer.bias_name is not None:
                    still = np.zeros((layer.filters, *n))
                    rows[layer.bias_name] = still if moved is None else moved.reshape(layer.filters, -1, *n).sum(axis=1)
        return self.flat(rows)

    def vjp(self, x: FloatArray, rows: FloatArray) -> FloatArray:
        """Return the transposed Jacobian times one vector of shape `(rows,)`: shape `(unknowns,)`.

        A sum of gradients is the slope of the loss along a direction of the parameters; its gradient is how the
        gradient at the input moves along that direction.
        """
        at, along = self.at(x), self.by_name(rows)
        moved = {name: values[..., None] for name, values in along.items()}
        dh = self._up(at, np.zeros((*self.network.input_shape, 1)), moved)
        at_input = self._down(at, dh, moved, self.layers)[0]
        return np.zeros(self.unknowns) if at_input is None else at_input.ravel()

    def at(self, x: FloatArray) -> Point:
        """Return values, slopes and output gradients at an input."""
        slopes: dict[int, FloatArray] = dict(self.fixed)

        def bilinear(layer: PlacedLayer, h: FloatArray) -> FloatArray:
            z = trilinear.forward(layer, self.parameters[layer.weight_name], h)
            if layer.bias_name is None:
                return z
            return np.asarray(z + self.parameters[layer.bias_name].reshape(-1, *(1,) * len(layer.outputs)))

        def activation(layer: PlacedLayer, z: FloatArray) -> FloatArray:
            if layer.index in self.fixed:
                return self.fixed[layer.index] * z
            f = formulas(layer.activation)
            y = f.value(z)
            slopes[layer.index] = f.derivative(y)
            return y

        def reshape(layer: PlacedLayer, h: FloatArray) -> FloatArray:
            return h.reshape(layer.output_shape)

        below = np.asarray(x, dtype=float).reshape(self.network.input_shape)
        values = up(self.layers, below, Rules(activation=activation, reshape=reshape, bilinear=bilinear))
        at_start = np.asarray(self.k, dtype=float).reshape(*self.start.output_shape, 1)
        return Point(values, slopes, [k[..., 0] for k in self._back(at_start, slopes)])

    def _back(self, k: FloatArray, slopes: Mapping[int, FloatArray]) -> list[FloatArray]:
        """Return what arrives at the output of each layer for several output gradients of `start`, with a last axis."""
        back = Rules[FloatArray](
            activation=lambda layer, k: k * slopes[layer.index][..., None],
            reshape=lambda layer, k: k.reshape(*layer.input_shape, k.shape[-1]),
            bilinear=lambda layer, k: trilinear.input_gradient(layer, self.parameters[layer.weight_name], k),
        )
        return down_through(self.layers[1:], k, back)

    def curvature(self, at: Point, layer: PlacedLayer) -> FloatArray:
        """Return the second derivative of an activation, in the shape of its output."""
        if not self._bends(layer):
            return np.zeros(layer.output_shape)
        return np.asarray(formulas(layer.activation).slope(at.values[layer.index + 1]) * at.slopes[layer.index])

    def _bends(self, layer: PlacedLayer) -> bool:
        return layer.index not in self.fixed and not is_piecewise_linear(layer.activation)

    def _up(self, at: Point, dx: FloatArray, along: Parameters) -> list[FloatArray]:
        """Return how the input and every layer's output move with the input, and along a direction of the parameters.

        All with a last axis for several; `along` with one of length 1.
        """

        def bilinear(layer: PlacedLayer, dh: FloatArray) -> FloatArray:
            dz = trilinear.forward(layer, self.parameters[layer.weight_name], dh)
            if layer.weight_name in along:
                dz += trilinear.forward(layer, along[layer.weight_name][..., 0], at.values[layer.index])[..., None]
            if layer.bias_name in along:
                dz += along[layer.bias_name].reshape(-1, *(1,) * len(layer.outputs), 1)
            return dz

        def activation(layer: PlacedLayer, dz: FloatArray) -> FloatArray:
            return at.slopes[layer.index][..., None] * dz

        def reshape(layer: PlacedLayer, dh: FloatArray) -> FloatArray:
            return dh.reshape(*layer.output_shape, dh.shape[-1])

        return up(self.layers, dx, Rules(activation=activation, reshape=reshape, bilinear=bilinear))

    def _down(
        self, at: Point, dh: list[FloatArray], along: Parameters, layers: tuple[PlacedLayer, ...]
    ) -> list[FloatArray | None]:
        """Return how the gradient moves that arrives at the input of each layer, and last at the output of `start`.

        `None` stands for not at all.
        """

        def bilinear(layer: PlacedLayer, dk: FloatArray | None) -> FloatArray | None:
            moved = None if dk is None else trilinear.input_gradient(layer, self.parameters[layer.weight_name], dk)
            if layer.weight_name in along:
                own = trilinear.input_gradient(layer, along[layer.weight_name][..., 0], at.k[layer.index])[..., None]
                moved = own if moved is None else moved + own
            return moved

        def activation(layer: PlacedLayer, dk: FloatArray | None) -> FloatArray | None:
            d = at.slopes[layer.index]
            passed = None if dk is None else d[..., None] * dk
            if not self._bends(layer):
                return passed
            bent = (self.curvature(at, layer) * at.k[layer.index])[..., None] * dh[layer.index]
            return bent if passed is None else passed + bent

        def reshape(layer: PlacedLayer, dk: FloatArray | None) -> FloatArray | None:
            return None if dk is None else dk.reshape(*layer.input_shape, dk.shape[-1])

        rules = Rules[FloatArray | None](activation=activation, reshape=reshape, bilinear=bilinear)
        return down_through(layers, None, rules)
