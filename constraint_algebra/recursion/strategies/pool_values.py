"""The input below a selection by the pooled values: proven where they leave it no room, else by its winners.

`NoRoomBelow` learns what every input within its range has that obeys the inequalities: outputs that are the largest of
their windows, entries on a bound. `TightWindows` takes the winners of one input where all windows are tight, and counts
them where the gradient equations agree, and are so many that no other winners would by accident. Below a normalisation
whose statistics are known these equations help to find it (`normalised_windows`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.incidence import axis_ranges
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.normalised_windows import NormalisedWindows
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.pooled import Pooled, pooled
from constraint_algebra.recursion.pooled_values import MARGINS, PooledValues, Proven
from constraint_algebra.recursion.solved_windows import BITS, CHECKS, SolvedWindows

POINT, WINNERS = "no room", "tight windows"
FACTORED, SPEED = 100, 3e9  # times that the rows are factored, and multiplications a second then
ENTRIES = 3e7  # of the rows, up to which they are written down
TRIES = 3  # points: if the gradient equations do not agree with the first, or others as well
FEWER = 0.9  # of the open entries: where more of them are known since, it is worth another look
CORRECTIONS = 4  # times that winners are replaced by those that the input solved with them has
SAME = 1e-5  # of the range: two points so near are one


class Search(Protocol):
    """Finds a point where all windows are tight, `anew` another."""

    def __call__(self, rng: np.random.Generator, deadline: float, *, anew: bool = False) -> FloatArray | None:
        """Return it; `None` where none was found in time."""


class NoRoomBelow:
    """Finds what the pooled values prove, whoever won."""

    ground = Ground.RANGE  # the range of what the layer below reads

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether it is a selection."""
        return layer.is_selection

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether pooled values are known, the input of the layer below is not, and they may be enough."""
        return _view(knows, layer) is not None

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:
        """Return the multiplications of all factorisations."""
        return _cost(layer_below(knows, layer))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Learn the winners, outputs and entries that all inputs share."""
        view = _view(knows, layer)
        assert view is not None
        assert beyond is not None  # a range is no equation
        knows.vain.pop((POINT, layer.index), None)
        looked = _looked(knows, view, beyond, POINT)
        if looked is None:
            return False
        x, values = looked.x, looked.values
        assert x is not None
        assert values is not None
        proven = looked.proven = looked.proven or values.proof(x)
        if not proven.pinned.any() and not proven.tight.any():
            knows.vain[POINT, layer.index] = (
                f"the pooled values of layer {layer.name!r} leave the input of layer {view.layer.name!r} room: by them"
                " alone, whoever won, none of its values is determined"
            )
            return False
        known = knows.values[view.layer.inputs[0]].known.ravel()[values.is_open]
        if values.is_noisy and TightWindows().applies(knows, layer):
            return _all_at_once(knows, view, proven, known)
        return _learn_proven(knows, view, proven, known)


def _all_at_once(knows: GraphKnowledge, view: Pooled, proven: Proven, known: BoolArray) -> bool:
    """Learn all that a layer reads where it has no room, or leave it to its winners.

    With noise, values that are learnt one after the other blur the next; solved for together they are as sharp as the
    maxima.
    """
    knows.remarks[POINT, view.selection.index] = _words(view, proven, known, None)
    if not proven.pinned.all():
        return False
    values, number = proven.values, view.layer.inputs[0]
    shape = knows.values[number].value.shape
    within, x = proven.pinned_entries().reshape(shape), values.whole(proven.proof.x).reshape(shape)
    winners = np.where(view.live, values.problem.candidates(proven.proof.x).argmax(axis=1), -1)
    solved = SolvedWindows.of(knows, view, winners, knows.values[number], x).input
    sharper = solved.known & within.known & (solved.deviation < within.deviation)
    sharper &= np.abs(solved.value - x) <= MARGINS * within.deviation
    return knows.learn_value(number, replace(solved, known=sharper).learnt(within))


