"""Beyond the blind start: fewer filters or channels than positions, where k and h may still be unique near themselves.

The Jacobian of `D_t = K S_t H^T` in K and H has the common factor in its null space; where it has nothing else, no
other k and h nearby have this weight gradient. Levenberg and Marquardt's search from random starts then finds them for
small layers. On 16 layers with 2 x 2 to 4 x 4 outputs 2 to 10 of 10 starts reached a residual of rounding, and each of
these ends was the truth; with masks on one axis some layers had several ends. That no others exist is not proven.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra import memory
from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.numerics.levenberg_marquardt import minimise
from constraint_algebra.numerics.rows import gap_at
from constraint_algebra.solvers.bilinear_fit import Shifts
from constraint_algebra.solvers.blind import FLOAT64, Factored, by_group, by_place, together
from constraint_algebra.solvers.blind_group import Group, Refused, Weights, fitted, judged
from constraint_algebra.solvers.blind_shapes import free_directions

RTOL = 1e-10  # singular values of the Jacobian below this share of the largest count as zero
MOST_UNKNOWNS = 400  # of a group that a search takes on
MOST_ENTRIES = 10**6  # of its Jacobian
STARTS = 24
AGREE = 2  # ends with the same factors that are enough
SAME = 1e-3  # relative distance below which two ends are one
REACHED = 1e-4  # relative residual of the search from which the fit takes over


@dataclass(frozen=True)
class LocalRank:
    """The rank of the weight gradient as a function of k and h, near one pair of them.

    Attributes:
        unknowns: number of values of k and h.
        rank: of the Jacobian, all groups together.
        factors: number of groups, each with a factor that no weight gradient shows.
        gap: last singular value that counted and first that did not, relative to the largest; of the worst group.
    """

    unknowns: int
    rank: int
    factors: int
    gap: tuple[float, float]

    @property
    def unique(self) -> bool:
        """Whether no other k and h nearby have this weight gradient, but for the factors."""
        return self.rank == self.unknowns - self.factors


def local_rank(layer: PlacedLayer, k: FloatArray, h: FloatArray) -> LocalRank:
    """Return the rank at k, in the output shape, and h, in the input shape.

    Raises:
        MemoryLimitError: the Jacobian would take more memory than may be taken.

    >>> from constraint_algebra.layers import Conv2d
    >>> random = np.random.default_rng(0)
    >>> [local_rank(Conv2d(4, 3, padding=1, stride=s).place((12, 3 * s, 3 * s)), random.normal(size=(4, 3, 3)),
    ...     random.normal(size=(12, 3 * s, 3 * s))).unique for s in (1, 2)]
    [True, False]
    """
    shifts = Shifts.of(layer)
    rank, gaps = 0, []
    for K, H in zip(*by_place(layer, k, h), strict=True):
        J = _jacobian(shifts, K / (np.linalg.norm(K) or 1.0), H / (np.linalg.norm(H) or 1.0))
        s = la.svd(J, compute_uv=False)
        own = int(np.count_nonzero(s > RTOL * s[0])) if len(s) and s[0] > 0 else 0
        rank += own
        gaps.append(gap_at(s / (s[0] or 1.0), own))
    worst = min(gaps, key=lambda gap: gap[0] / max(gap[1], np.finfo(float).tiny))
    return LocalRank(k.size + h.size, rank, layer.groups, worst)


def too_large(layer: PlacedLayer) -> str | None:
    """Return why a layer is not searched, from its shapes; `None` where it may be."""
    unknowns = (math.prod(layer.output_shape) + layer.unknowns) // layer.groups
    equations = math.prod(layer.weight_shape) // layer.groups
    if unknowns > MOST_UNKNOWNS or equations * unknowns > MOST_ENTRIES:
        return f"its {unknowns:,} values of k and h are too many for a search from random starts"
    if equations < unknowns - 1:
        return f"its {equations:,} equations are too few for {unknowns:,} values of k and h"
    free = free_directions(layer)
    return f"its taps leave {free:,} directions of k and h free" if free > 1 else None


@one_blas_thread()
def search(
    layer: PlacedLayer,
    weight_gradient: FloatArray,
    deviations: FloatArray | None = None,
    *,
    arithmetic: float = FLOAT64,
    starts: int = STARTS,
    seed: int = 0,
) -> Factored | Refused:
    """Return k and h that are unique near themselves, found from random starts, or why there are none.

    Args:
        layer: a small layer, see `MOST_UNKNOWNS`; of any stride and kernel.
        weight_gradient: as for `blind.attempt`, and so are the two after it.
        deviations: standard deviation of each of its entries.
        arithmetic: relative error of the client's sums of products.
        starts: of each group, at most.
        seed: of the starts.
    """
    why = too_large(layer)
    if why is not None:
        return Refused(why)
    shifts, groups = Shifts.of(layer), []
    random = np.random.default_rng(seed)
    given = np.zeros(layer.weight_shape) if deviations is None else deviations
    for D, own in zip(by_group(layer, weight_gradient), by_group(layer, given), strict=True):
        found = _searched(shifts, D, own, arithmetic, starts, random)
        if isinstance(found, Refused):
            return found
        groups.append(found)
    result = together(layer, groups, arithmetic)
    if not local_rank(layer, result.output_gradient, result.input).unique:
        return Refused("other k and h nearby have the same weight gradient")
    return result


def _searched(
    shifts: Shifts, D: FloatArray, given: FloatArray, arithmetic: float, starts: int, random: np.random.Generator
) -> Group | Refused:
    """Return factors on which two searches agree."""
    if not D.any():
        return Refused("the weight gradient is zero, which says nothing")
    weights = Weights.of(np.hypot(given, arithmetic * np.abs(D)))
    size = float(np.sqrt(((weights.both * D) ** 2).mean()))
    data = weights.both * D / size
    ends: list[Group] = []
    for _ in range(starts):
        K, H = (random.normal(size=(n, o)) / o**0.25 for n, o in zip(D.shape[1:], _sizes(shifts), strict=True))
        K, H, residual = _newton(shifts, data, K, H)
        if residual > REACHED:
            continue
        try:
            state = fitted(shifts, weights, D, given, arithmetic, size * K, H)
            end = judged(shifts, np.arange(shifts.positions), *state, (np.nan, np.nan), full=False)
        except la.LinAlgError:
            continue
        if isinstance(end, Refused):
            continue
        ends.append(end)
        if not _same(ends[0], end):
            return Refused("several k and h have the same weight gradient: two searches ended at different ones")
        if len(ends) == AGREE:
            return end
    return Refused(f"{len(ends)} of {starts} searches found k and h, and {AGREE} must agree")


def _newton(shifts: Shifts, D: FloatArray, K: FloatArray, H: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Return where Levenberg and Marquardt's search from K and H ends, and its relative residual."""

    def parts(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return x[: K.size].reshape(K.shape), x[K.size :].reshape(H.shape)

    found = minimise(
        lambda x: (shifts.product(*parts(x)) - D).ravel(),
        lambda x: _jacobian(shifts, *parts(x)),
        np.concatenate([K.ravel(), H.ravel()]),
    )
    return *parts(found.x), float(np.sqrt(found.cost / (D**2).sum()))


def _jacobian(shifts: Shifts, K: FloatArray, H: FloatArray) -> FloatArray:
    """Return the derivatives of `K S_t H^T` by K and H, `(taps * filters * channels, unknowns)`, no fewer rows."""
    (F, O), (C, Q), T = K.shape, H.shape, len(shifts.seen)
    size = 8.0 * T * F * C * (F * O + C * Q)
    memory.demand("the Jacobian of the weight gradient", size, "take a smaller layer")
    J = np.zeros((T, F, C, F * O + C * Q))
    of_K, of_H = J[..., : F * O].reshape(T, F, C, F, O), J[..., F * O :].reshape(T, F, C, C, Q)
    seen = np.concatenate([H, np.zeros((C, 1))], axis=1)[:, shifts.seen].swapaxes(0, 1)
    met = np.concatenate([K, np.zeros((F, 1))], axis=1)[:, shifts.met].swapaxes(0, 1)
    f, c = np.arange(F), np.arange(C)
    of_K[:, f, :, f, :] = seen
    of_H[:, :, c, c, :] = met[:, :, None, :]
    rows = J.reshape(T * F * C, -1)
    missing = max(0, rows.shape[1] - len(rows))
    return np.vstack([rows, np.zeros((missing, rows.shape[1]))]) if missing else rows


def _sizes(shifts: Shifts) -> tuple[int, int]:
    return shifts.outputs, shifts.positions


def _same(a: Group, b: Group) -> bool:
    return all(np.linalg.norm(x - y) <= SAME * np.linalg.norm(x) for x, y in ((a.K, b.K), (a.H, b.H)))
