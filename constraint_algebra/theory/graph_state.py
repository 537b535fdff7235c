"""What is known of every entry of every value of a graph, and of every entry of its output gradient.

The state only grows. Whoever learns something says by which rule; the layers next to it are visited again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.activations import Identity, is_piecewise_linear
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import PRIME
from constraint_algebra.ranks.modular_network import ModularNetwork
from constraint_algebra.theory.resting_network import RestingNetwork


class Solved(NamedTuple):
    """The equations of a value, all layers that read it together.

    Attributes:
        readers: names of these layers.
        weight_rows, gradient_rows: equations with known coefficients.
        gradient_rank: rank of the gradient rows.
        low, high: bounds of the rank of all of them and of the entries known before, equal where it is settled.
    """

    readers: tuple[str, ...]
    weight_rows: int
    gradient_rows: int
    gradient_rank: int
    low: int
    high: int


@dataclass(eq=False)
class GraphState:
    """Knowledge by the number of a value, each mask in the value's shape.

    Attributes:
        drawn: a random network with the pattern.
        shared: names of normalisations whose statistics are known from the start.
        values: where the value is known.
        gradients: where the gradient with respect to it is known.
        passed: by a layer's index and the number of a value that it reads, where what it passes back is known.
        pending: indices of layers that are to be visited.
        reasons: by number, how many entries of the value each rule gave.
        gradient_reasons: the same for its gradient.
        versions: by number, how often anything was learnt about the value, and about its gradient.
        solved: by number, the last equations of a value that were solved.
        tried: what each attempt rested on, not to make it twice.
        statistics: by the name of a normalisation, of which groups mean and scale are known.
        means: by the name of a normalisation, where the means of its gradient follow from those of factors.
        nearby: numbers of values that are determined in a neighbourhood alone, to first order.
        stops: by number, why nothing more was found of the value.
        spent: products of two residues that solutions in a neighbourhood have taken.
        skipped: numbers of values, and of those whose gradient was asked for, with equations too many to eliminate.
        error: upper bound of the probability that some rank was too small.
        resting: a random network with the same values, in which normalisations rest; `None` as long as nobody asked.
    """

    drawn: ModularNetwork
    shared: frozenset[str] = frozenset()
    values: list[BoolArray] = field(init=False)
    gradients: list[BoolArray] = field(init=False)
    passed: dict[tuple[int, int], BoolArray] = field(init=False)
    pending: set[int] = field(init=False)
    reasons: dict[int, Counter[str]] = field(default_factory=dict)
    gradient_reasons: dict[int, Counter[str]] = field(default_factory=dict)
    versions: list[list[int]] = field(init=False)
    solved: dict[int, Solved] = field(default_factory=dict)
    tried: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    statistics: dict[str, BoolArray] = field(init=False)
    means: dict[str, BoolArray] = field(default_factory=dict)
    nearby: set[int] = field(default_factory=set)
    stops: dict[int, str] = field(default_factory=dict)
    spent: float = 0.0
    skipped: set[int] = field(default_factory=set)
    error: float = 0.0
    resting: RestingNetwork | None = None

    def __post_init__(self) -> None:
        """Start with no knowledge but that the gradient of what nothing reads is zero."""
        network = self.drawn.network
        shapes = [network.input_shape, *(layer.output_shape for layer in network.layers)]
        self.values = [np.zeros(shape, dtype=bool) for shape in shapes]
        self.gradients = [np.zeros(shape, dtype=bool) for shape in shapes]
        self.versions = [[0, 0] for _ in shapes]
        self.passed = {(x.index, n): np.zeros(shapes[n], dtype=bool) for x in network.layers for n in set(x.inputs)}
        self.pending = set(range(len(network.layers)))
        self.statistics = {
            x.name: np.full(x.normalisation.runs(x.input_shape), x.name in self.shared)
            for x in network.layers
            if x.is_normalisation
        }
        for number in range(len(shapes) - 1):
            if not network.users(number):
                self.gradients[number][...] = True

    def learn(self, number: int, mask: BoolArray, reason: str) -> bool:
        """Add entries of a value, and say by which rule; returns whether any was new."""
        return self._add(self.values, self.reasons, number, mask, reason, 0)

    def learn_gradient(self, number: int, mask: BoolArray, reason: str) -> bool:
        """Add entries of the gradient with respect to a value."""
        return self._add(self.gradients, self.gradient_reasons, number, mask, reason, 1)

    def _add(
        self,
        known: list[BoolArray],
        reasons: dict[int, Counter[str]],
        number: int,
        mask: BoolArray,
        reason: str,
        which: int,
    ) -> bool:
        new = mask.reshape(known[number].shape) & ~known[number]
        count = int(np.count_nonzero(new))
        if not count:
            return False
        known[number] |= new
        reasons.setdefault(number, Counter())[reason] += count
        self.versions[number][which] += 1
        self.visit_around(number)
        return True

    def visit_around(self, number: int) -> None:
        """Have the layer that makes a value and those that read it visited again."""
        self.pending.update(user.index for user in self.drawn.network.users(number))
        if number:
            self.pending.add(number - 1)

    def is_new(self, what: str, number: int, rests_on: tuple[int, ...]) -> bool:
        """Return whether an attempt rests on more than the last one of its kind, and remember it."""
        key = (what, number)
        if self.tried.get(key) == rests_on:
            return False
        self.tried[key] = rests_on
        return True

    def skip(self, number: int, reason: str) -> None:
        """Note that equations of a value were too many to eliminate."""
        self.stops[number] = reason
        self.skipped.add(number)

    def support(self, number: int) -> BoolArray:
        """Return where the gradient with respect to a value may be other than zero."""
        return self.drawn.support[number]

    def kept(self, layer: PlacedLayer) -> BoolArray:
        """Return what dropout keeps of values other than zero: its outputs there show it."""
        diagonal = self.drawn.parts(layer)[layer.inputs[0]].diagonal
        assert diagonal is not None
        return np.asarray(diagonal.reshape(layer.output_shape) != 0)

    def off(self, layer: PlacedLayer) -> BoolArray | None:
        """Return where an activation is cut off, in its output shape; `None` where it never is."""
        if not is_piecewise_linear(layer.activation) or isinstance(layer.activation, Identity):
            return None
        off = np.asarray(self.drawn.slope(layer) == 0)
        return off if off.any() else None

    def count_error(self, rank: int) -> None:
        """Add the probability that a rank is too small: as many factors in an entry as layers have random numbers."""
        layers = self.drawn.network.layers
        if any(x.is_normalisation for x in layers):  # fractions, with more factors than any bound has use for
            self.error = 1.0
            return
        factors = 2 * sum(not (x.is_activation or x.is_selection or x.is_reshape) for x in layers)
        self.error = min(1.0, self.error + factors * rank / (PRIME - 1))


def is_source(layer: PlacedLayer) -> bool:
    """Return whether what a layer makes is no known affine function of what it reads; the mask of dropout is unknown.

    >>> from constraint_algebra.layers import Flatten, ReLU
    >>> [is_source(layer.place((4,))) for layer in (ReLU(), Dropout(), Flatten())]
    [True, True, False]
    """
    return layer.is_source or isinstance(layer.layer, Dropout)


def others_known(state: GraphState, layer: PlacedLayer, number: int) -> BoolArray:
    """Return where what all other layers than one pass back to a value is known."""
    known = np.ones(state.values[number].shape, dtype=bool)
    for user in state.drawn.network.users(number):
        if user is not layer:
            known &= state.passed[user.index, number]
    return known
