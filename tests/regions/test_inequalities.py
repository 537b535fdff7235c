"""The room of every activation against plain forward passes: inside the pattern holds, just beyond it breaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.regions.inequalities import inequalities, room
from tests.region_cases import case_of_pieces
from tests.twin_cases import Case, case

CHAINS = [
    ((ca.ReLU(),), [-1.0, 0.0, 2.0], [np.inf, np.inf, 2.0], [1.0, 0.0, np.inf]),
    ((ca.LeakyReLU(0.5),), [-1.0, 0.0, 2.0], [np.inf, np.inf, 2.0], [1.0, 0.0, np.inf]),
    ((ca.Hardtanh(-0.5, 1.0),), [-0.6, 0.25, 1.5], [np.inf, 0.75, 0.5], [0.1, 0.75, np.inf]),
    ((ca.Hardtanh(-0.5, 1.0),), [-0.5, 1.0, 0.5], [np.inf, 0.0, 1.0], [0.0, np.inf, 0.5]),
    ((ca.ReLU(), ca.Hardtanh(-1.0, 1.0)), [-2.0, 0.5, 3.0], [np.inf, 0.5, 2.0], [2.0, 0.5, np.inf]),
    ((ca.LeakyReLU(0.5), ca.Hardtanh(-0.5, 1.0)), [-2.0, -0.4, 3.0], [np.inf, 0.6, 2.0], [1.0, 0.4, np.inf]),
    ((ca.Hardtanh(-1.0, 1.0), ca.LeakyReLU(0.5)), [-2.0, -0.4, 0.3], [np.inf, 0.6, 0.3], [1.0, 0.4, 0.7]),
    ((ca.ReLU(), ca.Sigmoid()), [-2.0, 0.0, 3.0], [np.inf] * 3, [2.0, 0.0, np.inf]),
    ((ca.Identity(), ca.Identity()), [-2.0, 0.0, 3.0], [np.inf] * 3, [np.inf] * 3),
]


@pytest.mark.parametrize(("activations", "z", "fall", "rise"), CHAINS)
def test_how_far_an_output_may_move_through_activations_that_follow_each_other(activations, z, fall, rise) -> None:
    net = ca.Network((3,), [ca.Linear(3), *activations, ca.Linear(2)])
    parameters = {name: np.zeros(shape) for name, shape in net.parameter_shapes.items()}
    parameters["0.bias"] = np.array(z)
    found = room(net, net.forward(parameters, np.zeros(3)), net[0])
    np.testing.assert_allclose(found, (fall, rise))


def slopes(c: Case, image: np.ndarray) -> np.ndarray:
    """The slope of every activation by PyTorch."""
    value, found = torch.tensor(image)[None], []
    for module in c.model:
        if isinstance(module, torch.nn.ReLU | torch.nn.LeakyReLU | torch.nn.Hardtanh):
            z = value.detach().requires_grad_()
            found.append(torch.autograd.grad(module(z).sum(), z)[0].ravel().numpy())
        value = module(value).detach()
    return np.concatenate([np.zeros(0), *found])


def rows_of(c: Case, basis: np.ndarray, reach: float):
    n = c.image.size
    values = c.network.forward(c.parameters, c.image)
    bounds = np.full(n, -reach), np.full(n, reach)
    return inequalities(c.network, c.parameters, values, c.network.bilinear, basis, bounds)


@pytest.mark.parametrize("block", [*range(1), *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 4))])
def test_a_pattern_ends_where_the_inequalities_say(block: int) -> None:
    """In all four blocks: 120 networks, along random lines in random subspaces."""
    met = 0
    for seed in range(30 * block, 30 * block + 30):
        c, rng = case_of_pieces(seed), np.random.default_rng(seed)
        n = c.image.size
        basis = np.linalg.qr(rng.standard_normal((n, int(rng.integers(1, n)))))[0]
        found = rows_of(c, basis, 10.0)
        np.testing.assert_allclose(found.reduced, found.rows @ basis, atol=1e-10)
        np.testing.assert_allclose(np.sqrt((found.rows.toarray() ** 2).sum(axis=1)), 1)
        assert (found.slack >= 0).all()
        way = basis @ rng.standard_normal(basis.shape[1])
        way *= 8 / np.abs(way).max()
        rise = found.rows @ way
        share = float((found.slack[rise > 1e-9] / rise[rise > 1e-9]).min(initial=1.0))
        here, step = slopes(c, c.image), way.reshape(c.image.shape)
        np.testing.assert_array_equal(slopes(c, c.image + share * (1 - 1e-7) * step), here)
        if 1e-6 < share < 1:
            met += 1
            assert (slopes(c, c.image + share * (1 + 1e-6) * step) != here).any()
    assert met > 10


def test_rows_that_nothing_within_the_bounds_violates_are_left_out() -> None:
    c = case(ca.Network((2,), [ca.Linear(2), ca.ReLU(), ca.Linear(2)]), np.array([0.5, 0.5]))
    c.model[0].weight.data = torch.eye(2, dtype=torch.float64)
    c.model[0].bias.data = torch.tensor([0.0, 5.0], dtype=torch.float64)
    assert rows_of(c, np.eye(2), 1.0).rows.toarray().tolist() == [[-1.0, 0.0]]  # the second has 5.5 of room
    assert rows_of(c, np.eye(2), 6.0).rows.shape == (2, 2)
    assert rows_of(c, np.eye(2)[:, 1:], 6.0).rows.toarray().tolist() == [[0.0, -1.0]]  # the first does not move
    assert rows_of(c, np.eye(2)[:, :0], 6.0).rows.shape == (0, 2)


def test_too_many_are_refused(monkeypatch) -> None:
    c = case_of_pieces(1)
    monkeypatch.setenv("CONSTRAINT_ALGEBRA_MEMORY", "100")
    with pytest.raises(ca.MemoryLimitError, match="sides of"):
        rows_of(c, np.eye(c.image.size), 10.0)
