"""Bounds from shapes alone: they hold for every small layer, where the exact rank is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.layers.incidence import incidence, tap_slices
from constraint_algebra.ranks import polyphase
from constraint_algebra.ranks.closed_form import rank_bounds
from constraint_algebra.ranks.generic import generic_rank
from constraint_algebra.ranks.knowledge import Knowledge

KINDS = (("weight", "gradient"), ("weight",), ("gradient",))


def layers(number: int):
    """Random layers of one or two axes without groups."""
    rng = np.random.default_rng(number)
    found = []
    while len(found) < number:
        axes = int(rng.integers(1, 3))
        kernel, stride, dilation = (tuple(map(int, rng.integers(1, most, axes))) for most in (5, 4, 4))
        padding = tuple(map(int, rng.integers(0, 4, axes)))
        filters, channels = map(int, rng.integers(1, 5, 2))
        conv = (ca.Conv1d, ca.Conv2d)[axes - 1]
        try:
            layer = conv(filters, kernel, stride=stride, dilation=dilation, padding=padding)
            found.append(layer.place((channels, *map(int, rng.integers(4, 10, axes)))))
        except ca.ShapeError:
            continue
    return found


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_the_bounds_hold(kinds) -> None:
    met = 0
    for layer in layers(120):
        low, high, alone = rank_bounds(layer, Knowledge.of(layer), kinds)
        exact = generic_rank(layer, kinds=kinds).rank
        assert exact is not None
        assert low <= exact <= high
        assert ("gradient" in kinds) or alone == (0, 0)
        met += low == high
    assert met > 12, "bounds that seldom meet are of no use"


def test_partial_knowledge_is_bounded_from_above_alone() -> None:
    for layer in layers(40):
        known = Knowledge.of(layer, active=np.random.default_rng(0).random(layer.output_shape) < 0.5)
        low, high, _ = rank_bounds(layer, known, KINDS[0])
        exact = generic_rank(layer, knowledge=known).rank
        assert exact is not None
        assert low <= exact <= high


def test_slices_of_the_axes_are_the_incidence() -> None:
    for layer in layers(100):
        S, found = incidence(layer), set()
        places, outputs = (np.arange(math.prod(shape)).reshape(shape) for shape in (layer.positions, layer.outputs))
        for tap, (seen, positions) in enumerate(tap_slices(layer)):
            pairs = zip(outputs[seen].ravel().tolist(), places[positions].ravel().tolist(), strict=True)
            found |= {(tap, *pair) for pair in pairs}
        assert found == set(zip(S.tap.tolist(), S.output.tolist(), S.position.tolist(), strict=True))


def test_a_long_axis_by_arithmetic_counts_as_the_triples_do() -> None:
    for layer in layers(200):
        conv = layer.bilinear
        before = [side[0] for side in conv.paddings]
        for axis in zip(conv.taps, layer.outputs, layer.positions, conv.strides, before, conv.dilations, strict=True):
            listed, counted = polyphase._axis_classes(*axis), tuple(polyphase._long_axis(*axis))
            assert len(listed) == len(counted)
            for one, other in zip(listed, counted, strict=True):
                assert one[:4] == other[:4]
                assert other.gains.sum() == one.met
                assert one.cover <= other.cover
                # So many outputs with disjoint windows of all taps are there: the greedy choice finds them as well.
                assert np.count_nonzero(other.gains == one.taps) <= max(1, one.met // max(1, one.taps)) or one.taps == 1
                assert all(other.gains[:n].sum() <= _most(one, n) for n in range(1, min(4, len(other.gains)) + 1))


def _most(axis: polyphase.AxisClass, number: int) -> int:
    """The most pixels that so many outputs of an axis meet, by trying all choices."""
    from itertools import combinations

    _, output, position = axis.triples
    windows = [set(position[output == o].tolist()) for o in np.unique(output)]
    return max((len(set().union(*some)) for some in combinations(windows, min(number, len(windows)))), default=0)
