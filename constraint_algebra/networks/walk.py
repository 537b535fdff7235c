"""How a value goes through the layers of a network: the one statement of which rule applies at which kind of layer.

Values go up, from the input to the output; gradients, and all that is known of either, come down. Whatever they are
(numbers, several at once, estimates with their noise, masks of what is known, fractions), they meet the same kinds of
layers in the same order. A pass states what it does at each kind; a new kind of operation becomes a new rule here, and
every pass that lacks it is found by the type checker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from constraint_algebra.layers.kinds import PlacedLayer

V = TypeVar("V")


def _none(layer: PlacedLayer, _: V) -> V:
    raise AssertionError(f"this pass ends before layers with a weight, and met {layer.name!r}")


@dataclass(frozen=True)
class Rules(Generic[V]):
    """What a pass does at each kind of layer: it takes the layer and what arrives there, and returns what leaves it.

    Attributes:
        activation: at a pointwise function.
        reshape: at a layer that only arranges its values in another shape.
        bilinear: at a layer with a weight; a pass between two of them needs no such rule.
    """

    activation: Callable[[PlacedLayer, V], V]
    reshape: Callable[[PlacedLayer, V], V]
    bilinear: Callable[[PlacedLayer, V], V] = _none

    def at(self, layer: PlacedLayer, value: V) -> V:
        """Return what leaves one layer."""
        if layer.is_bilinear:
            return self.bilinear(layer, value)
        if layer.is_activation:
            return self.activation(layer, value)
        return self.reshape(layer, value)


def up(layers: Sequence[PlacedLayer], value: V, rules: Rules[V]) -> list[V]:
    """Return the value that enters the first layer, and those that leave each of them, `len(layers) + 1` values.

    >>> from constraint_algebra.layers import Flatten, ReLU
    >>> from constraint_algebra.networks.network import Network
    >>> net = Network((2, 2), [ReLU(), Flatten()])
    >>> shapes = Rules(activation=lambda layer, shape: shape, reshape=lambda layer, shape: layer.output_shape)
    >>> up(net.layers, net.input_shape, shapes)
    [(2, 2), (2, 2), (4,)]
    """
    values = [value]
    for layer in layers:
        values.append(rules.at(layer, values[-1]))
    return values


def down(layers: Sequence[PlacedLayer], value: V, rules: Rules[V]) -> V:
    """Return what becomes, at the input of the first layer, of a value at the output of the last."""
    return down_through(layers, value, rules)[0]


def down_through(layers: Sequence[PlacedLayer], value: V, rules: Rules[V]) -> list[V]:
    """Return what arrives at the input of each layer, and last the value that came in at the top: the order of `up`."""
    values = [value]
    for layer in reversed(layers):
        values.append(rules.at(layer, values[-1]))
    return values[::-1]
