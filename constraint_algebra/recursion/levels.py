"""Beyond the equations, one ground after the other, the strongest first: the range, zeros, bits.

The recursion is made by equations alone first. Only what these leave open is looked at again with what is weaker: a
value that is known only then rests on that ground, and everything that was known before keeps its own. What a ground
adds counts only if the gradients recomputed from the whole input are those given.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from constraint_algebra.arrays import GroundArray
from constraint_algebra.ground import Ground
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.found import Found
from constraint_algebra.recursion.last_step import Search
from constraint_algebra.recursion.open_values import CLEAR, Beyond
from constraint_algebra.recursion.result import CONTRADICTION, UNSOUND, LayerSolution, Reconstruction, Status

OPEN_STATUS = (Status.PARTIAL, Status.UNDETERMINED)


class Passes(Protocol):
    """A recursion that can be made again with more than the equations.

    Attributes:
        grounds: those on which it may find anything, the strongest first. Equations alone come again: what is known of
            a layer's input in part may say more of the layers above.
    """

    @property
    def grounds(self) -> tuple[Ground, ...]:
        """The grounds."""

    def to_input(self, beyond: Beyond | None = None) -> Found | None:
        """Return what is found."""


class Judge(Protocol):
    """Makes the result of an input, checked against all gradients."""

    def __call__(
        self, x: Estimate, summaries: list[LayerSolution], *, ground: GroundArray | None = None
    ) -> Reconstruction:
        """Return it."""


def take(result: Reconstruction, found: Found, passes: Passes, judge: Judge, search: Search) -> Reconstruction:
    """Return what the range, zeros and bits add to a result that is open; any other result as it is.

    Args:
        result: by equations alone.
        found: what the recursion found for it.
        passes: the recursion.
        judge: makes the result of an input.
        search: how long to look, and the valid range.
    """
    x = found.input
    own = tuple(note for note in result.notes if note not in found.notes)
    by_ground: tuple[str, ...] = _broken_range(result, search)
    for ground in passes.grounds:
        if search.seconds <= 0 or result.status not in OPEN_STATUS:
            break
        end = time.monotonic() + search.seconds
        more = passes.to_input(Beyond(ground, search.valid_range, end, search.seed, search.seconds))
        if more is None:
            break
        fresh = more.input.known & ~x.known
        x = _merged(x, more.input)
        grounds = np.where(fresh, np.uint8(ground), result.ground)
        wider = judge(x, more.summaries, ground=grounds)
        if wider.status in UNSOUND or _contradicts(result.layers, more.summaries):
            what = "its gradients are not those given" if wider.status in UNSOUND else "equations contradict it"
            refused = f"what follows by {ground.label} was not taken in: {what}"
            return replace(result, notes=(*result.notes, refused))
        if fresh.any():
            by_ground = (*by_ground, _words(ground, int(fresh.sum()), more))
        result = replace(wider, notes=(*own, *more.notes, *by_ground))
    return result


def _contradicts(before: Sequence[LayerSolution], after: Sequence[LayerSolution]) -> bool:
    """Return whether equations of a layer contradict what is known now, and did not before."""
    bad = {line.name for line in before if line.misfit > CONTRADICTION}
    return any(line.misfit > CONTRADICTION and line.name not in bad for line in after)


def _broken_range(result: Reconstruction, search: Search) -> tuple[str, ...]:
    """Return a sentence if values that equations determine lie outside the valid range, which then says nothing."""
    (low, high), x = search.valid_range, result.input[result.determined]
    slack = CLEAR * result.error_bar[result.determined] + 1e-9 * (1 + np.abs(x))
    outside = int(((x < low - slack) | (x > high + slack)).sum())
    if not outside or search.seconds <= 0 or result.status not in OPEN_STATUS:
        return ()
    return (
        f"{outside:,} values known by equations lie outside of valid_range, {low:g} to {high:g}, which was not used",
    )


def _words(ground: Ground, count: int, found: Found) -> str:
    """Return how many values rest on a ground, and how far it reaches."""
    words = f"{count:,} values rest on {ground.words}"
    if ground is Ground.RANGE and not found.by_valid_range:
        words += "; only outputs of activations were asked for theirs, and they lie in it for every input"
    return words


def _merged(x: Estimate, more: Estimate) -> Estimate:
    """Return what was known of the input, and elsewhere what was found."""
    held = x.known
    return Estimate(
        np.where(held, x.value, more.value),
        held | more.known,
        np.where(held[..., None], x.perturbations, more.perturbations),
    )
