"""Solving for several unknown sources together, where an equation ties them.

Sources are the network's input and the outputs of activations and selections; between them every value is affine in
those above which it stands. An addition such as that of a residual block has weight equations in several of them, and a
layer that reads a sum or a concatenation has gradient rows in several. Sources that no equation ties are solved apart.

What is known of a normalisation's output and of the gradient there says more, to first order: see `graph_local`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import networkx as nx
import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.condensed_rows import condensed
from constraint_algebra.numerics.modular import PROBES, Echelon, multiply, residues
from constraint_algebra.ranks import modular_layers
from constraint_algebra.theory.graph_local import has_more, is_local, more_rows, scaled_alone
from constraint_algebra.theory.graph_solve import readers_of
from constraint_algebra.theory.graph_spaces import OPEN, PIXELS, ValueEquations
from constraint_algebra.theory.graph_state import GraphState, is_source

HELD = 1.2e8  # residues of differences that are held at once
TOGETHER = 2e11  # products of two residues to spend on one system
NEARBY = 3e11  # on all that are solved in a neighbourhood, about a minute: each is tried again when more is known
ONE_FACTOR = (
    "one factor of all its values is open, which the normalisation above takes out again: eps alone would fix it"
)


def solve_together(state: GraphState) -> bool:
    """Solve for groups of unknown sources, those nearest to the output first; returns whether any entry was found."""
    for sources in _tied(state):
        number = max(sources)
        rests_on = tuple(v for n in _made_of(state, sources) for v in state.versions[n])
        if state.is_new("together", number, (*sources, *rests_on)) and _solved(state, sources):
            return True
    return False


def solve_nearby(state: GraphState) -> bool:
    """Solve for groups of unknown sources with what normalisations above them say, to first order as well.

    Returns whether any entry was found.
    """
    if not state.statistics:
        return False
    for sources in _tied(state, nearby=True):
        made = _made_of(state, sources)
        above = [n for n in made if has_more(state, n)]
        rests_on = tuple(
            v for n in (*made, *(u.number for n in above for u in _users(state, n))) for v in state.versions[n]
        )
        if (
            above
            and state.is_new("nearby", max(sources), (*sources, *rests_on))
            and _solved(state, sources, nearby=True)
        ):
            return True
    return False


def _users(state: GraphState, number: int) -> tuple[PlacedLayer, ...]:
    return state.drawn.network.users(number)


def _is_source(state: GraphState, number: int) -> bool:
    return number == 0 or is_source(state.drawn.network.layers[number - 1])


def _tied(state: GraphState, *, nearby: bool = False) -> list[tuple[int, ...]]:
    """Return groups of sources with unknown entries that equations tie, with those of one alone."""
    graph: nx.Graph[int] = nx.Graph()
    for number, sources in enumerate(_sources_below(state)):
        if sources and (_has_equations(state, number) or (nearby and has_more(state, number))):
            nx.add_path(graph, sorted(sources))
    groups = [tuple(sorted(group)) for group in nx.connected_components(graph)]
    return sorted(groups, key=max, reverse=True)


def _sources_below(state: GraphState) -> list[frozenset[int]]:
    """Return for every value the unknown sources that it is affine in."""
    found: list[frozenset[int]] = [frozenset() if state.values[0].all() else frozenset({0})]
    for layer in state.drawn.network.layers:
        if is_source(layer):
            found.append(frozenset() if state.values[layer.number].all() else frozenset({layer.number}))
        else:
            found.append(frozenset().union(*(found[n] for n in layer.inputs)))
    return found


def _has_equations(state: GraphState, number: int) -> bool:
    """Return whether anything is known of a value that its sources do not say by themselves."""
    if not _is_source(state, number) and state.values[number].any():
        return True
    return any(user.is_bilinear and state.gradients[user.number].any() for user in state.drawn.network.users(number))


def _made_of(state: GraphState, sources: Sequence[int]) -> list[int]:
    """Return the sources, and the numbers of all values that are affine in them and in no other unknown source."""
    mine = set(sources)
    return [number for number, some in enumerate(_sources_below(state)) if some and some <= mine]


def _solved(state: GraphState, sources: Sequence[int], *, nearby: bool = False) -> bool:
    """Solve for some sources; a value between them may be found as well.

    Args:
        state: what is known.
        sources: their numbers.
        nearby: whether to use what normalisations say to first order.
    """
    network = state.drawn.network
    bases = _bases(state, sources)
    if bases is None:
        state.skipped.add(max(sources))
        return False
    opens = sum(basis.shape[-1] for basis in bases.values())
    values = _made_of(state, sources)
    held = max((_size(state, n) for n in values), default=0) * 3.0 + sum(_size(state, n) for n in sources)
    work = sum(_work(network.layers[n - 1]) for n in values if n) * opens * (3 if nearby else 1)
    products = work + float(opens) ** 3
    if opens > OPEN or held * opens > HELD or products > TOGETHER or (nearby and state.spent + products > NEARBY):
        state.skipped.add(max(sources))
        return False
    if not opens:
        return False
    state.spent += products if nearby else 0.0
    form = _eliminated(state, values, bases, nearby=nearby)
    rng = np.random.default_rng([state.drawn.seed, 6, max(sources)])
    moved = _along_the_kernel(form, bases, rng)
    if nearby and form.rank < opens and _is_noticed(state, values, moved):  # the condensed rows had too small a rank
        form = _eliminated(state, values, bases, nearby=True, condense=False)
        moved = _along_the_kernel(form, bases, rng)
    if form.rank < opens:
        state.count_error(form.rank)
    names = " and ".join(repr(network.value_name(number)) for number in sources)
    local = nearby and any(is_local(state, number) for number in values)
    where = ", in a neighbourhood, to first order" if local else ""
    reason = f"by all equations that hold of {names} together{where}"
    found = False
    for number, live in _tangents(state, values, moved):
        if state.learn(number, np.asarray(~live[number].any(axis=-1)), reason):
            found = True
            state.nearby |= {number} if local else set()
        if nearby and form.rank == opens - 1 and scaled_alone(state, number, live[number]):
            state.stops[number] = ONE_FACTOR
    return found


def _eliminated(
    state: GraphState, values: Sequence[int], bases: dict[int, FloatArray], *, nearby: bool, condense: bool = True
) -> Echelon:
    """Return all rows in the coordinates of the bases, eliminated."""
    opens = sum(basis.shape[-1] for basis in bases.values())
    form, rng = Echelon(opens), np.random.default_rng([state.drawn.seed, 8, max(bases)])
    for number, live in _tangents(state, values, _placed(bases)):
        more = more_rows(state, number, live) if nearby else iter(())
        for block in chain(_rows(state, number, live[number]), condensed(more, opens, rng) if condense else more):
            form.absorb(block)
            if form.rank == opens:
                return form
    return form


def _along_the_kernel(form: Echelon, bases: dict[int, FloatArray], rng: np.random.Generator) -> dict[int, FloatArray]:
    """Return a few random differences of the sources that no row has noticed."""
    probes = form.null(residues((form.columns - form.rank, PROBES), rng))
    ends = np.cumsum([0, *(basis.shape[-1] for basis in bases.values())])
    return {
        number: _times(basis, probes[a:b]) for (number, basis), a, b in zip(bases.items(), ends, ends[1:], strict=False)
    }


def _is_noticed(state: GraphState, values: Sequence[int], moved: dict[int, FloatArray]) -> bool:
    """Return whether any row of a normalisation notices differences."""
    return any(
        block.any() for number, live in _tangents(state, values, moved) for block in more_rows(state, number, live)
    )


def _times(basis: FloatArray, y: FloatArray) -> FloatArray:
    return multiply(basis.reshape(-1, basis.shape[-1]), y).reshape(*basis.shape[:-1], -1)


def _size(state: GraphState, number: int) -> int:
    return int(state.values[number].size)


def _work(layer: PlacedLayer) -> float:
    if not layer.is_bilinear:
        return float(math.prod(layer.output_shape))
    return 2.0 * len(incidence(layer)) * layer.filters * layer.channels / layer.groups


def _bases(state: GraphState, sources: Sequence[int]) -> dict[int, FloatArray] | None:
    """Return for each source a basis of what its own equations leave open, `(*shape, n)`; `None` where too much is."""
    found = {}
    for number in sources:
        shape, unknown = state.values[number].shape, ~state.values[number].ravel()
        readers = readers_of(state, number)
        spaces = None
        if readers and math.prod(readers[0].positions) <= PIXELS:
            equations = ValueEquations(state, number, readers)
            spaces = equations.spaces if equations.forms is not None else None
        if spaces is None:
            if unknown.sum() > OPEN:
                return None
            places = np.flatnonzero(unknown)
            basis = np.zeros((unknown.size, len(places)))
            basis[places, np.arange(len(places))] = 1
        else:
            opens = sum(N.shape[1] for N in spaces)
            if opens > OPEN:
                return None
            basis, first = np.zeros((len(spaces), len(spaces[0]), opens)), 0
            for channel, N in enumerate(spaces):
                basis[channel, :, first : first + N.shape[1]] = N
                first += N.shape[1]
        if basis.size > HELD:
            return None
        found[number] = basis.reshape(*shape, -1)
    return found


def _placed(bases: dict[int, FloatArray]) -> dict[int, FloatArray]:
    """Return each basis in columns of its own."""
    total, first = sum(basis.shape[-1] for basis in bases.values()), 0
    found = {}
    for number, basis in bases.items():
        wide = np.zeros((*basis.shape[:-1], total))
        wide[..., first : first + basis.shape[-1]] = basis
        first += basis.shape[-1]
        found[number] = wide
    return found


def _tangents(
    state: GraphState, values: Sequence[int], at: dict[int, FloatArray]
) -> Iterator[tuple[int, dict[int, FloatArray]]]:
    """Yield the values that are affine in some sources, from the input on, with all differences that are at hand."""
    network, live = state.drawn.network, dict[int, FloatArray]()
    mine = set(values)
    last = {n: max((u.number for u in network.users(n) if u.number in mine), default=0) for n in values}
    columns = next(iter(at.values())).shape[-1]
    for number in values:
        if number in at:
            live[number] = at[number]
        else:
            layer = network.layers[number - 1]
            zeros = (np.zeros((*network.shape_of(n), columns)) for n in layer.inputs)
            live[number] = state.drawn.up(layer, [live.get(n, z) for n, z in zip(layer.inputs, zeros, strict=True)])
        yield number, live
        for n in [n for n in live if last[n] <= number]:
            del live[n]


def _rows(state: GraphState, number: int, tangent: FloatArray) -> Iterator[FloatArray]:
    """Yield the rows of known entries, and the gradient rows of the layers that read a value."""
    known, n = state.values[number].ravel(), tangent.shape[-1]
    if known.any() and not (number == 0 or _is_source(state, number)):
        flat = tangent.reshape(-1, n)
        places = np.flatnonzero(known)
        for first in range(0, len(places), 1024):
            yield flat[places[first : first + 1024]]
    readers = tuple(user for user in state.drawn.network.users(number) if user.is_bilinear)
    if readers:
        usable = ValueEquations(state, number, readers).usable
        for layer in readers:
            k = state.drawn.gradient(layer)
            rng = state.drawn.rng(layer, 3)
            yield from modular_layers.spanning_row_blocks(layer, k, usable[layer.name], tangent, rng)