def _learn_proven(knows: GraphKnowledge, view: Pooled, proven: Proven, known: BoolArray) -> bool:
    """Learn the winners, outputs and entries that are proven, or else entries that have no room."""
    number, key = view.layer.inputs[0], (POINT, view.selection.index)
    learnt = _learn(knows, view, proven, proven.winners())
    if not learnt:  # what the equations sharpened is known by now
        learnt = knows.learn_value(number, proven.pinned_entries().reshape(knows.values[number].value.shape))
    if learnt and proven.pinned.any():
        knows.remarks[key] = _words(view, proven, known, knows.remarks.get(key))
    return learnt


def _words(view: Pooled, proven: Proven, known: BoolArray, before: str | None) -> str:
    """Return what is proven in a sentence, of open entries some of which were known, after what was said before."""
    name, below, fresh = view.selection.name, view.layer.name, proven.pinned & ~known
    count = int(fresh.sum())
    bounds = ", within the range of its values" if proven.by_bounds else ""
    if before is not None:
        return f"{before}; with these known, {count:,} more" if count else before
    if proven.pinned.all() and proven.values.is_open.all():
        return (
            f"the pooled values of layer {name!r} leave the input of layer {below!r} no room{bounds}: given them it is"
            " unique over all inputs, whoever won"
        )
    return (
        f"the pooled values of layer {name!r} leave {count:,} of the {len(proven.pinned):,} open values that layer"
        f" {below!r} reads no room{bounds}: given them these are unique over all inputs, whoever won"
    )


