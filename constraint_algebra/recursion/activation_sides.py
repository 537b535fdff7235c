"""On which side of its edge an activation worked at each output: decided by evidence.

An output of a ReLU that was reconstructed with an error bar is either zero or positive, and near zero the error bar
cannot tell which; that of a LeakyReLU is positive or negative. Three pieces of evidence are weighed, as odds:

- its distance from the edge in standard deviations. Where it was cut off, noise alone sets that distance (a Student
  distribution: the deviation itself is estimated from a few members); elsewhere values are spread evenly over a far
  larger range;
- the bias equation of its filter in the layer below: the gradients that arrive at the outputs, times the derivative on
  their side of the edge, add up to the bias gradient. Every choice for the least certain outputs is weighed by how well
  it fits that sum, and every single one of the others as well: among thousands of zeros one may be no zero;
- where neither decides, the output stays open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.special import log_ndtr

from constraint_algebra.arrays import BoolArray, FloatArray

TAIL = 6  # degrees of freedom of the noise: fewer than the members of the ensemble, to be generous to outliers
WEIGHED = 10  # outputs of a filter for which every choice is weighed, 1,024 of them
DOUBTED = 5  # of them, those for which that is done together with every single one of the others being wrong
SURE = float(np.log(1e3))  # odds at which an output counts as decided
EVEN = float(np.log(2.0))  # what each output adds to the number of choices, as a logarithm
FITTING = 100.0  # deviations from the bias gradient beyond which a hypothesis explains nothing
QUESTIONED = float(np.log(1e9))  # odds up to which the bias equation may overrule the error bars


@dataclass(frozen=True)
class BiasCheck:
    """The bias equations of a layer, as a check on the gradients that arrive at its outputs.

    Attributes:
        gradient: dL/db, shape `(filters,)`.
        deviation: its standard deviation, shape `(filters,)`.
        arithmetic: relative error of the client's sums.
    """

    gradient: FloatArray
    deviation: FloatArray
    arithmetic: float


@dataclass(frozen=True)
class Decision:
    """What the evidence says of each output, `(filters, outputs)`.

    Attributes:
        passes: whether it more likely lies on the upper side of the edge, that of a ReLU which passes its value on.
        decided: whether the evidence suffices to say so, or the gradient is so small that it does not matter.
        doubt: standard deviation of `passes`, as a number from 0 to 1, where the evidence does not suffice.
    """

    passes: BoolArray
    decided: BoolArray
    doubt: FloatArray


def log_odds_at_plateau(distances: FloatArray, deviations: FloatArray, density: float) -> FloatArray:
    """Return the logarithm of the odds that an output was passed on, not cut off at a plateau, as that of a ReLU.

    Args:
        distances: signed distance from the plateau in standard deviations; positive on the side that passes.
        deviations: the standard deviations.
        density: of the values that pass, next to the plateau: their share by unit of value.

    >>> small = np.full(4, 1e-6)
    >>> np.round(log_odds_at_plateau(np.array([-20.0, 0.0, 9.0, 1e4]), small, density=1.0))
    array([-202.,  -14.,   -3.,   45.])
    """
    with np.errstate(divide="ignore"):
        among_many = np.log(density * deviations)
    cut_off = -0.5 * (TAIL + 1) * np.log1p(distances**2 / TAIL) - 0.96  # log of Student's density, t with 6 degrees
    return np.asarray(among_many + log_ndtr(distances) - cut_off)


def log_odds_at_kink(distances: FloatArray) -> FloatArray:
    """Return the logarithm of the odds that an output lies above an edge with values on both sides, as LeakyReLU's.

    Args:
        distances: signed distance from the edge in standard deviations; positive above it.

    >>> log_odds_at_kink(np.array([-40.0, 0.0, 2.0])).round(1)
    array([-804.6,    0. ,    3.8])
    """
    return np.asarray(log_ndtr(distances) - log_ndtr(-distances))


def decide(
    odds: FloatArray,
    dy: FloatArray,
    moved: FloatArray,
    slopes: tuple[float, float] | tuple[FloatArray, FloatArray],
    check: BiasCheck | None,
) -> Decision:
    """Return on which side of the edge each output lies, and which stay open.

    Args:
        odds: logarithms of the odds of the upper side by the error bars alone, `(filters, outputs)`; NaN where nothing
            is known.
        dy: the gradient that arrives at each output, same shape; NaN where unknown, and then the bias equation of its
            filter says nothing.
        moved: perturbations of dy, `(filters, outputs, members)`.
        slopes: the derivative on the lower and on the upper side of the edge.
        check: the bias equations, `None` where there are none.
    """
    posterior = odds.copy()
    negligible = np.zeros(odds.shape, dtype=bool)
    if check is not None:
        low, high = slopes
        d = np.where(odds > 0, high, low)
        k, effect = d * dy, (high - low) * dy
        misfit = check.gradient - k.sum(axis=1)
        summed = (d[..., None] * moved).sum(axis=1)
        noise = np.sqrt(check.deviation**2 + (summed**2).mean(axis=-1) + check.arithmetic**2 * (k**2).sum(axis=1))
        negligible = np.abs(effect) <= noise[:, None]
        open_ones = (np.abs(odds) < QUESTIONED) & ~negligible & np.isfinite(effect)
        # Weighing choices takes its time: only for filters whose sum does not fit, or with outputs that are not clear.
        needed = (np.abs(misfit) > 3 * noise) | (open_ones & (np.abs(odds) < 3 * SURE)).any(axis=1)
        for f in np.flatnonzero(needed & np.isfinite(misfit)):
            some = np.flatnonzero(open_ones[f])
            some = some[np.argsort(np.abs(odds[f, some]))]
            if len(some):
                posterior[f, some] = _log_odds_by_bias(odds[f, some], effect[f, some], misfit[f], noise[f])
    p = np.where(np.isnan(posterior), 0.5, 0.5 * (1 + np.tanh(0.5 * np.nan_to_num(posterior))))
    sure = np.abs(posterior) > SURE
    return Decision(posterior > 0, sure | negligible, np.where(sure, 0.0, np.sqrt(p * (1 - p))))


def _log_odds_by_bias(odds: FloatArray, effect: FloatArray, misfit: float, noise: float) -> FloatArray:
    """Return the logarithms of the odds of some outputs of a filter, the least certain first, given its bias equation.

    Three sets of hypotheses are weighed: every choice for the first `WEIGHED` outputs, with the others as they seem;
    every choice for the first `DOUBTED`, with one of those beyond the first `WEIGHED` on the other side than it seems,
    as of very many near the edge one may well have come to lie on the wrong side; and all on the lower side. A filter
    that is dead is no coincidence of as many outputs: it is as likely beforehand as all other choices together. If no
    hypothesis fits, the bias equation says nothing.

    Args:
        odds: by the error bars alone.
        effect: of each output on the sum of its filter, on the upper side of the edge as against the lower.
        misfit: what the sum lacks if every output is on its likelier side.
        noise: standard deviation of the misfit.

    >>> _log_odds_by_bias(np.array([-2.0, -2.0, -2.0]), np.array([1.0, 2.0, 4.0]), 6.0, 0.01).round()
    array([-26.,  26.,  33.])
    """
    likely, first, few = odds > 0, slice(0, WEIGHED), slice(0, DOUBTED)
    flip = np.where(likely, -effect, effect)[WEIGHED:]
    # Weights and what the sum still lacks, for each set of hypotheses, against all on their likelier side.
    choices, fewer = _choices(len(odds[first])), _choices(len(odds[few]))[: None if len(flip) else 0]
    lacking = misfit - (choices - likely[first]) @ effect[first]
    with_flip = (misfit - (fewer - likely[few]) @ effect[few])[:, None] - flip
    beyond, between = int(likely[WEIGHED:].sum()), likely[DOUBTED:WEIGHED].any()
    among_them = beyond == 0 or (beyond == 1 and not between)
    if_dead = np.array([misfit + effect @ likely])[: 0 if among_them else None]
    if min(float(np.abs(each).min(initial=np.inf)) for each in (lacking, with_flip, if_dead)) > FITTING * noise:
        return odds
    by_choice = _log_likelihood((choices - likely[first]) @ odds[first], lacking, noise)
    cost = ((fewer - likely[few]) @ odds[few])[:, None] - np.abs(odds[WEIGHED:])
    by_flip = _log_likelihood(cost, with_flip, noise)
    by_dead = _log_likelihood(EVEN * likely.sum() - odds[None] @ likely, if_dead, noise)
    largest = max(by_choice.max(), by_flip.max(initial=-np.inf), by_dead.max(initial=-np.inf))
    by_choice, by_flip, by_dead = (np.exp(each - largest) for each in (by_choice, by_flip, by_dead))
    flipped, of_few = by_flip.sum(axis=0), by_flip.sum(axis=1)
    kept = by_choice.sum() + np.clip(flipped.sum() - flipped, 0, None)
    passes, fails = np.zeros(len(odds)), np.full(len(odds), by_dead.sum())
    passes[first] += choices.T @ by_choice
    fails[first] += (1 - choices).T @ by_choice
    passes[few] += fewer.T @ of_few
    fails[few] += (1 - fewer).T @ of_few
    passes[DOUBTED:WEIGHED] += likely[DOUBTED:WEIGHED] * flipped.sum()
    fails[DOUBTED:WEIGHED] += ~likely[DOUBTED:WEIGHED] * flipped.sum()
    passes[WEIGHED:], others = np.where(likely[WEIGHED:], (kept, flipped), (flipped, kept))
    fails[WEIGHED:] += others
    with np.errstate(divide="ignore"):  # beyond the range of numbers: surely
        return np.asarray(np.log(passes) - np.log(fails))


def _log_likelihood(cost: FloatArray, lacking: FloatArray, noise: float) -> FloatArray:
    """Return the logarithm of how likely hypotheses are by the error bars, and by what the sum lacks under them."""
    distance = lacking / noise if noise > 0 else np.where(lacking == 0, 0.0, np.inf)
    return np.asarray(cost - 0.5 * (TAIL + 1) * np.log1p(distance**2 / TAIL))


@lru_cache(maxsize=WEIGHED + 1)
def _choices(n: int) -> FloatArray:
    """Return all rows of n zeros and ones."""
    return np.array(list(product((0.0, 1.0), repeat=n)))
