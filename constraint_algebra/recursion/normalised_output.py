"""A layer with a weight below a normalisation whose statistics are known: the gradient at its output z depends on z.

Between the two may stand operations entry by entry. With mean m and scale s known, `x̂ = (z - m) / s`, and what comes
back, `(K - m1 - x̂ m2) / s`, is affine in each z with the slope `-m2 / s²`: also where an activation hides x̂.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.own_statistics import Statistics, statistics
from constraint_algebra.networks import operations
from constraint_algebra.recursion import graph_statistics
from constraint_algebra.recursion.entrywise import rearranging
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.graph_statistics import Arriving
from constraint_algebra.recursion.value_equations import Reader

HIDDEN = -0.8  # the mean of the lower half of a normal distribution


@dataclass(frozen=True)
class NormalisedOutput:
    """The view of a layer with a weight and the normalisation that alone reads its output.

    Attributes:
        knows: what is known.
        layer: the layer.
        normalisation: the normalisation.
        places, factor, shift: what the normalisation reads is `factor z[places] + shift`, flat.
        arriving: what arrives there.
        open: flat outputs of the layer at which k is known only through z.
        slope: of k in z at each output, flat; zero where k is known as it is.
    """

    knows: GraphKnowledge
    layer: PlacedLayer
    normalisation: PlacedLayer
    places: IntArray
    factor: FloatArray
    shift: FloatArray
    arriving: Arriving
    open: IntArray
    slope: FloatArray

    @property
    def first_guess(self) -> FloatArray:
        """x̂ of the open outputs, before anything is known of them."""
        y = self.arriving.y
        unknown = (~y.known).sum(axis=1, keepdims=True)
        lacking = -y.filled().sum(axis=1, keepdims=True) / np.maximum(unknown, 1)  # all of a group add up to zero
        guess = np.empty(y.value.size)
        guess[self.places] = np.broadcast_to(lacking if self._centred else HIDDEN, y.value.shape).ravel()
        return guess[self.open]

    def output(self, x: FloatArray) -> FloatArray:
        """Return the layer's output for what it reads."""
        return operations.value(self.layer, self.knows.observed.parameters, [x])

    def normalised(self, z: FloatArray) -> FloatArray:
        """Return x̂ of the open outputs for the layer's output."""
        t = self._read(z)
        found = np.empty(z.size)
        found[self.places] = ((t - self.arriving.mean.filled()) / self.arriving.scale.value).ravel()
        return found[self.open]

    def reader(self, guess: FloatArray) -> Reader:
        """Return the layer as one that reads its input, with k at given x̂ of the open outputs.

        The noise of k is that at this z.
        """
        held, mean, s = self.arriving.y, self.arriving.mean, self.arriving.scale
        at, is_open = np.zeros(self.slope.size), np.zeros(self.slope.size, dtype=bool)
        at[self.open], is_open[self.open] = guess, True
        guessed, taken = at[self.places].reshape(held.value.shape), is_open[self.places].reshape(held.value.shape)
        moved = -(kept(mean) + guessed[..., None] * s.perturbations) / s.value[..., None]
        y = Estimate(
            np.where(taken, guessed, held.value), held.known | taken, np.where(taken[..., None], moved, kept(held))
        )
        k = self.knows.gradients[self.layer.number].learnt(self._down(self.arriving.sent(y)))
        return Reader(self.layer, k, self.knows.values[self.layer.number])

    def statistics_lacking(self, at: Statistics) -> FloatArray:
        """Return what mean and scale of each group are off for statistics of an output, `(2 groups,)`, means first."""
        mean, scale = self.arriving.mean.filled()[:, 0], self.arriving.scale.value[:, 0]
        return np.concatenate([mean - at.mean, scale - at.scale])

    def statistics_moved(self, at: Statistics, d: FloatArray) -> FloatArray:
        """Return what differences `(*output_shape, n)` of the output make of them, `(2 groups, n)`."""
        flat = self.factor[:, None] * d.reshape(at.normalised.size, -1)[self.places]
        moved = flat.reshape(*at.normalised.shape, -1)
        return np.concatenate([moved.mean(axis=1), (at.normalised[..., None] * moved).mean(axis=1)])

    def statistics_back(self, at: Statistics, of_statistics: FloatArray) -> FloatArray:
        """Return the transpose of `statistics_moved` applied to values `(2 groups, n)`, `(*output_shape, n)`."""
        groups, size = at.normalised.shape
        moved = of_statistics[:groups, None] + at.normalised[..., None] * of_statistics[groups:, None]
        found = np.zeros((groups * size, of_statistics.shape[-1]))
        found[self.places] = self.factor[:, None] * moved.reshape(groups * size, -1) / size
        return found.reshape(*self.layer.output_shape, -1)

    @property
    def statistics_noise(self) -> FloatArray:
        """How noise moves mean and scale of each group, `(2 groups, MEMBERS)`."""
        return np.concatenate([kept(self.arriving.mean)[:, 0], self.arriving.scale.perturbations[:, 0]])

    @property
    def statistics_size(self) -> FloatArray:
        """Standard deviation of this noise and of rounding, `(2 groups,)`; infinite where they are not known."""
        mean, scale = self.arriving.mean, self.arriving.scale
        rounding = self.knows.observed.rounding.arithmetic * (np.abs(mean.filled()) + scale.value)
        known = mean.known & self._centred, scale.known
        noise = (
            np.where(at, np.hypot(x.deviation, rounding), np.inf) for x, at in zip((mean, scale), known, strict=True)
        )
        return np.concatenate([part[:, 0] for part in noise])

    @property
    def _centred(self) -> bool:
        return self.normalisation.normalisation.centred

    def _read(self, z: FloatArray) -> FloatArray:
        """Return what the normalisation reads of the layer's output, `(groups, size)`."""
        read = self.factor * z.ravel()[self.places] + self.shift
        return np.asarray(read.reshape(self.arriving.y.value.shape))

    def statistics(self, z: FloatArray) -> Statistics:
        """Return the statistics that an output has, with x̂ as `(groups, size)`."""
        read = self._read(z)
        mean, scale, normalised, centred = statistics(
            self.normalisation.normalisation, read.reshape(self.normalisation.input_shape)
        )
        return Statistics(mean, scale, normalised.reshape(read.shape), centred)

    def _down(self, sent: Estimate) -> Estimate:
        """Return what comes back at the layer's output, from what comes back at the normalisation."""
        back = np.argsort(self.places)
        factor = self.factor[back]
        value, known = sent.value.ravel()[back], sent.known.ravel()[back]
        moved = sent.perturbations.reshape(len(back), -1)[back]
        return Estimate(factor * value, known, factor[:, None] * moved).reshape(self.layer.output_shape)


