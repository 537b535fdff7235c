"""Networks of every shape and activation, special images, coarse precisions, and the contract of `reconstruct`."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import samples, zoo
from constraint_algebra.pytorch.gradients import load_parameters
from tests.recursion.test_result import client, mse
from tests.some import some

L, R = ca.LeakyReLU(0.2), ca.ReLU()
RNG = np.random.default_rng(0)
SMALL = (4, 12, 12)


def conv_net(shape, *layers, classes=5):
    return ca.Network(shape, [*layers, ca.Flatten(), ca.Linear(classes)])


NETWORKS = {
    "24 by 40": conv_net(
        (3, 24, 40),
        ca.Conv2d(12, 5, stride=2, padding=2),
        L,
        ca.Conv2d(16, 5, stride=2, padding=2),
        L,
        ca.Conv2d(8, 3, padding=1),
        L,
    ),
    "kernels, strides and padding differ by axis": conv_net(
        (3, 15, 8),
        ca.Conv2d(12, (3, 2), stride=(2, 1), padding=((1, 2), (0, 1))),
        L,
        ca.Conv2d(12, (2, 3), padding=(1, 0)),
        L,
    ),
    "one axis": conv_net((2, 64), ca.Conv1d(8, 5, stride=2, padding=2), L, ca.Conv1d(6, 5, stride=1, padding=2), R),
    "three axes": conv_net((1, 6, 5, 4), ca.Conv3d(6, 3, padding=1), L, ca.Conv3d(10, 2, padding=1), R),
    "groups": conv_net(SMALL, ca.Conv2d(24, 3, padding=1, groups=2), L, ca.Conv2d(40, 3, padding=1, groups=4), L),
    "depthwise, then pointwise": conv_net(
        SMALL, ca.Conv2d(40, 3, padding=1, groups=4), L, ca.Conv2d(60, 1), L, classes=10
    ),
    "dilated": conv_net((2, 10, 10), ca.Conv2d(12, 3, padding=2, dilation=2), L, ca.Conv2d(12, 3, dilation=(2, 1)), L),
    "hidden linear layers": ca.Network(
        SMALL, [ca.Conv2d(12, 3, padding=1), L, ca.Flatten(), ca.Linear(30), R, ca.Linear(20), L, ca.Linear(5)]
    ),
    "hidden linear layers without biases": ca.Network(
        SMALL,
        [
            *[ca.Conv2d(12, 3, padding=1), L, ca.Flatten(), ca.Linear(30, bias=False), R],
            *[ca.Linear(20, bias=False), ca.Tanh(), ca.Linear(5)],
        ],
    ),
    "no bias anywhere": ca.Network(
        SMALL,
        [
            *[ca.Conv2d(12, 3, padding=1, bias=False), L, ca.Flatten(), ca.Linear(30, bias=False), R],
            *[ca.Linear(20, bias=False), L, ca.Linear(5, bias=False)],
        ],
    ),
    "linear layers only": ca.Network((50,), [ca.Linear(40), R, ca.Linear(30), R, ca.Linear(5)]),
    "Flatten comes first": ca.Network((1, 6, 6), [ca.Flatten(), ca.Linear(20), R, ca.Linear(5)]),
    "an activation comes first": ca.Network(
        SMALL, [ca.Tanh(), ca.Conv2d(12, 3, padding=1), L, ca.Flatten(), ca.Linear(5)]
    ),
    "a convolution with one output position is the head": ca.Network(
        SMALL, [ca.Conv2d(12, 3, padding=1), L, ca.Conv2d(5, 12), ca.Flatten()]
    ),
    "softmax over two classes without a bias": ca.Network(
        SMALL, [ca.Conv2d(12, 3, padding=1), L, ca.Flatten(), ca.Linear(2, bias=False)]
    ),
    "softmax over ten classes without a bias": ca.Network(
        SMALL, [ca.Conv2d(12, 3, padding=1), L, ca.Flatten(), ca.Linear(10, bias=False)]
    ),
}
ACTIVATIONS = [
    *[ca.ELU(), ca.ELU(0.3), ca.SELU(), ca.Softplus(), ca.Softplus(3.0, 10.0), ca.Softsign(), ca.Hardtanh()],
    *[ca.Hardtanh(-0.3, 0.5), ca.ReLU6(), ca.Sigmoid(), ca.Tanh(), ca.Identity(), ca.LeakyReLU(2.0)],
]


def comes_back(c, *, rtol=1e-9) -> ca.Reconstruction:
    result = c.reconstruct()
    assert result.status is ca.Status.DETERMINED
    assert result.input.shape == result.determined.shape == result.error_bar.shape == c.network.input_shape
    np.testing.assert_allclose(result.input, c.image, rtol=0, atol=rtol)
    return result


@pytest.mark.parametrize("seed", some(1, [0, 1]))
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_input_comes_back(network: ca.Network, seed: int) -> None:
    image = np.random.default_rng(seed).random(network.input_shape)
    # The uniform initialisation saturates a softmax without bias; PyTorch's own keeps it moderate.
    comes_back(client(network, image, label=1, seed=seed, init="default"))


@pytest.mark.parametrize("name", ["no bias anywhere", "softmax over ten classes without a bias"])
def test_a_saturated_softmax_without_bias(name: str) -> None:
    network = NETWORKS[name]
    for seed in range(3):
        comes_back(client(network, np.random.default_rng(seed).random(network.input_shape), label=1, seed=seed))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation(activation: ca.Identity) -> None:
    layers = [ca.Conv2d(12, 3, padding=1), activation, ca.Conv2d(8, 5, padding=2), activation]
    comes_back(client(conv_net((3, 9, 8), *layers), RNG.random((3, 9, 8)), init="default"))


def test_a_relu_before_the_first_layer_hides_what_it_cuts_off() -> None:
    network = ca.Network(SMALL, [ca.ReLU(), ca.Conv2d(12, 3, padding=1), L, ca.Flatten(), ca.Linear(5)])
    image = RNG.standard_normal(SMALL)
    result = client(network, image).reconstruct()
    assert result.status is ca.Status.PARTIAL
    np.testing.assert_array_equal(result.determined, image > 0)
    assert mse(result, image) < 1e-24
    assert np.isinf(result.error_bar[image < 0]).all()


def special_images():
    photograph = samples.load("cifar10:3").image
    dark = photograph.copy()
    dark[1] = 0
    return {"white": np.ones((3, 32, 32)), "one channel zero": dark}


@pytest.mark.parametrize("name", ["white", "one channel zero"])
def test_special_images(name: str) -> None:
    comes_back(client(zoo.network("lenet-o"), special_images()[name]))


def test_a_black_image() -> None:
    # Every right-hand side of the first layer is zero: there is no typical value to compare with.
    layers = [ca.Conv2d(12, 3, padding=1), L]
    comes_back(client(conv_net((3, 9, 8), *layers), np.zeros((3, 9, 8)), init="default"))


def test_a_black_image_that_needs_the_weight_equations() -> None:
    comes_back(client(conv_net((3, 9, 8), ca.Conv2d(4, 3, padding=1), L), np.zeros((3, 9, 8)), init="default"))


@pytest.mark.parametrize(
    ("name", "init", "dtype"),
    [
        *(("lenet-o", "uniform", dtype) for dtype in ("float32", "bfloat16")),
        pytest.param("lenet-o", "uniform", "float16", marks=pytest.mark.slow),  # all singular values: 30 s
        *(("rconv-tanh", "default", dtype) for dtype in ("float32", "bfloat16")),
        pytest.param("rconv-tanh", "default", "float16", marks=pytest.mark.slow),  # all singular values: 36 s
    ],
)
def test_a_coarse_precision_has_an_honest_status(name: str, init: str, dtype: str) -> None:
    image = samples.load("cifar10:3").image
    limit = 5.0 if dtype == "float32" else 1.0
    result = client(zoo.network(name, classes=10), image, dtype=dtype, init=init).reconstruct(search=limit)
    error = np.abs(result.input - image)[result.determined]
    bars = result.error_bar[result.determined]
    assert np.isfinite(bars).all()
    # Numbers that underflow on the way back through a float16 network are not in the error bars.
    if result.status in {ca.Status.DETERMINED, ca.Status.PARTIAL} and dtype != "float16":
        assert np.sqrt((error**2).mean()) < 5 * np.sqrt((bars**2).mean())
    if dtype == "float32":
        assert result.status is ca.Status.DETERMINED
        assert error.max() < 1e-3


def test_the_same_input_gives_the_same_bits_and_nothing_is_modified() -> None:
    c = client(zoo.network("lenet-o"), samples.load("cifar10:5").image)
    parameters, gradients = c.parameters, c.gradients
    before = [{name: a.copy() for name, a in arrays.items()} for arrays in (parameters, gradients)]
    first, second = (ca.reconstruct(c.network, parameters, gradients) for _ in range(2))
    assert first.input.tobytes() == second.input.tobytes()
    assert first.error_bar.tobytes() == second.error_bar.tobytes()
    assert (first.layers, first.discrepancy, first.status) == (second.layers, second.discrepancy, second.status)
    for arrays, copies in zip((parameters, gradients), before, strict=True):
        for name, copy in copies.items():
            assert arrays[name].tobytes() == copy.tobytes()


def test_read_only_arrays_will_do() -> None:
    c = client(NETWORKS["linear layers only"], RNG.random(50))
    parameters, gradients = c.parameters, c.gradients
    for array in [*parameters.values(), *gradients.values()]:
        array.flags.writeable = False
    assert ca.reconstruct(c.network, parameters, gradients).status is ca.Status.DETERMINED


def test_progress_is_reported_for_each_layer_from_the_head_on() -> None:
    c = client(NETWORKS["hidden linear layers"], RNG.random(SMALL))
    calls = []
    c.reconstruct(progress=lambda *call: calls.append(call))
    # The lowest layer whose bias gradient is its output gradient is the first linear one.
    assert calls == [(1, 2, "3"), (2, 2, "0")]
    calls.clear()
    client(NETWORKS["one axis"], RNG.random((2, 64))).reconstruct(progress=lambda *call: calls.append(call))
    assert calls == [(1, 3, "5"), (2, 3, "2"), (3, 3, "0")]


def test_another_loss_needs_no_name_where_the_head_has_a_bias() -> None:
    c = client(NETWORKS["one axis"], RNG.random((2, 64)))
    gradients = ca.torch_gradients(c.model, c.image, 0, loss=lambda output, _: (output**2).sum())
    result = ca.reconstruct(c.network, c.parameters, gradients, loss=None)
    assert result.status is ca.Status.DETERMINED
    assert result.label is None
    np.testing.assert_allclose(result.input, c.image, rtol=0, atol=1e-10)


def test_gradients_of_other_parameters_are_inconsistent() -> None:
    c = client(zoo.network("lenet-o"), samples.load("cifar10:5").image)
    parameters = c.parameters
    parameters["2.weight"] = np.roll(parameters["2.weight"], 1, axis=0)
    result = ca.reconstruct(c.network, parameters, c.gradients)
    assert result.status is not ca.Status.DETERMINED
    assert max(result.discrepancy.values(), default=np.inf) > 1e-3


def test_both_explanations_of_a_logistic_head_have_the_same_gradient() -> None:
    # x → -x mirrors a network of odd functions, and w · dL/dw = -m / (1 + exp(m)) has two margins m where m > 0.
    network = ca.Network((6,), [ca.Linear(1, bias=False)])
    weight = {"0.weight": np.array([[1.0, -2.0, 0.5, 0.3, -0.7, 1.1]])}
    x = np.array([0.9, 0.1, 0.6, 0.5, 0.2, 0.7])
    c = client(network, x, label=1, loss="logistic")
    load_parameters(c.model, weight)
    result = c.reconstruct()
    explanations = [result, *result.alternatives]
    assert len(explanations) == 4
    assert min(np.abs(r.guess - x).max() for r in explanations) < 1e-14
    assert len({tuple(np.round(r.guess, 9)) for r in explanations}) == 4
    for explanation in explanations:
        again = ca.torch_gradients(c.model, explanation.guess, explanation.label, "logistic")
        np.testing.assert_allclose(again["0.weight"], c.gradients["0.weight"], rtol=1e-12)
    # Two of them lie in [0, 1]: no one can tell which it was.
    valid = [r for r in explanations if r.guess.min() >= 0 and r.guess.max() <= 1]
    assert result.status is (ca.Status.AMBIGUOUS if len(valid) > 1 else ca.Status.DETERMINED)
    assert any(r is result for r in valid)
    assert result.determined.all() == (len(valid) == 1)  # what they differ on is not determined
