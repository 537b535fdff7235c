"""One group of a layer by itself: from the corner to the fit of all taps, and the judgement of what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.numerics.singular import svd
from constraint_algebra.solvers.bilinear_fit import Fit, Normal, Shifts, fit, input_for
from constraint_algebra.solvers.blind_shapes import Anchor

ENOUGH = 100  # more equations than unknowns from which the residuals say how large the noise is
QUIET = 0.2  # of the noise expected: what residuals may make of it at least
OWN_ROUNDING = 2.0 * 2.0**-52  # relative error that the fit in float64 leaves
CERTAIN = 10.0  # smallest singular value of k and of h in units of its noise from which the rank counts as full
# Smallest singular value, relative to the largest, below which directions hide from the normal equations of the fit
# (`bilinear_fit.UNSEEN` is its square, with a margin), and errors in them from the error bars.
HIDDEN = 3e-5
CONTRADICTION = 8.0  # misfit in units of noise beyond which the taps are not those of one k and one h
RANK_GAP = 1e3  # ratio of singular values that shows a rank whatever the noise was taken for
TOO_MANY = 100.0  # a further singular value this far beyond the noise is no noise
TOO_FEW = 0.5  # the last singular value below so many times the noise: no start
DOUBTFUL = 30.0  # the same, where a start that leads nowhere was none
FAINT = 1e-6  # of the largest: noise of a filter or channel below it does not count for its weight
ROUNDED_SUM = 200.0  # relative errors of sums, of the largest k, that a client leaves of a sum that is zero
JUDGES = 4  # draws of noise that say how certain the rank is
LAST = 3  # singular values looked at


@dataclass(frozen=True)
class Refused:
    """Why there is no factorisation.

    Attributes:
        reason: a sentence without its full stop.
    """

    reason: str


# From the layer, the tap to start from and data with noise of about one to K, H, the gap of the corner, the rank.
Begin = Callable[[Shifts, Anchor, FloatArray], tuple[FloatArray, FloatArray, tuple[float, float], int] | Refused]


@dataclass(frozen=True)
class Weights:
    """What makes the noise of every entry about one: a weight for each filter and one for each channel."""

    filters: FloatArray
    channels: FloatArray

    @classmethod
    def of(cls, noise: FloatArray) -> Weights:
        """Return the weights for noise `(taps, filters, channels)`."""
        level = (noise**2).mean(axis=0)
        filters = 1 / np.sqrt(_not_faint(level.mean(axis=1)))
        return cls(filters, 1 / np.sqrt(_not_faint((filters[:, None] ** 2 * level).mean(axis=0))))

    @property
    def both(self) -> FloatArray:
        """The weight of each entry, `(filters, channels)`."""
        return np.multiply.outer(self.filters, self.channels)

    def on(self, K: FloatArray, H: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the factors of the weighted data."""
        return self.filters[:, None] * K, self.channels[:, None] * H

    def off(self, K: FloatArray, H: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the factors of the data, from those of the weighted data; also for several of them."""
        return K / self.filters[:, None], H / self.channels[:, None]


@dataclass(frozen=True)
class Group:
    """One group: K `(filters, outputs)`, H `(channels, positions)`, its noise `(taps, filters, channels)`, evidence."""

    K: FloatArray
    H: FloatArray
    noise: FloatArray
    misfit: float
    singular: tuple[float, float]
    certainty: tuple[float, float]
    corner: tuple[float, float]


def one_group(
    shifts: Shifts,
    start: Anchor,
    D: FloatArray,
    given: FloatArray,
    arithmetic: float,
    centred: Begin | None = None,
) -> Group | Refused:
    """Return the factors of data `(taps, filters, channels)`, or why there are none.

    Args:
        shifts: the layer.
        start: the tap to start from.
        D: the data.
        given: noise of every entry.
        arithmetic: relative error of the client's sums.
        centred: how to begin where the k of each filter sums to zero; by default k has full rank.
    """
    if not D.any():
        return Refused("the weight gradient is zero, which says nothing")
    weights = Weights.of(np.hypot(given, arithmetic * np.abs(D)))
    rank = shifts.outputs
    try:
        begun = (centred or _from_corner)(shifts, start, weights.both * D)
        if isinstance(begun, Refused):
            return begun
        K, H, corner, rank = begun
        weights, found, noise = fitted(shifts, weights, D, given, arithmetic, K, H)
        result = judged(shifts, start.places, weights, found, noise, corner, centred=arithmetic if centred else None)
    except la.LinAlgError:
        result = Refused("k or h is too near to a lower rank for its noise: the fit breaks down")
    if isinstance(result, Refused) and rank < shifts.outputs:
        return low_rank_below_a_normalisation(shifts.outputs) if centred else _of_rank(rank, shifts.outputs)
    return result


def _of_rank(rank: int, outputs: int) -> Refused:
    return Refused(f"k or h has a rank of {rank:,} only, of {outputs:,} outputs: several k and h may fit")


def low_rank_below_a_normalisation(outputs: int) -> Refused:
    """Return the refusal where ranks are lower than even sums of zero make them."""
    return Refused(
        f"k has a rank below {outputs - 1:,}, which sums of zero leave, or h one below {outputs:,}: several k and h may"
        " fit"
    )


def _from_corner(
    shifts: Shifts, start: Anchor, D: FloatArray
) -> tuple[FloatArray, FloatArray, tuple[float, float], int] | Refused:
    """Return K, H, the gap of the corner and the rank beyond doubt, for data with noise of about one; see `blind`."""
    O = shifts.outputs
    U, s, Vt = svd(D[start.tap], full_matrices=False)
    F, C = D.shape[1:]
    further = s[O] if len(s) > O else 0.0
    if further > TOO_MANY * (np.sqrt(F - O) + np.sqrt(C - O)) and s[O - 1] < RANK_GAP * further:
        return Refused(f"its rank is above {O:,}, the number of output positions: the gradient of several samples")
    noise = np.sqrt(F - O + 1) + np.sqrt(C - O + 1)  # the largest singular value of noise in what O - 1 leave
    rank = min(O, int(np.count_nonzero(s > DOUBTFUL * noise)))
    if s[O - 1] < TOO_FEW * noise:
        return _of_rank(rank, O)
    r = np.sqrt(s[:O])
    U, Vt = U[:, :O], Vt[:O]

    def similar(tap: int) -> FloatArray:
        return np.asarray((U.T @ D[tap] @ Vt.T) / r[:, None] / r)

    P, gap = np.ones((O, 1)), (1.0, 0.0)
    if start.forward:
        _, values, vectors = svd(np.vstack([similar(tap) for tap in start.forward.values()]))
        P, gap = vectors[-1:].T, (float(values[-2] / values[0]), float(values[-1] / values[0]))
        P = _from_one(P[:, 0], start, {axis: similar(tap) for axis, tap in start.backward.items()})
    K = U @ (r[:, None] * P)
    K[~D.any(axis=(0, 2))] = 0.0  # exactly, and so it stays
    return K, input_for(shifts, D, K), gap, rank


def _from_one(corner: FloatArray, start: Anchor, onward: dict[int, FloatArray]) -> FloatArray:
    """Return every column of P from that of the corner: each is the mean of what its neighbours say."""
    number = np.arange(len(corner)).reshape(start.outputs)
    P = np.zeros((len(corner), number.size))
    P[:, 0] = corner
    for place in list(np.ndindex(number.shape))[1:]:
        said = []
        for axis, step in onward.items():
            if place[axis]:
                before = tuple(p - (a == axis) for a, p in enumerate(place))
                said.append(step @ P[:, number[before]])
        P[:, number[place]] = np.mean(said, axis=0)
    return P


def fitted(
    shifts: Shifts,
    weights: Weights,
    D: FloatArray,
    given: FloatArray,
    arithmetic: float,
    K: FloatArray,
    H: FloatArray,
) -> tuple[Weights, Fit, FloatArray]:
    """Return the fit that begins at factors of the weighted data, its weights, and the noise of every entry.

    What rounding does to a sum is known once its terms are: the noise is first that of the sums, then of their terms.
    """
    first = fit(shifts, weights.both * D, K, H)
    K, H = weights.off(first.K, first.H)
    noise = np.hypot(given, arithmetic * np.sqrt(shifts.product(K**2, H**2)))
    weights = Weights.of(noise)
    return weights, fit(shifts, weights.both * D, *weights.on(K, H)), noise


def judged(
    shifts: Shifts,
    places: IntArray,
    weights: Weights,
    found: Fit,
    noise: FloatArray,
    corner: tuple[float, float],
    *,
    full: bool = True,
    centred: float | None = None,
) -> Group | Refused:
    """Return a fit as a result, or why it is none: it must explain all taps, and both ranks must be certain.

    Args:
        shifts: the layer.
        places: positions on which h must have full rank.
        weights: those of the fit, see `fitted`.
        found: the fit.
        noise: of every entry.
        corner: the gap of the start.
        full: whether the ranks must be full in space; otherwise in whichever of both directions is smaller.
        centred: relative error of the client's sums where the k of each filter must sum to zero, and have full rank
            beside that.
    """
    free = found.residual.size - found.K.size - found.H.size + 1
    expected = ((weights.both * noise) ** 2).sum() * max(free, 1) / found.residual.size
    misfit = float(np.sqrt((found.residual**2).sum() / expected))
    if misfit > CONTRADICTION:
        return Refused(
            f"no k and h near the start explain all taps: they are off by {misfit:.0f} times the noise, as with several"
            " samples, or where k or h is of a lower rank"
        )
    noise = _as_seen(weights, found, shifts, noise, misfit)
    random = np.random.default_rng(0)
    draws = np.where(random.random((JUDGES, *noise.shape)) < 0.5, -1.0, 1.0) * noise
    movements = first_order(Normal(shifts, found.K, found.H), weights, draws)
    moves = weights.on(*movements)
    own = found.K, moves[0]
    if centred is not None:
        if not _sums_to_zero(*own, centred):
            return Refused(
                "the k of each filter does not sum to zero over its outputs, as it does below a normalisation of each"
                " channel"
            )
        beside = la.null_space(np.ones((1, shifts.outputs)))
        own = found.K @ beside, moves[0] @ beside
    sides = (own, (found.H[:, places], moves[1][..., places]))
    singular, certainty = zip(*(_smallest(*side) for side in sides), strict=True)
    if not found.converged:
        return Refused("the fit of k and h to all taps does not come to an end")
    refused = _of_lower_rank(singular, certainty) if full else None
    if refused is not None:
        return refused
    K, H = weights.off(found.K, found.H)
    c = np.sqrt(np.linalg.norm(H) / np.linalg.norm(K)) * (1.0 if H.sum() >= 0 else -1.0)
    return Group(K * c, H / c, noise, misfit, singular, certainty, corner)


def _of_lower_rank(singular: Sequence[float], certainty: Sequence[float]) -> Refused | None:
    """Return why full rank of k and h is not certain, by their smallest singular values; `None` where it is."""
    if min(certainty) < CERTAIN:
        side = "k" if certainty[0] < certainty[1] else "h"
        return Refused(
            f"whether {side} has full rank is hidden by the noise: its smallest singular value is {min(certainty):.1g}"
            " times its own error"
        )
    if min(singular) < HIDDEN:
        side = "k" if singular[0] < singular[1] else "h"
        return Refused(
            f"{side} is too near to a lower rank for the fit to tell its errors: its smallest singular value is"
            f" {min(singular):.1g} of the largest, and {HIDDEN:g} are needed"
        )
    return None


def _sums_to_zero(K: FloatArray, moves: FloatArray, arithmetic: float) -> bool:
    """Return whether the sums of K over its columns are as small as its noise lets them be."""
    noise = float(np.sqrt((moves.sum(axis=-1) ** 2).mean()))
    rounding = ROUNDED_SUM * arithmetic * float(np.abs(K).max())
    return bool(np.sqrt((K.sum(axis=1) ** 2).mean()) <= CONTRADICTION * np.hypot(noise, rounding))


def _as_seen(weights: Weights, found: Fit, shifts: Shifts, noise: FloatArray, misfit: float) -> FloatArray:
    """Return the noise as the residuals show it, where there are enough of them, and no less than our own rounding."""
    own = OWN_ROUNDING * np.sqrt(shifts.product(found.K**2, found.H**2)) / weights.both
    enough = found.residual.size - found.K.size - found.H.size >= ENOUGH
    return np.asarray(np.hypot(noise * max(misfit, QUIET), own) if enough else noise)


def _smallest(factor: FloatArray, moves: FloatArray) -> tuple[float, float]:
    """Return the smallest singular value of a factor, relative to the largest, and in units of its own noise.

    Noise makes a singular value of zero as large as its length outside of what the other singular vectors span.
    """
    U, s, Vt = svd(factor, full_matrices=False)
    others, last = U[:, :-LAST], Vt[-LAST:]
    along = moves @ last.T  # member, filter or channel, direction
    outside = along - others @ (others.T @ along)
    spread = np.sqrt((outside**2).sum(axis=1).mean())
    return float(s[-1] / s[0]), float(s[-1] / spread) if spread > 0 else np.inf


def first_order(problem: Normal, weights: Weights, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return how noise `(members, taps, filters, channels)` moves the factors of the data, to first order.

    The ratio of the norms of both factors stays as it is: no noise can tell it.
    """
    sides = [problem.shifts.adjoint(weights.both * draw, problem.K, problem.H) for draw in draws]
    of_K, of_H = (np.stack(side) for side in zip(*sides, strict=True))
    dK, dH = weights.off(*problem.solve((of_K, of_H))[0])
    K, H = weights.off(problem.K, problem.H)
    grown = [np.einsum("nij,ij->n", d, one) / (one**2).sum() for d, one in ((dK, K), (dH, H))]
    share = ((grown[1] - grown[0]) / 2)[:, None, None]
    return dK + share * K, dH - share * H


def _not_faint(level: FloatArray) -> FloatArray:
    """Return squared noise, at least the squared share `FAINT` of its largest."""
    return np.asarray(np.maximum(level, FAINT**2 * level.max()))
