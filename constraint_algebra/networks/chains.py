"""Networks without shortcuts, pooling and the like, for what has an answer only for those."""

from __future__ import annotations

from constraint_algebra.errors import ShapeError
from constraint_algebra.networks import placing
from constraint_algebra.networks.network import Network

SHOWN = 3  # layers that a message names


def demand_chain(network: Network, what: str, advice: str) -> None:
    """Refuse a network that is no plain chain of convolutions, linear layers, activations and `Flatten`.

    Args:
        network: the network.
        what: what needs a chain, as the subject of a sentence.
        advice: what the caller can do instead.

    Raises:
        ShapeError: the network is no chain; the message names layers that make it so.

    >>> from constraint_algebra.layers import Add, Linear
    >>> net = Network((4,), {"a": Linear(4), "sum": (Add(), "a", "input")})
    >>> demand_chain(net, "minimum_filters", "ask feasibility")
    Traceback (most recent call last):
    constraint_algebra.errors.ShapeError: minimum_filters takes a plain chain of convolutions, linear layers and
    activations, and this network has sum (Add, of a and input); ask feasibility
    """
    if network.is_chain:
        return
    others = [layer for layer in network.layers if not placing.is_link(layer)]
    named = []
    for layer in others[:SHOWN]:
        reads = " and ".join(network.value_name(number) for number in layer.inputs)
        plain = layer.inputs == (layer.index,)
        named.append(f"{layer.name} ({layer.kind}{'' if plain else f', of {reads}'})")
    more = f" and {len(others) - SHOWN:,} more" if len(others) > SHOWN else ""
    raise ShapeError(
        f"{what} takes a plain chain of convolutions, linear layers and activations, and this network has "
        f"{', '.join(named)}{more}; {advice}"
    )
