"""Every bad input of a reconstruction: its own exception, with the offending name in the message."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.recursion.test_result import client

NETWORK = ca.Network(
    (2, 6, 6), [ca.Conv2d(8, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(12), ca.Tanh(), ca.Linear(4)]
)
BIAS_FREE = ca.Network(
    (2, 6, 6), [ca.Conv2d(8, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(4, bias=False)]
)
IMAGE = np.random.default_rng(0).random((2, 6, 6))


def given(network=NETWORK, **options):
    c = client(network, IMAGE, **options)
    return c.parameters, c.gradients


def test_the_good_input_is_good() -> None:
    assert ca.reconstruct(NETWORK, *given()).status is ca.Status.DETERMINED


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([ca.Linear(4)], ["'0'", "Linear", "(2, 6, 6)", "Flatten"]),
        ([ca.Conv2d(4, 3), ca.Conv2d(4, 9)], ["'1'", "kernel", "(9, 9)", "(4, 4)"]),
        ([ca.Conv2d(4, 3), ca.Conv2d(9, 3, groups=3)], ["'1'", "4 input channels", "3 groups"]),
        ([ca.Conv2d(4, 3), ca.ReLU(), ca.Conv1d(4, 3)], ["'2'", "Conv1d", "(4, 4, 4)"]),
    ],
    ids=["no Flatten", "kernel too large", "groups", "axes"],
)
def test_shapes_that_do_not_chain(layers, words) -> None:
    with pytest.raises(ca.ShapeError) as raised:
        ca.Network((2, 6, 6), layers)
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("which", ["parameters", "gradients"])
@pytest.mark.parametrize("name", ["0.weight", "3.bias"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays, name: arrays.pop(name),
        lambda arrays, name: arrays.update({name: arrays[name][1:]}),
        lambda arrays, name: arrays.update({name: arrays[name].T[..., None]}),
    ],
    ids=["missing", "too short", "another axis"],
)
def test_arrays_that_do_not_fit(which, name, damage) -> None:
    parameters, gradients = given()
    damage({"parameters": parameters, "gradients": gradients}[which], name)
    with pytest.raises(ca.ParameterError, match=f"^{which}: '{name}'") as raised:
        ca.reconstruct(NETWORK, parameters, gradients)
    assert raised.value.parameter == name


@pytest.mark.parametrize("which", [0, 1])
def test_an_unknown_name(which) -> None:
    arrays = given()
    arrays[which]["7.weight"] = np.zeros(3)
    with pytest.raises(ca.ParameterError, match=r"'7\.weight' is no parameter of the network; it has 0\.weight,"):
        ca.reconstruct(NETWORK, *arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_numbers_that_are_none(which, value) -> None:
    arrays = given()
    arrays[which]["0.weight"][3, 1, 0, 2] = value
    arrays[which]["0.weight"][5, 0, 0, 0] = value
    with pytest.raises(ca.NonFiniteError, match=r"'0\.weight' has .* at \(3, 1, 0, 2\) and 2 such values") as raised:
        ca.reconstruct(NETWORK, *arrays)
    assert (raised.value.parameter, raised.value.index) == ("0.weight", (3, 1, 0, 2))


def zeros(gradients):
    return {name: np.zeros_like(values) for name, values in gradients.items()}


@pytest.mark.parametrize(("network", "name"), [(NETWORK, "3.bias"), (BIAS_FREE, "3.weight")])
def test_a_gradient_of_zeros(network, name) -> None:
    parameters, gradients = given(network)
    with pytest.raises(ca.ZeroGradientError, match="gradient of zeros") as raised:
        ca.reconstruct(network, parameters, zeros(gradients))
    assert raised.value.parameter == name


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("network", "loss"),
    [(NETWORK, "cross_entropy"), (BIAS_FREE, "cross_entropy"), (NETWORK, lambda z, y: ((z - y[:, None]) ** 2).mean())],
    ids=["head with bias", "head without", "another loss"],
)
def test_a_batch_of_several_samples(network, loss, dtype, size) -> None:
    batch = np.random.default_rng(size).random((size, 2, 6, 6))
    model = ca.to_torch(network, seed=1, init="default", dtype=dtype)
    gradients = ca.torch_gradients(model, batch, np.arange(size) % 4, loss)
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    with pytest.raises(ca.BatchError, match=r"'3\.weight' has rank [2-8]") as raised:
        ca.reconstruct(network, parameters, gradients, loss=loss if isinstance(loss, str) else None)
    assert raised.value.parameter == "3.weight"
    assert "single sample" in str(raised.value)


def test_a_batch_of_equal_samples_has_the_gradient_of_one() -> None:
    model = ca.to_torch(NETWORK)
    gradients = ca.torch_gradients(model, np.stack([IMAGE, IMAGE]), [2, 2])
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    result = ca.reconstruct(NETWORK, parameters, gradients)
    np.testing.assert_allclose(result.input, IMAGE, rtol=0, atol=1e-11)


def test_a_head_without_bias_and_a_loss_that_is_not_known() -> None:
    parameters, gradients = given(BIAS_FREE)
    with pytest.raises(ca.MissingBiasError, match='pass loss="cross_entropy" or loss="logistic"') as raised:
        ca.reconstruct(BIAS_FREE, parameters, gradients, loss=None)
    assert raised.value.parameter == "3.weight"


def test_a_head_without_bias_and_a_loss_that_does_not_fit() -> None:
    parameters, gradients = given(BIAS_FREE)
    with pytest.raises(ca.MissingBiasError, match="needs one output, layer '3' has 4"):
        ca.reconstruct(BIAS_FREE, parameters, gradients, loss="logistic")
    model = ca.to_torch(BIAS_FREE)
    gradients = ca.torch_gradients(model, IMAGE, 0, lambda z, _: (z**2).sum())
    with pytest.raises(ca.MissingBiasError, match=r"no input and label explain the gradient of '3\.weight'"):
        ca.reconstruct(BIAS_FREE, parameters, gradients)


def test_no_linear_layer_at_all() -> None:
    network = ca.Network((2, 6, 6), [ca.Conv2d(8, 3), ca.Flatten()])
    parameters, gradients = given(network)
    with pytest.raises(ca.MissingBiasError, match="'0', Conv2d"):
        ca.reconstruct(network, parameters, gradients)


def test_an_unknown_loss() -> None:
    with pytest.raises(ca.UnknownNameError, match='"cross_entropy", "logistic" or None, got \'mse\''):
        ca.reconstruct(NETWORK, *given(), loss="mse")


@pytest.mark.parametrize("dtype", ["complex128", "int64", "bool"])
def test_gradients_of_a_type_that_no_gradient_has(dtype) -> None:
    parameters, gradients = given()
    gradients["0.weight"] = (100 * gradients["0.weight"]).astype(dtype)
    with pytest.raises(
        ca.ParameterError, match=rf"gradients: '0\.weight' has type {dtype}, expected (one of float64|real numbers)"
    ):
        ca.reconstruct(NETWORK, parameters, gradients)


@pytest.mark.parametrize("dtype", ["complex128", "<U3", "object"])
def test_parameters_of_a_type_that_none_has(dtype) -> None:
    parameters, gradients = given()
    parameters["0.weight"] = parameters["0.weight"].astype(dtype)
    if dtype == "object":
        parameters["0.weight"][0, 0, 0, 0] = "a word"
    with pytest.raises(ca.ParameterError, match=r"parameters: '0\.weight' has type .*, expected real numbers"):
        ca.reconstruct(NETWORK, parameters, gradients)


def test_every_refusal_is_one_of_the_library() -> None:
    for name in (
        "BatchError",
        "MissingBiasError",
        "NonFiniteError",
        "ParameterError",
        "ShapeError",
        "ZeroGradientError",
    ):
        assert issubclass(getattr(ca, name), ca.ConstraintAlgebraError)
