"""Random output gradients and inputs of one layer of a network, with the zeros that the activations around it make.

Above the layer, an activation that cuts off lets no gradient through where it is inactive, and a max-pool only where an
entry wins. Below it, an inactive ReLU makes an exact zero, and a max-pool one where its whole window is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks import operations
from constraint_algebra.networks.network import Network
from constraint_algebra.theory.activity import Activity, cuts_off
from constraint_algebra.theory.simulated_layer import Span

Masks = Callable[[PlacedLayer], BoolArray]  # which outputs of an activation that cuts off are active
Pattern = Callable[[np.random.Generator], Masks]  # that of one trial


def masks_of(activity: Activity) -> Pattern:
    """Return what draws the masks of a fraction, anew for each trial, or gives those of a settled activity."""
    return partial(_random, float(activity)) if isinstance(activity, int | float) else partial(_given, activity)


def _random(share: float, rng: np.random.Generator) -> Masks:
    return lambda step: rng.random(step.output_shape) < share


def _given(activity: Activity, _: np.random.Generator) -> Masks:
    assert isinstance(activity, Mapping)  # a settled one is
    return lambda step: np.asarray(activity[step.name])


def output_gradient(network: Network, layer: PlacedLayer, masks: Masks, rng: np.random.Generator) -> FloatArray:
    """Return a random gradient at a layer's output: zero where what stands above it lets nothing through.

    Args:
        network: the layer's network.
        layer: the layer.
        masks: gives the mask of an activation that cuts off.
        rng: draws.
    """
    values, ways_down = rng.standard_normal(layer.output_shape), list[Callable[[FloatArray], FloatArray]]()
    for step in _above(network, layer):
        if step.is_selection:
            ways_down.append(partial(_to_winners, step, operations.winners(step, values)))
            values = operations.value(step, {}, [values])
        elif step.is_reshape:
            ways_down.append(partial(_reshaped, step))
            values = values.reshape(step.output_shape)
        elif cuts_off(step):
            mask = masks(step)
            ways_down.append(partial(np.multiply, mask))
            values = _drawn(step, mask, rng)
    k = rng.standard_normal(values.shape)
    for down in reversed(ways_down):
        k = down(k)
    return k


def layer_input(network: Network, layer: PlacedLayer, masks: Masks, rng: np.random.Generator) -> FloatArray:
    """Return a random input of a layer that `span_below` has something to say of; arguments as `output_gradient`."""
    activation, *others = _below(network, layer)
    values = _drawn(activation, masks(activation), rng)
    for step in others:
        values = operations.value(step, {}, [values])
    return values


def span_below(network: Network, layer: PlacedLayer) -> Span | None:
    """Return what a layer's input may be, where an activation with plateaus makes it; `None` elsewhere.

    >>> from constraint_algebra.layers import Conv2d, LeakyReLU, MaxPool2d, ReLU6
    >>> net = Network((1, 8, 8), [Conv2d(2, 3), ReLU6(), MaxPool2d(2), Conv2d(2, 2), LeakyReLU(), Conv2d(2, 2)])
    >>> span_below(net, net[3])
    Span(levels=(0.0, 6.0), low=0.0, high=6.0)
    >>> span_below(net, net[5]) is span_below(net, net[0]) is None
    True
    """
    below = _below(network, layer)
    if not below:
        return None
    low, high = _range(below[0])
    return Span(formulas(below[0].activation).plateaus, low, high)


def _above(network: Network, layer: PlacedLayer) -> Iterator[PlacedLayer]:
    """Yield the activations, reshapes and max-pools that follow a layer, up to where several layers read a value."""
    number = layer.number
    while len(users := network.users(number)) == 1 and (users[0].is_source or users[0].is_reshape):
        yield users[0]
        number = users[0].number


def _below(network: Network, layer: PlacedLayer) -> list[PlacedLayer]:
    """Return the activation that cuts off a layer's input and what follows it; nothing where there is none."""
    found, number = list[PlacedLayer](), layer.inputs[0]
    while number:
        maker = network.layers[number - 1]
        found.append(maker)
        if maker.is_activation and cuts_off(maker):
            return found[::-1]
        if not (maker.is_selection or maker.is_reshape):
            return []
        number = maker.inputs[0]
    return []


def _range(activation: PlacedLayer) -> tuple[float, float]:
    """Return smallest and largest output of an activation that cuts off."""
    low, high = formulas(activation.activation).value(np.array([-np.inf, np.inf]))
    return float(low), float(high)


def _drawn(activation: PlacedLayer, active: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Return random outputs of an activation that cuts off: on a plateau, either as likely, where it is inactive."""
    low, high = _range(activation)
    distance = np.abs(rng.standard_normal(active.shape))
    if np.isfinite(high - low):
        between = low + (high - low) * rng.random(active.shape)
    else:
        between = low + distance if np.isfinite(low) else high - distance
    plateaus = np.array(formulas(activation.activation).plateaus)
    return np.where(active, between, plateaus[rng.integers(len(plateaus), size=active.shape)])


def _reshaped(step: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return the gradient of a rearrangement's input."""
    return k.reshape(step.input_shape)


def _to_winners(step: PlacedLayer, won: IntArray, k: FloatArray) -> FloatArray:
    """Return the gradient of a selection's input: that of each output goes to the entry that it took."""
    arriving = np.zeros(step.input_shape)
    np.add.at(arriving.reshape(-1), won.ravel(), k.ravel())
    return arriving
