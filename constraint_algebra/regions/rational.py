"""The map of the whole network at a pattern, over the rationals: nothing is rounded, and no tolerance decides.

For small networks whose weights and inputs are rational, with activations that are linear in pieces (ReLU, LeakyReLU,
Hardtanh, ReLU6, Identity), forward pass, backward pass and null space are exact (FLINT). At the pattern of one input
and for given gradients k at the network's output the rows are

    A_l(k_l) M_l    for every layer l with a weight and every k
    M_out           the network's output, which keeps k

Layers are taken one after the other, each on what those before it left open, until nothing is left or until a layer of
one output position gives its whole input, of which everything above is a function.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeVar

import flint
import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray, ParametersLike
from constraint_algebra.equations.systems import gradient_block, weight_equations
from constraint_algebra.errors import LayerProblem, ParameterError, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.activations import Hardtanh, LeakyReLU, ReLU, is_piecewise_linear
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.layers.normalisation import Standardise
from constraint_algebra.networks.activation_pattern import first_layer
from constraint_algebra.networks.network import Network, named
from constraint_algebra.networks.placing import is_link
from constraint_algebra.networks.walk import Rules, down_through, up
from constraint_algebra.numerics.rational import (
    Rationals,
    columns_of,
    fmpqs,
    fraction,
    from_columns,
    matrix_of,
    null_space,
    orthonormal,
    row_basis,
    times,
)
from constraint_algebra.ranks.whole_map import RATIONALS, RowsOfLayer, WholeMap

Number = TypeVar("Number")  # Fraction, or FLINT's fmpq: the same numbers, faster in matrices
LARGEST = 600  # unknowns; rational elimination grows fast
ENTRIES = 2**21  # of a dense matrix at a time
DRAWN = 2**31  # output gradients are drawn from -DRAWN to DRAWN - 1


class Inequality(NamedTuple):
    """What keeps one activation on its side: `row · w <= slack` for coordinates w in the kernel, `<` where strict."""

    row: dict[int, Fraction]
    slack: Fraction
    strict: bool


@dataclass(frozen=True, eq=False)
class Kernel:
    """The null space of the whole map.

    Attributes:
        basis: its vectors, a unit matrix at the unknowns `free`.
        free: one unknown for each vector.
        layers: rows and rank, layer by layer.
    """

    basis: list[Rationals]
    free: list[int]
    layers: tuple[RowsOfLayer, ...]


def rational_map(
    network: Network,
    parameters: ParametersLike,
    input: ArrayLike,  # noqa: A002 -- the word for it
    target_gradient: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> WholeMap:
    """Return rank, kernel and determined values of the whole map in the region of an input, proven without tolerance.

    The output gradient of cross-entropy is not rational. Without a `target_gradient` the rank is the one at almost all
    output gradients, of sum zero where there are two or more outputs as for cross-entropy: whole numbers of 32 bits are
    drawn, and `error` bounds the probability that these give less (a minor of the rows is a polynomial in them).

    Args:
        network: a chain of convolutions and linear layers with activations that are linear in pieces.
        parameters: numbers by PyTorch's names, each taken exactly: `Fraction`, integers, floats as the dyadic numbers
            that they are.
        input: one sample, likewise.
        target_gradient: gradient of the loss with respect to the network's output, in the output's shape, likewise.
        seed: of the output gradient that is drawn.

    Raises:
        UnsupportedLayerError: an activation that is not linear in pieces, or one before the first layer with a weight.
        ShapeError, ParameterError: values that do not fit, or more unknowns than elimination takes on.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear
    >>> net = Network((1, 4), [Conv1d(2, 2, stride=2), Conv1d(1, 1), Flatten(), Linear(2)])
    >>> values = {"0.weight": [[[1, 2]], [[3, 4]]], "0.bias": [0, 0], "1.weight": [[[1], [1]]], "1.bias": [0]}
    >>> values |= {"3.weight": [[1, 2], [3, 4]], "3.bias": [0, 0]}
    >>> found = rational_map(net, values, [[0, 1, 2, 3]], [1, -1])  # both filters have one k
    >>> found.rank, found.determined
    (3, array([[False, False, False, False]]))
    """
    check(network)
    W, x = bound(network, parameters), rationals(input, network.input_shape, "input")
    values, outputs = forward(network, W, x), math.prod(network.output_shape)
    error = 0.0
    if target_gradient is not None:
        k = rationals(target_gradient, network.output_shape, "target_gradient")
    else:
        drawn = np.random.default_rng(seed).integers(-DRAWN, DRAWN, max(outputs - 1, 1)).tolist()
        k = [Fraction(value) for value in ([*drawn, -sum(drawn)] if outputs > 1 else drawn)]
        error = len(x) / (2 * DRAWN)
    constant_open = outputs > 1 and sum(k) == 0
    found = kernel(network, W, values, [k], constant_open=constant_open)
    kinks = any(layer.is_activation and sides(layer.activation, Fraction(0)) for layer in network.layers)
    return WholeMap(
        determined=fixed(found.basis, len(x)).reshape(network.input_shape),
        rank=len(x) - len(found.basis),
        linear=True,
        arithmetic=RATIONALS,
        layers=found.layers,
        pattern="every activation on the side of its kink where it works at this input" if kinks else "",
        error=error,
        basis=orthonormal(found.basis, len(x)),
    )


def check(network: Network) -> None:
    """Refuse networks that rational arithmetic does not take on."""
    if not network.is_chain:
        raise UnsupportedLayerError([_beyond_a_chain(network)])
    layer = first_layer(network)
    if layer.unknowns > LARGEST:
        raise ShapeError(
            f"exact elimination takes up to {LARGEST} unknowns, got {layer.unknowns}; use indistinguishable, or"
            " whole_map in float64"
        )
    problems = [
        LayerProblem(placed.name, f"{placed.kind} has no rational values", "use indistinguishable, in float64")
        for placed in network.layers
        if placed.is_activation and not is_piecewise_linear(placed.activation)
    ]
    if problems:
        raise UnsupportedLayerError(problems)


def _beyond_a_chain(network: Network) -> LayerProblem:
    """Return the first layer that no plain chain of convolutions, linear layers and activations has."""
    advice = "take whole_map in float64, or from shapes alone, modulo a prime and with no tolerance either"
    layer = next(x for x in network.layers if not is_link(x))
    divides = isinstance(layer.layer, Standardise) or layer.is_normalisation
    roots = ", and normalisation divides by a root, which is not rational" if divides else ""
    return LayerProblem(layer.name, f"{layer.kind}: rational arithmetic takes plain chains only{roots}", advice)


def bound(network: Network, parameters: ParametersLike) -> dict[str, Rationals]:
    """Return every parameter as a flat list, by name."""
    given = named(network, parameters, "parameters")
    return {name: rationals(given[name], shape, name) for name, shape in network.parameter_shapes.items()}


def rationals(values: ArrayLike, shape: tuple[int, ...], what: str) -> Rationals:
    """Return numbers as a flat list, each taken exactly; refuse another shape, and what is no finite number."""
    array = np.asarray(values, dtype=object)
    if array.shape != shape:
        raise ShapeError(f"{what} must have shape {shape}, got {array.shape}")
    try:
        return [Fraction(value) for value in array.ravel()]
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(what, f"{what}: every value must be a finite rational number ({error})") from error


def forward(network: Network, parameters: Mapping[str, Rationals], x: Rationals) -> list[Rationals]:
    """Return the input and the output of every layer."""

    def bilinear(layer: PlacedLayer, x: Rationals) -> Rationals:
        y = times(rows(weight_equations(layer).pattern, parameters[layer.weight_name]), x)
        if layer.bias_name is None:
            return y
        bias, each = parameters[layer.bias_name], len(y) // layer.filters
        return [value + bias[i // each] for i, value in enumerate(y)]

    rules = Rules[Rationals](
        activation=lambda layer, x: [piece(layer.activation, z)[0] for z in x],
        reshape=lambda _, x: x,
        bilinear=bilinear,
    )
    return up(network.layers, x, rules)


def output_gradients(
    network: Network, parameters: Mapping[str, Rationals], values: list[Rationals], at_output: Rationals
) -> list[Rationals]:
    """Return the gradient at the output of every layer for one at the output of the network."""

    def activation(layer: PlacedLayer, k: Rationals) -> Rationals:
        return [piece(layer.activation, z)[1] * value for z, value in zip(values[layer.index], k, strict=True)]

    def bilinear(layer: PlacedLayer, k: Rationals) -> Rationals:
        found = [Fraction(0)] * layer.unknowns
        for row, value in zip(rows(weight_equations(layer).pattern, parameters[layer.weight_name]), k, strict=True):
            if value:
                for j, c in row.items():
                    found[j] += c * value
        return found

    return down_through(network.layers[1:], at_output, Rules(activation, lambda _, k: k, bilinear))


def unit_vectors(size: int) -> Iterator[Rationals]:
    """Yield every unit vector: gradients that agree for each in the place of the loss's agree for every loss."""
    for unit in range(size):
        yield [Fraction(int(i == unit)) for i in range(size)]


