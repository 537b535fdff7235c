"""The limit: what any method can know of the input, from shapes and a pattern.

That is the rank of the map of the whole network (see `ranks.whole_map`), at random residues in the place of weights,
output gradients and whatever else is generic. Above a layer whose output is determined nothing more can be learnt: its
output gradient is a constant, and its output holds all that the layers above see. So the map ends there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.modular import PRIME
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.ranks.modular_activations import slope
from constraint_algebra.ranks.whole_map import RESIDUES, WholeMap
from constraint_algebra.theory.activity import Activity, active_masks, pattern_of, settled, sides, two_sided
from constraint_algebra.theory.composed import LIMIT, Composed, composed_rank
from constraint_algebra.theory.curved import LIMIT as CURVED_LIMIT
from constraint_algebra.theory.curved import curved_error, curved_rank
from constraint_algebra.theory.graph_feasibility import graph_whole_map
from constraint_algebra.theory.propagation import at_start, start_layer


@checked
def generic_whole_map(network: Network, *, activity: Activity = 1.0, seed: int = 0) -> WholeMap:
    """Return the rank of the map of a whole network for almost all parameters and inputs with a pattern.

    Args:
        network: the layers.
        activity: which outputs of activations are active, as for `feasibility`.
        seed: of a fraction and of the random residues.

    Raises:
        MissingBiasError: the network is a chain, and no layer gives its output gradient away.
        ShapeError: the map is too large to eliminate.
    """
    activity = settled(network, activity)
    if network.is_chain:
        start = start_layer(network)
        known = at_start(network, start, active_masks(network, activity, seed=seed))
        found = limit(network, activity, start, known, seed=seed)
    else:
        found = graph_whole_map(network, activity, seed)
    if found is None:
        raise ShapeError(
            f"the map of this network, {math.prod(network.input_shape):,} input values, is too large to eliminate: the"
            f" first layer's gradient equations may leave at most {LIMIT:,} open (in a graph the input may have so many"
            f" values), and the input may have at most {CURVED_LIMIT:,} values where activations bend; take a smaller"
            " input, or feasibility(network), which gives bounds"
        )
    return found


def limit(
    network: Network, activity: Activity, top: PlacedLayer, known: Knowledge, *, seed: int = 0
) -> WholeMap | None:
    """Return the rank of the map up to a layer above which everything is determined; `None` where it is too large.

    Args:
        network: the layers.
        activity: which outputs of activations are active.
        top: the lowest layer above which every input is determined, or where the recursion starts.
        known: what is known at its outputs.
        seed: of the random residues.
    """
    above = active_masks(network, activity, seed=seed) | sides(network, activity, seed=seed)
    inside = [layer for layer in network.layers[: top.index] if layer.is_activation]
    linear = all(is_piecewise_linear(layer.activation) for layer in inside)
    if _is_composed(network, network.layers[: top.index]):
        first = network.bilinear[0]
        slopes = {layer.name: _slopes(layer, above.get(layer.name)) for layer in inside}
        found = composed_rank(network.layers[first.index : top.index + 1], known, slopes, seed)
    else:
        found = curved_rank(network.layers[: top.index + 1], known, above, seed)
    return None if found is None else _as_map(network, found, linear, pattern_below(network, activity, top, seed))


def limit_error(network: Network, start: PlacedLayer) -> float:
    """Return an upper bound of the probability that the rank of a limit is too small, without computing it."""
    layers, unknowns = network.layers[: start.index + 1], math.prod(network.input_shape)
    if _is_composed(network, layers):
        return min(1.0, sum(layer.is_bilinear for layer in layers) * unknowns / (PRIME - 1))
    return curved_error(layers, unknowns)


def _is_composed(network: Network, layers: Sequence[PlacedLayer]) -> bool:
    """Return whether all activations among the first layers are linear in pieces, and none precedes all weights."""
    first = network.bilinear[0]
    inside = [layer for layer in layers if layer.is_activation]
    return all(is_piecewise_linear(layer.activation) and layer.index > first.index for layer in inside)


def _slopes(layer: PlacedLayer, above: BoolArray | None) -> FloatArray:
    activation: Activation = layer.activation
    return slope(activation, np.ones(layer.output_shape, dtype=bool) if above is None else above)


def _as_map(network: Network, found: Composed, linear: bool, pattern: str) -> WholeMap:
    return WholeMap(
        determined=found.determined.reshape(network.input_shape),
        rank=found.rank,
        linear=linear,
        arithmetic=RESIDUES,
        layers=found.rows,
        pattern=pattern,
        error=found.error,
    )


def pattern_below(network: Network, activity: Activity, top: PlacedLayer, seed: int) -> str:
    """Return which sides the activations below a layer work on, as a clause; empty where none has a kink."""
    given = activity if isinstance(activity, Mapping) else {}
    clauses = [pattern_of(network, activity, active_masks(network, activity, seed=seed))]
    bent = [layer for layer in two_sided(network) if layer.index < top.index]
    for words, layers in (
        ("on the sides given", [layer for layer in bent if layer.name in given]),
        ("on either side of zero at random", [layer for layer in bent if layer.name not in given]),
    ):
        if layers:
            clauses.append(f"with outputs of {' and '.join(dict.fromkeys(layer.kind for layer in layers))} {words}")
    return " and ".join(filter(None, clauses))
