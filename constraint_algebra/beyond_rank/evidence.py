"""When values that lie on a plateau are no accident.

A point of the family `p + V y` at which the entries T lie on plateaus (exact zeros of a ReLU) solves
`V_T y = level_T - p_T`: more equations than unknowns. Let C be rows of T that depend on each other, `u V_C = 0` with no
entry of u zero. The truth is in the family too, so `u (level - truth)_C = 0`: one equation between true values. Data
that know nothing of V meet it only where all of these true values lie on their plateaus. So if every row of T depends
on others of T (its leverage is below 1) and V_T has full rank, the point is the truth, **for generic data**. What
stands between that sentence and a wrong answer:

- *Rows that say the same.* Two proportional rows depend on each other, yet a photograph with two equal pixels makes
  their equation hold. Such rows count as one condition, also where they are proportional but for a small angle. In a
  family of one direction all rows are proportional; there rows of one size count as one.
- *Parts.* T falls apart into parts that share no dependence, and each has to prove itself: by `EXCESS` conditions more
  than unknowns at least (one of them may be an accident), and by fewer than `ACCIDENTS` accidental points expected,
  among all choices of as many rows, where each further row holds by chance with the probability `tolerance / spread`.
  The tolerance is that of a row predicted by the others: noise, its amplification and weak dependences all count.
- *Leverage.* A zero that follows from others only if these are amplified a thousandfold follows from nothing.
- *Noise.* A row that moves by less than a hundred times its tolerance within the family is no evidence.

What does not stand there: a truth that obeys linear laws which V knows as well, beyond equal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse import csgraph
from scipy.special import gammaln

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.numerics.rows import EPSILON, row_norms
from constraint_algebra.numerics.singular import svd

DEVIATIONS = 10.0  # how many standard deviations still count as noise
EXCESS = 2  # conditions beyond the unknowns that every part needs at least
ACCIDENTS = 1e-8  # accidental points expected, at most
LOOSE = 1e-6  # 1 - leverage below this: the row follows from the others only if they are amplified a thousandfold
ANGLE = 1e-3  # rows whose directions differ by less say the same
WEAK = 1e-3  # a dependence with a smaller coefficient ties no parts together
SHARP = 1e-2  # tolerances must be this small a share of what they are compared with
ROUNDS = 4  # of taking rows in and out
_ROUGH = (
    (1e-9, 30.0),
    (1e-6, 1e3),
)  # what may lie on a plateau at first sight: share of the scale, and standard deviations


@dataclass(frozen=True, eq=False)
class Question:
    """A family with what is known of its values.

    Attributes:
        p: one point, `(n,)`.
        V: orthonormal columns, `(n, d)`.
        noise: standard deviations of the rows, `(n,)`, rounding included.
        levels: the plateaus, ascending.
        low: least possible value.
        high: largest possible value.
        scale: size of the values.
    """

    p: FloatArray
    V: FloatArray
    noise: FloatArray
    levels: FloatArray
    low: float
    high: float
    scale: float

    @cached_property
    def reach(self) -> FloatArray:
        """How far each value moves, as a share of the one that moves most."""
        size = row_norms(self.V)
        return np.asarray(size / size.max(initial=EPSILON))

    @cached_property
    def telling(self) -> BoolArray:
        """Which values move by much more than the noise: only these can be evidence."""
        return np.asarray(self.reach * self.scale * SHARP > DEVIATIONS * self.noise)

    @cached_property
    def moving(self) -> BoolArray:
        """Which values move by more than the noise."""
        return np.asarray(self.reach * self.scale > DEVIATIONS * self.noise)

    def nearest(self, x: FloatArray) -> FloatArray:
        """Return the plateau nearest to each value."""
        return np.asarray(self.levels[np.abs(x[:, None] - self.levels).argmin(axis=1)])


class TightPoint(NamedTuple):
    """A point whose values on plateaus are no accident.

    Its values and how far they may be off, their plateaus (NaN elsewhere), the largest leverage, the number of
    conditions beyond the unknowns, and whether each part has enough of these: a point that lacks only this is no
    answer, but it speaks against another answer.
    """

    x: FloatArray
    tolerance: FloatArray
    at: FloatArray
    leverage: float
    excess: int
    enough: bool


class Settled(NamedTuple):
    """The point that its tight rows fix: its values and how far they may be off, and their plateaus (NaN elsewhere)."""

    x: FloatArray
    tolerance: FloatArray
    at: FloatArray


def certify_tight(question: Question, start: FloatArray) -> TightPoint | None:
    """Return the point near `start` that its values on plateaus fix, `None` without one or without evidence."""
    level = question.nearest(start)
    for share, deviations in _ROUGH:
        rough = share * question.scale + deviations * question.noise
        settled = settle(question, np.abs(start - level) <= rough, level)
        point = None if settled is None else _evidence(question, settled)
        if point is not None:
            return point
    return None


def settle(question: Question, tight: BoolArray, level: FloatArray) -> Settled | None:
    """Solve with the tight rows, take those that are tight at the solution to the noise, until they stay the same.

    Returns:
        The point; `None` without more rows than unknowns, without full rank, where a value that moves lies outside the
        range, or where the noise is amplified to the size of the values.
    """
    d, tight = question.V.shape[1], tight & question.telling
    for _ in range(ROUNDS):
        solved = _solve(question, tight, level) if tight.sum() > d else None
        if solved is None:
            return None
        x, tolerance = solved
        before, level = tight, question.nearest(x)
        tight = question.telling & (np.abs(x - level) <= tolerance)
        if (tight == before).all():
            break
    else:
        return None
    outside = question.moving & ((x < question.low - tolerance) | (x > question.high + tolerance))
    if outside.any() or (tolerance > SHARP * question.scale)[question.telling].any():
        return None
    return Settled(np.where(tight, level, x), tolerance, np.where(tight, level, np.nan))


def _solve(question: Question, tight: BoolArray, level: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return the point at which the tight rows are met best, and how far off it may be; `None` without full rank."""
    U, sigma, Wt = svd(question.V[tight], full_matrices=False)
    if sigma[-1] <= EPSILON * len(U) * sigma[0]:
        return None
    inverse = (Wt.T / sigma) @ U.T
    gain = question.V @ inverse
    y = inverse @ (level - question.p)[tight]
    variance = gain**2 @ question.noise[tight] ** 2
    return question.p + question.V @ y, DEVIATIONS * np.sqrt(variance + question.noise**2)


