"""Three more networks for pictures of 224×224, as shapes, with the layers and names of torchvision."""

from __future__ import annotations

from constraint_algebra.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    Concatenate,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU6,
)
from constraint_algebra.networks.zoo_builder import DROPPED, NORMED, Builder, GraphEntry

IMAGENET = (3, 224, 224)
POOL = 0  # among the widths of VGG-16
VGG16 = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3, POOL)
# Expansion, channels, blocks, stride of the first of them: table 2 of the paper.
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
GROWTH, DENSE_BLOCKS = 32, (6, 12, 24, 16)


def vgg16(net: Builder, classes: int, activation: Activation) -> None:
    """Put VGG-16 without batch norm into a builder."""
    place = 0
    for width in VGG16:
        if width == POOL:
            net.add(f"features.{place}", MaxPool2d(2))
            place += 1
        else:
            net.add(f"features.{place}", Conv2d(width, 3, padding=1))
            net.add(f"features.{place + 1}", activation)
            place += 2
    net.chain(avgpool=AdaptiveAvgPool2d(7), flatten=Flatten())
    for place in (0, 3):
        net.add(f"classifier.{place}", Linear(4096))
        net.add(f"classifier.{place + 1}", activation)
        net.drop(f"classifier.{place + 2}", 0.5)
    net.add("classifier.6", Linear(classes))


def mobilenetv2(net: Builder, classes: int, activation: Activation) -> None:
    """Put MobileNetV2 of width 1 into a builder."""
    _conv_norm_act(net, "features.0", 32, 3, activation, stride=2)
    place = 1
    for expansion, channels, blocks, first in INVERTED:
        for number in range(blocks):
            _inverted(net, f"features.{place}", expansion, channels, first if number == 0 else 1, activation)
            place += 1
    _conv_norm_act(net, f"features.{place}", 1280, 1, activation)
    net.chain(avgpool=AdaptiveAvgPool2d(1), flatten=Flatten())
    net.drop("classifier.0", 0.2)
    net.add("classifier.1", Linear(classes))


def _conv_norm_act(
    net: Builder, name: str, filters: int, kernel: int, activation: Activation, *, stride: int = 1, groups: int = 1
) -> None:
    net.conv_norm(f"{name}.0", f"{name}.1", filters, kernel, stride=stride, groups=groups)
    net.add(f"{name}.2", activation)


def _inverted(net: Builder, name: str, expansion: int, channels: int, stride: int, activation: Activation) -> None:
    """Put an inverted residual behind the last layer: 1×1 to more channels, depthwise 3×3, 1×1 to fewer."""
    start, place = net.last, 0
    wide = expansion * net.shape()[0]
    if expansion != 1:
        _conv_norm_act(net, f"{name}.conv.0", wide, 1, activation)
        place = 1
    _conv_norm_act(net, f"{name}.conv.{place}", wide, 3, activation, stride=stride, groups=wide)
    inner = net.conv_norm(f"{name}.conv.{place + 1}", f"{name}.conv.{place + 2}", channels, 1)
    if net.shape(start) == net.shape(inner):
        net.add(f"{name}.add", Add(), start, inner)


def densenet121(net: Builder, classes: int, activation: Activation) -> None:
    """Put DenseNet-121 into a builder; a layer's channels are put behind all those before it, one layer at a time."""
    net.conv_norm("features.conv0", "features.norm0", 64, 7, stride=2)
    net.add("features.relu0", activation)
    net.add("features.pool0", MaxPool2d(3, stride=2, padding=1))
    for block, count in enumerate(DENSE_BLOCKS, start=1):
        for number in range(1, count + 1):
            _dense(net, f"features.denseblock{block}.denselayer{number}", activation)
        if block < len(DENSE_BLOCKS):
            _transition(net, f"features.transition{block}", activation)
    net.normalise("features.norm5")
    net.chain(relu=activation, avgpool=AdaptiveAvgPool2d(1), flatten=Flatten(), classifier=Linear(classes))


def _dense(net: Builder, name: str, activation: Activation) -> None:
    start = net.last
    net.normalise(f"{name}.norm1")
    net.add(f"{name}.relu1", activation)
    net.conv_norm(f"{name}.conv1", f"{name}.norm2", 4 * GROWTH, 1)
    net.add(f"{name}.relu2", activation)
    made = net.add(f"{name}.conv2", Conv2d(GROWTH, 3, padding=1, bias=False))
    net.add(f"{name}.concat", Concatenate(), start, made)


def _transition(net: Builder, name: str, activation: Activation) -> None:
    net.normalise(f"{name}.norm")
    net.add(f"{name}.relu", activation)
    net.add(f"{name}.conv", Conv2d(net.shape()[0] // 2, 1, bias=False))
    net.add(f"{name}.pool", AvgPool2d(2))


NETWORKS = {
    "vgg16": GraphEntry(
        "vgg2015",
        vgg16,
        "imagenet",
        classes=1000,
        input_shape=IMAGENET,
        options=DROPPED,
        note="K. Simonyan, A. Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015;"
        " configuration D with max-pool and without batch norm; layers and names as in torchvision.models.vgg16.",
    ),
    "mobilenetv2": GraphEntry(
        "mobilenetv2-2018",
        mobilenetv2,
        "imagenet",
        classes=1000,
        input_shape=IMAGENET,
        activation=ReLU6(),
        options=NORMED,
        note="M. Sandler and others, MobileNetV2: inverted residuals and linear bottlenecks, CVPR 2018; layers and"
        " names as in torchvision.models.mobilenet_v2.",
    ),
    "densenet121": GraphEntry(
        "densenet2017",
        densenet121,
        "imagenet",
        classes=1000,
        input_shape=IMAGENET,
        options=NORMED,
        note="G. Huang and others, Densely connected convolutional networks, CVPR 2017; layers and names as in"
        " torchvision.models.densenet121.",
    ),
}
