"""Dropout in training mode, from shapes: its mask is a pattern that shows in its outputs."""

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from constraint_algebra.theory.activity import kept
from constraint_algebra.theory.graph_feasibility import drawn_network
from constraint_algebra.theory.graph_recursion import recursion

BELOW = [ca.Conv2d(6, 3, padding=1), ca.LeakyReLU(0.2), ca.Conv2d(3, 3, stride=2, padding=1), ca.ReLU()]
HEAD = [ca.Flatten(), ca.Linear(12), ca.ReLU(), ca.Linear(4)]


@pytest.mark.parametrize("seed", range(4))
def test_behind_relu_what_dropout_drops_is_known_as_what_relu_cuts_off(seed) -> None:
    shape, rng = (3, 4, 4), np.random.default_rng(seed)
    active, mask = rng.random(shape) < 0.6, rng.random(shape) < 0.8
    with_it = ca.Network((2, 8, 8), [*BELOW, ca.Dropout(0.2), *HEAD])
    without = ca.Network((2, 8, 8), [*BELOW, *HEAD, ca.PReLU()])  # no chain either
    one = recursion(drawn_network(with_it, {"3": active, "4": mask, "7": np.ones(12, dtype=bool)}, seed))
    other = recursion(drawn_network(without, {"3": active & mask, "6": np.ones(12, dtype=bool)}, seed))
    assert one.values[3].any()  # the second convolution's outputs, where both let through
    for number in (0, 1, 2, 3):
        np.testing.assert_array_equal(one.values[number], other.values[number])
        np.testing.assert_array_equal(one.gradients[number], other.gradients[number])
    assert not one.values[2].all()
    for number in (3, 4):  # a zero may have been dropped, or cut off
        np.testing.assert_array_equal(one.values[number], active & mask)


def test_a_mask_that_no_output_shows_stops_what_comes_back() -> None:
    layers = {
        "a": ca.Linear(6),
        "drop": ca.Dropout(),
        "pool": ca.Reshape((3, 2)),
        "mean": ca.Mean((1,)),
        "head": ca.Linear(2),
    }
    state = recursion(drawn_network(ca.Network((4,), layers), {}, 0))
    number = state.drawn.network.named("drop").number
    assert state.gradients[number].all()
    assert not state.values[number].any()
    assert not state.passed[number - 1, number - 1].any()
    assert state.gradients[number - 1].all()  # by a's own bias gradient


def test_masks_are_drawn_with_the_probability_to_keep_and_whole_channels_together() -> None:
    net = ca.Network((40, 3, 3), [ca.Dropout(0.25), ca.Dropout(0.5, features=True), ca.Flatten(), ca.Linear(2)])
    masks = kept(net)
    assert abs(masks["0"].mean() - 0.75) < 0.1
    by_channel = masks["1"].reshape(40, -1)
    assert (by_channel.all(axis=1) | ~by_channel.any(axis=1)).all()
    assert 8 < by_channel.any(axis=1).sum() < 32
    report = ca.feasibility(net)
    assert "with masks of Dropout drawn at random" in report.conclusion
    assert "masks of dropout are not known, and show in its outputs" in report.assumptions
    np.testing.assert_array_equal(report.determined, masks["0"] & masks["1"])
    given = ca.feasibility(net, activity={"0": masks["1"], "1": masks["1"]})
    np.testing.assert_array_equal(given.determined, masks["1"])
    assert "with masks of Dropout as given" in given.conclusion


def test_numbers_need_the_mask_and_are_exact_with_it() -> None:
    rng = np.random.default_rng(3)
    net = ca.Network((2, 6, 6), [ca.Conv2d(8, 3), ca.ReLU(), ca.Dropout(0.3), ca.Flatten(), ca.Linear(5)])
    values = {name: rng.uniform(-0.5, 0.5, shape) for name, shape in net.parameter_shapes.items()}
    with pytest.raises(
        ca.UnsupportedLayerError, match=r"2: dropout.*mask that nobody else sees.*'2.mask'.*feasibility"
    ):
        ca.reconstruct(net, values, values)
    values["2.mask"] = (rng.random((8, 4, 4)) < 0.7).astype(float)
    x = rng.random((2, 6, 6))
    bound = bind(net, values, "parameters")
    forward = net.forward(bound, x)
    np.testing.assert_allclose(forward[3], values["2.mask"] * forward[2] / 0.7)
    k = rng.standard_normal(5)
    result = ca.reconstruct(net, values, net.backward(bound, forward, k), loss=None)
    np.testing.assert_allclose(result.input, x, atol=1e-9)
    assert set(ca.activity_of(net, values, x)) == {"1", "2"}
    with pytest.raises(ca.ParameterError, match=r"'2\.mask' is a mask of ones and zeros, and holds 0\.5"):
        bind(net, values | {"2.mask": np.full((8, 4, 4), 0.5)}, "parameters")


@pytest.mark.parametrize(("p", "words"), [(0, "leave it out"), (1.0, "between 0 and 1"), ("half", "must be a number")])
def test_a_probability_is_held_to_its_range(p, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        ca.Dropout(p)
