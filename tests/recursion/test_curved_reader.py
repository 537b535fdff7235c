"""What a layer's equations make of differences of what it reads, against automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.recursion.curved_preconditioner import Preconditioner
from constraint_algebra.recursion.curved_reader import CurvedReader

RNG = np.random.default_rng(5)
LAYERS = {"plain": {}, "strided": {"stride": 2}, "grouped": {"groups": 2}, "dilated": {"dilation": 2}}


def reader(options):
    """A reader of a convolution, and in PyTorch its output and the gradient of its weight as functions of the value."""
    layer = ca.Conv2d(4, 3, padding=1, bias=False, **options).place((2, 5, 4))
    weight, k = RNG.standard_normal(layer.weight_shape), RNG.standard_normal(layer.output_shape)
    slope, x = RNG.standard_normal(layer.output_shape), RNG.standard_normal((2, 5, 4))
    W = torch.tensor(weight.reshape(4, -1, 3, 3))
    start = torch.tensor(x)

    def output(value):
        return functional.conv2d(value[None], W, padding=1, **options)[0]

    def gradient(value):
        moved = torch.tensor(k) + torch.tensor(slope) * (output(value) - output(start))
        w = W.clone().requires_grad_()
        made = functional.conv2d(value[None], w, padding=1, **options)[0]
        return torch.autograd.grad((moved * made).sum(), w)[0]

    return CurvedReader(layer, weight, k, slope[..., None], x), gradient, output, start


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_forward_is_the_derivative_and_adjoint_its_transpose(options) -> None:
    here, gradient, output, start = reader(options)
    d = RNG.standard_normal((2, 5, 4, 3))
    found, z = here.forward(d)
    for i in range(3):
        along = torch.tensor(np.ascontiguousarray(d[..., i]))
        for ours, function in ((found, gradient), (z, output)):
            expected = ((function(start + along) - function(start - along)) / 2).numpy()  # exact: they are quadratic
            np.testing.assert_allclose(ours[..., i].ravel(), expected.ravel(), rtol=0, atol=1e-12)
    rows, of_output = RNG.standard_normal(found.shape), RNG.standard_normal(z.shape)
    back = here.adjoint(rows, of_output)
    for i in range(3):
        left = (found[..., i] * rows[..., i]).sum() + (z[..., i] * of_output[..., i]).sum()
        np.testing.assert_allclose(left, (d[..., i] * back[..., i]).sum(), rtol=1e-11)


@pytest.mark.parametrize("options", [LAYERS["strided"], LAYERS["grouped"]], ids=["strided", "grouped"])
def test_the_curvature_is_what_outputs_that_move_one_by_one_add_to_the_normal_equations(options) -> None:
    here, _, _, _ = reader(options)
    weights, outputs = RNG.uniform(0.5, 2, here.layer.weight_shape), here.slope.size
    k = np.eye(outputs).reshape(*here.layer.output_shape, outputs)
    moved = here.slope * here.forward(np.eye(40).reshape(2, 5, 4, 40))[1]
    of_output = ((weights[..., None] * here._by_gradient(k)) ** 2).reshape(-1, outputs).sum(axis=0)
    expected = of_output @ moved.reshape(outputs, 40) ** 2
    np.testing.assert_allclose(here.curvature(weights.ravel()).ravel(), expected, rtol=1e-10)


@pytest.mark.parametrize("alone", [True, False], ids=["a matrix a channel", "one for all"])
def test_the_preconditioner_inverts_what_ties_no_channels_and_few_rows_that_do(monkeypatch, alone) -> None:
    if not alone:
        monkeypatch.setattr("constraint_algebra.recursion.curved_preconditioner.ENTRIES", 0)
    rows, tying = RNG.standard_normal((9, 6)), RNG.standard_normal((24, 5))
    by_entry = RNG.uniform(0.5, 3, (4, 6)) if alone else np.tile(RNG.uniform(0.5, 3, 6), (4, 1))
    _, s, Vt = np.linalg.svd(rows)
    made = Preconditioner([(np.array([0, 2]), s, Vt.T), (np.array([1, 3]), s[:0], Vt.T)], by_entry, tying)
    whole = tying @ tying.T + np.diag(by_entry.ravel())
    for channel in (0, 2):
        at = slice(6 * channel, 6 * channel + 6)
        whole[at, at] += rows.T @ rows
    d = RNG.standard_normal((4, 2, 3, 2))
    np.testing.assert_allclose(whole @ made(d).reshape(24, 2), d.reshape(24, 2), rtol=0, atol=1e-6)
