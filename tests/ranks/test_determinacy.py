"""Determined unknowns, three ways, against brute force: is the unit vector in the row space?"""

import numpy as np
import pytest

import constraint_algebra as ca
from tests.rank_oracles import exactly_determined, random_layers, random_rows

SMALL = {1: 9, 2: 4, 3: 3}


def cases(count, seed):
    """A layer of few unknowns, its system with values and some rows struck out, the same rows as exact integers."""
    rng = np.random.default_rng(seed)
    for layer in random_layers(count, seed, largest=SMALL):
        if layer.unknowns > 40:
            continue
        W, k = rng.normal(size=layer.weight_shape), rng.normal(size=layer.output_shape)
        mask = rng.random(layer.output_shape) < rng.choice([0.2, 0.6, 1.0])
        B = ca.weight_equations(layer, W).select(mask.ravel())
        exact = random_rows(layer, rng, weight_mask=mask)
        A = ca.gradient_equations(layer, k)
        yield layer, ca.stack(B, A), np.concatenate(exact)
        yield layer, B, exact[0]
        yield layer, A, exact[1]


@pytest.mark.slow
def test_generic_and_numerical_answers_agree_with_brute_force():
    partly = total = 0
    for layer, system, exact in cases(110, seed=1):
        expected = exactly_determined(exact).reshape(layer.input_shape)
        np.testing.assert_array_equal(ca.determined(system), expected, err_msg=str(layer))
        numerical = ca.null_space_norms(system)
        np.testing.assert_array_equal(numerical.determined, expected, err_msg=str(layer))
        assert not numerical.norm_gap[0] > 1e-10  # NaN where nothing is determined
        assert not numerical.norm_gap[1] < 1e-5
        partly += 0 < expected.sum() < layer.unknowns
        total += 1
    assert partly > 30
    assert total > 150


def test_structural_answer_is_brute_force_with_all_entries_independent():
    """The unit vector of j is in the row space of a generic matrix of the pattern."""
    rng = np.random.default_rng(2)
    partly = 0
    for layer, system, _ in cases(110, seed=3):
        independent = system.pattern.toarray() * 0
        places = system.pattern.nonzero()
        independent[places] = rng.integers(1, 2**31, size=len(places[0]))
        expected = exactly_determined(independent).reshape(layer.input_shape)
        np.testing.assert_array_equal(ca.determined(system, method="structural"), expected)
        partly += 0 < expected.sum() < layer.unknowns
    assert partly > 30


def test_determined_unknowns_of_a_layer_and_of_its_system_are_the_same():
    for layer in random_layers(60, seed=4, largest=SMALL):
        system = ca.stack(ca.weight_equations(layer), ca.gradient_equations(layer))
        np.testing.assert_array_equal(ca.determined(system), ca.generic_rank(layer).determined)


def test_shared_values_make_the_structural_answer_wrong_and_the_generic_one_right():
    layer = ca.Conv2d(2, 3).place((1, 8, 8))
    system = ca.weight_equations(layer)
    assert ca.determined(system, method="structural").all()
    assert not ca.determined(system, method="generic").any()
    values = ca.weight_equations(layer, np.random.default_rng(5).normal(size=layer.weight_shape))
    assert not ca.determined(values, method="numerical").any()


def test_a_pixel_that_no_output_touches_has_norm_one():
    layer = ca.Conv1d(2, 2, stride=3).place((1, 5))
    norms = ca.null_space_norms(ca.weight_equations(layer, [[[1.0, 2.0]], [[3.0, 5.0]]]))
    np.testing.assert_allclose(norms.norms, [[0, 0, 1, 0, 0]], atol=1e-12)
    assert norms.rank == 4
    assert norms.rank_gap[0] > 1
    assert np.isnan(norms.rank_gap[1])


def test_the_tolerances_are_those_given():
    layer = ca.Linear(2).place((2,))
    system = ca.weight_equations(layer, [[1.0, 0.0], [1.0, 1e-7]])
    assert ca.determined(system, method="numerical").all()
    coarse = ca.null_space_norms(system, rtol=1e-6)
    assert coarse.rank == 1
    assert coarse.rank_gap[1] < 1 < coarse.rank_gap[0]
    assert coarse.determined.tolist() == [False, False]
    assert ca.null_space_norms(system, rtol=1e-6, tolerance=1e-6).determined.tolist() == [True, False]


def test_numerical_needs_values():
    system = ca.weight_equations(ca.Linear(2).place((2,)))
    with pytest.raises(ca.ParameterError, match="from shapes alone"):
        ca.determined(system, method="numerical")


def test_an_unknown_method_is_refused():
    system = ca.weight_equations(ca.Linear(2).place((2,)))
    with pytest.raises(ca.UnknownNameError, match="structural"):
        ca.determined(system, method="guess")