def piece(activation: Activation, z: Fraction) -> tuple[Fraction, Fraction]:
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


def sides(activation: Activation, z: Fraction) -> list[tuple[int, Fraction, bool]]:
    """Return how far z may move until its slope is another: sign, distance, and whether it must stay short of it.

    A kink belongs to the flat side, where `piece` takes the slope.
    """
    if isinstance(activation, Hardtanh):
        low, high = Fraction(activation.low), Fraction(activation.high)
        if low < z < high:
            return [(-1, z - low, True), (1, high - z, True)]
        return [(1, low - z, False)] if z <= low else [(-1, z - high, False)]
    if isinstance(activation, ReLU | LeakyReLU):
        return [(-1, z, True)] if z > 0 else [(1, -z, False)]
    return []


def kernel(
    network: Network,
    parameters: Mapping[str, Rationals],
    values: list[Rationals],
    at_output: Sequence[Rationals],
    *,
    constant_open: bool = False,
) -> Kernel:
    """Return the null space of the whole map for some gradients at the network's output, all of them together.

    Args:
        network: the network.
        parameters: flat lists by name.
        values: what `forward` returned.
        at_output: gradients at the network's output.
        constant_open: whether the output may move by one number at all entries, as cross-entropy does not notice.
    """
    ks = [output_gradients(network, parameters, values, k) for k in at_output]
    unknowns, found = first_layer(network).unknowns, list[RowsOfLayer]()
    N, H, free = flint.fmpq_mat(0, 0), None, list(range(unknowns))  # no H stands for the unit matrix
    for layer in network.layers:
        if layer.is_bilinear:
            k = [fmpqs(of_all[layer.index]) for of_all in ks]
            by_group = [_echelon(layer, group, k) for group in range(layer.groups)]
            if H is None:
                N, kept = _by_channel(layer, by_group)
                H = N
            else:
                N, H, kept = _reduced(_through(layer, by_group, H), N, H)
            free = [free[j] for j in kept]
            found.append(RowsOfLayer(layer.name, len(k) * math.prod(layer.weight_shape), unknowns - len(free)))
            if not free or _gives_its_input(layer, k):
                return Kernel(columns_of(N), free, tuple(found))
        if H is not None:
            H = _pushed(layer, parameters, values, H)
    assert H is not None  # there is a first layer
    output = _differences(H) if constant_open else H
    N, _, kept = _reduced(output, N, H)
    found.append(RowsOfLayer("output", output.nrows(), unknowns - len(kept)))
    return Kernel(columns_of(N), [free[j] for j in kept], tuple(found))


