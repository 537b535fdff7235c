"""Networks: shapes that chain, the forward and backward pass of PyTorch, parameters bound by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.layers import activations
from constraint_algebra.networks.description import describe, shape_text
from constraint_algebra.networks.network import bind

nn = torch.nn
# One network per number of axes, with a layer of every family between them.
PAIRS = {
    "1-D, dilated, then two linear layers": (
        ca.Network(
            (2, 11),
            [
                *[ca.Conv1d(4, 3, dilation=2), ca.Tanh(), ca.Conv1d(2, 2, stride=2, groups=2), ca.ELU(), ca.Flatten()],
                *[ca.Linear(5), ca.Softplus(), ca.Linear(3)],
            ],
        ),
        lambda: nn.Sequential(
            *[nn.Conv1d(2, 4, 3, dilation=2), nn.Tanh(), nn.Conv1d(4, 2, 2, 2, groups=2), nn.ELU(), nn.Flatten()],
            *[nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 3)],
        ),
    ),
    "2-D, rectangular, bias-free, ReLU": (
        ca.Network(
            (3, 6, 9),
            [
                *[ca.Conv2d(4, (3, 2), stride=(1, 2), padding=(1, 0), bias=False), ca.ReLU(), ca.Flatten()],
                ca.Linear(3, bias=False),
            ],
        ),
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, (3, 2), (1, 2), (1, 0), bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3, bias=False)
        ),
    ),
    "3-D, LeakyReLU and Hardtanh": (
        ca.Network(
            (1, 4, 5, 3),
            [
                *[ca.Conv3d(3, 2, padding=1), ca.LeakyReLU(0.2), ca.Conv3d(2, (2, 3, 1)), ca.Hardtanh()],
                *[ca.Flatten(), ca.Linear(4)],
            ],
        ),
        lambda: nn.Sequential(
            *[nn.Conv3d(1, 3, 2, padding=1), nn.LeakyReLU(0.2), nn.Conv3d(3, 2, (2, 3, 1)), nn.Hardtanh()],
            *[nn.Flatten(), nn.Linear(2 * 4 * 4 * 4, 4)],
        ),
    ),
}


@pytest.mark.parametrize(("network", "build"), PAIRS.values(), ids=PAIRS)
def test_forward_and_backward_are_those_of_pytorch(network, build) -> None:
    torch.manual_seed(3)
    model = build().double()
    x = torch.randn(1, *network.input_shape, dtype=torch.float64)
    steps = [x]
    for module in model:
        steps.append(module(steps[-1]))
    k = torch.randn_like(steps[-1])
    steps[-1].backward(k)
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    assert network.parameter_shapes == {name: p.shape for name, p in parameters.items()}
    assert network.parameter_count == sum(p.numel() for p in model.parameters())
    values = network.forward(parameters, x.numpy())
    assert len(values) == len(network) + 1
    for found, expected in zip(values, steps, strict=True):
        np.testing.assert_allclose(found, expected.detach().numpy()[0], rtol=1e-10, atol=1e-12)
    gradients = network.backward(parameters, values, k.numpy())
    assert list(gradients) == list(network.parameter_shapes)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(gradients[name], p.grad.numpy(), rtol=1e-10, atol=1e-12)


SMALL = ca.Network((1, 4, 4), [ca.Conv2d(2, 3), ca.ReLU(), ca.Flatten(), ca.Linear(3)])


def test_layers_know_their_place() -> None:
    assert [layer.name for layer in SMALL] == ["0", "1", "2", "3"]
    assert [layer.index for layer in SMALL] == [0, 1, 2, 3]
    assert [layer.kind for layer in SMALL.bilinear] == ["Conv2d", "Linear"]
    assert [layer.kind for layer in SMALL.between(*SMALL.bilinear)] == ["ReLU", "Flatten"]
    assert (SMALL.input_shape, SMALL.output_shape, SMALL[-1].input_shape) == ((1, 4, 4), (3,), (8,))
    assert (SMALL.parameter_count, len(SMALL)) == (20 + 27, 4)


def test_equal_networks_are_equal_and_hash_alike() -> None:
    again = ca.Network((1, 4, 4), [layer.layer for layer in SMALL])
    assert again == SMALL
    assert hash(again) == hash(SMALL)
    assert ca.Network((1, 4, 4), [layer.layer for layer in SMALL], names=list("abcd")) != SMALL
    assert ca.Network((1, 5, 4), [layer.layer for layer in SMALL]) != SMALL
    assert SMALL != "network"


def test_names_prefix_the_parameters() -> None:
    named = ca.Network((1, 4, 4), [layer.layer for layer in SMALL], names=["body.conv", "a", "b", "head"])
    assert list(named.parameter_shapes) == ["body.conv.weight", "body.conv.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.Network((1, 4, 4), []), "at least one layer, got none"),
        (lambda: ca.Network((1, 4, 4), [ca.ReLU()], names=["a", "b"]), "one for each of 1 layers, got 2"),
        (lambda: ca.Network((1, 0, 4), [ca.ReLU()]), "size must be a whole number of at least 1, got 0"),
        (
            lambda: ca.Network((1, 4, 4), [ca.Conv2d(2, 3), ca.Linear(3)], names=["conv", "head"]),
            r"layer 'head' \(number 1\) does not fit what precedes it: Linear needs .* got \(2, 2, 2\); put Flatten",
        ),
        (
            lambda: ca.Network((1, 4, 4), [ca.Conv2d(2, 3), ca.ReLU(), ca.Conv2d(2, 3)]),
            r"layer '2' \(number 2\) does not fit .* larger than the padded input \(2, 2\)",
        ),
    ],
)
def test_shapes_that_do_not_chain_are_refused_with_the_layer(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()


def arrays(dtype: str = "float64") -> dict[str, np.ndarray]:
    """Parameters that fit SMALL."""
    return {name: np.ones(shape, dtype) for name, shape in SMALL.parameter_shapes.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_bind_makes_float64_of_any_precision_and_keeps_the_order(dtype) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bound = bind(SMALL, dict(reversed(arrays(getattr(ml_dtypes, dtype, dtype)).items())), "parameters")
    assert list(bound) == list(SMALL.parameter_shapes)
    assert {a.dtype for a in bound.values()} == {np.dtype("float64")}


def test_bind_names_what_is_missing_unknown_or_of_another_shape() -> None:
    given = arrays()
    del given["3.bias"]
    with pytest.raises(ca.ParameterError, match=r"gradients: '3.bias' of shape \(3,\) is missing") as caught:
        bind(SMALL, given, "gradients")
    assert caught.value.parameter == "3.bias"
    with pytest.raises(
        ca.ParameterError, match=r"'4\.weight' is no parameter of the network; it has 0\.weight"
    ) as caught:
        bind(SMALL, {**arrays(), "4.weight": np.ones(1)}, "gradients")
    assert caught.value.parameter == "4.weight"
    with pytest.raises(ca.ParameterError, match=r"parameters: '0.bias' has shape \(1, 2\), the network needs \(2,\)"):
        bind(SMALL, {**arrays(), "0.bias": np.ones((1, 2))}, "parameters")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bind_names_the_first_value_that_is_not_finite(value) -> None:
    given = arrays()
    given["3.weight"][1, 5] = given["3.weight"][2, 0] = value
    with pytest.raises(ca.NonFiniteError, match=r"'3.weight' has -?(nan|inf) at \(1, 5\) and 2 such values") as caught:
        bind(SMALL, given, "gradients")
    assert (caught.value.parameter, caught.value.index) == ("3.weight", (1, 5))


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (ca.Conv2d(4, 3), (2, 5, 5), "Conv2d 2→4, kernel 3×3"),
        (
            ca.Conv2d(4, (3, 1), stride=(1, 2), padding=((1, 2), (0, 0)), dilation=(2, 1), groups=2, bias=False),
            (2, 5, 5),
            "Conv2d 2→4, kernel 3×1, stride 1×2, padding 1+2×0, dilation 2×1, 2 groups, no bias",
        ),
        (ca.Conv1d(4, 2, padding="same"), (2, 5), "Conv1d 2→4, kernel 2, padding 0+1"),
        (ca.Linear(3, bias=False), (4,), "Linear 4→3, no bias"),
        (ca.LeakyReLU(0.2), (4,), "LeakyReLU, slope 0.2"),
        (ca.Flatten(), (4,), "Flatten"),
    ],
)
def test_descriptions_say_all_that_is_not_usual(layer, shape, words) -> None:
    assert describe(layer.place(shape)) == words


def test_a_network_prints_as_a_table_in_a_terminal_and_in_a_notebook() -> None:
    lines = repr(SMALL).splitlines()
    assert lines[0] == "Network: input 1×4×4, 4 layers, 47 parameters"
    assert len(lines) == 2 + len(SMALL)
    assert SMALL._repr_html_().count("<tr>") + SMALL._repr_html_().count("<tr ") == 1 + len(SMALL)
    assert list(SMALL.to_frame()["parameters"]) == [20, 0, 0, 27]
    assert shape_text(()) == "1"


def test_apply_accepts_lists() -> None:
    assert activations.apply(ca.ReLU(), [-1, 2]).tolist() == [0, 2]
