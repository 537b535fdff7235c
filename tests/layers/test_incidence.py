"""The incidence against two unrelated implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constraint_algebra import Conv1d, Conv2d, Incidence, Linear, ReLU, ShapeError
from constraint_algebra.layers.incidence import incidence
from tests import oracles
from tests.cases import geometries


def triples(S: Incidence) -> list[tuple[int, int, int]]:
    return list(zip(S.tap.tolist(), S.output.tolist(), S.position.tolist(), strict=True))


@settings(max_examples=250)
@given(geometries(largest=7))
def test_agrees_with_pytorch_probed_by_unit_impulses(geometry) -> None:
    found = triples(incidence(geometry.layer))
    assert len(found) == len(set(found))
    assert set(found) == oracles.probed_triples(geometry)


@settings(max_examples=250)
@given(geometries(largest=7))
def test_agrees_with_a_kernel_laid_onto_a_numbered_picture(geometry) -> None:
    assert set(triples(incidence(geometry.layer))) == oracles.looped_triples(geometry)


@given(geometries())
def test_triples_are_sorted_and_each_tap_meets_an_output_and_a_position_once(geometry) -> None:
    S = incidence(geometry.layer)
    found = triples(S)
    assert found == sorted(found)
    for tap in range(S.tap_count):
        run = S.of_tap(tap)
        assert set(S.tap[run].tolist()) <= {tap}
        assert len(set(S.output[run].tolist())) == len(set(S.position[run].tolist())) == run.stop - run.start
    assert sum(S.of_tap(tap).stop - S.of_tap(tap).start for tap in range(S.tap_count)) == len(S)


@given(geometries())
def test_sizes_are_those_of_the_layer(geometry) -> None:
    layer = geometry.layer
    S = incidence(layer)
    assert (S.taps, S.outputs, S.positions) == (layer.taps, layer.outputs, layer.positions)
    assert (S.tap_count, S.output_count, S.position_count) == tuple(
        int(np.prod(shape)) for shape in (layer.taps, layer.outputs, layer.positions)
    )


@given(st.integers(1, 30), st.integers(1, 30))
def test_a_linear_layer_has_one_triple(features, filters) -> None:
    assert triples(incidence(Linear(filters).place((features,)))) == [(0, 0, 0)]


def test_a_stride_longer_than_the_kernel_leaves_positions_out() -> None:
    S = incidence(Conv1d(1, 1, stride=3).place((1, 7)))
    assert triples(S) == [(0, 0, 0), (0, 1, 3), (0, 2, 6)]


def test_a_tap_that_only_ever_meets_padding_has_no_triples() -> None:
    S = incidence(Conv1d(1, 3, stride=4, padding=(1,)).place((1, 2)))
    assert triples(S) == [(1, 0, 0), (2, 0, 1)]
    assert S.of_tap(0) == slice(0, 0)


def test_the_shared_arrays_cannot_be_overwritten() -> None:
    S = incidence(Conv2d(1, 3).place((1, 4, 4)))
    with pytest.raises(ValueError, match="read-only"):
        S.position[0] = 5


def test_layers_without_a_weight_are_refused_by_name() -> None:
    with pytest.raises(ShapeError, match=r"layer act \(ReLU\) has no weight"):
        incidence(ReLU().place((1, 4), "act"))


@given(geometries())
def test_tables_say_what_the_triples_say(geometry) -> None:
    S = incidence(geometry.layer)
    found = set(triples(S))
    T, O, Q = S.tap_count, S.output_count, S.position_count
    meeting = {(t, int(o), q) for t in range(T) for q, o in enumerate(S.meeting[t]) if o < O}
    seen = {(t, o, int(q)) for o in range(O) for t, q in enumerate(S.positions_seen[o]) if q < Q}
    arrivals = {(int(p) // O, int(p) % O, q) for row in S.arrivals for q, p in enumerate(row) if p < T * O}
    assert meeting == seen == arrivals == found


@given(geometries())
def test_residue_classes_share_nothing_and_leave_nothing_out(geometry) -> None:
    S = incidence(geometry.layer)
    number = {}
    for n, (taps, places) in enumerate(S.classes):
        number |= {("tap", int(t)): n for t in taps} | {("place", int(q)): n for q in places}
    assert all(number["tap", t] == number["place", q] for t, _, q in triples(S))
    assert sorted(q for kind, q in number if kind == "place") == list(range(S.position_count))
    assert sum(len(places) for _, places in S.classes) == S.position_count