def inequalities(
    network: Network, parameters: Mapping[str, Rationals], values: list[Rationals], basis: list[Rationals]
) -> list[Inequality]:
    """Return what keeps every activation on its side along the kernel: of each output that the kernel moves."""
    if not basis:
        return []
    H = from_columns(basis, len(basis[0]))
    found = []
    for layer in network.layers:
        if layer.is_activation:
            for i, z in enumerate(values[layer.index]):
                row = {j: fraction(H[i, j]) for j in range(len(basis)) if H[i, j] != 0}
                for sign, slack, strict in sides(layer.activation, z) if row else ():
                    found.append(Inequality({j: sign * c for j, c in row.items()}, slack, strict))
        H = _pushed(layer, parameters, values, H)
    return found


def fixed(basis: list[Rationals], unknowns: int) -> BoolArray:
    """Return which unknowns every vector leaves alone."""
    return np.array([not any(vector[j] for vector in basis) for j in range(unknowns)])


def rows(pattern: sp.csr_array, coefficients: Sequence[Number]) -> list[dict[int, Number]]:
    """Return the rows of a pattern of coefficient numbers for exact coefficients, zeros left out."""
    return [
        {
            int(j): coefficients[number - 1]
            for j, number in zip(pattern.indices[a:b], pattern.data[a:b], strict=True)
            if coefficients[number - 1]
        }
        for a, b in zip(pattern.indptr[:-1], pattern.indptr[1:], strict=True)
    ]


