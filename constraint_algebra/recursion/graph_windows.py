"""The rules of the recursion at a selection, such as a max-pool: what decides which entry of a window won.

The observer does not see the winner. These tell it:

- all entries of the window are known, and one is clearly the largest;
- all but one are known and smaller than the pooled value, so that it is the last;
- the gradient on both sides is known: it arrives at the winner alone;
- nothing is to be decided: a pooled value of zero behind a ReLU leaves every entry of its window at zero, and a
  gradient of zero sends nothing back whoever won.

What none of them decides stays open.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.activations import ReLU, formulas
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.operations import windows
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate, sides
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept

CLEAR = 0.25  # share of the gradient that a window sends back, at which an entry has clearly got it or not


class _Entries:
    """The entries of all windows, `(outputs, most)`: values, whether known, their deviations."""

    def __init__(self, layer: PlacedLayer, x: Estimate) -> None:
        self.table = windows(layer)
        self.real = self.table >= 0
        at = np.where(self.real, self.table, 0)
        self.known = x.known.ravel()[at] & self.real
        self.value = np.where(self.known, x.filled().ravel()[at], -np.inf)
        self.deviation = np.where(self.known, x.deviation.ravel()[at], 0.0)

    @property
    def all_known(self) -> BoolArray:
        return np.asarray((self.known == self.real).all(axis=1))

    def leading(self) -> tuple[IntArray, BoolArray]:
        """Return the place of the largest known entry in each window, and whether it is clearly the largest of them."""
        best = self.value.argmax(axis=1)
        rows = np.arange(len(best))
        others = self.value.copy()
        others[rows, best] = -np.inf
        second = others.argmax(axis=1)
        some = self.known.any(axis=1)
        ahead = np.where(some, self.value[rows, best], 0.0) - others[rows, second]
        noise = np.hypot(self.deviation[rows, best], self.deviation[rows, second])
        return best, np.asarray(some & (ahead > SIDES * noise))


def forward(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn winners and pooled values of windows all of whose entries are known."""
    x = knows.values[layer.inputs[0]]
    if not x.known.any():
        return False
    entries = _Entries(layer, x)
    best, clear = entries.leading()
    rows, whole = np.arange(len(best)), entries.all_known
    at = entries.table[rows, best]
    value = np.where(whole, entries.value[rows, best], 0.0)
    pooled = Estimate(value, whole, kept(x).reshape(-1, MEMBERS)[at]).reshape(layer.output_shape)
    won = np.where(whole & clear, at, -1).reshape(layer.output_shape)
    learnt = knows.learn_winners(layer, won)
    return knows.learn_value(layer.number, pooled) or learnt


def invert(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn entries of windows from the pooled values."""
    number = layer.inputs[0]
    learnt = _zeros(knows, layer)
    entries = _Entries(layer, knows.values[number])
    y = knows.values[layer.number].reshape((len(entries.table),))
    missing = entries.real & ~entries.known
    best, _ = entries.leading()
    rows = np.arange(len(best))
    noise = np.hypot(entries.deviation[rows, best], y.deviation)
    below = y.known & (y.filled() - entries.value[rows, best] > SIDES * noise)
    last = below & (missing.sum(axis=1) == 1)
    won = np.where(last, entries.table[rows, missing.argmax(axis=1)], -1)
    learnt = knows.learn_winners(layer, won.reshape(layer.output_shape)) or learnt
    return _winning_values(knows, layer, y) or learnt


def _winning_values(knows: GraphKnowledge, layer: PlacedLayer, y: Estimate) -> bool:
    """Learn the values of the winners."""
    number, won = layer.inputs[0], knows.winners[layer.index].ravel()
    chosen = np.flatnonzero(y.known & (won >= 0))
    if not len(chosen):
        return False
    return knows.learn_value(number, _placed(knows, number, won[chosen], y.value[chosen], kept(y)[chosen]))


def _zeros(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the entries of windows behind a ReLU whose pooled value is zero."""
    number = layer.inputs[0]
    below = knows.network.layers[number - 1] if number else None
    y = knows.values[layer.number]
    if below is None or not below.is_activation or not isinstance(below.activation, ReLU) or not y.known.any():
        return False
    value, decided, doubt = sides(formulas(ReLU()), y, knows.gradients[layer.number], None)
    zero = (y.known & decided & (doubt == 0) & (value == 0)).ravel()
    table = windows(layer)[zero]
    at = np.unique(table[table >= 0])
    return knows.learn_value(number, _placed(knows, number, at, np.zeros(len(at)), np.zeros((len(at), MEMBERS))))


def _placed(knows: GraphKnowledge, number: int, at: IntArray, value: FloatArray, moved: FloatArray) -> Estimate:
    """Return values at some places of a value, unknown elsewhere."""
    shape = knows.network.shape_of(number)
    found = Estimate.unknown(shape, MEMBERS)
    found.value.ravel()[at], found.known.ravel()[at] = value, True
    found.perturbations.reshape(-1, MEMBERS)[at] = moved
    return found


def part(knows: GraphKnowledge, layer: PlacedLayer) -> Estimate:
    """Return what a selection sends back: known where all windows of an entry have a winner, or nothing to send."""
    k, won, table = knows.gradients[layer.number], knows.winners[layer.index].ravel(), windows(layer)
    silent = (k.known & (k.value == 0)).ravel()
    settled = silent | (k.known.ravel() & (won >= 0))
    size = int(np.prod(layer.input_shape))
    value, moved, known = np.zeros(size), np.zeros((size, MEMBERS)), np.ones(size, dtype=bool)
    sends = np.flatnonzero(settled & ~silent)
    np.add.at(value, won[sends], k.filled().ravel()[sends])
    np.add.at(moved, won[sends], kept(k).reshape(-1, MEMBERS)[sends])
    # An entry that has lost gets nothing, even where the gradient of its window is open.
    lost = (won >= 0)[:, None] & (table != won[:, None])
    asked = table[(table >= 0) & ~settled[:, None] & ~lost]
    known[asked] = False
    return Estimate(value, known, moved).reshape(layer.input_shape)


def by_gradient(knows: GraphKnowledge, layer: PlacedLayer, sent: Estimate) -> bool:
    """Learn winners from the gradient that a selection sends back: it arrives at the winner alone.

    Args:
        knows: what is known.
        layer: the selection.
        sent: what it sends back to its input, as far as that is known.
    """
    k, table = knows.gradients[layer.number].reshape((len(windows(layer)),)), windows(layer)
    at = np.where(table >= 0, table, 0)
    size = np.where(k.known, np.abs(k.value), 0.0)[:, None]
    known = sent.known.ravel()[at] & (table >= 0)
    noise = SIDES * np.hypot(sent.deviation.ravel()[at], k.deviation[:, None])
    clear = known & (size > 0) & (noise < CLEAR * size)
    got = clear & (np.abs(sent.filled().ravel()[at]) > CLEAR * size)
    got_none = clear & ~got
    others = got_none | (table < 0)
    single = (got.sum(axis=1) == 1) & ((got | others).all(axis=1))
    last = (~got).all(axis=1) & (others.sum(axis=1) == table.shape[1] - 1) & (size[:, 0] > 0)
    place = np.where(single, got.argmax(axis=1), (~others).argmax(axis=1))
    won = np.where(single | last, table[np.arange(len(table)), place], -1)
    return knows.learn_winners(layer, won.reshape(layer.output_shape))
