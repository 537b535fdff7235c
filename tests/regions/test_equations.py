"""The rows of the whole map against automatic differentiation, and what a polytope asks of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

import constraint_algebra as ca
from constraint_algebra.networks.losses import loss_gradients
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.regions.equations import WholeEquations
from constraint_algebra.solvers.null_space import NullSpace
from tests.region_cases import EXPANDING, NARROWING, case_of_pieces, jacobian, kernel_of
from tests.twin_cases import Case, case

LEAKY = [NARROWING[0], ca.LeakyReLU(0.2), *NARROWING[1:]]
ISSUE = {
    "one filter above eight": ((1, 12), EXPANDING, 7),
    "two filters above 24": ((1, 8, 8), NARROWING, 46),
    "an activation between": ((1, 8, 8), LEAKY, 64),
    "put together they suffice": ((1, 3), [ca.Conv1d(8, 2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(2)], 3),
    "no activation at all": ((2, 9), [ca.Conv1d(1, 3), ca.Conv1d(2, 2), ca.Flatten(), ca.Linear(3)], 12),
}


def equations_of(c: Case, loss: str | None = "cross_entropy") -> WholeEquations:
    values = c.network.forward(c.parameters, c.image)
    k = loss_gradients(values[-1], c.label, loss)
    return WholeEquations(c.network, c.parameters, values, k, centred=loss == "cross_entropy")


@pytest.mark.parametrize("block", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 10))])
def test_the_kernel_is_that_of_automatic_differentiation(block: int) -> None:
    """In all ten blocks: 200 networks."""
    for seed in range(20 * block, 20 * block + 20):
        c = case_of_pieces(seed)
        found, (rank, norms) = equations_of(c), kernel_of(jacobian(c))
        assert found.nullity == c.image.size - rank, seed
        np.testing.assert_array_equal(found.fixed.ravel(), norms < 1e-8)
        assert found.gap[0] > 1e3 * found.gap[1]


@pytest.mark.parametrize(("shape", "layers", "rank"), ISSUE.values(), ids=ISSUE)
def test_output_gradients_that_a_narrow_layer_hands_down_are_not_generic(shape, layers, rank) -> None:
    for seed in range(3):
        c = case(ca.Network(shape, layers), np.random.default_rng(seed).random(shape), seed=seed)
        found = equations_of(c)
        assert found.layers[-1].rank == c.image.size - found.nullity == kernel_of(jacobian(c))[0] == rank
        assert found.fixed.all() == (found.nullity == 0)
        assert found.fixed.any() == (found.nullity == 0)


@pytest.mark.parametrize("seed", [1, 4, 7, 12, 30, 31])
def test_rows_explain_whatever_is_orthogonal_to_the_kernel(seed: int) -> None:
    found, rng = equations_of(case_of_pieces(seed)), np.random.default_rng(seed)
    dense, vectors = found.matrix.toarray(), rng.standard_normal((len(found.basis), 3))
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.nullity), atol=1e-12)
    np.testing.assert_allclose(dense @ found.basis, 0, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1, rtol=1e-9)
    multipliers = found.multipliers(vectors)
    np.testing.assert_allclose(dense.T @ multipliers, vectors - found.project(vectors), atol=1e-8)
    np.testing.assert_allclose(found.combined(multipliers), dense.T @ multipliers, atol=1e-8)
    np.testing.assert_allclose(found.sizes(multipliers), np.abs(dense).T @ np.abs(multipliers), rtol=1e-9)
    np.testing.assert_allclose(found.applied(vectors[:, 0]), dense @ vectors[:, 0], atol=1e-12)
    np.testing.assert_allclose(found.lengths(), np.abs(dense).sum(axis=1), rtol=1e-12)
    other = found.well_conditioned.toarray()
    assert np.linalg.matrix_rank(other, tol=1e-10) == np.linalg.matrix_rank(dense, tol=1e-10)
    np.testing.assert_allclose(other @ found.basis, 0, atol=1e-10)
    assert len(found.blur) == len(dense)
    assert (found.blur >= 1).all()


def test_a_sigmoid_behind_the_first_layer_keeps_that_layers_output() -> None:
    """The kernel is that of the first layer's own equations, whichever layers stand above."""
    net = ca.Network((3, 8, 8), [ca.Conv2d(2, 3, stride=2), ca.Sigmoid(), ca.Conv2d(2, 2), ca.Flatten(), ca.Linear(4)])
    c = case(net, np.random.default_rng(0).random((3, 8, 8)))
    found = equations_of(c)
    B = unit_rows(ca.weight_equations(net[0], c.parameters["0.weight"]).matrix)[0]
    null = NullSpace(net[0], np.moveaxis(found.k["0"], -1, 0), sp.csr_array(B))
    assert found.kept == "0"
    assert found.nullity == null.nullity > 0
    np.testing.assert_allclose(found.basis @ (found.basis.T @ null.basis), null.basis, atol=1e-9)


