"""Solving for a value by the equations of all layers that read it, and for output gradients by a known input.

The second are the dual equations: with the input h of a layer known, each entry of its weight gradient is linear in k,

    sum over o of  k[f, o] h[c, q(o, t)]  =  dL/dW[f, c, t]         and        sum over o of  k[f, o]  =  dL/db[f],

for every filter f with the same rows (c, t). Both are linear systems over the random network's own residues.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import BLOCK, Echelon
from constraint_algebra.theory.graph_spaces import EFFORT, OPEN, PIXELS, ValueEquations, settled_entries
from constraint_algebra.theory.graph_state import GraphState, Solved


def readers_of(state: GraphState, number: int) -> tuple[PlacedLayer, ...]:
    """Return the layers with a weight that read a value, none where they are all factors of channels."""
    readers = tuple(user for user in state.drawn.network.users(number) if user.is_bilinear)
    return () if all(isinstance(layer.layer, ChannelScale) for layer in readers) else readers


def solve_value(state: GraphState, number: int) -> bool:
    """Solve for the unknown entries of a value; returns whether any was found."""
    readers = readers_of(state, number)
    if not readers or state.values[number].all():
        return False
    rests_on = [state.versions[number][0], *(v for x in readers for v in state.versions[x.number])]
    if not state.is_new("solve", number, tuple(rests_on)):
        return False
    equations = ValueEquations(state, number, readers)
    if not equations.gradient_rows and not equations.weight_rows:
        return False
    return _solved(equations, np.random.default_rng([state.drawn.seed, 4, number]))


def _solved(equations: ValueEquations, rng: np.random.Generator) -> bool:
    state, number = equations.state, equations.number
    unknowns, before = state.values[number].size, int(state.values[number].sum())
    rows = equations.weight_rows + equations.gradient_rows + before
    names = tuple(layer.name for layer in equations.readers)
    if equations.forms is None:
        high = min(unknowns, rows)
        state.skip(number, "the gradient equations of a channel are too many to eliminate")
        state.solved[number] = Solved(names, equations.weight_rows, equations.gradient_rows, 0, before, high)
        return False
    by_gradients = equations.gradient_rank
    spaces = equations.spaces
    if spaces is None:
        high = min(unknowns, by_gradients + equations.weight_rows + before)
        state.skip(number, "the gradient equations leave too much open to eliminate the rest")
        low, found = max(by_gradients, before), _by_gradients_alone(equations, rng)
    else:
        opens = sum(N.shape[1] for N in spaces)
        low = unknowns - opens
        form = None
        if opens and opens <= OPEN and equations.weight_rows:
            form = _second_stage(equations, spaces, opens)
            low += form.rank
        beyond = opens > OPEN and equations.weight_rows > 0
        high = min(unknowns, low + equations.weight_rows) if beyond else low
        if beyond:
            state.skip(number, f"{opens:,} unknowns are too many to eliminate with the weight equations")
        found = settled_entries(spaces, form, rng)
    state.solved[number] = Solved(names, equations.weight_rows, equations.gradient_rows, by_gradients, low, high)
    if low < unknowns:
        state.count_error(low)
    which = "the gradient equations" if by_gradients == unknowns else "the equations"
    return state.learn(number, found, f"by {which} of layer {' and '.join(map(repr, names))}")


def _second_stage(equations: ValueEquations, spaces: list[FloatArray], opens: int) -> Echelon:
    form = Echelon(opens)
    for rows in equations.weight_rows_in(spaces):
        form.absorb(rows)
        if form.rank == opens:
            break
    return form


def _by_gradients_alone(equations: ValueEquations, rng: np.random.Generator) -> BoolArray:
    assert equations.forms is not None
    alone = {key: form.determined(rng) for key, form in equations.forms.items()}
    return np.array([alone[key] for key in equations.groups])


def solve_gradient(state: GraphState, layer: PlacedLayer) -> bool:
    """Solve for unknown output gradients of a layer by the dual equations; returns whether any was found."""
    k, h = state.gradients[layer.number], state.values[layer.inputs[0]]
    rests_on = (state.versions[layer.inputs[0]][0], state.versions[layer.number][1])
    if k.all() or not state.is_new("dual", layer.number, rests_on):
        return False
    if not h.any() and layer.bias_name is None:
        return False
    S, G = incidence(layer), layer.groups
    F, C = layer.filters // G, layer.channels // G
    unknown = ~k.reshape(layer.filters, S.output_count)
    matters = unknown | state.support(layer.number).reshape(unknown.shape)
    found = np.zeros(unknown.shape, dtype=bool)
    values: FloatArray | None = None
    known = np.concatenate([h.reshape(layer.channels, -1), np.ones((layer.channels, 1), dtype=bool)], axis=1)
    for g in range(G):
        channels = slice(g * C, (g + 1) * C)
        patterns: dict[bytes, BoolArray] = {}
        for f in range(g * F, (g + 1) * F):
            if not unknown[f].any():
                continue
            key = np.packbits(unknown[f]).tobytes() + np.packbits(matters[f]).tobytes()
            if key not in patterns and unknown[f].sum() > PIXELS:
                patterns[key] = np.zeros(int(unknown[f].sum()), dtype=bool)
                if h.any():
                    state.skipped.add(layer.number)
            if key not in patterns:
                rows = _usable(S.positions_seen, known[channels], matters[f])
                if not rows.any() and (layer.bias_name is None or unknown[f].sum() > 1):
                    patterns[key] = np.zeros(int(unknown[f].sum()), dtype=bool)
                else:
                    if values is None and rows.any():
                        values = _padded(state.drawn.values[layer.inputs[0]].reshape(layer.channels, -1))
                    seen = None if values is None else values[channels]
                    patterns[key] = _determined(state, layer, seen, rows, unknown[f])
            found[f, unknown[f]] = patterns[key]
    reason = f"the dual equations of layer {layer.name!r}, whose input is known" if h.any() else "its bias gradient"
    return state.learn_gradient(layer.number, found, reason)


def _padded(values: FloatArray) -> FloatArray:
    return np.concatenate([values.astype(float), np.zeros((len(values), 1))], axis=1)


def _usable(table: IntArray, known: BoolArray, matters: BoolArray) -> BoolArray:
    """Return which rows (channel, tap) see known entries alone wherever k may be other than zero."""
    if known.all():
        return np.ones((len(known), table.shape[1]), dtype=bool)
    return np.asarray(known[:, table[matters]].all(axis=1))


def _determined(
    state: GraphState, layer: PlacedLayer, values: FloatArray | None, rows: BoolArray, unknown: BoolArray
) -> BoolArray:
    """Return which unknown k of one filter its rows (channel, tap), and the bias equation, determine."""
    S, columns = incidence(layer), np.flatnonzero(unknown)
    n = len(columns)
    if float(min(int(rows.sum()), 2 * n)) * n * n > EFFORT:
        state.skipped.add(layer.number)
        return np.zeros(n, dtype=bool)
    form = Echelon(n)
    if layer.bias_name is not None:
        form.absorb(np.ones((1, n)))
    pairs = np.argwhere(rows)
    for first in range(0, len(pairs), BLOCK):
        if form.rank == n or values is None:
            break
        c, t = pairs[first : first + BLOCK].T
        form.absorb(values[c[:, None], S.positions_seen[columns][:, t].T])
    if form.rank < n:
        state.count_error(form.rank)
    return form.determined(np.random.default_rng([state.drawn.seed, 5, layer.number]))
