"""R-GAP (Zhu and Blaschko, ICLR 2021, arXiv 2010.07733): the recursion with weight, gradient and padding equations.

For networks without biases, with invertible activations and one logistic output, loss log(1 + exp(-yμ)):

1. With the margin m = yμ, the head's gradient gives `w · dL/dw = -m / (1 + exp(m))`. Where that is negative it has two
   roots, where it is positive one; each gives k = -y / (1 + exp(m)).
2. In each layer the input x solves `[W; K] x = [z; dL/dW]` in the least-squares sense, of minimum norm where the
   equations do not determine it: W the weight equations, K the gradient equations. The padding equations say that a
   padded value is zero; they are used to strike these values out.
3. x gives z and σ′ of the layer below, and `W^T k` times σ′ its k.

The label's sign y is free in step 1: both are followed until the equations of a layer contradict one of them. Without
biases a factor in k is the inverse factor in every x, so the second root gives a multiple of the first one's image.

Least squares is LSMR, preconditioned by the Cholesky factor of the normal matrix, to which a small multiple of the
identity is added: it ends at the pseudo-inverse's solution in seconds and with the accuracy of the stacked system,
where the published code forms a dense pseudo-inverse. Nothing here uses the library's own equations.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, solve_triangular
from scipy.optimize import brentq
from scipy.sparse.linalg import LinearOperator, lsmr

from constraint_algebra.arrays import FloatArray, Parameters, Progress
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers import Activation, Conv, Conv2d, Flatten, Identity, LeakyReLU, Linear, PlacedLayer
from constraint_algebra.networks.network import Network, bind
from constraint_algebra.networks.walk import Rules, down
from paper_repro.baselines import BaselineResult, Outcome
from paper_repro.baselines.ambiguity import likeliest
from paper_repro.baselines.convolution_rows import arrive, gradient_rows, weight_rows
from paper_repro.baselines.watch import RunEnds, Watch

METHOD = "rgap2021"
CONTRADICTED = 100.0  # a label goes when its equations fit so many times worse than those of the other
PEAK = float(brentq(lambda m: m - 1 - np.exp(-m), 1.0, 2.0))  # where m / (1 + exp(m)) is largest
# Of the normal matrix, added to it: far above its rounding, or directions that no equation tells of would be inflated.
SHIFT = 1e-8
RELATIVE = 1e-12  # at which LSMR ends; again on what is left, as often as REFINED says
REFINED, ITERATIONS = 2, 100


@dataclass(frozen=True, eq=False)
class Branch:
    """One explanation of the gradient, as far as the recursion has come: a label, and x, k at the current layer."""

    y: int
    x: FloatArray
    k: FloatArray
    misfit: float = 0.0


def rgap(
    network: Network,
    parameters: Mapping[str, Any],
    gradients: Mapping[str, Any],
    *,
    seed: int = 0,  # noqa: ARG001 -- the face of all baselines; nothing here is random
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> BaselineResult:
    """Reconstruct an input by R-GAP's recursion.

    Args:
        network: two-dimensional convolutions without groups and linear layers, none with a bias, with LeakyReLU or
            nothing between them, one output at the end.
        parameters: weights, by name.
        gradients: the gradient of one sample for the logistic loss, by name; computed with in float64.
        seed: without effect.
        time_limit: seconds of processor time, looked at between two layers.
        progress: called with (layers done, layers in all, name) after each layer.

    Returns:
        A result whose `input` is the likeliest image of those that explain the gradient, see `likeliest`, and whose
        `alternatives` are the others.

    Raises:
        ShapeError: a network that the algorithm is not made for, with all the reasons.
        ParameterError: parameters or gradients that do not fit the network.
    """
    check(network)
    W, dW = bind(network, parameters, "parameters"), bind(network, gradients, "gradients")
    watch, steps = Watch(time_limit), list[str]()
    images, outcome, reason = list[FloatArray](), Outcome.FINISHED, ""
    try:
        images = _recursion(network, W, dW, watch, steps, progress)
    except RunEnds as stop:
        outcome, reason = stop.outcome, str(stop)
    except LinAlgError as error:
        outcome, reason = Outcome.FAILED, f"a factorisation failed ({error}) after {len(steps)} layers"
    best = likeliest(images) if images else 0
    others = tuple(image for number, image in enumerate(images) if number != best)
    wall, cpu = time.perf_counter() - watch.wall, time.process_time() - watch.cpu
    image = images[best] if images else None
    return BaselineResult(METHOD, outcome, image, reason, wall, cpu, tuple(steps), None, others)


def check(network: Network) -> None:
    """Raise unless R-GAP is made for the network; see `rgap`."""
    reasons: dict[str, list[str]] = {}
    for layer in network.layers:
        reason = _obstacle(layer)
        if reason:
            reasons.setdefault(reason, []).append(layer.name)
    last = network.layers[-1]
    if not isinstance(last.layer, Linear) or last.filters != 1:
        reasons.setdefault("it needs one logistic output from a linear layer at the end", []).append(last.name)
    if reasons:
        found = "; ".join(f"{reason} (layer {', '.join(names)})" for reason, names in reasons.items())
        raise ShapeError(f"R-GAP is not made for this network: {found}; use constraint_algebra.reconstruct")


def _obstacle(layer: PlacedLayer) -> str:
    """Return why R-GAP cannot take a layer, empty if it can."""
    kind = layer.layer
    if layer.is_bilinear and layer.bias_name is not None:
        return "it has no place for biases"
    if isinstance(kind, Conv) and (not isinstance(kind, Conv2d) or kind.groups > 1):
        return "it is written for two axes without groups"
    if isinstance(kind, Activation) and not isinstance(kind, Identity | LeakyReLU):
        return f"it cannot invert {layer.kind}"
    return "" if layer.is_bilinear or isinstance(kind, Activation | Flatten) else f"it knows no {layer.kind}"


def margins(target: float) -> list[float]:
    """Return the roots m of `-m / (1 + exp(m)) = target`; none below the minimum of the left side, else one or two.

    >>> [round(m, 9) for m in margins(-2 / (1 + np.exp(2.0)))]
    [0.736187906, 2.0]
    >>> [round(m, 9) for m in margins(3 / (1 + np.exp(-3.0)))]
    [-3.0]
    """

    def excess(m: float) -> float:
        return float(-m * np.exp(-np.logaddexp(0, m))) - target

    if excess(PEAK) > 0:
        return []
    roots = [brentq(excess, min(-1.0, -2 * target - 1), PEAK, xtol=1e-15, rtol=8.9e-16, maxiter=500)]
    if target < 0:
        roots.append(brentq(excess, PEAK, 800.0, xtol=1e-15, rtol=8.9e-16, maxiter=500))
    return [float(m) for m in roots]


def _recursion(
    network: Network, W: Parameters, dW: Parameters, watch: Watch, steps: list[str], progress: Progress | None
) -> list[FloatArray]:
    """Return every image that explains the gradient."""
    *below, head = network.bilinear
    target = float(np.sum(W[head.weight_name] * dW[head.weight_name]))
    if not dW[head.weight_name].any():
        raise RunEnds(Outcome.FAILED, "the head's gradient is zero: the loss is saturated, nothing follows")
    found = margins(target)
    if not found:
        raise RunEnds(Outcome.FAILED, f"no margin gives w · dL/dw = {target:g}: the least possible is {-(PEAK - 1):g}")
    size = float(1 / (1 + np.exp(found[0])))
    first = [Branch(y, dW[head.weight_name][0] / (-y * size), np.array([-y * size])) for y in (1, -1)]
    branches, upper = first, head
    steps.append(f"{head.name}: margin {' or '.join(f'{m:.6g}' for m in found)}")
    if progress is not None:
        progress(1, len(below) + 1, head.name)
    for done, layer in enumerate(reversed(below), start=2):
        watch.check(f"layer {layer.name!r}")
        branches = [_through(network, layer, upper, branch, W, dW) for branch in branches]
        least = min(branch.misfit for branch in branches)
        branches = [b for b in branches if b.misfit <= CONTRADICTED * least + 1e-12]
        steps.append(f"{layer.name}: {layer.unknowns} unknowns, misfit {least:.1e}, {len(branches)} of 2 labels")
        if progress is not None:
            progress(done, len(below) + 1, layer.name)
        upper = layer
    scales = [size * (1 + np.exp(m)) for m in found]  # k of the first root over that of each
    return [scale * branch.x.reshape(network.input_shape) for branch in branches for scale in scales]


def _through(
    network: Network, layer: PlacedLayer, upper: PlacedLayer, branch: Branch, W: Parameters, dW: Parameters
) -> Branch:
    """Return the branch one layer further down: z and k of the layer from the x above, then its own x."""
    arriving = _arriving(upper, W[upper.weight_name], branch.k)
    above = branch.x.reshape(upper.input_shape), arriving.reshape(upper.input_shape)
    z, k = down(network.between(layer, upper), above, BELOW)
    x, misfit = layer_input(layer, W[layer.weight_name], z, k, dW[layer.weight_name])
    if not np.isfinite(x).all():
        raise RunEnds(Outcome.FAILED, f"the input found for layer {layer.name!r} holds values that are not finite")
    return replace(branch, x=x, k=k, misfit=misfit)


def _activation(layer: PlacedLayer, above: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
    if not isinstance(layer.layer, LeakyReLU):  # then it is the identity
        return above
    z, k = above
    slope = np.where(z > 0, 1.0, layer.layer.slope)
    return z / slope, k * slope


BELOW = Rules[tuple[FloatArray, FloatArray]](  # of z and k
    activation=_activation,
    reshape=lambda layer, above: (above[0].reshape(layer.input_shape), above[1].reshape(layer.input_shape)),
)


def _arriving(layer: PlacedLayer, W: FloatArray, k: FloatArray) -> FloatArray:
    return arrive(layer, W, k) if isinstance(layer.layer, Conv2d) else W.T @ k


def rows_of(layer: PlacedLayer, W: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the weight equations over all unknowns, and the gradient equations over the pixels of one channel."""
    if not isinstance(layer.layer, Conv2d):
        return W, k.reshape(-1, 1)
    B = np.fromiter(weight_rows(layer, W), dtype=(float, layer.unknowns), count=int(np.prod(layer.output_shape)))
    A = np.array([row for *_, row in gradient_rows(layer, k)])
    return B, A


