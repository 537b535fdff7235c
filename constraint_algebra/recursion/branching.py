"""A layer with a weight whose outputs feed an activation with two branches, and what either branch would mean.

Between the two stand operations that others do not read: a batch norm, a sum with a shortcut, another shape. An output
y of the activation above zero has one z, which the rules know already. Of the others it has two: on the upper branch
and on the lower one. Three places need more care:

- next to the minimum both branches meet, and noise of y is the square of that of z: z is open, and σ′ is zero but for
  the root of the noise;
- where y is zero but for noise, the lower branch is its far end or the plateau: z is open below, and σ′ is zero;
- an entry may be left open, and then it makes no equation at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.activations import Identity, formulas, has_two_branches
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.two_branches import Branches
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion import graph_rules
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import BENT, EDGE, Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept

FARTHEST = 9.0  # below minus that, `1 + erf` is zero in every type


@dataclass(frozen=True)
class Branching:
    """A way up from a layer with a weight to an activation with two branches.

    Attributes:
        layer: the layer.
        steps: what stands between them, from below.
        activation: the activation.
    """

    layer: PlacedLayer
    steps: tuple[PlacedLayer, ...]
    activation: PlacedLayer

    @property
    def number(self) -> int:
        """Number of the value that the activation reads."""
        return self.activation.inputs[0]

    @property
    def branches(self) -> Branches:
        """The mathematics of the activation."""
        found = formulas(self.activation.activation).branches
        assert found is not None
        return found

    def brought_down(self, knows: GraphKnowledge, z: Estimate, k: Estimate) -> GraphKnowledge:
        """Return a copy of what is known in which the activation's input and its gradient are as said.

        Args:
            knows: what is known; it stays as it is.
            z: what the activation reads.
            k: the gradient there.
        """
        trial = knows.copied()
        trial.learn_value(self.number, z)
        trial.learn_gradient(self.number, k)
        for step in reversed(self.steps):
            graph_rules.invert(trial, step)
            for number in step.inputs:
                graph_rules.pull(trial, number)
        return trial

    def brought_up(self, knows: GraphKnowledge, x: Estimate) -> Estimate:
        """Return what the activation reads if the layer reads x, known where all else that it takes is."""
        trial = knows.copied()
        for layer in (self.layer, *self.steps):
            trial.values[layer.number] = Estimate.unknown(layer.output_shape, MEMBERS)
        trial.values[self.layer.inputs[0]] = x
        for layer in (self.layer, *self.steps):
            graph_rules.forward(trial, layer)
        return trial.values[self.number]

    def raised(self, knows: GraphKnowledge, outputs: BoolArray) -> BoolArray:
        """Return which entries that the activation reads come from some of the layer's outputs."""
        trial, below = knows.copied(), self.layer
        for step in (self.layer, *self.steps):
            trial.values[step.number] = Estimate.unknown(step.output_shape, MEMBERS)
        trial.values[below.number] = Estimate(np.zeros(outputs.shape), ~outputs, np.zeros((*outputs.shape, MEMBERS)))
        for step in self.steps:
            graph_rules.forward(trial, step)
        return ~trial.values[self.number].known


def branching(network: Network, layer: PlacedLayer) -> Branching | None:
    """Return the way up from a layer to an activation with two branches, `None` where there is none.

    >>> from constraint_algebra.layers import BatchNorm, Conv2d, Flatten, Linear, SiLU
    >>> net = Network((1, 8, 8), [Conv2d(2, 3), BatchNorm(), SiLU(), Flatten(), Linear(3)])
    >>> [step.kind for step in branching(net, net.layers[0]).steps]
    ['Standardise', 'ChannelScale']
    >>> branching(net, net.layers[-1])
    """
    steps, at = list[PlacedLayer](), layer
    while layer.is_bilinear and not graph_rules.is_scale(layer):
        users = network.users(at.number)
        if len(users) != 1:
            return None
        at = users[0]
        if at.is_activation and not isinstance(at.activation, Identity):
            return Branching(layer, tuple(steps), at) if has_two_branches(at.activation) else None
        if at.is_selection or (at.is_bilinear and not graph_rules.is_scale(at)):
            return None
        steps.append(at)
    return None


