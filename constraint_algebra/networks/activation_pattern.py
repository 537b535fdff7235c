"""On which side of its cut-offs every output of a layer lies, at a given input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import LayerProblem, NonFiniteError, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.activations import PReLU, formulas
from constraint_algebra.layers.formula import Formulas
from constraint_algebra.layers.kinds import Flatten, PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.walk import Rules, down

CutOffs = tuple[FloatArray, FloatArray]  # side and edge of each output: `side * (z - edge) <= 0`, no cut-off at side 0


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


def demand_slopes(network: Network, values: Sequence[FloatArray]) -> None:
    """Refuse an input at which the slope of an activation does not follow from its output, as on Softplus' jump.

    Args:
        network: the network.
        values: what `Network.forward` returned.

    Raises:
        NonFiniteError: with the layer's name and the index of the output.
    """
    for layer in network:
        if layer.is_activation and not isinstance(layer.layer, PReLU):  # the side of PReLU follows from its input
            slope = formulas(layer.activation).derivative_at(values[layer.inputs[0]], values[layer.number])
            if not np.isfinite(slope).all():
                index = tuple(int(i) for i in np.argwhere(~np.isfinite(slope))[0])
                raise NonFiniteError(
                    layer.name,
                    index,
                    f"input: the output of layer {layer.name!r} ({layer.kind}) at {index} does not determine the slope"
                    " there, as on the jump of Softplus at its threshold or beyond the range of numbers; take another"
                    " input or smaller weights",
                )


def activation_pattern(
    network: Network, values: list[FloatArray], layer: PlacedLayer
) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Return which outputs of a layer pass, and for those cut off the side and the edge: `side * (z - edge) <= 0`.

    An activation that is one-to-one passes everything. Where several follow each other, the edge of a later one is
    carried back through the earlier ones.
    """

    def activation(later: PlacedLayer, above: CutOffs) -> CutOffs:
        f, z = formulas(later.activation), values[later.index]
        side, edge = np.zeros(z.shape), np.zeros(z.shape)
        for sign, level in zip((1.0, -1.0), f.plateaus, strict=False):
            on = sign * (z - level) <= 0
            side, edge = np.where(on, sign, side), np.where(on, level, edge)
        return nearest((side, edge), f, above)

    layers = network.after(layer)
    none = np.zeros(layers[-1].output_shape if layers else layer.output_shape)
    side, edge = down(layers, (none, none), Rules(activation, reshaped))
    return side == 0, side, np.where(side != 0, edge, 0.0)


def nearest(own: CutOffs, f: Formulas, above: CutOffs) -> CutOffs:
    """Return an activation's own cut-offs and, for outputs without one, those of later ones, their edges carried down.

    Where no z has the edge as its output, a later cut-off is never or always reached, and tells nothing.
    """
    side, edge = above
    edge = np.where(side != 0, f.inverse(edge), edge)
    side = np.where(np.isfinite(edge), side, 0.0)
    return np.where(own[0] != 0, own[0], side), np.where(own[0] != 0, own[1], edge)


def reshaped(layer: PlacedLayer, cut_offs: CutOffs) -> CutOffs:
    """Return cut-offs below a layer that only arranges its values."""
    side, edge = cut_offs
    return side.reshape(layer.input_shape), edge.reshape(layer.input_shape)
