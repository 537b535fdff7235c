"""Residual networks, as shapes: those of He and others (2016), and two small ones that come back exactly."""

from __future__ import annotations

from dataclasses import dataclass

from constraint_algebra.layers import (
    Activation,
    AdaptiveAvgPool2d,
    Add,
    Flatten,
    Linear,
    MaxPool2d,
    Pad,
    Slice,
)
from constraint_algebra.networks.zoo_builder import NORMED, Builder, GraphEntry

PROJECTION, PADDING = "projection", "padding"
POOLED, FLAT = "average", "flatten"
EXPANSION = 4  # of a bottleneck: its last convolution has this many times the filters of the others
HE = "K. He, X. Zhang, S. Ren, J. Sun, Deep residual learning for image recognition, CVPR 2016"


@dataclass(frozen=True)
class Stages:
    """What residual networks differ in.

    Attributes:
        block: "basic" for two 3×3 convolutions, "bottleneck" for 1×1, 3×3, 1×1.
        widths: filters of each stage; every stage but the first halves the sides.
        blocks: how many blocks each stage has.
        stem: filters of the first convolution.
        large: whether the stem is that for ImageNet, 7×7 with stride 2 and max-pool 3×3 with stride 2; otherwise 3×3.
    """

    block: str
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem: int
    large: bool = False

    def __call__(
        self,
        net: Builder,
        classes: int,
        activation: Activation,
        head: str = POOLED,
        shortcuts: str = PROJECTION,
    ) -> None:
        """Put all layers into a builder, with the names of torchvision."""
        if self.large:
            net.conv_norm("conv1", "bn1", self.stem, 7, stride=2)
            net.chain(relu=activation, maxpool=MaxPool2d(3, stride=2, padding=1))
        else:
            net.conv_norm("conv1", "bn1", self.stem, 3)
            net.add("relu", activation)
        add = basic if self.block == "basic" else bottleneck
        for stage, (width, count) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for number in range(count):
                add(net, f"layer{stage}.{number}", width, 2 if stage > 1 and not number else 1, activation, shortcuts)
        if head == POOLED:
            net.add("avgpool", AdaptiveAvgPool2d(1))
        net.chain(flatten=Flatten(), fc=Linear(classes))


def basic(net: Builder, name: str, width: int, stride: int, activation: Activation, shortcuts: str) -> str:
    """Put the block of two 3×3 convolutions behind the last layer; the first has the stride."""
    start = net.last
    net.conv_norm(f"{name}.conv1", f"{name}.bn1", width, 3, stride=stride)
    net.add(f"{name}.relu1", activation)
    inner = net.conv_norm(f"{name}.conv2", f"{name}.bn2", width, 3)
    return _joined(net, name, start, inner, activation, shortcuts)


def bottleneck(net: Builder, name: str, width: int, stride: int, activation: Activation, shortcuts: str) -> str:
    """Put the block of a 1×1, a 3×3 and a 1×1 convolution behind the last layer; the second has the stride."""
    start = net.last
    net.conv_norm(f"{name}.conv1", f"{name}.bn1", width, 1)
    net.add(f"{name}.relu1", activation)
    net.conv_norm(f"{name}.conv2", f"{name}.bn2", width, 3, stride=stride)
    net.add(f"{name}.relu2", activation)
    inner = net.conv_norm(f"{name}.conv3", f"{name}.bn3", EXPANSION * width, 1)
    return _joined(net, name, start, inner, activation, shortcuts)


def _joined(net: Builder, name: str, start: str, inner: str, activation: Activation, shortcuts: str) -> str:
    side = _shortcut(net, name, start, inner, shortcuts)
    net.add(f"{name}.add", Add(), inner, side)
    return net.add(f"{name}.relu", activation)


def _shortcut(net: Builder, name: str, start: str, inner: str, kind: str) -> str:
    """Bring a block's input to the shape of what it is added to, and return the name of the result.

    A projection is a 1×1 convolution with a batch norm, torchvision's `downsample`. Padding keeps every other pixel and
    puts channels of zeros on both sides of those that are there: option A of the paper, which does not say on which
    side; half of them on each is how the implementation of Idelbayev has it (akamaster/pytorch_resnet_cifar10).
    """
    (channels, *before), (wanted, *after) = net.shape(start), net.shape(inner)
    if net.shape(start) == net.shape(inner):
        return start
    steps = [-(-size // then) for size, then in zip(before, after, strict=True)]
    if kind == PROJECTION:
        return net.conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", wanted, 1, start, stride=steps)
    ranges = [(0, channels, 1), *((0, size, step) for size, step in zip(before, steps, strict=True))]
    net.add(f"{name}.shortcut.slice", Slice(tuple(ranges)), start)
    extra = wanted - channels
    sides = ((extra // 2, extra - extra // 2), *[(0, 0)] * len(after))
    return net.add(f"{name}.shortcut.pad", Pad(sides))


HEADS = (POOLED, FLAT)
NETWORKS = {
    "resnet18": GraphEntry(
        "resnet2016",
        Stages("basic", (64, 128, 256, 512), (2, 2, 2, 2), 64, large=True),
        "imagenet",
        classes=1000,
        input_shape=(3, 224, 224),
        options={"head": HEADS, **NORMED},
        note=f"{HE}; layers and names as in torchvision.models.resnet18.",
    ),
    "resnet50": GraphEntry(
        "resnet2016",
        Stages("bottleneck", (64, 128, 256, 512), (3, 4, 6, 3), 64, large=True),
        "imagenet",
        classes=1000,
        input_shape=(3, 224, 224),
        options={"head": HEADS, **NORMED},
        note=f"{HE}; layers and names as in torchvision.models.resnet50, which has the stride in the 3×3 convolutions.",
    ),
    "resnet18-cifar": GraphEntry(
        "resnet2016",
        Stages("basic", (64, 128, 256, 512), (2, 2, 2, 2), 64),
        "cifar",
        classes=10,
        input_shape=(3, 32, 32),
        options={"head": HEADS, **NORMED},
        note=f"{HE}; for small pictures with a 3×3 stem and no max-pool, as in kuangliu/pytorch-cifar; the names are"
        " torchvision's.",
    ),
    "resnet20-cifar": GraphEntry(
        "resnet2016",
        Stages("basic", (16, 32, 64), (3, 3, 3), 16),
        "cifar",
        classes=10,
        input_shape=(3, 32, 32),
        options={"head": HEADS, "shortcuts": (PADDING, PROJECTION), **NORMED},
        note=f"{HE}, section 4.2, whose shortcuts are padded with zeros (option A); 1×1 projections by"
        ' shortcuts="projection"; torchvision\'s names.',
    ),
    "resnet-small-flatten": GraphEntry(
        "own",
        Stages("basic", (32, 64), (1, 1), 32),
        "small",
        classes=10,
        input_shape=(3, 16, 16),
        options={"head": (FLAT, POOLED), **NORMED},
        note="Of this library: two residual blocks with a head that reads the whole map. Its gradients fix the input.",
    ),
    "resnet-small-gap": GraphEntry(
        "own",
        Stages("basic", (32, 48, 64), (1, 1, 1), 32),
        "small",
        classes=10,
        input_shape=(3, 16, 16),
        options={"head": HEADS, **NORMED},
        note="Of this library: three residual blocks below global average pooling; the last map is 4×4.",
    ),
}
