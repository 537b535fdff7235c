"""Several unknown sources at once: the equations that tie them, where no value follows by itself.

Between sources (the network's input, what an activation or a selection makes) every value is affine in the sources
that reach it. Where the recursion stands still, all equations over the unknown entries of sources that meet somewhere
are solved together: gradient equations of every layer whose k are known, and known entries of every value between, such
as the sum `conv2(h) + shortcut(x)` of a residual block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks import operations
from constraint_algebra.networks.operations import affine_maps
from constraint_algebra.numerics.dense_least_squares import Reduced, longest
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.layer_step import layer_equations
from constraint_algebra.recursion.noise import settled
from constraint_algebra.recursion.value_equations import ENTRIES, is_affordable
from constraint_algebra.solvers.noisy_equations import noise_cut


@dataclass(frozen=True)
class _Columns:
    """The unknown entries of one source: its number, their flat indices, and where their columns begin."""

    number: int
    entries: IntArray
    start: int


@dataclass(frozen=True)
class _Rows:
    """Equations over the columns, in units of their noise: coefficients, right-hand sides, draws of those."""

    matrix: FloatArray
    rhs: FloatArray
    moved: FloatArray
    cut: float


@dataclass(frozen=True)
class _At:
    """What is said of one value: coefficients of unknown entries, what known ones make, sizes of sums, all together."""

    tangent: FloatArray
    base: Estimate
    sizes: FloatArray
    whole: FloatArray


def joint(knows: GraphKnowledge) -> bool:
    """Learn unknown entries of sources from all equations that tie them."""
    learnt = [_together(knows, sources) for sources in _groups(knows)]
    return any(learnt)


def _groups(knows: GraphKnowledge) -> Iterator[list[int]]:
    """Yield the sources with unknown entries that meet in some value, or reach a layer's input through others."""
    network = knows.network
    reach: list[set[int]] = []
    group: dict[int, set[int]] = {}
    direct = set[int]()
    for number in range(len(network) + 1):
        layer = network.layers[number - 1] if number else None
        if layer is None or layer.is_source:
            own = set() if knows.values[number].known.all() else {number}
            reach.append(own)
            for source in own:
                group.setdefault(source, {source})
            continue
        met = set[int]().union(*(reach[n] for n in layer.inputs))
        reach.append(met)
        if len(layer.inputs) > 1 or (layer.is_bilinear and met != {layer.inputs[0]}):
            direct |= met  # read through other operations, or on two paths that meet here
        merged = set[int]().union(*(group[s] for s in met)) if met else set()
        for source in merged:
            group[source] = merged
    for found in {id(g): g for g in group.values()}.values():
        if len(found) > 1 or found & direct:
            yield sorted(found)


def _together(knows: GraphKnowledge, sources: list[int]) -> bool:
    columns, n = [], 0
    for number in sources:
        entries = np.flatnonzero(~knows.values[number].known.ravel())
        columns.append(_Columns(number, entries, n))
        n += len(entries)
    reached = _reached(knows, set(sources))
    widest = max(int(np.prod(knows.network.shape_of(number))) for number in reached)
    if n * widest > ENTRIES or not is_affordable(n, n):
        return False
    tangents, bases = _maps(knows, columns, n, reached)
    said = {number: _At(tangents[number], base, np.abs(base.value), base.value) for number, base in bases.items()}
    solved = _solved_for(knows, reached, said, n)
    if solved is None:
        return False
    # How large the sums are that the client rounded, and what noise in k moves, only the whole sources tell.
    whole = {number: base.value + tangents[number] @ solved[0] for number, base in bases.items()}
    sizes = _sizes(knows, whole, sources, reached)
    said = {number: _At(tangents[number], base, sizes[number], whole[number]) for number, base in bases.items()}
    solved = _solved_for(knows, reached, said, n)
    if solved is None:
        return False
    found, determined, moved = solved
    learnt = False
    for part in columns:
        at = slice(part.start, part.start + len(part.entries))
        estimate = Estimate.unknown(knows.network.shape_of(part.number), MEMBERS)
        estimate.value.ravel()[part.entries] = found[at]
        estimate.known.ravel()[part.entries] = determined[at]
        estimate.perturbations.reshape(-1, MEMBERS)[part.entries] = moved[at]
        learnt |= knows.learn_value(part.number, estimate)
    return learnt


