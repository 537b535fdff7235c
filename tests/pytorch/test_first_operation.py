"""Which layer alone reads a model's input: PyTorch's derivatives are the oracle, and its forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.layers import trilinear
from constraint_algebra.pytorch.affine_reading import affine_map
from constraint_algebra.pytorch.first_operation import first_operation
from tests.opaque_models import READ_ONCE, READ_TWICE, SHAPE, Forward, conv, image, made, tail


@pytest.mark.parametrize("name", [name for name in READ_ONCE if name != "checkpoint"])
def test_the_layer_its_input_and_its_gradient_are_those_of_the_model(name) -> None:
    model, x = made(READ_ONCE, name), image()
    found = first_operation(model, x, 1)
    moved = found.map @ (image(1) - x).ravel()
    other = first_operation(model, image(1), 1)
    change = trilinear.forward(found.layer, found.weight, moved.reshape(found.layer.input_shape))
    np.testing.assert_allclose(other.output, found.output + change, atol=1e-12)
    owner = found.layer.name
    layer = model.get_submodule(owner) if owner in dict(model.named_modules()) else None
    if layer is None or hasattr(layer, "parametrizations"):  # its weight is no parameter
        assert not found.owned
        return
    gradients = ca.torch_gradients(model, x, 1)
    np.testing.assert_allclose(
        trilinear.bias_gradient(found.layer, found.output_gradient), gradients[f"{owner}.bias"], atol=1e-12
    )
    assert found.owned == (name != "a branch behind")


@pytest.mark.parametrize("name", ["transformer", "linear patches", "grouped", "pooled before"])
def test_the_gradient_of_its_weight_is_the_one_of_the_real_model(name) -> None:
    model, x = made(READ_ONCE, name), image()
    found = first_operation(model, x, 1)
    shift = model.mean.numpy() if hasattr(model, "mean") else 0.0  # goes through the same rearrangement as the image
    read = (found.map @ (x - shift).ravel()).reshape(found.layer.input_shape)
    seen = trilinear.weight_gradient(found.layer, found.output_gradient, read)
    weight = ca.torch_gradients(model, x, 1)[f"{found.layer.name}.weight"]
    np.testing.assert_allclose(seen.reshape(weight.shape), weight, atol=1e-12)


@pytest.mark.parametrize("name", READ_TWICE)
def test_an_input_that_is_read_in_another_way_as_well_is_refused(name) -> None:
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        first_operation(made(READ_TWICE, name), image(), 1)
    assert caught.value.problems[0].reason
    assert "torch_gradients" in str(caught.value)


def test_what_alone_reads_the_output_is_followed_as_far_as_it_is_known() -> None:
    relu, pool = ca.ReLU(), ca.MaxPool2d(3, stride=2, padding=1)
    assert first_operation(made(READ_ONCE, "pool behind"), image(), 1).then == (relu, pool)
    kinds = [type(step).__name__ for step in first_operation(made(READ_ONCE, "batch norm and ReLU"), image(), 1).then]
    assert kinds == ["Scale", "ReLU"]
    for name in ("tanhshrink", "batch norm in training mode", "transformer"):
        assert first_operation(made(READ_ONCE, name), image(), 1).then == ()


def test_an_output_with_a_second_reader_is_not_followed() -> None:
    torch.manual_seed(0)
    functions = (
        lambda m, x: m.rest(torch.relu(z := m.a(x)) + z),
        lambda m, x: m.rest((z := m.a(x)) + torch.relu(z)),
        lambda m, x: m.rest(2 * (z := m.a(x)) + torch.relu(z)),
    )
    models = [Forward(function, a=conv(), rest=nn.Sequential(*tail(32))) for function in functions]
    for model in models:
        assert first_operation(model.double(), image(), 1).then == ()


AFFINE = {
    "unfold": lambda x: x.unfold(2, 3, 1).unfold(3, 2, 2).flatten(1),
    "mixes": lambda x: (x - x.mean((2, 3), keepdim=True)) * 2 + 1,
    "resized": lambda x: torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "padded": lambda x: torch.nn.functional.pad(x, (1, 2, 0, 1), mode="replicate") / 3,
    "moved": lambda x: x.flip(2).transpose(1, 3).reshape(len(x), -1),
    "batch axis last": lambda x: x.permute(1, 2, 3, 0) - 0.5,
}


@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_function_has_the_matrix_of_its_derivative(name) -> None:
    x = torch.rand(2, 5, 6, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda x: AFFINE[name](x[None]).ravel(), x).reshape(-1, x.numel())
    np.testing.assert_allclose(affine_map(AFFINE[name], x).toarray(), expected.numpy(), atol=1e-13)


def test_what_is_not_affine_is_refused() -> None:
    x = torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(ca.ShapeError, match="not affine"):
        affine_map(lambda batch: batch**2, x)
    with pytest.raises(ca.ShapeError, match=r"casts its input to torch\.float32"):
        affine_map(lambda batch: batch.float(), x)


def test_patches_as_samples_are_refused_with_the_reason() -> None:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.Flatten(0, 1),
        conv(),
        nn.Flatten(0),
        nn.Unflatten(0, (1, 32)),
        nn.GELU(),
        nn.Linear(32, 4),
    ).double()
    assert first_operation(model, image(), 1).layer.input_shape == SHAPE
    apart = nn.Sequential(
        nn.Unflatten(1, (3, 1)),
        nn.Flatten(0, 1),
        nn.Conv2d(1, 2, 3, 2, 1),
        nn.Flatten(0),
        nn.Unflatten(0, (1, 96)),
        nn.GELU(),
        nn.Linear(96, 4),
    ).double()
    with pytest.raises(ca.UnsupportedLayerError, match="reads 3 pieces of the input"):
        first_operation(apart, image(), 1)
