"""What keeps the first layers of a network as they are: their gradients, and all that anything above them reads.

The lowest layers are those below the second convolution or linear layer on every path, with the activations, pools and
batch norms between. Inputs that keep what leaves them, and the rows of their own gradients, have the same gradients
everywhere, whatever follows. This is a part of the set that the whole map has, by sparse rows alone, so that it is
there for inputs and networks whose whole map is too large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.activations import PReLU
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.operations import Pattern, pattern
from constraint_algebra.regions.climb import live_entries, pull
from constraint_algebra.regions.inequalities import Inequalities, bends_itself, refuse_bent_below
from constraint_algebra.regions.needs import Region
from constraint_algebra.regions.sparse_kernel import SparseKernel
from constraint_algebra.regions.sparse_rows import sparse_rise
from constraint_algebra.solvers.gradient_rows import GradientRows

WORK = 1e12  # multiplications beyond which a whole map takes more than minutes


class Lowest(NamedTuple):
    """The lowest layers of a network, in order, and the numbers of their values that are read above."""

    layers: list[PlacedLayer]
    read: list[int]


def lowest_layers(network: Network) -> Lowest:
    """Return the layers below the second convolution or linear layer, any activation that bends, any own statistics.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear, MaxPool1d, ReLU
    >>> net = Network((1, 8), [Conv1d(2, 3), ReLU(), MaxPool1d(2), Conv1d(2, 2), Flatten(), Linear(3)])
    >>> found = lowest_layers(net)
    >>> [layer.kind for layer in found.layers], found.read
    (['Conv1d', 'ReLU', 'MaxPool1d'], [3])
    """
    weighted, layers = {0: False}, list[PlacedLayer]()
    for layer in network.layers:
        heavy = layer.is_bilinear and not isinstance(layer.layer, ChannelScale)
        below = all(number in weighted for number in layer.inputs)
        if not below or (heavy and weighted[layer.inputs[0]]):
            continue
        if bends_itself(layer):
            continue
        layers.append(layer)
        weighted[layer.number] = heavy or any(weighted[number] for number in layer.inputs)
    inside = {layer.index for layer in layers}
    above = [layer for layer in network.layers if layer.index not in inside]
    read = {number for layer in above for number in layer.inputs if number in weighted}
    last = len(network.layers)
    return Lowest(layers, sorted(read | ({last} if last in weighted else set())))


def whole_size(network: Network) -> tuple[float, float]:
    """Return about how many multiplications, and how many bytes, the rows of the whole map take at most."""
    n = math.prod(network.input_shape)
    once = sum(math.prod(x.weight_shape) * math.prod(x.outputs) for x in network.bilinear)
    return 2.0 * n * once + 4.0 * n**3, 8.0 * n * (3 * n + 2 * live_entries(network))


class FirstEquations(SparseKernel):
    """The rows that keep the first layers as they are, and their kernel.

    Args:
        network: the network.
        parameters: parameters and buffers by name.
        values: what `Network.forward` returned.
        output_gradients: k at the network's output, `(number, *output_shape)`.
        rtol, tolerance: as for `SparseKernel`.

    Attributes:
        network: the network.
        lowest: its lowest layers.
        region: what their pattern needs.
        kept: names of the values that are kept, in words.

    Raises:
        ShapeError: the network has no layer with a weight.
        UnsupportedLayerError: what that reads bends with the input.
        MemoryLimitError: the rows are too many.
    """

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        output_gradients: FloatArray,
        *,
        rtol: float,
        tolerance: float,
    ) -> None:
        """Collect the rows."""
        if not network.bilinear:
            raise ShapeError("the network has no layer with a weight, and so no gradient")
        self.network, self.lowest = network, lowest_layers(network)
        refuse_bent_below(network, network.bilinear[0])
        self.kept = " and ".join(network.value_name(number) for number in self.lowest.read)
        at = pattern(network.layers, parameters, values)
        self.region = Region(self.lowest.layers, parameters, values, at, self.lowest.read, constant=True)
        n = math.prod(network.input_shape)
        self.maps = sparse_rise(self.lowest.layers, parameters, at, n)
        parts = [self.maps[number] for number in self.lowest.read]
        parts += self._gradient_rows(parameters, values, at, output_gradients)
        super().__init__(
            sp.csr_array(sp.vstack(parts, format="csr")), network.input_shape, rtol=rtol, tolerance=tolerance
        )

    def _gradient_rows(
        self,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        at: Pattern,
        output_gradients: FloatArray,
    ) -> list[sp.csr_array]:
        """Return the rows of the gradients of the lowest layers."""
        network = self.network
        trained = [layer for layer in self.lowest.layers if layer.has_parameters]
        last = np.moveaxis(output_gradients.reshape(-1, *network.output_shape), 0, -1)
        found = pull(network.layers, parameters, at, last, {layer.number for layer in trained})
        rows = []
        for layer in trained:
            k = found.get(layer.number)
            if k is None or not k.any():
                continue
            if isinstance(layer.layer, PReLU):
                on = (values[layer.inputs[0]] <= 0)[..., None] * k
                by_slope = on.reshape(layer.layer.parameters, -1, on.shape[-1])
                blocks = [sp.block_diag([*by_slope[..., j][:, None]], format="csr") for j in range(on.shape[-1])]
                own = sp.csr_array(sp.vstack(blocks, format="csr"))
            else:
                own = GradientRows(layer, np.moveaxis(k, -1, 0)).matrix
            rows.append(sp.csr_array(own @ self.maps[layer.inputs[0]]))
        return rows

    def limits(self, bounds: tuple[FloatArray, FloatArray]) -> Inequalities:
        """Return what keeps the pattern of the lowest layers, for differences within bounds; nothing is reduced."""
        n = math.prod(self.shape)
        parts, slack = [sp.csr_array((0, n))], [np.zeros(0)]
        lower, upper = bounds
        for held in self.region.held:
            rows = sp.csr_array(held.rows @ self.maps[held.number])
            norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1), dtype=float))
            farthest = rows.maximum(0) @ upper + rows.minimum(0) @ lower
            some = (norms > 0) & (farthest >= (1 - 1e-9) * held.slack)
            parts.append(sp.csr_array(sp.diags_array(1 / norms[some]) @ rows[some]))
            slack.append(held.slack[some] / norms[some])
        return Inequalities(sp.csr_array(sp.vstack(parts, format="csr")), np.concatenate(slack), np.zeros((0, 0)))
