"""Families that the weight gradient of a real convolution leaves for one channel of its input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from constraint_algebra.beyond_rank.family import Family

FLOAT64, FLOAT32 = 2.0**-53, 2.0**-24
KINDS = ("dense", "flat", "few zeros", "half zeros", "flat zeros", "very sparse")


class Case(NamedTuple):
    """A family and the point of it that was the input."""

    family: Family
    truth: np.ndarray


def gradient_rows(rng: np.random.Generator) -> np.ndarray:
    """Rows of a weight gradient over the pixels of one channel: random geometry, some outputs switched off."""
    size, filters = int(rng.choice([5, 6, 8])), int(rng.integers(1, 5))
    kernel, stride = int(rng.choice([3, 5])), int(rng.choice([1, 2]))
    pad = kernel // 2
    outputs = (size + 2 * pad - kernel) // stride + 1
    k = rng.standard_normal((filters, outputs, outputs)) * (
        rng.random((filters, outputs, outputs)) < rng.uniform(0.2, 0.9)
    )
    rows = np.zeros((filters, kernel, kernel, size, size))
    for i in range(outputs):
        for j in range(outputs):
            for a in range(kernel):
                for b in range(kernel):
                    r, c = i * stride + a - pad, j * stride + b - pad
                    if 0 <= r < size and 0 <= c < size:
                        rows[:, a, b, r, c] += k[:, i, j]
    return rows.reshape(-1, size * size)


def values(kind: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Nonnegative values, of which none, fewer than there are directions, half or nearly all are zero."""
    x = rng.random(n) + 0.05
    if kind == "few zeros":
        x[rng.permutation(n)[: max(1, d // 2)]] = 0
    if kind == "half zeros":
        x *= rng.random(n) < 0.5
    if kind.startswith("flat"):  # one value in whole patches, two values in all: equal entries, sums that agree
        side = int(np.sqrt(n))
        coarse = rng.choice([0.0, 0.5] if kind == "flat zeros" else [0.5, 1.0], ((side + 1) // 2, (side + 1) // 2))
        x = np.kron(coarse, np.ones((2, 2)))[:side, :side].ravel()
    if kind == "very sparse":
        x *= rng.random(n) < 0.15
    return x


def family(rows: np.ndarray, truth: np.ndarray, rng: np.random.Generator, unit: float = FLOAT64) -> Family:
    """The family that rows leave, when they and their products with the truth are known with roundings `unit`."""
    rank = np.linalg.matrix_rank(rows)
    seen = rows * (1 + unit * rng.uniform(-1, 1, rows.shape))
    sizes = np.abs(rows) @ np.abs(truth)
    g = rows @ truth + unit * rng.uniform(-1, 1, len(rows)) * sizes
    U, s, Vt = np.linalg.svd(seen)
    inverse = Vt[:rank].T / s[:rank] @ U[:, :rank].T
    rounding = 2 * unit * sizes + 4 * FLOAT64 * s[0] * np.linalg.norm(truth)  # of the data, and of this decomposition
    noise = np.sqrt(inverse**2 @ rounding**2)
    return Family(inverse @ g, Vt[rank:].T, noise)


def convolution_case(kind: str, seed: int, unit: float = FLOAT64, most: int = 30) -> Case | None:
    """A family of a random layer with a truth of one kind; `None` where nothing is open or everything."""
    rng = np.random.default_rng(seed)
    rows = gradient_rows(rng)
    n = rows.shape[1]
    d = n - int(np.linalg.matrix_rank(rows))
    if not 0 < d <= most:
        return None
    truth = values(kind, n, d, rng)
    return Case(family(rows, truth, rng, unit), truth)