class TightWindows:
    """Finds winners with which all windows are tight, and that the gradient equations confirm."""

    ground = Ground.WINNERS  # the winners that fit

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether it is a selection."""
        return layer.is_selection

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether pooled values and gradients are known, and the input of the layer below is not."""
        view = _view(knows, layer)
        if view is None or _may_be_swapped(view):
            return False
        return bool((view.k.known | view.dead).all())

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:
        """Return the multiplications of all factorisations."""
        return _cost(layer_below(knows, layer))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Learn the winners and the entries that follow, where the gradient equations agree."""
        view = _view(knows, layer)
        assert view is not None
        assert beyond is not None
        knows.vain.pop((WINNERS, layer.index), None)
        rng, found, others = np.random.default_rng(beyond.seed), None, 0
        search = _searched(knows, view, beyond, rng)
        if search is None:
            return False
        values, x, again_at = search
        for _ in range(TRIES):
            if found is None or not _near(values, found[0], x):
                again = _confirmed(knows, view, values, x)
                others += again is not None and found is not None
                found = found or again
            another = again_at(rng, beyond.end, anew=True)
            if another is None:
                break
            x = another
        if found is not None and not others:
            knows.remarks[WINNERS, layer.index] = (
                f"all windows of layer {layer.name!r} are tight at the winners found, and the gradient agrees; other"
                " winners are not ruled out: unique given the winners"
            )
            return _learn_confirmed(knows, view, found)
        if others:
            knows.vain[WINNERS, layer.index] = (
                f"several inputs of layer {view.layer.name!r} with other winners of layer {layer.name!r} fit all that"
                " is known there: which of them it was is open"
            )
            return False
        _none_found(knows, view, WINNERS)
        return False


def _searched(
    knows: GraphKnowledge, view: Pooled, beyond: Beyond, rng: np.random.Generator
) -> tuple[PooledValues, FloatArray, Search] | None:
    """Return the values, a point where all windows are tight, and what finds others; `None` where none was found.

    Below a normalisation the gradient helps, unless the values by themselves came to a point already.
    """
    held = knows.points.get(view.selection.index)
    both = None
    if not view.direct:
        values = PooledValues.of(knows, view, beyond)
        both = None if values is None else NormalisedWindows.of(values)
        if both is not None and not (isinstance(held, _Looked) and held.x is not None):
            x = both.point(rng, beyond.end)
            if x is not None:
                return both.values, x, both.point
            beyond = beyond.renewed()
    looked = _looked(knows, view, beyond, WINNERS)
    if looked is None or looked.values is None or looked.x is None:
        return None
    return looked.values, looked.x, looked.values.point if both is None else both.point


def _may_be_swapped(view: Pooled) -> bool:
    """Whether what the entries of a window see could change places, and all windows and gradients stay.

    That is so along an axis on which no two outputs of the layer see the same position: nothing tells which of the
    entries of a window lies where.
    """
    layer = view.layer
    places = np.where(view.real, view.windows, view.windows[:, :1])
    at = np.unravel_index(places, layer.output_shape)[1:]
    for along, taps in zip(at, axis_ranges(layer), strict=False):
        seen = [position for _, positions in taps for position in positions]
        if (along != along[:, :1]).any() and len(set(seen)) == len(seen):
            return True
    return False


def layer_below(knows: GraphKnowledge, selection: PlacedLayer) -> PlacedLayer:
    """Return the layer with a weight whose outputs a selection sees."""
    view = pooled(knows, selection)
    assert view is not None
    return view.layer


def _view(knows: GraphKnowledge, layer: PlacedLayer) -> Pooled | None:
    """Return the windows, where the input of the layer below is open and they may be enough, counted."""
    if not knows.values[layer.number].known.any():
        return None
    view = pooled(knows, layer)
    if view is None or not view.live.any():
        return None
    below = view.layer
    number = below.inputs[0]
    unknown = int((~knows.values[number].known).sum())
    won = knows.winners[layer.index].ravel()
    if not unknown or not (view.live & (won < 0)).any() or _entries(below) > ENTRIES:
        return None
    # A point needs more tight rows than unknowns; of an activation's outputs about half lie on its bound.
    on_bounds = unknown if number == 0 else unknown // 2
    return view if view.live.sum() + on_bounds > unknown else None


def _entries(layer: PlacedLayer) -> float:
    """Return how many coefficients all rows have."""
    return math.prod(layer.output_shape) * (layer.channels // layer.groups) * math.prod(layer.taps)


def _cost(layer: PlacedLayer) -> float:
    """Return the multiplications of all products of rows and factorisations of bands."""
    each = layer.channels // layer.groups * math.prod(layer.taps)
    inner = np.cumprod([1, *layer.positions[::-1]])[::-1][1:]
    reach = sum((tap - 1) * int(size) for tap, size in zip(layer.taps, inner, strict=True))
    width = min(layer.channels * (reach + 1), layer.unknowns)
    return FACTORED * float(_entries(layer) * each + layer.unknowns * width**2)


@dataclass
class _Looked:
    """What a look at the pooled values came to.

    Attributes:
        then: how often anything was learnt of them when it was made, and how many entries of the input were open.
        values: the maxima; `None` where they cannot be written down.
        x: a point where all windows are tight; `None` where none was found.
        proven: what is proven at that point, once it was asked for.
    """

    then: tuple[int, int]
    values: PooledValues | None
    x: FloatArray | None
    proven: Proven | None = None


def _looked(knows: GraphKnowledge, view: Pooled, beyond: Beyond, name: str) -> _Looked | None:
    """Return what a look came to, made once for all that ask; `None` where no point was found."""
    index = view.selection.index
    now = knows.news.get(("value", view.selection.number), 0), int((~knows.values[view.layer.inputs[0]].known).sum())
    found = knows.points.get(index)
    if not isinstance(found, _Looked) or found.then[0] != now[0] or now[1] < FEWER * found.then[1]:
        if not _in_time(knows, view, beyond, name):
            return None
        values = PooledValues.of(knows, view, beyond)
        x = None if values is None else values.point(np.random.default_rng(beyond.seed), beyond.end)
        found = _Looked(now, values, x)
        if x is not None or time.monotonic() < beyond.end:
            knows.points[index] = found
    if found.x is None:
        _none_found(knows, view, name)
        return None
    return found


def _in_time(knows: GraphKnowledge, view: Pooled, beyond: Beyond, name: str) -> bool:
    """Return whether the time suffices; if not, say so."""
    seconds, left = _cost(view.layer) / SPEED, beyond.end - time.monotonic()
    if seconds <= left:
        return True
    if left <= 0:
        return False
    knows.vain[name, view.selection.index] = (
        f"the linear programmes of layer {view.layer.name!r} below layer {view.selection.name!r} would take about"
        f" {seconds:,.0f} s, longer than `search` allows"
    )
    return False


def _none_found(knows: GraphKnowledge, view: Pooled, name: str) -> None:
    knows.vain[name, view.selection.index] = (
        f"no input of layer {view.layer.name!r} was found with which all {int(view.live.sum()):,} live windows of layer"
        f" {view.selection.name!r} are tight" + (" and the gradient agrees" if name == WINNERS else "")
    )


def _near(values: PooledValues, confirmed: Proven, x: FloatArray) -> bool:
    """Whether a point is the one that was confirmed, in all that this pins."""
    away = np.abs(confirmed.proof.x - x)[confirmed.pinned]
    return bool((away <= SAME * values.range_of(x)).all())


class _Confirmed(NamedTuple):
    """What was confirmed: what is proven given the winners, these, and the layer's input, if no winner is in doubt."""

    proven: Proven
    winners: IntArray
    input: Estimate


