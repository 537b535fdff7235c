"""What is known at the outputs of a layer, and what follows for the layer below once its input is known in part.

The twin, from shapes alone, of what `backsubstitution` does with numbers: it starts at the same layer and applies the
same rules, one mask for each. k[j] is known where the gradient that arrives at j is known and so is x[j]; where that
gradient is zero, whatever x[j] is: where no output that j meets has a k other than zero; and where x[j] is known to be
cut off, whatever arrives. A gradient row counts where all its k are known and one of them is not zero, a weight row
where its z is known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.errors import MissingBiasError
from constraint_algebra.layers.activations import Identity, formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.trilinear import touched
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.walk import Rules, down
from constraint_algebra.ranks.knowledge import Knowledge


def start_layer(network: Network) -> PlacedLayer:
    """Return the lowest layer whose output gradient is at hand: one output position and a bias, or the last layer.

    Raises:
        MissingBiasError: there is none.

    >>> from constraint_algebra.layers import Linear, Sigmoid
    >>> start_layer(Network((4,), [Linear(3, bias=False), Sigmoid(), Linear(3), Sigmoid(), Linear(2)])).name
    '2'
    """
    if network.start is not None:
        return network.start
    last = network.bilinear[-1].weight_name if network.bilinear else "weight"
    raise MissingBiasError(
        last,
        "no layer gives its output gradient away: that takes a layer with one output position, with a bias or as the"
        " last layer of the network; let the network end in Flatten() and Linear(...)",
    )


def at_start(network: Network, layer: PlacedLayer, active: Mapping[str, BoolArray]) -> Knowledge:
    """Return what is known at the layer where the recursion starts: all of k, none of z.

    k is zero where the activations above cut off, throughout if one of them cuts off everything.

    Args:
        network: the layer's network.
        layer: the layer.
        active: mask of every activation that cuts off, by name.
    """
    rules = Rules[BoolArray](
        activation=lambda step, support: support & active.get(step.name, np.ones_like(support)),
        reshape=lambda step, support: support.reshape(step.input_shape),
        bilinear=touched,
    )
    full = np.ones(layer.output_shape, dtype=bool)
    support = down(network.layers[layer.index + 1 :], np.ones(network.output_shape, dtype=bool), rules)
    return Knowledge(output=~full, gradient=full, support=support)


def nothing(layer: PlacedLayer) -> Knowledge:
    """Return that nothing is known; k may be anything."""
    none = np.zeros(layer.output_shape, dtype=bool)
    return Knowledge(output=none, gradient=none, support=~none)


def below(
    network: Network,
    layer: PlacedLayer,
    lower: PlacedLayer,
    known: Knowledge,
    determined: BoolArray,
    active: Mapping[str, BoolArray],
) -> Knowledge:
    """Return what is known at the outputs of the next layer towards the input.

    Args:
        network: both layers' network.
        layer: the layer just solved.
        lower: the next one below it that has a weight.
        known: what was known at the outputs of `layer`.
        determined: which of its inputs are known now, in its input shape.
        active: mask of every activation that cuts off, by name.
    """

    def activation(step: PlacedLayer, above: Knowledge) -> Knowledge:
        output, support = above.output, above.support
        if isinstance(step.activation, Identity):
            return above
        gradient = np.logical_and(above.gradient, output | ~support)
        if not formulas(step.activation).plateaus:
            return Knowledge(output, gradient, support)
        on = active[step.name]
        return Knowledge(output & on, gradient | (output & ~on), support & on)

    def reshape(step: PlacedLayer, above: Knowledge) -> Knowledge:
        return Knowledge(*(m.reshape(step.input_shape) for m in (above.output, above.gradient, above.support)))

    arriving = Knowledge(determined, ~touched(layer, ~known.gradient), touched(layer, known.support))
    return down(network.between(lower, layer), arriving, Rules(activation, reshape))
