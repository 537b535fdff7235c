"""Networks that federated learning trains, as tutorials write them, in training mode: see also `tutorial_models`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- as tutorials write it

from tests.networks import zoo_models
from tests.pytorch import tutorial_models as tutorials

Norm = Callable[[int], nn.Module]


class HarPictures(nn.Module):
    """Signals of nine sensors as pictures of 1x128 with nine channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(9, 32, kernel_size=(1, 9))
        self.conv2 = nn.Conv2d(32, 64, kernel_size=(1, 9))
        self.fc = nn.Linear(64 * 26, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (1, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), (1, 2))
        x = x.view(x.size(0), -1)
        return self.fc(x)


class Tabular(nn.Module):
    """Columns of a table, one output for a logistic loss."""

    def __init__(self, norm: Norm | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(14, 128), nn.Linear(128, 64), nn.Linear(64, 1)
        self.n1 = norm(128) if norm else nn.Identity()
        self.n2 = norm(64) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(F.relu(self.fc1(x)))
        x = self.n2(F.relu(self.fc2(x)))
        return self.out(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNetCifar(nn.Module):
    """A residual network for pictures of 32x32."""

    def __init__(self, widths: tuple[int, ...], blocks: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = norm(widths[0])
        layers, channels = [], widths[0]
        for stage, width in enumerate(widths):
            for number in range(blocks):
                layers.append(BasicBlock(channels, width, 2 if stage and not number else 1, norm))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layers(out)
        out = F.avg_pool2d(out, out.size(3))
        out = out.view(out.size(0), -1)
        return self.linear(out)


class MBConv(nn.Module):
    """An inverted residual with SiLU between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(16, 64, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.SiLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False),
            nn.BatchNorm2d(64),
            nn.SiLU(inplace=True),
            nn.Conv2d(64, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.classifier = nn.Linear(16 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.classifier(torch.flatten(x, 1))


class ConvNeXt(nn.Module):
    """A block with a depthwise 7x7 convolution, layer norm over channels and GELU, between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 24, 2, stride=2), nn.LayerNorm(24, eps=1e-6)
        self.dwconv, self.norm = nn.Conv2d(24, 24, 7, padding=3, groups=24), nn.LayerNorm(24, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Conv2d(24, 96, 1), nn.GELU(), nn.Conv2d(96, 24, 1)
        self.head = nn.Linear(24 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stem_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.pwconv2(self.act(self.pwconv1(y)))
        return self.head(x.flatten(1))


def vgg16() -> nn.Module:
    """The network of Simonyan and Zisserman with 16 layers, without batch norm, with dropout."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    hidden = [nn.Linear(512 * 49, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *hidden, nn.Dropout(), nn.Linear(4096, 1000))


def group_norm(channels: int) -> nn.Module:
    """Two groups."""
    return nn.GroupNorm(2, channels)


LARGE = (3, 224, 224)
RESNET18, RESNET50 = (64, 128, 256, 512), (3, 4, 6, 3)
# By name what builds the model, the shape of an input, and whether it takes long.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "tutorial CNN": (tutorials.CifarTutorial, (3, 32, 32), True),
    "FedAvg CNN": (tutorials.fedavg_cnn, (1, 28, 28), True),
    "LEAF CNN": (tutorials.FemnistCnn, (1, 28, 28), True),
    "EMNIST with dropout": (tutorials.EmnistCnn, (28, 28), True),
    "MNIST example with dropout": (tutorials.MnistExample, (1, 28, 28), True),
    "feature dropout": (tutorials.LogSoftmaxCnn, (1, 28, 28), False),
    "activity, one axis": (tutorials.HarCnn, (9, 128), False),
    "activity, pictures": (HarPictures, (9, 1, 128), False),
    "tabular": (Tabular, (14,), False),
    "tabular, layer norm": (lambda: Tabular(nn.LayerNorm), (14,), False),
    "CelebA CNN": (tutorials.CelebaCnn, (3, 84, 84), True),
    "ResNet-20": (lambda: ResNetCifar((16, 32, 64), 3), (3, 32, 32), True),
    "ResNet-20, group norm": (lambda: ResNetCifar((16, 32, 64), 3, group_norm), (3, 32, 32), True),
    "ResNet-18 (CIFAR)": (lambda: ResNetCifar(RESNET18, 2), (3, 32, 32), True),
    "ResNet-18 (CIFAR), group norm": (lambda: ResNetCifar(RESNET18, 2, group_norm), (3, 32, 32), True),
    "MBConv block": (MBConv, (3, 16, 16), True),
    "ConvNeXt block": (ConvNeXt, (3, 16, 16), True),
    "ResNet-18": (
        lambda: zoo_models.Residual(zoo_models.Basic, RESNET18, (2, 2, 2, 2), 64, 224, large=True, classes=1000),
        LARGE,
        True,
    ),
    "ResNet-50": (
        lambda: zoo_models.Residual(zoo_models.Bottleneck, RESNET18, RESNET50, 64, 224, large=True, classes=1000),
        LARGE,
        True,
    ),
    "VGG-16": (vgg16, LARGE, True),
    "MobileNetV2": (zoo_models.MobileNetV2, LARGE, True),
    "DenseNet-121": (zoo_models.DenseNet121, LARGE, True),
}
