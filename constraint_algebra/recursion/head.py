"""The head: where the recursion starts, and with which output gradient k.

A layer with one output position and a bias gives its k away: it is the bias gradient. A last layer without a bias gives
it away through its weight gradient and the loss, up to the few roots of a scalar equation.

For one sample the weight gradient of the last layer is `dL/dW = k x^T`: it fixes k and x up to one factor. The loss
ties k to the logits W x, which leaves one scalar equation for that factor. It may have more than one root, and then the
gradient of this layer has more than one explanation; all of them are returned.
"""

from __future__ import annotations

import math

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.errors import BatchError, MissingBiasError, ZeroGradientError
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks import operations
from constraint_algebra.networks.losses import cross_entropy, logistic
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.observation import Observation

RTOL = 1e-9  # singular values below this share of the largest count as zero
FACTORED = 1e-13  # of the largest singular value: what factoring alone may leave of one that is zero
LEAST_NOISE = 1e-6  # of the largest among bias gradients: what each has at least, when they are weighed


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
    if layer is None and not network.is_chain:
        found = by_biases(network, parameters, gradients, deviations)
        if found is not None:
            if not found[0].any():
                raise ZeroGradientError(
                    network.bilinear[-1].weight_name,
                    "gradients: those of the biases before the output are zero throughout, and with them the gradient"
                    " at the output, from which nothing follows: the loss is saturated; take another step or sample",
                )
            return network.layers[-1], [found[0]]
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
    noise = _share(deviations[layer.weight_name], dW)
    candidates = logistic(W, dW) if loss == "logistic" else cross_entropy(W, dW, noise=noise)
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
    by_group = (layer.groups, layer.filters // layer.groups, -1)
    for dW, deviation in zip(
        gradients[layer.weight_name].reshape(by_group), deviations[layer.weight_name].reshape(by_group), strict=True
    ):
        _check_rank_one(layer, dW, deviation)


def _check_rank_one(layer: PlacedLayer, dW: FloatArray, deviation: FloatArray) -> None:
    """Refuse the weight gradient of one group of filters if it has more than one independent row."""
    if min(dW.shape) < 2 or not dW.any():
        return
    s = np.linalg.svd(dW, compute_uv=False)
    # A matrix of independent noise has a largest singular value of about its largest row and its largest column, in
    # Euclidean size (Bandeira and van Handel 2016); the noise of rounding lies in the rows of the largest k.
    size = float(np.abs(dW).max())  # tiny squares underflow
    noise = deviation / size + 1e-15
    limit = 4 * size * float(np.linalg.norm(noise, axis=1).max() + np.linalg.norm(noise, axis=0).max())
    limit = max(limit, FACTORED * float(s[0]))
    if s[1] > limit:
        rank = int(np.count_nonzero(s > limit))
        raise BatchError(
            layer.weight_name,
            f"gradients: {layer.weight_name!r} has rank {rank} (singular values {s[0]:.3g}, {s[1]:.3g}, …; noise"
            f" alone would leave {limit:.1g}); one sample gives rank 1 in one step, so this is the sum of at least"
            f" {rank} gradients: of as many samples, or of several local steps on one, as in a difference of weights."
            " Only the gradient of a single sample in a single step can be reconstructed. If it is that and was rounded"
            " on its way, give it in the type in which it came, or say noise=",
        )


def by_biases(
    network: Network, parameters: Parameters, gradients: Parameters, deviations: Parameters
) -> tuple[FloatArray, FloatArray] | None:
    """Return the gradient at the network's output that the bias gradients near it tell, and its standard deviation.

    Where only affine operations part the output from layers with a bias, as behind a last convolution and a global
    average pool, their bias gradients are linear in the gradient at the output. `None` where they do not determine it.
    """
    size = math.prod(network.output_shape)
    known: dict[int, FloatArray] = {len(network): np.eye(size).reshape(*network.output_shape, size)}
    rows, rhs, noise = [np.zeros((0, size))], [np.zeros(0)], [np.zeros(0)]
    for layer in reversed(network.layers):
        k = known.pop(layer.number, None)
        if k is None or layer.is_source:
            continue
        if layer.is_bilinear and layer.bias_name is not None:
            rows.append(k.reshape(layer.filters, -1, size).sum(axis=1))
            rhs.append(gradients[layer.bias_name])
            noise.append(deviations[layer.bias_name])
        sent = operations.cotangents(layer, parameters, {}, k)
        alone = {
            number: part for number, part in zip(layer.inputs, sent, strict=True) if is_only_reader(network, number)
        }
        known |= alone
    L, db, own = np.concatenate(rows), np.concatenate(rhs), np.concatenate(noise)
    s = np.linalg.svd(L, compute_uv=False)
    if len(s) < size or not s[-1] > RTOL * s[0]:
        return None
    # A sum of zero has no noise of its own; weighed by that, it would leave nothing of the others.
    weight = 1 / np.maximum(own, LEAST_NOISE * (own.max(initial=0.0) or 1.0))
    inverse = np.linalg.inv(L) if len(L) == size else np.linalg.pinv(L * weight[:, None]) * weight
    return inverse @ db, np.sqrt(inverse**2 @ own**2)


def by_loss(layer: PlacedLayer, k: FloatArray, observed: Observation) -> FloatArray:
    """Return draws of the noise of an output gradient that a layer's weight gradient and the loss tell.

    Noise of the weight gradient moves every entry by its share. The factor of all of them solves `t (1 - p(t)) = c` for
    the probability p of the label at the logits `t W v`: it is as noisy as c, as the client's rounded logits, and as
    its rounded p beside 1 - p, divided by the slope of that equation, which is zero where two of its roots meet.

    Args:
        layer: the last one with a weight, without a bias.
        k: its output gradient.
        observed: parameters and gradients.

    Returns:
        Shape `(*k.shape, MEMBERS)`.
    """
    W, dW, of_dW = (
        values[layer.weight_name].reshape(layer.filters, -1)
        for values in (observed.parameters, observed.gradients, observed.deviations)
    )
    share = _share(of_dW, dW)
    label = int(np.argmin(k))  # of several classes it alone is negative
    arithmetic = observed.rounding.summing(layer.unknowns).arithmetic  # of logits, the longest sums of all
    one = np.arange(len(k)) == label
    # 1 - p, however small: where p is rounded to 1, it is the sum of all others.
    missed, sign = (float(np.abs(k[0])), float(np.sign(k[0]))) if len(k) == 1 else (float(np.abs(k[~one]).sum()), -1.0)
    direction = k / missed
    with np.errstate(over="ignore", invalid="ignore"):
        products = W * (direction @ dW / (direction @ direction) / missed)  # of every weight and its input
        z, rounding = products.sum(axis=1), arithmetic * np.linalg.norm(products, axis=1)
        others = np.where(one, 0.0, np.abs(direction))
        margin = -sign * (z[label] - others @ z)  # a single logit stands against zero, for either label
        slope = 1 - (1 - missed) * margin
        of_logits = (1 - missed) * float(np.linalg.norm(np.where(one, 1.0, others) * rounding))
        of_p = arithmetic / (missed if sign < 0 else 1.0)  # p - 1 cancels, and p itself does not
        of_factor = math.hypot(share * (1 - slope), of_logits, of_p) / max(abs(slope), 1e-300)
    factor = min(of_factor, 1.0) if math.isfinite(of_factor) else 1.0
    each = observed.draw(share * np.abs(k), k.shape)
    return np.asarray(each + k[:, None] * observed.draw(np.array([factor]), (1,)))


def _share(deviation: FloatArray, values: FloatArray) -> float:
    """Return the size of the noise of values relative to theirs, however small they are."""
    largest = float(np.abs(values).max()) or 1.0
    return float(np.linalg.norm(deviation / largest) / (np.linalg.norm(values / largest) or 1.0))


def is_only_reader(network: Network, number: int) -> bool:
    """Return whether a single layer reads a value, once."""
    return sum(layer.inputs.count(number) for layer in network.users(number)) == 1
