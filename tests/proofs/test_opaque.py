"""Twins of models with attention or other parts without equations: gradients of all parameters, dense Jacobians."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.proofs.opaque import FirstLayerSet, first_layer_set
from tests.opaque_models import READ_ONCE, READ_TWICE, SHAPE, image, made

# PyTorch loads its compiler for a checkpoint, which takes seconds.
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name == "checkpoint")) for name in READ_ONCE]
FREE = {"pool behind", "batch norm and ReLU"}  # some outputs need not stay


@cache
def found_in(name: str) -> FirstLayerSet:
    return first_layer_set(made(READ_ONCE, name), image(), 1)


def relative(model: nn.Module, x: np.ndarray, twin: np.ndarray) -> float:
    """Largest difference of a parameter's gradients, relative to the largest entry of that parameter's gradient.

    A bias before batch normalisation in training mode has a gradient of zero: what rounding makes of it is left out.
    """
    first, second = (ca.torch_gradients(model, values, 1) for values in (x, twin))
    sizes = {name: np.abs(values).max() for name, values in first.items()}
    least = 1e-10 * max(sizes.values())
    return max(np.abs(first[n] - second[n]).max() / size for n, size in sizes.items() if size > least)


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_of_a_twin_is_that_of_the_input(name) -> None:
    model, found = made(READ_ONCE, name), found_in(name)
    place = tuple(int(i) for i in np.unravel_index(found.polytope.null.norms.argmax(), SHAPE))
    for objective in ("random", place):
        twin = found.twin(objective)
        assert twin is not None
        assert twin.change > 0.1
        assert 0 <= twin.image.min() <= twin.image.max() <= 1
        assert found.contains(twin.image)
        assert relative(model, image(), twin.image) < 1e-12


def dense_rows(name: str) -> np.ndarray:
    """How the outputs of the first layer, and its weight gradient at fixed k, move: by automatic differentiation."""
    model, x = made(READ_ONCE, name), torch.from_numpy(image())
    layer = next(m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    seen = {}
    hook = layer.register_forward_hook(lambda _, given, out: seen.update(z=out, h=given[0]))
    loss = nn.functional.cross_entropy(model(x[None]), torch.tensor([1]))
    k = torch.autograd.grad(loss, seen["z"])[0]

    def rows(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model(x[None])
        by_weight = torch.autograd.grad((k * seen["z"]).sum(), layer.weight, create_graph=True)[0]
        return seen["z"].ravel(), by_weight.ravel()

    parts = torch.autograd.functional.jacobian(rows, x)
    hook.remove()
    return torch.cat([part.reshape(-1, x.numel()) for part in parts]).numpy()


@pytest.mark.parametrize(
    "name", ["transformer", "linear patches", "tanhshrink", "pooled before", "reflected", "grouped"]
)
def test_what_is_left_open_is_the_null_space_of_the_jacobian(name) -> None:
    found = found_in(name)
    _, s, vt = np.linalg.svd(dense_rows(name))
    rank = int((s > 1e-11 * s[0]).sum())
    assert found.nullity == vt.shape[0] - rank
    null, basis = vt[rank:].T, found.polytope.null.basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)
    np.testing.assert_allclose(basis @ (basis.T @ null), null, atol=1e-9)
    np.testing.assert_array_equal(found.fixed.ravel(), np.linalg.norm(null, axis=1) < 1e-8)


@pytest.mark.parametrize("name", ["linear patches", "pooled before", "tanhshrink"])
def test_values_that_the_equations_fix_do_not_move_and_the_bounds_say_so(name) -> None:
    """Multipliers of the rows explain every direction that the null space leaves out."""
    null = found_in(name).polytope.null
    some = np.random.default_rng(1).standard_normal(len(null.basis))
    np.testing.assert_allclose(null.project(some), null.basis @ (null.basis.T @ some), atol=1e-12)
    vectors = np.random.default_rng(0).standard_normal((null.basis.shape[0], 3))
    seen = vectors - null.basis @ (null.basis.T @ vectors)
    np.testing.assert_allclose(null.matrix.T @ null.multipliers(seen), seen, atol=1e-9)


@pytest.mark.parametrize("name", sorted(FREE))
def test_where_only_relu_or_max_pool_reads_the_layer_its_outputs_may_move(name) -> None:
    model, found = made(READ_ONCE, name), found_in(name)
    twin = found.twin()
    first = nn.Sequential(model[0])
    outputs = [first(torch.from_numpy(v[None])).detach().numpy()[0] for v in (image(), twin.image)]
    passing = found.passing
    assert np.abs(outputs[0] - outputs[1])[passing].max() < 1e-12
    assert np.abs(outputs[0] - outputs[1])[~passing].max() > 1e-3


@pytest.mark.parametrize("name", ["transformer", "linear patches", "batch norm in training mode"])
def test_a_certificate_shows_twins_and_says_what_it_rests_on(name) -> None:
    model, x = made(READ_ONCE, name), image()
    certificate = ca.certify(model, x, 1)
    assert certificate.ambiguous.sum() + certificate.undecided.sum() == x.size
    assert certificate.ambiguous.sum() > x.size / 2
    moved = np.zeros(x.shape)
    for witness in certificate.witnesses:
        assert relative(model, x, witness.twin.image) < 1e-12
        moved = np.maximum(moved, np.abs(witness.twin.difference))
    assert (moved[certificate.ambiguous] >= certificate.delta).all()
    assert "rests on: the first layer" in repr(certificate)
    assert "may be anything" in certificate.ground
    assert certificate.to_dict()["assumptions"] == certificate.assumptions
    assert set(certificate.digests) == {parameter for parameter, _ in model.named_parameters()}


def test_what_the_first_layer_leaves_alone_is_undecided_and_not_fixed() -> None:
    """The first layer has more filters than a patch has values: no twin keeps its outputs, and others may exist."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 30, 3, stride=3), nn.Tanhshrink(), nn.Flatten(), nn.Linear(120, 1), nn.Linear(1, 4)
    )
    certificate = ca.certify(model, np.random.default_rng(0).random((3, 6, 6)), 1)
    assert certificate.counts["undecided"] == 108
    assert "no twin that keeps the outputs of layer '0' moves it" in certificate.verdict((0, 0, 0))
    assert "Jacobian" in certificate.verdict((0, 0, 0))


