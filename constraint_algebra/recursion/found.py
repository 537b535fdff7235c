"""What a recursion found, whichever way it took."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, GroundArray
from constraint_algebra.ground import Ground
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.result import OPEN, LayerSolution


class Found(NamedTuple):
    """What is known of the network's input, and how it was found.

    Attributes:
        input: the input.
        summaries: a line for every layer, last layer first.
        notes: what else is to be said.
        by_valid_range: whether the valid range of the input decided anything, not only the ranges of activations'
            outputs, which hold for every input.
    """

    input: Estimate
    summaries: list[LayerSolution]
    notes: tuple[str, ...] = ()
    by_valid_range: bool = False


def with_grounds(before: GroundArray | None, known: BoolArray, ground: Ground) -> GroundArray:
    """Return the grounds of values: of those known before the same, of those that are new the one given.

    >>> with_grounds(np.array([0, 255], np.uint8), np.array([True, True]), Ground.ZEROS)
    array([0, 2], dtype=uint8)
    """
    held = np.full(known.shape, OPEN, np.uint8) if before is None else before
    fresh = np.where(held == OPEN, np.uint8(ground), held)
    return np.where(known, fresh, np.uint8(OPEN))


def counted(grounds: GroundArray) -> tuple[tuple[str, int], ...]:
    """Return how many values rest on which ground, by its label; nothing where the equations are the only one.

    >>> counted(np.array([0, 0, 2, 255], np.uint8)), counted(np.zeros(3, np.uint8))
    ((('equations', 2), ('zeros', 1)), ())
    """
    counts = tuple((g.label, int(n)) for g in Ground if (n := np.count_nonzero(grounds == g)))
    return counts if any(label != Ground.EQUATIONS.label for label, _ in counts) else ()
