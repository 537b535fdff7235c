"""On which side of its cut-offs every output of a layer lies, at a given input."""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import Activation, Flatten, PlacedLayer
from constraint_algebra.networks.network import Network


def first_layer(network: Network) -> PlacedLayer:
    """Return the first layer with a weight.

    Raises:
        ShapeError: there is none.
        UnsupportedLayerError: something other than a reshape precedes it.
    """
    if not network.bilinear:
        raise ShapeError("the network has no layer with a weight, and so no gradient")
    layer = network.bilinear[0]
    before = [other for other in network.layers[: layer.index] if not isinstance(other.layer, Flatten)]
    if before:
        reason = f"{before[0].kind} before the first layer with a weight bends the set of inputs"
        advice = "certify the network from that layer on, for its output as input"
        raise UnsupportedLayerError([LayerProblem(before[0].name, reason, advice)])
    return layer


def activation_pattern(
    network: Network, values: list[FloatArray], layer: PlacedLayer
) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Return which outputs of a layer pass, and for those cut off the side and the edge: `side * (z - edge) <= 0`.

    An activation that is one-to-one passes everything. Where several follow each other, the edge of a later one is
    carried back through the earlier ones.
    """
    passing = np.ones(layer.output_shape, dtype=bool)
    side, edge = np.zeros(layer.output_shape), np.zeros(layer.output_shape)
    earlier: list[Activation] = []
    for later in network.layers[layer.index + 1 :]:
        if later.is_bilinear:
            break
        if not isinstance(later.layer, Activation):
            continue
        z = values[later.index].reshape(layer.output_shape)
        for number, level in enumerate(formulas(later.layer).plateaus):
            sign = 1.0 if number == 0 else -1.0
            limit = np.array(level)
            for before in reversed(earlier):
                limit = formulas(before).inverse(limit)
            cut = passing & (sign * (z - level) <= 0) & np.isfinite(limit)
            passing, side, edge = passing & ~cut, np.where(cut, sign, side), np.where(cut, limit, edge)
        earlier.append(later.layer)
    return passing, side, edge
