"""A selection as the largest outputs of a layer with a weight: windows over the outputs z, and what is known of each.

Between the layer and the selection, and above it, stand operations entry by entry. Those on the way up to an activation
make `t = α z + β` of an output z; an activation that rises keeps the order, so that the largest t of a window is the
one whose output is largest, and follows from it. Behind a ReLU, in front of it or above the selection, a window whose
output is zero has no t above zero: it is *dead*. All other windows of which the largest t is known are *live*.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.activations import (
    ELU,
    SELU,
    Hardtanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
    formulas,
)
from constraint_algebra.layers.base import Activation, PlacedLayer
from constraint_algebra.networks.operations import windows
from constraint_algebra.networks.spans import cuts_off, span_of
from constraint_algebra.recursion.entrywise import Entrywise, entrywise
from constraint_algebra.recursion.estimates import Estimate, sides, through_activation
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.graph_rules import is_scale

RISING = Identity | ReLU | Hardtanh | LeakyReLU | ELU | SELU | Sigmoid | Tanh | Softplus | Softsign


@dataclass(frozen=True)
class Pooled:
    """The windows of a selection over the outputs z of the layer with a weight below it.

    Attributes:
        selection: the selection.
        layer: the layer with a weight.
        windows: flat indices of the outputs of the layer that each window sees, `(windows, most)`, -1 where a window
            has fewer; in the order in which the selection sees them.
        factor: α of each of these, `(windows, most)`.
        shift: β of each of these, `(windows, most)`.
        v: the largest t of each live window, and what no t exceeds of each dead one; unknown elsewhere, `(windows,)`.
        k: gradient of the loss with respect to the largest t of each window, `(windows,)`.
        live: windows whose largest t is known.
        dead: windows of which every t is at most v.
        direct: whether k goes on to z times α. Where a normalisation by own statistics lies between, of known moments,
            only the values do.
    """

    selection: PlacedLayer
    layer: PlacedLayer
    windows: IntArray
    factor: FloatArray
    shift: FloatArray
    v: Estimate
    k: Estimate
    live: BoolArray
    dead: BoolArray
    direct: bool

    @property
    def real(self) -> BoolArray:
        """Which places of a window stand for an output."""
        return np.asarray(self.windows >= 0)

    def entries(self, z: FloatArray) -> FloatArray:
        """Return t of every place of every window from the layer's outputs, `(windows, most)`; -inf where none is."""
        return np.where(self.real, self.factor * z.ravel()[self.windows] + self.shift, -np.inf)

    def winners(self, chosen: IntArray) -> IntArray:
        """Return the flat index into what the selection reads of the entry at a place of each window, -1 kept.

        Args:
            chosen: the place of the winner in each window, -1 for none.
        """
        table = windows(self.selection)
        at = np.where(chosen >= 0, table[np.arange(len(table)), np.maximum(chosen, 0)], -1)
        return np.asarray(at.reshape(self.selection.output_shape))

    def sent(self, shares: FloatArray) -> FloatArray:
        """Return the gradient at the layer's outputs where each entry of a window gets a share of the window's k.

        Args:
            shares: of every place, `(windows, most)`.
        """
        each = np.where(self.real, shares * self.k.filled()[:, None] * self.factor, 0.0)
        size = int(np.prod(self.layer.output_shape))
        found = np.bincount(self.windows[self.real], each[self.real], size)
        return np.asarray(found.reshape(self.layer.output_shape))


def pooled(knows: GraphKnowledge, selection: PlacedLayer) -> Pooled | None:
    """Return the view of a selection, as far as values and gradients are known; `None` where there is no such view."""
    way = _Way(knows, selection)
    layer = way.down()
    if layer is None:
        return None
    if not way.through:
        way.cap()
    live = way.v.known & ~way.dead
    return Pooled(selection, layer, way.places, way.factor, way.shift, way.v, way.k, live, way.dead, way.direct)


