"""One block of a modern network between a stem and a head, small enough for its gradients to be looked at."""

from __future__ import annotations

from constraint_algebra.layers import (
    GELU,
    Activation,
    Add,
    Conv2d,
    Flatten,
    LayerNorm,
    Linear,
    Permute,
    SiLU,
)
from constraint_algebra.networks.zoo_builder import NORMED, Builder, GraphEntry

FAMILY = "blocks"
SHAPE = (3, 16, 16)
LAST, FIRST = Permute((1, 2, 0)), Permute((2, 0, 1))  # channels behind the axes of the picture, and before them


def _mbconv(net: Builder, classes: int, activation: Activation) -> None:
    start = _stem(net, 16, activation)
    net.conv_norm("expand", "expand_bn", 64, 1)
    net.add("expand_act", activation)
    net.conv_norm("depthwise", "depthwise_bn", 64, 3, groups=64)
    net.add("depthwise_act", activation)
    inner = net.conv_norm("project", "project_bn", 16, 1)
    net.add("add", Add(), inner, start)
    net.chain(flatten=Flatten(), fc=Linear(classes))


def _stem(net: Builder, filters: int, activation: Activation) -> str:
    net.conv_norm("stem", "stem_bn", filters, 3, stride=2)
    return net.add("stem_act", activation)


def _convnext(net: Builder, classes: int, activation: Activation) -> None:
    net.chain(stem=Conv2d(24, 2, stride=2), stem_last=LAST, stem_norm=LayerNorm((24,), eps=1e-6))
    start = net.add("stem_first", FIRST)
    net.chain(depthwise=Conv2d(24, 7, padding=3, groups=24), last=LAST, norm=LayerNorm((24,), eps=1e-6), first=FIRST)
    net.chain(wide=Conv2d(96, 1), act=activation)
    inner = net.add("narrow", Conv2d(24, 1))
    net.add("add", Add(), inner, start)
    net.chain(flatten=Flatten(), fc=Linear(classes))


NETWORKS = {
    "mbconv-block": GraphEntry(
        "own",
        _mbconv,
        FAMILY,
        classes=10,
        input_shape=SHAPE,
        activation=SiLU(),
        options=NORMED,
        note="Of this library, after M. Tan, Q. Le, EfficientNet, ICML 2019: 1×1 to four times the channels, depthwise"
        " 3×3, 1×1 back, batch norm, SiLU, without squeeze and excitation.",
    ),
    "convnext-block": GraphEntry(
        "own",
        _convnext,
        FAMILY,
        classes=10,
        input_shape=SHAPE,
        activation=GELU(),
        note="Of this library, after Z. Liu and others, A ConvNet for the 2020s, CVPR 2022: depthwise 7×7, layer norm"
        " over channels, 1×1 to four times the channels, GELU, 1×1 back, without the scale of a layer.",
    ),
}