def _reached(knows: GraphKnowledge, sources: set[int]) -> list[int]:
    """Return the numbers of the sources, and of all values that are affine in them, in order."""
    found = set(sources)
    for layer in knows.network:
        if not layer.is_source and found & set(layer.inputs):
            found.add(layer.number)
    return sorted(found)


def _maps(
    knows: GraphKnowledge, columns: list[_Columns], n: int, reached: list[int]
) -> tuple[dict[int, FloatArray], dict[int, Estimate]]:
    """Return for every value reached its coefficients `(*shape, n)`, and what known entries of the sources make of it.

    Sources that are not among the unknown ones are known wherever they are read, or the value is left out.
    """
    network, parameters = knows.network, knows.observed.parameters
    tangents: dict[int, FloatArray] = {}
    bases: dict[int, Estimate] = {}
    for part in columns:
        shape = network.shape_of(part.number)
        T = np.zeros((int(np.prod(shape)), n))
        T[part.entries, part.start + np.arange(len(part.entries))] = 1.0
        tangents[part.number] = T.reshape(*shape, n)
        held = knows.values[part.number]
        bases[part.number] = Estimate(held.filled(), np.ones(shape, dtype=bool), kept(held))
    for number in reached:
        if number in tangents:
            continue
        layer = network.layers[number - 1]
        inputs = [bases.get(m) or knows.values[m] for m in layer.inputs]
        if not all(x.known.all() for x in inputs):
            continue
        parts = [tangents.get(m) for m in layer.inputs]
        zeros = [np.zeros((*shape, n)) if T is None else T for T, shape in zip(parts, layer.input_shapes, strict=True)]
        tangents[number] = operations.tangent(layer, parameters, {}, zeros)
        value = operations.value(layer, parameters, [x.value for x in inputs])
        moved = operations.tangent(layer, parameters, {}, [kept(x) for x in inputs])
        bases[number] = Estimate(value, np.ones(value.shape, dtype=bool), moved)
    return tangents, bases


def _solved_for(
    knows: GraphKnowledge, reached: list[int], said: dict[int, _At], n: int
) -> tuple[FloatArray, BoolArray, FloatArray] | None:
    """Return what `_solved` does of all equations over n unknown entries; `None` where these are none or too many."""
    rows = [part for number in reached if number in said for part in _rows_at(knows, number, said[number])]
    if not rows or not is_affordable(sum(len(part.matrix) for part in rows), n):
        return None
    return _solved(rows, n)


def _sizes(
    knows: GraphKnowledge, whole: dict[int, FloatArray], sources: list[int], reached: list[int]
) -> dict[int, FloatArray]:
    """Return for every value reached the root of the sum of squares of all that is added up to make it."""
    network, parameters = knows.network, knows.observed.parameters
    squares = {number: whole[number] ** 2 for number in sources}
    for number in reached:
        layer = network.layers[number - 1]
        if number in squares or not layer.inputs:
            continue
        inputs = [squares.get(m, knows.values[m].filled() ** 2) for m in layer.inputs]
        if layer.is_bilinear:
            squares[number] = trilinear.forward(layer, parameters[layer.weight_name] ** 2, inputs[0])
            continue
        maps, constant = affine_maps(layer, parameters)
        total = sum(abs(sp.csr_array(M)).power(2) @ x.ravel() for M, x in zip(maps, inputs, strict=True))
        own = 0.0 if constant is None else np.asarray(constant).ravel() ** 2
        squares[number] = np.asarray(total + own).reshape(layer.output_shape)
    return {number: np.sqrt(values) for number, values in squares.items()}