def layer_input(
    layer: PlacedLayer, W: FloatArray, z: FloatArray, k: FloatArray, dW: FloatArray
) -> tuple[FloatArray, float]:
    """Return the least-squares solution of a layer's equations, of minimum norm, and its relative residual."""
    B, A = rows_of(layer, W, k)
    channels = layer.channels
    G = np.moveaxis(dW.reshape(layer.filters, channels, -1), 1, 2).reshape(-1, channels)  # rows (f, t), a column each
    N = B.T @ B
    blocks = N.reshape(channels, A.shape[1], channels, A.shape[1])
    blocks[np.arange(channels), :, np.arange(channels)] += A.T @ A
    n = len(N)
    N[np.diag_indices(n)] += SHIFT * np.max(np.diag(N))
    R, _ = cho_factor(N, check_finite=False)

    def forward(v: FloatArray) -> FloatArray:
        x = solve_triangular(R, v, check_finite=False)
        return np.concatenate([B @ x, (A @ x.reshape(channels, -1).T).ravel()])

    def backward(r: FloatArray) -> FloatArray:
        upward = B.T @ r[: len(B)] + (A.T @ r[len(B) :].reshape(-1, channels)).T.ravel()
        return np.asarray(solve_triangular(R, upward, trans="T", check_finite=False))

    rhs = np.concatenate([z.ravel(), G.ravel()])
    operator = LinearOperator((len(rhs), n), matvec=forward, rmatvec=backward, dtype=float)
    v, residual = np.zeros(n), rhs
    for _ in range(REFINED):
        v += lsmr(operator, residual, atol=RELATIVE, btol=RELATIVE, conlim=0, maxiter=ITERATIONS)[0]
        residual = rhs - forward(v)
    misfit = float(np.linalg.norm(residual) / (np.linalg.norm(rhs) or 1.0))  # zeros explain zeros
    return solve_triangular(R, v, check_finite=False).reshape(layer.input_shape), misfit
