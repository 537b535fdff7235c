"""The rules of the recursion at a normalisation by own statistics, `x̂ = (x - mean) / s` over each group.

With K the gradient that arrives at x̂, and over each group `m1 = mean(K)` and `m2 = mean(K x̂)`, what goes back is

    k_x = (K - m1 - x̂ m2) / s.

Mean and scale of a group are known where all its values are, or where a client shares its buffers. Then values go up
and down entry by entry. m1 and m2 follow from K itself: x̂ does not matter where K is zero. Or they follow from the
gradients of the factors and shifts behind the normalisation: `m1 = sum of γ dL/dβ / N` and `m2 = sum of γ dL/dγ / N`
over the channels of a group of N values. A RMS norm has neither mean nor m1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.own_statistics import statistics
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.entrywise import rearranging
from constraint_algebra.recursion.estimates import BENT, Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, Moments, kept


def in_groups(layer: PlacedLayer, estimate: Estimate) -> Estimate:
    """Return what is known of a normalisation's input or output as `(groups, size)`."""
    groups = layer.normalisation.runs(layer.input_shape)
    return estimate.reshape((groups, layer.unknowns // groups))


def usable(moments: Moments) -> Moments:
    """Return moments as `(groups, 1)`, the scale known where its noise leaves first order good enough, else 1."""
    column = len(moments.mean.value), 1
    mean, scale = moments.mean.reshape(column), moments.scale.reshape(column)
    clear = scale.known & (scale.filled() > 0) & (scale.deviation < BENT * scale.filled())
    moved = np.where(clear[..., None], scale.perturbations, 0.0)
    return Moments(mean, Estimate(np.where(clear, scale.value, 1.0), clear, moved))


def by_buffers(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn mean and scale of each group from the buffers that the client shares."""
    found, draw = knows.observed.shared[layer.index], knows.observed.draw
    squares = np.maximum(found.variance, 0.0) + layer.normalisation.epsilon
    scale = np.sqrt(squares)
    of_scale = found.of_variance / (2 * np.where(scale > 0, scale, 1.0))
    mean = Estimate(found.mean, np.ones(len(scale), dtype=bool), draw(found.of_mean, scale.shape))
    return knows.learn_moments(layer, Moments(mean, Estimate(scale, scale > 0, draw(of_scale, scale.shape))))


def forward(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn statistics and outputs of groups that are known, and outputs entry by entry where statistics are."""
    x = in_groups(layer, knows.values[layer.inputs[0]])
    whole = x.known.all(axis=1)
    learnt = bool(whole.any()) and _by_whole_groups(knows, layer, x)
    at = usable(knows.statistics[layer.index])
    s = at.scale.value
    value = (x.filled() - at.mean.filled()) / s
    moved = kept(x) - kept(at.mean) - value[..., None] * at.scale.perturbations
    noise = knows.observed.rounding.arithmetic * (np.abs(x.filled()) + np.abs(at.mean.filled())) / s
    known = x.known & at.mean.known & at.scale.known
    found = Estimate(value, known, moved / s[..., None] + knows.observed.draw(noise, noise.shape))
    return knows.learn_value(layer.number, found.reshape(layer.output_shape)) or learnt


def _by_whole_groups(knows: GraphKnowledge, layer: PlacedLayer, x: Estimate) -> bool:
    """Learn statistics, and x̂, of the groups all of whose values are known."""
    known, shape = np.asarray(x.known.all(axis=1)), layer.output_shape
    made = statistics(layer.normalisation, x.filled().reshape(shape))
    normalised, moved = made.normalised.reshape(x.value.shape), kept(x)
    arithmetic, draw = knows.observed.rounding.arithmetic, knows.observed.draw
    size = arithmetic * np.sqrt((x.filled() ** 2).mean(axis=1) + made.scale**2)
    of_mean = moved.mean(axis=1) + draw(size, size.shape)
    of_scale = (normalised[..., None] * moved).mean(axis=1) + draw(size, size.shape)
    centre = of_mean if made.centred else np.zeros_like(of_mean)
    learnt = knows.learn_moments(
        layer, Moments(Estimate(made.mean, known, centre), Estimate(made.scale, known, of_scale))
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant group with eps = 0
        noise = arithmetic * (np.abs(x.filled()) + np.abs(made.mean)[:, None]) / made.scale[:, None]
        through = made.through(moved.reshape(*shape, MEMBERS)).reshape(moved.shape)
    finite = np.asarray(np.isfinite(noise) & np.isfinite(normalised))
    own = draw(np.where(finite, noise, 0.0), noise.shape)
    found = Estimate(normalised, finite & known[:, None], np.where(finite[..., None], through + own, 0.0))
    return knows.learn_value(layer.number, found.reshape(shape)) or learnt


def invert(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn what a normalisation reads, entry by entry, and the last unknown of its outputs: a group's sum is zero."""
    learnt = layer.normalisation.centred and _last_of_group(knows, layer)
    y, moments = in_groups(layer, knows.values[layer.number]), usable(knows.statistics[layer.index])
    mean, s = moments.mean, moments.scale
    value = mean.filled() + s.value * y.filled()
    moved = kept(mean) + s.value[..., None] * kept(y) + y.filled()[..., None] * s.perturbations
    noise = knows.observed.rounding.arithmetic * (np.abs(mean.filled()) + s.value * np.abs(y.filled()))
    found = Estimate(value, y.known & mean.known & s.known, moved + knows.observed.draw(noise, noise.shape))
    return knows.learn_value(layer.inputs[0], found.reshape(layer.input_shape)) or learnt


def _last_of_group(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the only unknown output of a group: all of them add up to zero."""
    y = in_groups(layer, knows.values[layer.number])
    last = ~y.known & ((~y.known).sum(axis=1, keepdims=True) == 1)
    if not last.any():
        return False
    sums, moved = y.filled().sum(axis=1, keepdims=True), kept(y).sum(axis=1, keepdims=True)
    noise = knows.observed.rounding.arithmetic * np.sqrt((y.filled() ** 2).sum(axis=1, keepdims=True))
    moved = moved + knows.observed.draw(noise, noise.shape)
    found = Estimate(np.broadcast_to(-sums, y.value.shape), last, np.broadcast_to(-moved, y.perturbations.shape))
    return knows.learn_value(layer.number, found.reshape(layer.output_shape))


@dataclass(frozen=True)
class Arriving:
    """What arrives at a normalisation, as far as it is known, and what it makes of that on the way back.

    Attributes:
        K: the gradient at x̂, `(groups, size)`.
        y: x̂, in the same shape.
        m1, m2: `mean(K)` and `mean(K x̂)` of each group, `(groups, 1)`.
        mean, scale: statistics of each group, `(groups, 1)`.
        rounding: draws of what the client's arithmetic does to s times what is sent back.
    """

    K: Estimate
    y: Estimate
    m1: Estimate
    m2: Estimate
    mean: Estimate
    scale: Estimate
    rounding: FloatArray

    def sent(self, y: Estimate) -> Estimate:
        """Return what goes back for x̂ as given: zero for a group at which nothing arrives, whatever its values are."""
        K, m1, m2, s = self.K, self.m1, self.m2, self.scale
        silent = (K.known & (K.value == 0)).all(axis=1, keepdims=True)
        known = K.known & y.known & m1.known & m2.known & s.known
        value = np.where(silent, 0.0, (K.filled() - m1.filled() - y.filled() * m2.filled()) / s.value)
        moved = kept(K) - kept(m1) - y.filled()[..., None] * kept(m2) - m2.filled()[..., None] * kept(y)
        moved = (moved + self.rounding - value[..., None] * s.perturbations) / s.value[..., None]
        return Estimate(value, known | silent, np.where(silent[..., None], 0.0, moved))

    def received(self, k: Estimate) -> Estimate:
        """Return what has arrived where what goes back is known, `K = s k + m1 + x̂ m2`."""
        y, m1, m2, s = self.y, self.m1, self.m2, self.scale
        value = s.value * k.filled() + m1.filled() + y.filled() * m2.filled()
        moved = s.value[..., None] * kept(k) + k.filled()[..., None] * s.perturbations + kept(m1) + self.rounding
        moved = moved + y.filled()[..., None] * kept(m2) + m2.filled()[..., None] * kept(y)
        return Estimate(value, k.known & y.known & m1.known & m2.known & s.known, moved)


def arriving(knows: GraphKnowledge, layer: PlacedLayer) -> Arriving:
    """Return what is known of a normalisation on the way back."""
    K, y = in_groups(layer, knows.gradients[layer.number]), in_groups(layer, knows.values[layer.number])
    m1, m2 = means(knows, layer)
    moments = usable(knows.statistics[layer.index])
    sizes = np.abs(K.filled()) + np.abs(m1.filled()) + np.where(y.known, np.abs(y.value), 1.0) * np.abs(m2.filled())
    rounding = knows.observed.draw(knows.observed.rounding.arithmetic * sizes, sizes.shape)
    return Arriving(K, y, m1, m2, moments.mean, moments.scale, rounding)


def part(knows: GraphKnowledge, layer: PlacedLayer) -> Estimate:
    """Return what a normalisation sends back."""
    found = arriving(knows, layer)
    return found.sent(found.y).reshape(layer.input_shape)


def push(knows: GraphKnowledge, layer: PlacedLayer, sent: Estimate) -> bool:
    """Learn the gradient that arrives at a normalisation from what it sends back.

    Args:
        knows: what is known.
        layer: the normalisation.
        sent: what it sends back, as far as that is known.
    """
    found = arriving(knows, layer).received(in_groups(layer, sent))
    return knows.learn_gradient(layer.number, found.reshape(layer.output_shape))


def means(knows: GraphKnowledge, layer: PlacedLayer) -> tuple[Estimate, Estimate]:
    """Return m1 and m2 of each group, each `(groups, 1)`: from K and x̂, or from factors and shifts, the clearer one."""
    K, y = in_groups(layer, knows.gradients[layer.number]), in_groups(layer, knows.values[layer.number])
    matters = K.known & (K.value != 0)
    products = K.filled() * y.filled()
    moved = y.filled()[..., None] * kept(K) + K.filled()[..., None] * kept(y)
    by_sums = (
        _mean(K.filled(), K.known, kept(K)),
        _mean(products, K.known & (y.known | ~matters), moved),
    )
    by_factors = _by_factors(knows, layer)
    if by_factors is None:
        first, second = by_sums
    else:
        first, second = (_clearer(*pair) for pair in zip(by_sums, by_factors, strict=True))
    if not layer.normalisation.centred:
        first = Estimate(np.zeros_like(first.value), np.ones_like(first.known), np.zeros_like(first.perturbations))
    return first, second


def _mean(values: FloatArray, known: BoolArray, moved: FloatArray) -> Estimate:
    """Return the mean of each group, known where all that it adds up is."""
    return Estimate(
        values.mean(axis=1, keepdims=True),
        np.asarray(known.all(axis=1, keepdims=True)),
        moved.mean(axis=1, keepdims=True),
    )


def _clearer(one: Estimate, other: Estimate) -> Estimate:
    """Return entry by entry the one of two estimates that is known, or of both the one with less noise."""
    take = other.known & (~one.known | (other.deviation < one.deviation))
    return Estimate(
        np.where(take, other.value, one.value),
        one.known | other.known,
        np.where(take[..., None], other.perturbations, one.perturbations),
    )


def _by_factors(knows: GraphKnowledge, layer: PlacedLayer) -> tuple[Estimate, Estimate] | None:
    """Return m1 and m2 from the gradients of the shifts and factors that alone read x̂; `None` where none do.

    They are known for a group that is made of whole channels of these.
    """
    found = _factors(knows, layer)
    if found is None:
        return None
    scale, channels = found
    groups = layer.normalisation.runs(layer.input_shape)
    size = layer.unknowns // groups
    group = np.repeat(np.arange(groups), size)
    first, last = np.full(scale.channels, groups), np.full(scale.channels, -1)
    np.minimum.at(first, channels, group)
    np.maximum.at(last, channels, group)
    inside = (first == last)[channels].reshape(groups, size).all(axis=1)
    observed = knows.observed
    gamma = observed.parameters[scale.weight_name].ravel()

    def mean(name: str | None) -> Estimate:
        if name is None:
            return Estimate.unknown((groups, 1), MEMBERS)
        gradient, own = observed.gradients[name].ravel(), observed.deviations[name].ravel()
        value = np.bincount(first, gamma * gradient, groups) / size
        deviation = np.sqrt(np.bincount(first, (gamma * own) ** 2, groups)) / size
        rounding = observed.rounding.arithmetic * np.sqrt(np.bincount(first, (gamma * gradient) ** 2, groups)) / size
        moved = observed.draw(np.hypot(deviation, rounding), (groups,))
        return Estimate(value, inside, moved).reshape((groups, 1))

    return mean(scale.bias_name), mean(scale.weight_name)


def _factors(knows: GraphKnowledge, layer: PlacedLayer) -> tuple[PlacedLayer, IntArray] | None:
    """Return the factors that alone read x̂, with the channel of each entry of x̂; `None` where something else does.

    Operations that only move values may stand in between, as in layer norm.
    """
    number, at = layer.number, np.arange(layer.unknowns)
    while True:
        users = knows.network.users(number)
        if len(users) != 1:
            return None
        (user,) = users
        if isinstance(user.layer, ChannelScale):
            channels = np.empty(layer.unknowns, dtype=np.intp)
            channels[at] = np.arange(layer.unknowns) // (layer.unknowns // user.channels)
            return user, channels
        step = rearranging(knows, user)
        if step is None or (step.factor != 1).any() or step.shift.any():
            return None
        number, at = user.number, at[step.places]
