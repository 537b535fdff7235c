"""The same certificate in exact rational arithmetic: a twin without any tolerance.

For small networks whose weights and inputs are rational, with activations that are linear in pieces (ReLU, LeakyReLU,
Hardtanh, ReLU6, Identity), forward pass, backward pass and null space are exact over the rationals (FLINT). The loss is
any function of the output: its gradient there is unknown, so that the gradients have to agree for each unit vector in
its place, and then agree for every loss and every target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import flint
import numpy as np
from numpy.typing import ArrayLike, NDArray

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, ParametersLike
from constraint_algebra.equations.systems import LinearSystem, bias_equations, gradient_equations, weight_equations
from constraint_algebra.errors import LayerProblem, ParameterError, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.activations import Hardtanh, Identity, LeakyReLU, ReLU, is_piecewise_linear
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.networks.activation_pattern import first_layer
from constraint_algebra.networks.network import Network, NetworkLike, named
from constraint_algebra.networks.walk import Rules, down_through, up

Rationals = list[Fraction]
LARGEST = 600  # unknowns; rational elimination grows fast


@dataclass(frozen=True)
class ExactTwin:
    """Two inputs whose gradients are equal as rational numbers.

    Attributes:
        original, image: both inputs, nested in the input's shape as arrays of `Fraction`.
        gradients_equal: whether all gradients of both, computed separately, are equal, for every gradient of the loss.
    """

    original: NDArray[Any]
    image: NDArray[Any]
    gradients_equal: bool

    @property
    def change(self) -> Fraction:
        """Largest absolute difference of any value."""
        return Fraction(max(abs(self.image - self.original).ravel()))


@checked
@dataclass(frozen=True, eq=False)
class ExactCertificate:
    """The indistinguishability set over the rationals, for every loss.

    Attributes:
        network: the network.
        input: x as an array of `Fraction`.
        nullity: dimension of the null space of the equations.
        fixed: which values every null vector leaves alone: no tolerance.
        valid_range: smallest and largest valid value.
    """

    network: Network
    input: NDArray[Any]
    nullity: int
    fixed: BoolArray
    valid_range: tuple[Fraction, Fraction]
    _parameters: dict[str, Rationals]
    _basis: list[Rationals]
    _free: list[int]
    _cut: list[tuple[dict[int, Fraction], Fraction]]

    def twin(self, toward: ArrayLike | None = None) -> ExactTwin | None:
        """Return a twin, or `None` where the straight way to it is blocked at once.

        Args:
            toward: differences to imitate, in the input shape, such as those of a twin in float64: their values at as
                many places as the null space has dimensions fix a null vector, which is then followed as far as the
                set reaches. By default the first null vector that leads anywhere.

        Raises:
            ShapeError: differences of another shape.
        """
        if toward is None:
            ways = [[sign * v for v in vector] for vector in self._basis for sign in (1, -1)]
            steps = [self._reach(way) for way in ways]
            best = max(range(len(ways)), key=lambda i: steps[i] * max(map(abs, ways[i])), default=None)
            return None if best is None else self._at(ways[best], steps[best])
        array = np.asarray(toward)
        if array.shape != self.input.shape:
            raise ShapeError(f"the differences must have the input's shape {self.input.shape}, got {array.shape}")
        wanted = [Fraction(array.ravel()[j].item()) for j in self._free]
        way = [
            sum((q * v[j] for q, v in zip(wanted, self._basis, strict=True)), Fraction(0)) for j in range(array.size)
        ]
        return self._at(way, min(self._reach(way), Fraction(1)))

    def _at(self, way: Rationals, step: Fraction) -> ExactTwin | None:
        if step == 0 or not any(way):
            return None
        x = list(self.input.ravel())
        twin = [a + step * n for a, n in zip(x, way, strict=True)]
        equal = exact_gradients(self.network, self._parameters, x) == exact_gradients(
            self.network, self._parameters, twin
        )
        return ExactTwin(self.input, _shaped(twin, self.input.shape), equal)

    def _reach(self, way: Rationals) -> Fraction:
        """Return the longest step along a way that keeps the range and every cut-off."""
        x, (low, high) = self.input.ravel(), self.valid_range
        limits = [(high - a) / n for a, n in zip(x, way, strict=True) if n > 0]
        limits += [(low - a) / n for a, n in zip(x, way, strict=True) if n < 0]
        for row, slack in self._cut:
            rise = sum((c * way[j] for j, c in row.items()), Fraction(0))
            if rise > 0:
                limits.append(slack / rise)
        return min(limits, default=Fraction(0))


@checked
def exact_certificate(
    network: NetworkLike,
    parameters: ParametersLike,
    input: ArrayLike,  # noqa: A002 -- the word for it
    *,
    valid_range: tuple[Any, Any] = (0, 1),
) -> ExactCertificate:
    """Return the indistinguishability set of an input over the rationals.

    Args:
        network: a chain of convolutions and linear layers with activations that are linear in pieces.
        parameters: numbers by PyTorch's names, each taken exactly: `Fraction`, integers, floats as the dyadic numbers
            that they are.
        input: one sample, likewise.
        valid_range: smallest and largest valid value.

    Raises:
        UnsupportedLayerError: an activation that is not linear in pieces, or one before the first layer with a weight.
        ShapeError, ParameterError: values that do not fit, or more unknowns than elimination takes on.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear, ReLU
    >>> net = Network((1, 4), [Conv1d(1, 2, stride=2), ReLU(), Flatten(), Linear(2, bias=False)])
    >>> third = Fraction(1, 3)
    >>> values = {"0.weight": [[[third, third]]], "0.bias": [-third], "3.weight": [[1, 2], [2, 1]]}
    >>> found = exact_certificate(net, values, [[1, third, third, third]])      # the second output is cut off
    >>> found.nullity, found.fixed
    (2, array([[ True,  True, False, False]]))
    >>> twin = found.twin()
    >>> print(*twin.image.ravel(), twin.change, twin.gradients_equal)
    1 1/3 2/3 1/3 1/3 True
    """
    assert isinstance(network, Network)  # whatever stood for it
    layer = first_layer(network)
    _check(network, layer)
    x, (low, high) = _rationals(input, network.input_shape, "input"), _rationals(valid_range, (2,), "valid_range")
    if not all(low <= value <= high for value in x):
        raise ParameterError("input", f"the input must lie between {low} and {high}; pass valid_range")
    given = named(network, parameters, "parameters")
    W = {name: _rationals(given[name], shape, name) for name, shape in network.parameter_shapes.items()}
    values = _forward(network, W, x)
    B = _rows(weight_equations(layer), W[layer.weight_name])
    passing, cut = _pattern(network, values, layer, B)
    rows = [B[r] for r in passing]
    for k in _output_gradients(network, W, values):
        rows += _rows(gradient_equations(layer), k[layer.index])
    basis, free = _null_space(rows, len(x))
    fixed = np.array([not any(vector[j] for vector in basis) for j in range(len(x))])
    return ExactCertificate(
        network=network,
        input=_shaped(x, network.input_shape),
        nullity=len(basis),
        fixed=fixed.reshape(network.input_shape),
        valid_range=(low, high),
        _parameters=W,
        _basis=basis,
        _free=free,
        _cut=cut,
    )


def exact_gradients(network: Network, parameters: Mapping[str, Rationals], x: Rationals) -> list[dict[str, Rationals]]:
    """Return the gradient of every parameter for each output of the network in the place of the loss.

    Args:
        network: the network.
        parameters: flat lists of `Fraction` by name.
        x: the input, a flat list.
    """
    values, found = _forward(network, parameters, x), []
    for k in _output_gradients(network, parameters, values):
        gradients: dict[str, Rationals] = {}
        for layer in network.bilinear:
            gradients[layer.weight_name] = _weight_gradient(layer, k[layer.index], values[layer.index])
            if layer.bias_name is not None:
                gradients[layer.bias_name] = _times(_rows(bias_equations(layer), [Fraction(1)]), k[layer.index])
        found.append(gradients)
    return found


def _weight_gradient(layer: PlacedLayer, k: Rationals, x: Rationals) -> Rationals:
    """Return dL/dW flat, each output's share added where the weight equation has the weight."""
    p, found = weight_equations(layer).pattern, [Fraction(0)] * math.prod(layer.weight_shape)
    for row, value in enumerate(k):
        if value:
            for place in range(p.indptr[row], p.indptr[row + 1]):
                found[p.data[place] - 1] += value * x[p.indices[place]]
    return found


