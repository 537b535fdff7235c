"""The explicit systems against PyTorch, their names and order, and what can be done with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constraint_algebra as ca
from constraint_algebra.equations.names import Names
from constraint_algebra.equations.systems import gradient_block
from tests import oracles
from tests.cases import geometries
from tests.layers.test_trilinear import against_autograd, close


@settings(max_examples=250)
@given(geometries(largest=7))
def test_the_three_kinds_of_equations_hold_for_what_pytorch_computes(geometry) -> None:
    layer = geometry.layer
    weight, bias, x, truth = against_autograd(geometry)
    k = truth["output gradient"]
    B = ca.weight_equations(layer, weight, bias if geometry.bias else None, truth["output"])
    assert close(B.matrix @ x.ravel(), B.rhs)
    shift = np.repeat(bias, math.prod(layer.outputs)) if geometry.bias else 0.0
    assert close(B.matrix @ x.ravel() + shift, truth["output"].ravel())
    assert close(B.matrix.T @ k.ravel(), truth["input gradient"].ravel())
    A = ca.gradient_equations(layer, k, truth["weight gradient"])
    assert close(A.matrix @ x.ravel(), A.rhs)
    # Right-hand sides in their own order: channel by channel, gathered from the weight gradient name by name.
    assert [A.rhs[i] for i in range(len(A.rows))] == [_entry(truth["weight gradient"], name) for name in A.rows]
    if geometry.bias:
        b = ca.bias_equations(layer, truth["bias gradient"])
        assert close(b.matrix @ k.ravel(), b.rhs)


def _entry(array: np.ndarray, name: str) -> float:
    """The entry that a name such as `dL/dW[2,0,1]` speaks of."""
    return array[tuple(int(i) for i in name.split("[")[1].rstrip("]").split(","))]


@given(geometries(largest=6))
def test_every_entry_is_the_coefficient_that_its_name_says(geometry) -> None:
    layer = geometry.layer
    weight, _, _, truth = against_autograd(geometry)
    k = truth["output gradient"]
    for system, values in ((ca.weight_equations(layer, weight), weight), (ca.gradient_equations(layer, k), k)):
        names = list(system.coefficients)
        assert system.matrix.data.tolist() == [_entry(values, names[n - 1]) for n in system.pattern.data]


@given(geometries(largest=6))
def test_row_and_column_are_where_their_names_say(geometry) -> None:
    """Probe with unit impulses: PyTorch's answer to unknown j is column j of both systems, found through the names."""
    layer = geometry.layer
    weight, _, _, truth = against_autograd(geometry)
    k = truth["output gradient"]
    B, A = ca.weight_equations(layer, weight), ca.gradient_equations(layer, k)
    j = geometry.seed % layer.unknowns
    impulse = np.zeros(layer.input_shape)
    impulse[tuple(int(i) for i in B.unknowns[j][2:-1].split(","))] = 1.0
    answer = oracles.torch_layer(geometry, weight, None, impulse, lambda _: k)
    assert B.matrix.toarray()[:, j] == pytest.approx([_entry(answer["output"], name) for name in B.rows], abs=1e-12)
    assert A.matrix.toarray()[:, j] == pytest.approx(
        [_entry(answer["weight gradient"], name) for name in A.rows], abs=1e-12
    )


@given(geometries(largest=6))
def test_the_gradient_equations_are_one_block_a_channel(geometry) -> None:
    layer = geometry.layer
    A = ca.gradient_equations(layer).pattern.toarray()
    rows, columns = A.shape[0] // layer.channels, A.shape[1] // layer.channels
    for c in range(layer.channels):
        band = A[c * rows : (c + 1) * rows]
        group = c // (layer.channels // layer.groups)
        assert np.array_equal(band[:, c * columns : (c + 1) * columns], gradient_block(layer, group).toarray())
        assert np.count_nonzero(band) == gradient_block(layer, group).nnz


