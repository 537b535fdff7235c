"""On which grounds a claim about an input of a graph of values rests, where no order of layers says which decides.

All sides of activations follow from the gradients where each of them is read by a layer whose whole input the
reconstruction determines: what an activation gave out shows its side. Which entry of a window was the largest is not
shown by its value, nor on which of its two branches SiLU and the like work, so that behind these nothing is claimed
beyond the region, but for what the reconstruction determines by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from constraint_algebra.layers.activations import Identity, has_two_branches
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.result import Reconstruction


def pattern_is_open(network: Network, result: Reconstruction | None, failure: str | None) -> str | None:
    """Return why the gradients do not show the pattern of a graph, `None` where they do or there is none.

    Args:
        network: the network.
        result: the reconstruction, `None` where there is none.
        failure: why nothing is taken from it.

    >>> from constraint_algebra.layers import Add, Linear, MaxPool1d, ReLU
    >>> net = Network((1, 4), {"pool": MaxPool1d(2), "relu": ReLU(), "sum": (Add(), "pool", "relu")})
    >>> pattern_is_open(net, None, None)
    "the gradients do not show which entry of each window of 'pool' is the largest"
    """
    sided = [x for x in network.layers if x.is_activation or x.is_selection]
    sources = [x for x in sided if not isinstance(x.layer, Identity)]
    for layer in sources:
        if layer.is_activation and has_two_branches(layer.activation):
            return f"the gradients do not show on which branch each output of {layer.name!r} lies"
        if layer.is_selection:
            return f"the gradients do not show which entry of each window of {layer.name!r} is the largest"
    if sources and (failure is not None or result is None):
        return failure or "there is no reconstruction"
    solved = set() if result is None else {one.name for one in result.layers if one.determined == one.unknowns}
    for layer in sources:
        if not any(reader.name in solved for reader in _readers(network, layer)):
            return f"the layers that read {layer.name!r} are not determined, so that not all of its sides are shown"
    return None


def _readers(network: Network, layer: PlacedLayer) -> Iterator[PlacedLayer]:
    """Yield the layers with a weight that read what a layer makes, as it is or in another shape."""
    for user in network.users(layer.number):
        if user.is_bilinear:
            yield user
        elif user.is_reshape:
            yield from _readers(network, user)
