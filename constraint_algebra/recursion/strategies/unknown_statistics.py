"""A value below normalisations whose mean and scale are not known: solved together with them.

By equations alone where every x̂ is known, or in the part that does without the others; near a solution that fits where
x̂ behind a ReLU are found by iteration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion import graph_statistics
from constraint_algebra.recursion.entrywise import rearranging
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.graph_rules import is_scale
from constraint_algebra.recursion.graph_solving import readers
from constraint_algebra.recursion.normalised_reader import Normalised
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.own_statistics_solution import Below, Outcome

NAME = "unknown statistics"


@dataclass(frozen=True)
class UnknownStatistics:
    """Solves for what a layer with a weight reads, with mean and scale of each group of the normalisation behind it.

    Attributes:
        ground: on what it rests: the equations, or near a solution that an iteration found.
    """

    ground: Ground

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether it is a normalisation by own statistics."""
        return layer.is_normalisation

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether statistics are open, and anything is known behind them of what a layer below reads."""
        below = reads(knows, layer)
        if below is None or knows.statistics[layer.index].known.all():
            return False
        value, K = knows.values[layer.number], knows.gradients[layer.number]
        return not knows.values[below.inputs[0]].known.all() and K.says_something(value)

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:
        """Return about how many multiplications it takes: those of the equations of what the layer below reads."""
        below = reads(knows, layer)
        unknowns = layer.unknowns if below is None else below.unknowns
        rounds = 1 if self.ground is Ground.EQUATIONS else 20
        return float(rounds * unknowns * math.prod(layer.input_shape))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Learn the value that the layer below reads, and the statistics."""
        below = reads(knows, layer)
        if below is None:
            return False
        number = below.inputs[0]
        layers = [user for user in knows.network if user.is_normalisation and self._is_with(knows, user, number)]
        normed = [_normalised(knows, user) for user in layers]
        own = {n.layer.index for n in normed}
        plain = [reader for reader in readers(knows, number) if reader.layer.index not in own]
        end = math.inf if beyond is None else beyond.end
        problem = Below(knows.observed, knows.values[number], plain, normed, end)
        found = problem.linear() if self.ground is Ground.EQUATIONS else problem.iterated()
        if self.ground is not Ground.EQUATIONS or not any(n.hidden.any() for n in normed):  # not all equations yet
            _note(knows, layer, below, found)
        if found is None:
            return False
        learnt = [knows.learn_moments(user, m) for user, m in zip(layers, found.moments, strict=True)]
        return knows.learn_value(number, found.value) or any(learnt)

    def _is_with(self, knows: GraphKnowledge, layer: PlacedLayer, number: int) -> bool:
        below = reads(knows, layer)
        return below is not None and below.inputs[0] == number and self.applies(knows, layer)


def _note(knows: GraphKnowledge, layer: PlacedLayer, below: PlacedLayer, found: Outcome | None) -> None:
    """Keep in words what was found below a normalisation, and what stays open."""
    key, what = (NAME, layer.index), f"the input of layer {below.name!r}"
    if found is None:
        knows.vain.setdefault(key, f"{what}, below a normalisation whose statistics are not known, was not found")
        return
    knows.vain.pop(key, None)
    if found.value.known.all():
        if found.by_eps:
            knows.remarks[key] = f"a factor of {what} and of the statistics behind it is known by eps alone"
        elif found.words:
            knows.remarks[key] = f"{what} and the statistics behind it were found by iteration: {found.words}"
    elif found.factor and found.directions == 1:
        knows.vain[key] = f"one factor of {what} stays open: no bias fixes it, and eps is too small for this precision"
    elif found.directions:
        one = "(a factor of all is one of them) " if found.factor else ""
        many = f"{found.directions} directions {one}in which it moves with the statistics behind it"
        knows.vain[key] = f"{what} stays open: {many}"


def reads(knows: GraphKnowledge, layer: PlacedLayer) -> PlacedLayer | None:
    """Return the layer with a weight whose output a normalisation alone reads, entry by entry; `None` without one."""
    number = layer.inputs[0]
    while number and len(knows.network.users(number)) == 1:
        below = knows.network.layers[number - 1]
        if below.is_bilinear:
            return None if is_scale(below) else below
        step = rearranging(knows, below)
        if step is None or (step.factor == 0).any():
            return None
        number = below.inputs[0]
    return None


def _normalised(knows: GraphKnowledge, layer: PlacedLayer) -> Normalised:
    """Return a normalisation and the layer below it, in the order of that layer's output."""
    at, factor, shift = np.arange(layer.unknowns), np.ones(layer.unknowns), np.zeros(layer.unknowns)
    number = layer.inputs[0]
    while not (below := knows.network.layers[number - 1]).is_bilinear:
        step = rearranging(knows, below)
        assert step is not None
        shift = shift + factor * step.shift[at]
        factor, at = factor * step.factor[at], step.places[at]
        number = below.inputs[0]
    order = np.argsort(at)
    shape = below.output_shape

    def turned(estimate: Estimate) -> Estimate:
        flat = estimate.reshape((estimate.value.size,))
        parts = flat.value[order], flat.known[order], flat.perturbations[order]
        return Estimate(*parts).reshape(shape)

    G = layer.normalisation.runs(layer.input_shape)
    group = np.repeat(np.arange(G), layer.unknowns // G)[order].reshape(shape)
    m1, m2 = (part.reshape((G,)) for part in graph_statistics.means(knows, layer))
    x, K = turned(knows.values[layer.number]), turned(knows.gradients[layer.number])
    observed = knows.observed
    size = np.where(x.known, np.abs(x.value), 1.0)
    sizes = np.abs(K.filled()) + np.abs(m1.filled())[group] + size * np.abs(m2.filled())[group]
    rounding = observed.draw(observed.rounding.arithmetic * sizes, shape)
    turned_back = factor[order].reshape(shape), shift[order].reshape(shape)
    return Normalised(below, layer.normalisation, group, x, K, (m1, m2), rounding, *turned_back)


BY_EQUATIONS = UnknownStatistics(Ground.EQUATIONS)
BY_ITERATION = UnknownStatistics(Ground.NEIGHBOURHOOD)
