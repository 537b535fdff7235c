"""A value below residual blocks, from what is known above them: see `upward_solution`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.ground import Ground
from constraint_algebra.layers.activations import has_two_branches
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.graph_rules import is_scale
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.upward_equations import UpwardEquations, upward
from constraint_algebra.recursion.upward_solution import Fitted, Upward

STARTS = 3  # random inputs; one was enough in each case that came back
ROUNDS = 12  # that a search takes, about
# Unknowns and entries of a Jacobian for each second of the limit, so that at least some ten factorisations fit into it.
UNKNOWNS, ENTRIES = 80, 200_000


class Upwards:
    """Learns the smallest value below an operation that all known above it determines."""

    ground = Ground.NEIGHBOURHOOD

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether an operation hides what it reads, as no activation with one branch does."""
        return layer.is_normalisation or (layer.is_activation and has_two_branches(layer.activation))

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether as much is known above any value below as that has unknowns; at the lowest such operation."""
        first = next(other for other in knows.network if self.concerns(other))
        return layer is first and any(True for _ in _candidates(knows))

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:  # noqa: ARG002 -- others need it
        """Return about how many multiplications it takes: of factoring the Jacobian in each round."""
        return float(ROUNDS * min(one.rows * one.unknowns**2 for one in _candidates(knows)))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Learn the first value that a search finds, the smallest first."""
        if beyond is None:
            return False
        key, vain = ("upwards", layer.index), list[str]()
        for equations in sorted(_candidates(knows), key=lambda one: one.unknowns):
            what = f"{equations.unknowns:,} values by {equations.rows:,} known above them"
            seconds = _seconds(equations)
            if seconds > beyond.seconds:
                vain.append(f"a search for {what} was not made: it takes search={math.ceil(seconds)}")
                continue
            found = _found(equations, beyond)
            if found is not None and knows.learn_value(equations.number, found.value):
                knows.vain.pop(key, None)
                knows.remarks[key] = f"a search found {what}, in {found.rounds} rounds"
                return True
            limit = f" in {beyond.seconds:g} s" if time.monotonic() > beyond.end else ""
            vain.append(f"a search for {what} found none that fit{limit}")
        if vain:
            knows.vain[key] = vain[0]
        return False


def _found(equations: UpwardEquations, beyond: Beyond) -> Fitted | None:
    """Return what a search from one of several starts found."""
    search = Upward(equations)

    def out_of_time() -> bool:
        return time.monotonic() > beyond.end

    for start in _starts(equations, beyond):
        if out_of_time():
            break
        if search.has_full_rank(start):
            found = search.found(start, out_of_time)
            if found is not None:
                return found
    return None


def _candidates(knows: GraphKnowledge) -> Iterator[UpwardEquations]:
    """Yield the equations of all values that layers with a weight read and that have at least as many rows."""
    network = knows.network
    numbers = dict.fromkeys(layer.inputs[0] for layer in network.bilinear if not is_scale(layer))
    for number in numbers:
        if not knows.values[number].known.all():
            found = upward(knows, number)
            if found.rows >= found.unknowns:
                yield found


def _seconds(equations: UpwardEquations) -> float:
    """Return about how long a search takes."""
    return max(equations.unknowns / UNKNOWNS, equations.rows * equations.unknowns / ENTRIES)


def _starts(equations: UpwardEquations, beyond: Beyond) -> Iterator[FloatArray]:
    """Yield what random inputs make of a value."""
    knows, rng = equations.knows, np.random.default_rng(beyond.seed)
    low, high = beyond.valid_range if np.isfinite(beyond.valid_range).all() else (0.0, 1.0)
    for _ in range(STARTS):
        x = rng.uniform(low, high, knows.network.input_shape)
        yield knows.network.forward(knows.observed.parameters, x)[equations.number]
