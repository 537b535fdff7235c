"""The rules of the recursion on a graph that solve for a value, from the equations of the layers that read it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion import layer_step
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.graph_rules import is_scale, peeled
from constraint_algebra.recursion.healing import healed
from constraint_algebra.recursion.value_equations import Reader, ValueEquations

DUAL = 4e9  # operations of a dual system up to which it is solved


def readers(knows: GraphKnowledge, number: int) -> list[Reader]:
    """Return the layers with a weight that read a value and say something of it."""
    found = []
    for user in knows.network.users(number):
        if user.is_bilinear and not is_scale(user):
            k, z = knows.gradients[user.number], knows.values[user.number]
            W = knows.observed.parameters[user.weight_name].reshape(user.filters, -1)
            says = W.any(axis=1).reshape(-1, *(1,) * len(user.outputs))  # a filter of zeros has no equations
            z = replace(z, known=z.known & says)
            if k.says_something(z):
                found.append(Reader(user, k, z))
    return found


def solve(knows: GraphKnowledge, number: int) -> bool:
    """Learn a value from the equations of all layers with a weight that read it."""
    value = knows.values[number]
    those = readers(knows, number)
    if not those or value.known.all():
        return False
    whole = ValueEquations(knows.observed, value, those)
    if len(those) == 1 and not whole.is_plain and whole.rank is None:
        return _solve_alone(knows, number, those[0])
    system, found, out = healed(whole, those)
    for part, left in zip(system.parts, out, strict=True):
        knows.solutions[part.reader.layer.index] = system.summary(part, found)
        if left.any():
            knows.doubt(part.reader.layer.number, left)
    return knows.learn_value(number, found)


def by_scale(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the last unknown value of a channel from the gradient equation of its factor, `sum_o k x = dL/dγ`."""
    if not is_scale(layer):
        return False
    x, k, observed = knows.values[layer.inputs[0]], knows.gradients[layer.number], knows.observed
    open_ones = (~x.known).reshape(layer.channels, -1).sum(axis=1)
    usable = (open_ones == 1) & k.known.reshape(layer.channels, -1).all(axis=1)
    if not usable.any():
        return False
    size = math.prod(layer.positions)
    channels = np.repeat(np.arange(layer.channels), size)
    row = sp.csr_array((k.filled().ravel(), (channels, np.arange(x.value.size))), shape=(layer.channels, x.value.size))
    dW, own = observed.gradients[layer.weight_name].ravel(), observed.deviations[layer.weight_name].ravel()
    moved = observed.draw(own, own.shape) - (kept(k) * x.filled()[..., None]).reshape(layer.channels, size, -1).sum(1)
    found = peeled((row,), Estimate(dW, usable, moved), [x])[0]
    # The coefficient of the unknown has noise of its own, which counts where the value is not small.
    clear = found.known & ~x.known & (np.abs(k.filled()) > SIDES * k.deviation)
    share = np.where(clear, found.value, 0.0) / np.where(clear, k.filled(), 1.0)
    with_k = Estimate(found.value, clear, found.perturbations - share[..., None] * kept(k))
    return knows.learn_value(layer.inputs[0], with_k)


def _solve_alone(knows: GraphKnowledge, number: int, reader: Reader) -> bool:
    """Solve for a value that one layer reads, as in a chain."""
    solved = layer_step.solve(knows.observed, reader.layer, reader.k, reader.z)
    knows.solutions[reader.layer.index] = solved.summary
    if solved.left_out.any():
        knows.doubt(reader.layer.number, solved.left_out)
    return knows.learn_value(number, solved.input)
