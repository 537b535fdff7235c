"""The rank of the Jacobian: known matrices, and agreement with certificates that decide."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.twin_cases import case, random_case


def test_known_rank_and_null_space() -> None:
    rng = np.random.default_rng(0)
    J = rng.standard_normal((40, 3)) @ np.linalg.qr(rng.standard_normal((6, 6)))[0][:3]
    found = ca.local_uniqueness({"a": J[:7].reshape(7, 1, 2, 3), "b": J[7:].reshape(33, 1, 2, 3)}, (1, 2, 3))
    assert (found.rank, found.unique) == (3, False)
    assert found.gap[0] > 1e-3
    assert found.gap[1] < 1e-12
    assert found.norms.shape == (1, 2, 3)
    assert (found.norms**2).sum() == pytest.approx(3)


def test_zeros_say_nothing_and_full_rank_says_all() -> None:
    assert ca.local_uniqueness({"a": np.zeros((4, 3))}, (3,)).rank == 0
    assert ca.local_uniqueness({"a": np.zeros((4, 3))}, (3,)).moves.all()
    assert ca.local_uniqueness({"a": np.eye(3)}, (3,)).unique


@pytest.mark.parametrize("seed", [3, 8, 17, 36])
def test_values_that_twins_move_move_to_first_order(seed: int) -> None:
    c = random_case(seed)
    jacobian = ca.gradient_jacobian(c.model, c.image, c.label)
    local = ca.local_uniqueness(jacobian, c.image.shape)
    assert local.moves[np.abs(c.set().twin("random").difference) > 1e-3].all()


def test_a_determined_input_is_locally_unique() -> None:
    net = ca.Network((1, 6, 6), [ca.Conv2d(6, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(4)])
    c = case(net, np.random.default_rng(0).random((1, 6, 6)))
    assert c.set().fixed.all()
    assert ca.local_uniqueness(ca.gradient_jacobian(c.model, c.image, c.label), c.image.shape).unique
