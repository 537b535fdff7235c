"""The blind start of the recursion on a graph: one layer's weight gradient by itself, where nothing else begins.

Behind a global average pool the head knows the mean of a map, not the map. But a convolution of stride 1 fixes its
input h and its output gradient k up to one factor (`solvers.blind`), and a bias gradient gives the factor: its own,
`sum_o k = dL/db`, or that of a batch norm to which k goes up on a single path, on which everything is linear.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.graph_rules import push
from constraint_algebra.recursion.noise import STORED_SOLUTION
from constraint_algebra.solvers import blind

AGREES = 8.0  # standard deviations, root mean square over the filters, within which the bias equations hold
ROUNDED = 1e-9  # of the largest sum: what counts as no misfit in any case


def blind_start(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn input and output gradient of a layer from its weight gradient, if nothing is known of the input."""
    number = layer.inputs[0]
    if layer.groups != 1 or not layer.outputs or knows.values[number].known.any() or not blind.applies(layer):
        return False
    observed = knows.observed
    dW, noise = observed.gradients[layer.weight_name], observed.deviations[layer.weight_name]
    factored = blind.factor(layer, dW, noise, arithmetic=observed.rounding.arithmetic)
    if factored is None:
        return False
    draws = observed.draw(factored.deviations, layer.weight_shape)
    of_k, of_h = blind.moved(factored, draws)
    every = np.ones(layer.output_shape, dtype=bool)
    k = Estimate(factored.output_gradient, every, of_k)
    scale = _scale(knows, layer, k)
    if scale is None:
        return False
    c, of_c = scale
    h = factored.input
    moved_k = c * of_k + k.value[..., None] * of_c
    found_k = Estimate(
        c * k.value, every, moved_k + observed.draw(STORED_SOLUTION * np.abs(c * k.value), k.value.shape)
    )
    moved_h = of_h / c - h[..., None] * of_c / c**2 + observed.draw(STORED_SOLUTION * np.abs(h / c), h.shape)
    knows.blind.append(layer.name)
    learnt = knows.learn_gradient(layer.number, found_k)
    return knows.learn_value(number, Estimate(h / c, np.ones(h.shape, dtype=bool), moved_h)) or learnt


def _scale(knows: GraphKnowledge, layer: PlacedLayer, k: Estimate) -> tuple[float, FloatArray] | None:
    """Return what k has to be multiplied by, and how noise moves it; `None` where no bias equation tells."""
    scratch = GraphKnowledge.nothing(knows.observed)
    scratch.learn_gradient(layer.number, k)
    while True:
        if layer.bias_name is not None:
            found = _from_bias(knows, layer, scratch.gradients[layer.number])
            if found is not None:
                return found
        above = _next(scratch, layer)
        if above is None:
            return None
        layer = above


def _next(scratch: GraphKnowledge, layer: PlacedLayer) -> PlacedLayer | None:
    """Return the layer with a bias to which the gradient goes up on a single path of linear operations."""
    while True:
        users = scratch.network.users(layer.number)
        if len(users) != 1 or users[0].is_source or not push(scratch, users[0]):
            return None
        layer = users[0]
        if layer.is_bilinear and layer.bias_name is not None:
            return layer


def _from_bias(knows: GraphKnowledge, layer: PlacedLayer, k: Estimate) -> tuple[float, FloatArray] | None:
    """Return the factor by the bias equations of the filters whose k is all there, up to the factor."""
    assert layer.bias_name is not None
    there = k.known.reshape(layer.filters, -1).all(axis=1)
    db, own = knows.observed.gradients[layer.bias_name][there], knows.observed.deviations[layer.bias_name][there]
    of_filter = k.filled().reshape(layer.filters, -1)[there]
    S, moved = of_filter.sum(axis=1), kept(k).reshape(layer.filters, -1, MEMBERS)[there].sum(axis=1)
    size = float(S @ S)
    arithmetic = knows.observed.rounding.arithmetic * np.sqrt((of_filter**2).sum(axis=1))
    if not size or size <= AGREES**2 * float((moved**2).mean(axis=1).sum() + (arithmetic**2).sum()):
        return None
    c = float(S @ db) / size
    noise = np.sqrt(own**2 + c**2 * ((moved**2).mean(axis=1) + arithmetic**2)) + ROUNDED * np.abs(db).max()
    if not c or np.sqrt((((c * S - db) / noise) ** 2).mean()) > AGREES:
        return None
    draws = knows.observed.draw(np.hypot(own, c * arithmetic), own.shape)
    return c, (S @ (draws - c * moved)) / size
