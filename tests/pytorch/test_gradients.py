"""Real gradients and models made from networks: PyTorch's own `.backward()` is the oracle."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.pytorch.gradients import (
    load_parameters,
    to_torch,
    torch_gradients,
)
from constraint_algebra.pytorch.tensors import load_torch_file, to_numpy, to_tensor
from constraint_algebra.pytorch.tracing import from_torch

ACTIVATIONS = [
    ca.Identity(),
    ca.ReLU(),
    ca.LeakyReLU(0.2),
    ca.Sigmoid(),
    ca.Tanh(),
    ca.ELU(0.6),
    ca.SELU(),
    ca.Softplus(1.5),
    ca.Softsign(),
    ca.Hardtanh(-0.5, 0.8),
    ca.ReLU6(),
]
CONVS = {1: ca.Conv1d, 2: ca.Conv2d, 3: ca.Conv3d}


@st.composite
def networks(draw) -> ca.Network:
    """Random chains: convolutions in 1, 2 or 3 dimensions, any activations, one or two linear layers."""
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2]))
    input_shape = (2 * draw(st.integers(1, 2)), *(draw(st.integers(3, 6)) for _ in range(axes)))
    layers: list[ca.Layer] = []
    for number in range(draw(st.integers(0, 2))):
        per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
        sides = st.tuples(st.integers(1, 3), st.integers(1, 2))
        layers += [
            CONVS[axes](
                filters=2 * draw(st.integers(1, 2)),
                kernel=per_axis(1, 3),
                stride=per_axis(1, 2),
                padding=tuple(draw(sides) for _ in range(axes)),
                dilation=1 if number else per_axis(1, 2),
                groups=groups,
                bias=draw(st.booleans()),
            ),
            draw(st.sampled_from(ACTIVATIONS)),
        ]
    layers.append(ca.Flatten())
    if draw(st.booleans()):
        layers += [ca.Linear(4, bias=draw(st.booleans())), draw(st.sampled_from(ACTIVATIONS))]
    layers.append(ca.Linear(3))
    # Plain indices, words, or paths that are not even in order.
    style = draw(st.sampled_from([None, "layer{}", "part{}.layer"]))
    names = style and [style.format(i) for i in range(len(layers))]
    return ca.Network(input_shape, layers, names)


@given(networks(), st.integers(0, 99))
@settings(max_examples=60)
def test_network_to_model_and_back(network, seed) -> None:
    model = to_torch(network, seed=seed)
    again, parameters = from_torch(model, network.input_shape)
    assert again == network
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, network.input_shape)
    values = network.forward(parameters, x)
    output = model(torch.from_numpy(x[None]))
    np.testing.assert_allclose(values[-1], output.detach().numpy()[0], rtol=0, atol=1e-10)

    gradients = torch_gradients(model, x, 1)
    probabilities = np.exp(values[-1]) / np.exp(values[-1]).sum()
    expected = network.backward(parameters, values, probabilities - np.eye(3)[1])
    assert list(gradients) == list(network.parameter_shapes)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-10 * (1 + np.abs(gradient).max()))


@pytest.mark.parametrize("name", zoo.names("leakage"))
def test_every_network_of_the_zoo_makes_the_round_trip(name) -> None:
    network = zoo.network(name)
    assert from_torch(to_torch(network, dtype="float32"), network.input_shape)[0] == network


def small(outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, outputs)).double()


X = np.random.default_rng(0).uniform(size=(4, 1, 4, 4))


def by_backward(model: nn.Module, x: np.ndarray, loss) -> dict[str, np.ndarray]:
    """The gradients as `.backward()` leaves them, on a copy of the model."""
    model = copy.deepcopy(model)
    loss(model(torch.from_numpy(x))).backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-14)


# (inputs, target), each the first sample
ONE_SAMPLE = {
    "no batch axis": (X[0], 2),
    "a batch of one": (X[:1], 2),
    "target in an array": (X[0], np.array([2])),
    "target in a tensor": (X[:1], torch.tensor(2)),
    "target of any integer type": (X[0], np.uint8(2)),
    "tensor": (torch.from_numpy(X[0]), [2]),
    "lists": (X[0].tolist(), 2),
}


@pytest.mark.parametrize("case", ONE_SAMPLE)
def test_one_sample_with_or_without_its_batch_axis(case) -> None:
    model = small()
    target = torch.tensor([2])
    expected = by_backward(model, X[:1], lambda output: nn.functional.cross_entropy(output, target))
    assert_same(torch_gradients(model, *ONE_SAMPLE[case]), expected)


def test_a_batch_gives_the_gradient_of_the_mean_loss() -> None:
    model, targets = small(), [0, 2, 1, 1]
    found = torch_gradients(model, X, targets)
    each = [torch_gradients(model, x, t) for x, t in zip(X, targets, strict=True)]
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, np.mean([g[name] for g in each], axis=0), rtol=0, atol=1e-14)


# Models without a convolution take extra leading axes without complaint: the batch axis must still be found.
VECTOR_MODELS = {
    "linear": (nn.Linear(16, 3), (16,)),
    "flatten": (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4)),
    "flatten, no axis of one": (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (4, 4)),
}


@pytest.mark.parametrize("own_loss", [False, True], ids=["named loss", "own loss"])
@pytest.mark.parametrize("case", VECTOR_MODELS)
def test_the_batch_axis_of_models_without_convolutions(case, own_loss) -> None:
    model, shape = VECTOR_MODELS[case]
    model = model.double()
    x = X.reshape(4, *shape)
    for inputs, batch in [(x[0], x[:1]), (x[:1], x[:1]), (x, x)]:
        target = torch.tensor([1] * len(batch))
        loss = nn.functional.cross_entropy if own_loss else "cross_entropy"
        expected = by_backward(model, batch, lambda output, t=target: nn.functional.cross_entropy(output, t))
        assert_same(torch_gradients(model, inputs, target, loss), expected)


@pytest.mark.parametrize("target", [0, 1])
def test_logistic_loss(target) -> None:
    model = small(1)
    # log(1 + exp(-s·z)) with s = ±1, which is the same loss written differently
    sign = 2 * target - 1
    expected = by_backward(model, X[:1], lambda output: torch.log1p(torch.exp(-sign * output)).mean())
    assert_same(torch_gradients(model, X[0], target, loss="logistic"), expected)


def test_any_function_of_output_and_target_is_a_loss() -> None:
    model, target = small(), np.array([[0.5, -1.0, 2.0]])
    expected = by_backward(model, X[:1], lambda output: ((output - torch.from_numpy(target)) ** 2).sum())
    found = torch_gradients(model, X[0], target, loss=lambda output, y: ((output - y) ** 2).sum())
    assert_same(found, expected)


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), small(), nn.Dropout(0.5)).double()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        torch_gradients(model, X[0], 1)
    assert model.training
    assert not model[1].training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_gradients_keep_the_dtype_and_inputs_are_cast_to_it(dtype) -> None:
    network = ca.Network((1, 4, 4), [ca.Conv2d(2, 3), ca.Tanh(), ca.Flatten(), ca.Linear(3)])
    model = to_torch(network, dtype=dtype)
    found = torch_gradients(model, X[0].astype(np.float32), 1)
    exact = torch_gradients(to_torch(network), X[0], 1)
    digits = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-5, "float64": 1e-6}[dtype]
    for name, gradient in found.items():
        assert gradient.dtype.name == dtype
        np.testing.assert_allclose(gradient.astype(float), exact[name], rtol=0, atol=digits)


def frozen() -> nn.Module:
    model = small()
    model[0].weight.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    return model


class Nothing(nn.Linear):
    """A model that never uses its parameters."""

    def forward(self, x):
        return 2 * x


REFUSED = {
    "unknown loss": (lambda: torch_gradients(small(), X[0], 1, loss="hinge"), ca.UnknownNameError, "'cross_entropy'"),
    "frozen": (lambda: torch_gradients(frozen(), X[0], 1), ca.ParameterError, r"0\.weight, 3\.bias.*requires_grad_"),
    "nothing used": (
        lambda: torch_gradients(Nothing(2, 2), [1.0, 2.0], 1),
        ca.ParameterError,
        "depends on no parameter",
    ),
    "no parameters": (lambda: torch_gradients(nn.ReLU(), X[0], 1), ca.ShapeError, "no parameters"),
    "no such class": (lambda: torch_gradients(small(), X[0], 3), ca.ParameterError, "from 0 to 2, got 3"),
    "negative class": (lambda: torch_gradients(small(), X[0], -1), ca.ConstraintAlgebraError, "got -1"),
    "half a class": (lambda: torch_gradients(small(), X[0], 0.5), ca.ParameterError, "got 0.5"),
    "not 0 or 1": (lambda: torch_gradients(small(1), X[0], 2, "logistic"), ca.ParameterError, "from 0 to 1"),
    "outputs for logistic": (lambda: torch_gradients(small(3), X[0], 1, "logistic"), ca.ShapeError, r"\(samples, 1\)"),
    "too few targets": (lambda: torch_gradients(small(), X, [1, 2]), ca.ShapeError, "each of 4 samples, got 2"),
    "one target for a batch": (lambda: torch_gradients(small(), X, 1), ca.ShapeError, "each of 4 samples, got 1"),
    "wrong inputs": (
        lambda: torch_gradients(small(), X[0, :, :3], 1),
        ca.ShapeError,
        r"as \(1, 1, 3, 4\): .*and as \(1, 3, 4\): ",
    ),
    "no numbers": (lambda: torch_gradients(small(), np.array(["a"]), 1), ca.ConstraintAlgebraError, "array of numbers"),
    "loss of many": (lambda: torch_gradients(small(), X[0], 1, lambda o, _: o), ca.ShapeError, "one number"),
    "unknown init": (lambda: to_torch(zoo.network("lenet"), init="xavier"), ca.UnknownNameError, "uniform, default"),
    "unknown dtype": (lambda: to_torch(zoo.network("lenet"), dtype="int8"), ca.UnknownNameError, "bfloat16"),
    "one name twice": (
        lambda: to_torch(ca.Network((2,), [ca.Linear(2), ca.Linear(2)], ["a", "a"])),
        ca.ShapeError,
        "name of its own",
    ),
    "arrays: missing": (lambda: load_parameters(nn.Linear(2, 1), {"weight": [[1, 2]]}), ca.ParameterError, "'bias'"),
    "arrays: unknown": (lambda: load_parameters(nn.Linear(2, 1), {"w": [1]}), ca.ParameterError, "'w' is not among"),
    "arrays: shape": (
        lambda: load_parameters(nn.Linear(2, 1), {"weight": [[1, 2]], "bias": [1, 2]}),
        ca.ParameterError,
        r"\(2,\).*needs \(1,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_in_which_words(case) -> None:
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()


NETWORK = ca.Network((3,), [ca.Linear(500), ca.Sigmoid(), ca.Linear(2)])


def test_seeds_repeat_and_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    for init in ("uniform", "default"):
        torch.manual_seed(1)
        first, same, other = (dict(to_torch(NETWORK, seed=s, init=init).named_parameters()) for s in (7, 7, 8))
        assert torch.equal(torch.rand(3), expected)
        assert all(torch.equal(first[name], same[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_two_initialisations() -> None:
    uniform = to_torch(NETWORK).get_parameter("2.weight").detach().numpy()
    assert np.abs(uniform).max() <= 0.5
    assert np.abs(uniform).max() > 0.49
    assert abs(uniform.std() - 1 / np.sqrt(12)) < 0.02
    default = to_torch(NETWORK, init="default").get_parameter("2.weight").detach().numpy()
    assert np.abs(default).max() <= 1 / np.sqrt(500)  # nn.Linear draws from U(-1/√inputs, 1/√inputs)


def test_every_dtype_gets_the_same_values_rounded() -> None:
    exact = to_torch(NETWORK, seed=3).get_parameter("0.bias")
    assert torch.equal(to_torch(NETWORK, seed=3, dtype="bfloat16").get_parameter("0.bias"), exact.bfloat16())


def test_a_network_of_one_layer_without_a_name_is_that_layer() -> None:
    network = ca.Network((3,), [ca.Linear(2)], [""])
    model = to_torch(network)
    assert isinstance(model, nn.Linear)
    assert from_torch(model, (3,))[0] == network


def test_parameters_survive_the_way_into_a_model() -> None:
    source, target = to_torch(NETWORK, seed=1), to_torch(NETWORK, seed=2)
    load_parameters(target, from_torch(source, (3,))[1])
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_refused_parameter_leaves_the_model_unchanged() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    with pytest.raises(ca.ParameterError):
        load_parameters(model, {"weight": [[9.0, 9.0]], "bias": [1.0, 2.0]})
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_bfloat16_bits_survive_both_ways(shape) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(ml_dtypes.bfloat16)
    tensor = to_tensor(values)
    assert tensor.dtype == torch.bfloat16
    assert tensor.shape == shape
    np.testing.assert_array_equal(tensor.double().numpy(), values.astype(float))
    assert to_numpy(tensor).tobytes() == values.tobytes()


def test_arrays_of_the_other_byte_order_and_views_become_tensors() -> None:
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(to_tensor(values.astype(">f8").T).numpy(), values.T)
    np.testing.assert_array_equal(to_tensor(values[::-1]).numpy(), values[::-1])


def test_a_state_dict_loads_from_a_file(tmp_path) -> None:
    model = small().bfloat16()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = load_torch_file(tmp_path / "model.pt")
    assert list(loaded) == list(model.state_dict())
    assert loaded["3.bias"].dtype == ml_dtypes.bfloat16


class Bomb:
    """An object whose unpickling would leave a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


# What a file may hold that is not a dictionary of tensors.
FOREIGN_FILES = {
    "a whole model": (lambda path: torch.save(small(), path), "needs code"),
    "code": (lambda path: torch.save({"a": Bomb(str(path) + ".bomb")}, path), "needs code"),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "dictionary of tensors"),
    "numbers": (lambda path: torch.save({"a": 1}, path), "dictionary of tensors"),
    "text": (lambda path: path.write_text("hello, this is text"), "."),
    "nothing": (lambda path: path.write_bytes(b""), "."),
}


@pytest.mark.parametrize("case", FOREIGN_FILES)
def test_foreign_torch_files_are_refused_and_nothing_is_executed(case, tmp_path) -> None:
    write, words = FOREIGN_FILES[case]
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(ca.StorageError, match=words) as caught:
        load_torch_file(path)
    assert str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_truncated_torch_file_is_refused(tmp_path) -> None:
    path = tmp_path / "model.pt"
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ca.StorageError, match=r"model\.pt"):
        load_torch_file(path)
