"""What a normalisation by the data's own statistics says of the values below it, to first order.

With x̂ known at some entries, and the gradient K with respect to all of them, differences δz of what is normalised have

    δx̂ = 0 where x̂ is known,        A(k_z) δh + A(δk_z) h = 0        for the layer z = W h + b right below,

where k_z, which holds mean and scale of z, moves with z: `ModularStatistics.bend`. Mean and scale need not be known,
and are no unknowns here: they are functions of z. Where x̂ is known throughout, these rows stand for equations that are
linear in h, mean and scale together, and the rank holds everywhere; else in a neighbourhood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import PRIME
from constraint_algebra.theory.curved import Moving, moving_rows
from constraint_algebra.theory.graph_state import GraphState

ROWS = 1.2e8  # residues of gradient rows of one layer that are held at once
PRODUCTS = 4e10  # of two residues, for those of one layer


def has_more(state: GraphState, number: int) -> bool:
    """Return whether a normalisation reads a value and its output, or the gradient there, is known somewhere."""
    return any(
        user.is_normalisation and (state.values[user.number].any() or _below(state, user) is not None)
        for user in state.drawn.network.users(number)
    )


def is_local(state: GraphState, number: int) -> bool:
    """Return whether what `more_rows` says of a value speaks of a neighbourhood alone."""
    return any(
        user.is_normalisation and not state.values[user.number].all() for user in state.drawn.network.users(number)
    )


def more_rows(state: GraphState, number: int, live: Mapping[int, FloatArray]) -> Iterator[FloatArray]:
    """Yield rows of the normalisations that read a value.

    Args:
        state: what is known.
        number: the value.
        live: differences of it and of what the layer right below reads, by number.
    """
    for user in state.drawn.network.users(number):
        if not user.is_normalisation:
            continue
        own, d = state.drawn.statistics(user), live[number]
        known = state.values[user.number].reshape(-1)
        if known.any():
            yield own.through(d).reshape(len(known), -1)[known]
        shared = state.statistics[user.name]
        if shared.any():
            yield own.moments(d)[np.tile(shared, 2 if own.centred else 1)]
        below = _below(state, user)
        if below is not None and _is_small(below, d.shape[-1]) and below.inputs[0] in live:
            k = state.drawn.gradients[user.number].astype(float)
            h = state.drawn.values[below.inputs[0]].astype(float)[..., None]
            k_z = state.drawn.gradients[number].astype(float)[..., None]
            yield from moving_rows(below, Moving(h, live[below.inputs[0]]), Moving(k_z, own.bend(k, d)))


def scaled_alone(state: GraphState, number: int, moved: FloatArray) -> bool:
    """Return whether differences `(*shape, n)` that are not all zero are multiples of the value itself."""
    value, d = state.drawn.values[number].astype(float).reshape(-1, 1), moved.reshape(-1, moved.shape[-1])
    if not d.any():
        return False
    first = int(np.argmax(value != 0))
    return bool((np.remainder(d * value[first] - np.remainder(value * d[first], PRIME), PRIME) == 0).all())


def _below(state: GraphState, layer: PlacedLayer) -> PlacedLayer | None:
    """Return the layer with a weight whose output a normalisation alone reads, if all of K is known and k is not."""
    number = layer.inputs[0]
    maker = state.drawn.network.layers[number - 1] if number else None
    if maker is None or not maker.is_bilinear or isinstance(maker.layer, ChannelScale):
        return None
    alone = len(state.drawn.network.users(number)) == 1
    known = state.gradients[layer.number].all()
    return maker if alone and known and not state.gradients[number].all() else None


def _is_small(layer: PlacedLayer, n: int) -> bool:
    S = incidence(layer)
    rows = float(layer.filters) * S.tap_count * layer.channels / layer.groups
    return rows * n <= ROWS and rows * n * S.output_count <= PRODUCTS
