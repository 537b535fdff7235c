"""The whole map from shapes, in float64 and over the rationals: three ways, one rank, and that of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from tests.region_cases import EXPANDING, NARROWING, case_of_pieces, jacobian, kernel_of
from tests.twin_cases import case

LEAKY = [NARROWING[0], ca.LeakyReLU(0.2), *NARROWING[1:]]
BENT = {
    "tanh": ((1, 3), [ca.Conv1d(8, 2), ca.Tanh(), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(2)]),
    "sigmoid, narrow": ((2, 6), [ca.Conv1d(1, 3), ca.Sigmoid(), ca.Flatten(), ca.Linear(3)]),
    "softplus below two linear layers": (
        (1, 7),
        [ca.Conv1d(2, 3), ca.Softplus(), ca.Flatten(), ca.Linear(3), ca.ReLU(), ca.Linear(2)],
    ),
    "before the first weight": ((5,), [ca.Tanh(), ca.Linear(3)]),
}


@pytest.mark.parametrize(
    ("shape", "layers", "rank"),
    [((1, 12), EXPANDING, 7), ((1, 8, 8), NARROWING, 46), ((1, 8, 8), LEAKY, 64)],
    ids=["8 to 1", "24 to 2", "leaky"],
)
def test_three_arithmetics_find_one_rank(shape, layers, rank) -> None:
    net = ca.Network(shape, layers)
    c = case(net, np.random.default_rng(0).random(shape))
    rounded = {name: np.round(64 * values) / 64 for name, values in c.parameters.items()}
    image = np.round(64 * c.image) / 64
    for found in (
        ca.whole_map(net),
        ca.whole_map(net, c.parameters, c.image, 1),
        ca.whole_map(net, c.parameters, c.image),
        ca.whole_map(net, rounded, image, exact=True),
    ):
        assert found.rank == rank
        assert found.linear
        assert found.determined.shape == shape
        assert found.determined.all() == found.determined.any() == (rank == c.image.size)


@pytest.mark.parametrize("seed", range(12))
def test_for_numbers_it_is_that_of_automatic_differentiation(seed: int) -> None:
    c = case_of_pieces(seed)
    found, (rank, norms) = ca.whole_map(c.network, c.parameters, c.image, c.label), kernel_of(jacobian(c))
    assert found.rank == rank == found.layers[-1].rank
    assert found.arithmetic == "in float64"
    np.testing.assert_array_equal(found.determined.ravel(), norms < 1e-8)
    np.testing.assert_allclose(jacobian(c) @ found.basis, 0, atol=1e-9)
    assert found.pattern == ("with every activation on its side at this input" if slopes_matter(c) else "")


def slopes_matter(c) -> bool:
    return any(layer.is_activation for layer in c.network.layers)


@pytest.mark.parametrize(("shape", "layers"), BENT.values(), ids=BENT)
def test_where_an_activation_bends_it_is_the_jacobian_nearby(shape, layers) -> None:
    c = case(ca.Network(shape, layers), np.random.default_rng(1).random(shape))
    found = ca.whole_map(c.network, c.parameters, c.image, 1)
    rank, norms = kernel_of(bent_jacobian(c))
    assert not found.linear
    assert found.scope == "in a neighbourhood, to first order"
    assert (found.rank, found.layers[-1].rank) == (rank, rank)
    np.testing.assert_array_equal(found.determined.ravel(), norms < 1e-8)
    assert found.basis.shape == (c.image.size, found.nullity)
    np.testing.assert_allclose(bent_jacobian(c) @ found.basis, 0, atol=1e-9)


def bent_jacobian(c) -> np.ndarray:
    """At a fixed output gradient of `start`, here the first linear layer with one output position."""
    start = int(c.network.start.name)
    output = c.model[: start + 1](torch.tensor(c.image)[None])[0].detach().requires_grad_()
    above = c.model[start + 1 :](output[None])[0]
    (k,) = torch.autograd.grad(torch.nn.functional.cross_entropy(above[None], torch.tensor([c.label])), output)
    parameters = list(c.model[: start + 1].parameters())

    def of_input(x: torch.Tensor) -> torch.Tensor:
        sent = (c.model[: start + 1](x[None])[0] * k).sum()
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(sent, parameters, create_graph=True)])

    return torch.autograd.functional.jacobian(of_input, torch.tensor(c.image)).reshape(-1, c.image.size).numpy()


def test_without_a_target_the_output_gradient_is_drawn() -> None:
    c = case_of_pieces(8)
    first, again = (ca.whole_map(c.network, c.parameters, c.image, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.basis, again.basis)
    k = np.random.default_rng(3).standard_normal(4)
    rank, _ = kernel_of(jacobian(c, torch.tensor(k - k.mean())))
    assert first.rank == rank


def test_what_does_not_go_together_is_refused() -> None:
    c = case_of_pieces(1)
    net, P, x = c.network, c.parameters, c.image
    for arguments, message in (
        ((P, None), "parameters came without input"),
        ((None, x), "input came without parameters"),
        ((None, None, 1), "target belongs to numbers"),
        ((P, x + np.nan), "input must be finite"),
        ((P, x, 7), "class from 0 to 3"),
    ):
        with pytest.raises(ca.ParameterError, match=message):
            ca.whole_map(net, *arguments)
    with pytest.raises(ca.ParameterError, match="exact belongs to numbers"):
        ca.whole_map(net, exact=True)
    with pytest.raises(ca.ParameterError, match="is not rational"):
        ca.whole_map(net, P, x, 1, exact=True)
    with pytest.raises(ca.ShapeError, match="without batch"):
        ca.whole_map(net, P, x[None], 1)
    with pytest.raises(ca.UnknownNameError, match="loss must be"):
        ca.whole_map(net, P, x, 1, loss="hinge")
    bent = ca.Network((2, 4), [ca.Conv1d(2, 2), ca.Tanh(), ca.Conv1d(2, 2)])
    values = {name: np.ones(shape) for name, shape in bent.parameter_shapes.items()}
    with pytest.raises(ca.MissingBiasError, match="gives its output gradient away"):
        ca.whole_map(bent, values, np.ones((2, 4)))