class _Way:
    """The way down from a selection: what each entry is of the value that it has come to, `t = α value + β`."""

    def __init__(self, knows: GraphKnowledge, selection: PlacedLayer) -> None:
        """Begin at what the selection reads."""
        self.knows, self.selection = knows, selection
        self.places = windows(selection)
        self.real = self.places >= 0
        self.factor, self.shift = np.ones(self.places.shape), np.zeros(self.places.shape)
        count = (len(self.places),)
        self.v = knows.values[selection.number].reshape(count)
        self.k = knows.gradients[selection.number].reshape(count)
        self.dead = np.zeros(count, dtype=bool)
        self.through = False  # an activation
        self.direct = True

    def down(self) -> PlacedLayer | None:
        """Go down to a layer with a weight and return it; `None` where something else is in between."""
        network, number = self.knows.network, self.selection.inputs[0]
        while number and len(network.users(number)) == 1:
            maker = network.layers[number - 1]
            if maker.is_bilinear and not is_scale(maker):
                return maker
            if not (self._below(maker.activation) if maker.is_activation else self._composed(maker)):
                return None
            number = maker.inputs[0]
        return None

    def _composed(self, maker: PlacedLayer) -> bool:
        """Go below an operation entry by entry; return whether it is one."""
        found = self._normalised(maker) if maker.is_normalisation else _step(self.knows, maker)
        if found is None:
            return False
        at, factor, shift = found
        at_places = np.where(self.real, self.places, 0)
        self.shift = self.shift + self.factor * shift[at_places]
        self.factor = self.factor * factor[at_places]
        self.places = np.where(self.real, at[at_places], -1)
        return True

    def _normalised(self, maker: PlacedLayer) -> Entrywise | None:
        """Return a normalisation of known moments, entry by entry; their noise goes into v."""
        moments = self.knows.statistics.get(maker.index)
        if moments is None or not moments.known.all():
            return None
        self.direct = False
        mean, scale = moments.mean.value, moments.scale.value
        group = np.arange(maker.unknowns) * len(scale) // maker.unknowns
        first = self.places[:, 0]
        own = group[first]  # a window across groups has about that noise
        moved = self.factor[:, :1] * kept(moments.mean)[own]
        moved = moved + (self.v.filled() - self.shift[:, 0])[:, None] * kept(moments.scale)[own]
        self.v = replace(self.v, perturbations=self.v.perturbations + moved / scale[own, None])
        return Entrywise(np.arange(maker.unknowns), (1 / scale)[group], (-mean / scale)[group])

    def _below(self, activation: Activation) -> bool:
        """Go below an activation; return whether it keeps the order of every window."""
        factor, shift = self._one_a_window(self.factor), self._one_a_window(self.shift)
        if self.through or not isinstance(activation, RISING) or factor is None or shift is None or (factor <= 0).any():
            return False
        observed = self.knows.observed
        y = Estimate((self.v.value - shift) / factor, self.v.known, kept(self.v) / factor[:, None])
        dy = Estimate(self.k.value * factor, self.k.known, kept(self.k) * factor[:, None])
        z, self.k = through_activation(activation, y, dy, observed.stored(y))
        self.dead = _cut_off(activation, y, dy)
        self._put(z, span_of(activation).low)
        self.factor, self.shift, self.through = np.ones(self.places.shape), np.zeros(self.places.shape), True
        return True

    def _one_a_window(self, values: FloatArray) -> FloatArray | None:
        """Return the value that all places of each window share; `None` where they do not."""
        low = np.where(self.real, values, np.inf).min(axis=1)
        return low if (low == np.where(self.real, values, -np.inf).max(axis=1)).all() else None

    def _put(self, live: Estimate, bound: FloatArray | float) -> None:
        """Take the largest t of live windows, and what bounds that of dead ones."""
        self.v = Estimate(
            np.where(self.dead, bound, live.value),
            live.known | self.dead,
            np.where(self.dead[:, None], 0.0, live.perturbations),
        )

    def cap(self) -> None:
        """Find the dead windows by a ReLU above the selection."""
        knows, number = self.knows, self.selection.number
        factor, shift = np.ones(len(self.places)), np.zeros(len(self.places))
        while len(knows.network.users(number)) == 1:
            user = knows.network.users(number)[0]
            if user.is_activation:
                y, dy = (held[user.number].reshape(shift.shape) for held in (knows.values, knows.gradients))
                if cuts_off(user):
                    self.dead = _cut_off(user.activation, y, dy) & (factor > 0) & ~self.v.known
                    low = span_of(user.activation).low
                    self._put(self.v, (low - shift) / np.where(factor > 0, factor, 1.0))
                return
            found = _step(knows, user)
            if found is None or not np.array_equal(found[0], np.arange(len(shift))):
                return
            factor, shift = factor * found[1], found[1] * shift + found[2]
            number = user.number


def _cut_off(activation: Activation, y: Estimate, dy: Estimate) -> BoolArray:
    """Return which outputs of an activation surely lie on its lower plateau."""
    span = span_of(activation)
    if span.low not in span.levels:
        return np.zeros(y.known.shape, dtype=bool)
    value, decided, doubt = sides(formulas(activation), y, dy, None)
    return np.asarray(y.known & decided & (doubt == 0) & (value == span.low))


def _step(knows: GraphKnowledge, layer: PlacedLayer) -> Entrywise | None:
    """Return a factor for each channel, or an affine operation, entry by entry; `None` for any other."""
    if not (layer.is_bilinear and is_scale(layer)):
        return entrywise(knows, layer)
    observed, each = knows.observed, int(np.prod(layer.outputs))
    factor = observed.parameters[layer.weight_name].ravel()
    return Entrywise(np.arange(layer.unknowns), factor.repeat(each), observed.bias(layer).repeat(each))