def _evidence(question: Question, settled: Settled) -> TightPoint | None:
    """Return the point if its tight rows pass every test of this module."""
    x, tolerance, at = settled
    tight = np.flatnonzero(~np.isnan(at))
    rows = tight[distinct(question.V[tight])]
    V, d = question.V[rows], question.V.shape[1]
    if len(rows) <= d:
        return None
    sigma = np.linalg.svd(V, compute_uv=False)
    if sigma[-1] < LOOSE * sigma[0]:
        return None
    Q = np.linalg.qr(V, mode="complete")[0][:, d:]
    loose = row_norms(Q) ** 2  # 1 - leverage, to full relative precision
    if loose.min() < LOOSE:
        return None
    predicted = np.sqrt((Q @ Q.T) ** 2 @ question.noise[rows] ** 2) / loose
    rest = np.abs(x - question.nearest(x))[np.isnan(at)]
    rest = rest[rest > DEVIATIONS * question.noise[np.isnan(at)]]
    spread = (np.median(rest) if len(rest) else question.scale) * question.reach[rows]
    chance = np.minimum(2 * DEVIATIONS * predicted / spread, 1.0)
    if (chance > 2 * SHARP).any():
        return None
    choices = int(question.telling.sum()) * len(question.levels)
    enough = True
    for part in parts(V, WEAK):
        further = len(part.rows) - part.unknowns
        if not further or _accidents(chance[part.rows], further, choices) > np.log(ACCIDENTS):
            return None
        enough = enough and further >= EXCESS
    return TightPoint(x, tolerance, at, float(1 - loose.min()), len(rows) - d, enough)


def _accidents(chance: FloatArray, further: int, choices: int) -> float:
    """Return the logarithm of the number of accidental points expected: as many rows, `further` of them by chance."""
    count = len(chance)
    ways = gammaln(choices + 1) - gammaln(count + 1) - gammaln(choices - count + 1)
    return float(ways + np.log(np.sort(chance)[-further:]).sum())


def distinct(V: FloatArray) -> IntArray:
    """Return one row, the largest, of each class that says the same."""
    size = row_norms(V)
    if V.shape[1] == 1:
        near = np.abs(size[:, None] - size) < ANGLE * np.maximum(size[:, None], size)
    else:
        unit = V / size[:, None]
        near = np.abs(unit @ unit.T) > np.sqrt(1 - ANGLE**2)
    if near.sum() == len(V):
        return np.arange(len(V))
    label = csgraph.connected_components(near.astype(float), directed=False)[1]
    largest = np.argsort(-size, kind="stable")
    return np.sort(largest[np.unique(label[largest], return_index=True)[1]])


class Part(NamedTuple):
    """Rows that depend on each other and on no others, and the number of unknowns that they fix."""

    rows: IntArray
    unknowns: int


def parts(V: FloatArray, weak: float) -> list[Part]:
    """Return the parts into which the rows of a matrix of full column rank fall apart.

    Each row, at unit norm, is a combination of d independent ones; a coefficient up to `weak` ties nothing together.

    >>> [part.rows.tolist() for part in parts(np.array([[1.0, 0], [0, 1], [2, 0], [0, 3]]), 1e-9)]
    [[0, 2], [1, 3]]
    """
    n, d = V.shape
    size = row_norms(V)
    unit = V / np.where(size > 0, size, 1.0)[:, None]
    basis = scipy.linalg.qr(unit.T, mode="r", pivoting=True, check_finite=False)[1][:d]
    ties = np.abs(np.linalg.solve(unit[basis].T, unit.T).T) > weak
    row, column = np.nonzero(ties)
    graph = sp.csr_array((np.ones(len(row)), (row, basis[column])), shape=(n, n))
    label = csgraph.connected_components(graph, directed=False)[1]
    return [Part(np.flatnonzero(label == k), int((label[basis] == k).sum())) for k in range(label.max(initial=-1) + 1)]
