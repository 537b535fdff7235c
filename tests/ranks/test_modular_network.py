"""A random network over residues: the adjoint of what goes up is what goes down, and both are what PyTorch computes."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

import constraint_algebra as ca
from constraint_algebra.numerics.modular import PRIME, Echelon
from constraint_algebra.ranks import modular_layers
from constraint_algebra.ranks.linear_part import LinearPart, as_residues
from constraint_algebra.theory.graph_feasibility import drawn_network
from tests.graph_cases import random_graph

P = int(PRIME)


def inner(a, b):
    return sum(int(x) * int(y) for x, y in zip(a.ravel(), b.ravel(), strict=True)) % P


@pytest.mark.parametrize("seed", range(6))
def test_down_is_the_transpose_of_up(seed) -> None:
    net, rng = random_graph(seed).network, np.random.default_rng(seed)
    drawn = drawn_network(net, 0.6, seed)
    for layer in net:
        inputs = {n: rng.integers(0, P, (*net.shape_of(n), 1)).astype(float) for n in layer.inputs}
        k = rng.integers(0, P, (*layer.output_shape, 1)).astype(float)
        arriving = drawn.down(layer, k)
        below = sum(inner(arriving[n], x) for n, x in inputs.items()) % P
        assert inner(drawn.up(layer, [inputs[n] for n in layer.inputs]), k) == below, layer.name


@pytest.mark.parametrize("seed", range(4))
def test_output_gradients_are_the_chain_rule_over_all_users(seed) -> None:
    net, rng = random_graph(seed).network, np.random.default_rng(seed)
    drawn = drawn_network(net, 0.6, seed)
    x = [rng.integers(0, P, (*net.input_shape, 1)).astype(float)]
    for layer in net:
        x.append(drawn.up(layer, [x[n] for n in layer.inputs]))
    assert inner(drawn.gradients[0], x[0]) == inner(drawn.gradients[-1], x[-1])
    for number, k in enumerate(drawn.gradients):
        assert not (k != 0)[~drawn.support[number]].any()


def test_values_obey_the_layers_of_a_network() -> None:
    net = ca.Network((1, 4), [ca.Conv1d(2, 3), ca.ReLU(), ca.MaxPool1d(2), ca.AvgPool1d(1), ca.Hardtanh(-0.5, 2.0)])
    drawn = drawn_network(net, {"1": np.array([[True, False], [True, True]]), "4": np.array([[True], [False]])}, 0)
    x, z, y, won, mean, out = (value.astype(int) for value in drawn.values)
    W, b = drawn.weight(net[0]).astype(int), z[:, 0]
    for f in range(2):
        b = (z[f, 0] - sum(int(W[f, 0, t]) * int(x[0, t]) for t in range(3))) % P
        assert z[f, 1] == (b + sum(int(W[f, 0, t]) * int(x[0, 1 + t]) for t in range(3))) % P
    assert y.tolist() == [[z[0, 0], 0], [z[1, 0], z[1, 1]]]
    assert won[0, 0] == y[0, 0]  # the active entry
    np.testing.assert_array_equal(mean, won)
    assert out[1, 0] * 2 % P == P - 1  # cut off at -1/2


def test_floats_stand_for_the_fractions_next_to_them() -> None:
    for value in (Fraction(1, 9), Fraction(-3, 7), Fraction(229, 1000)):
        assert int(as_residues(np.array([float(value)]))[0]) * value.denominator % P == value.numerator % P
    twice = LinearPart.of([sp.csr_array(np.eye(3)), sp.csr_array(np.eye(3))])
    assert twice.is_diagonal
    assert twice.up(np.ones((3, 1))).ravel().tolist() == [2.0] * 3
    nothing = LinearPart.of([sp.csr_array(np.eye(3)), sp.csr_array(-np.eye(3))])
    assert not nothing.met_above(np.ones(3, dtype=bool)).any()


def test_combinations_span_the_rows_of_many_filters() -> None:
    layer, rng = ca.Conv2d(12, 3, padding=1).place((2, 4, 4)), np.random.default_rng(0)
    k = rng.integers(0, P, (12, 16)).astype(float)
    usable = rng.random((12, 9)) < 0.7
    x = rng.integers(0, P, (2, 4, 4, 20)).astype(float)
    x[..., 10:] = x[..., :10] * 2 % P  # columns with relations, so that the rank is not full
    few = list(modular_layers.spanning_row_blocks(layer, k, usable, x, rng))
    every = list(modular_layers.gradient_row_blocks(layer, k, usable, x))
    assert sum(map(len, few)) == 2 * 16 < sum(map(len, every))
    form = Echelon(20)
    for block in few:
        form.absorb(block)
    rank = form.rank
    assert 0 < rank < 20
    for block in every:
        form.absorb(block)
    assert form.rank == rank
