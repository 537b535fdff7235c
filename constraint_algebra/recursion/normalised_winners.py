"""The gradient at the outputs of a layer below a normalisation and a selection, for winners and an input.

With the winners all that arrives at the normalisation is known, with the input what it makes of that on the way back:
the rules of the recursion tell the rest, here on knowledge of their own.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion import graph_rules, graph_statistics
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, Moments, kept
from constraint_algebra.recursion.graph_solving import readers
from constraint_algebra.recursion.pooled import Pooled
from constraint_algebra.recursion.value_equations import Reader, ValueEquations

ROUNDS, STANDS = 30, 1e-12  # in which k follows, and the share of the input that ends it
ABOUT = 1e-6  # of the input: how near it is to begin with
ROUNDED = 1e-13  # of the largest statistic, that no error bar covers


def below_statistics(
    knows: GraphKnowledge, view: Pooled, winners: IntArray, z: Estimate, held: Estimate, start: FloatArray | None
) -> tuple[Estimate, bool]:
    """Return the gradient at the layer's outputs, and whether the input that belongs to it has the statistics known.

    The input is the one that follows from the values of the winners.

    Where these leave some open, the gradient equations with k at the start tell it; k is that of their solution, and so
    on: what k depends on through x̂ is a small part of it.

    Args:
        knows: what is known.
        view: the windows.
        winners: the place of the winner in each, -1 where it does not matter.
        z: the outputs that won.
        held: what is known of what the layer reads.
        start: all that it reads, about.
    """
    observed, layer = knows.observed, view.layer
    others = [reader for reader in readers(knows, layer.inputs[0]) if reader.layer is not layer]

    def solved(k: Estimate) -> Estimate:
        return ValueEquations(observed, held, [*others, Reader(layer, k, z)]).estimate()

    x = solved(Estimate.unknown(layer.output_shape, MEMBERS))
    if x.known.all() or start is None:
        return _at(knows, view, winners, x)
    about = observed.draw(np.full(start.shape, ABOUT * float(np.abs(start).max(initial=0.0))), start.shape)
    x = Estimate(start, np.ones(start.shape, dtype=bool), about)
    k, agrees = _at(knows, view, winners, x)
    for _ in range(ROUNDS):
        found = solved(k)
        if not found.known.all():
            break
        stands = float(np.abs(found.value - x.value).max()) <= STANDS * float(np.abs(found.value).max(initial=0.0))
        x = found
        k, agrees = _at(knows, view, winners, x)
        if stands:
            break
    return k, agrees


def _at(knows: GraphKnowledge, view: Pooled, winners: IntArray, x: Estimate) -> tuple[Estimate, bool]:
    """Return the gradient at the layer's outputs below a normalisation, and whether x has the statistics known there.

    Args:
        knows: what is known.
        view: the windows.
        winners: the place of the winner in each, -1 where it does not matter.
        x: what the layer reads, as far as it follows from these winners.
    """
    own = knows.copied()
    own.learn_value(view.layer.inputs[0], x)
    own.learn_winners(view.selection, view.winners(winners))
    way, agrees = _way_up(knows.network, view), True
    for layer in way:
        if layer.is_normalisation:
            known = knows.statistics[layer.index]
            own.learn_value(layer.number, _normalised(own, layer, known))
            own.statistics[layer.index] = Moments.unknown(len(known.known))
            graph_statistics.forward(own, layer)  # what x itself makes of them
            agrees &= _agree(own.statistics[layer.index], known)
            own.statistics[layer.index] = known
        else:
            graph_rules.forward(own, layer)
    for layer in way[::-1]:
        graph_rules.pull(own, layer.number)
    return own.gradients[view.layer.number], agrees


def _normalised(knows: GraphKnowledge, layer: PlacedLayer, moments: Moments) -> Estimate:
    """Return x̂ by given moments, whatever those of the values are."""
    x, at = graph_statistics.in_groups(layer, knows.values[layer.inputs[0]]), graph_statistics.usable(moments)
    s = at.scale.value
    value = (x.filled() - at.mean.filled()) / s
    moved = (kept(x) - kept(at.mean) - value[..., None] * at.scale.perturbations) / s[..., None]
    return Estimate(value, x.known & at.mean.known & at.scale.known, moved).reshape(layer.output_shape)


def _way_up(network: Network, view: Pooled) -> list[PlacedLayer]:
    """Return the layer with a weight, and all operations from there to what the selection reads."""
    way, layer = list[PlacedLayer](), view.selection
    while layer is not view.layer:
        layer = network.layers[layer.inputs[0] - 1]
        way.insert(0, layer)
    return way


def _agree(one: Moments, other: Moments) -> bool:
    """Return whether moments agree to their noise, where both are known."""
    for a, b in ((one.mean, other.mean), (one.scale, other.scale)):
        both = a.known & b.known
        size = float(np.abs(b.value[both]).max(initial=0.0))
        if (np.abs(a.value - b.value) > SIDES * np.hypot(a.deviation, b.deviation) + ROUNDED * size)[both].any():
            return False
    return True
