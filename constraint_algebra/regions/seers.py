"""What sees the input of a network at one input: the rows of every layer, from below, with the k that belong to them.

In a graph an activation that bends ends what moves: what it reads, as far as anything above sees it, is kept, and its
output and its slope stay. Other paths go on above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.activations import PReLU
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.activation_pattern import activation_pattern, first_layer
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.operations import pattern
from constraint_algebra.regions.climb import Climb, Map, Seer, pull
from constraint_algebra.regions.inequalities import bends, bends_itself, refuse_bent_below
from constraint_algebra.regions.needs import Region
from constraint_algebra.regions.sparse_rows import SparseRows, sparse_rise
from constraint_algebra.solvers.gradient_rows import GradientRows


class FirstRows(Protocol):
    """Rows over the input that are factored in small blocks: `GradientRows` or `SparseRows`."""

    row_counts: BoolArray

    @property
    def matrix(self) -> sp.csr_array:
        """The rows, each of unit norm."""

    @property
    def kept(self) -> FloatArray:
        """The singular values that count, relative to the largest of their block."""

    @property
    def dropped(self) -> float:
        """The largest singular value that does not count, likewise."""

    @property
    def open_count(self) -> int:
        """Dimension of what the rows leave open."""

    def from_open(self, coordinates: FloatArray) -> FloatArray:
        """Return flat vectors from their coordinates in what is left open."""

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors`."""

    def compressed(self, values: FloatArray) -> FloatArray:
        """Return the rows times several inputs."""

    def combined(self, coefficients: FloatArray) -> FloatArray:
        """Return combinations of the rows."""


class ChainSight:
    """What sees the input of a plain chain.

    Args:
        network, parameters, values, output_gradients, centred: as for `WholeEquations`.
        rtol: share of the largest singular value above which one of the first rows counts.

    Attributes:
        climb: how tangents come up, and cotangents down.
        lowest: the layer of the first rows.
        k: gradient that arrives at the output of every layer with a weight, by its name, `(*output_shape, number)`.
        first: the first rows.
        covered: whether the rows of `Network.start` give its whole input.
        kept: name of the value that is kept below the lowest activation that bends, `None` where all is linear.
        sides: of a chain, the layers whose activations must keep their sides, as far as the seers have come.
        region: of a graph, what the pattern needs.
    """

    region: Region | None = None

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        output_gradients: FloatArray,
        centred: bool,
        rtol: float,
    ) -> None:
        """Bring the output gradients down to the first layer."""
        self.network, self.values, self.centred = network, list(values), centred
        self.climb = Climb(network, parameters, values)
        self.lowest = first_layer(network)
        last = np.moveaxis(output_gradients.reshape(-1, *network.output_shape), 0, -1)
        above = network.layers[self.lowest.index + 1 :]
        numbers = {layer.number for layer in above}
        found = pull(above, parameters, self.climb.at, last, numbers) if above else {self.lowest.number: last}
        self.k = {layer.name: found[layer.number] for layer in network.bilinear}
        self.covered = _covers(network.start, self.k)
        start = network.start
        below = [x for x in network.bilinear if start is None or x.index < start.index]
        self.kept = next((layer.name for layer in below if bends(network, layer)), None)
        self.first = GradientRows(self.lowest, np.moveaxis(self.k[self.lowest.name], -1, 0), rtol=rtol)
        self.sides = [self.lowest]

    def seers(self) -> Iterator[Seer]:
        """Yield what sees the input, from below."""
        network = self.network
        for layer in network.bilinear:
            rows = self.first
            if layer is not self.sides[0]:
                self.sides.append(layer)
                rows = _gradient_rows(layer, self.k, self.climb)
            yield _of_rows(layer, rows)
            if self.covered and layer == network.start:
                return
            if bends(network, layer):
                self.kept = layer.name
                passing = activation_pattern(network, self.values, layer)[0].ravel()
                yield _of_entries(f"{layer.name}, output", layer.number, layer.number, passing, layer.output_shape)
                return
        yield _of_outputs(network, self.centred)


