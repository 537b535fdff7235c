"""What the theory of a graph takes, in time and memory, from shapes alone: before anything is allocated."""

from __future__ import annotations

import math
from typing import NamedTuple

from constraint_algebra import memory
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.theory.graph_spaces import EFFORT, OPEN, PIXELS

# Measured with one thread on networks of the zoo; products are of one residue with another.
PRODUCTS = 2.0e9  # a second, of a layer with one vector
ELIMINATED = 6.0e9  # a second, in elimination
NEARBY = 1.5e9  # a second, of the cube of a number of unknowns, with the rows of normalisations
ENTRIES = 1.0e7  # a second, of all values, for the flow of knowledge
HELD = 14.0  # bytes of an entry: two residues in float32, four masks, and what a step works with
MATRIX = 24.0  # bytes of an entry of an operation with a matrix
SECONDS = 90.0
BYTES = 2.0**31


class GraphCost(NamedTuple):
    """An estimate.

    Attributes:
        seconds: with one thread, of the recursion.
        size: bytes of memory.
    """

    seconds: float
    size: float

    @property
    def beyond(self) -> str:
        """What is too much, as a clause; empty where nothing is.

        >>> GraphCost(1.0, 2.0**33).beyond
        'the masks and residues of all values would take 8.0 GiB'
        """
        if self.size > min(BYTES, memory.limit()):
            return f"the masks and residues of all values would take {memory.size_text(self.size)}"
        if self.seconds > SECONDS:
            return f"the values and gradients of one random network would take about {self.seconds:,.0f} seconds"
        return ""


def graph_cost(network: Network) -> GraphCost:
    """Return what the recursion on a graph takes, with the eliminations that are small enough to be tried.

    >>> from constraint_algebra.layers import Conv2d, Flatten, Linear, MaxPool2d
    >>> net = Network((3, 64, 64), [Conv2d(8, 3), MaxPool2d(2), Flatten(), Linear(10)])
    >>> cost = graph_cost(net)
    >>> cost.seconds < 5, cost.size < 2**28
    (True, True)
    """
    entries = math.prod(network.input_shape) + sum(math.prod(layer.output_shape) for layer in network.layers)
    matrices = sum(_matrix(layer) for layer in network.layers)
    products = 2 * sum(_products(layer) for layer in network.bilinear)
    read = {layer.inputs[0]: layer for layer in network.bilinear}
    eliminated = sum(_elimination(network, number) for number in read)
    widest = max((math.prod(x.outputs) * math.prod(x.taps) for x in network.bilinear), default=0)
    weights = max((math.prod(x.weight_shape) for x in network.bilinear), default=0)
    size = HELD * entries + MATRIX * matrices + 4.0 * weights + 8.0 * (2**24 + 64 * widest)
    return GraphCost(products / PRODUCTS + eliminated / ELIMINATED + 4 * entries / ENTRIES, size)


def nearby_seconds(network: Network) -> float:
    """Return about how long solutions in a neighbourhood take, of the values below normalisations by own statistics.

    >>> from constraint_algebra.layers import Conv2d, Flatten, GroupNorm, Linear
    >>> net = Network((1, 9, 9), [Conv2d(8, 3), GroupNorm(2), Conv2d(8, 3), GroupNorm(2), Flatten(), Linear(9)])
    >>> 0 < nearby_seconds(net) < 1
    True
    """
    below = {layer.inputs[0] for layer in network if layer.is_normalisation}
    read = {network.layers[n - 1].inputs[0] for n in below if n and network.layers[n - 1].is_bilinear}
    sizes = [math.prod(network.shape_of(number)) for number in read]
    return sum(float(n) ** 3 for n in sizes if n <= OPEN) / NEARBY


def _products(layer: PlacedLayer) -> float:
    return float(math.prod(layer.output_shape)) * math.prod(layer.taps) * (layer.channels // layer.groups)


def _matrix(layer: PlacedLayer) -> int:
    """Return how many coefficients an operation has that is no diagonal."""
    if layer.is_bilinear or layer.is_activation or layer.is_reshape:
        return 0
    reads = sum(math.prod(shape) for shape in layer.input_shapes)
    return max(reads, math.prod(layer.output_shape)) if layer.is_selection or layer.is_affine else 0


def _elimination(network: Network, number: int) -> float:
    """Return the products that the equations of a value may take: none where they are too many to be tried."""
    readers = [layer for layer in network.users(number) if layer.is_bilinear and layer.groups < layer.channels]
    if not readers:
        return 0.0
    channels, pixels = readers[0].channels, math.prod(readers[0].positions)
    rows = sum(layer.filters // layer.groups * math.prod(layer.taps) for layer in readers)
    first = max(layer.groups for layer in readers) * float(min(rows, 2 * pixels)) * pixels**2
    if pixels > PIXELS or first > EFFORT:
        return 0.0
    opens = channels * max(0, pixels - rows)
    return first + (float(opens) ** 3 if opens <= OPEN else 0.0)
