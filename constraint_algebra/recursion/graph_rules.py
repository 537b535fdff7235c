"""The local rules of the recursion on a graph: what one operation tells of the values and gradients around it.

- `forward`: values go up where all that an output reads is known.
- `invert`: values come down: through affine operations entry by entry, through normalisations, through activations.
- `pull`: gradients come down, summed over all layers that read a value.
- `push`: gradients go up where one layer's part is all that is open.

Each returns whether it learnt anything. Every affine operation `M x + c` is treated alike, whatever it stands for: a
row of M with one unknown entry gives that entry (*peeling*), which inverts sums, concatenations, paddings and moves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.activations import Identity, PReLU
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.formula import Formulas
from constraint_algebra.networks.operations import affine_maps, formulas_of
from constraint_algebra.recursion import graph_statistics, graph_windows, layer_step
from constraint_algebra.recursion.activation_sides import BiasCheck
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate, activated, sides, slope_at, through_formulas, upper_input
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, add, kept, rounded

CLEAR = 0.25  # a ratio of two gradients within this of 0 or 1 says which of the two it is


def forward(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Compute what a layer makes, where all that it reads is known."""
    if knows.values[layer.number].known.all():
        return False
    inputs = [knows.values[number] for number in layer.inputs]
    if layer.is_bilinear:
        found = layer_step.output_of(knows.observed, layer, inputs[0])
    elif layer.is_activation:
        found = _activated(knows, layer, inputs[0])
    elif layer.is_selection:
        return graph_windows.forward(knows, layer)
    elif layer.is_normalisation:
        return graph_statistics.forward(knows, layer)
    else:
        found = rounded(knows.observed, _mapped(knows, layer, inputs))
    return knows.learn_value(layer.number, found)


def _mapped(knows: GraphKnowledge, layer: PlacedLayer, inputs: list[Estimate]) -> Estimate:
    maps, constant = affine_maps(layer, knows.observed.parameters)
    size = maps[0].shape[0]
    value, unknown = np.zeros(size) if constant is None else constant.copy(), np.zeros(size)
    moved = np.zeros((size, MEMBERS))
    for M, x in zip(maps, inputs, strict=True):
        value += M @ x.filled().ravel()
        unknown += abs(M) @ (~x.known).ravel()
        moved += M @ kept(x).reshape(-1, MEMBERS)
    return Estimate(value, unknown == 0, moved).reshape(layer.output_shape)


def _activated(knows: GraphKnowledge, layer: PlacedLayer, z: Estimate) -> Estimate:
    return rounded(knows.observed, activated(formulas_of(layer, knows.observed.parameters), z))