ONE_PLACE = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanhshrink(), nn.LayerNorm(6), nn.Linear(6, 4)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten(), nn.Tanhshrink(), nn.Linear(6, 4)),
}


@pytest.mark.parametrize("name", ONE_PLACE)
def test_with_one_output_place_and_a_bias_the_first_layer_fixes_its_input_for_all_inputs(name) -> None:
    torch.manual_seed(0)
    model, x = ONE_PLACE[name]().double(), image()
    certificate = ca.certify(model, x, 1)
    assert certificate.fixed.all()
    assert certificate.bound.max() < 1e-8
    assert "its bias gradient is that output gradient" in certificate.ground
    gradients = ca.torch_gradients(model, x, 1)  # the input is there in plain sight
    weight, bias = [values for key, values in gradients.items()][:2]
    np.testing.assert_allclose(weight.reshape(6, -1)[0] / bias[0], x.ravel(), atol=1e-9)


def test_a_depthwise_first_layer_fixes_those_channels_that_have_a_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 8, groups=3), nn.Flatten(), nn.Tanhshrink(), nn.Linear(3, 4)).double()
    with torch.no_grad():
        model[3].weight[:, 1] = 0  # the second channel has no gradient
    certificate = ca.certify(model, image(), 1)
    np.testing.assert_array_equal(certificate.fixed, np.arange(3)[:, None, None] != np.ones(SHAPE))
    assert certificate.ambiguous[1].all()


def test_outputs_that_fix_a_channel_without_gradient_do_not_make_it_fixed() -> None:
    """No twin keeps the 18 outputs of 16 values; an input with other outputs may have the same gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 54, 4, groups=3), nn.Flatten(), nn.Tanhshrink(), nn.Linear(54, 4)).double()
    with torch.no_grad():
        model[3].weight[:, 18:36] = 0
    certificate = ca.certify(model, image()[:, :4, :4], 1)
    np.testing.assert_array_equal(certificate.undecided, np.arange(3)[:, None, None] == np.ones((3, 4, 4)))
    assert certificate.fixed[[0, 2]].all()


@pytest.mark.parametrize("tie", ["weight", "branch", "no bias"])
def test_nothing_is_fixed_where_the_gradients_of_the_first_layer_may_come_from_elsewhere(tie) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=tie != "no bias"), nn.Linear(6, 4)

        def forward(self, x):
            z = nn.functional.tanhshrink(self.a(x))
            if tie == "weight":
                z = nn.functional.tanhshrink(nn.functional.linear(z, self.a.weight))
            if tie == "branch" and z.sum() > 100:
                z = self.a(z)
            return self.b(z)

    torch.manual_seed(0)
    certificate = ca.certify(Tied(), np.random.default_rng(0).random(6), 1)
    assert not certificate.fixed.any()


@pytest.mark.parametrize("name", READ_TWICE)
def test_a_model_that_reads_its_input_twice_gets_no_certificate_by_its_first_layer(name) -> None:
    """It is refused with all reasons, or certified as the network that it is; a twin is never wrong."""
    model, x = made(READ_TWICE, name), image()
    try:
        certificate = ca.certify(model, x, 1, time_limit=20.0)
    except ca.UnsupportedLayerError:
        return
    assert "the first layer" not in certificate.ground
    for witness in certificate.witnesses:
        assert relative(model, x, witness.twin.image) < 1e-10


def test_inputs_that_do_not_fit_are_refused_by_name() -> None:
    model = made(READ_ONCE, "tanhshrink")
    with pytest.raises(ca.ParameterError, match="valid range from 0 to 1"):
        ca.certify(model, 2 * image(), 1)
    with pytest.raises(ca.ShapeError, match="does not take"):
        ca.certify(model, image()[:2], 1)
