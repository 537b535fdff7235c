"""Inputs with other winners: the lowest max-pool gives out the same, and another entry of some windows is the largest.

Where the pooled values leave the input room (`recursion.pooled_values`), programmes that push towards winners drawn at
random end at other inputs with the same pooled values, so that everything above is the same as well. Whether the
gradient of the layer below agrees too, only recomputed gradients say: most of these inputs are no twins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.pooled import pooled
from constraint_algebra.recursion.pooled_values import PooledValues

TRIES = 6
LEAST = 1e-6  # of the range: a smaller change is none
LARGEST = 2**21  # coefficients of all rows


def inputs_with_other_winners(
    network: Network,
    parameters: Parameters,
    x: FloatArray,
    valid_range: tuple[float, float],
    *,
    seed: int,
    deadline: float,
) -> Iterator[tuple[FloatArray, str]]:
    """Yield inputs with the same pooled values as x and other winners, each with the name of the selection.

    Args:
        network: the network.
        parameters: its parameters, in the library's shapes.
        x: the input.
        valid_range: smallest and largest valid value.
        seed: of the winners drawn.
        deadline: `time.monotonic()` at which to stop.
    """
    rng = np.random.default_rng(seed)
    values = None
    for selection in network:
        if selection.is_selection:
            values = _values(network, parameters, x, selection, Beyond(Ground.RANGE, valid_range, deadline, seed))
            if values is not None:
                break
    if values is None:
        return
    least = LEAST * (valid_range[1] - valid_range[0])
    own = values.winners(x.ravel(), np.zeros(x.size))
    for _ in range(TRIES):
        found = values.point(rng, deadline, anew=True)
        if found is None:
            continue
        away = np.abs(found - x.ravel()).max() > least
        if away and (values.winners(found, np.zeros(x.size)) != own).any():
            yield found.reshape(x.shape), values.view.selection.name


def _values(
    network: Network, parameters: Parameters, x: FloatArray, selection: PlacedLayer, beyond: Beyond
) -> PooledValues | None:
    """Return the windows of a selection over the outputs of a layer that reads the input; `None` for any other."""
    rounding = precision({"none": np.zeros(1)})
    nothing = {name: np.zeros_like(values) for name, values in parameters.items()}
    observed = Observation(
        network, parameters, nothing, deviations_of(nothing, rounding, 0.0), rounding, Ensemble(beyond.seed).draw
    )
    knows = GraphKnowledge.nothing(observed)
    number = selection.number
    given = network.forward(parameters, x)
    made = [number, *(user.number for user in network.users(number) if user.is_activation)]
    for value in made:
        shape = given[value].shape
        exact = Estimate(given[value], np.ones(shape, dtype=bool), np.zeros((*shape, MEMBERS)))
        knows.learn_value(value, exact)
    view = pooled(knows, selection)
    if view is None or view.layer.inputs[0] != 0 or len(network.users(0)) > 1:
        return None
    layer = view.layer
    size = math.prod(layer.output_shape) * layer.channels // layer.groups * math.prod(layer.taps)
    return PooledValues.of(knows, view, beyond) if view.live.any() and size <= LARGEST else None
