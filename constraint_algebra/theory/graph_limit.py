"""The rank of the equations of a whole graph together, modulo a prime, in the network's input.

At a pattern every value of the graph is affine in the input, and the differences of one input that no row has noticed
so far are carried through the graph from value to value: a basis of them, a column each. Each layer with a weight adds
the rows `A(k) δh` of what it reads, each slope of PReLU one row, and the logits theirs, up to the constant that they
share. Whenever many columns are used up, the rest is a smaller basis. Where an activation bends, or a normalisation
takes statistics of the values, the output gradients move with the input as well, which takes the differences of all
values at once: see `graph_moving`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, RealArray
from constraint_algebra.layers.activations import PReLU
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.modular import PRIME, PROBES, Echelon, multiply, residues
from constraint_algebra.ranks import modular_layers
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge, usable_rows
from constraint_algebra.ranks.modular_network import ModularNetwork, in_whole_groups
from constraint_algebra.ranks.whole_map import RowsOfLayer
from constraint_algebra.theory.composed import Composed
from constraint_algebra.theory.curved import LIMIT as CURVED_LIMIT
from constraint_algebra.theory.curved import VALUES as CURVED_VALUES
from constraint_algebra.theory.graph_moving import moves, moving_error, moving_limit, slope_rows

LIMIT = 3600  # input values
HELD = 1.2e9  # bytes of differences held at once, in float32
EFFORT = 4e11  # products of two residues in all, about a minute


def graph_limit(drawn: ModularNetwork, shared: Collection[str] = ()) -> Composed | None:
    """Return the rank of all equations of a network at a pattern; `None` where they are too large to eliminate.

    Args:
        drawn: a random network with a pattern.
        shared: names of normalisations whose statistics are known besides.
    """
    layers = reaching(drawn.network, last_layer(drawn.network))
    unknowns = math.prod(drawn.network.input_shape)
    if unknowns > LIMIT:
        return None
    if not any(map(moves, layers)):
        found = _Differences(drawn, layers).found()
    elif unknowns <= CURVED_LIMIT and unknowns * float(_size(drawn.network)) <= CURVED_VALUES:
        found = moving_limit(drawn, layers, shared)
    else:
        return None
    return found


def most_rank(drawn: ModularNetwork, seed: int) -> int:
    """Return an upper bound of the rank of all equations: what the first layers determine with all above them known.

    Where the input is read through single steps that keep every entry apart, it is theirs; else the number of values.
    """
    network, number = drawn.network, 0
    unknowns = math.prod(network.input_shape)
    while len(network.users(number)) == 1:
        user = network.users(number)[0]
        if not user.is_affine or not drawn.parts(user)[number].is_diagonal or len(user.inputs) > 1:
            break
        number = user.number
    readers = network.users(number)
    if not all(layer.is_bilinear and not isinstance(layer.layer, ChannelScale) for layer in readers):
        return unknowns
    known = (Knowledge.of(layer, active=_matters(drawn, layer.number)) for layer in readers)
    ranks = (bounded_rank(layer, knowledge=of, seed=seed).high for layer, of in zip(readers, known, strict=True))
    return min(unknowns, sum(ranks))


def _matters(drawn: ModularNetwork, number: int) -> BoolArray:
    """Return which entries of a value reach a layer with a weight, or the output, at the pattern."""
    network, found = drawn.network, np.zeros(drawn.network.shape_of(number), dtype=bool)
    if number == network.layers[-1].number:
        return ~found
    for user in network.users(number):
        if user.is_bilinear and not isinstance(user.layer, ChannelScale):
            return np.ones_like(found)
        above = _matters(drawn, user.number)
        if user.is_normalisation:
            here = in_whole_groups(user, above)
        else:
            here = above if user.is_bilinear else drawn.parts(user)[number].met_below(above.ravel()) > 0
        found |= here.reshape(found.shape)
    return found


def graph_limit_error(network: Network) -> float:
    """Return an upper bound of the probability that the rank of a limit is too small, without computing it."""
    unknowns = math.prod(network.input_shape)
    if unknowns > LIMIT:  # there are bounds alone, of one layer
        return min(1.0, unknowns / (PRIME - 1))
    return _error(reaching(network, last_layer(network)), unknowns)


def last_layer(network: Network) -> PlacedLayer:
    """Return the lowest layer with one output position and a bias that every path to the output passes, or the last.

    Its output gradient is at hand; what lies above it adds nothing.
    """
    for layer in network.bilinear:
        if math.prod(layer.outputs) == 1 and layer.bias_name is not None and _is_passed(network, layer):
            return layer
    return network.layers[-1]


def _is_passed(network: Network, gate: PlacedLayer) -> bool:
    """Return whether nothing gets from the input to the output but through a layer."""
    reached = {0}
    for layer in network.layers:
        if layer is not gate and reached.intersection(layer.inputs):
            reached.add(layer.number)
    return network.layers[-1].number not in reached


def reaching(network: Network, top: PlacedLayer) -> list[PlacedLayer]:
    """Return the layers that a layer depends on, and itself, in order."""
    needed, found = {top.number}, list[PlacedLayer]()
    for layer in reversed(network.layers):
        if layer.number in needed:
            needed.update(layer.inputs)
            found.append(layer)
    return found[::-1]


def _size(network: Network) -> int:
    return sum(math.prod(layer.output_shape) for layer in network.layers)


def _error(layers: Sequence[PlacedLayer], rank: int) -> float:
    """Return the error bound: as many random factors in an entry as there are layers that have some."""
    if any(map(moves, layers)):
        return moving_error(layers, rank)
    drawn = sum(not (layer.is_activation or layer.is_selection or layer.is_reshape) for layer in layers)
    return min(1.0, 2 * drawn * rank / (PRIME - 1))


class _Differences:
    """A basis of the differences of inputs that no row has noticed so far, carried through the graph."""

    def __init__(self, drawn: ModularNetwork, layers: Sequence[PlacedLayer]) -> None:
        self.drawn, self.layers = drawn, layers
        shape = drawn.network.input_shape
        self.unknowns = math.prod(shape)
        self.spent = 0.0
        self.form = Echelon(self.unknowns)
        self.input: RealArray = np.eye(self.unknowns, dtype=np.float32).reshape(*shape, self.unknowns)
        self.live: dict[int, RealArray] = {0: self.input}
        self.last_use = {number: layer.index for layer in layers for number in layer.inputs}
        self.rows = list[RowsOfLayer]()

    @property
    def rank(self) -> int:
        """Rank of all rows so far."""
        return self.unknowns - self.form.columns + self.form.rank

    def found(self) -> Composed | None:
        """Return the rank of the rows of all layers, `None` where they take too long or too much memory."""
        for layer in self.layers:
            if self.rank == self.unknowns:
                break
            if self._is_beyond(layer):
                return None
            if layer.is_bilinear or isinstance(layer.layer, PReLU):
                self._absorb(layer.name, *self._rows(layer))
            inputs = [self.live[number] for number in layer.inputs]
            self.live[layer.number] = self._raised(layer, inputs)
            for number in set(layer.inputs):
                if self.last_use[number] == layer.index:
                    del self.live[number]
        else:
            self._absorb_logits(self.layers[-1])
        return self._judged()

    def _is_beyond(self, layer: PlacedLayer) -> bool:
        n = self.form.columns
        sizes = sum(x[..., 0].size for x in self.live.values()) + self.input[..., 0].size + 3 * layer.unknowns
        if layer.is_bilinear:
            self.spent += 2.0 * n * len(incidence(layer)) * layer.filters * layer.channels / layer.groups
        return 4.0 * n * sizes > HELD or self.spent > EFFORT

    def _raised(self, layer: PlacedLayer, inputs: list[RealArray]) -> RealArray:
        """Return the differences at a layer's output, some columns at a time."""
        n, size = self.form.columns, math.prod(layer.output_shape)
        found = np.empty((*layer.output_shape, n), dtype=np.float32)
        step = max(16, 2**23 // max(size, layer.unknowns))
        for first in range(0, n, step):
            some = slice(first, first + step)
            found[..., some] = self.drawn.up(layer, [x[..., some] for x in inputs])
        return found

    def _rows(self, layer: PlacedLayer) -> tuple[int, Iterator[FloatArray]]:
        x = self.live[layer.inputs[0]]
        if layer.is_activation:
            return slope_rows(self.drawn, layer, x)
        usable = self.usable(layer)
        count = int(usable.sum()) * (layer.channels // layer.groups)
        rng = self.drawn.rng(layer, 3)
        return count, modular_layers.spanning_row_blocks(layer, self.drawn.gradient(layer), usable, x, rng)

    def usable(self, layer: PlacedLayer) -> BoolArray:
        """Return which gradient rows (filter, tap) of a layer are not zero throughout."""
        support = self.drawn.support[layer.number].reshape(layer.filters, -1)
        return np.asarray(~usable_rows(incidence(layer), ~support))

    def _absorb(self, name: str, count: int, blocks: Iterator[FloatArray]) -> None:
        for block in blocks:
            self.form.absorb(np.asarray(block, dtype=float))
            if self.form.rank == self.form.columns:
                break
        self.rows.append(RowsOfLayer(name, count, self.rank))
        if 4 * self.form.rank >= self.form.columns:
            self._shrink()

    def _shrink(self) -> None:
        """Keep the differences that no row has noticed as the basis."""
        N = self.form.null_space()
        self.input = _combined(self.input, N)
        self.live = {n: self.input if n == 0 else _combined(x, N) for n, x in self.live.items()}
        self.form = Echelon(N.shape[1])

    def _absorb_logits(self, last: PlacedLayer) -> None:
        if len(last.output_shape) == 1 and last is self.drawn.network.layers[-1] and self.rank < self.unknowns:
            logits = self.live[last.number].astype(float)
            self._absorb(last.name, len(logits) - 1, iter([np.remainder(logits[1:] - logits[:1], PRIME)]))

    def _judged(self) -> Composed:
        free, rng = self.form.columns - self.form.rank, np.random.default_rng([self.drawn.seed, 3])
        y = self.form.null(residues((free, PROBES), rng))
        moves = multiply(self.input.reshape(self.unknowns, -1).astype(float), y)
        determined = np.asarray(~moves.any(axis=1)).reshape(self.drawn.network.input_shape)
        error = _error(self.layers, self.rank) if free else 0.0
        return Composed(self.rank, determined, tuple(self.rows), error)


def _combined(values: RealArray, N: FloatArray) -> RealArray:
    """Return combinations of columns, some rows at a time."""
    flat = values.reshape(-1, values.shape[-1])
    found = np.empty((len(flat), N.shape[1]), dtype=np.float32)
    for first in range(0, len(flat), 4096):
        found[first : first + 4096] = multiply(flat[first : first + 4096], N)
    return found.reshape(*values.shape[:-1], N.shape[1])
