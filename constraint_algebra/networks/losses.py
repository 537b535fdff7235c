"""The loss at the head: which gradients it can have there, and what a head without bias tells of its own.

The gradient of such a head fixes its output gradient k only up to a few candidates (Zhu and Blaschko 2021, arXiv
2010.07733, for one logistic output); its sign pattern betrays the label (Zhao et al. 2020, arXiv 2001.02610).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, lambertw, softmax

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ParameterError, ShapeError, UnknownNameError

# m / (1 + exp(m)) has its maximum where (m - 1) exp(m) = 1, which Lambert's W solves.
_PEAK = float(1 + lambertw(np.exp(-1)).real)


def loss_gradients(output: FloatArray, target: int | None, loss: str | None) -> FloatArray:
    """Return a basis of the gradients that the loss can have at the output, `(number, outputs)`."""
    z = output.ravel()
    if loss is None:
        return np.eye(len(z))
    if loss not in {"cross_entropy", "logistic"}:
        raise UnknownNameError(f'loss must be "cross_entropy", "logistic" or None, got {loss!r}')
    classes = 2 if loss == "logistic" else len(z)
    if target is not None and (int(target) != target or not 0 <= target < classes):
        raise ParameterError("target", f"target must be a class from 0 to {classes - 1}, got {target!r}")
    if loss == "logistic":
        if len(z) != 1:
            raise ShapeError(f'loss="logistic" needs one output, the network has {len(z)}; use "cross_entropy"')
        return np.array([[1.0 if target is None else expit(z[0]) - target]])
    gradients = np.tile(softmax(z), (classes, 1))
    np.fill_diagonal(gradients, 0.0)
    gradients -= np.diag(gradients.sum(axis=1))  # p - 1 without cancellation
    return gradients if target is None else gradients[[target]]


def logistic(weight: FloatArray, weight_gradient: FloatArray) -> list[FloatArray]:
    """Return every k that explains the gradient of a logistic head without bias.

    With the margin m = yμ of the label y = ±1 and the logit μ = w·x the loss is log(1 + exp(-m)), its k is
    -y / (1 + exp(m)), so that `w · dL/dw = kμ = -m / (1 + exp(m))`: a number that is known. It has one root m where it
    is positive and two where it is negative (Zhu and Blaschko 2021, arXiv 2010.07733); the sign of y is free in each.

    Args:
        weight: `(1, n)`.
        weight_gradient: `(1, n)`.

    Returns:
        Arrays of shape `(1,)`; none where no margin explains the gradient.

    >>> w, x = np.array([[1.0, -2.0]]), np.array([0.5, 0.1])        # μ = 0.3, y = 1
    >>> k = -1 / (1 + np.exp(0.3))
    >>> sorted(round(float(c[0] / k), 6) for c in logistic(w, k * x[None]))
    [-1.0, -0.094595, 0.094595, 1.0]
    """
    target = -float(np.sum(weight * weight_gradient))

    def margin_equation(m: float) -> float:
        return float(m * np.exp(-np.logaddexp(0, m))) - target

    highest = margin_equation(_PEAK)
    if highest < 0:
        return []
    margins = [_root(margin_equation, min(-1.0, 2 * target - 1.0), _PEAK)]
    if target > 0:
        margins.append(_root(margin_equation, _PEAK, 800.0))
    return [np.array([-y * np.exp(-np.logaddexp(0, m))]) for m in margins for y in (1.0, -1.0)]


def cross_entropy(
    weight: FloatArray, weight_gradient: FloatArray, rtol: float = 1e-4, noise: float = 0.0
) -> list[FloatArray]:
    """Return every k that explains the gradient of a softmax head without bias.

    With the leading singular triple `dL/dW ≈ s u v^T` the input is `x = t v` and `k = (s / t) u` for one number t, and
    `k = softmax(t W v) - e_y` for the label y. The entries of k add up to zero, which gives one scalar equation for t;
    a root counts where all other entries agree as well.

    Args:
        weight: `(classes, n)`.
        weight_gradient: `(classes, n)`.
        rtol: largest difference in the other entries, relative to the largest entry of k.
        noise: of the weight gradient, relative to its size. Logits are as noisy, relative to theirs, and the entries of
            k may differ by what that makes of them.

    Returns:
        Arrays of shape `(classes,)`, best first.

    >>> W, x = np.eye(3, 2), np.array([80.0, 10.0])                 # p is 1 but for 4e-31: k of the label rounds to 0
    >>> k = np.exp(W @ x - 80) * [0, 1, 1]
    >>> bool(np.allclose(cross_entropy(W, np.outer(k, x))[0] / k.sum(), k / k.sum()))
    True
    """
    _, s, vt = np.linalg.svd(weight_gradient, full_matrices=False)
    # Row by row, so that tiny entries of k are as accurate as large ones; those of the singular vector are not.
    left, size, logits = weight_gradient @ vt[0] / s[0], s[0], weight @ vt[0]
    found: list[tuple[float, FloatArray]] = []
    for sign in (1.0, -1.0):
        direction, slope = sign * left, sign * logits
        for label in _labels(direction):
            for t in _factors(size, direction, slope, label, noise):
                k, z = size / t * direction, t * slope
                off = np.abs(softmax(z) - (np.arange(len(k)) == label) - k)
                off[label] = max(off[label] - NOISY * noise, 0.0)  # the client's p - 1 is rounded as 1 is
                error = off.max() / np.abs(k).max()
                allowed = max(rtol, min(NOISY * noise * (1 + float(np.abs(z).max())), MOST))
                if error < allowed:
                    found.append((float(error), k))
    return [k for _, k in sorted(found, key=lambda pair: pair[0])]


NOISY = 30.0  # standard deviations of noise that entries of k may differ by
MOST = 0.5  # of the largest entry, however noisy


def _labels(direction: FloatArray) -> list[int]:
    """Return which labels a k along a direction may have: it is negative there alone, or rounded to zero."""
    negative = np.flatnonzero(direction < 0)
    if len(negative) > 1:
        return []
    found: list[int] = (negative if len(negative) else np.flatnonzero(direction == 0)).tolist()
    return found


def _factors(size: float, direction: FloatArray, slope: FloatArray, label: int, noise: float) -> list[float]:
    """Return the numbers t at which `1 - p` of the label is what the other entries of k along a direction add up to.

    As the client computes it, p - 1 is rounded as 1 is; the sum of the others is as exact as they are. Where two roots
    lie so close together that noise leaves none, the point that comes nearest stands for both.
    """
    others = np.arange(len(slope)) != label
    missed = size * float(direction[others].sum())
    if not missed > 0:
        return []

    def label_equation(log_t: float) -> float:
        t = np.exp(log_t)
        return float(missed - t * softmax(t * slope)[others].sum())

    # t is the size of an input: that of the gradient at least, and where k is next to nothing far larger.
    grid = np.arange(-40 + np.log(size), 40 + max(0.0, float(np.log(size))), 0.05)
    values = [label_equation(point) for point in grid]
    grid, values = _with_extremes(label_equation, grid, values)
    roots = [
        float(np.exp(_root(label_equation, low, high)))
        for low, high, a, b in zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True)
        if np.sign(a) != np.sign(b)  # their product may underflow
    ]
    nearest = int(np.argmin(np.abs(values)))
    touches = 0 < nearest < len(grid) - 1 and abs(values[nearest]) <= NOISY * noise * missed
    return roots or ([float(np.exp(grid[nearest]))] if touches else [])


REACH = 0.5  # share of the value nearest to zero on a grid, which its parabola must fall below to be looked at


def _with_extremes(
    function: Callable[[float], float], grid: FloatArray, values: list[float]
) -> tuple[FloatArray, list[float]]:
    """Return a grid with the points where a function comes nearest to zero between two others without a change of sign.

    There it may cross zero twice between two points of the grid.
    """
    v = np.array(values)
    before, here, after = v[:-2], v[1:-1], v[2:]
    size = np.abs(here)
    near = (size <= np.abs(before)) & (size <= np.abs(after)) & (here * before > 0) & (here * after > 0)
    # Where the parabola through three points ends far from zero, the function does as well.
    bend = before - 2 * here + after
    with np.errstate(divide="ignore", invalid="ignore"):
        lowest = here - (after - before) ** 2 / (8 * bend)
    near &= (lowest * here < REACH * here**2) & (bend != 0)
    for i in np.flatnonzero(near) + 1:
        bounds, side = (float(grid[i - 1]), float(grid[i + 1])), float(np.sign(v[i]))
        found = minimize_scalar(lambda t, side=side: side * function(t), bounds=bounds, method="bounded")
        grid, values = np.append(grid, found.x), [*values, function(float(found.x))]
    order = np.argsort(grid, kind="stable")
    return grid[order], [values[i] for i in order]


def label_of(k: FloatArray, loss: str | None, *, signed: bool = True) -> int | None:
    """Return the label that the output gradient betrays, `None` where it does not fit the loss.

    Cross-entropy: k = softmax - e_y is negative at the label alone (Zhao et al. 2020, arXiv 2001.02610). Where only a
    multiple of k is at hand, the label is the entry whose sign no other shares. Logistic: k = sigmoid(μ) - y is
    negative exactly for y = 1.

    Args:
        k: the output gradient, or a multiple of it.
        loss: "cross_entropy", "logistic" or `None`.
        signed: whether the sign of k is right.

    >>> label_of(np.array([0.2, -0.7, 0.5]), "cross_entropy")
    1
    """
    if loss == "logistic":
        return int(k[0] < 0) if signed else None
    if loss != "cross_entropy" or abs(k.sum()) > 0.05 * np.abs(k).sum():
        return None
    negative, positive = np.flatnonzero(k < 0), np.flatnonzero(k > 0)
    alone = [side for side in ((negative,) if signed else (negative, positive)) if len(side) == 1]
    return int(alone[0][0]) if len(alone) == 1 else None


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-15, rtol=8.9e-16, maxiter=500))