def _confirmed(knows: GraphKnowledge, view: Pooled, values: PooledValues, x: FloatArray) -> _Confirmed | None:
    """Return what follows from the winners at x, where all equations hold and are enough to rule others out.

    Every point of a polytope that is found by programmes lies on as many bounds as it has directions; only what fits
    beyond these is no accident.
    """
    number = view.layer.inputs[0]
    winners = values.winners(x, np.zeros(len(x)))
    proven = values.proof(x, winners)
    value = knows.values[number].learnt(proven.entries().reshape(knows.values[number].value.shape))
    asked = view.live & (view.k.filled() != 0)
    likely = values.problem.candidates(x).argmax(axis=1)  # where noise leaves it open
    told = np.where(asked, np.where(winners >= 0, winners, likely), -1)
    for _ in range(CORRECTIONS):
        solved = SolvedWindows.of(knows, view, told, value, values.whole(x).reshape(value.value.shape))
        own = solved.own_winners()
        if np.array_equal(own, told):
            break
        told = own
    choices = np.log2(np.maximum(view.real.sum(axis=1), 1))[view.live].sum() + len(x)
    won = view.windows[view.live, likely[view.live]]  # an output that wins several windows is one equation
    tight = len(np.unique(won)) + len(proven.low) + len(proven.high)
    sure = solved.sure(counted=bool(solved.rows + tight - len(x) >= CHECKS + BITS * choices))
    if not (sure >= 0).any():
        return None
    whole = solved.input if (sure >= 0)[asked].all() else Estimate.unknown(solved.input.value.shape, MEMBERS)
    return _Confirmed(proven, np.where(asked, sure, winners), whole)


def _learn_confirmed(knows: GraphKnowledge, view: Pooled, found: _Confirmed) -> bool:
    """Take in what follows from confirmed winners: with noise the input as well, sharper than from any of its parts."""
    number = view.layer.inputs[0]
    learnt = found.proven.values.is_noisy and knows.learn_value(number, found.input)
    return _learn(knows, view, found.proven, found.winners) or learnt


def _learn(knows: GraphKnowledge, view: Pooled, proven: Proven, winners: IntArray) -> bool:
    """Take in winners, the outputs that are the largest for certain, and entries on bounds."""
    number = view.layer.inputs[0]
    live = np.where(view.live, winners, -1)
    learnt = knows.learn_winners(view.selection, view.winners(live))
    learnt |= knows.learn_value(view.layer.number, proven.outputs(winners).reshape(view.layer.output_shape))
    entries = knows.learn_value(number, proven.entries().reshape(knows.values[number].value.shape))
    knows.by_valid_range |= proven.by_bounds and number == 0 and (learnt or entries)
    return learnt or entries