def _forward(network: Network, parameters: Mapping[str, Rationals], x: Rationals) -> list[Rationals]:
    """Return the input and the output of every layer."""

    def bilinear(layer: PlacedLayer, x: Rationals) -> Rationals:
        y = _times(_rows(weight_equations(layer), parameters[layer.weight_name]), x)
        if layer.bias_name is None:
            return y
        bias, each = parameters[layer.bias_name], len(y) // layer.filters
        return [value + bias[i // each] for i, value in enumerate(y)]

    rules = Rules[Rationals](
        activation=lambda layer, x: [_piece(layer.activation, z)[0] for z in x],
        reshape=lambda _, x: x,
        bilinear=bilinear,
    )
    return up(network.layers, x, rules)


def _output_gradients(
    network: Network, parameters: Mapping[str, Rationals], values: list[Rationals]
) -> Iterator[list[Rationals]]:
    """Yield for each output of the network, in the place of the loss, the gradients at the output of every layer."""

    def activation(layer: PlacedLayer, k: Rationals) -> Rationals:
        return [_piece(layer.activation, z)[1] * value for z, value in zip(values[layer.index], k, strict=True)]

    def bilinear(layer: PlacedLayer, k: Rationals) -> Rationals:
        found = [Fraction(0)] * layer.unknowns
        for row, value in zip(_rows(weight_equations(layer), parameters[layer.weight_name]), k, strict=True):
            if value:
                for j, c in row.items():
                    found[j] += c * value
        return found

    rules, size = Rules[Rationals](activation, lambda _, k: k, bilinear), len(values[-1])
    for unit in range(size):
        yield down_through(network.layers[1:], [Fraction(int(i == unit)) for i in range(size)], rules)


def _piece(activation: Activation, z: Fraction) -> tuple[Fraction, Fraction]:
    """Return value and slope of an activation; at a kink the slope that PyTorch takes, that of the flat side."""
    match activation:
        case ReLU():
            return (z, Fraction(1)) if z > 0 else (Fraction(0), Fraction(0))
        case LeakyReLU(slope):
            return (z, Fraction(1)) if z > 0 else (Fraction(slope) * z, Fraction(slope))
        case Hardtanh(low, high):
            inside = low < z < high
            return (z, Fraction(1)) if inside else (Fraction(low) if z <= low else Fraction(high), Fraction(0))
    return z, Fraction(1)


def _pattern(
    network: Network, values: list[Rationals], layer: PlacedLayer, B: list[dict[int, Fraction]]
) -> tuple[list[int], list[tuple[dict[int, Fraction], Fraction]]]:
    """Return the outputs that pass, and for those cut off their rows and slacks: `row · n <= slack`."""
    activation = next((after.activation for after in network.after(layer) if after.is_activation), Identity())
    levels: tuple[Any, ...] = ()
    if isinstance(activation, ReLU):
        levels = (0,)
    elif isinstance(activation, Hardtanh):
        levels = (activation.low, activation.high)
    passing, cut = [], []
    for r, z in enumerate(values[layer.index + 1]):
        if levels and z <= levels[0]:
            cut.append((B[r], Fraction(levels[0]) - z))
        elif len(levels) > 1 and z >= levels[1]:
            cut.append(({j: -c for j, c in B[r].items()}, z - Fraction(levels[1])))
        else:
            passing.append(r)
    return passing, cut


def _null_space(rows: list[dict[int, Fraction]], unknowns: int) -> tuple[list[Rationals], list[int]]:
    """Return a basis with a unit matrix at the free unknowns, and these."""
    matrix = flint.fmpq_mat(max(len(rows), 1), unknowns)
    for i, row in enumerate(rows):
        for j, value in row.items():
            matrix[i, j] = flint.fmpq(value.numerator, value.denominator)
    reduced, rank = matrix.rref()
    pivots: list[int] = []
    for i in range(rank):
        start = pivots[-1] + 1 if pivots else 0
        pivots.append(next(j for j in range(start, unknowns) if reduced[i, j] != 0))
    free = [j for j in range(unknowns) if j not in set(pivots)]
    basis = []
    for j in free:
        vector = [Fraction(0)] * unknowns
        vector[j] = Fraction(1)
        for i, pivot in enumerate(pivots):
            entry = reduced[i, j]
            vector[pivot] = -Fraction(int(entry.p), int(entry.q))
        basis.append(vector)
    return basis, free


def _rows(system: LinearSystem, coefficients: Sequence[Fraction]) -> list[dict[int, Fraction]]:
    """Return the rows of a system for exact coefficients, zeros left out."""
    p = system.pattern
    return [
        {
            int(j): coefficients[number - 1]
            for j, number in zip(p.indices[a:b], p.data[a:b], strict=True)
            if coefficients[number - 1]
        }
        for a, b in zip(p.indptr[:-1], p.indptr[1:], strict=True)
    ]


def _times(rows: list[dict[int, Fraction]], x: Rationals) -> Rationals:
    return [sum((c * x[j] for j, c in row.items()), Fraction(0)) for row in rows]


def _rationals(values: ArrayLike, shape: tuple[int, ...], what: str) -> Rationals:
    array = np.asarray(values, dtype=object)
    if array.shape != shape:
        raise ShapeError(f"{what} must have shape {shape}, got {array.shape}")
    try:
        return [Fraction(value) for value in array.ravel()]
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(what, f"{what}: every value must be a finite rational number ({error})") from error


def _shaped(values: Rationals, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.array(values, dtype=object).reshape(shape)


def _check(network: Network, layer: PlacedLayer) -> None:
    if layer.unknowns > LARGEST:
        raise ShapeError(
            f"exact elimination takes up to {LARGEST} unknowns, got {layer.unknowns}; use indistinguishable"
        )
    problems = [
        LayerProblem(placed.name, f"{placed.kind} has no rational values", "use indistinguishable, in float64")
        for placed in network.layers
        if placed.is_activation and not is_piecewise_linear(placed.activation)
    ]
    several = [a for a in network.after(layer) if a.is_activation][1:]
    problems += [LayerProblem(a.name, "a second activation follows the first", "merge them into one") for a in several]
    if problems:
        raise UnsupportedLayerError(problems)
