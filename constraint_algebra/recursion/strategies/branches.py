"""Branches: which of its two pre-images each output of SiLU, GELU, Mish or hardswish has."""

from __future__ import annotations

import math
import time

import numpy as np

from constraint_algebra.ground import Ground
from constraint_algebra.layers.activations import has_two_branches
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion.branch_search import BranchSearch, Settled
from constraint_algebra.recursion.branching import Branching, Options, branching
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.open_values import Beyond

SOLUTIONS = 6  # that it takes, as a rule
SECONDS = 30.0  # at most for the robust alternation of one layer


class ByBranches:
    """Learns what a layer reads together with the branches of the activation above it: see `branch_search`."""

    ground = Ground.BRANCHES

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether an activation has two branches."""
        return layer.is_activation and has_two_branches(layer.activation)

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether outputs are known whose inputs are not, nor what a layer below reads."""
        y, z = knows.values[layer.number], knows.values[layer.inputs[0]]
        return bool((y.known & ~z.known).any()) and bool(_below(knows, layer))

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:
        """Return about how many multiplications it takes: of eliminating the gradient equations, above all."""
        return SOLUTIONS * sum(_work(at.layer) for at in _below(knows, layer))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Take in values whose branches fit all equations; where these leave some open, the branches as well."""
        if beyond is None:
            return False
        for at in _below(knows, layer):
            if time.monotonic() > beyond.end:
                return False
            search = BranchSearch(knows, at, Options(knows, at))
            x = search.start()
            found = None if x is None else search.settled(x)
            if found is None and x is not None:
                end = min(beyond.end, time.monotonic() + SECONDS)
                found = search.alternated(np.random.default_rng(beyond.seed), end)
            if found is not None and _taken_in(knows, search, found):
                return True
        return False


def _below(knows: GraphKnowledge, activation: PlacedLayer) -> list[Branching]:
    """Return the ways up to an activation from layers with a weight that read what is not known."""
    ways = [branching(knows.network, layer) for layer in knows.network.bilinear if not is_known(knows, layer)]
    return [at for at in ways if at is not None and at.activation is activation]


def is_known(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Return whether all that a layer reads is known."""
    return bool(knows.values[layer.inputs[0]].known.all())


def _work(layer: PlacedLayer) -> float:
    positions, rows = math.prod(layer.positions), layer.filters // layer.groups * math.prod(layer.taps)
    return float(layer.groups * rows * positions**2 + 2 * math.prod(layer.weight_shape) * positions)


def _taken_in(knows: GraphKnowledge, search: BranchSearch, found: Settled) -> bool:
    for part in found.system.parts:
        knows.solutions[part.reader.layer.index] = found.system.summary(part, found.value)
    learnt = knows.learn_value(search.number, found.value)
    if found.value.known.all():
        return learnt
    return knows.learn_value(search.at.number, found.z) or learnt
