"""Blocks of today's networks, as PyTorch builds them, in training mode: EfficientNet's, ConvNeXt's, and a plain one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.recursion.trained_models import Residual

Act = Callable[[], nn.Module]


class ByChannels(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _head(channels: int, size: int, pooled: bool) -> list[nn.Module]:
    if pooled:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return [nn.Flatten(), nn.Linear(channels * size * size, 10)]


def efficient(size: int, c: int = 8, wide: int = 3, *, act: Act = nn.SiLU, blocks: int = 1, pooled=False) -> nn.Module:
    """Inverted residual blocks (MBConv) without squeeze-and-excitation, behind a stem."""
    E = wide * c

    def block() -> nn.Module:
        body = nn.Sequential(
            *(nn.Conv2d(c, E, 1, bias=False), nn.BatchNorm2d(E), act()),
            *(nn.Conv2d(E, E, 3, padding=1, groups=E, bias=False), nn.BatchNorm2d(E), act()),
            *(nn.Conv2d(E, c, 1, bias=False), nn.BatchNorm2d(c)),
        )
        return Residual(body, nn.Identity(), nn.Identity())

    stem = nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), act()
    return nn.Sequential(*stem, *(block() for _ in range(blocks)), *_head(c, size, pooled)).double().train()


def convnext(size: int, c: int = 8, wide: int = 4, *, kernel: int = 7, blocks: int = 1, grouped=False) -> nn.Module:
    """ConvNeXt's blocks, with layer norm over channels or over all, behind a stem."""

    def norm() -> nn.Module:
        return nn.GroupNorm(1, c) if grouped else ByChannels(c)

    def block() -> nn.Module:
        depthwise = nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=c)
        body = nn.Sequential(depthwise, norm(), nn.Conv2d(c, wide * c, 1), nn.GELU(), nn.Conv2d(wide * c, c, 1))
        return Residual(body, nn.Identity(), nn.Identity())

    stem = nn.Conv2d(3, c, 3, padding=1), norm()
    return nn.Sequential(*stem, *(block() for _ in range(blocks)), *_head(c, size, False)).double().train()


def post_activation(size: int, c: int = 8, *, act: Act = nn.GELU, normed: bool = True) -> nn.Module:
    """A block with an activation behind the sum with its shortcut."""

    def conv(channels: int) -> list[nn.Module]:
        layer = nn.Conv2d(channels, c, 3, padding=1, bias=not normed)
        return [layer, nn.BatchNorm2d(c)] if normed else [layer]

    block = Residual(nn.Sequential(*conv(c), act(), *conv(c)), nn.Identity(), act())
    return nn.Sequential(*conv(3), act(), block, *_head(c, size, False)).double().train()


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A model with PyTorch's own initialisation, of a seed."""
    torch.manual_seed(seed)
    return make()