def _gives_its_input(layer: PlacedLayer, k: list[list[flint.fmpq]]) -> bool:
    """Whether the rows of a layer give all of its input that its output depends on: `k x` for one position."""
    each = layer.filters // layer.groups
    return math.prod(layer.outputs) == 1 and all(
        any(of_one[f] != 0 for of_one in k for f in range(group * each, group * each + each))
        for group in range(layer.groups)
    )


def _echelon(layer: PlacedLayer, group: int, ks: list[list[flint.fmpq]]) -> flint.fmpq_mat:
    """Return the reduced rows of `A` for one channel of a group, over all output gradients: the same rows span."""
    block = gradient_block(layer, group)
    return row_basis(matrix_of([row for k in ks for row in rows(block, k) if row], block.shape[1]))


def _by_channel(layer: PlacedLayer, by_group: list[flint.fmpq_mat]) -> tuple[flint.fmpq_mat, list[int]]:
    """Return the null space of the first layer's rows, which are the same for every channel of a group."""
    spaces, each = [null_space(R) for R in by_group], layer.channels // layer.groups
    entries: list[tuple[int, int, flint.fmpq]] = []
    free: list[int] = []
    for channel in range(layer.channels):
        (K, kept), at = spaces[channel // each], channel * by_group[0].ncols()
        entries += [(at + i, len(free) + j, K[i, j]) for i in range(K.nrows()) for j in range(len(kept))]
        free += [at + j for j in kept]
    N = flint.fmpq_mat(layer.unknowns, len(free))
    for i, j, value in entries:
        N[i, j] = value
    return N, free


def _through(layer: PlacedLayer, by_group: list[flint.fmpq_mat], H: flint.fmpq_mat) -> flint.fmpq_mat:
    """Return the rows of all channels in the coordinates of the null space so far."""
    positions, each, d = by_group[0].ncols(), layer.channels // layer.groups, H.ncols()
    entries, found = H.entries(), list[flint.fmpq]()
    for channel in range(layer.channels):
        part = entries[channel * positions * d : (channel + 1) * positions * d]
        found += (by_group[channel // each] * flint.fmpq_mat(positions, d, part)).entries()
    return flint.fmpq_mat(len(found) // d, d, found)


def _reduced(
    G: flint.fmpq_mat, N: flint.fmpq_mat, H: flint.fmpq_mat
) -> tuple[flint.fmpq_mat, flint.fmpq_mat, list[int]]:
    """Return the null space and what it does to a layer's input, both restricted to where further rows are zero."""
    K, kept = null_space(G)
    return (N, H, kept) if len(kept) == N.ncols() else (N * K, H * K, kept)


def _pushed(
    layer: PlacedLayer, parameters: Mapping[str, Rationals], values: list[Rationals], H: flint.fmpq_mat
) -> flint.fmpq_mat:
    """Return how a layer's output moves where its input moves by the columns of H."""
    d = H.ncols()
    if layer.is_bilinear:
        B = rows(weight_equations(layer).pattern, fmpqs(parameters[layer.weight_name]))
        step = max(1, ENTRIES // H.nrows())
        parts = [(matrix_of(B[a : a + step], H.nrows()) * H).entries() for a in range(0, len(B), step)]
        return flint.fmpq_mat(len(B), d, [value for part in parts for value in part])
    if layer.is_activation:
        slopes = fmpqs(piece(layer.activation, z)[1] for z in values[layer.index])
        return flint.fmpq_mat(H.nrows(), d, [slopes[i // d] * value for i, value in enumerate(H.entries())])
    return H


def _differences(H: flint.fmpq_mat) -> flint.fmpq_mat:
    """Return every row but the first less the first."""
    return flint.fmpq_mat(
        H.nrows() - 1, H.ncols(), [H[i, j] - H[0, j] for i in range(1, H.nrows()) for j in range(H.ncols())]
    )
