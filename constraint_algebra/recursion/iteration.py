"""A fixed point found by iteration, with what it takes to trust it: how fast it contracts, and how it was damped.

A quadratic system that is linear once some numbers are guessed is solved by guessing them, solving, computing them from
the solution, and so on. The changes of successive rounds say by which factor a round brings it nearer. Where they grow,
only a share of each step is taken: a fixed point does not depend on that share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import FloatArray

ROUNDS = 40  # the last ones that still came to stand took 20
STANDING = 1e-7  # a change of that size and no smaller than before is rounding: the iteration stands
EXACT = 4e-15  # a change below that counts as none
LEAST_SHARE = 1 / 16  # of a step


@dataclass(frozen=True)
class FixedPoint:
    """Where an iteration came to stand.

    Attributes:
        point: the numbers.
        rounds: how many it took.
        contraction: factor by which a round shrank the change, on the whole.
        share: of each step that was taken in the end; 1 where nothing was damped.
    """

    point: FloatArray
    rounds: int
    contraction: float
    share: float

    @property
    def words(self) -> str:
        """What is to be said of it."""
        damped = "" if self.share == 1 else f", damped to {self.share:g} of each step"
        return (
            f"{self.rounds} rounds, each brought it nearer by a factor of {1 / max(self.contraction, 1e-9):.1f}{damped}"
        )


def fixed_point(
    step: Callable[[FloatArray], FloatArray | None], start: FloatArray, *, rounds: int = ROUNDS
) -> FixedPoint | None:
    """Return where `point = step(point)` comes to stand; `None` where it does not, within so many rounds.

    Args:
        step: one round, for numbers of the order of one; `None` says that it cannot go on.
        start: the first guess.
        rounds: of which there are at most so many.

    >>> found = fixed_point(lambda x: 0.25 * x + 3, np.zeros(1))
    >>> round(float(found.point[0]), 12), round(found.contraction, 3), found.share
    (4.0, 0.25, 1.0)
    >>> round(float(fixed_point(lambda x: 3 - 1.5 * x, np.zeros(1)).point[0]), 12)
    1.2
    """
    point, share, changes = start, 1.0, list[float]()
    for number in range(1, rounds + 1):
        aim = step(point)
        if aim is None or not np.isfinite(aim).all():
            return None
        change = float(np.abs(aim - point).max(initial=0.0))
        changes.append(change)
        grew = len(changes) > 1 and change >= changes[-2]
        if change < EXACT or (grew and change < STANDING):
            return FixedPoint(aim, number, _contraction(changes), share)
        if grew:
            share = max(share / 2, LEAST_SHARE)
        point = point + share * (aim - point)
    return None


def _contraction(changes: list[float]) -> float:
    """Return the factor by which a round shrank the change, down to where rounding took over."""
    clear = [change for change in changes if change > STANDING * 1e-4]
    if len(clear) < 2:
        return 0.0
    return float((clear[-1] / clear[0]) ** (1 / (len(clear) - 1)))
