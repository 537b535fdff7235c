"""The judge itself: it sees a difference where there is one, and its Jacobian is that of finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.pytorch.verification import ENTRIES
from tests.twin_cases import case, random_case

RNG = np.random.default_rng(0)


def test_figures_are_those_of_two_gradients() -> None:
    c = random_case(8)
    other = np.clip(c.image + 1e-3 * RNG.standard_normal(c.image.shape), 0, 1)
    check = c.verify(other)
    first, second = c.gradients(), c.gradients(other)
    largest = max(np.abs(values).max() for values in first.values())
    for name, values in first.items():
        assert check.absolute[name] == np.abs(values - second[name]).max()
        assert check.relative[name] == pytest.approx(check.absolute[name] / np.abs(values).max())
    assert check.largest == largest
    assert check.difference == max(check.absolute.values()) / largest
    assert not check.equal
    assert not check.bit_identical_float32
    assert check.change == np.abs(other - c.image).max()
    assert list(check.to_frame().columns) == ["parameter", "absolute", "relative"]
    assert "NOT equal" in repr(check)


def test_the_tolerance_decides() -> None:
    c = random_case(8)
    other = np.clip(c.image + 1e-3, 0, 1)
    assert ca.verify_twin(c.model, c.image, other, c.label, tolerance=1.0).equal


def test_a_float32_model_is_judged_in_float64_and_stays_as_it_is() -> None:
    c = random_case(8)
    model = ca.to_torch(c.network, init="default", dtype="float32").train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    parameters = {name: p.numpy() for name, p in before.items()}
    twin = ca.indistinguishable(c.network, parameters, c.image, c.label).twin()
    assert ca.verify_twin(model, torch.tensor(c.image), twin.image, c.label).equal
    assert model.training
    assert all(torch.equal(before[name], p) and p.dtype == torch.float32 for name, p in model.state_dict().items())


def test_bit_identity_in_float32_is_that_of_the_bytes() -> None:
    """A pixel that no output looks at changes nothing at all."""
    c = case(
        ca.Network((1, 3, 3), [ca.Conv2d(1, 2, stride=2), ca.ReLU(), ca.Flatten(), ca.Linear(2)]), RNG.random((1, 3, 3))
    )
    unseen = c.image.copy()
    unseen[0, 2, 2] = 0.123
    assert c.verify(unseen).bit_identical_float32
    assert c.verify(unseen).difference == 0


def test_inputs_of_different_shape_are_refused() -> None:
    c = random_case(8)
    with pytest.raises(ca.ShapeError, match="the same shape"):
        c.verify(c.image[None])


@pytest.mark.parametrize("loss", ["cross_entropy", "own"])
def test_the_jacobian_is_that_of_central_differences(loss: str) -> None:
    layers = [ca.Conv2d(2, 3), ca.Tanh(), ca.Conv2d(2, 2), ca.Softplus(), ca.Flatten(), ca.Linear(3)]
    c = case(ca.Network((2, 5, 5), layers), RNG.random((2, 5, 5)))
    target, loss = (1, loss) if loss == "cross_entropy" else (np.ones((1, 3)), lambda z, y: ((z - y) ** 3).sum())
    jacobian = ca.gradient_jacobian(c.model, c.image, target, loss)
    for place in [(0, 0, 0), (1, 2, 3), (0, 4, 4)]:
        step = np.zeros(c.image.shape)
        step[place] = 1e-6
        up, down = (ca.torch_gradients(c.model, c.image + s * step, target, loss) for s in (1, -1))
        for name, values in jacobian.items():
            assert values.shape == up[name].shape + c.image.shape
            np.testing.assert_allclose(values[(..., *place)], (up[name] - down[name]) / 2e-6, atol=1e-8)


def test_a_jacobian_too_large_is_refused() -> None:
    model = torch.nn.Linear(ENTRIES // 1000, 2, dtype=torch.float64)
    with pytest.raises(ca.ShapeError, match="verify_twin needs none"):
        ca.gradient_jacobian(model, np.zeros(ENTRIES // 1000), 0)


def test_a_gradient_that_does_not_move_has_a_jacobian_of_zeros() -> None:
    """As that of a bias under a loss that is linear in the output."""
    model = torch.nn.Linear(2, 2, dtype=torch.float64)
    jacobian = ca.gradient_jacobian(model, [1.0, 2.0], torch.zeros(1), lambda output, _: output.sum())
    np.testing.assert_array_equal(jacobian["bias"], np.zeros((2, 2)))
    np.testing.assert_array_equal(jacobian["weight"], [np.eye(2)] * 2)
