"""Ranks by other means: the equations from plain loops over taps and outputs, their rank by FLINT or by an SVD."""

from __future__ import annotations

import itertools

import flint
import numpy as np

import constraint_algebra as ca

LARGE_PRIME = 2**61 - 1  # a chance zero is next to impossible
CONV = {1: ca.Conv1d, 2: ca.Conv2d, 3: ca.Conv3d}


def random_layers(count, seed, largest=None, groups=(1, 1, 1, 2)):
    """Small convolutions in one to three axes: rectangles, strides up to 4, dilation, padding on one side, groups."""
    rng = np.random.default_rng(seed)
    largest = largest or {1: 14, 2: 6, 3: 4}
    while count:
        axes = int(rng.choice([1, 2, 2, 3]))
        per_axis = lambda low, high: tuple(int(v) for v in rng.integers(low, high + 1, axes))  # noqa: B023, E731
        sizes, kernel = per_axis(1, largest[axes]), per_axis(1, {1: 5, 2: 4, 3: 3}[axes])
        G = int(rng.choice(groups))
        channels, filters = G * int(rng.integers(1, 4)), G * int(rng.integers(1, 5))
        padding = tuple(zip(per_axis(0, 2), per_axis(0, 2), strict=True))
        conv = CONV[axes](filters, kernel, stride=per_axis(1, 4), padding=padding, dilation=per_axis(1, 3), groups=G)
        try:
            yield conv.place((channels, *sizes))
        except ca.ShapeError:  # the kernel is larger than the input
            continue
        count -= 1


def looped_rows(layer, W, k, weight_mask, gradient_mask):
    """The rows of both kinds by loops over outputs and taps; a gradient row needs all its k known."""
    conv = layer.layer
    F, C = layer.filters // layer.groups, layer.channels // layer.groups

    def pixel(o, t):
        corner = zip(o, t, conv.strides, conv.dilations, conv.paddings, layer.positions, strict=True)
        q = []
        for oa, ta, stride, dilation, (before, _), size in corner:
            q.append(oa * stride + ta * dilation - before)
            if not 0 <= q[-1] < size:
                return None
        return tuple(q)

    outputs = list(itertools.product(*map(range, layer.outputs)))
    taps = list(itertools.product(*map(range, layer.taps)))
    weight_rows, gradient_rows = [], []
    for f in range(layer.filters):
        channels = range(f // F * C, f // F * C + C)
        for o in outputs:
            row = np.zeros(layer.input_shape, dtype=W.dtype)
            for c, t in itertools.product(channels, taps):
                if (q := pixel(o, t)) is not None:
                    row[(c, *q)] = W[(f, c % C, *t)]
            if weight_mask[(f, *o)]:
                weight_rows.append(row.ravel())
        for c, t in itertools.product(channels, taps):
            row, known = np.zeros(layer.input_shape, dtype=k.dtype), True
            for o in outputs:
                if (q := pixel(o, t)) is not None:
                    row[(c, *q)] = k[(f, *o)]
                    known &= bool(gradient_mask[(f, *o)])
            if known:
                gradient_rows.append(row.ravel())
    empty = np.zeros((0, layer.unknowns), dtype=W.dtype)
    return np.array(weight_rows or empty), np.array(gradient_rows or empty)


def random_rows(layer, rng, *, weight_mask=None, gradient_mask=None, support=None, real=False):
    """Weight rows and gradient rows at random integers, or at random reals for an SVD."""
    full = np.ones(layer.output_shape, dtype=bool)
    draw = rng.normal if real else (lambda size: rng.integers(1, 2**31, size=size))
    W, k = draw(size=layer.weight_shape), draw(size=layer.output_shape)
    masks = (full if mask is None else mask for mask in (weight_mask, gradient_mask))
    return looped_rows(layer, W, k * (full if support is None else support), *masks)


def exact_rank(A):
    """Rank modulo a large prime."""
    return flint.nmod_mat(*A.shape, [int(v) for v in A.ravel()], LARGE_PRIME).rank() if A.size else 0


def exactly_determined(A):
    """Which unit vectors lie in the row space, by the rank of the matrix with that row added."""
    rank = exact_rank(A)
    unit = np.eye(A.shape[1], dtype=A.dtype)
    return np.array([exact_rank(np.vstack([A, row])) == rank for row in unit])


def svd_rank(A):
    """Rank by a dense SVD with rows of unit norm, and the factor between the last value counted and the first not."""
    A = A[np.any(A != 0, axis=1)]
    if A.size == 0:
        return 0, np.inf
    sigma = np.linalg.svd(A / np.linalg.norm(A, axis=1, keepdims=True), compute_uv=False)
    rank = int(np.sum(sigma > 1e-11 * sigma[0]))
    return rank, sigma[rank - 1] / max(sigma[rank], 1e-300) if rank < len(sigma) else sigma[-1] / 1e-11