def normalised_output(knows: GraphKnowledge, layer: PlacedLayer) -> NormalisedOutput | None:
    """Return the view of a layer with a weight; `None` where no k at its output is known through z alone."""
    way = _way_up(knows, layer)
    if way is None:
        return None
    normalisation, places, factor, shift = way
    at = graph_statistics.arriving(knows, normalisation)
    through = at.K.known & at.m1.known & at.m2.known & at.mean.known & at.scale.known
    slopes = np.broadcast_to(-at.m2.filled() / at.scale.value**2, through.shape)
    is_open, slope = np.zeros(layer.output_shape, dtype=bool).ravel(), np.zeros(layer.output_shape).ravel()
    is_open[places] = (through & ~at.y.known).ravel()
    slope[places] = factor**2 * slopes.ravel()
    is_open &= ~knows.gradients[layer.number].known.ravel()
    if not is_open.any():
        return None
    slope = np.where(is_open, slope, 0.0)
    return NormalisedOutput(knows, layer, normalisation, places, factor, shift, at, np.flatnonzero(is_open), slope)


def _way_up(knows: GraphKnowledge, layer: PlacedLayer) -> tuple[PlacedLayer, IntArray, FloatArray, FloatArray] | None:
    """Return the normalisation that alone reads a layer's output, and what it reads of that; `None` without one."""
    size = int(np.prod(layer.output_shape))
    number, places, factor, shift = layer.number, np.arange(size), np.ones(size), np.zeros(size)
    while True:
        users = knows.network.users(number)
        if len(users) != 1 or len(users[0].inputs) != 1:
            return None
        if users[0].is_normalisation:
            return users[0], places, factor, shift
        step = rearranging(knows, users[0])
        if step is None or (step.factor == 0).any():
            return None
        places, factor = places[step.places], factor[step.places] * step.factor
        shift = shift[step.places] * step.factor + step.shift
        number = users[0].number
