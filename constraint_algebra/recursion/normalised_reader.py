"""A layer with a weight whose output a normalisation reads, as its equations are at a guess of mean and scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.base import Normalisation, PlacedLayer
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import kept
from constraint_algebra.recursion.value_equations import Reader

BY_EPS = 1e-3  # relative noise of a scale that eps gives, beyond which it is left open
COMMON = 4.0  # roundings that all x̂ of a group share, those of its scale, in its mean square


@dataclass(frozen=True)
class Guess:
    """What an equation is taken around.

    Attributes:
        mean, scale: of each group, `(groups,)`.
        normalised: x̂, in the shape of the layer's output; what is known of it does not matter.
        doubt: by how much it may be off where it is guessed: noise of κ, which weighs the rows.
    """

    mean: FloatArray
    scale: FloatArray
    normalised: FloatArray
    doubt: float = 0.0


@dataclass(frozen=True)
class Normalised:
    """A layer with a weight whose output z a normalisation reads entry by entry, as `factor z + shift`.

    Everything is in the order of z, in the layer's output shape.

    Attributes:
        layer: the layer with the weight.
        operation: the normalisation.
        group: number of the group of each output.
        normalised: x̂.
        gradient: K, the gradient that arrives at it.
        means: m1 and m2 of each group, `(groups,)`.
        rounding: draws of the client's rounding of κ.
        factor, shift: of what it reads.
    """

    layer: PlacedLayer
    operation: Normalisation
    group: IntArray
    normalised: Estimate
    gradient: Estimate
    means: tuple[Estimate, Estimate]
    rounding: FloatArray
    factor: FloatArray
    shift: FloatArray

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.means[0].value)

    @cached_property
    def hidden(self) -> BoolArray:
        """Where x̂ is not known and matters for κ."""
        m2 = self.means[1]
        return np.asarray(~self.normalised.known & ~(m2.known & (m2.value == 0))[self.group])

    @cached_property
    def whole(self) -> bool:
        """Whether every filter lies in one group, so that its gradient rows have one scale."""
        by_filter = self.group.reshape(self.layer.filters, -1)
        return bool((by_filter == by_filter[:, :1]).all())

    def mean_of(self, values: FloatArray) -> FloatArray:
        """Return the mean of each group, `(groups,)`."""
        total = np.bincount(self.group.ravel(), values.ravel(), self.groups)
        return np.asarray(total / np.bincount(self.group.ravel(), minlength=self.groups))

    def filled(self, at: Guess) -> FloatArray:
        """Return x̂, guessed where it is not known."""
        return np.where(self.normalised.known, self.normalised.value, at.normalised)

    def reader(self, at: Guess, *, guessed: bool) -> Reader:
        """Return what is known at the layer's output if the statistics are those guessed.

        Args:
            at: the guess.
            guessed: whether x̂ is guessed where it is not known; otherwise the gradient counts as unknown there.
        """
        s, (m1, m2) = at.scale[self.group], (part.filled()[self.group] for part in self.means)
        x, K, of_means = self.filled(at), self.gradient, [kept(part)[self.group] for part in self.means]
        moved = kept(K) - of_means[0] - x[..., None] * of_means[1] - m2[..., None] * kept(self.normalised)
        known = K.known & self.means[0].known[self.group] & self.means[1].known[self.group]
        if not guessed:
            known = known & ~self.hidden
        with np.errstate(invalid="ignore"):
            slope, doubt = self.factor / s, np.where(self.hidden, m2 * at.doubt, 0.0)[..., None]
            k = Estimate(slope * (K.filled() - m1 - x * m2), known, slope[..., None] * (moved + self.rounding + doubt))
        value = (at.mean[self.group] + s * x - self.shift) / self.factor
        z = Estimate(value, self.normalised.known, (s / self.factor)[..., None] * kept(self.normalised))
        return Reader(self.layer, k, z)

    def scale_by_eps(self, noise: float) -> Estimate:
        """Return the scale that eps gives, `s = sqrt(eps / (1 - mean(x̂²)))`, for groups all of whose x̂ are known.

        Args:
            noise: relative rounding of the client's sums.
        """
        x = self.normalised
        missing = 1 - self.mean_of(x.filled() ** 2)  # eps / s²
        moved = np.stack([self.mean_of(-2 * x.filled() * kept(x)[..., m]) for m in range(MEMBERS)], axis=-1)
        own = np.sqrt((moved**2).mean(axis=-1))
        deviation = np.hypot(own, COMMON * noise)
        whole = self.mean_of((~x.known).astype(float)) == 0
        known = whole & (missing > 0) & (deviation < 2 * BY_EPS * np.abs(missing)) & (self.operation.epsilon > 0)
        v = np.where(known, missing, 1.0)
        signs = np.where(moved < 0, -1.0, 1.0)
        moved = np.where(own[:, None] > COMMON * noise, moved, signs * deviation[:, None])
        s = np.sqrt(self.operation.epsilon / v)
        return Estimate(s, known, -(s / (2 * v))[:, None] * moved)
