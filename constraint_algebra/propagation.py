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
from numpy.typing import NDArray

from constraint_algebra.activations import formulas
from constraint_algebra.errors import MissingBiasError
from constraint_algebra.generic import Knowledge
from constraint_algebra.incidence import incidence
from constraint_algebra.layers import Activation, PlacedLayer
from constraint_algebra.network import Network

BoolArray = NDArray[np.bool_]


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


def at_start(layer: PlacedLayer) -> Knowledge:
    """Return what is known at the layer where the recursion starts: all of k, none of z."""
    full = np.ones(layer.output_shape, dtype=bool)
    return Knowledge(output=~full, gradient=full, support=full)


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
    gradient, support = ~touched(layer, ~known.gradient), touched(layer, known.support)
    output: BoolArray = determined
    for step in reversed(network.between(lower, layer)):
        if isinstance(step.layer, Activation):
            gradient = np.logical_and(gradient, output | ~support)
            if formulas(step.layer).plateaus:
                gradient = gradient | (output & ~active[step.name])
                support, output = support & active[step.name], output & active[step.name]
        gradient, support, output = (m.reshape(step.input_shape) for m in (gradient, support, output))
    return Knowledge(output=output, gradient=gradient, support=support)


def touched(layer: PlacedLayer, outputs: BoolArray) -> BoolArray:
    """Return which input values meet one of the outputs, a mask in the output shape; in the input shape."""
    S = incidence(layer)
    some = np.logical_or.reduce(outputs.reshape(layer.groups, -1, S.output_count), axis=1)
    met = np.zeros((layer.groups, S.position_count), dtype=bool)
    for tap in range(S.tap_count):
        run = S.of_tap(tap)
        met[:, S.position[run]] |= some[:, S.output[run]]  # a tap meets no position twice
    channels = layer.channels // layer.groups
    return np.repeat(met, channels, axis=0).reshape(layer.input_shape)


def gradient_rows(layer: PlacedLayer, known: Knowledge) -> BoolArray:
    """Return which gradient rows count, shape `(filters, taps)`; each stands for one row per channel of its group."""
    S = incidence(layer)
    gradient, support = (m.reshape(layer.filters, S.output_count) for m in (known.gradient, known.support))
    rows = np.zeros((layer.filters, S.tap_count), dtype=bool)
    for tap in range(S.tap_count):
        outputs = S.output[S.of_tap(tap)]
        rows[:, tap] = gradient[:, outputs].all(axis=1) & support[:, outputs].any(axis=1)
    return rows
