"""What the range of values and exact zeros decide where the rank of the equations ends.

Question: Where equations are short of rank, how often do exact zeros of a ReLU's outputs, or the range of pixels,
decide the values all the same?

Hypothesis: Zeros decide a channel where there are clearly more of them than directions left open, the range an image
with a dark background from about three quarters of the full rank on; nothing that is said to be decided is wrong.

Finding: Nothing that was said was wrong. Zeros decide at least 30 of 40 channels from 20 % zeros on with 1 to 5 open
directions, from 30 % with 6 to 10, 40 % with 11 to 15, 50 % with 16 to 20 and 80 % with 21 to 30 of 64; nonnegativity
alone needs up to 30 points more, and decides 9 of 40 of the last at 80 %. Of 48 pairs of a digit and a convolution that
equations leave open, the range decides 14 wholly, at ranks from 503 of 784 on, and 9 in part, with errors up to 2e-9;
with 6 filters of kernel 3 and stride 2 equations give 12 % of the pixels and the range all.

Two kinds of rows. A `channel` row: one channel of 8×8 outputs of a ReLU read by a convolution of which the observer
knows the output gradient, 40 of them with rank deficits of one span and one share of zeros: how many the sparsest
point of what the gradient equations leave open decides, and how many nonnegativity alone. A `digit` row: one
convolution with ReLU and a linear layer, reconstructed from the real gradient of a digit of 28×28 pixels: which share
of them the equations determine, and which they do together with the range from 0 to 1.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg as la

import constraint_algebra as ca
from analysis.executors import Row
from analysis.subjects import sample_step
from constraint_algebra.arrays import FloatArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.implied import implied
from constraint_algebra.beyond_rank.zeros import sparsest
from constraint_algebra.ground import Ground
from constraint_algebra.numerics.rows import EPSILON

SEED = 0
CHANNEL = (8, 8)
DEFICITS = {"1-5": (1, 5), "6-10": (6, 10), "11-15": (11, 15), "16-20": (16, 20), "21-30": (21, 30)}
ZEROS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
CHANNELS = 40  # in a row
MOST_FILTERS = 8  # of a layer that a channel is drawn for
ZERO_RANK = 1e-10  # singular values below this share of the largest count as zero
DIGITS = (0, 1, 2)
FILTERS, KERNELS, STRIDES = range(1, 9), (3, 5), (1, 2)
SECONDS = 30.0  # that a reconstruction may take beyond the equations
WRONG = 1e-6  # error of a value that was called determined from which on it is wrong
CLAIM = 100.0  # error bars that excuse a larger one, where equations are ill-conditioned


class Run(NamedTuple):
    """A cell: channels of one span of deficits and one share of zeros, or one digit and one convolution."""

    kind: str
    deficit: str
    zeros: float
    kernel: int
    stride: int
    filters: int
    digit: int


COLUMNS = (
    *Run._fields,
    *("channels", "mean_deficit", "by_zeros", "by_zeros_wrong", "by_range", "part_by_range", "by_range_wrong"),
    *("status", "rank", "unknowns", "at_bound", "by_equations", "given_range", "wrong", "largest_error", "cpu_s"),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return both grids; a quick one has two spans, three shares, one digit and one kind of convolution."""
    spans, shares = (list(DEFICITS)[:2], (0.2, 0.5, 0.8)) if quick else (list(DEFICITS), ZEROS)
    layers = ((5,), (2,), (1, 4, 8), (0,)) if quick else (KERNELS, STRIDES, FILTERS, DIGITS)
    channels = [Run("channel", span, share, 0, 0, 0, 0) for span, share in itertools.product(spans, shares)]
    return channels + [Run("digit", "none", 0.0, *key) for key in itertools.product(*layers)]


def judge(run: Run) -> Row:
    """Return the row of a cell."""
    start = time.process_time()
    row = _of_channels(run) if run.kind == "channel" else _of_digit(run)
    return row | {"cpu_s": round(time.process_time() - start, 3)}


