"""The blind start of the recursion on a graph: one layer's weight gradient by itself, where nothing else begins.

Behind a global average pool the head knows the mean of a map, not the map. But a convolution of stride 1 fixes its
input h and its output gradient k up to one factor (`solvers.blind`), also where a normalisation of each channel by its
own statistics reads it and the k of each filter sums to zero. A bias gradient or buffers give the factor
(`blind_scale`).
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion import blind_scale
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.noise import STORED_SOLUTION
from constraint_algebra.solvers import blind


def blind_start(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn input and output gradient of a layer from its weight gradient, if nothing is known of the input."""
    number = layer.inputs[0]
    if layer.groups != 1 or not layer.outputs or knows.values[number].known.any() or not blind.applies(layer):
        return False
    observed = knows.observed
    dW, noise = observed.gradients[layer.weight_name], observed.deviations[layer.weight_name]
    centred = is_centred(knows, layer)
    factored = blind.factor(layer, dW, noise, arithmetic=observed.rounding.arithmetic, centred=centred)
    if factored is None:
        return False
    draws = observed.draw(factored.deviations, layer.weight_shape)
    of_k, of_h = blind.moved(factored, draws)
    every, h = np.ones(layer.output_shape, dtype=bool), factored.input
    k = Estimate(factored.output_gradient, every, of_k)
    scale = _scale(knows, layer, k, Estimate(h, np.ones(h.shape, dtype=bool), of_h))
    if scale is None:
        return False
    c, of_c = scale
    moved_k = c * of_k + k.value[..., None] * of_c
    found_k = Estimate(
        c * k.value, every, moved_k + observed.draw(STORED_SOLUTION * np.abs(c * k.value), k.value.shape)
    )
    moved_h = of_h / c - h[..., None] * of_c / c**2 + observed.draw(STORED_SOLUTION * np.abs(h / c), h.shape)
    knows.blind.append(layer.name)
    learnt = knows.learn_gradient(layer.number, found_k)
    return knows.learn_value(number, Estimate(h / c, np.ones(h.shape, dtype=bool), moved_h)) or learnt


def is_centred(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Return whether the k of each filter sums to zero, since nothing but a normalisation of each channel reads it."""
    users = knows.network.users(layer.number)
    if len(users) != 1 or not users[0].is_normalisation:
        return False
    norm = users[0].normalisation
    return norm.centred and norm.runs(users[0].input_shape) == layer.filters


def _scale(knows: GraphKnowledge, layer: PlacedLayer, k: Estimate, h: Estimate) -> blind_scale.Scale | None:
    """Return what k has to be multiplied by, and how noise moves it; `None` where nothing tells."""
    found = None if is_centred(knows, layer) else blind_scale.from_above(knows, layer, k)
    if found is None and any(user.is_normalisation for user in knows.network.users(layer.number)):
        found = blind_scale.from_below(knows, layer, k, h) or blind_scale.from_statistics(knows, layer, h)
    return found
