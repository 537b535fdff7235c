"""Points spread over a set of differences, each a random step from the one before: hit and run.

A linear program has the farthest point, at the price of many factorisations in the dimension of the set. A step of this
walk is a random line through the current point, cut where it leaves the set, and a random point on what is left: two
products with the rows. After some steps most values have moved, and one verification shows it for all of them. The
points are spread evenly only after very many steps (Lovász 1999); for a twin any one of them will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.proofs.polytope import ROUNDING, SAFETY, Polytope

INWARDS = 0.98  # share of a line inside the set that a step may use


def hit_and_run(polytope: Polytope, seed: int) -> Iterator[FloatArray]:
    """Yield flat differences inside the set, without end; none where the set has no room in any direction."""
    point, _ = polytope.interior
    rng, cut = np.random.default_rng(seed), polytope.cut
    slack = polytope.slack - np.minimum(SAFETY, np.maximum(polytope.slack, 0.0) / 2)
    met = cut @ point
    while polytope.dimension:
        way = polytope.drawn(rng)
        rise = cut @ way
        ahead, behind = (
            min(
                _room(polytope.upper - point, sign * way),
                _room(point - polytope.lower, -sign * way),
                _room(slack - met, sign * rise),
            )
            for sign in (1.0, -1.0)
        )
        step = INWARDS * rng.uniform(-behind, ahead)
        point, met = point + step * way, met + step * rise
        yield np.clip(point, polytope.lower, polytope.upper)


def _room(room: FloatArray, rise: FloatArray) -> float:
    """Return how many times `rise` fits into `room`, everywhere."""
    over = rise > ROUNDING
    return float((np.maximum(room[over], 0.0) / rise[over]).min(initial=np.inf))
