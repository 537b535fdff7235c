"""The sparsest point of a family, and why its zeros are no accident.

Values behind a ReLU have many exact zeros, and the family `p + V y` that equations leave has few directions: the truth
is a point of it where far more values are zero than there are directions, and no other point of a generic family is.
Vertices of the family within the range of its values come from linear programmes with random and reweighted objectives
(all vertices where these are few), `evidence` says when one is no accident; then others like it are looked for.
What rests on it is unique for generic data, not proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.beyond_rank.evidence import (
    EXCESS,
    WEAK,
    Question,
    TightPoint,
    certify_tight,
    parts,
    settle,
)
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.vertices import Programmes, all_vertices, few
from constraint_algebra.numerics.rows import EPSILON

TRIES = 40  # programmes for a first point
SECOND = 12  # programmes for a second one
ROUND = 6  # programmes, each weighed by the solution of the one before, until weights are drawn anew
AMBIGUOUS = 0.5  # another point with that share of the conditions beyond the unknowns leaves the question open
LIGHT = (0.0, 0.01, 0.1)  # what values on plateaus at the point found weigh when others are looked for
NEAR = 1e-7  # what a vertex may miss, as a share of the scale
SEEN = (
    1e-3  # smallest singular value of the rows that tell something, of 1: a direction that they do not show stays open
)
_SHARPEST = (0.3, 0.05, 0.01)  # what is added to a value, as a share of the scale, before its inverse weighs it


@dataclass(frozen=True, eq=False)
class SparsePoint:
    """The sparsest point of a family.

    Attributes:
        x: the point, `(n,)`; values on a plateau are exactly there.
        at: plateau on which a value lies, `(n,)`; NaN where it lies on none, or where that is no evidence.
        leverage: the largest leverage of the rows on plateaus: 1 would be a value that does not follow from the others.
        excess: how many conditions there are beyond the number of unknowns; rows that say the same count once.
        V: the directions of the family, `(n, d)`.
    """

    x: FloatArray
    at: FloatArray
    leverage: float
    excess: int
    V: FloatArray

    def moved(self, perturbations: FloatArray) -> FloatArray:
        """Return how perturbations of the family's point, `(n, members)`, move this point, `(n, members)`.

        Values on plateaus stay where they are.
        """
        tight = ~np.isnan(self.at)
        dy = scipy.linalg.lstsq(self.V[tight], -perturbations[tight])[0]
        return np.asarray(np.where(tight[:, None], 0.0, perturbations + self.V @ dy))


def sparsest(
    family: Family,
    levels: tuple[float, ...] = (0.0,),
    *,
    low: float = 0.0,
    high: float = np.inf,
    rng: np.random.Generator,
    tries: int = TRIES,
    scale: float | None = None,
) -> SparsePoint | None:
    """Return the point of the family whose values on plateaus are no accident.

    Args:
        family: all points that equations leave; thresholds follow from its `noise`.
        levels: the plateaus of the activation below: 0 for ReLU, 0 and 6 for ReLU6.
        low: its least value, `-inf` without one.
        high: its largest value.
        rng: where objectives come from.
        tries: how many programmes to try at most, in each part of the family.
        scale: size of the values in this unit, where the family itself does not show it (a channel of zeros); by
            default the largest value of its point p.

    Returns:
        The point; `None` where none is certified, or a second one that is about as sparse.

    >>> V = np.array([[1.0, 2, 3, 1]]).T / np.sqrt(15)
    >>> family = Family(np.array([1.0, 2, 3, 3]), V, np.full(4, 1e-15))
    >>> sparsest(family, rng=np.random.default_rng(0)).x
    array([0., 0., 0., 2.])
    """
    question = _question(family, levels, low, high, scale)
    groups = [] if question is None else _independent(question)
    if question is None or not groups:
        return None
    at, points = np.full(len(family.p), np.nan), []
    for rows in groups:
        point = _unambiguous(_restricted(question, rows), rng, tries)
        if point is None:
            return None
        points.append(point)
        at[rows] = point.at
    return _together(question, at, points, family.V)


def certain_plateaus(
    family: Family,
    levels: tuple[float, ...] = (0.0,),
    *,
    low: float = 0.0,
    high: float = np.inf,
    rng: np.random.Generator,
    tries: int = TRIES,
    scale: float | None = None,
) -> FloatArray:
    """Return the plateau on which each value lies by the same evidence, `(n,)`, NaN where there is none.

    Parts of the family that share no direction are decided one by one: one that stays open, as that of a corner which
    nothing reads, takes nothing from the others. The arguments are those of `sparsest`.

    >>> V = np.array([[1.0, 2, 3, 1, 0], [0, 0, 0, 0, 1]]).T / np.sqrt([15, 1])
    >>> family = Family(np.array([1.0, 2, 3, 3, 1]), V, np.full(5, 1e-15))
    >>> sparsest(family, rng=np.random.default_rng(0)), certain_plateaus(family, rng=np.random.default_rng(0))
    (None, array([ 0.,  0.,  0., nan, nan]))
    """
    question, at = _question(family, levels, low, high, scale), np.full(len(family.p), np.nan)
    for rows in [] if question is None else _independent(question, every=False):
        point = _unambiguous(_restricted(question, rows), rng, tries) if question is not None else None
        if point is not None:
            at[rows] = point.at
    return at


def _question(
    family: Family, levels: tuple[float, ...], low: float, high: float, scale: float | None
) -> Question | None:
    """Return the family with rounding added to its noise; `None` without directions, scale, or finite numbers."""
    p, V, noise = family.p, family.V, family.noise
    if not levels or not family.dimension or not all(np.isfinite(part).all() for part in (p, V, noise)):
        return None
    size = float(np.abs(p).max(initial=0)) if scale is None else scale
    if size == 0 and not noise.any():
        size = 1.0  # zeros without noise are zeros in any unit
    if not size > 0:
        return None
    noise = np.hypot(noise, 4 * EPSILON * (np.abs(p) + size))
    return Question(p, V, noise, np.array(sorted(levels), dtype=float), low, high, size)


def _independent(question: Question, *, every: bool = True) -> list[IntArray]:
    """Return the entries of each part that shares no direction with the others, without those sure to stay open.

    None of them where any is and `every` part counts.
    """
    rows = np.flatnonzero(question.telling)
    V, d = question.V[rows], question.V.shape[1]
    if len(rows) < d + EXCESS or np.linalg.svd(V, compute_uv=False)[-1] < SEEN:
        return []
    weak = min(float((100 * question.noise[rows]).max()) / question.scale, WEAK)
    found = parts(V, weak)
    enough = [part for part in found if len(part.rows) >= part.unknowns + EXCESS]
    return [] if every and len(enough) < len(found) else [rows[part.rows] for part in enough]


def _restricted(question: Question, rows: IntArray) -> Question:
    """Return one part of the family, in directions of its own."""
    U, sigma, _ = np.linalg.svd(question.V[rows], full_matrices=False)
    own = U[:, : int((sigma > 0.5).sum())]  # V has orthonormal columns: a direction is of this part or not
    return replace(question, p=question.p[rows], V=own, noise=question.noise[rows])


def _unambiguous(part: Question, rng: np.random.Generator, tries: int) -> TightPoint | None:
    """Return the sparsest point of one part, `None` where none is certified or another one is about as sparse."""
    found: list[TightPoint] = []
    for start in all_vertices(part) if few(part) else _vertices(part, found, rng, tries):
        if any((np.abs(start - other.x) <= other.tolerance + NEAR * part.scale).all() for other in found):
            continue
        point = certify_tight(part, start)
        if point is not None and not any(_same(point, other) for other in found):
            found.append(point)
    best = max((point for point in found if point.enough), key=lambda point: point.excess, default=None)
    if best is None or any(point is not best and point.excess >= AMBIGUOUS * best.excess for point in found):
        return None
    return best


def _same(one: TightPoint, other: TightPoint) -> bool:
    return bool((np.abs(one.x - other.x) <= one.tolerance + other.tolerance).all())


def _together(question: Question, at: FloatArray, points: list[TightPoint], V: FloatArray) -> SparsePoint | None:
    """Return the point that all parts give together, if no value leaves the range and no zero is lost."""
    settled = settle(question, ~np.isnan(at), at)
    if settled is None or (np.isnan(settled.at) & ~np.isnan(at)).any():
        return None
    leverage = max(point.leverage for point in points)
    return SparsePoint(settled.x, settled.at, leverage, sum(point.excess for point in points), V)


def _vertices(part: Question, found: list[TightPoint], rng: np.random.Generator, tries: int) -> Iterator[FloatArray]:
    """Yield vertices at which many values lie on plateaus; as soon as one is `found`, only others than that."""
    programmes = Programmes(part)
    x, cut, number, last, others = programmes.p, None, 0, tries, False
    while number < last:
        if not others and any(point.enough for point in found):
            number, last, others = 0, SECOND, True
        weight, level = _objective(part, x if number % ROUND else None, number, rng)
        if others:
            other = found[rng.integers(len(found))]
            cut = _elsewhere(part, other, rng)
            weight = np.where(np.isnan(other.at[part.telling]), weight, rng.choice(LIGHT) * weight)
        y = programmes.minimise(weight, level, cut)
        number += 1
        x = programmes.p if y is None else programmes.p + programmes.V @ y
        if y is not None:
            yield part.p + part.V @ y


def _objective(
    part: Question, x: FloatArray | None, number: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return what each value weighs and the plateau to which it is drawn.

    Without a point x at random; else the heavier, the nearer it is to a plateau there.
    """
    n = int(part.telling.sum())
    if x is None:
        lowest = np.full(n, part.levels[0])
        return (np.ones(n), lowest) if number == 0 else (rng.random(n), rng.choice(part.levels, n))
    level = part.nearest(x)
    gap = np.abs(x - level) / part.scale
    return (0.5 + rng.random(n)) / (gap + rng.choice(_SHARPEST)), level


def _elsewhere(part: Question, point: TightPoint, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """Return a half-space `a · x >= least` of the telling rows: values on plateaus at a point have to leave these."""
    at = point.at[part.telling]
    sign = np.where(at == part.low, 1.0, np.where(at == part.high, -1.0, rng.choice([-1.0, 1.0], len(at))))
    a = np.where(np.isnan(at), 0.0, sign * rng.random(len(at)))
    return a, float(a @ np.nan_to_num(at)) + part.scale * 10 ** rng.uniform(-3, -0.5)
