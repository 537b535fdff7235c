"""Behind a global average pool, below batch norm in training mode: where the recursion starts, and how far it goes."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import constraint_algebra as ca
from tests.recursion.residual_models import plain, residual, step

EXACT = 1e-10


def group_norm(channels):
    return nn.GroupNorm(4, channels)


def layer_norm(channels):
    return nn.GroupNorm(1, channels)


def instance_norm(channels):
    return nn.InstanceNorm2d(channels, affine=True)


def without_factors(channels):
    return nn.BatchNorm2d(channels, affine=False)


def leaky():
    return nn.LeakyReLU(0.2)


def test_one_stage_comes_back_by_blind_starts() -> None:
    at = step(residual((16,)), 4)
    assert at.result.status is ca.Status.DETERMINED
    assert at.result.determined.all()
    assert at.error < EXACT
    assert at.error_inside < EXACT
    assert [note for note in at.result.notes if "blind start" in note and "'3.conv2'" in note]


def test_without_bias_or_factors_the_buffers_give_the_scale() -> None:
    at = step(plain((20, 24), norm=without_factors), 4)
    assert at.result.determined.all()
    assert at.error < EXACT
    open_one = step(plain((20, 24), norm=without_factors), 4, buffers=False, search=0.0)
    assert open_one.known("3") == 0.0


@pytest.mark.parametrize("act", [nn.ReLU, leaky])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, group_norm, layer_norm, instance_norm])
def test_without_buffers_a_bias_below_gives_the_scale(norm, act) -> None:
    at = step(plain((20, 24), norm=norm, act=act), 4, buffers=False, search=0.0)
    assert at.known("3") == 1.0
    assert at.error_inside < EXACT


def test_without_buffers_what_else_arrives_below_counts_as_well() -> None:
    at = step(residual((16,)), 4, buffers=False, search=0.0)
    assert at.known("3.conv2") == at.known("3.conv1") == 1.0  # the sum of two paths comes to the stem's bias
    assert at.error_inside < EXACT


def test_float32_has_honest_error_bars() -> None:
    scores = []
    for seed in range(2):
        at = step(residual((16,), seed=seed).float(), 4, seed=seed, search=0.0)
        found = at.result.determined
        assert at.error < 1e-3
        scores.append((np.abs(at.result.input - at.image) / at.result.error_bar)[found])
    scores = np.concatenate(scores)
    assert scores.size
    assert (scores < 4).mean() > 0.98


def drawn(seed):
    """A random small network with a random normalisation, the size of its image, and whether buffers are shared."""
    random = np.random.default_rng([11, seed])
    norm = [nn.BatchNorm2d, nn.BatchNorm2d, without_factors, group_norm, layer_norm, instance_norm][random.integers(6)]
    act = [nn.ReLU, leaky][random.integers(2)]
    size = int(random.integers(2, 5))
    widths = [4 * int(np.ceil((size * size + random.integers(-4, 9)) / 4)) for _ in range(2)]
    widths = [max(width, 4) for width in widths]
    kind = random.integers(3)
    if kind == 0:
        model = residual((widths[0],), norm=norm, act=act, seed=seed)
    elif kind == 1 and size == 4:  # a map of one value has no variance
        model = residual((widths[0], widths[1]), norm=norm, act=act, seed=seed)
    else:
        model = plain((widths[0], widths[1]), norm=norm, act=act)
    for module in model.modules():
        if getattr(module, "weight", None) is not None and isinstance(
            module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d
        ):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model, size, norm in (nn.BatchNorm2d, without_factors) and bool(random.integers(2))


def compare(seed, seconds):
    """Whether all of a random network came back; what is called determined must be right."""
    model, size, buffers = drawn(seed)
    at = step(model, size, buffers=buffers, seed=seed, search=seconds)
    bar = np.where(at.result.determined, at.result.error_bar, 1.0)
    assert (np.abs(at.result.input - at.image) <= 1e-7 + 20 * bar)[at.result.determined].all(), seed
    assert at.error_inside < 1e-5, seed
    return bool(at.result.determined.all())


def test_random_networks_are_right_or_open() -> None:
    assert sum(compare(seed, 0.0) for seed in range(4)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("start", range(4, 304, 20))
def test_hundreds_of_random_networks_are_right_or_open(start) -> None:
    assert sum(compare(seed, 1.0) for seed in range(start, start + 20)) >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("widths", "size"), [((20, 24), 8), ((32, 48, 64), 16)])
def test_stages_come_back_exactly(widths, size) -> None:
    at = step(residual(widths), size, search=900.0)
    assert at.result.status is ca.Status.LOCAL
    assert at.result.determined.all()
    assert at.error < EXACT
    assert at.error_inside < EXACT


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2))
def test_twenty_layers_come_back_exactly_where_shapes_say_determined(seed) -> None:
    made = residual((32, 48, 64), blocks=3, seed=seed)
    network, parameters = ca.from_torch(made, (3, 16, 16))
    at = step(made, 16, seed=seed, search=900.0)
    report = ca.feasibility(network, activity=ca.activity_of(network, parameters, at.image), buffers=True)
    assert report.verdict == "determined nearby"
    assert all(layer.verdict == "determined" for layer in report.layers)
    assert at.result.status is ca.Status.LOCAL
    assert at.result.determined.all()
    assert at.error < EXACT
    assert at.error_inside < EXACT