def invert(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn of what a layer reads from what it makes."""
    y = knows.values[layer.number]
    if not y.known.any() or layer.is_activation or all(knows.values[number].known.all() for number in layer.inputs):
        return False
    if layer.is_selection:
        return graph_windows.invert(knows, layer)
    if layer.is_normalisation:
        return graph_statistics.invert(knows, layer)
    if layer.is_bilinear:
        return _unscaled(knows, layer, y) if is_scale(layer) else False
    maps, constant = affine_maps(layer, knows.observed.parameters)
    if constant is not None:
        y = replace(y, value=y.value - constant.reshape(layer.output_shape))
    found = peeled(maps, y, [knows.values[number] for number in layer.inputs])
    learnt = [knows.learn_value(number, part) for number, part in zip(layer.inputs, found, strict=True)]
    return any(learnt)


def is_scale(layer: PlacedLayer) -> bool:
    """Return whether a layer with a weight makes each output of one input alone: a factor for each channel."""
    return (
        layer.groups == layer.channels == layer.filters
        and all(tap == 1 for tap in layer.taps)
        and (layer.outputs == layer.positions)
    )


def _factors(knows: GraphKnowledge, layer: PlacedLayer) -> FloatArray:
    """Return the factor of each channel, in a shape that broadcasts to the output's."""
    return knows.observed.parameters[layer.weight_name].reshape(-1, *(1,) * len(layer.outputs))


def _unscaled(knows: GraphKnowledge, layer: PlacedLayer, y: Estimate) -> bool:
    factor = _factors(knows, layer)
    bias = knows.observed.bias(layer).reshape(factor.shape)
    divisor = np.where(factor != 0, factor, 1.0)
    x = Estimate((y.filled() - bias) / divisor, y.known & (factor != 0), (kept(y)) / divisor[..., None])
    return knows.learn_value(layer.inputs[0], rounded(knows.observed, x))


def peeled(maps: tuple[sp.csr_array, ...], y: Estimate, inputs: list[Estimate]) -> list[Estimate]:
    """Return the entries that follow one by one from `sum of M x = y`: those that stand alone in a row.

    Args:
        maps: M of each input.
        y: the sums, without constants.
        inputs: what is known of each input.
    """
    M = sp.csr_array(sp.hstack(maps, format="csr"))
    M.eliminate_zeros()
    known = np.concatenate([x.known.ravel() for x in inputs])
    value = np.concatenate([x.filled().ravel() for x in inputs])
    moved = np.concatenate([kept(x).reshape(-1, MEMBERS) for x in inputs])
    rows_known, flat, flat_moved = y.known.ravel(), y.filled().ravel(), kept(y).reshape(-1, MEMBERS)
    coefficients = M.tocoo()
    while True:
        open_entries = ~known[coefficients.col]
        counts = np.bincount(coefficients.row[open_entries], minlength=M.shape[0])
        alone = (counts == 1) & rows_known
        chosen = np.flatnonzero(open_entries & alone[coefficients.row])
        if not len(chosen):
            break
        order = chosen[np.argsort(-np.abs(coefficients.data[chosen]), kind="stable")]
        columns, first = np.unique(coefficients.col[order], return_index=True)
        rows, factor = coefficients.row[order[first]], coefficients.data[order[first]]
        part = M[rows]
        value[columns] = (flat[rows] - part @ np.where(known, value, 0.0)) / factor
        moved[columns] = (flat_moved[rows] - part @ np.where(known[:, None], moved, 0.0)) / factor[:, None]
        known[columns] = True
    ends = np.cumsum([x.value.size for x in inputs])[:-1]
    parts = zip(np.split(value, ends), np.split(known, ends), np.split(moved, ends), inputs, strict=True)
    return [Estimate(v, k, m).reshape(x.value.shape) for v, k, m, x in parts]


def parts(knows: GraphKnowledge, layer: PlacedLayer) -> list[Estimate]:
    """Return what a layer sends back to each of its inputs, as far as it is known."""
    k = knows.gradients[layer.number]
    if layer.is_bilinear:
        return [layer_step.input_gradient(knows.observed, layer, k)]
    if layer.is_activation:
        return [through(knows, layer)[1]]
    if layer.is_selection:
        return [graph_windows.part(knows, layer)]
    if layer.is_normalisation:
        return [graph_statistics.part(knows, layer)]
    maps, _ = affine_maps(layer, knows.observed.parameters)
    found = []
    for M, shape in zip(maps, layer.input_shapes, strict=True):
        transposed = sp.csr_array(M.T)
        value = transposed @ k.filled().ravel()
        known = abs(transposed) @ (~k.known).ravel() == 0
        moved = transposed @ kept(k).reshape(-1, MEMBERS)
        found.append(Estimate(value, known, moved).reshape(shape))
    return found


def pull(knows: GraphKnowledge, number: int) -> bool:
    """Learn the gradient at a value from those of all layers that read it."""
    if knows.gradients[number].known.all():
        return False
    total: Estimate | None = None
    for user in knows.network.users(number):
        for slot, part in zip(user.inputs, parts(knows, user), strict=True):
            if slot == number:
                total = part if total is None else add(total, part)
    return total is not None and knows.learn_gradient(number, total)


def through(knows: GraphKnowledge, layer: PlacedLayer) -> tuple[Estimate, Estimate]:
    """Return what is known below an activation: its input z, and what it sends back to it.

    The side of z itself, where that is known, decides before what its output tells.
    """
    observed, f = knows.observed, formulas_of(layer, knows.observed.parameters)
    y, dy, z = knows.values[layer.number], knows.gradients[layer.number], knows.values[layer.inputs[0]]
    stored = observed.stored(y)
    if f.branches is not None:
        found = z if z.known.all() or not y.known.any() else z.learnt(upper_input(f.branches, y, stored))
        return found, _by_slope(f, found, dy, observed.gate(f, found))
    identity = isinstance(layer.activation, Identity)
    found, dz = through_formulas(f, y, dy, stored, _bias_check(knows, layer), one_to_one=identity)
    doubted = knows.doubted.get(layer.index, np.zeros(y.value.shape, dtype=bool))
    if isinstance(layer.activation, PReLU):  # its slopes differ by channel, and no odds are weighed
        near = np.abs(y.filled()) <= SIDES * y.deviation
        doubted = doubted | near
        found = replace(found, known=found.known & ~near)
    dz = replace(dz, known=dz.known & (~doubted | (dy.known & (dy.value == 0))))
    sure, by_side = _by_side(f, z, dy)
    dz = Estimate(
        np.where(sure, by_side.value, dz.value),
        np.where(sure, by_side.known, dz.known),
        np.where(sure[..., None], by_side.perturbations, dz.perturbations),
    )
    return found, observed.stored_gradient(dz)


def _by_side(f: Formulas, z: Estimate, dy: Estimate) -> tuple[BoolArray, Estimate]:
    """Return what an activation with an edge at zero sends back, and where z is known to lie clear of the edge."""
    piecewise = f.plateaus == (0.0,) or f.kink is not None
    sure = z.known & (np.abs(z.value) > SIDES * z.deviation) & piecewise
    at = np.where(sure, z.value, 0.0)
    y = f.value(at)
    with np.errstate(invalid="ignore"):
        d, slope = np.nan_to_num(f.derivative_at(at, y)), np.nan_to_num(f.slope(y))
    arriving = np.where(dy.known, dy.value, 0.0)
    # On its lower side SELU is no straight line: d(σ(z)) moves by d′(y) σ′(z) with z.
    moved = d[..., None] * kept(dy) + (arriving * slope * d)[..., None] * np.where(sure[..., None], kept(z), 0.0)
    return sure, Estimate(arriving * d, sure & (dy.known | (d == 0)), moved)


def _by_slope(f: Formulas, z: Estimate, dy: Estimate, gate: FloatArray | float) -> Estimate:
    """Return what an activation with two branches sends back: known with z, and where either factor is zero.

    Args:
        f: its formulas.
        z: its input.
        dy: the gradient at its output.
        gate: draws of what the client's rounding does to σ′ apart from z.
    """
    d, arriving = slope_at(f, z), dy.filled()
    flat = d.known & (d.value == 0) & (d.deviation == 0)
    moved = d.value[..., None] * kept(dy) + arriving[..., None] * (d.perturbations + gate)
    return Estimate(arriving * d.value, (dy.known & (d.known | (dy.value == 0))) | flat, moved)


def _bias_check(knows: GraphKnowledge, layer: PlacedLayer) -> BiasCheck | None:
    """Return the bias equations of the layer below an activation, if the activation alone reads that layer's output."""
    number = layer.inputs[0]
    below = knows.network.layers[number - 1] if number else None
    if below is None or not below.is_bilinear or len(knows.network.users(number)) > 1:
        return None
    return knows.observed.bias_check(below)


def below_activation(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the input of an activation from its output, and its output from the gradients on both sides."""
    if not layer.is_activation:
        return False
    _to_plateau(knows, layer)
    learnt = False
    if not knows.values[layer.inputs[0]].known.all():
        learnt = knows.learn_value(layer.inputs[0], through(knows, layer)[0])
    return _cut_off(knows, layer) or learnt


def _to_plateau(knows: GraphKnowledge, layer: PlacedLayer) -> None:
    """Put outputs that were cut off where the activation puts them, which is exact: what is left there is noise."""
    f, y = formulas_of(layer, knows.observed.parameters), knows.values[layer.number]
    if not f.plateaus or not y.known.any():
        return
    value, decided, doubt = sides(f, y, knows.gradients[layer.number], _bias_check(knows, layer))
    flat = y.known & decided & (doubt == 0) & np.isin(value, f.plateaus)
    exact = np.where(flat[..., None], 0.0, y.perturbations)
    knows.values[layer.number] = Estimate(np.where(flat, value, y.value), y.known, exact)


def _cut_off(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn which outputs of a ReLU are zero: those that pass none of a gradient that arrives."""
    f = formulas_of(layer, knows.observed.parameters)
    if f.plateaus != (0.0,) or knows.values[layer.number].known.all():
        return False
    dz, dy = own_part(knows, layer, 0), knows.gradients[layer.number]
    size = np.where(dy.known & (dy.value != 0), np.abs(dy.value), 1.0)
    both = dz.known & dy.known & (np.abs(dy.value) > SIDES * dy.deviation)
    clear = both & (dz.deviation < CLEAR * size / SIDES)
    zero = clear & (np.abs(dz.filled()) < CLEAR * size)
    return knows.learn_value(layer.number, Estimate(np.zeros(zero.shape), zero, np.zeros((*zero.shape, MEMBERS))))


def own_part(knows: GraphKnowledge, layer: PlacedLayer, slot: int) -> Estimate:
    """Return what a layer sends back to an input, from the gradient there and the parts of all others that read it."""
    number = layer.inputs[slot]
    k = knows.gradients[number]
    if not k.known.any():
        return k
    for user in knows.network.users(number):
        for other, (read, part) in enumerate(zip(user.inputs, parts(knows, user), strict=True)):
            if read == number and (user.index, other) != (layer.index, slot):
                k = add(k, part, -1.0)
    return k


def push(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the gradient at what a layer makes from that at what it reads."""
    k = knows.gradients[layer.number]
    if k.known.all() or layer.is_selection or (layer.is_bilinear and not is_scale(layer)):
        return False
    if not any(knows.gradients[number].known.any() for number in layer.inputs):
        return False
    sent = [own_part(knows, layer, slot) for slot in range(len(layer.inputs))]
    if layer.is_activation:
        return _push_through(knows, layer, sent[0])
    if layer.is_normalisation:
        return graph_statistics.push(knows, layer, sent[0])
    if layer.is_bilinear:
        factor = _factors(knows, layer)
        divisor = np.where(factor != 0, factor, 1.0)
        up = Estimate(sent[0].filled() / divisor, sent[0].known & (factor != 0), kept(sent[0]) / divisor[..., None])
        return knows.learn_gradient(layer.number, rounded(knows.observed, up))
    maps, _ = affine_maps(layer, knows.observed.parameters)
    stacked = sp.csr_array(sp.vstack([sp.csr_array(M.T) for M in maps], format="csr"))
    flat = Estimate(
        np.concatenate([part.filled().ravel() for part in sent]),
        np.concatenate([part.known.ravel() for part in sent]),
        np.concatenate([kept(part).reshape(-1, MEMBERS) for part in sent]),
    )
    return knows.learn_gradient(layer.number, peeled((stacked,), flat, [k])[0])


def _push_through(knows: GraphKnowledge, layer: PlacedLayer, dz: Estimate) -> bool:
    y = knows.values[layer.number]
    f = formulas_of(layer, knows.observed.parameters)
    if f.branches is not None:
        return _push_on_branch(knows, layer, f, dz)
    with np.errstate(invalid="ignore"):
        d = np.where(y.known, f.derivative(np.where(y.known, y.value, 0.0)), 0.0)
    clear = y.known & np.isfinite(d) & (d > 0) & (np.abs(y.value) > SIDES * y.deviation)
    steep = np.where(clear, d, 1.0)
    up = Estimate(dz.filled() / steep, dz.known & clear, kept(dz) / steep[..., None])
    return knows.learn_gradient(layer.number, up)


def _push_on_branch(knows: GraphKnowledge, layer: PlacedLayer, f: Formulas, dz: Estimate) -> bool:
    """Push through an activation with two branches, where z is known and the slope clear of zero."""
    d = slope_at(f, knows.values[layer.inputs[0]])
    clear = d.known & (np.abs(d.value) > SIDES * d.deviation)
    steep = np.where(clear, d.value, 1.0)
    up = np.where(clear, dz.filled() / steep, 0.0)
    moved = (kept(dz) - up[..., None] * d.perturbations) / steep[..., None]
    return knows.learn_gradient(layer.number, Estimate(up, dz.known & clear, moved))
