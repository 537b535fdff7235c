"""One layer with random weights and output gradients, at a truth that is known: what its equations leave open.

The equations are solved densely in float64, and their right-hand side bears float64's rounding, so that what is decided
is also decided by one who computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.implied import implied
from constraint_algebra.beyond_rank.zeros import sparsest
from constraint_algebra.equations.systems import gradient_block, gradient_equations, weight_equations
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.spans import Span
from constraint_algebra.numerics.blocks import blocks
from constraint_algebra.numerics.null_space import dense_part, right_vectors
from constraint_algebra.numerics.rows import EPSILON, unit_rows

RTOL = 1e-10  # relative to the largest singular value: those below count as zero
CLOSE = 1e-6  # of the largest value: what is said of a value and differs by more is wrong


class Decided(NamedTuple):
    """What one trial decided.

    Attributes:
        directions: how many the equations left open.
        at_edge: share of values that lie exactly on a plateau or at an end of the range.
        share: of the values, decided.
        added: how many directions were closed that the equations leave open.
        wrong: whether a value that was called decided is another in truth.
        by_equations: share of the values that equations alone decide.
    """

    directions: int
    at_edge: float
    share: float
    added: int
    wrong: bool
    by_equations: float = 0.0


def by_zeros(layer: PlacedLayer, k: FloatArray, channel: int, x: FloatArray, span: Span, seed: int) -> Decided:
    """Return whether the zeros of one channel decide it, by the gradient equations of this channel alone.

    A channel with no more values on a plateau than open directions is left undecided without a search: no certificate
    can say anything of it.

    Args:
        layer: the layer.
        k: its output gradient, all known, in its output shape.
        channel: number of a channel of its input.
        x: the values of this channel, any shape.
        span: what they may be.
        seed: of the search.
    """
    truth = x.ravel()
    group = channel // (layer.channels // layer.groups)
    A = _at(gradient_block(layer, group), k)
    rng = np.random.default_rng(seed)
    family = _whole_family(A, truth, rng)
    there = np.isin(truth, span.levels)
    at_edge = float(there.mean())
    if not family.dimension:
        return by_equations(at_edge)
    if np.count_nonzero(there & family.moving) <= family.dimension:
        return Decided(family.dimension, at_edge, 0.0, 0, wrong=False)
    found = sparsest(family, span.levels, low=span.low, high=span.high, rng=rng)
    if found is None:
        return Decided(family.dimension, at_edge, 0.0, 0, wrong=False)
    return Decided(family.dimension, at_edge, 1.0, family.dimension, wrong=_differs(found.x, truth))


def by_equations(at_edge: float) -> Decided:
    """Return what a trial decided whose equations leave nothing open."""
    return Decided(0, at_edge, 1.0, 0, wrong=False, by_equations=1.0)


def share_at_ends(x: FloatArray, valid_range: tuple[float, float]) -> float:
    """Return which share of values lies at an end of their range."""
    return float(((x <= valid_range[0]) | (x >= valid_range[1])).mean())


def by_range(
    layer: PlacedLayer,
    rows: tuple[BoolArray, bool],
    weight: FloatArray,
    k: FloatArray,
    x: FloatArray,
    valid_range: tuple[float, float],
    seed: int = 0,
) -> Decided:
    """Return which values of a layer's input its equations and the range of the values determine.

    Args:
        layer: the layer.
        rows: at which outputs z is known, in the output shape, and whether the gradient equations count.
        weight: in the weight's shape.
        k: the output gradient, in the output shape.
        x: the input, in the input shape.
        valid_range: its smallest and largest valid value.
        seed: of the rounding.
    """
    known_outputs, gradients = rows
    parts = [weight_equations(layer, weight).matrix[known_outputs.ravel()]] if known_outputs.any() else []
    parts += [gradient_equations(layer, k).matrix] if gradients else []
    matrix = sp.csr_array(sp.vstack(parts, format="csr")) if parts else sp.csr_array((0, layer.unknowns))
    truth, (low, high) = x.ravel(), valid_range
    rng = np.random.default_rng(seed)
    directions = added = known = alone = 0
    wrong = False
    for columns, family in families(matrix, truth, rng):
        directions += family.dimension
        found = implied(family, np.full(len(columns), low), np.full(len(columns), high)) if family.dimension else None
        determined = ~family.moving if found is None else found.determined
        known += int(np.count_nonzero(determined))
        alone += int(np.count_nonzero(~family.moving))
        if found is not None:
            added += family.dimension - found.null.shape[1]
            wrong |= _differs(found.x[determined], truth[columns[determined]])
    at_edge = share_at_ends(truth, valid_range)
    return Decided(directions, at_edge, known / truth.size, added, wrong=wrong, by_equations=alone / truth.size)


def input_at_bounds(
    shape: Sequence[int], share: float, valid_range: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Return random values of which a share, each independently, lies at an end of their range, either as likely."""
    low, high = valid_range
    between, end = low + (high - low) * rng.random(shape), np.where(rng.random(shape) < 0.5, low, high)
    return np.where(rng.random(shape) < share, end, between)


def families(matrix: sp.csr_array, truth: FloatArray, rng: np.random.Generator) -> list[tuple[IntArray, Family]]:
    """Return what equations leave of a truth that meets them, for each part of the unknowns that has its own.

    Args:
        matrix: the equations, a row each.
        truth: the unknowns.
        rng: of the rounding of the right-hand side.

    Returns:
        The unknowns of each part, and what its equations leave.
    """
    scaled = unit_rows(matrix)[0]
    scaled.eliminate_zeros()
    size = float(np.abs(truth).max(initial=0.0)) or 1.0
    return [
        (part.columns, _family(dense_part(scaled, part), truth[part.columns], size, rng)) for part in blocks(scaled)
    ]


def _whole_family(A: FloatArray, truth: FloatArray, rng: np.random.Generator) -> Family:
    """Return what equations leave, without taking them apart: what is searched for is judged as a whole."""
    scaled = unit_rows(sp.csr_array(A))[0].toarray()
    return _family(scaled[np.abs(scaled).sum(axis=1) > 0], truth, float(np.abs(truth).max()) or 1.0, rng)


def _family(A: FloatArray, truth: FloatArray, size: float, rng: np.random.Generator) -> Family:
    sigma, vectors = right_vectors(A)
    rank = int(np.count_nonzero(sigma > RTOL * sigma.max(initial=0.0)))
    held, V = vectors[:rank], np.ascontiguousarray(vectors[rank:].T)
    error = EPSILON * size * sigma.max(initial=0.0) / sigma[:rank]  # rounding of the right-hand side, amplified
    p = held.T @ (held @ truth + error * rng.standard_normal(rank))
    noise = np.sqrt(EPSILON**2 * size**2 + ((held.T * error) ** 2).sum(axis=1))
    return Family(p, V, noise)


def _at(pattern: sp.csr_array, k: FloatArray) -> FloatArray:
    """Return a pattern of the entries of k, counted from 1, as a matrix with their values."""
    filled = sp.csr_array((k.ravel()[pattern.data - 1], pattern.indices, pattern.indptr), shape=pattern.shape)
    return np.asarray(filled.toarray())


def _differs(said: FloatArray, truth: FloatArray) -> bool:
    return bool((np.abs(said - truth) > CLOSE * (np.abs(truth).max(initial=0.0) or 1.0)).any())
