"""Systems from shapes and systems with values: matrix, rank and null space, against dense singular values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la

import constraint_algebra as ca
from tests.rank_oracles import random_layers

LAYER = ca.Conv2d(4, (2, 1), groups=2).place((2, 2, 2), "conv")


def drawn() -> ca.LinearSystem:
    """A small system with values."""
    return ca.gradient_equations(LAYER).at_random(0)


DEFICIENT = ca.Conv2d(2, 3).place((1, 8, 8))  # weight equations: ones in the place of weights have rank 36, generic 56


def test_shapes_alone_give_no_matrix_that_could_be_taken_for_the_system() -> None:
    for bare in (ca.weight_equations(DEFICIENT), ca.gradient_equations(DEFICIENT)):
        for wrong in (lambda system=bare: system.matrix, bare.null_space):
            with pytest.raises(ca.ParameterError) as caught:
                wrong()
            said = str(caught.value)
            assert repr(bare) in said
            for way in (
                ".pattern",
                ".at_random(seed)",
                ".evaluate(values)",
                "generic_rank",
                "rank_ladder",
                "determined",
            ):
                assert way in said
        # All that is true of shapes still works on them.
        assert ca.rank_ladder(bare).generic == bare.rank()
        assert ca.determined(bare).shape == (1, 8, 8)
        assert ca.structural_rank(bare) == ca.dulmage_mendelsohn(bare).structural_rank
        assert ca.constraint_graph(bare).number_of_edges() == bare.pattern.nnz
        assert ca.components(bare)
        assert bare.select(np.ones(bare.shape[0], dtype=bool)).values is None


def test_bias_equations_are_numbers_without_being_given_any() -> None:
    assert ca.bias_equations(LAYER).rank() == 4


@pytest.mark.parametrize("kind", ["weight", "gradient", "both"])
def test_random_values_have_the_generic_rank(kind) -> None:
    for number, layer in enumerate(random_layers(40, seed=11, largest={1: 9, 2: 4, 3: 3})):
        B, A = ca.weight_equations(layer), ca.gradient_equations(layer)
        bare = {"weight": B, "gradient": A, "both": ca.stack(B, A)}[kind]
        assert bare.rank() == ca.rank_ladder(bare).generic
        drawn = bare.at_random(number)
        assert drawn.rank() == bare.rank(), layer
        assert drawn.rhs is None
        assert np.array_equal(drawn.values, bare.at_random(number).values)
        assert not np.array_equal(drawn.values, bare.at_random(number + 1).values)


def test_weights_and_output_gradients_of_one_seed_are_independent() -> None:
    layer = ca.Conv1d(2, 3).place((1, 5))  # as many weights as outputs
    B, A = ca.weight_equations(layer).at_random(3), ca.gradient_equations(layer).at_random(3)
    assert not np.intersect1d(B.values, A.values).size
    both = ca.stack(ca.weight_equations(layer), ca.gradient_equations(layer)).at_random(3)
    assert np.array_equal(both.values, ca.stack(B, A).values)
    twice = ca.stack(ca.weight_equations(layer), ca.weight_equations(layer)).at_random(3)
    assert len(np.unique(twice.values)) == len(twice.values)


@pytest.mark.parametrize("kind", ["weight", "gradient", "both"])
def test_the_null_space_is_that_of_a_dense_singular_value_decomposition(kind) -> None:
    sizes = set()
    for number, layer in enumerate(random_layers(60, seed=12, largest={1: 9, 2: 4, 3: 3})):
        B, A = ca.weight_equations(layer), ca.gradient_equations(layer)
        system = {"weight": B, "gradient": A, "both": ca.stack(B, A)}[kind].at_random(number)
        dense = system.matrix.toarray()
        space = system.null_space()
        basis = space.basis
        assert basis.shape == (system.shape[1], space.dimension)
        assert space.rank + space.dimension == system.shape[1]
        assert space.rank == system.rank() == ca.rank_ladder(system).numerical
        ladder = ca.rank_ladder(system)
        assert space.tolerance == pytest.approx(ladder.tolerance)
        assert space.gap == pytest.approx(ladder.gap, abs=1e-13, nan_ok=True)
        np.testing.assert_allclose(basis.T @ basis, np.eye(space.dimension), atol=1e-12)
        np.testing.assert_allclose(dense @ basis, 0, atol=1e-12 * np.abs(dense).max(initial=1))
        # All of it: the same projection as by SciPy.
        other = la.null_space(dense)
        np.testing.assert_allclose(basis @ basis.T, other @ other.T, atol=1e-8)
        sizes.add(space.dimension)
    assert len(sizes) > 5 - 2 * (kind == "both")


def test_the_null_space_states_its_tolerance_and_the_gap_and_takes_another() -> None:
    system = ca.weight_equations(ca.Linear(2).place((2,)), [[1.0, 0.0], [1.0, 1e-9]])
    fine, coarse = system.null_space(), system.null_space(rtol=1e-6)
    assert (fine.rank, fine.dimension, coarse.rank, coarse.dimension) == (2, 0, 1, 1)
    assert system.rank() == 2
    assert system.rank(rtol=1e-6) == 1
    assert coarse.gap[1] < coarse.tolerance < coarse.gap[0]
    assert coarse.gap[1] == pytest.approx(1e-9 / np.sqrt(2))
    assert np.isnan(fine.gap[1])
    assert np.abs(coarse.basis.ravel()) == pytest.approx([0, 1], abs=1e-8)
    assert "1 of 2 dimensions open, rank 1" in repr(coarse)


def test_equations_of_very_different_scales_lose_no_rank() -> None:
    k = np.random.default_rng(0).standard_normal(LAYER.output_shape) * np.logspace(0, -14, 4)[:, None, None]
    assert ca.gradient_equations(LAYER, k).rank() == ca.gradient_equations(LAYER).rank()


def test_zeros_among_the_values_open_directions_and_split_blocks() -> None:
    layer = ca.Conv1d(1, 2).place((1, 5))
    k = np.array([[1.0, 0.0, 2.0, 0.0]])
    space = ca.gradient_equations(layer, k).null_space()
    assert (space.rank, space.dimension) == (2, 3)
    nothing = ca.gradient_equations(layer, np.zeros((1, 4)))
    assert nothing.rank() == 0
    assert np.array_equal(nothing.null_space().basis, np.eye(5))
    empty = ca.gradient_equations(layer, k).select(np.zeros(2, dtype=bool))
    assert empty.null_space().dimension == 5


def test_coefficients_that_are_not_finite_are_named() -> None:
    k = np.ones(LAYER.output_shape)
    k[1, 0, 1] = np.nan
    system = ca.gradient_equations(LAYER, k)
    for call in (system.rank, system.null_space, lambda: ca.rank_ladder(system), lambda: ca.null_space_norms(system)):
        with pytest.raises(ca.NonFiniteError, match="coefficients must be finite, got nan in equation 2 at") as caught:
            call()
        row, column = caught.value.index
        assert np.isnan(system.matrix[row, column])
    sound = np.isfinite(system.matrix.sum(axis=1))
    assert system.select(sound).rank() == 4


def test_a_null_space_too_large_for_the_memory_is_refused_with_the_figure() -> None:
    layer = ca.Linear(1).place((30_000,))
    system = ca.weight_equations(layer, np.ones((1, 30_000)))
    for call in (system.null_space, system.rank, lambda: ca.null_space_norms(system)):
        with pytest.raises(ca.ShapeError, match=r"1 equations in 30,000 unknowns take about \d+ GiB, more than 4"):
            call()


def test_what_needs_another_kind_of_system_says_so() -> None:
    with pytest.raises(ca.ParameterError, match=r"rtol is a tolerance for numbers, got 0.1 for a system from shapes"):
        ca.weight_equations(LAYER).rank(rtol=0.1)
    with pytest.raises(ca.ParameterError, match="has values: take its matrix"):
        drawn().at_random(0)
    for wrong in (1.0, 2.0):
        with pytest.raises(ca.ParameterError, match="rtol"):
            drawn().null_space(rtol=wrong)
        with pytest.raises(ca.ParameterError, match="rtol"):
            ca.rank_ladder(drawn(), rtol=wrong)
