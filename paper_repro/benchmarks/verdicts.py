"""The exact answer to "which input values are determined", with the true activation masks, for judging the solver."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.arrays import BoolArray, Parameters
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.generic import generic_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.theory import propagation
from constraint_algebra.theory.activity import activity_of


def determined(
    network: Network, parameters: Parameters, x: NDArray[np.float64], *, limit: int = 3000
) -> BoolArray | None:
    """Return which input values the gradient of one step at x determines, for almost all weights with these masks.

    Layer by layer from the head, by elimination modulo a prime: no rounding, no tolerance. For networks with an
    activation between any two layers with a weight, where that is exact.

    Args:
        network: the layers.
        parameters: weights and biases, float64.
        x: the true input.
        limit: most unknowns of an elimination; some seconds.

    Returns:
        A mask in the input shape, `None` where a layer exceeds the limit.
    """
    active = activity_of(network, parameters, x)
    layer = propagation.start_layer(network)
    known = propagation.at_start(network, layer, active)
    below = [lower for lower in reversed(network.bilinear) if lower.index < layer.index]
    for lower in [*below, None]:
        found = _layer_determined(layer, *(_packed(mask) for mask in vars(known).values()), limit)
        if found is None:
            return None
        if lower is None:
            return found
        known = propagation.below(network, layer, lower, known, found, active)
        layer = lower
    raise AssertionError("the loop ends at the first layer")


@lru_cache(maxsize=64)
def _layer_determined(
    layer: PlacedLayer, output: bytes, gradient: bytes, support: bytes, limit: int
) -> BoolArray | None:
    """Return the answer for one layer; runs often share their masks, as those of activations that hide nothing."""
    size = int(np.prod(layer.output_shape))
    masks = (
        np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(bool).reshape(layer.output_shape)
        for packed in (output, gradient, support)
    )
    return generic_rank(layer, knowledge=Knowledge(*masks), limit=limit).determined


def _packed(mask: BoolArray) -> bytes:
    return np.packbits(mask).tobytes()
