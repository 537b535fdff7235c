"""Random output gradients and inputs of one layer of a network, with the zeros that the activations around it make.

Above the layer, an activation that cuts off lets no gradient through where it is inactive, and a max-pool only where an
entry wins. Below it, an inactive ReLU makes an exact zero, and a max-pool one where its whole window is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.joins import Add, Concatenate
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.normalisation import Standardise
from constraint_algebra.layers.rearranging import Permute
from constraint_algebra.layers.scaling import Diagonal
from constraint_algebra.networks import operations
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.spans import Span, cuts_off, span_of, traced
from constraint_algebra.theory.activity import Activity, is_fraction

TELLING = (Standardise, Diagonal, Permute, Concatenate)  # what is read from them tells what they read
Masks = Callable[[PlacedLayer], BoolArray]  # which outputs of an activation that cuts off are active
Pattern = Callable[[np.random.Generator], Masks]  # that of one trial


def masks_of(activity: Activity) -> Pattern:
    """Return what draws the masks of a fraction, anew for each trial, or gives those of a settled activity."""
    if not is_fraction(activity):
        return partial(_given, activity)
    return partial(_random, float(activity))  # type: ignore[arg-type]


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


def output_is_seen(network: Network, layer: PlacedLayer) -> bool:
    """Return whether a layer's output is known, wherever it lets a gradient through, if all above it is known.

    It is where a layer with equations reads it. A sum does not tell what its terms are.

    >>> from constraint_algebra.layers import Conv2d, Flatten, Linear, ReLU
    >>> layers = {"a": Conv2d(2, 1), "b": ReLU(), "c": Conv2d(2, 1), "sum": (Add(), "c", "b"), "d": Flatten()}
    >>> net = Network((1, 4, 4), {**layers, "e": Linear(3)})
    >>> output_is_seen(net, net.named("a")), output_is_seen(net, net.named("c"))
    (True, False)
    """
    above = list(_above(network, layer))
    if any(isinstance(step.layer, Add) for step in above):
        return False
    return _is_read(network, above[-1].number if above else layer.number)


def _is_read(network: Network, number: int) -> bool:
    """Return whether a layer with equations reads a value, rearranged or scaled at most."""
    return any(
        user.is_bilinear or ((user.is_reshape or isinstance(user.layer, TELLING)) and _is_read(network, user.number))
        for user in network.users(number)
    )


def layer_input(network: Network, layer: PlacedLayer, masks: Masks, rng: np.random.Generator) -> FloatArray:
    """Return a random input of a layer that `span_below` has something to say of; arguments as `output_gradient`."""
    activation, others = traced(network, layer.inputs[0])
    assert activation is not None  # which has a span
    values = _drawn(activation, masks(activation), rng)
    for step in others:
        values = operations.value(step, {}, [values])
    return values


def span_below(network: Network, layer: PlacedLayer) -> Span | None:
    """Return what a layer's input may be, where an activation with plateaus makes it; `None` elsewhere.

    >>> from constraint_algebra.layers import Conv2d, LeakyReLU, MaxPool2d, ReLU6
    >>> net = Network((1, 8, 8), [Conv2d(2, 3), ReLU6(), MaxPool2d(2), Conv2d(2, 2), LeakyReLU(), Conv2d(2, 2)])
    >>> span_below(net, net[3])
    Span(low=0.0, high=6.0, levels=(0.0, 6.0))
    >>> span_below(net, net[5]) is span_below(net, net[0]) is None
    True
    """
    first, _ = traced(network, layer.inputs[0])
    return span_of(first.activation) if first is not None and cuts_off(first) else None


def _above(network: Network, layer: PlacedLayer) -> Iterator[PlacedLayer]:
    """Yield what follows a layer and passes single gradients on, up to where several layers read a value.

    These are activations, reshapes and max-pools, the statistics of a batch norm and sums.
    """
    number = layer.number
    while len(users := network.users(number)) == 1 and _passes(users[0]):
        yield users[0]
        number = users[0].number


def _passes(step: PlacedLayer) -> bool:
    alike = isinstance(step.layer, Standardise | Add) and set(step.input_shapes) == {step.output_shape}
    return step.is_source or step.is_reshape or alike


def _drawn(activation: PlacedLayer, active: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Return random outputs of an activation that cuts off: on a plateau, either as likely, where it is inactive."""
    low, high, levels = span_of(activation.activation)
    distance = np.abs(rng.standard_normal(active.shape))
    if np.isfinite(high - low):
        between = low + (high - low) * rng.random(active.shape)
    else:
        between = low + distance if np.isfinite(low) else high - distance
    plateaus = np.array(levels)
    return np.where(active, between, plateaus[rng.integers(len(plateaus), size=active.shape)])


def _reshaped(step: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return the gradient of a rearrangement's input."""
    return k.reshape(step.input_shape)


def _to_winners(step: PlacedLayer, won: IntArray, k: FloatArray) -> FloatArray:
    """Return the gradient of a selection's input: that of each output goes to the entry that it took."""
    arriving = np.zeros(step.input_shape)
    np.add.at(arriving.reshape(-1), won.ravel(), k.ravel())
    return arriving