def test_a_bend_higher_up_keeps_the_layer_below_it_and_frees_what_is_lower() -> None:
    layers = [ca.Conv1d(3, 2), ca.LeakyReLU(0.2), ca.Conv1d(1, 2), ca.Tanh(), ca.Flatten(), ca.Linear(3)]
    c = case(ca.Network((2, 9), layers), np.random.default_rng(1).random((2, 9)))
    found, below = equations_of(c), case(ca.Network((2, 9), [*layers[:3], ca.Identity(), *layers[4:]]), c.image)
    assert (found.kept, [layer.layer for layer in found.layers]) == ("2", ["0", "2", "2, output"])
    assert equations_of(below).kept is None
    step = 1e-3 * found.basis[:, 0].reshape(2, 9)
    assert found.nullity > 0
    before, after = (c.network.forward(c.parameters, x) for x in (c.image, c.image + step))
    assert np.abs(after[1] - before[1]).max() > 1e-5  # the first layer's output moves
    np.testing.assert_allclose(after[3], before[3], atol=1e-14)  # that of the kept one does not


def test_a_bend_above_the_layer_that_gives_its_whole_input_does_not_matter() -> None:
    layers = [ca.Conv1d(2, 2), ca.ReLU(), ca.Flatten(), ca.Linear(3), ca.Tanh(), ca.Linear(2)]
    c = case(ca.Network((2, 9), layers), np.random.default_rng(1).random((2, 9)))
    found = equations_of(c)
    assert (found.kept, found.covered) == (None, True)
    assert [layer.layer for layer in found.layers] == ["0", "3"][: len(found.layers)]
    assert c.network.start.name == "3"


def test_where_k_of_a_group_is_zero_the_layers_above_count() -> None:
    """The second filter of the grouped layer passes nothing back, so that its half of the input shows higher up."""
    layers = [ca.Conv1d(2, 2, groups=2), ca.Flatten(), ca.Linear(2)]
    c = case(ca.Network((2, 2), layers), np.full((2, 2), 0.5))
    c.model[2].weight.data[:, 1] = 0.0
    found = equations_of(c)
    assert not found.covered
    assert found.nullity == c.image.size - kernel_of(jacobian(c))[0] == 1


def test_it_goes_to_other_processes() -> None:
    found = equations_of(case_of_pieces(1))
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.basis, found.basis)


def test_too_much_is_refused_before_it_is_allocated(monkeypatch) -> None:
    c = case_of_pieces(1)
    monkeypatch.setenv("CONSTRAINT_ALGEBRA_MEMORY", "2K")
    with pytest.raises(ca.MemoryLimitError, match="directions open, would take"):
        equations_of(c)


@pytest.mark.slow
def test_at_32_by_32_a_twin_changes_the_first_layers_output() -> None:
    first, narrow = ca.Conv2d(12, 5, stride=2, padding=2), ca.Conv2d(2, 3, stride=2, padding=1)
    net = ca.Network((3, 32, 32), [first, ca.ReLU(), narrow, ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(10)])
    sample = ca.samples.load("cifar10:3")
    c = case(net, sample.image, sample.label)
    found = c.set()
    assert found.whole
    assert found.nullity > 1000
    P, rng = found.polytope, np.random.default_rng(0)
    twin = c.image + P.draw_in(P.null.basis @ rng.standard_normal(found.nullity)).reshape(c.image.shape)
    check = c.verify(np.clip(twin, 0, 1))
    assert check.equal, check
    assert np.abs(twin - c.image).max() > 1e-5
    here, there = (c.network.forward(c.parameters, x)[1] for x in (c.image, twin))
    assert np.abs(here - there)[found.passing].max() > 1e-6
