"""Values below normalisations with known statistics, by a special network at which k does not move with them.

In a neighbourhood and to first order a value h that a layer reads below a normalisation has `A(k) δh + A(δk) h = 0`,
with mean and scale at rest, and `mean(K x̂)`, which the gradients of factors give away. Where x̂ are hidden, that is one
large system. At a network where `δk = 0` as well, see `resting_network`, the rows of each channel stand by themselves:
they are eliminated once for all channels, as where k is known, and what they leave open is small for the rows of means,
scales and known outputs. If nothing is open there, nothing is at almost all networks; else it says nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import Echelon
from constraint_algebra.theory.graph_solve import readers_of
from constraint_algebra.theory.graph_spaces import OPEN, ValueEquations
from constraint_algebra.theory.graph_state import GraphState
from constraint_algebra.theory.graph_statistics import means_known
from constraint_algebra.theory.resting_network import RestingNetwork

HELD = 6e7  # entries of a basis of what the rows of channels leave open


def solve_at_rest(state: GraphState, number: int) -> bool:
    """Solve for all unknown entries of a value at the special network; returns whether they were found."""
    readers = tuple(layer for layer in readers_of(state, number) if not isinstance(layer.layer, ChannelScale))
    if not state.shared or state.values[number].all() or not any(_is_below(state, layer) for layer in readers):
        return False
    norms = [user for layer in readers for user in state.drawn.network.users(layer.number) if user.is_normalisation]
    numbers = [number, *(layer.number for layer in (*readers, *norms))]
    if not state.is_new("rest", number, tuple(v for n in numbers for v in state.versions[n])):
        return False
    if state.resting is None:
        state.resting = RestingNetwork(state.drawn, state.shared)
    still = [
        layer for layer in readers if _is_below(state, layer) and _norm(state, layer).name in state.resting.resting
    ]
    if not still or not _is_whole(_at_rest(state, still), number, readers, still):
        return False
    name = repr(state.drawn.network.value_name(number))
    state.nearby.add(number)
    return state.learn(
        number,
        np.ones_like(state.values[number]),
        f"by all equations that hold of {name} together, in a neighbourhood, to first order",
    )


def _is_below(state: GraphState, layer: PlacedLayer) -> bool:
    """Return whether a normalisation alone reads a layer's output, whose k moves with x̂ alone."""
    users = state.drawn.network.users(layer.number)
    if len(users) != 1 or not users[0].is_normalisation or state.gradients[layer.number].all():
        return False
    (norm,) = users
    known = state.statistics[norm.name].all() and state.gradients[norm.number].all()
    return bool(known and means_known(state, norm).all())


def _norm(state: GraphState, layer: PlacedLayer) -> PlacedLayer:
    return state.drawn.network.users(layer.number)[0]


def _at_rest(state: GraphState, still: Sequence[PlacedLayer]) -> GraphState:
    """Return the state at the special network, where k of some layers is known."""
    here = copy.copy(state)
    assert state.resting is not None
    here.drawn, here.gradients = state.resting, list(state.gradients)
    for layer in still:
        here.gradients[layer.number] = np.ones_like(state.gradients[layer.number])
    return here


def _is_whole(here: GraphState, number: int, readers: tuple[PlacedLayer, ...], still: Sequence[PlacedLayer]) -> bool:
    """Return whether nothing of a value is open."""
    equations = ValueEquations(here, number, readers)
    spaces = equations.spaces if equations.forms is not None else None
    if spaces is None:
        return False
    opens = sum(N.shape[1] for N in spaces)
    if opens > OPEN or opens * here.values[number].size > HELD:
        return False
    form = Echelon(opens)
    if opens:
        for rows in _rows_of_statistics(here, number, spaces, still):
            form.absorb(rows)
        for rows in equations.weight_rows_in(spaces):
            if form.rank == opens:
                break
            form.absorb(rows)
    return bool(form.rank == opens)


def _rows_of_statistics(
    here: GraphState, number: int, spaces: list[FloatArray], still: Sequence[PlacedLayer]
) -> Iterator[FloatArray]:
    """Yield the rows of mean and scale of the normalisations above a value, in the coordinates of bases."""
    ends = np.cumsum([0, *(N.shape[1] for N in spaces)])
    basis = np.zeros((len(spaces), len(spaces[0]), ends[-1]))
    for channel, (N, start, end) in enumerate(zip(spaces, ends, ends[1:], strict=False)):
        basis[channel, :, start:end] = N
    for layer in still:
        moved = here.drawn.up(layer, [basis.reshape(*here.values[number].shape, -1)])
        yield here.drawn.statistics(_norm(here, layer)).moments(moved)
