"""What keeps all gradients in one region, in exact rational arithmetic: twins and fixed values without a tolerance.

For small networks whose weights and inputs are rational, with activations that are linear in pieces. The loss is any
function of the output: its gradient there is unknown, so that the gradients have to agree for each unit vector in its
place, and then agree for every loss and every target. The equations are those of the whole network (`regions.rational`)
at the pattern of the input, so that a twin may change the first layer's outputs too; the inequalities of every
activation with a kink keep the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, ParametersLike
from constraint_algebra.equations.systems import bias_equations, weight_equations
from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.chains import demand_chain
from constraint_algebra.networks.network import Network, NetworkLike
from constraint_algebra.numerics.rational import Rationals, times
from constraint_algebra.regions import rational
from constraint_algebra.regions.rational import Inequality

ELSE = "indistinguishable and certify take it, in float64, with the real gradients of every twin"
INSIDE = Fraction(1023, 1024)  # of the way to where a side ends that does not belong to it


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
    """The indistinguishability set over the rationals, for every loss, within the activation region of the input.

    All inputs of the region with the same gradients for every loss differ from the input by null vectors, and by no
    others; of other regions nothing is said, nor of what the gradients of a single loss leave open besides.

    Attributes:
        network: the network.
        input: x as an array of `Fraction`.
        nullity: dimension of the null space of the equations of the whole network.
        fixed: which values are fixed in the region: every input there with the same gradients for every loss has them.
            Every null vector leaves them alone: a proof without tolerance.
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
    _sides: list[Inequality]

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
            ways = [{j: Fraction(sign)} for j in range(self.nullity) for sign in (1, -1)]
            steps = [self._reach(way) for way in ways]
            best = max(range(len(ways)), key=lambda i: steps[i] * max(map(abs, self._along(ways[i]))), default=None)
            return None if best is None else self._at(ways[best], steps[best])
        array = np.asarray(toward)
        if array.shape != self.input.shape:
            raise ShapeError(f"the differences must have the input's shape {self.input.shape}, got {array.shape}")
        way = {place: Fraction(array.ravel()[j].item()) for place, j in enumerate(self._free)}
        return self._at(way, min(self._reach(way), Fraction(1)))

    def _along(self, way: Mapping[int, Fraction]) -> Rationals:
        """Return the null vector with given coordinates in the basis, zeros left out."""
        found = [Fraction(0)] * self.input.size
        for place, share in way.items():
            if share:
                found = [a + share * n for a, n in zip(found, self._basis[place], strict=True)]
        return found

    def _at(self, way: Mapping[int, Fraction], step: Fraction) -> ExactTwin | None:
        if step == 0 or not any(way.values()):
            return None
        x = list(self.input.ravel())
        twin = [a + step * n for a, n in zip(x, self._along(way), strict=True)]
        equal = exact_gradients(self.network, self._parameters, x) == exact_gradients(
            self.network, self._parameters, twin
        )
        return ExactTwin(self.input, _shaped(twin, self.input.shape), equal)

    def _reach(self, way: Mapping[int, Fraction]) -> Fraction:
        """Return how far along a way the range is kept, and the side of every activation."""
        vector, x, (low, high) = self._along(way), self.input.ravel(), self.valid_range
        limits = [((high if n > 0 else low) - a) / n for a, n in zip(x, vector, strict=True) if n]
        short: list[Fraction] = []
        for side in self._sides:
            rise = sum((c * way[j] for j, c in side.row.items() if j in way), Fraction(0))
            if rise > 0:
                (short if side.strict else limits).append(side.slack / rise)
        last = min(limits, default=Fraction(0))
        return last if all(last < end for end in short) else min(short) * INSIDE


@checked
def exact_certificate(
    network: NetworkLike,
    parameters: ParametersLike,
    input: ArrayLike,  # noqa: A002 -- the word for it
    *,
    valid_range: tuple[Any, Any] = (0, 1),
) -> ExactCertificate:
    """Return the indistinguishability set of an input over the rationals, within its activation region.

    The equations are those of the whole network for every loss: the gradients of every layer for each unit vector in
    the place of the loss's gradient, and the network's output.

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
    demand_chain(network, "exact_certificate", ELSE)
    rational.check(network)
    x = rational.rationals(input, network.input_shape, "input")
    low, high = rational.rationals(valid_range, (2,), "valid_range")
    if not all(low <= value <= high for value in x):
        raise ParameterError("input", f"the input must lie between {low} and {high}; pass valid_range")
    W = rational.bound(network, parameters)
    values = rational.forward(network, W, x)
    found = rational.kernel(network, W, values, list(rational.unit_vectors(len(values[-1]))))
    return ExactCertificate(
        network=network,
        input=_shaped(x, network.input_shape),
        nullity=len(found.basis),
        fixed=rational.fixed(found.basis, len(x)).reshape(network.input_shape),
        valid_range=(low, high),
        _parameters=W,
        _basis=found.basis,
        _free=found.free,
        _sides=rational.inequalities(network, W, values, found.basis),
    )


def exact_gradients(network: Network, parameters: Mapping[str, Rationals], x: Rationals) -> list[dict[str, Rationals]]:
    """Return the gradient of every parameter for each output of the network in the place of the loss.

    Args:
        network: the network.
        parameters: flat lists of `Fraction` by name.
        x: the input, a flat list.
    """
    values, found = rational.forward(network, parameters, x), []
    for unit in rational.unit_vectors(len(values[-1])):
        k = rational.output_gradients(network, parameters, values, unit)
        gradients: dict[str, Rationals] = {}
        for layer in network.bilinear:
            gradients[layer.weight_name] = _weight_gradient(layer, k[layer.index], values[layer.index])
            if layer.bias_name is not None:
                gradients[layer.bias_name] = times(
                    rational.rows(bias_equations(layer).pattern, [Fraction(1)]), k[layer.index]
                )
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


def _shaped(values: Rationals, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.array(values, dtype=object).reshape(shape)
