"""Which outputs of a ReLU passed their value on: decided by evidence.

An output of a ReLU that was reconstructed with an error bar is either zero or small, and near zero the error bar cannot
tell which. The bias equations of the layer below can: the gradients that pass through a filter's active outputs must
add up to its bias gradient. Where they do not, one or two outputs on the wrong side explain the difference, or none do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NOISE_TAIL = (4.0, 200.0)  # standard deviations that noise reaches in any case, and never
MISFIT = 6.0  # standard deviations beyond which a sum does not fit
PAIRS = 512  # candidates up to which pairs are tried
TRIPLES = 24  # likewise triples, among those nearest to the edge


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


def noise_edge(distances: FloatArray) -> float:
    """Return where noise ends and signal begins among distances in standard deviations: amid their widest gap.

    >>> noise_edge(np.array([0.1, 2.0, 9.0, 4e6, 5e7])), (9.0 * 4e6) ** 0.5
    (6000.0, 6000.0)
    """
    surely, never = NOISE_TAIL
    low = np.concatenate([[surely], np.sort(distances[(distances > surely) & (distances <= never)])])
    beyond = distances[distances > never].min(initial=1e9)
    high = np.append(low[1:], beyond)
    widest = int(np.argmax(high / low))
    return float(np.sqrt(low[widest] * high[widest]))


def settle(
    passes: BoolArray, distances: FloatArray, dy: FloatArray, moved: FloatArray, check: BiasCheck
) -> tuple[BoolArray, BoolArray]:
    """Return which outputs pass their value on, corrected by the bias equations, and which stay open.

    Args:
        passes: what the error bars say, `(filters, outputs)`.
        distances: distance of each output from the cut-off, in standard deviations, same shape.
        dy: the gradient that arrives at each output, same shape; NaN where unknown, and then its filter is left alone.
        moved: perturbations of dy, `(filters, outputs, members)`.
        check: the bias equations.
    """
    passes, undecided = passes.copy(), np.zeros(passes.shape, dtype=bool)
    k = np.where(passes, dy, 0.0)
    misfit = check.gradient - k.sum(axis=1)
    summed = np.where(passes[..., None], moved, 0.0).sum(axis=1)
    noise = np.sqrt(check.deviation**2 + (summed**2).mean(axis=-1) + (check.arithmetic**2) * (k**2).sum(axis=1))
    for f in np.flatnonzero(np.abs(misfit) > MISFIT * noise):  # NaN compares false
        near = np.flatnonzero((distances[f] <= NOISE_TAIL[1]) & (np.abs(dy[f]) > noise[f]))
        near = near[np.argsort(distances[f, near])]
        effect = np.where(passes[f, near], -dy[f, near], dy[f, near])
        solutions = _explanations(effect, float(misfit[f]), MISFIT * float(noise[f]))
        if len(solutions) == 1:
            flipped = near[list(solutions[0])]
            passes[f, flipped] = ~passes[f, flipped]
        for solution in solutions[1:] and solutions:
            undecided[f, near[list(solution)]] = True
    return passes, undecided


def _explanations(effects: FloatArray, misfit: float, allowed: float) -> list[tuple[int, ...]]:
    """Return the smallest sets of effects that add up to the misfit: all singles, or all pairs, or all triples.

    >>> _explanations(np.array([1.0, 2.0, 4.0, 4.5]), 6.0, 0.1)
    [(1, 2)]
    """
    singles: list[tuple[int, ...]] = [(int(i),) for i in np.flatnonzero(np.abs(effects - misfit) <= allowed)]
    if singles:
        return singles
    few = effects[:PAIRS]
    i, j = np.triu_indices(len(few), k=1)
    fits = np.flatnonzero(np.abs(few[i] + few[j] - misfit) <= allowed)
    if len(fits):
        return [(int(i[n]), int(j[n])) for n in fits]
    triples = combinations(range(min(len(effects), TRIPLES)), 3)
    return [t for t in triples if abs(effects[list(t)].sum() - misfit) <= allowed]
