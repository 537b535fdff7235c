"""The rank of the Jacobian of all gradients of a graph, where output gradients move with the input.

They do where an activation bends, and below a normalisation by the data's own statistics, whose cotangent map is made
of the values. The differences of all values are carried up, then those of the output gradients down: see `curved`. What
a client's buffers say of the statistics of a group, its mean and variance, are rows as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from constraint_algebra.arrays import FloatArray, RealArray
from constraint_algebra.layers.activations import PReLU, is_piecewise_linear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.own_statistics import OwnStatistics
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.condensed_rows import condensed
from constraint_algebra.numerics.modular import PRIME, PROBES, Echelon, multiply, residues
from constraint_algebra.ranks.modular_network import ModularNetwork
from constraint_algebra.ranks.whole_map import RowsOfLayer
from constraint_algebra.theory.composed import Composed
from constraint_algebra.theory.curved import Moving, curved_error, moving_rows


def moves(layer: PlacedLayer) -> bool:
    """Return whether gradients that a layer passes back move with what it reads, within a pattern.

    >>> from constraint_algebra.layers import OwnStatistics, ReLU, Tanh
    >>> [moves(layer.place((4,))) for layer in (ReLU(), Tanh(), OwnStatistics(1))]
    [False, True, True]
    """
    return layer.is_normalisation or (layer.is_activation and not is_piecewise_linear(layer.activation))


def shared_statistics(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the normalisations whose mean and variance a client gives away that shares its buffers after the step."""
    layers = (layer for layer in network if isinstance(layer.layer, OwnStatistics))
    return tuple(x for x in layers if x.layer.tracked and x.layer.momentum != 0)  # type: ignore[attr-defined]


def moving_limit(drawn: ModularNetwork, layers: Sequence[PlacedLayer], shared: Collection[str] = ()) -> Composed:
    """Return the rank of the Jacobian of all gradients.

    Args:
        drawn: a random network with a pattern.
        layers: those that the last of them depends on, and itself, in order; its output gradient is held fixed.
        shared: names of normalisations whose statistics are known besides.
    """
    unknowns = math.prod(drawn.network.input_shape)
    form, rows, rng = Echelon(unknowns), list[RowsOfLayer](), np.random.default_rng([drawn.seed, 9])
    for name, count, blocks in _rows(drawn, layers, shared, np.eye(unknowns)):
        for block in condensed(blocks, unknowns, rng):
            form.absorb(block)
        rows.append(RowsOfLayer(name, count, form.rank))
        if form.rank == unknowns:
            break
    if form.rank < unknowns:
        probes = form.null(residues((unknowns - form.rank, PROBES), rng))
        if any(block.any() for _, _, blocks in _rows(drawn, layers, shared, probes) for block in blocks):
            form, rows = _every_row(drawn, layers, shared)  # the condensed rows had too small a rank
    determined = form.determined(np.random.default_rng([drawn.seed, 3])).reshape(drawn.network.input_shape)
    return Composed(form.rank, determined, tuple(rows), moving_error(layers, form.rank))


def _every_row(
    drawn: ModularNetwork, layers: Sequence[PlacedLayer], shared: Collection[str]
) -> tuple[Echelon, list[RowsOfLayer]]:
    unknowns = math.prod(drawn.network.input_shape)
    form, rows = Echelon(unknowns), list[RowsOfLayer]()
    for name, count, blocks in _rows(drawn, layers, shared, np.eye(unknowns)):
        for block in blocks:
            form.absorb(block)
        rows.append(RowsOfLayer(name, count, form.rank))
    return form, rows


def _rows(
    drawn: ModularNetwork, layers: Sequence[PlacedLayer], shared: Collection[str], differences: FloatArray
) -> Iterator[tuple[str, int, Iterator[FloatArray]]]:
    """Yield for each layer that has some its name, the number of its rows, and these, times some differences.

    Args:
        drawn: the random network.
        layers: in order.
        shared: names of normalisations whose statistics are known besides.
        differences: of the input, `(unknowns, n)`.
    """
    n, top = differences.shape[1], layers[-1]
    by: dict[int, FloatArray] = {0: differences.reshape(*drawn.network.input_shape, n)}
    for layer in layers:
        by[layer.number] = drawn.up(layer, [by[number] for number in layer.inputs])
    moved: dict[int, FloatArray] = {top.number: np.zeros((*top.output_shape, n))}
    for layer in reversed(layers):
        arriving = moved.pop(layer.number)
        count, blocks = _rows_of(drawn, layer, by, arriving, shared=layer.name in shared)
        if count:
            yield layer.name, count, blocks
        for number, part in drawn.down(layer, arriving).items():
            moved[number] = np.remainder(part + _bend(drawn, layer, by[number]) + moved.get(number, 0.0), PRIME)
    if top is drawn.network.layers[-1] and len(top.output_shape) == 1:
        logits = by[top.number]
        yield top.name, len(logits) - 1, iter([np.remainder(logits[1:] - logits[:1], PRIME)])


def moving_error(layers: Sequence[PlacedLayer], rank: int) -> float:
    """Return an upper bound of the probability that a rank is too small; statistics make fractions that have none."""
    return 1.0 if any(layer.is_normalisation for layer in layers) else curved_error(layers, rank)


def _bend(drawn: ModularNetwork, layer: PlacedLayer, z: FloatArray) -> FloatArray | float:
    """Return what a layer's curvature adds to the movement of the output gradient, as `σ'' k δz` of an activation."""
    k = drawn.gradients[layer.number]
    if layer.is_normalisation:
        return drawn.statistics(layer).bend(k, z)
    bend = drawn.curvature(layer) if layer.is_activation else None
    if bend is None:
        return 0.0
    return np.asarray(np.remainder(np.remainder(bend * k, PRIME)[..., None] * z, PRIME))


def _rows_of(
    drawn: ModularNetwork, layer: PlacedLayer, by: dict[int, FloatArray], arriving: FloatArray, *, shared: bool
) -> tuple[int, Iterator[FloatArray]]:
    number = layer.inputs[0]
    if shared:
        moments = drawn.statistics(layer).moments(by[number])
        return len(moments), iter([moments])
    value = drawn.values[number].astype(float)[..., None]
    k = drawn.gradients[layer.number].astype(float)[..., None]
    if layer.is_bilinear:
        count = math.prod(layer.weight_shape) + (layer.filters if layer.bias_name is not None else 0)
        return count, moving_rows(layer, Moving(value, by[number]), Moving(k, arriving))
    if not isinstance(layer.layer, PReLU):
        return 0, iter(())
    count, fixed = slope_rows(drawn, layer, by[number])
    below = (~drawn.above[layer.name])[..., None] * value
    moved = np.remainder(below * arriving, PRIME).reshape(count, -1, arriving.shape[-1]).sum(axis=1)
    return count, (np.remainder(row + part, PRIME) for row, part in zip(fixed, moved, strict=True))


def slope_rows(drawn: ModularNetwork, layer: PlacedLayer, z: RealArray) -> tuple[int, Iterator[FloatArray]]:
    """Return the number and the rows `sum k δz` over the entries below zero, for each slope of PReLU."""
    count = layer.activation.parameters  # type: ignore[attr-defined]
    k = drawn.gradients[layer.number] * ~drawn.above[layer.name]
    by_slope, n = k.reshape(count, 1, -1).astype(float), z.shape[-1]
    rows = (multiply(one, part) for one, part in zip(by_slope, z.reshape(count, -1, n), strict=True))
    return count, rows