def _of_channels(run: Run) -> Row:
    """Return how many channels zeros decide, and how many nonnegativity: rightly, wrongly, or in part."""
    span = list(DEFICITS).index(run.deficit)
    layers, rng = (np.random.default_rng([SEED, span, what]) for what in range(2))  # every share has the same layers
    counts = dict.fromkeys(("by_zeros", "by_zeros_wrong", "by_range", "part_by_range", "by_range_wrong"), 0)
    n, deficits = int(np.prod(CHANNEL)), []
    for A in itertools.islice(_layers(layers, *DEFICITS[run.deficit]), CHANNELS):
        truth = rng.uniform(0.05, 1.0, n)
        truth[rng.permutation(n)[: round(run.zeros * n)]] = 0.0
        family = _family(A, truth)
        deficits.append(family.dimension)
        point = sparsest(family, rng=rng)
        if point is not None:
            counts["by_zeros" if _is_right(point.x, truth) else "by_zeros_wrong"] += 1
        found = implied(family, np.zeros(n), np.full(n, np.inf))
        if found is None:
            continue
        if not _is_right(found.x[found.determined], truth[found.determined]):
            counts["by_range_wrong"] += 1
        elif found.determined[family.moving].any():
            counts["by_range" if found.determined.all() else "part_by_range"] += 1
    return {"channels": CHANNELS, "mean_deficit": float(np.mean(deficits))} | counts


def _layers(rng: np.random.Generator, low: int, high: int) -> Iterator[FloatArray]:
    """Yield gradient equations of one channel whose rank is short by so much.

    A convolution of kernel 3 or 5 and stride 1 with one to `MOST_FILTERS` filters; of each filter a random share of the
    outputs is active, often a small one, and its output gradients there are Gaussian. Drawn until the rank fits.
    """
    while True:
        kernel, filters = int(rng.choice([3, 5])), int(rng.integers(1, MOST_FILTERS + 1))
        layer = ca.Conv2d(filters, kernel, padding=kernel // 2).place((1, *CHANNEL), name="conv")
        active = rng.random(layer.output_shape) < rng.random((filters, 1, 1)) ** 2
        A = ca.gradient_equations(layer, rng.standard_normal(layer.output_shape) * active).matrix.toarray()
        s = la.svdvals(A)
        if low <= A.shape[1] - np.count_nonzero(s > ZERO_RANK * s[0]) <= high:
            yield np.asarray(A)


def _family(A: FloatArray, truth: FloatArray) -> Family:
    """Return what equations leave open, their right-hand side computed and solved in float64."""
    U, s, Vt = la.svd(A)
    rank = np.count_nonzero(s > ZERO_RANK * s[0])
    held = Vt[:rank].T / s[:rank]
    rhs = A @ truth
    noise = EPSILON * (np.linalg.norm(held, axis=1) * np.linalg.norm(rhs) + np.abs(truth).max())
    return Family(held @ (U[:, :rank].T @ rhs), Vt[rank:].T, noise)


def _is_right(said: FloatArray, truth: FloatArray) -> bool:
    return float(np.abs(said - truth).max(initial=0.0)) <= WRONG


def _of_digit(run: Run) -> Row:
    """Return what equations determine of a digit, and what they do with the range of pixels."""
    layers = [
        ca.Conv2d(run.filters, run.kernel, stride=run.stride, padding=run.kernel // 2),
        *(ca.ReLU(), ca.Flatten(), ca.Linear(10)),
    ]
    seen = sample_step(ca.Network((1, 28, 28), layers), f"mnist:{run.digit}", seed=SEED + run.digit)
    truth = seen.truth
    assert truth is not None
    given = seen.network, seen.parameters, seen.gradients
    alone = ca.reconstruct(*given, loss=seen.loss, batch=1, search=0)
    found = ca.reconstruct(*given, loss=seen.loss, batch=1, search=SECONDS, seed=SEED)
    error, bar = np.abs(found.input - truth)[found.determined], found.error_bar[found.determined]
    return {
        "status": found.status.name,
        "rank": alone.layers[0].rank,
        "unknowns": truth.size,
        "at_bound": float(((truth <= 0) | (truth >= 1)).mean()),
        "by_equations": float(alone.determined.mean()),
        "given_range": float((found.ground <= Ground.RANGE).mean()),
        "wrong": int(np.count_nonzero(error > np.maximum(WRONG, CLAIM * bar))),
        "largest_error": float(error.max(initial=0.0)),
    }