class Options:
    """What the branches of an activation's outputs would mean, entry by entry.

    Args:
        knows: what is known.
        at: the way to the activation.

    Attributes:
        asked: entries of which y is known and z is not.
        near: those of them next to the minimum, where both branches meet.
        far: those whose lower branch is the far end or the plateau.
    """

    def __init__(self, knows: GraphKnowledge, at: Branching) -> None:
        """Find both pre-images."""
        self.knows, self.at, self.branches = knows, at, at.branches
        b, self.y, self.dy = at.branches, knows.values[at.activation.number], knows.gradients[at.activation.number]
        self.stored = knows.observed.stored(self.y)
        self.gate = knows.observed.gate(formulas(at.activation.activation), self.y)
        self.asked = self.y.known & ~knows.values[at.number].known
        y, every = np.where(self.asked, self.y.value, 1.0), np.ones(self.asked.shape, dtype=bool)
        noise = EDGE * np.where(self.asked, np.hypot(self.y.deviation, self._rounded_gate()), 0.0)
        self.upper = b.inverse(np.maximum(y, b.lowest), every)
        self.far = self.asked & (np.abs(y) <= noise)
        end = np.clip(np.where(self.far, -noise, y), b.lowest, -np.finfo(float).tiny)
        self.lower = b.inverse(end, ~every)
        self.near = self.asked & (self._is_bent(self.upper, noise) | (~self.far & self._is_bent(self.lower, noise)))
        self.near |= y < b.lowest + noise

    def _rounded_gate(self) -> float:
        """Return the noise of an output next to zero whose gate is rounded as 1 is; it is zero from some z on."""
        return FARTHEST * float(self.knows.observed.rounding.deviation(np.ones(()))) if self.branches.cancels else 0.0

    def _is_bent(self, z: FloatArray, noise: FloatArray) -> BoolArray:
        d = self.branches.derivative(z)
        return np.asarray(np.abs(self.branches.curvature(z)) * noise / EDGE > BENT * d * d)

    @property
    def choices(self) -> BoolArray:
        """Entries with two branches that differ."""
        return self.asked & ~self.near

    @property
    def apart(self) -> FloatArray:
        """Distance of the two pre-images of each entry, or of the upper one from the edge of the far end."""
        return np.asarray(self.upper - self.lower)

    def nearer(self, z: FloatArray) -> BoolArray:
        """Return where the pre-image on the upper branch is the nearer one to z."""
        below = np.where(self.far, np.maximum(z - self.lower, 0), np.abs(z - self.lower))
        return np.asarray(np.abs(z - self.upper) <= below)

    def taken(self, upper: BoolArray, left_open: BoolArray) -> tuple[Estimate, Estimate]:
        """Return what the activation reads, and the gradient there, if it works on these branches.

        Args:
            upper: entries on the upper branch; the others of `choices` are on the lower one.
            left_open: entries that are to make no equation.
        """
        b, y, dy = self.branches, self.y, self.dy
        z = np.where(upper, self.upper, self.lower)
        flat = self.near | (self.far & ~upper)
        clear = self.asked & ~flat & ~left_open
        steep, bend = b.derivative(z), b.curvature(z)
        safe = np.where(clear, steep, 1.0)[..., None]
        gates = clear & (y.value != 0) & b.cancels  # whose rounding is that of z, not that of the smaller y
        coarser = np.where(gates, np.maximum(np.abs(z / np.where(gates, y.value, 1.0)), 1.0), 1.0)
        stored = np.where(clear, coarser, 0.0)[..., None] * self.stored
        moved = np.where(clear[..., None], y.perturbations, 0.0) + stored  # of z, and so of σ′, which z gives
        d = np.where(flat, 0.0, steep)
        arriving = dy.filled()
        of_d = np.where(clear, bend, 0.0)[..., None] / safe * moved
        of_flat = self.knows.observed.draw(np.where(flat, np.abs(arriving) * self._slope(), 0.0), d.shape)
        if b.cancels:  # as σ does, σ′ holds a gate that is rounded as 1 is
            of_d = of_d + self.gate
        known = self.asked & ((dy.known & ~left_open) | (dy.known & (dy.value == 0)))
        k = Estimate(arriving * d, known, d[..., None] * kept(dy) + arriving[..., None] * of_d + of_flat)
        return Estimate(z, clear, moved / safe), k

    def _slope(self) -> FloatArray:
        """Return how large σ′ may be where it counts as zero."""
        b, deviation = self.branches, np.where(self.asked, self.y.deviation, 0.0)
        height = np.where(self.asked, np.maximum(self.y.value - b.lowest, 0.0), 0.0) + EDGE / 2 * deviation
        by_root = np.sqrt(2 * abs(float(b.curvature(np.array(b.minimum)))) * height)
        if np.isfinite(b.flat):
            return np.where(self.near, by_root, 0.0)
        return np.where(self.near, by_root, np.abs(b.derivative(self.lower)))