def _rows_at(knows: GraphKnowledge, number: int, at: _At) -> Iterator[_Rows]:
    """Yield the equations at a value: its known entries, and those of the layers with a weight that read it."""
    layer = knows.network.layers[number - 1] if number else None
    if layer is not None and not layer.is_source:
        rows = _known_entries(knows, number, at)
        if rows is not None:
            yield rows
    for user in knows.network.users(number):
        k = knows.gradients[user.number]
        if user.is_bilinear and k.value[k.known].any():
            rows = _gradient_rows(knows, user, at)
            if rows is not None:
                yield rows


def _known_entries(knows: GraphKnowledge, number: int, at: _At) -> _Rows | None:
    T, base = at.tangent, at.base
    value, observed = knows.values[number], knows.observed
    counts = value.known & T.any(axis=-1)
    if not counts.any():
        return None
    size = float(np.sqrt((value.value[counts] ** 2).mean()))
    made = knows.network.layers[number - 1]
    products = math.prod(made.taps) * made.channels // made.groups if made.is_bilinear else 1
    of_sum = observed.rounding.long_sum(products) * observed.rounding.arithmetic
    rounding = of_sum * np.maximum(at.sizes[counts], size or 1.0)
    noise = np.hypot(value.deviation, base.deviation)[counts] + rounding
    moved = (kept(value) - base.perturbations)[counts] + observed.draw(rounding, noise.shape)
    return _Rows(T[counts] / noise[:, None], (value.value - base.value)[counts] / noise, moved / noise[:, None], 3.0)


def _gradient_rows(knows: GraphKnowledge, layer: PlacedLayer, at: _At) -> _Rows | None:
    T, base = at.tangent, at.base
    observed, k = knows.observed, knows.gradients[layer.number]
    none = Estimate.unknown(layer.output_shape, MEMBERS)
    equations, noise = layer_equations(observed, layer, k, none)
    rows = equations.gradient_rows.reshape(layer.filters, 1, *layer.taps)
    counts = np.broadcast_to(rows, layer.weight_shape)
    if not counts.any():
        return None
    by_row = np.broadcast_to(equations.gradient_noise.reshape(rows.shape), layer.weight_shape)[counts]
    matrix = trilinear.weight_gradients(layer, k.filled(), T)[counts]
    known = trilinear.weight_gradient(layer, k.filled(), base.value)
    moved = observed.draw(noise.weight_gradient, layer.weight_shape)
    moved -= trilinear.weight_gradient(layer, kept(k), at.whole)
    moved -= trilinear.weight_gradients(layer, k.filled(), base.perturbations)
    rhs = (equations.weight_gradient - known)[counts]
    return _Rows(matrix / by_row[:, None], rhs / by_row, moved[counts] / by_row[:, None], noise_cut(equations))


def _solved(rows: list[_Rows], n: int) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Return the solution, which entries of it are determined, and how noise moves it."""
    matrix = np.concatenate([part.matrix for part in rows])
    rhs = np.concatenate([part.rhs for part in rows])
    moved = np.concatenate([part.moved for part in rows])
    scale = float(np.linalg.norm(rhs)) / (float(np.linalg.norm(matrix)) or 1.0) or 1.0
    size = longest(matrix) or 1.0
    cut = max(part.cut for part in rows) / (scale * size)
    reduced = Reduced(matrix / size, max(cut, n * float(np.finfo(float).eps)))
    sides = np.column_stack([rhs, moved]) / size
    solved = reduced.solve(sides)
    solved = solved + reduced.solve(sides - matrix @ solved / size)  # what its factors rounded off
    shares = np.sqrt((reduced.null**2).sum(axis=1))
    return solved[:, 0], settled(shares, solved[:, 1:], scale), solved[:, 1:]
