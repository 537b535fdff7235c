"""What keeps every activation on its side: how far its input may move, as inequalities in the network's input.

On one side of all kinks a chain of activations is a line, so that an output of a layer decides alone on which side the
activations behind it work. PyTorch counts a value on a kink to the flat or lower side, which it has no room to leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from constraint_algebra import memory
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.errors import LayerProblem, UnsupportedLayerError
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import formulas, is_piecewise_linear
from constraint_algebra.layers.formula import Formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.activation_pattern import activation_pattern
from constraint_algebra.networks.network import Network, chain_rule
from constraint_algebra.networks.walk import Rules, down, up
from constraint_algebra.numerics.rows import row_norms

STILL = 1e-12  # rows whose part in the kernel is a smaller share of them cannot move
CHUNK = 256  # rows at a time
PROBES = 12  # random directions that estimate the norms of rows
BYTES = 12  # of an entry of a sparse row

Room = tuple[
    FloatArray, FloatArray
]  # how far each output of a layer may fall and rise, infinite where it does not matter


@dataclass(frozen=True, eq=False)
class Inequalities:
    """Inequalities `rows n <= slack` for differences n of the input that lie in a kernel.

    Attributes:
        rows: sparse, over the flat input, each of unit norm.
        slack: how far the anchor is from each edge, along its row.
        reduced: the rows in the coordinates of the kernel, `(rows, nullity)`.
    """

    rows: sp.csr_array
    slack: FloatArray
    reduced: FloatArray


def bends(network: Network, layer: PlacedLayer) -> bool:
    """Whether an activation that is not linear in pieces follows a layer, before the next one with a weight."""
    return any(bends_itself(x) for x in network.after(layer))


def bends_itself(layer: PlacedLayer) -> bool:
    """Whether what a layer makes is not linear in pieces: by an activation that bends, or by its own statistics."""
    return layer.is_normalisation or (layer.is_activation and not is_piecewise_linear(layer.activation))


def refuse_bent_below(network: Network, first: PlacedLayer) -> None:
    """Refuse a network of which the first layer with a weight reads what bends with the input: no set is left."""
    below, todo = set[int](), [*first.inputs]
    while todo:
        number = todo.pop()
        if number and number not in below:
            below.add(number)
            todo += network.layers[number - 1].inputs
    bent = next((layer for layer in network.layers if layer.number in below and bends_itself(layer)), None)
    if bent is not None:
        reason = f"{bent.kind} before the first layer with a weight bends the set of inputs"
        advice = f"certify the network from layer {first.name!r} on, with what that reads for its input"
        raise UnsupportedLayerError([LayerProblem(bent.name, reason, advice)])


def tangents(parameters: Mapping[str, FloatArray], values: Sequence[FloatArray]) -> Rules[FloatArray]:
    """Return the rules by which directions of the input come up, several at once along a last axis.

    Args:
        parameters: parameter values by name.
        values: what `Network.forward` returned.
    """
    return Rules(
        activation=lambda layer, d: formulas(layer.activation).derivative(values[layer.index + 1])[..., None] * d,
        reshape=lambda layer, d: d.reshape(*layer.output_shape, d.shape[-1]),
        bilinear=lambda layer, d: trilinear.forward(layer, parameters[layer.weight_name], d),
    )


def room(network: Network, values: Sequence[FloatArray], layer: PlacedLayer) -> Room:
    """Return how far each output of a layer may fall and rise until an activation behind it changes its side.

    Where an activation that is not linear in pieces follows, outputs that pass are to stay as they are, and only the
    cut-offs count.

    >>> from constraint_algebra.layers import Hardtanh, Linear, ReLU
    >>> net = Network((3,), [Linear(3, bias=False), ReLU(), Hardtanh(-1.0, 1.0), Linear(1)])
    >>> room(net, net.forward({"0.weight": np.eye(3), "3.weight": np.ones((1, 3)), "3.bias": np.zeros(1)},
    ...                       np.array([-0.5, 0.25, 3.0])), net[0])
    (array([ inf, 0.25, 2.  ]), array([0.5 , 0.75,  inf]))
    """
    z = values[layer.index + 1]
    if bends(network, layer):
        _, side, cut_off = activation_pattern(network, list(values), layer)
        return np.where(side < 0, z - cut_off, np.inf), np.where(side > 0, cut_off - z, np.inf)
    fall: FloatArray = np.full(z.shape, np.inf)
    rise: FloatArray = fall
    slope: FloatArray = np.ones(z.shape)
    for later in network.after(layer):
        shape = later.output_shape
        fall, rise, slope = fall.reshape(shape), rise.reshape(shape), slope.reshape(shape)
        if not later.is_activation:
            continue
        f, at = formulas(later.activation), values[later.index]
        moves = slope > 0  # what an earlier activation cut off never arrives here
        for edge, below in _edges(f, at):
            away: FloatArray = np.where(moves, np.abs(edge - at) / np.where(moves, slope, 1.0), np.inf)
            rise = np.where(below, np.minimum(rise, away), rise)
            fall = np.where(below, fall, np.minimum(fall, away))
        slope = slope * f.derivative(values[later.index + 1])
    return fall.reshape(z.shape), rise.reshape(z.shape)


def inequalities(
    network: Network,
    parameters: Mapping[str, FloatArray],
    values: Sequence[FloatArray],
    layers: Sequence[PlacedLayer],
    basis: FloatArray,
    bounds: tuple[FloatArray, FloatArray],
) -> Inequalities:
    """Return what keeps all activations behind some layers on their sides, for differences in the span of a basis.

    Outputs that do not move there need no inequality, nor do those that no difference within the bounds carries to an
    edge.

    Args:
        network: the network.
        parameters: parameter values by name.
        values: what `Network.forward` returned.
        layers: the layers with a weight, in order from the first on.
        basis: orthonormal columns, `(unknowns, nullity)`.
        bounds: smallest and largest difference of each input value, flat.

    Raises:
        MemoryLimitError: the rows are too many to be held.
    """
    n, nullity = basis.shape
    probes = np.random.default_rng(0).standard_normal((n, PROBES))
    along = np.hstack([basis, probes]).reshape(*network.input_shape, nullity + PROBES)
    parts, at = [Inequalities(sp.csr_array((0, n)), np.zeros(0), np.zeros((0, nullity)))], 0
    for layer in layers if nullity else ():
        along = up(network.layers[at : layer.index + 1], along, tangents(parameters, values))[-1]
        at = layer.index + 1
        moving = along.reshape(-1, nullity + PROBES)
        size = row_norms(moving[:, nullity:]) / np.sqrt(PROBES)
        matter = row_norms(moving[:, :nullity]) > STILL * size
        for sign, space in zip((-1.0, 1.0), room(network, values, layer), strict=True):
            chosen = np.flatnonzero(matter & np.isfinite(space.ravel()))
            for some in np.split(chosen, range(CHUNK, len(chosen), CHUNK)) if len(chosen) else ():
                rows = sign * _pulled(network, parameters, values, layer, some)
                parts.append(near(rows, space.ravel()[some], sign * moving[some, :nullity], bounds))
                memory.demand(
                    f"to keep the sides of {len(chosen):,} activations behind layer {layer.name!r}",
                    BYTES * parts[-1].rows.nnz * len(chosen) / max(len(some), 1),
                    "take a smaller input or network",
                )
    return Inequalities(
        sp.csr_array(sp.vstack([part.rows for part in parts], format="csr")),
        np.concatenate([part.slack for part in parts]),
        np.concatenate([part.reduced for part in parts]),
    )


def _edges(f: Formulas, z: FloatArray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield every kink of an activation, and which z lie below it; a z on it lies on its flat or lower side."""
    if f.kink is not None:
        yield 0.0, z <= 0
    for edge, on_edge in zip(f.plateaus, (np.less_equal, np.less), strict=False):
        yield edge, on_edge(z, edge)


def _pulled(
    network: Network,
    parameters: Mapping[str, FloatArray],
    values: Sequence[FloatArray],
    layer: PlacedLayer,
    outputs: IntArray,
) -> FloatArray:
    """Return the rows over the flat input that give some outputs of a layer, up to constants."""
    one = np.zeros((values[layer.index + 1].size, len(outputs)))
    one[outputs, np.arange(len(outputs))] = 1.0
    several = one.reshape(*layer.output_shape, len(outputs))
    return down(network.layers[: layer.index + 1], several, chain_rule(parameters, values)).reshape(-1, len(outputs)).T


def near(
    rows: FloatArray, space: FloatArray, reduced: FloatArray, bounds: tuple[FloatArray, FloatArray]
) -> Inequalities:
    """Return those inequalities that some difference within the bounds violates, of unit norm."""
    lower, upper = bounds
    farthest = np.maximum(rows, 0) @ upper + np.minimum(rows, 0) @ lower
    reached = farthest >= (1 - 1e-9) * space
    rows, norms = rows[reached], row_norms(rows[reached])
    return Inequalities(sp.csr_array(rows / norms[:, None]), space[reached] / norms, reduced[reached] / norms[:, None])
