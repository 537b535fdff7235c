"""Equations near a value whose gradients move with it: their derivative, their solution, and what they leave open."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from constraint_algebra.arrays import FloatArray
from constraint_algebra.recursion import curved_equations
from constraint_algebra.recursion.curved_equations import CurvedEquations
from constraint_algebra.recursion.noise import TOLERANCE
from constraint_algebra.recursion.normalised_output import NormalisedOutput, normalised_output
from tests.recursion.normalised_models import batch

RNG = np.random.default_rng(0)


def view(second: int = 16) -> NormalisedOutput:
    """The upper convolution of a sample, with what is known above it."""
    graph, _ = batch(nn.ReLU, 1, (1, 3, second), 8)
    graph.to_input()
    knows = graph.knows
    assert knows is not None
    found = normalised_output(knows, knows.network.named("3"))
    assert found is not None
    return found


def at(own: NormalisedOutput, x: FloatArray) -> CurvedEquations:
    value = own.knows.values[own.layer.inputs[0]]
    return CurvedEquations(own.knows.observed, value, [], [own], [own.normalised(own.output(x))], x)


def test_they_are_the_derivative_of_what_is_lacking() -> None:
    own = view()
    x, d = RNG.uniform(0.2, 1, own.layer.input_shape), RNG.standard_normal(own.layer.input_shape)
    here, step = at(own, x), 1e-6
    there = at(own, x + step * d)
    there._whiten = here._whiten  # weights are those of noise, and move as well
    change = (here.lacking() - there.lacking()) / step
    found = here.forward(d[..., None])[:, 0]
    np.testing.assert_allclose(change, found, rtol=0, atol=1e-5 * np.abs(found).max())


def test_the_adjoint_is_the_transpose() -> None:
    own = view()
    here = at(own, RNG.uniform(0.2, 1, own.layer.input_shape))
    d = RNG.standard_normal((*own.layer.input_shape, 3))
    rows = here.forward(d)
    r = RNG.standard_normal(rows.shape)
    np.testing.assert_allclose((rows * r).sum(), (d * here.adjoint(r)).sum(), rtol=1e-10)


@pytest.mark.parametrize("second", [16, 5, 1], ids=["determined", "open in part", "open"])
def test_with_and_without_a_matrix_they_say_the_same(monkeypatch: pytest.MonkeyPatch, second: int) -> None:
    own, rng = view(second), np.random.default_rng(1)
    x = rng.uniform(0.2, 1, own.layer.input_shape)
    d, dense = rng.standard_normal((*x.shape, 2)), at(own, x)
    by_matrix, shares = dense.solve(dense.forward(d), 0.0), dense.shares()
    monkeypatch.setattr(curved_equations, "DENSE", 0)
    free = at(own, x)
    rows = free.forward(d)  # in units of its own: known outputs may weigh less
    distance = 1e-9 * float(np.linalg.norm(rows))
    np.testing.assert_allclose(free.forward(free.solve(rows, distance)), rows, rtol=0, atol=1e-6 * np.abs(rows).max())
    closed = free.shares() < TOLERANCE
    assert (closed == (shares < 1e-6)).all()
    assert closed.any() == (second > 1)
    assert (shares < 1e-6).all() == (second == 16)
    if second == 16:
        np.testing.assert_allclose(free.solve(rows, distance), by_matrix, rtol=0, atol=1e-4)
