"""The recursion on graphs: real gradients of PyTorch give the input back, with every value between, or it says why not.

A wrong value that counts as known would be the worst fault: all values and gradients that the recursion believes in are
compared with PyTorch's own, not the input alone.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from tests.graph_cases import Case, random_graph
from tests.graph_oracle import jacobian, rank_and_determined
from tests.recursion import graph_networks as nets
from tests.recursion.graph_networks import Client, client

EXACT = 1e-10
Build = Callable[[], Case]

SMALL: dict[str, Build] = {
    "residual": lambda: nets.residual(6, (32, 64)),
    "residual, global mean": lambda: nets.residual(6, (48,), mean=True),
    "pre-activated": lambda: nets.preactivated(6, (32, 64)),
    "dense": lambda: nets.densely_connected(6, 32, 16),
    "inception": lambda: nets.inception(6, 16),
    "LeNet": lambda: nets.lenet(8, 16, 16),
    "max-pool": lambda: nets.tutorial(6, 96, 96),
    "transposed": lambda: nets.transposed(4),
    "PReLU": lambda: nets.with_prelu(6),
    "U-Net": lambda: nets.u_net(6, 24),
}
LARGE: dict[str, Build] = {
    "residual, 16x16": lambda: nets.residual(16, (32, 64)),
    "residual, three stages, global mean": lambda: nets.residual(16, (48, 48, 64), mean=True),
    "pre-activated, 16x16": lambda: nets.preactivated(16, (32, 64)),
    "pre-activated, global mean": lambda: nets.preactivated(12, (48, 64), mean=True),
    "bottleneck": lambda: nets.bottleneck(8, (96, 128)),
    "dense, 12x12": lambda: nets.densely_connected(12, 32, 32),
    "inception, two blocks": lambda: nets.inception(12, 24, blocks=2, largest=False),
    "LeNet, 16x16": lambda: nets.lenet(16, 24, 32),
    "max-pool, 8x8": lambda: nets.tutorial(8, 96, 96),
    "U-Net, 12x12": lambda: nets.u_net(12, 24),
}


def error_inside(c: Client, knows) -> float:
    """The largest error of any value or gradient that counts as known, relative to the largest of its array."""
    worst = 0.0
    for number in range(len(c.case.network) + 1):
        name = c.case.network.value_name(number)
        for found, truth in ((knows.values[number], c.values), (knows.gradients[number], c.sent)):
            if name in truth and found.known.any():  # halves of a batch norm have no name in PyTorch
                error = np.abs(found.value - truth[name])[found.known].max()
                worst = max(worst, float(error / (np.abs(truth[name]).max() or 1.0)))
    return worst


def assert_comes_back(c: Client) -> ca.Reconstruction:
    result, knows = c.reconstruct()
    assert result.status is ca.Status.DETERMINED
    assert np.abs(result.input - c.image).max() < EXACT
    assert error_inside(c, knows) < EXACT
    assert result.label == 3
    assert set(result.discrepancy) == set(c.case.network.parameter_shapes)
    assert max(result.discrepancy.values()) < EXACT
    return result


@pytest.mark.parametrize("build", SMALL.values(), ids=SMALL)
def test_the_input_comes_back_with_every_value_between(build: Build) -> None:
    assert_comes_back(client(build()))


@pytest.mark.slow
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("seed", [0, 1])
def test_larger_inputs_come_back(build: Build, seed: int) -> None:
    assert_comes_back(client(build(), seed=seed))


def test_a_blind_start_is_named_as_the_ground_of_the_verdict() -> None:
    result = assert_comes_back(client(SMALL["max-pool"]()))
    assert "layer 'conv2' was read by its own weight gradient alone (blind start)" in result.notes[0]


OPEN: dict[str, tuple[Build, str]] = {
    "who won is open": (lambda: nets.tutorial(6, 16, 16), "which entry won is open in"),
    "a pool of the first layer": (lambda: nets.pooled_at_once(6, 16), "which entry won is open in"),
    "a mean of narrow maps": (lambda: nets.residual(6, (16, 24), mean=True), "the recursion stops at the input of"),
    "narrow bottlenecks": (lambda: nets.bottleneck(6, (24,), squeeze=4, mean=True), "the recursion stops"),
}


@pytest.mark.parametrize(("build", "words"), OPEN.values(), ids=OPEN)
def test_what_stays_open_is_said_and_nothing_wrong_is_known(build: Build, words: str) -> None:
    c = client(build())
    result, knows = c.reconstruct(search=0)  # by equations alone
    assert result.status is ca.Status.UNDETERMINED
    assert words in result.conclusion
    assert np.isnan(result.input).all()
    assert np.isinf(result.error_bar).all()
    assert error_inside(c, knows) < EXACT
    assert any(found.known.any() for found in knows.values)  # the head's input at least


def test_what_hides_the_input_before_the_first_layer_is_said() -> None:
    net = nets.Written((2, 5, 5), 0)
    net.pool(largest=True, kernel=2, stride=1)
    net.conv(24, bias=True)
    net.relu()
    c = client(net.head())
    result, knows = c.reconstruct()
    assert "the inputs of all layers with a weight are known; what comes before them hides the rest" in result.notes
    assert knows.values[1].known.all()
    assert not knows.values[0].known.any()


def test_a_max_pool_whose_losers_all_stay_open_says_in_how_many_windows() -> None:
    c = client(nets.pooled_at_once(6, 16))
    result, _ = c.reconstruct(search=0)
    k = c.sent["pool2"]
    assert f"open in {np.count_nonzero(k):,} windows of layer 'pool2'" in result.conclusion


@pytest.mark.parametrize(
    ("times", "norm"),
    [
        (1e5, True),
        *(pytest.param(*which, marks=pytest.mark.slow) for which in ((1.0, False), (1.0, True), (1e5, False))),
    ],
)
def test_biases_tell_the_gradient_of_a_mean_even_where_some_are_exactly_zero(times: float, norm: bool) -> None:
    case = nets.all_convolutional(5, 24, norm=norm)
    case.parameters["conv2.weight"][...] *= times  # a sure prediction, right or wrong, has k of zeros and ones
    c = client(case)
    if times > 1:
        np.testing.assert_array_equal(np.sort(np.abs(c.sent["flatten5" if norm else "flatten4"]))[-3:], [0, 1, 1])
    _, knows = c.reconstruct()
    assert knows.gradients[-1].known.all()
    assert knows.gradients[-1].value.any()
    assert error_inside(c, knows) < EXACT


def test_single_known_values_are_no_input_to_check_a_smooth_network_with() -> None:
    net = nets.Written((1, 4, 4), 0)
    net.conv(2, 1, 2, bias=True)
    net.norm()
    net.put(ca.Softplus(), lambda _, x: torch.nn.functional.softplus(x))
    c = client(net.head())
    result, knows = c.reconstruct(search=0)
    assert result.status is ca.Status.PARTIAL
    np.testing.assert_array_equal(result.determined[0], [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4])
    assert result.discrepancy == {}
    assert error_inside(c, knows) < EXACT


def pooled(cases: dict[str, Build], seeds: range) -> np.ndarray:
    """Errors in units of their bars, of clients that compute in float32."""
    found = []
    for build in cases.values():
        for seed in seeds:
            c = client(build(), seed=seed, dtype=torch.float32)
            result, _ = c.reconstruct()
            assert result.status is ca.Status.DETERMINED
            found.append((np.abs(result.input - c.image) / result.error_bar).ravel())
    return np.concatenate(found)


def assert_honest(errors: np.ndarray) -> None:
    assert errors.max() < 8
    assert 0.6 <= (errors <= 1).mean() <= 0.98
    assert (errors <= 4).mean() >= 0.99


def test_error_bars_in_float32() -> None:
    assert_honest(pooled({name: SMALL[name] for name in ("residual", "inception", "LeNet", "PReLU")}, range(1)))


@pytest.mark.slow
def test_error_bars_in_float32_over_all_networks() -> None:
    assert_honest(pooled(SMALL | {"bottleneck": LARGE["bottleneck"], "dense": LARGE["dense, 12x12"]}, range(3)))


# ---- random graphs: nothing wrong, whatever comes ----


def spoilt(case: Case, seed: int) -> Case:
    """Parameters of the unpleasant kind: dead, doubled and zero filters, tiny and huge weights, no biases."""
    rng = np.random.default_rng([11, seed])
    P = {name: np.array(a) for name, a in case.parameters.items()}
    kind = ("none", "dead", "zero", "twins", "tiny", "huge", "no factor", "no bias", "sparse")[seed % 9]
    for name, W in P.items():
        bias = P.get(name.replace("weight", "bias"))
        is_conv = name.startswith("conv") and name.endswith("weight")
        if kind == "dead" and is_conv and bias is not None:
            bias[rng.integers(len(bias))] = -50.0
        elif kind == "zero" and is_conv:
            W[rng.integers(len(W))] = 0.0
        elif kind == "twins" and is_conv and len(W) > 1:
            W[1] = W[0]
        elif kind in {"tiny", "huge"} and is_conv and rng.random() < 0.5:
            np.multiply(W, 1e-6 if kind == "tiny" else 30.0, out=W)
        elif kind == "no factor" and name.startswith("norm") and name.endswith("weight"):
            W[rng.integers(len(W))] = 0.0
        elif kind == "no bias" and name.endswith("bias") and not name.startswith("linear"):
            W[...] = 0.0
        elif kind == "sparse" and is_conv:
            W[rng.random(W.shape) < 0.5] = 0.0
    return case._replace(parameters=P)


def attack(seed: int, *, limit: bool = True) -> bool:
    """Reconstruct through a random graph, compare all that counts as known; return whether any pixel does.

    Args:
        seed: of the graph.
        limit: whether to ask the Jacobian of all gradients, too, which takes most of the time.
    """
    case = spoilt(random_graph(seed, smooth=bool(seed % 2)), seed)
    network, given = case.network, {name: torch.tensor(a) for name, a in case.parameters.items()}
    x = np.random.default_rng([5, seed]).random(network.input_shape)
    trained = [given[name].requires_grad_() for name in network.parameter_shapes]
    loss = torch.nn.functional.cross_entropy(case.function(given, torch.tensor(x))[None], torch.tensor([seed % 4]))
    gradients = [g.numpy() for g in torch.autograd.grad(loss, trained)]
    c = Client(case, x, case.parameters, dict(zip(network.parameter_shapes, gradients, strict=True)), {}, {})
    try:
        result, knows = c.reconstruct(search=0)
    except ca.ZeroGradientError:
        return False
    parameters = bind(network, case.parameters, "parameters")
    values = network.forward(parameters, x)
    p = np.exp(values[-1] - values[-1].max())
    if network.head.bias_name is None and p.max() > 0.99 * p.sum():
        return False  # 1 - p is rounded where the prediction is sure, and a head without bias shows nothing else
    assert result.status is not ca.Status.INCONSISTENT
    sent = network.output_gradients(parameters, values, p / p.sum() - np.eye(4)[seed % 4])
    for found, truth in ((knows.values, values), (knows.gradients, sent)):
        for one, right in zip(found, truth, strict=True):
            error, size = np.where(one.known, np.abs(one.value - right), 0.0), float(np.abs(right).max())
            assert not ((error > 8 * one.deviation) & (error > 1e-6 * size)).any()
    piecewise = not seed % 2
    if limit and piecewise and result.determined.any():
        k = torch.tensor(p / p.sum() - np.eye(4)[seed % 4])
        _, kernel, _ = rank_and_determined(jacobian(case, x, k))
        assert (kernel[result.determined.ravel()] < 1e-4).all()
    return bool(result.determined.any())


def test_nothing_wrong_is_known_in_random_graphs() -> None:
    assert sum(attack(seed, limit=False) for seed in [*range(8), 15, 29, 34]) >= 3


def test_what_tiny_gradients_leave_open_moves_nothing_that_counts_as_known() -> None:
    # A filter whose k differ by seven orders of magnitude: null vectors have small components, which are no zeros.
    assert attack(112, limit=False)


@pytest.mark.slow
def test_nothing_wrong_is_known_in_many_random_graphs() -> None:
    assert sum(map(attack, range(8, 140))) >= 8


# ---- CIFAR's ResNet-20 ----


@pytest.mark.slow
def test_resnet20_at_its_own_widths_stops_in_the_first_stage(record_property) -> None:
    # Of the seeds 0 to 7 the first at which the gradient equations of all second convolutions have full rank.
    c = client(nets.residual(32, (16, 32, 64), blocks=3, seed=5))
    tracemalloc.start()
    begun = time.perf_counter()
    result, knows = c.reconstruct()
    took, most = time.perf_counter() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.status is ca.Status.UNDETERMINED
    assert "the recursion stops at the input of layer" in result.conclusion
    assert error_inside(c, knows) < EXACT
    activations = [layer.number for layer in c.case.network if layer.is_activation]
    known = {number: bool(knows.values[number].known.all()) for number in activations}
    shapes = {number: c.case.network.shape_of(number) for number in activations}
    assert all(known[number] for number in activations if shapes[number] in {(64, 8, 8), (32, 16, 16)})
    first = [number for number in activations if shapes[number] == (16, 32, 32)]
    assert not any(known[number] for number in first)
    assert knows.gradients[first[-1]].known.all()  # and with it what the second stage sends down
    assert not knows.gradients[first[-2]].known.any()
    record_property("seconds", took)
    record_property("GiB", most / 2**30)


def test_noise_is_stated_in_the_shapes_of_pytorch() -> None:
    net = ca.Network(
        (2, 3, 3), {"a": ca.ConvTranspose2d(4, 2), "n": ca.BatchNorm(), "f": ca.Flatten(), "h": ca.Linear(5)}
    )
    model = ca.to_torch(net, seed=0)
    x = np.linspace(0, 1, 18).reshape(2, 3, 3)
    gradients = ca.torch_gradients(model, x, 1)
    parameters = ca.from_torch(model, x.shape)[1]
    plain = ca.reconstruct(net, parameters, gradients, noise=1e-9)
    stated = {name: np.full(np.shape(g), 1e-9) for name, g in gradients.items()}
    assert {name: array.shape for name, array in stated.items()} == net.parameter_shapes
    assert (ca.reconstruct(net, parameters, gradients, noise=stated).error_bar == plain.error_bar).all()
    with pytest.raises(ca.ParameterError, match=r"'n.weight' needs one number or shape \(4,\), got \(3,\)"):
        ca.reconstruct(net, parameters, gradients, noise={"n.weight": np.ones(3)})
