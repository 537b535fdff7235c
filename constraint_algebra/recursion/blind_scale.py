"""The factor that a blind start leaves open: `k -> c k`, `h -> h / c`.

- *A bias gradient above*, `sum_o k = dL/db`: of the layer itself, or of one to which k goes up on a single path of
  linear operations, such as a batch norm in evaluation mode.
- *A bias gradient below*: where h is what a ReLU makes, the signs of h are those of its input, so that k comes down
  through the layer, the activation and sums to the bias of what made them. A normalisation by the data's own statistics
  above makes the sums of k vanish; those below remain.
- *Buffers*: mean and standard deviation of the layer's output, where they are known.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.activations import LeakyReLU, ReLU
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion import layer_step
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, add, kept
from constraint_algebra.recursion.graph_rules import parts, push

AGREES = 8.0  # standard deviations, root mean square over the filters, within which the equations hold
ROUNDED = 1e-9  # of the largest sum: what counts as no misfit in any case

Scale = tuple[float, FloatArray]  # the factor, and how noise moves it


def from_above(knows: GraphKnowledge, layer: PlacedLayer, k: Estimate) -> Scale | None:
    """Return what k has to be multiplied by, from a bias gradient above; `None` where none tells."""
    scratch = GraphKnowledge.nothing(knows.observed)
    scratch.learn_gradient(layer.number, k)
    while True:
        if layer.bias_name is not None:
            found = _from_bias(knows, layer, scratch.gradients[layer.number])
            if found is not None:
                return found
        above = _next(scratch, layer)
        if above is None:
            return None
        layer = above


def from_below(knows: GraphKnowledge, layer: PlacedLayer, k: Estimate, h: Estimate) -> Scale | None:
    """Return the same from bias gradients below h, where h is the output of a ReLU or leaky ReLU.

    What others that read h send back must be known. A leaky ReLU makes both signs, so that either sign of h is tried;
    the bias equations say which it is.
    """
    network, number = knows.network, layer.inputs[0]
    activation = network.layers[number - 1] if number else None
    if activation is None or not isinstance(activation.layer, ReLU | LeakyReLU):
        return None
    back = layer_step.input_gradient(knows.observed, layer, k)
    others = _others(knows, layer)
    slope = 0.0 if isinstance(activation.layer, ReLU) else activation.layer.slope
    for sign in (1.0, -1.0):
        d = np.where(sign * h.value > SIDES * h.deviation, 1.0, slope)
        arriving = [_by_sides(part, d) for part in (back, others)]
        for below, own, rest in _below(knows, activation.inputs[0], *arriving):
            found = _from_bias(knows, below, own, rest)
            if found is not None and sign * found[0] > 0:
                return found
    return None


def _others(knows: GraphKnowledge, layer: PlacedLayer) -> Estimate:
    """Return what all others that read the input of a layer send back to it."""
    number = layer.inputs[0]
    shape = knows.network.shape_of(number)
    total = Estimate(np.zeros(shape), np.ones(shape, dtype=bool), np.zeros((*shape, MEMBERS)))
    for user in knows.network.users(number):
        if user.index != layer.index:
            for slot, part in zip(user.inputs, parts(knows, user), strict=True):
                total = add(total, part) if slot == number else total
    return total


def _by_sides(k: Estimate, d: FloatArray) -> Estimate:
    """Return a gradient times the derivative of an activation, which is known where that is zero."""
    return Estimate(d * k.filled(), k.known | (d == 0), d[..., None] * kept(k))


def _below(
    knows: GraphKnowledge, number: int, own: Estimate, rest: Estimate
) -> Iterator[tuple[PlacedLayer, Estimate, Estimate]]:
    """Yield layers with a bias that make a value, directly or through sums, with two gradients that arrive at each."""
    network = knows.network
    maker = network.layers[number - 1] if number else None
    if maker is None or len(network.users(number)) != 1:
        return
    if maker.is_bilinear and maker.bias_name is not None:
        yield maker, own, rest
    elif maker.is_affine:
        sent = []
        for arriving in (own, rest):
            scratch = GraphKnowledge.nothing(knows.observed)
            scratch.learn_gradient(number, arriving)
            sent.append(parts(scratch, maker))
        for source, *both in zip(maker.inputs, *sent, strict=True):
            yield from _below(knows, source, *both)


def from_statistics(knows: GraphKnowledge, layer: PlacedLayer, h: Estimate) -> Scale | None:
    """Return the same from mean and standard deviation of the groups that a normalisation above takes, if known.

    Over a group `mean(W h) = c (mean - bias)`, and its standard deviation is `|c| sqrt(scale² - eps)`.
    """
    users = knows.network.users(layer.number)
    norm = users[0] if len(users) == 1 and users[0].is_normalisation else None
    if norm is None or not norm.normalisation.centred:
        return None
    moments = knows.statistics[norm.index]
    groups = len(moments.mean.value)
    if not moments.known.any() or (layer.bias_name is not None and groups != layer.filters):
        return None
    bias = knows.observed.bias(layer)
    z = layer_step.output_of(knows.observed, layer, h)
    runs = (z.value - bias.reshape(-1, *(1,) * len(layer.outputs))).reshape(groups, -1)
    moved = z.perturbations.reshape(groups, -1, MEMBERS)
    off = runs - runs.mean(axis=1, keepdims=True)
    spread = np.sqrt((off**2).mean(axis=1))
    of_spread = (off[..., None] * moved).mean(axis=1) / np.where(spread > 0, spread, 1.0)[:, None]
    there = moments.known & (spread > 0)
    mean = moments.mean.value - (bias if layer.bias_name is not None else 0.0)
    scale = moments.scale.value
    wide = np.sqrt(np.maximum(scale**2 - norm.normalisation.epsilon, 0.0))
    there &= wide > 0
    of_wide = (scale / np.where(wide > 0, wide, 1.0))[:, None] * moments.scale.perturbations
    for sign in (1.0, -1.0):
        found = np.concatenate([runs.mean(axis=1)[there], sign * spread[there]])
        wanted = np.concatenate([mean[there], wide[there]])
        of_found = np.concatenate([moved.mean(axis=1)[there], sign * of_spread[there]])
        of_wanted = np.concatenate([moments.mean.perturbations[there], of_wide[there]])
        scale_found = _ratio(wanted, of_wanted, found, of_found)
        if scale_found is not None:
            return scale_found
    return None


def _ratio(wanted: FloatArray, of_wanted: FloatArray, found: FloatArray, of_found: FloatArray) -> Scale | None:
    """Return c of `found = c wanted` by least squares, `None` where the two are no multiples to their noise."""
    size = float(wanted @ wanted)
    if not size:
        return None
    c = float(wanted @ found) / size
    change = of_found - c * of_wanted
    noise = np.sqrt((change**2).mean(axis=1)) + ROUNDED * np.abs(found).max()
    off = found - c * wanted
    if (
        c**2 * size <= AGREES**2 * float((change**2).mean(axis=1).sum())
        or np.sqrt(((off / noise) ** 2).mean()) > AGREES
    ):
        return None
    return c, wanted @ change / size


def _next(scratch: GraphKnowledge, layer: PlacedLayer) -> PlacedLayer | None:
    """Return the layer with a bias to which the gradient goes up on a single path of linear operations."""
    while True:
        users = scratch.network.users(layer.number)
        if len(users) != 1 or users[0].is_source or not push(scratch, users[0]):
            return None
        layer = users[0]
        if layer.is_bilinear and layer.bias_name is not None:
            return layer


def _from_bias(knows: GraphKnowledge, layer: PlacedLayer, k: Estimate, rest: Estimate | None = None) -> Scale | None:
    """Return the factor by the bias equations of the filters whose k is all there, up to the factor.

    Args:
        knows: what is known.
        layer: the layer with the bias.
        k: its output gradient up to the factor.
        rest: what arrives there beside, as it is; by default nothing.
    """
    assert layer.bias_name is not None
    there = k.known.reshape(layer.filters, -1).all(axis=1)
    if rest is not None:
        there &= rest.known.reshape(layer.filters, -1).all(axis=1)
    db, own = knows.observed.gradients[layer.bias_name][there], knows.observed.deviations[layer.bias_name][there]
    of_filter = k.filled().reshape(layer.filters, -1)[there]
    S, moved = of_filter.sum(axis=1), kept(k).reshape(layer.filters, -1, MEMBERS)[there].sum(axis=1)
    size = float(S @ S)
    arithmetic = knows.observed.rounding.arithmetic * np.sqrt((of_filter**2).sum(axis=1))
    if not size or size <= AGREES**2 * float((moved**2).mean(axis=1).sum() + (arithmetic**2).sum()):
        return None
    if rest is not None:
        beside = rest.filled().reshape(layer.filters, -1)[there]
        of_beside = kept(rest).reshape(layer.filters, -1, MEMBERS)[there].sum(axis=1)
        summed = knows.observed.rounding.arithmetic * np.sqrt((beside**2).sum(axis=1))
        db = db - beside.sum(axis=1)
        own = np.sqrt(own**2 + summed**2 + (of_beside**2).mean(axis=1))
    c = float(S @ db) / size
    noise = np.sqrt(own**2 + c**2 * ((moved**2).mean(axis=1) + arithmetic**2)) + ROUNDED * np.abs(db).max()
    if not c or np.sqrt((((c * S - db) / noise) ** 2).mean()) > AGREES:
        return None
    draws = knows.observed.draw(np.hypot(own, c * arithmetic), own.shape)
    return c, (S @ (draws - c * moved)) / size
