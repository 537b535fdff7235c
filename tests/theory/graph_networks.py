"""Networks that are no chains, for the tests of the theory."""

from __future__ import annotations

from typing import Any

import constraint_algebra as ca


def residual(
    size: int, stem: int, stages: tuple[tuple[int, int], ...], *, pooled: bool = False, channels: int = 3
) -> ca.Network:
    """Return post-activation blocks of the widths and strides given, with batch norm and 1x1 shortcuts."""
    layers: dict[str, Any] = {
        "stem": ca.Conv2d(stem, 3, padding=1, bias=False),
        "stem_norm": ca.BatchNorm(),
        "r": ca.ReLU(),
    }
    at, before = "r", stem
    for number, (width, stride) in enumerate(stages):
        layers |= block(f"b{number}", at, before, width, stride)
        at, before = f"b{number}_out", width
    if pooled:
        layers["pool"] = ca.AdaptiveAvgPool2d(1)
    return ca.Network((channels, size, size), {**layers, "flat": ca.Flatten(), "head": ca.Linear(10)})


def block(name: str, at: str, before: int, width: int, stride: int) -> dict[str, Any]:
    """Return one basic block."""
    shortcut = at
    layers: dict[str, Any] = {
        f"{name}_c1": (ca.Conv2d(width, 3, stride=stride, padding=1, bias=False), at),
        f"{name}_n1": ca.BatchNorm(),
        f"{name}_r": ca.ReLU(),
        f"{name}_c2": ca.Conv2d(width, 3, padding=1, bias=False),
        f"{name}_n2": ca.BatchNorm(),
    }
    if stride != 1 or before != width:
        layers[f"{name}_s"] = (ca.Conv2d(width, 1, stride=stride, bias=False), at)
        layers[f"{name}_sn"] = ca.BatchNorm()
        shortcut = f"{name}_sn"
    return layers | {f"{name}_sum": (ca.Add(), f"{name}_n2", shortcut), f"{name}_out": ca.ReLU()}
