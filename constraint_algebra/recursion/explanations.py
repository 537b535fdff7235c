"""Several explanations of the same gradients, which a head without bias may leave: which is best, and what all share.

A value is determined only if every explanation that is possible determines it and finds the same. One is impossible if
its input lies outside of the valid range, if its gradients are not those given, or if an output of an activation is one
that it never has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.spans import span_of
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.result import UNSOUND, Reconstruction, Status

FOUND = {Status.DETERMINED, Status.LOCAL}
AGREEING = 12.0  # error bars within which two explanations of the same gradients agree on a value
OPEN_RIVAL = (
    "a head without bias allows another output gradient, which may explain the gradients as well and leaves values open"
)
BEYOND = 1e-6  # relative distance from a range that is no rounding


def choose(results: list[Reconstruction], valid_range: tuple[float, float]) -> Reconstruction:
    """Return the result that fits best, with the other inputs that explain the gradients as well."""
    low, high = valid_range
    slack = 1e-3 * (high - low)

    def valid(result: Reconstruction) -> bool:
        inside = (result.input >= low - slack) & (result.input <= high + slack)
        return bool(inside[result.determined].all())

    consistent = [r for r in results if r.status not in UNSOUND] or results
    best, *others = sorted(consistent, key=lambda r: (not valid(r), max(r.discrepancy.values(), default=np.inf)))
    if not others or best.status in UNSOUND | {Status.UNDECIDED}:
        return replace(best, alternatives=(*best.alternatives, *others))
    rivals = [rival for rival in others if valid(rival)]
    alternatives = (*best.alternatives, *others)
    known = [rival for rival in rivals if rival.determined.any()]
    same = np.logical_and.reduce([best.determined, *(_agreeing(best, rival) for rival in known)])
    if np.array_equal(same, best.determined):
        if len(known) == len(rivals):
            return replace(best, alternatives=alternatives)
        if best.status in FOUND:  # its gradients are those given, which is told of no part of an input
            return replace(best, status=Status.AMBIGUOUS, alternatives=alternatives, notes=(*best.notes, OPEN_RIVAL))
        same = np.zeros_like(same)
    if any(rival.status in FOUND for rival in rivals):
        status, notes = Status.AMBIGUOUS, best.notes
    else:
        status, notes = Status.PARTIAL if same.any() else Status.UNDETERMINED, (*best.notes, OPEN_RIVAL)
    bars = np.where(same, best.error_bar, np.inf)
    return replace(best, status=status, determined=same, error_bar=bars, alternatives=alternatives, notes=notes)


def _agreeing(best: Reconstruction, rival: Reconstruction) -> BoolArray:
    """Return on which values another explanation of the gradients agrees: those that it determines likewise."""
    bars = np.where(best.determined, best.error_bar, 0.0) + np.where(rival.determined, rival.error_bar, 0.0)
    near = np.abs(best.guess - rival.guess) <= AGREEING * bars + 1e-12
    return np.asarray(rival.determined & near)


def is_out_of_range(between: Sequence[PlacedLayer], y: Estimate) -> bool:
    """Return whether a value is one that the activation which made it never has, beyond its error bars.

    Args:
        between: the layers between two that have weights.
        y: what is known at the input of the upper one.
    """
    activation = next((layer.activation for layer in reversed(between) if layer.is_activation), None)
    if activation is None:
        return False
    low, high, _ = span_of(activation)
    value = y.value[y.known]
    slack = AGREEING * y.deviation[y.known] + BEYOND * (1 + np.abs(value))
    return bool(((value < low - slack) | (value > high + slack)).any())
