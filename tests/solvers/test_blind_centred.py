"""The blind start where k sums to zero over the outputs: the truth comes back, and all else is refused."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.solvers import blind
from tests.solvers.test_blind import LAYERS, furthest, in_gauge, placed, sides, torch_jacobian, torch_weight_gradient

SEVERAL = {name: layer for name, layer in LAYERS.items() if np.prod(layer.outputs) > 1}


def centred(layer, seed, *, masked=False):
    """Random k and h, the k of each filter less its mean, as below a batch norm in training mode."""
    k, h = sides(layer, seed, masked=masked)
    return k - k.mean(axis=tuple(range(1, k.ndim)), keepdims=True), h


@pytest.mark.parametrize(
    ("name", "masked"), [*((name, False) for name in SEVERAL), ("4x4", True), ("groups", True), ("wide kernel", True)]
)
def test_input_and_output_gradient_come_back_up_to_one_factor(name, masked) -> None:
    layer = SEVERAL[name]
    k, h = centred(layer, 3, masked=masked)
    dW = torch_weight_gradient(layer, k, h)
    assert isinstance(blind.attempt(layer, dW), blind.Refused)
    found = blind.attempt(layer, dW, centred=True)
    assert furthest(layer, found, k, h) < 1e-12
    assert found.misfit < 4
    assert min(found.certainty) > 1e6
    sums = found.output_gradient.sum(axis=tuple(range(1, k.ndim)))
    assert np.abs(sums).max() < 1e-12 * np.abs(found.output_gradient).max()


SMALL = {
    "3x3, kernel 3": placed(ca.Conv2d, 9, 3, (9, 3, 3), padding=1),
    "2x4, kernel 3": placed(ca.Conv2d, 8, 3, (9, 2, 4), padding=1),
    "2x2, kernel 5": placed(ca.Conv2d, 4, 5, (5, 2, 2), padding=2),
    "2x3, kernel 4": placed(ca.Conv2d, 7, 4, (6, 2, 3), padding=((1, 2), (2, 1))),
    "two in a row": placed(ca.Conv1d, 3, 3, (2, 2), padding=1),
    "seven in a row": placed(ca.Conv1d, 8, 3, (7, 7), padding=1),
    "stride 2, five taps": placed(ca.Conv1d, 6, 5, (9, 8), padding=2, stride=2),
}


@pytest.mark.parametrize("name", SMALL)
def test_nothing_but_the_factor_is_open_by_the_jacobian(name) -> None:
    layer = SMALL[name]
    k, h = centred(layer, 1)
    J = torch_jacobian(layer, k, h)
    assert J.shape[1] - np.linalg.matrix_rank(J, rtol=1e-10) == 1
    assert furthest(layer, blind.factor(layer, torch_weight_gradient(layer, k, h), centred=True), k, h) < 1e-12


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_not_centred_or_of_a_lower_rank_is_refused(seed) -> None:
    layer = LAYERS["4x4"]
    k, h = centred(layer, seed)
    other = sides(layer, seed + 50)

    def reason(k, h):
        return blind.attempt(layer, torch_weight_gradient(layer, k, h), centred=True).reason

    assert "rank of k is above 15" in reason(other[0], h)
    flat = k.reshape(24, 16).copy()
    for part in (slice(4), slice(4, 16)):  # each sums to zero by itself
        flat[:, part] -= flat[:, part].mean(axis=1, keepdims=True)
    assert "k has a rank below 15" in reason(flat.reshape(k.shape), h)
    weighted = k * np.linspace(1, 2, 16).reshape(4, 4)  # rank 15, but another sum that is zero
    assert "does not sum to zero" in reason(weighted, h)
    dead = h.copy()
    dead[:, 2, 1] = 0
    assert "or h one below 16" in reason(k, dead)
    both = torch_weight_gradient(layer, k, h) + torch_weight_gradient(layer, *centred(layer, seed + 9))
    assert "above 15" in blind.attempt(layer, both, centred=True).reason
    one = LAYERS["one position"]
    assert "one value for each filter" in blind.attempt(one, np.ones(one.weight_shape), centred=True).reason


@pytest.mark.parametrize("level", [1e-10, 1e-5, 0.1])
def test_under_any_noise_what_is_found_is_right_to_its_error_bars(level) -> None:
    layer = placed(ca.Conv2d, 18, 3, (18, 4, 4), padding=1)
    count, scores = 0, []
    for seed in range(4):
        k, h = centred(layer, seed, masked=True)
        dW = torch_weight_gradient(layer, k, h)
        deviations = np.full(dW.shape, level * np.sqrt((dW**2).mean()))
        random = np.random.default_rng(seed)
        noisy = dW + deviations * random.normal(size=dW.shape)
        factored = blind.factor(layer, noisy, deviations, centred=True)
        if factored is None:
            continue
        count += 1
        draws = factored.deviations[..., None] * random.choice([-1.0, 1.0], (*dW.shape, 12))
        found = factored.output_gradient, factored.input
        for side, truth, moves in zip(found, in_gauge(layer, k, h), blind.moved(factored, draws), strict=True):
            scores.append((np.abs(side - truth) / np.sqrt((moves**2).mean(axis=-1))).ravel())
    assert count >= (4 if level < 1e-3 else 0)
    if scores:
        assert 0.5 < (np.concatenate(scores) < 1).mean() < 0.9
        assert (np.concatenate(scores) < 6).mean() > 0.99


def drawn(seed):
    """A random layer with k that may sum to zero, be of low rank, or belong to two samples."""
    random = np.random.default_rng([5, seed])
    axes = int(random.integers(1, 4))
    outputs = random.integers(1, (9, 4, 3)[axes - 1], size=axes)
    kernel = [int(random.choice([3, 3, 3, 4, 5])) for _ in range(axes)]
    padding = tuple((low, n - 1 - low) for n in kernel for low in [int(random.integers(1, n - 1))])
    O, groups = int(np.prod(outputs)), int(random.choice([1, 1, 2]))
    filters, channels = (groups * int(O + random.integers(0, 4)) for _ in range(2))
    kind = (ca.Conv1d, ca.Conv2d, ca.Conv3d)[axes - 1]
    layer = kind(filters, tuple(kernel), padding=padding, groups=groups).place((channels, *outputs.tolist()))
    k, h = centred(layer, seed, masked=bool(random.integers(2)))
    trouble = random.choice(["none", "none", "not centred", "low rank", "dark", "two samples"])
    if trouble == "not centred":
        k = sides(layer, seed)[0]
    elif trouble == "low rank":
        k = np.where(random.random(k.shape[0]).reshape(-1, *(1,) * axes) < 0.5, k, 0.0)
    elif trouble == "dark":
        h = h * (random.random(layer.positions) < 0.8)
    dW = torch_weight_gradient(layer, k, h)
    if trouble == "two samples":
        dW = dW + torch_weight_gradient(layer, *centred(layer, seed + 1000))
    return layer, k, h, dW, trouble


def compare(seed):
    """Whether a layer was determined, which must be right."""
    layer, k, h, dW, trouble = drawn(seed)
    if not blind.applies(layer) or not dW.any():
        return False
    found = blind.attempt(layer, dW, centred=True)
    if isinstance(found, blind.Refused):
        return False
    assert trouble != "two samples"
    assert furthest(layer, found, k, h) < 1e-8
    return True


def test_random_layers_are_right_or_refused() -> None:
    assert sum(compare(seed) for seed in range(30)) >= 4


@pytest.mark.slow
def test_hundreds_of_random_layers_are_right_or_refused() -> None:
    assert sum(compare(seed) for seed in range(30, 630)) > 150
