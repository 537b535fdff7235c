"""Which entry of its window each output of a max-pool takes: assumed, or given.

From shapes alone nobody can know it. Where nothing is given, the entries get a random order and the first of each
window wins: each is as likely, and windows that overlap agree. Behind a ReLU an active entry wins where the window has
one, as it must.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray, IntArray
from constraint_algebra.errors import ParameterError
from constraint_algebra.layers.activations import ReLU
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network


def selections(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the layers that take one entry of each window, in order.

    >>> from constraint_algebra.layers import Conv2d, MaxPool2d
    >>> [layer.name for layer in selections(Network((1, 4, 4), [Conv2d(2, 3, padding=1), MaxPool2d(2)]))]
    ['1']
    """
    return tuple(layer for layer in network if layer.is_selection)


def winners(
    network: Network, given: Mapping[str, ArrayLike], active: Mapping[str, BoolArray], *, seed: int = 0
) -> dict[str, IntArray]:
    """Return the flat index of the entry that each output takes, one array by name for every selection.

    Args:
        network: the layers.
        given: winners by name, as `winner_of` takes them; others are drawn.
        active: mask of every activation that cuts off, by name.
        seed: of what is drawn.

    >>> from constraint_algebra.layers import Conv2d, MaxPool2d, ReLU
    >>> net = Network((1, 2, 2), [Conv2d(1, 1), ReLU(), MaxPool2d(2)])
    >>> winners(net, {}, {"1": np.array([[[False, False], [True, False]]])})
    {'2': array([[[2]]])}
    """
    return {
        layer.name: winner_of(layer, given[layer.name])
        if layer.name in given
        else _drawn(layer, _alive(network, layer, active), np.random.default_rng([seed, 2, layer.index]))
        for layer in selections(network)
    }


def winner_of(layer: PlacedLayer, given: ArrayLike) -> IntArray:
    """Return the winners of one layer as checked indices.

    Args:
        layer: the selection.
        given: flat indices into its input, in its output shape; or a boolean mask in its input shape, whose first entry
            in a window wins.

    Raises:
        ParameterError: another shape, or an entry outside its window.
    """
    array, table = np.asarray(given), layer.selection.windows(layer.input_shape)
    if array.dtype == bool and array.shape == layer.input_shape:
        wins = np.append(array.ravel(), False)[table]  # -1, a place that the window lacks, is the last
        if wins.any(axis=1).all():
            return np.take_along_axis(table, wins.argmax(axis=1)[:, None], axis=1).reshape(layer.output_shape)
        what = f"a window without any in the mask (output {int(np.argmin(wins.any(axis=1)))})"
    elif np.issubdtype(array.dtype, np.integer) and array.shape == layer.output_shape:
        inside = (table == array.reshape(-1, 1)).any(axis=1) & (array.ravel() >= 0)
        if inside.all():
            return array.astype(np.intp)
        what = f"an entry outside its window (output {int(np.argmin(inside))})"
    else:
        what = f"{array.dtype} of shape {array.shape}"
    raise ParameterError(
        "activity",
        f"activity: the winners of layer {layer.name!r} ({layer.kind}) must be flat indices into its input, in its"
        f" output shape {layer.output_shape}, or a boolean mask in its input shape {layer.input_shape}; got {what}",
    )


def winners_text(network: Network, given: Mapping[str, ArrayLike]) -> str:
    """Return which winners were assumed, as a clause; nothing where nothing is selected.

    >>> from constraint_algebra.layers import MaxPool2d
    >>> winners_text(Network((1, 4, 4), [MaxPool2d(2)]), {})
    'with winners of MaxPool2d drawn uniformly at random'
    """
    layers, clauses = selections(network), []
    for words, some in (
        ("as given", [layer for layer in layers if layer.name in given]),
        ("drawn uniformly at random", [layer for layer in layers if layer.name not in given]),
    ):
        if some:
            clauses.append(f"with winners of {' and '.join(dict.fromkeys(layer.kind for layer in some))} {words}")
    return " and ".join(clauses)


def _alive(network: Network, layer: PlacedLayer, active: Mapping[str, BoolArray]) -> BoolArray | None:
    """Return which entries of a selection's input a ReLU right before it passes on; `None` without one."""
    number = layer.inputs[0]
    maker = network.layers[number - 1] if number else None
    return active[maker.name].ravel() if maker is not None and isinstance(maker.layer, ReLU) else None


def _drawn(layer: PlacedLayer, alive: BoolArray | None, rng: np.random.Generator) -> IntArray:
    table = layer.selection.windows(layer.input_shape)
    order = rng.random(layer.unknowns) if alive is None else rng.random(layer.unknowns) + alive
    best = np.append(order, -1.0)[table].argmax(axis=1)
    return np.take_along_axis(table, best[:, None], axis=1).reshape(layer.output_shape)