@given(geometries(largest=6))
def test_shapes_alone_give_the_same_pattern_as_values(geometry) -> None:
    layer = geometry.layer
    weight, _, _, truth = against_autograd(geometry)
    for bare, filled in (
        (ca.weight_equations(layer), ca.weight_equations(layer, weight)),
        (ca.gradient_equations(layer), ca.gradient_equations(layer, truth["output gradient"])),
    ):
        assert bare.values is None
        assert bare.rhs is None
        assert np.array_equal(bare.pattern.toarray(), filled.pattern.toarray())
        assert np.array_equal(bare.evaluate(filled.values).toarray(), filled.matrix.toarray())
        assert filled.matrix.has_canonical_format


LAYER = ca.Conv2d(4, (2, 1), groups=2).place((2, 2, 2), "conv")


def test_order_of_unknowns_and_weight_rows_is_channel_then_position() -> None:
    B = ca.weight_equations(LAYER)
    assert list(B.unknowns) == [
        *["x[0,0,0]", "x[0,0,1]", "x[0,1,0]", "x[0,1,1]"],
        *["x[1,0,0]", "x[1,0,1]", "x[1,1,0]", "x[1,1,1]"],
    ]
    assert list(B.rows) == [f"z[{f},0,{x}]" for f in range(4) for x in range(2)]
    assert list(B.coefficients) == [f"W[{f},0,{t},0]" for f in range(4) for t in range(2)]


def test_order_of_gradient_rows_is_channel_then_filter_then_tap() -> None:
    A = ca.gradient_equations(LAYER)
    # Filters 0 and 1 see channel 0, filters 2 and 3 see channel 1; the second index counts within the group.
    assert list(A.rows) == [f"dL/dW[{f},0,{t},0]" for f in range(4) for t in range(2)]
    two = ca.gradient_equations(ca.Conv1d(2, 1).place((2, 1)))
    assert list(two.rows) == ["dL/dW[0,0,0]", "dL/dW[1,0,0]", "dL/dW[0,1,0]", "dL/dW[1,1,0]"]
    assert list(two.coefficients) == ["k[0,0]", "k[1,0]"]


def test_a_linear_layer_has_outer_products_for_gradient_equations() -> None:
    k, gradient = np.array([2.0, 3.0]), np.array([[2.0, 4.0, 6.0], [3.0, 6.0, 9.0]])
    A = ca.gradient_equations(ca.Linear(2).place((3,)), k, gradient)
    assert A.matrix.toarray().tolist() == [[2, 0, 0], [3, 0, 0], [0, 2, 0], [0, 3, 0], [0, 0, 2], [0, 0, 3]]
    assert A.rhs.tolist() == [2, 3, 4, 6, 6, 9]
    assert list(A.unknowns) == ["x[0]", "x[1]", "x[2]"]


def system(seed: int = 0) -> ca.LinearSystem:
    """A small system with values and right-hand sides."""
    rng = np.random.default_rng(seed)
    return ca.gradient_equations(
        LAYER, rng.standard_normal(LAYER.output_shape), rng.standard_normal(LAYER.weight_shape)
    )


@given(st.lists(st.booleans(), min_size=8, max_size=8))
def test_select_keeps_rows_with_their_names_kinds_and_right_hand_sides(keep) -> None:
    whole = system()
    part = whole.select(keep)
    chosen = np.flatnonzero(keep)
    assert part.shape == (len(chosen), 8)
    assert list(part.rows) == [whole.rows[i] for i in chosen]
    assert list(part.kinds) == ["gradient"] * len(chosen)
    assert np.array_equal(part.matrix.toarray(), whole.matrix.toarray()[chosen])
    assert np.array_equal(part.rhs, whole.rhs[chosen])
    assert part.coefficients is whole.coefficients


def test_select_twice_is_select_once() -> None:
    whole = system()
    twice = whole.select(np.arange(8) != 2).select(np.arange(7) % 2 == 0)
    assert list(twice.rows) == [whole.rows[i] for i in (0, 3, 5, 7)]


