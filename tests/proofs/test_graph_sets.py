"""Twins through graphs: residual blocks, max-pool, batch norm. PyTorch's gradients judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.proofs.polytope import Polytope
from tests.graph_cases import Builder, Case, random_graph
from tests.graph_models import resnet18, tutorial_cnn
from tests.graph_oracle import head_gradient, jacobian, largest_difference, rank_and_determined

FEW = (0, 2, 32)  # of the last a value at its bound is free once another has moved


def image_of(case: Case, seed: int) -> np.ndarray:
    """An image, of every fourth seed with values at the ends of the range."""
    rng = np.random.default_rng([5, seed])
    x = rng.random(case.network.input_shape)
    return np.where(rng.random(x.shape) < 0.15, np.round(x), x) if seed % 4 == 0 else x


def ray(found: ca.IndistinguishabilitySet, seed: int) -> float:
    """How far a random direction of the kernel goes: the largest change of any value."""
    P = found.polytope
    way = P.null.project(np.random.default_rng(seed).standard_normal(found.input.size))
    rise, room = np.concatenate([way, -way, P.cut @ way]), np.concatenate([P.upper, -P.lower, P.slack])
    ahead = rise > 1e-12
    return float((room[ahead] / rise[ahead]).min() * np.abs(way).max())


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    "seed", [*FEW, *(pytest.param(n, marks=pytest.mark.slow) for n in range(60) if n not in {0, 2, 32})]
)
def test_twins_verify_and_those_that_keep_the_first_layers_are_among_them(seed: int, smooth: bool) -> None:
    case = random_graph(seed, smooth=smooth)
    x = image_of(case, seed)
    whole, first = (case_set(case, x, part=part) for part in ("whole", "first layers"))
    assert first.nullity <= whole.nullity
    for found in (whole, first):
        for objective in ("mean", "far") if found.dimension else ():
            twin = found.twin(objective)
            if twin is not None:
                assert largest_difference(case, x, twin.image, 1) < 1e-9
                assert whole.contains(twin.image)
                assert found.contains(twin.image)
                assert np.abs(twin.difference)[found.fixed].max(initial=0) < 1e-9


def case_set(case: Case, x: np.ndarray, label: int = 1, **options) -> ca.IndistinguishabilitySet:
    return ca.indistinguishable(case.network, case.parameters, x, label, **options)


@pytest.mark.parametrize("seed", [3, 6])
def test_the_equations_are_the_kernel_of_automatic_differentiation(seed: int) -> None:
    case = random_graph(seed)
    x = image_of(case, seed)
    found = case_set(case, x)
    rank, norms, _ = rank_and_determined(jacobian(case, x, head_gradient(case, x, 1)))
    assert found.nullity == x.size - rank
    np.testing.assert_array_equal(found.fixed.ravel(), norms < 1e-7)
    assert found.whole


def test_beyond_the_set_the_gradients_differ() -> None:
    """What is free is really used: a step across the first inequality changes a gradient."""
    beyond = differ = 0
    for seed in (0, 3, 6, 7, 8, 9, 11):
        case = random_graph(seed)
        x = image_of(case, 4 * seed + 1)
        found = case_set(case, x)
        P = found.polytope
        if not found.nullity or not len(P.slack):
            continue
        for number in range(3):
            way = P.null.project(np.random.default_rng(number).standard_normal(x.size))
            rise = P.cut @ way
            steps = np.where(rise > 1e-9, P.slack / np.where(rise > 1e-9, rise, 1.0), np.inf)
            if not np.isfinite(steps.min()):
                continue
            inside, outside = (x + share * steps.min() * way.reshape(x.shape) for share in (0.999, 1.05))
            assert largest_difference(case, x, inside, 1) < 1e-9
            beyond += 1
            differ += largest_difference(case, x, outside, 1) > 1e-9
    assert beyond > 10
    assert differ > 0.9 * beyond


def test_a_twin_may_change_who_wins_a_window_that_is_cut_off() -> None:
    build = Builder((2, 8, 8), 4, (ca.ReLU(),))
    build.conv(2, 3, padding=1)
    build.pool(largest=True)
    build.act(prelu=False)
    build.flatten()
    build.linear(4)
    case, x = build.done(), np.random.default_rng(0).random((2, 8, 8))
    twin = case_set(case, x).twin("far")
    assert largest_difference(case, x, twin.image, 1) < 1e-12

    def winners(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        bias = case.parameters.get("conv0.bias", np.zeros(2))
        weight = torch.tensor(case.parameters["conv0.weight"])
        z = torch.nn.functional.conv2d(torch.tensor(image)[None], weight, torch.tensor(bias), padding=1)
        return torch.nn.functional.max_pool2d(z, 2, return_indices=True)

    (value, one), (_, other) = winners(x), winners(twin.image)
    assert (one != other)[value < 0].any()
    assert (one == other)[value > 0].all()


def test_a_set_of_the_first_layers_says_so() -> None:
    case = tutorial_cnn(size=16)
    x = np.random.default_rng(2).random((3, 16, 16))
    first, whole = case_set(case, x, part="first layers"), case_set(case, x)
    assert (first.part, first.kept, first.whole) == ("first layers", "pool1", False)
    assert (whole.part, whole.kept, whole.whole) == ("whole", None, True)
    assert "keep 'pool1'" in repr(first)
    assert 0 < first.nullity <= whole.nullity
    twin = first.twin("far")
    assert largest_difference(case, x, twin.image, 1) < 1e-12
    assert twin.distance > 20 * ray(first, 0) / np.sqrt(3)
    with pytest.raises(ca.UnknownNameError, match="part must be"):
        case_set(case, x, part="head")


def test_bounds_without_coordinates_hold_and_come_close() -> None:
    build = Builder((2, 8, 8), 3, (ca.ReLU(),))
    build.conv(3, 3, stride=2, padding=1)
    build.act(prelu=False)
    build.pool(largest=True)
    build.flatten()
    build.linear(4)
    case, x = build.done(), np.random.default_rng(2).random((2, 8, 8))
    found = case_set(case, x, part="first layers")
    P, same = found.polytope, dense(found)
    for seed in range(2):
        c = np.random.default_rng(seed).standard_normal(x.size)
        wide, exact = P.maximise(c), same.maximise(c)
        assert wide.inner <= exact.outer * (1 + 1e-9)
        assert exact.inner <= wide.outer * (1 + 1e-9)
        assert wide.inner > 0.95 * exact.inner
        assert wide.outer < 2 * exact.inner
    target = np.random.default_rng(3).random(x.size) - x.ravel()
    near, exactly = P.nearest(target), same.nearest(target)
    assert np.linalg.norm(near - target) < 1.02 * np.linalg.norm(exactly - target)
    assert np.abs(P.null.matrix @ near).max() < 1e-12


def dense(found: ca.IndistinguishabilitySet) -> Polytope:
    """The same set in coordinates."""
    P = found.polytope
    return Polytope(P.null, P.margin, P.cut, P.slack, P.lower, P.upper, blur=P.blur)


@pytest.mark.parametrize("part", ["whole", "first layers"])
def test_residual_networks_have_far_twins(part: str) -> None:
    case = resnet18(size=12, stem=3, widths=(4, 5))
    x = np.random.default_rng(1).random((3, 12, 12)) * 0.8 + 0.1
    found = case_set(case, x, part=part)
    twin = found.twin("far")
    assert largest_difference(case, x, twin.image, 1) < 1e-12
    assert twin.distance > 0.1
    assert twin.change > 10 * ray(found, 0)


@pytest.mark.slow
def test_a_far_twin_through_resnet_18_with_all_gradients_equal() -> None:
    case = resnet18()
    x = np.random.default_rng(1).random((3, 64, 64)) * 0.8 + 0.1
    found = case_set(case, x, 3)
    assert found.part == "first layers"
    assert found.nullity > 7000
    twin = found.twin("far", time_limit=90)
    assert largest_difference(case, x, twin.image, 3) < 1e-12
    assert twin.change > 0.4
    assert twin.distance > 0.15
    assert ray(found, 0) < 0.01
    mirrored = np.clip(x + 1e-3 * twin.difference[:, ::-1], 0, 1)
    assert largest_difference(case, x, mirrored, 3) > 1e-3


@pytest.mark.slow
def test_a_far_twin_through_the_tutorials_network() -> None:
    case, x = tutorial_cnn(), ca.samples.load("cifar10:3").image
    found = case_set(case, x, 3)
    assert found.whole
    assert 2000 < found.nullity < 2100
    twin = found.twin("far", time_limit=90)
    assert largest_difference(case, x, twin.image, 3) < 1e-12
    assert twin.change > 0.8
    assert twin.distance > 0.4