class GraphSight:
    """What sees the input of a graph; arguments and attributes are those of `ChainSight`."""

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        output_gradients: FloatArray,
        centred: bool,
        rtol: float,
    ) -> None:
        """Bring the output gradients down to all layers, and find what the pattern needs."""
        if not network.bilinear:
            raise ShapeError("the network has no layer with a weight, and so no gradient")
        self.network, self.values, self.centred = network, values, centred
        self.lowest, self.sides = network.bilinear[0], list[PlacedLayer]()
        refuse_bent_below(network, self.lowest)
        at = pattern(network.layers, parameters, values)
        last = np.moveaxis(output_gradients.reshape(-1, *network.output_shape), 0, -1)
        trained = [layer for layer in network.layers if layer.has_parameters]
        found = pull(network.layers, parameters, at, last, {layer.number for layer in trained})
        none = np.zeros((1, last.shape[-1]))
        self._k = {x.name: found.get(x.number, none.reshape(*(1,) * len(x.output_shape), -1)) for x in trained}
        self.k = {x.name: np.broadcast_to(self._k[x.name], (*x.output_shape, last.shape[-1])) for x in network.bilinear}
        self.covered = _covers(network.start, self.k)
        bent = [x for x in network.layers if bends_itself(x)]
        self.region = Region(network.layers, parameters, values, at, [len(network.layers)])
        self.climb = Climb(network, parameters, values, still=[layer.name for layer in bent])
        self._bent = [layer for layer in bent if self.region.kept.get(layer.name, np.zeros(1)).any()]
        self.kept = network.value_name(self._bent[0].inputs[0]) if self._bent else None
        self.first = self._first_rows(parameters, rtol)

    def _first_rows(self, parameters: Mapping[str, FloatArray], rtol: float) -> FirstRows:
        """Return the rows of the lowest layer over the input."""
        layer, several = self.lowest, np.moveaxis(self.k[self.lowest.name], -1, 0)
        below = self.network.layers[: layer.index]
        if all(other.is_reshape for other in below):
            return GradientRows(layer, several, rtol=rtol)
        M = sparse_rise(below, parameters, self.climb.at, math.prod(self.network.input_shape))[layer.inputs[0]]
        return SparseRows(GradientRows(layer, several).matrix @ M, self.network.input_shape, rtol)

    def seers(self) -> Iterator[Seer]:
        """Yield what sees the input: the first rows, the others from below."""
        yield self._lowest_seer()
        for layer in self.network.layers:
            if layer.is_bilinear and layer is not self.lowest:
                yield _of_rows(layer, _gradient_rows(layer, self.k, self.climb))
            elif isinstance(layer.layer, PReLU):
                yield self._of_slopes(layer)
            elif layer in self._bent:
                passing = self.region.kept[layer.name]
                name = f"{self.network.value_name(layer.inputs[0])}, kept"
                yield _of_entries(name, layer.inputs[0], layer.index, passing, layer.input_shape)
        yield _of_outputs(self.network, self.centred)

    def _lowest_seer(self) -> Seer:
        if isinstance(self.first, GradientRows):
            return _of_rows(self.lowest, self.first)
        return Seer(self.lowest.name, 0, 0, len(self.first.row_counts), self.first.compressed, self.first.combined)

    def _of_slopes(self, layer: PlacedLayer) -> Seer:
        """Return the rows of the slopes of PReLU: `sum k dz` where z is not positive."""
        assert isinstance(layer.layer, PReLU)
        count, shape = layer.layer.parameters, layer.input_shape
        on = (self.values[layer.inputs[0]] <= 0)[..., None]
        k = np.broadcast_to(self._k[layer.name], (*shape, self._k[layer.name].shape[-1])) * on
        flat = k.reshape(count, -1, k.shape[-1])

        def rows(P: FloatArray) -> FloatArray:
            moved = P.reshape(count, -1, P.shape[-1])
            return np.asarray(np.einsum("cik,cin->kcn", flat, moved).reshape(-1, P.shape[-1]))

        def adjoint(coefficients: FloatArray) -> FloatArray:
            by_slope = coefficients.reshape(flat.shape[-1], count, -1)
            return np.asarray(np.einsum("cik,kcn->cin", flat, by_slope).reshape(*shape, -1))

        return Seer(layer.name, layer.inputs[0], layer.index, count * flat.shape[-1], rows, adjoint)


def _covers(start: PlacedLayer | None, k: Mapping[str, FloatArray]) -> bool:
    return start is not None and bool(np.abs(k[start.name]).reshape(start.groups, -1).any(axis=1).all())


def _gradient_rows(layer: PlacedLayer, k: Mapping[str, FloatArray], climb: Climb) -> GradientRows:
    return GradientRows(layer, np.moveaxis(k[layer.name], -1, 0), moving=climb.moving(layer))


def _of_rows(layer: PlacedLayer, rows: FirstRows) -> Seer:
    number = int(rows.row_counts.sum())
    return Seer(layer.name, layer.inputs[0], layer.index, number, rows.compressed, rows.combined)


def _of_entries(name: str, at: int, above: int, chosen: BoolArray, shape: tuple[int, ...]) -> Seer:
    """Return the map that takes some entries of a value."""

    def adjoint(coefficients: FloatArray) -> FloatArray:
        whole = np.zeros((len(chosen), coefficients.shape[1]))
        whole[chosen] = coefficients
        return whole.reshape(*shape, -1)

    rows: Map = lambda P: P.reshape(len(chosen), -1)[chosen]  # noqa: E731 -- one line says all
    return Seer(name, at, above, int(chosen.sum()), rows, adjoint)


def _of_outputs(network: Network, centred: bool) -> Seer:
    """Return the map that takes the network's outputs, without their mean where a constant changes nothing."""
    size, shape, last = math.prod(network.output_shape), network.output_shape, len(network.layers)

    def rows(P: FloatArray) -> FloatArray:
        flat = P.reshape(size, -1)
        return flat - flat.mean(axis=0) if centred else flat

    return Seer("output", last, last, size - centred, rows, lambda coefficients: rows(coefficients).reshape(*shape, -1))