def test_stack_joins_rows_and_keeps_coefficients_apart() -> None:
    rng = np.random.default_rng(1)
    k, W, x = (rng.standard_normal(s) for s in (LAYER.output_shape, LAYER.weight_shape, LAYER.input_shape))
    B = ca.weight_equations(LAYER, W, output=np.ones(LAYER.output_shape))
    A = ca.gradient_equations(LAYER, k, W)
    both = ca.stack(B, A)
    assert both.shape == (16, 8)
    assert list(both.rows) == [*B.rows, *A.rows]
    assert list(both.kinds) == ["weight"] * 8 + ["gradient"] * 8
    assert np.allclose(both.matrix @ x.ravel(), np.concatenate([B.matrix @ x.ravel(), A.matrix @ x.ravel()]))
    assert np.array_equal(both.rhs, np.concatenate([B.rhs, A.rhs]))
    assert list(both.coefficients) == [*B.coefficients, *A.coefficients]
    # Selecting rows of a stack crosses the seam.
    seam = both.select((np.arange(16) > 5) & (np.arange(16) < 10))
    assert list(seam.rows) == [B.rows[6], B.rows[7], A.rows[0], A.rows[1]]
    assert list(seam.kinds) == ["weight", "weight", "gradient", "gradient"]


def test_stack_of_a_stack_still_names_everything() -> None:
    B, A = ca.weight_equations(LAYER), ca.gradient_equations(LAYER)
    three = ca.stack(ca.stack(B, A), B)
    assert list(three.rows) == [*B.rows, *A.rows, *B.rows]
    assert list(three.coefficients) == [*B.coefficients, *A.coefficients, *B.coefficients]
    values = [np.random.default_rng(i).standard_normal(len(s.coefficients)) for i, s in enumerate((B, A, B))]
    apart = np.vstack([s.evaluate(v).toarray() for s, v in zip((B, A, B), values, strict=True)])
    assert np.array_equal(three.evaluate(np.concatenate(values)).toarray(), apart)


def weights(*, values: bool, rhs: bool) -> ca.LinearSystem:
    return ca.weight_equations(
        LAYER,
        np.arange(8.0).reshape(LAYER.weight_shape) if values else None,
        output=np.arange(8.0).reshape(LAYER.output_shape) if rhs else None,
    )


def gradients(*, values: bool, rhs: bool) -> ca.LinearSystem:
    return ca.gradient_equations(
        LAYER,
        10 + np.arange(8.0).reshape(LAYER.output_shape) if values else None,
        10 + np.arange(8.0).reshape(LAYER.weight_shape) if rhs else None,
    )


