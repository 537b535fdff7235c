"""How tangents of the input come up through a network at a pattern, and cotangents of a value down to the input.

Tangents of several directions are held for those values only that something further up still reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.own_statistics import Statistics
from constraint_algebra.networks.activation_pattern import demand_slopes
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.operations import Pattern, cotangents, pattern, tangent

PROBES, ROUNDS = 6, 5  # of the power iteration that finds the largest singular value

Map = Callable[[FloatArray], FloatArray]
Tangents = dict[int, FloatArray]  # by the number of the value, `(*shape, n)`


class Seer(NamedTuple):
    """Rows in the entries of one value, as maps.

    Attributes:
        name: of the layer whose rows they are.
        at: number of the value that the rows look at.
        above: how many layers come before the one that reads it.
        number: how many rows there are.
        rows: from tangents of that value to rows.
        adjoint: from coefficients of rows to cotangents of the value.
    """

    name: str
    at: int
    above: int
    number: int
    rows: Map
    adjoint: Map


class Climb:
    """How tangents of the input come up to any value, and cotangents of that down to the input.

    Args:
        network: the network.
        parameters: parameters and buffers by name.
        values: what `Network.forward` returned.
        still: names of activations and normalisations whose outputs stay, because what they read does.
    """

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        still: Collection[str] = (),
    ) -> None:
        """Find the pattern, and who reads which value last."""
        demand_slopes(network, values)
        self.network, self.parameters = network, parameters
        self.at: Pattern = pattern(network.layers, parameters, values)
        self.at |= {name: _still(self.at[name]) for name in still}
        self._last = {number: layer.index for layer in network.layers for number in layer.inputs}

    def begin(self, directions: FloatArray) -> Tangents:
        """Return flat directions of the input, in columns, as tangents."""
        return {0: directions.reshape(*self.network.input_shape, -1)}

    def rise(self, live: Tangents, above: int) -> Tangents:
        """Return tangents of the values that layer number `above` and those after it read, and of its predecessor."""
        found = dict(live)
        for layer in self.network.layers[max(live) : above]:
            found[layer.number] = tangent(layer, self.parameters, self.at, [found[number] for number in layer.inputs])
            for number in layer.inputs:
                if self._last[number] == layer.index:
                    found.pop(number, None)
        return found

    def seen(self, seer: Seer, directions: FloatArray) -> FloatArray:
        """Return what rows make of flat directions of the input."""
        return seer.rows(self.rise(self.begin(directions), seer.above)[seer.at])

    def moving(self, layer: PlacedLayer) -> BoolArray:
        """Return which entries of what a layer reads move with the input at all."""
        drawn = np.random.default_rng(0).standard_normal((math.prod(self.network.input_shape), PROBES))
        return np.asarray(self.rise(self.begin(drawn), layer.index)[layer.inputs[0]].any(axis=-1))

    def pulled(self, arriving: FloatArray, number: int) -> FloatArray:
        """Return flat cotangents of the input from those of one value."""
        found = pull(self.network.layers[:number], self.parameters, self.at, arriving)
        none = np.zeros((math.prod(self.network.input_shape), arriving.shape[-1]))
        return found[0].reshape(none.shape) if 0 in found else none

    def largest(self, seer: Seer) -> float:
        """Return about the largest singular value of rows over the whole input: what rounding is relative to."""
        size = 0.0
        x = np.random.default_rng(0).standard_normal((math.prod(self.network.input_shape), PROBES))
        for _ in range(ROUNDS):
            Q = np.asarray(la.qr(x, mode="economic")[0], dtype=float)
            seen = self.seen(seer, Q)
            size = max(size, float(la.svdvals(seen).max(initial=0.0)) if seen.size else 0.0)
            x = self.pulled(seer.adjoint(seen), seer.at)
            if not x.any():
                break
        return size


def _still(at: FloatArray | IntArray | Statistics) -> FloatArray | IntArray | Statistics:
    """Return the pattern of an operation through which nothing moves."""
    if isinstance(at, Statistics):
        return at._replace(scale=np.full_like(at.scale, np.inf))
    return np.zeros_like(at)


def pull(
    layers: Sequence[PlacedLayer],
    parameters: Mapping[str, FloatArray],
    at: Pattern,
    arriving: FloatArray,
    keep: Collection[int] = (),
) -> Tangents:
    """Return what cotangents of the last layer's output become at the values below, summed over all that read them.

    Args:
        layers: consecutive layers, the last one making the value in question; none where that is the input.
        parameters: parameters and buffers by name.
        at: the pattern.
        arriving: cotangents of the last layer's output, `(*shape, n)`.
        keep: numbers of values made by these layers whose cotangents are wanted; those that the layers only read are
            returned anyway.
    """
    if not layers:
        return {0: arriving}
    found = {layers[-1].number: arriving}
    for layer in reversed(layers):
        own = found.get(layer.number)
        if own is None:
            continue
        if layer.number not in keep:
            del found[layer.number]
        for number, part in zip(layer.inputs, cotangents(layer, parameters, at, own), strict=True):
            found[number] = found[number] + part if number in found else part
    return found


def live_entries(network: Network) -> int:
    """Return how many entries the values have that are held at a time, at most."""
    last = {number: layer.index for layer in network.layers for number in layer.inputs}
    held, most = math.prod(network.input_shape), 0
    for layer in network.layers:
        held += math.prod(layer.output_shape)
        most = max(most, held)
        held -= sum(math.prod(network.shape_of(number)) for number in set(layer.inputs) if last[number] == layer.index)
    return most
