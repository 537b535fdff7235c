"""The networks of the zoo written once more, in PyTorch and by hand: what the zoo's wiring is compared with."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def conv(channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)


class Basic(nn.Module):
    """Two 3×3 convolutions and a shortcut: padded with zeros, or projected."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, *, pad: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - channels
        if not pad and (stride > 1 or channels != width):
            self.downsample = nn.Sequential(conv(channels, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        else:
            half = self.extra // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return functional.relu(inner + x)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1, and a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, *, pad: bool) -> None:
        super().__init__()
        assert not pad
        self.conv1, self.bn1 = conv(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        if stride > 1 or channels != 4 * width:
            self.downsample = nn.Sequential(conv(channels, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))
        return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Residual(nn.Module):
    """He and others (2016), for pictures of either size."""

    def __init__(self, block, widths, counts, stem, size, *, large=False, flat=False, pad=False, classes=10) -> None:
        super().__init__()
        self.large, self.flat = large, flat
        self.conv1 = conv(3, stem, 7, 2) if large else conv(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        channels = stem
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
            blocks = []
            for number in range(count):
                blocks.append(block(channels, width, 2 if stage > 1 and number == 0 else 1, pad=pad))
                channels = block.expansion * width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.stages = len(widths)
        side = size // 2 ** (len(widths) - 1) // (4 if large else 1)
        self.fc = nn.Linear(channels * side**2 if flat else channels, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = functional.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.flatten(1) if self.flat else x.mean((2, 3)))


class ConvNormAct(nn.Sequential):
    """A convolution, batch norm and ReLU6."""

    def __init__(self, channels, filters, kernel, stride=1, groups=1) -> None:
        super().__init__(conv(channels, filters, kernel, stride, groups), nn.BatchNorm2d(filters), nn.ReLU6())


class Inverted(nn.Module):
    """1×1 to more channels, depthwise 3×3, 1×1 to fewer."""

    def __init__(self, channels: int, filters: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        first = [ConvNormAct(channels, wide, 1)] if expansion > 1 else []
        depthwise = ConvNormAct(wide, wide, 3, stride, wide)
        self.conv = nn.Sequential(*first, depthwise, conv(wide, filters, 1), nn.BatchNorm2d(filters))
        self.residual = stride == 1 and channels == filters

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler and others (2018), width 1."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        blocks, channels = [ConvNormAct(3, 32, 3, 2)], 32
        rows = ["1 16 1 1", "6 24 2 2", "6 32 3 2", "6 64 4 2", "6 96 3 1", "6 160 3 2", "6 320 1 1"]
        for expansion, filters, count, stride in (map(int, row.split()) for row in rows):
            for number in range(count):
                blocks.append(Inverted(channels, filters, 1 if number else stride, expansion))
                channels = filters
        self.features = nn.Sequential(*blocks, ConvNormAct(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class DenseLayer(nn.Module):
    """What a dense block adds to all that was there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, 128, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), conv(128, 32, 3)

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class DenseNet121(nn.Module):
    """Huang and others (2017)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential()
        add = self.features.add_module
        channels = 64
        for name, module in (("conv0", conv(3, 64, 7, 2)), ("norm0", nn.BatchNorm2d(64)), ("relu0", nn.ReLU())):
            add(name, module)
        add("pool0", nn.MaxPool2d(3, 2, 1))
        for block, count in enumerate((6, 12, 24, 16), start=1):
            layers = nn.Sequential()
            for number in range(1, count + 1):
                layers.add_module(f"denselayer{number}", DenseLayer(channels))
                channels += 32
            add(f"denseblock{block}", layers)
            if block < 4:
                parts = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(), "conv": conv(channels, channels // 2, 1)}
                transition = nn.Sequential()
                for name, module in (*parts.items(), ("pool", nn.AvgPool2d(2))):
                    transition.add_module(name, module)
                add(f"transition{block}", transition)
                channels //= 2
        add("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(functional.relu(self.features(x)).mean((2, 3)))


def prepared(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model in float64 and evaluation mode, its batch norms with statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                    tensor.copy_(low + torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
                module.running_mean.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return model
