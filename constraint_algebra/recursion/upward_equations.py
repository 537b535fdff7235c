"""A value as the only unknown of what is known above it: all that lies between is a function of it.

Going down, a residual block stops the recursion: of `y = F(h) + h` both terms are unknown, and what an activation with
two branches or a normalisation makes tells little of what it reads. Going up nothing is open. With v(u) what operations
make of a value u up to values v that are known, and m(u), s(u) the statistics of normalisations on the way,

    v(u) = v        m(u), s(u) = mean and scale of each group, where a client shares them

are equations for u alone. Where they are few, the gradients of the layers on the way join them (`upward_gradients`). No
branch and no hidden value is guessed. They bend: `upward_solution` solves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.own_statistics import Statistics
from constraint_algebra.networks import operations
from constraint_algebra.recursion import graph_rules
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, Moments, kept
from constraint_algebra.recursion.upward_gradients import UpwardGradients

ENOUGH = 2  # rows for each unknown, beyond which gradients need not join
CHUNK = 5e5  # entries of the tangents of one value at a time: more would leave the caches


@dataclass(frozen=True)
class UpwardEquations:
    """The equations of a value from what is known above it.

    Attributes:
        knows: what is known; it stays as it is.
        number: of the value.
        layers: all that make anything of it, in order, up to values that are known.
        ends: numbers of these.
    """

    knows: GraphKnowledge
    number: int
    layers: tuple[PlacedLayer, ...]
    ends: tuple[int, ...]

    @property
    def unknowns(self) -> int:
        """Number of unknowns."""
        return int(self.knows.values[self.number].value.size)

    @property
    def rows(self) -> int:
        """Number of equations."""
        return sum(part.size for part in self.given)

    @cached_property
    def given(self) -> list[FloatArray]:
        """What is known above: values, means and scales, gradients."""
        return [*(part.value for part in self._parts(self.knows)), *(self.gradients.given if self.gradients else ())]

    @cached_property
    def gradients(self) -> UpwardGradients | None:
        """The gradients of layers on the way, where values and statistics are few."""
        few = sum(part.value.size for part in self._parts(self.knows)) < ENOUGH * self.unknowns
        return UpwardGradients(self.knows, self.layers, self.ends) if few else None

    @cached_property
    def sizes(self) -> FloatArray:
        """Size of a typical number of the part that each row belongs to, `(rows,)`."""
        return np.concatenate([np.full(part.size, np.sqrt((part**2).mean()) or 1.0) for part in self.given])

    @cached_property
    def _normed(self) -> tuple[PlacedLayer, ...]:
        """The normalisations on the way whose statistics are known."""
        return tuple(n for n in self.layers if n.is_normalisation and self.knows.statistics[n.index].known.all())

    def _parts(self, knows: GraphKnowledge) -> list[Estimate]:
        moments = [knows.statistics[n.index] for n in self._normed]
        return [*(knows.values[n] for n in self.ends), *(m.mean for m in moments), *(m.scale for m in moments)]

    def lacking(self, u: FloatArray) -> FloatArray:
        """Return what the rows are off for a value, flat, `(rows,)`."""
        values, at = self._made(u)
        own = self._statistics(at)
        parts = [*(values[n] for n in self.ends), *(s.mean for s in own), *(s.scale for s in own)]
        parts += self.gradients.made(values, at) if self.gradients else []
        return np.concatenate([(part - aim).ravel() for part, aim in zip(parts, self.given, strict=True)])

    def jacobian(self, u: FloatArray) -> FloatArray:
        """Return how all rows move with a value, `(rows, unknowns)`."""
        values, at = self._made(u)
        width = max(1, int(CHUNK / max(values[layer.number].size for layer in self.layers)))
        starts = range(0, u.size, width)
        parts = [self._moved(values, at, np.eye(u.size, min(width, u.size - i), -i)) for i in starts]
        return np.concatenate(parts, axis=1)

    def _statistics(self, at: operations.Pattern) -> list[Statistics]:
        return [found for n in self._normed if isinstance(found := at[n.name], Statistics)]

    def _made(self, u: FloatArray) -> tuple[list[FloatArray], operations.Pattern]:
        """Return all values, those above u as u makes them, and the patterns of the operations that make them."""
        parameters, values = self.knows.observed.parameters, [value.filled() for value in self.knows.values]
        values[self.number] = u.reshape(values[self.number].shape)
        for layer in self.layers:
            values[layer.number] = operations.value(layer, parameters, [values[n] for n in layer.inputs])
        return values, operations.pattern(self.layers, parameters, values)

    def _moved(self, values: list[FloatArray], at: operations.Pattern, d: FloatArray) -> FloatArray:
        """Return how all rows move with differences `(unknowns, n)` of the value."""
        count = d.shape[1]
        moved = {self.number: d.reshape(*values[self.number].shape, count)}
        for layer in self.layers:
            inputs = [moved[n] if n in moved else np.zeros((*values[n].shape, count)) for n in layer.inputs]
            moved[layer.number] = operations.tangent(layer, self.knows.observed.parameters, at, inputs)
        means, scales = list[FloatArray](), list[FloatArray]()
        for n, own in zip(self._normed, self._statistics(at), strict=True):
            runs = moved[n.inputs[0]].reshape(len(own.scale), -1, count)
            means.append(own.centred * runs.mean(axis=1))
            scales.append((own.normalised.reshape(len(own.scale), -1, 1) * runs).mean(axis=1))
        parts = [*(moved[n] for n in self.ends), *means, *scales]
        parts += self.gradients.moved(values, at, moved) if self.gradients else []
        return np.concatenate([part.reshape(-1, count) for part in parts])

    def noise(self, u: FloatArray) -> FloatArray:
        """Return draws of the noise of all rows, of what is known and of rounding on the way up, `(rows, MEMBERS)`."""
        shape = self.knows.values[self.number].value.shape
        exact = Estimate(u.reshape(shape), np.ones(shape, dtype=bool), np.zeros((*shape, MEMBERS)))
        trial = self.risen(exact)
        pairs = zip(self._parts(self.knows), self._parts(trial), strict=True)
        parts = [kept(given) - kept(seen) for given, seen in pairs]
        parts += self.gradients.noise(trial) if self.gradients else []
        return np.concatenate([part.reshape(-1, MEMBERS) for part in parts])

    def risen(self, u: Estimate) -> GraphKnowledge:
        """Return what would be known if a value were."""
        trial = self.knows.copied()
        trial.values[self.number] = u
        for layer in self.layers:
            trial.values[layer.number] = Estimate.unknown(layer.output_shape, MEMBERS)
            if layer.is_normalisation:
                trial.statistics[layer.index] = Moments.unknown(layer.normalisation.runs(layer.input_shape))
        for layer in self.layers:
            graph_rules.forward(trial, layer)
        return trial


def upward(knows: GraphKnowledge, number: int) -> UpwardEquations:
    """Return the equations of a value from what is known above it.

    The way up ends at known values, at selections, and where an operation reads what is not known otherwise.
    """
    reached, layers, ends = {number}, list[PlacedLayer](), list[int]()
    for layer in knows.network:
        own = [n for n in layer.inputs if n in reached]
        others = [n for n in layer.inputs if n not in reached]
        if layer.is_selection or not set(own) - set(ends) or not all(knows.values[n].known.all() for n in others):
            continue
        layers.append(layer)
        reached.add(layer.number)
        if knows.values[layer.number].known.all():
            ends.append(layer.number)
    return UpwardEquations(knows, number, tuple(layers), tuple(ends))