@pytest.mark.parametrize("rhs", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("values", [True, False])
def test_stack_keeps_every_right_hand_side_that_there_is(values, rhs) -> None:
    B, A = weights(values=values, rhs=rhs[0]), gradients(values=values, rhs=rhs[1])
    both = ca.stack(B, A)
    assert (both.values is None) == (not values)
    if values:
        assert np.array_equal(both.values, np.concatenate([B.values, A.values]))
    if not any(rhs):
        assert both.rhs is None
        return
    nothing = np.full(8, np.nan)
    expected = [system.rhs if given else nothing for system, given in zip((B, A), rhs, strict=True)]
    assert np.array_equal(both.rhs, np.concatenate(expected), equal_nan=True)


@pytest.mark.parametrize("rhs", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("first_has", [True, False])
def test_stack_refuses_values_of_one_system_only_and_says_what_to_do(first_has, rhs) -> None:
    B, A = weights(values=first_has, rhs=rhs[0]), gradients(values=not first_has, rhs=rhs[1])
    with pytest.raises(ca.ParameterError, match="stack needs values for both systems or for neither") as caught:
        ca.stack(B, A)
    has, lacks = (B, A) if first_has else (A, B)
    assert f"got {has!r} and {lacks!r}" in str(caught.value)
    assert "at_random(seed)" in str(caught.value)
    assert ca.stack(*(s if s.values is not None else s.at_random(0) for s in (B, A))).values is not None


def test_evaluate_gives_shared_coefficients_one_value() -> None:
    A = ca.gradient_equations(ca.Conv1d(1, 2).place((1, 4)))
    numbers = A.evaluate(np.array([2, 3, 5]))
    assert numbers.dtype.kind == "i"
    assert numbers.toarray().tolist() == [[2, 3, 5, 0], [0, 2, 3, 5]]


def test_a_zero_among_the_values_stays_an_entry_of_the_pattern() -> None:
    A = ca.gradient_equations(ca.Conv1d(1, 2).place((1, 3)), [[0.0, 7.0]])
    assert A.pattern.nnz == A.matrix.nnz == 4


def test_names_behave_like_a_list_that_is_never_written_out() -> None:
    names = Names("x", (2, 3))
    assert (names[0], names[-1], len(names)) == ("x[0,0]", "x[1,2]", 6)
    assert list(names) == [f"x[{i},{j}]" for i in range(2) for j in range(3)]
    assert "x[1,1]" in names
    assert names.index("x[1,0]") == 3
    for outside in (6, -7):
        with pytest.raises(IndexError):
            names[outside]
    assert list(Names.joined([])) == []
    assert repr(names) == "<6 names: x[0,0], x[0,1], x[0,2], …>"
    assert repr(Names("b", (2,))) == "<2 names: b[0], b[1]>"


def test_a_system_prints_what_it_is() -> None:
    assert repr(system()) == (
        "<gradient equations of layer 'conv' (Conv2d): 8 rows, 8 unknowns, 16 entries, with values>"
    )
    both = ca.stack(ca.weight_equations(LAYER), ca.gradient_equations(LAYER))
    assert repr(both).startswith("<weight and gradient equations of layer 'conv'")
    assert repr(both).endswith("from shapes>")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: ca.weight_equations(LAYER, np.ones((4, 2, 2, 1))),
            r"weight must have shape \(4, 1, 2, 1\), got \(4, 2",
        ),
        (
            lambda: ca.weight_equations(LAYER, output=np.ones((4, 2))),
            r"output must have shape \(4, 1, 2\), got \(4, 2\)",
        ),
        (
            lambda: ca.weight_equations(LAYER, bias=np.ones(3), output=np.ones((4, 1, 2))),
            r"bias must have shape \(4,\), got \(3,\)",
        ),
        (lambda: ca.gradient_equations(LAYER, np.ones(8)), r"output_gradient must have shape \(4, 1, 2\), got \(8,\)"),
        (
            lambda: ca.gradient_equations(LAYER, weight_gradient=np.ones(2)),
            r"weight_gradient must have shape \(4, 1, 2, 1",
        ),
        (lambda: ca.bias_equations(LAYER, np.ones(5)), r"bias_gradient must have shape \(4,\), got \(5,\)"),
        (lambda: ca.bias_equations(ca.Linear(2, bias=False).place((3,), "head")), "'head' has no bias"),
        (lambda: ca.weight_equations(ca.ReLU().place((3,), "act")), r"layer act \(ReLU\) has no weight"),
        (lambda: ca.gradient_equations(ca.Flatten().place((3,), "flat")), r"layer flat \(Flatten\) has no weight"),
        (lambda: system().select([True, False]), r"one entry for each of 8 rows, got \(2,\)"),
        (lambda: system().select(np.arange(8)), r"boolean mask .* got \(8,\) of int64; .* np.isin\(np.arange\(8\)"),
        (
            lambda: system().evaluate([1.0, 2.0]),
            r"a number for each of 8 coefficients, <8 names: k.*, got shape \(2,\)",
        ),
        (lambda: system().evaluate(["1"] * 8), r"a number for each of 8 coefficients, .* of <U1"),
        (lambda: ca.weight_equations(LAYER, bias=np.ones(3)), r"bias must have shape \(4,\), got \(3,\)"),
        (lambda: ca.gradient_equations(LAYER, np.ones((1, 4, 1, 2))), "leave out the batch axis"),
        (lambda: ca.weight_equations(LAYER, np.ones(4)), r"that is \(filters, channels / groups, \*kernel\)"),
        (lambda: ca.stack(system(), ca.bias_equations(LAYER)), "stack needs two systems over the same unknowns"),
        (lambda: ca.stack(system(), ca.gradient_equations(ca.Linear(2).place((8,)))), "over the same unknowns"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()
