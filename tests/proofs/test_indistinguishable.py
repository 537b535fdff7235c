"""Twins verify by real gradients, fixed values stay, determined inputs have no twin, and the set is not vacuous."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.networks.activation_pattern import activation_pattern
from tests.some import some
from tests.twin_cases import case, random_case

RNG = np.random.default_rng(0)
DETERMINED = {
    "enough filters": ca.Network(
        (2, 6, 6), [ca.Conv2d(12, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(4)]
    ),
    "fully connected": ca.Network((9,), [ca.Linear(6), ca.ReLU(), ca.Linear(4)]),
    "one layer": ca.Network((1, 3, 3), [ca.Flatten(), ca.Linear(4)]),
    "two convolutions": ca.Network(
        (1, 8, 8), [ca.Conv2d(8, 3, padding=1), ca.Tanh(), ca.Conv2d(6, 3), ca.Sigmoid(), ca.Flatten(), ca.Linear(4)]
    ),
}


def assert_sound(c, seeds: range) -> int:
    """Every twin of a case verifies and leaves fixed values alone; return how many change a value by 1e-3 or more.

    Some sets are narrower than that in every direction: one of the 600 of the slow sweep.
    """
    found = c.set()
    twins = [twin for seed in seeds if (twin := found.twin("random", seed=seed)) is not None]
    twins += [twin for objective in ("mean",) if (twin := found.twin(objective)) is not None]
    for twin in twins:
        check = c.verify(twin.image)
        assert check.equal, (check, found)
        assert check.tolerance == 1e-10
        assert twin.change > 1e-6
        assert twin.image.min() >= 0
        assert twin.image.max() <= 1
        assert np.abs(twin.difference[found.fixed]).max(initial=0) < 1e-7
        assert found.contains(twin.image)
    assert (found.dimension == 0) == (not twins)
    return sum(twin.change >= 1e-3 for twin in twins)


@pytest.mark.parametrize("block", some(4, range(10)))
def test_on_random_networks_every_twin_verifies_and_fixed_values_stay(block: int) -> None:
    """In all ten blocks: 140 networks, more than 100 of them with twins."""
    with_twins = sum(assert_sound(random_case(seed), range(1)) > 0 for seed in range(14 * block, 14 * block + 14))
    assert with_twins >= 7


@pytest.mark.slow
def test_on_many_random_networks() -> None:
    with_twins = sum(assert_sound(random_case(seed), range(4)) > 0 for seed in range(1000, 1600))
    assert with_twins > 400


@pytest.mark.parametrize("network", DETERMINED.values(), ids=DETERMINED)
def test_a_determined_input_has_no_twin(network: ca.Network) -> None:
    c = case(network, np.random.default_rng(3).random(network.input_shape))
    found = c.set()
    assert found.fixed.all()
    assert found.dimension == found.nullity == 0
    assert all(found.twin(objective) is None for objective in ("mean", "random", np.zeros(c.image.shape)))
    assert found.contains(c.image)
    assert not found.contains(np.clip(c.image + 1e-3, 0, 1))
    interval = found.interval(tuple(0 for _ in c.image.shape))
    assert interval.outer_width < 1e-8
    assert c.network.input_shape == ca.reconstruct(network, c.parameters, c.gradients()).determined.shape


@pytest.mark.parametrize("seed", [3, 8, 17, 36, 45])
def test_a_step_out_of_the_set_changes_the_gradients(seed: int) -> None:
    c = random_case(seed)
    found = c.set()
    twin = found.twin("random").image
    outside = np.random.default_rng(seed).standard_normal(c.image.size)
    outside -= found.polytope.null.project(outside)  # orthogonal to the null space
    step = 1e-6 * outside.reshape(twin.shape) / np.abs(outside).max()
    check = c.verify(twin + step)
    assert not check.equal
    assert check.difference > 1e-9
    assert not found.contains(np.clip(twin + step, 0, 1))


def test_a_step_across_a_cut_off_changes_the_gradients() -> None:
    net = ca.Network((1, 4), [ca.Conv1d(1, 2, stride=2), ca.ReLU(), ca.Flatten(), ca.Linear(2)])
    c = case(net, [[0.9, 0.8, 0.1, 0.2]])
    c.model[0].weight.data[:] = 1.0
    c.model[0].bias.data[:] = -1.0
    found = c.set()
    np.testing.assert_array_equal(found.passing, [[True, False]])
    on_edge, beyond = c.image.copy(), c.image.copy()
    on_edge[0, 2:], beyond[0, 2:] = [0.4, 0.6 - 1e-9], [0.4, 0.6 + 1e-3]
    assert found.contains(on_edge)
    assert c.verify(on_edge).equal
    assert not found.contains(beyond)
    assert not c.verify(beyond).equal


def test_without_a_target_the_twin_holds_for_every_class() -> None:
    net = ca.Network((3, 8, 8), [ca.Conv2d(1, 3, stride=2, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)])
    c = case(net, RNG.random((3, 8, 8)))
    one, every = c.set(), ca.indistinguishable(c.network, c.parameters, c.image)
    assert every.nullity < one.nullity
    twin = every.twin()
    for label in range(4):
        assert ca.verify_twin(c.model, c.image, twin.image, label).equal
    any_loss = ca.indistinguishable(c.network, c.parameters, c.image, loss=None)
    assert any_loss.nullity <= every.nullity
    square = lambda output, target: ((output - target) ** 2).sum()  # noqa: E731
    assert ca.verify_twin(c.model, c.image, any_loss.twin().image, np.ones((1, 4)), square).equal


def test_logistic_needs_no_target() -> None:
    net = ca.Network((1, 6, 6), [ca.Conv2d(1, 3, stride=2, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(1)])
    c = case(net, RNG.random((1, 6, 6)))
    for target in (None, 0, 1):
        twin = ca.indistinguishable(net, c.parameters, c.image, target, loss="logistic").twin()
        assert ca.verify_twin(c.model, c.image, twin.image, 1, "logistic").equal


@pytest.mark.parametrize(
    ("activations", "z", "passing", "side", "edge"),
    [
        ((ca.ReLU(),), [-1.0, 0.0, 2.0], [False, False, True], [1, 1, 0], [0, 0, 0]),
        ((ca.Hardtanh(-0.5, 1.0),), [-0.6, 0.0, 1.5], [False, True, False], [1, 0, -1], [-0.5, 0, 1]),
        ((ca.LeakyReLU(0.5), ca.Hardtanh(-0.5, 1.0)), [-2.0, -0.4, 3.0], [False, True, False], [1, 0, -1], [-1, 0, 1]),
        ((ca.ReLU(), ca.Hardtanh(-1.0, 1.0)), [-2.0, 0.5, 3.0], [False, True, False], [1, 0, -1], [0, 0, 1]),
        ((ca.Sigmoid(),), [-9.0, 0.0, 9.0], [True, True, True], [0, 0, 0], [0, 0, 0]),
    ],
    ids=lambda value: "+".join(map(repr, value)) if isinstance(value, tuple) else None,
)
def test_the_pattern_of_activations_that_follow_each_other(activations, z, passing, side, edge) -> None:
    net = ca.Network((3,), [ca.Linear(3), *activations, ca.Linear(2)])
    parameters = {name: np.zeros(shape) for name, shape in net.parameter_shapes.items()}
    parameters["0.bias"] = np.array(z)
    found = activation_pattern(net, net.forward(parameters, np.zeros(3)), net[0])
    for came, expected in zip(found, (passing, side, edge), strict=True):
        np.testing.assert_allclose(came, expected)


def test_float32_gradients_of_a_twin_differ_by_rounding_alone() -> None:
    c = random_case(8)
    twin = c.set().twin()
    first, second = (c.gradients(image, torch.float32) for image in (c.image, twin.image))
    for name, values in first.items():
        assert np.abs(values - second[name]).max() < 1e-5 * max(np.abs(v).max() for v in first.values())


def test_what_is_refused() -> None:
    c = random_case(8)
    network, parameters, x = c.network, c.parameters, c.image
    with pytest.raises(ca.ShapeError, match="without batch"):
        ca.indistinguishable(network, parameters, x[None], 0)
    with pytest.raises(ca.ParameterError, match="valid range from 0 to 1"):
        ca.indistinguishable(network, parameters, x + 1, 0)
    with pytest.raises(ca.ParameterError, match="smallest, largest"):
        ca.indistinguishable(network, parameters, x, 0, valid_range=(1, 0))
    with pytest.raises(ca.ParameterError, match="class from 0 to 3, got 4"):
        ca.indistinguishable(network, parameters, x, 4)
    with pytest.raises(ca.UnknownNameError, match="loss must be"):
        ca.indistinguishable(network, parameters, x, 0, loss="hinge")
    with pytest.raises(ca.ShapeError, match="one output"):
        ca.indistinguishable(network, parameters, x, 0, loss="logistic")
    with pytest.raises(ca.ParameterError, match="missing"):
        ca.indistinguishable(network, {}, x, 0)
    bent = ca.Network((3,), [ca.Tanh(), ca.Linear(2)])
    with pytest.raises(ca.UnsupportedLayerError, match="certify the network from that layer on"):
        ca.indistinguishable(bent, {"1.weight": np.ones((2, 3)), "1.bias": np.ones(2)}, np.zeros(3), 0)
    with pytest.raises(ca.ShapeError, match="no layer with a weight"):
        ca.indistinguishable(ca.Network((3,), [ca.ReLU()]), {}, np.zeros(3), 0)
    with pytest.raises(ca.ShapeError, match="holds inputs of shape"):
        c.set().contains(np.zeros(2))


def test_the_limits_are_stated() -> None:
    for words in ("one sample", "noise-free", "activation pattern"):
        assert words in ca.indistinguishable.__doc__
    assert "nullity" in repr(random_case(8).set())


@pytest.mark.slow
def test_at_32_by_32_a_twin_verifies_and_a_time_limit_costs_width_alone() -> None:
    layers = [
        ca.Conv2d(6, 5, stride=2, padding=2),
        ca.ReLU(),
        ca.Conv2d(16, 5, stride=2, padding=2),
        ca.ReLU(),
        ca.Flatten(),
        ca.Linear(10),
    ]
    sample = ca.samples.load("cifar10:3")
    c = case(ca.Network((3, 32, 32), layers), sample.image, sample.label)
    found, pixel = c.set(), (0, 3, 7)
    assert found.nullity > 1200
    twin = found.twin(pixel)
    assert c.verify(twin.image).equal
    assert twin.change > 0.5
    early, full = found.interval(pixel, time_limit=1.0), found.interval(pixel)
    assert early.lower_outer <= full.lower_inner <= sample.image[pixel] <= full.upper_inner <= early.upper_outer
    assert early.lower_inner >= full.lower_outer
    assert early.upper_inner <= full.upper_outer
    assert full.doubt < 1e-5


@pytest.mark.parametrize("valid_range", [(-np.inf, np.inf), (0.0, np.inf), (1.0, 0.0), (np.nan, 1.0)])
def test_a_range_without_ends_is_refused(valid_range) -> None:
    net = ca.Network((4,), [ca.Linear(2), ca.ReLU(), ca.Linear(2)])
    parameters = {name: np.ones(shape) for name, shape in net.parameter_shapes.items()}
    with pytest.raises(ca.ParameterError, match="valid_range"):
        ca.indistinguishable(net, parameters, np.full(4, 0.5), 0, valid_range=valid_range)
