"""What the values of a network may be, from the activation that made them: their range, and the plateaus they share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from constraint_algebra.layers.activations import PReLU, formulas
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.networks.network import Network

FAR = 1e30  # an input at which every activation has reached the end of its range
UNBOUNDED = 1e20  # an output beyond which there is none


class Span(NamedTuple):
    """What values may be.

    Attributes:
        low, high: their range, infinite where there is none.
        levels: plateaus that many of them share exactly.
    """

    low: float
    high: float
    levels: tuple[float, ...] = ()


def span_of(activation: Activation) -> Span:
    """Return what an activation's outputs may be.

    >>> from constraint_algebra.layers import PReLU, ReLU6, Tanh
    >>> span_of(ReLU6()), span_of(Tanh())
    (Span(low=0.0, high=6.0, levels=(0.0, 6.0)), Span(low=-1.0, high=1.0, levels=()))
    >>> span_of(PReLU())
    Span(low=-inf, high=inf, levels=())
    """
    if isinstance(activation, PReLU):  # its formulas take its slopes
        return Span(-np.inf, np.inf)
    f = formulas(activation)
    if f.branches is not None:
        return Span(f.branches.lowest, np.inf)
    ends = f.value(np.array([-FAR, FAR]))
    low, high = np.where(np.abs(ends) < UNBOUNDED, ends, np.copysign(np.inf, ends))
    return Span(float(low), float(high), tuple(f.plateaus))


def cuts_off(layer: PlacedLayer) -> bool:
    """Return whether a layer is an activation that shares one output among whole intervals of its input."""
    return layer.is_activation and bool(span_of(layer.activation).levels)


def traced(network: Network, number: int) -> tuple[PlacedLayer | None, list[PlacedLayer]]:
    """Return the layer that first made a value, `None` for the network's input, and what follows it, in order.

    Only max-pools and reshapes follow: what they make is still of the same range, and on the same plateaus.

    >>> from constraint_algebra.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU
    >>> network = Network((1, 8, 8), [Conv2d(2, 3), ReLU(), MaxPool2d(2), Flatten(), Linear(3)])
    >>> first, others = traced(network, 4)
    >>> first.kind, [layer.kind for layer in others], traced(network, 0)
    ('ReLU', ['MaxPool2d', 'Flatten'], (None, []))
    """
    others = list[PlacedLayer]()
    while number:
        maker = network.layers[number - 1]
        if not (maker.is_selection or maker.is_reshape):
            return maker, others[::-1]
        others.append(maker)
        number = maker.inputs[0]
    return None, others[::-1]
