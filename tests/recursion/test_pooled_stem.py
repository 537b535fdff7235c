"""A residual network whose stem is pooled behind batch norm in training mode: with buffers it comes back exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from tests.recursion.residual_models import Block

EXACT = 1e-10
BARS, LOOSE = 20.0, 1e-7  # error bars and error, beyond both of which a determined value is wrong
WHOLE = {ca.Status.DETERMINED, ca.Status.GIVEN_RANGE, ca.Status.BY_WINNERS, ca.Status.LOCAL}


@dataclass(frozen=True)
class Stem:
    """A residual network: convolution, batch norm, ReLU, max-pool; blocks; a head.

    Attributes:
        shape: of the image.
        width: filters of the stem.
        inner: filters of the blocks.
        pool: kernel of the max-pool, stride and padding.
        kernel, stride: of the stem.
        blocks: how many.
        average: whether the mean of each channel is taken before the head.
        trained: whether factors and shifts are random, of either sign.
        seed: of weights and image.
    """

    shape: tuple[int, int, int]
    width: int
    inner: int
    pool: tuple[int, ...] = (3, 2, 1)
    kernel: int = 3
    stride: int = 1
    blocks: int = 1
    average: bool = False
    trained: bool = False
    seed: int = 0

    def model(self) -> nn.Sequential:
        """Return it as PyTorch makes it, in float64 and training mode."""
        torch.manual_seed(self.seed)
        layers: list[nn.Module] = [
            nn.Conv2d(self.shape[0], self.width, self.kernel, self.stride, self.kernel // 2, bias=False),
            nn.BatchNorm2d(self.width),
            nn.ReLU(),
            nn.MaxPool2d(*self.pool),
        ]
        widths = [self.width, *[self.inner] * self.blocks]
        layers += [Block(a, b, 1, nn.BatchNorm2d, nn.ReLU) for a, b in pairwise(widths)]
        side = self.shape[1] // self.stride // 2
        features = widths[-1] * (1 if self.average else side**2)
        layers += [nn.AdaptiveAvgPool2d(1)] * self.average
        made = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 10)).double().train()
        for module in made.modules():
            if self.trained and isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 0.5, 0.5)
                nn.init.normal_(module.bias, 0.0, 0.3)
        return made

    def step(self, *, buffers: bool = True, search: float = 60.0) -> tuple[ca.Reconstruction, np.ndarray]:
        """Return what is made of a step's gradient, and the error of each value, NaN where it is open."""
        model, x = self.model(), np.random.default_rng(self.seed).random(self.shape)
        network, parameters = ca.from_torch(model, self.shape)
        gradients, after = ca.torch_gradients(model, x, self.seed % 10, buffers=True)
        shared = after if buffers else None
        found = ca.reconstruct(network, parameters, gradients, buffers=shared, batch=1, search=search)
        error = np.where(found.determined, np.abs(found.input - x), np.nan)
        bar = np.where(found.determined, found.error_bar, 0.0)
        assert not (error > np.maximum(LOOSE, BARS * bar)).any(), self
        return found, error


def is_exact(stem: Stem, **options) -> bool:
    """Whether all of it came back; nothing wrong may be called determined."""
    found, error = stem.step(**options)
    assert found.status not in WHOLE or error.max() < EXACT, stem
    return found.status in WHOLE


@pytest.mark.parametrize("pool", [(2,), (3, 2, 1)])
def test_the_image_comes_back_by_winners_that_the_gradient_confirms(pool) -> None:
    found, error = Stem((1, 8, 8), 20, 20, pool).step()
    assert found.status is ca.Status.BY_WINNERS
    assert error.max() < EXACT


def test_without_buffers_it_stays_open() -> None:
    found, _ = Stem((1, 8, 8), 20, 20).step(buffers=False, search=2.0)
    assert not found.determined.any()


SIZES = [
    Stem((1, 12, 12), 16, 40),
    Stem((1, 12, 12), 16, 40, average=True),
    Stem((1, 12, 12), 32, 40, (2,), trained=True),
    Stem((1, 8, 8), 20, 20, blocks=2, average=True),
    Stem((1, 8, 8), 20, 20, trained=True),
    Stem((1, 8, 8), 16, 20, kernel=5),
    Stem((3, 16, 16), 32, 40, kernel=7, stride=2),  # the stem of the networks for ImageNet
    Stem((3, 16, 16), 64, 66),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stem", SIZES)
def test_stems_of_many_kinds_come_back_exactly(stem) -> None:
    assert is_exact(stem, search=200.0)


def drawn(seed: int) -> Stem:
    """A random small one, most often wide enough."""
    random = np.random.default_rng([28, seed])
    return Stem(
        shape=(int(random.integers(1, 3)), 8, 8),
        width=int(random.choice([8, 12, 20, 32, 48])),
        inner=int(random.choice([18, 20, 24])),
        pool=[(2,), (3, 2, 1)][random.integers(2)],
        kernel=int(random.choice([1, 3, 3, 5])),
        blocks=int(random.integers(1, 3)),
        average=bool(random.integers(2)),
        trained=bool(random.integers(2)),
        seed=seed,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", range(0, 80, 20))
def test_random_stems_are_exact_or_open(start) -> None:
    assert sum(is_exact(drawn(seed), search=5.0) for seed in range(start, start + 20)) >= 8
