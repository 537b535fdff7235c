"""How knowledge flows through a graph entry by entry, until nothing changes.

At each layer: its output is known where all that it touches is known. What it reads is known where the output is and
nothing else that the entry mixes is unknown: a row with a single unknown entry gives it away. What it passes back to a
value is known where the output gradients that it mixes are, or vanish; the gradient with respect to a value is the sum
of what all its users pass back. And where that sum and all parts but one are known, so is that part, and with it what
stands alone in an entry of it.
"""

from __future__ import annotations

import math

import numpy as np

from constraint_algebra.arrays import BoolArray, IntArray
from constraint_algebra.layers.activations import Identity, ReLU
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.incidence import tap_slices
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.trilinear import touched
from constraint_algebra.networks.operations import windows
from constraint_algebra.theory.graph_state import GraphState, others_known
from constraint_algebra.theory.graph_statistics import (
    back_normalised,
    forward_normalised,
    learn_statistics,
    passed_normalised,
    pushed_normalised,
)


def flow(state: GraphState) -> None:
    """Visit layers until nothing is left to visit, those nearest to the output first."""
    layers = state.drawn.network.layers
    while state.pending:
        index = max(state.pending)
        state.pending.remove(index)
        _visit(state, layers[index])


def seed(state: GraphState) -> None:
    """Add the output gradients at hand: bias gradients at one output position, and by the loss that of the head."""
    network = state.drawn.network
    for layer in network.bilinear:
        if math.prod(layer.outputs) == 1 and (layer.bias_name is not None or layer is network.head):
            reason = "its bias gradient" if layer.bias_name is not None else "the loss"
            state.learn_gradient(layer.number, np.ones(layer.output_shape, dtype=bool), reason)


def _visit(state: GraphState, layer: PlacedLayer) -> None:
    if layer.is_normalisation:
        learn_statistics(state, layer)
    if not state.values[layer.number].all():
        state.learn(layer.number, _forward(state, layer), "it is computed forward")
    _back(state, layer)
    for number in dict.fromkeys(layer.inputs):
        _pass_back(state, layer, number)
    for number in dict.fromkeys(layer.inputs):
        _pass_up(state, layer, number)


