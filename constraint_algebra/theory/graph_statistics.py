"""How knowledge flows through a normalisation by the data's own statistics, group by group.

With `x̂ = (z - mean) / s` and K the gradient with respect to x̂,

    k_z = (K - mean(K) - x̂ mean(K x̂)) / s

Mean and s of a group are known where all its z are, or where a client shares its buffers; then z and x̂ say the same,
entry by entry. Both means are known where K is, and x̂ wherever K is not zero; or else from the gradients of factors and
shifts that follow, for a group of whole channels: `mean(K) = sum over c of γ_c dL/dβ_c / N`, and with `dL/dγ` in the
place of `dL/dβ` `mean(K x̂)`.
"""

from __future__ import annotations

import math

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.theory.graph_state import GraphState, is_source, others_known


def learn_statistics(state: GraphState, layer: PlacedLayer) -> None:
    """Note the groups all of whose values are known: their mean and scale are computed."""
    whole = in_groups(layer, state.values[layer.inputs[0]]).all(axis=1)
    state.statistics[layer.name] |= whole


def forward_normalised(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return which x̂ follow from what is read."""
    return _where_known(state, layer) & state.values[layer.inputs[0]]


def back_normalised(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return which of the values that are read follow from x̂."""
    return _where_known(state, layer) & state.values[layer.number]


def passed_normalised(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return where what comes back to the values that are read is known."""
    silent = ~state.support(layer.inputs[0]) & in_whole(layer, state.gradients[layer.number])
    return silent | (_terms_known(state, layer) & state.gradients[layer.number])


def pushed_normalised(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return where K follows from what is known to come back to the values that are read."""
    part = state.gradients[layer.inputs[0]] & others_known(state, layer, layer.inputs[0])
    return _terms_known(state, layer) & part


def in_groups(layer: PlacedLayer, mask: BoolArray) -> BoolArray:
    """Return a mask over what a normalisation reads or makes, `(groups, size)`."""
    return mask.reshape(layer.normalisation.runs(layer.input_shape), -1)


def in_whole(layer: PlacedLayer, mask: BoolArray) -> BoolArray:
    """Return where all of a group lies in a mask, in its shape."""
    runs = in_groups(layer, mask)
    return np.broadcast_to(runs.all(axis=1, keepdims=True), runs.shape).reshape(mask.shape)


def _where_known(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return where mean and scale are known, in the layer's shape."""
    known = state.statistics[layer.name]
    return np.repeat(known, layer.unknowns // len(known)).reshape(layer.input_shape)


def _terms_known(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return where k_z and K follow from one another: s, x̂ and both means are known."""
    output, k = state.values[layer.number], state.gradients[layer.number]
    means = in_whole(layer, k & (output | ~state.support(layer.number))) | means_known(state, layer)
    return _where_known(state, layer) & output & means


def means_known(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return where `mean(K)` and `mean(K x̂)` follow from the gradients of factors and shifts behind a normalisation."""
    if layer.name not in state.means:
        state.means[layer.name] = _whole_channels(state, layer)
    return state.means[layer.name]


def _whole_channels(state: GraphState, layer: PlacedLayer) -> BoolArray:
    """Return the groups that consist of whole channels of factors, which alone read what the layer makes."""
    nowhere, network, number = np.zeros(layer.input_shape, dtype=bool), state.drawn.network, layer.number
    between = list[PlacedLayer]()
    while True:
        users = network.users(number)
        if len(users) != 1 or is_source(users[0]) or len(users[0].inputs) != 1:
            return nowhere
        user = users[0]
        if user.is_bilinear:
            break
        between.append(user)
        number = user.number
    shifted = user.bias_name is not None or not layer.normalisation.centred
    if not isinstance(user.layer, ChannelScale) or not shifted:
        return nowhere
    channel: FloatArray = np.repeat(np.arange(1.0, user.channels + 1), user.unknowns // user.channels)[:, None]
    ones = np.ones((user.unknowns, 1))
    for step in reversed(between):
        part = state.drawn.parts(step)[step.inputs[0]]
        channel, ones = part.down(channel), part.down(ones)
    if channel.size != math.prod(layer.input_shape) or (ones != 1).any():
        return nowhere  # not the same values in another order
    runs = layer.normalisation.runs(layer.input_shape)
    groups = np.repeat(np.arange(runs), layer.unknowns // runs)
    of_channel = channel.ravel().astype(np.intp)
    low, high = np.full(user.channels + 1, len(groups)), np.full(user.channels + 1, -1)
    np.minimum.at(low, of_channel, groups)
    np.maximum.at(high, of_channel, groups)
    single = (low == high)[of_channel].reshape(layer.input_shape)
    return in_whole(layer, single)
