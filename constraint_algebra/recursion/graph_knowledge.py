"""What is known of a graph of values: every value and every output gradient, entry by entry, with its noise.

Values are numbered as in `Network`. The gradient k at a value is the sum of what all layers that read it send back: of
the parts that are known, `parts` keeps those that have been computed. Whatever a rule learns is added entry by entry;
what is known already stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, fields, replace

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import LayerSolution


@dataclass(frozen=True)
class Moments:
    """Mean and scale `sqrt(var + eps)` of each group of a normalisation by own statistics, as far as they are known.

    Attributes:
        mean: `(groups,)`; zero where none is taken away.
        scale: `(groups,)`.
    """

    mean: Estimate
    scale: Estimate

    @property
    def known(self) -> BoolArray:
        """Which groups are known, `(groups,)`."""
        return self.mean.known & self.scale.known

    @staticmethod
    def unknown(groups: int) -> Moments:
        """Return moments of which nothing is known."""
        return Moments(Estimate.unknown((groups,), MEMBERS), Estimate.unknown((groups,), MEMBERS))


@dataclass
class GraphKnowledge:
    """What is known so far.

    Attributes:
        observed: parameters and gradients.
        values: what is known of each value, by number.
        gradients: what is known of the gradient at each value, by number.
        winners: flat index of the entry that each window of a selection takes, by the layer's index; -1 if unknown.
        statistics: what is known of mean and scale of each group of a normalisation, by the layer's index.
        doubted: outputs of an activation whose side the evidence from above got wrong, by the layer's index.
        solutions: what was found out about the input of a layer when it was last solved for, by the layer's index.
        blind: names of the layers that were read by their own weight gradient alone.
        remarks: how a strategy that learnt something went, in a sentence, by its name and the layer's index.
        vain: what a strategy did without success, in a sentence, by its name and the layer's index.
        points: what the last look at the values of a selection came to, by the layer's index.
        by_valid_range: whether the valid range of the network's input decided anything.
        news: how often anything was learnt at each value, of itself and of its gradient; what a rule has seen.
    """

    observed: Observation
    values: list[Estimate]
    gradients: list[Estimate]
    winners: dict[int, IntArray]
    statistics: dict[int, Moments] = field(default_factory=dict)
    doubted: dict[int, BoolArray] = field(default_factory=dict)
    solutions: dict[int, LayerSolution] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    remarks: dict[tuple[str, int], str] = field(default_factory=dict)
    vain: dict[tuple[str, int], str] = field(default_factory=dict)
    points: dict[int, object] = field(default_factory=dict)
    by_valid_range: bool = False
    news: dict[tuple[str, int], int] = field(default_factory=dict)

    @classmethod
    def nothing(cls, observed: Observation) -> GraphKnowledge:
        """Return the state in which nothing is known."""
        network = observed.network
        shapes = [network.shape_of(number) for number in range(len(network) + 1)]
        return cls(
            observed,
            [Estimate.unknown(shape, MEMBERS) for shape in shapes],
            [Estimate.unknown(shape, MEMBERS) for shape in shapes],
            {layer.index: np.full(layer.output_shape, -1) for layer in network if layer.is_selection},
            {
                layer.index: Moments.unknown(layer.normalisation.runs(layer.input_shape))
                for layer in network
                if layer.is_normalisation
            },
        )

    def copied(self) -> GraphKnowledge:
        """Return a copy that may learn what the original does not."""
        trial = copy(self)
        for one in fields(self):
            held = getattr(self, one.name)
            if isinstance(held, list | dict):
                setattr(trial, one.name, held.copy())
        return trial

    @property
    def network(self) -> Network:
        """The network."""
        return self.observed.network

    def learn_value(self, number: int, found: Estimate) -> bool:
        """Take in what was found of a value; return whether anything was new."""
        return self._learn("value", self.values, number, found)

    def learn_gradient(self, number: int, found: Estimate) -> bool:
        """Take in what was found of the gradient at a value; return whether anything was new."""
        return self._learn("gradient", self.gradients, number, found)

    def _learn(self, what: str, held: list[Estimate], number: int, found: Estimate) -> bool:
        finite = replace(found, known=found.known & np.isfinite(found.value))
        if not (finite.known & ~held[number].known).any():
            return False
        held[number] = held[number].learnt(finite)
        self.news[what, number] = self.news.get((what, number), 0) + 1
        return True

    def learn_winners(self, layer: PlacedLayer, found: IntArray) -> bool:
        """Take in the winners of windows, -1 where unknown; return whether anything was new."""
        held = self.winners[layer.index]
        fresh = (held < 0) & (found >= 0)
        if not fresh.any():
            return False
        self.winners[layer.index] = np.where(fresh, found, held)
        self.news["winners", layer.index] = self.news.get(("winners", layer.index), 0) + 1
        return True

    def learn_moments(self, layer: PlacedLayer, found: Moments) -> bool:
        """Take in mean and scale of groups of a normalisation; return whether anything was new."""
        held = self.statistics[layer.index]
        both = [(held.mean, found.mean), (held.scale, found.scale)]
        if not any((new.known & ~old.known).any() for old, new in both):
            return False
        self.statistics[layer.index] = Moments(*(old.learnt(new) for old, new in both))
        self.news["moments", layer.index] = self.news.get(("moments", layer.index), 0) + 1
        return True

    def doubt(self, number: int, filters: BoolArray) -> None:
        """Forget the gradients of some channels at a value, and doubt the sides of the activations they came from."""
        k = self.gradients[number]
        mask = np.broadcast_to(filters.reshape(-1, *(1,) * (k.known.ndim - 1)), k.known.shape)
        self.gradients[number] = Estimate(k.value, k.known & ~mask, k.perturbations)
        self.news["gradient", number] = self.news.get(("gradient", number), 0) + 1
        for user in self.network.users(number):
            if user.is_activation:
                before = self.doubted.get(user.index, np.zeros(mask.shape, dtype=bool))
                self.doubted[user.index] = before | mask
            elif user.output_shape == self.network.shape_of(number) and not is_mixing(user):
                self.doubt(user.number, filters)

    def seen(self, layer: PlacedLayer) -> tuple[int, ...]:
        """Return how much was learnt at a layer: of what it reads and makes, and of their gradients."""
        numbers = (*layer.inputs, layer.number)
        counts = [self.news.get((what, n), 0) for n in numbers for what in ("value", "gradient")]
        return (*counts, *(self.news.get((what, layer.index), 0) for what in ("winners", "moments")))


def is_mixing(layer: PlacedLayer) -> bool:
    """Return whether a layer makes an output of several values of one input, or of other channels."""
    return (layer.is_bilinear and layer.groups != layer.channels) or math.prod(
        layer.taps if layer.is_bilinear else ()
    ) > 1


def add(first: Estimate, second: Estimate, sign: float = 1.0) -> Estimate:
    """Return the sum, or with sign -1 the difference, of two estimates, known where both are."""
    return Estimate(
        first.filled() + sign * second.filled(),
        first.known & second.known,
        first.perturbations + sign * second.perturbations,
    )


def kept(estimate: Estimate) -> FloatArray:
    """Return the perturbations, zero where the value is not known."""
    return np.where(estimate.known[..., None], estimate.perturbations, 0.0)


def rounded(observed: Observation, estimate: Estimate) -> Estimate:
    """Return an estimate with the noise of a client that computed it in its precision."""
    noise = observed.draw(observed.rounding.arithmetic * np.abs(estimate.filled()), estimate.value.shape)
    return Estimate(estimate.value, estimate.known, estimate.perturbations + noise)


Rule = Callable[[GraphKnowledge, PlacedLayer], bool]