def _forward(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return which outputs touch known entries alone."""
    unknown = ~state.values[layer.inputs[0]]
    if layer.is_bilinear:
        return ~seen(layer, unknown)
    if layer.is_activation:
        return ~unknown
    if layer.is_normalisation:
        return forward_normalised(state, layer)
    if isinstance(layer.layer, Dropout):
        return np.asarray(~unknown & (state.drawn.values[layer.inputs[0]] == 0))
    if layer.is_selection:
        return np.asarray(~np.append(unknown.ravel(), False)[windows(layer)].any(axis=1))
    return np.asarray(_unknown_read(state, layer) == 0)


def _unknown_read(state: GraphState, layer: PlacedLayer) -> IntArray:
    """Return how many unknown entries each output of an affine operation mixes, flat."""
    parts = state.drawn.parts(layer)
    return np.asarray(sum(part.met_above(~state.values[n].ravel()) for n, part in parts.items()))


def seen(layer: PlacedLayer, inputs: BoolArray) -> BoolArray:
    """Return which outputs of a layer with a weight see at least one of the `inputs`, a mask in the input shape."""
    some = np.logical_or.reduce(inputs.reshape(layer.groups, -1, *layer.positions), axis=1)
    found = np.zeros((layer.groups, *layer.outputs), dtype=bool)
    for outputs, places in tap_slices(layer):
        found[:, *outputs] |= some[:, *places]
    return np.repeat(found, layer.filters // layer.groups, axis=0).reshape(layer.output_shape)


def _back(state: GraphState, layer: PlacedLayer) -> None:
    """Add what the output says of what the layer reads."""
    known, first = state.values[layer.number], layer.inputs[0]
    if all(state.values[n].all() for n in layer.inputs) or not (known.any() or layer.is_bilinear):
        return
    reason = f"it follows entry by entry from the output of layer {layer.name!r} ({layer.kind})"
    if layer.is_bilinear:
        if isinstance(layer.layer, ChannelScale):
            state.learn(first, known, reason)
            _by_scale(state, layer)
    elif layer.is_activation:
        off = state.off(layer)
        state.learn(first, known if off is None else known & ~off, reason)
    elif layer.is_selection:
        _back_through_selection(state, layer, reason)
    elif isinstance(layer.layer, Dropout):
        state.learn(first, known & state.kept(layer), reason)
    elif layer.is_normalisation:
        state.learn(first, back_normalised(state, layer), reason)
    else:
        alone = known.ravel() & (_unknown_read(state, layer) == 1)
        if alone.any():
            for number, part in state.drawn.parts(layer).items():
                state.learn(number, part.met_below(alone) > 0, reason)


def _by_scale(state: GraphState, layer: PlacedLayer) -> None:
    """Add the last unknown entry of a channel, by the gradient of its factor, `sum over o of k x = dL/dweight`."""
    unknown, k = (~state.values[layer.inputs[0]]).reshape(layer.channels, -1), state.gradients[layer.number]
    alone = (unknown.sum(axis=1) == 1) & k.reshape(layer.channels, -1).all(axis=1)
    last = unknown & alone[:, None] & state.support(layer.number).reshape(unknown.shape)
    state.learn(layer.inputs[0], last, f"by the gradient of the factors of layer {layer.name!r}")


def _back_through_selection(state: GraphState, layer: PlacedLayer, reason: str) -> None:
    """Add the winners of known outputs, and all entries of a window of ReLU outputs whose largest is zero."""
    known, number = state.values[layer.number].ravel(), layer.inputs[0]
    won = state.drawn.winners[layer.name].ravel()
    mask = np.zeros(layer.unknowns, dtype=bool)
    mask[won[known]] = True
    maker = state.drawn.network.layers[number - 1] if number else None
    off = state.off(maker) if maker is not None and isinstance(maker.layer, ReLU) else None
    if off is not None:
        entries = windows(layer)[known & off.ravel()[won]]
        mask[entries[entries >= 0]] = True
        mask &= off.ravel() | _marked(layer.unknowns, won[known])
    state.learn(number, mask, reason)


def _marked(size: int, places: IntArray) -> BoolArray:
    mask = np.zeros(size, dtype=bool)
    mask[places] = True
    return mask


def _pass_back(state: GraphState, layer: PlacedLayer, number: int) -> None:
    """Update where what a layer passes back to a value is known, and with it the gradient there."""
    before = state.passed[layer.index, number]
    if before.all():
        return
    now = _passed(state, layer, number).reshape(before.shape).copy()  # what is known of k grows in place
    if np.array_equal(now, before):
        return
    state.passed[layer.index, number] = now
    state.pending.update(user.index for user in state.drawn.network.users(number) if user is not layer)
    state.learn_gradient(number, now & others_known(state, layer, number), "the chain rule")


def _passed(state: GraphState, layer: PlacedLayer, number: int) -> BoolArray:
    k = state.gradients[layer.number]
    if layer.is_bilinear:
        return k if isinstance(layer.layer, ChannelScale) else ~touched(layer, ~k)
    if layer.is_normalisation:
        return passed_normalised(state, layer)
    if isinstance(layer.layer, Dropout):  # an output that is known shows the mask
        return k & (state.values[layer.number] | ~state.support(layer.number))
    if not layer.is_activation:
        return np.asarray(state.drawn.parts(layer)[number].met_below(~k.ravel()) == 0)
    if isinstance(layer.activation, Identity):
        return k
    output, off = state.values[layer.number], state.off(layer)
    found = k & (output | ~state.support(layer.number))
    return found if off is None else found | (output & off)


def _pass_up(state: GraphState, layer: PlacedLayer, number: int) -> None:
    """Add the output gradients that stand alone in known entries of what the layer passes back."""
    k = state.gradients[layer.number]
    if (k.all() and not _may_cut_off(state, layer)) or not state.gradients[number].any():
        return
    part = state.gradients[number] & others_known(state, layer, number)
    if not part.any():
        return
    reason = f"what layer {layer.name!r} ({layer.kind}) passes back"
    if layer.is_normalisation:
        state.learn_gradient(layer.number, pushed_normalised(state, layer), reason)
    elif isinstance(layer.layer, Dropout):
        state.learn_gradient(layer.number, part & state.values[layer.number] & state.kept(layer), reason)
    elif layer.is_bilinear:
        if isinstance(layer.layer, ChannelScale):
            state.learn_gradient(layer.number, part, reason)
    elif layer.is_activation:
        if isinstance(layer.activation, Identity):
            state.learn_gradient(layer.number, part, reason)
            return
        _cut_off(state, layer, part)
        off, output = state.off(layer), state.values[layer.number]
        state.learn_gradient(layer.number, part & output if off is None else part & output & ~off, reason)
    else:
        linear = state.drawn.parts(layer)[number]
        alone = part.ravel() & (linear.met_below(~k.ravel()) == 1)
        if alone.any():
            state.learn_gradient(layer.number, linear.met_above(alone) > 0, reason)


def _may_cut_off(state: GraphState, layer: PlacedLayer) -> bool:
    return isinstance(layer.layer, ReLU) and not state.values[layer.number].all()


def _cut_off(state: GraphState, layer: PlacedLayer, part: BoolArray) -> None:
    """Add the outputs of a ReLU that pass nothing of a gradient on that arrives: they are zero."""
    off = state.off(layer) if _may_cut_off(state, layer) else None
    if off is not None:
        silent = part & off & state.gradients[layer.number] & state.support(layer.number)
        state.learn(
            layer.number, silent, f"layer {layer.name!r} passes nothing of a gradient on there, so that it is zero"
        )
