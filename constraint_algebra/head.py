"""The head: where the recursion starts, and with which output gradient k.

A layer with one output position and a bias gives its k away: it is the bias gradient. A last layer without a bias gives
it away through its weight gradient and the loss, up to the few roots of a scalar equation.

For one sample the weight gradient of the last layer is `dL/dW = k x^T`: it fixes k and x up to one factor. The loss
ties k to the logits W x, which leaves one scalar equation for that factor. It may have more than one root, and then the
gradient of this layer has more than one explanation; all of them are returned.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import lambertw, softmax

from constraint_algebra.errors import BatchError, MissingBiasError, ZeroGradientError
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.network import Network, Parameters

FloatArray = NDArray[np.float64]

# m / (1 + exp(m)) has its maximum where (m - 1) exp(m) = 1, which Lambert's W solves.
_PEAK = float(1 + lambertw(np.exp(-1)).real)


def output_gradients(
    network: Network, parameters: Parameters, gradients: Parameters, loss: str | None, deviations: Parameters
) -> tuple[PlacedLayer, list[FloatArray]]:
    """Return the lowest layer whose output gradient is at hand, and what it may be.

    Raises:
        ZeroGradientError: that gradient is zero throughout.
        BatchError: the layer's weight gradient is that of several samples.
        MissingBiasError: no layer gives its output gradient away.
    """
    layer = network.start
    if layer is not None and layer.bias_name is not None:
        k = gradients[layer.bias_name]
        _check_one_sample(layer, k, gradients, deviations)
        return layer, [k]
    if layer is None or loss is None:
        last = network.bilinear[-1]
        raise MissingBiasError(
            last.weight_name,
            "the output gradient follows from the bias gradient of a layer with one output position, and the network"
            f" has none (its last layer with a weight is {last.name!r}, {last.kind}); without a bias the loss must"
            ' settle the scale: pass loss="cross_entropy" or loss="logistic" for a network that ends in a linear layer'
            f" without an activation after it, got {loss!r}",
        )
    W, dW = (values[layer.weight_name].reshape(layer.filters, -1) for values in (parameters, gradients))
    _check_one_sample(layer, dW, gradients, deviations)
    candidates = logistic(W, dW) if loss == "logistic" else cross_entropy(W, dW)
    if loss == "logistic" and layer.filters != 1:
        raise MissingBiasError(
            layer.weight_name, f'loss="logistic" needs one output, layer {layer.name!r} has {layer.filters}'
        )
    if not candidates:
        raise MissingBiasError(
            layer.weight_name,
            f"no input and label explain the gradient of {layer.weight_name!r} under loss={loss!r}: it comes from"
            " another loss, from other parameters, or from several samples",
        )
    return layer, candidates


def _check_one_sample(layer: PlacedLayer, k: FloatArray, gradients: Parameters, deviations: Parameters) -> None:
    """Refuse a gradient of zeros and one of several samples: that of one sample is k x^T, of rank one."""
    if not k.any():
        raise ZeroGradientError(
            layer.bias_name or layer.weight_name,
            f"gradients: layer {layer.name!r} has a gradient of zeros, from which nothing follows; the loss is"
            " saturated or all outputs above it are inactive: take another step or another sample",
        )
    dW = gradients[layer.weight_name].reshape(layer.filters, -1)
    if min(dW.shape) < 2 or not dW.any():
        return
    s = np.linalg.svd(dW, compute_uv=False)
    # A matrix of independent noise has a largest singular value of about its largest row and its largest column, in
    # Euclidean size (Bandeira and van Handel 2016); the noise of rounding lies in the rows of the largest k.
    size = float(np.abs(dW).max())  # tiny squares underflow
    noise = deviations[layer.weight_name].reshape(dW.shape) / size + 1e-15
    limit = 4 * size * float(np.linalg.norm(noise, axis=1).max() + np.linalg.norm(noise, axis=0).max())
    if s[1] > limit:
        rank = int(np.count_nonzero(s > limit))
        raise BatchError(
            layer.weight_name,
            f"gradients: {layer.weight_name!r} has rank {rank} (singular values {s[0]:.3g}, {s[1]:.3g}, …; noise"
            f" alone would leave {limit:.1g}); one sample gives rank 1, so this gradient belongs to at least"
            f" {rank} samples: only the gradient of a single sample can be reconstructed. If it is one sample's and was"
            " rounded on its way, give it in the type in which it came, or say noise=",
        )


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


def cross_entropy(weight: FloatArray, weight_gradient: FloatArray, rtol: float = 1e-4) -> list[FloatArray]:
    """Return every k that explains the gradient of a softmax head without bias.

    With the leading singular triple `dL/dW ≈ s u v^T` the input is `x = t v` and `k = (s / t) u` for one number t, and
    `k = softmax(t W v) - e_y` for the label y. The entry y gives one scalar equation for t; a root counts where all
    other entries agree as well.

    Args:
        weight: `(classes, n)`.
        weight_gradient: `(classes, n)`.
        rtol: largest difference in the other entries, relative to the largest entry of k.

    Returns:
        Arrays of shape `(classes,)`, best first.
    """
    _, s, vt = np.linalg.svd(weight_gradient, full_matrices=False)
    # Row by row, so that tiny entries of k are as accurate as large ones; those of the singular vector are not.
    left, size, logits = weight_gradient @ vt[0] / s[0], s[0], weight @ vt[0]
    found: list[tuple[float, FloatArray]] = []
    for sign in (1.0, -1.0):
        direction, slope = sign * left, sign * logits
        if np.count_nonzero(direction < 0) != 1:  # k is negative at the label alone
            continue
        label = int(np.argmin(direction))

        def label_equation(
            log_t: float, direction: FloatArray = direction, slope: FloatArray = slope, label: int = label
        ) -> float:
            t = np.exp(log_t)
            return float(-size * direction[label] - t * (1 - softmax(t * slope)[label]))

        grid = np.linspace(-40, 40, 1601) + np.log(size)
        values = [label_equation(point) for point in grid]
        for low, high, a, b in zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True):
            if a * b <= 0 and a != b:
                t = float(np.exp(_root(label_equation, low, high)))
                k = size / t * direction
                error = np.abs(softmax(t * slope) - (np.arange(len(k)) == label) - k).max() / np.abs(k).max()
                if error < rtol:
                    found.append((float(error), k))
    return [k for _, k in sorted(found, key=lambda pair: pair[0])]


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
