"""Networks as tutorials and benchmarks of federated learning write them: each in its own idiom, all written anew.

`models()` gives for each name a function that builds it, in float64 and evaluation mode with seeded weights and
statistics of its own, and the shape of one input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

Factory = Callable[[], nn.Module]


class LogSoftmaxCnn(nn.Module):
    """Convolution, max-pool, convolution, max-pool, two linear layers; functional dropout and log_softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = x.view(-1, 320)
        x = functional.relu(self.fc1(x))
        x = functional.dropout(x, training=self.training)
        return functional.log_softmax(self.fc2(x), dim=1)


class MnistExample(nn.Module):
    """Two convolutions, one max-pool, dropout modules, log_softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        x = self.dropout1(functional.max_pool2d(x, 2))
        x = torch.flatten(x, 1)
        x = self.dropout2(functional.relu(self.fc1(x)))
        return functional.log_softmax(self.fc2(x), dim=1)


class FemnistCnn(nn.Module):
    """Benchmark for handwriting by writer: 5x5 convolutions with padding, a wide linear layer, 62 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(7 * 7 * 64, 2048)
        self.fc2 = nn.Linear(2048, 62)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 1, 28, 28)
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = x.flatten(start_dim=1)
        return self.fc2(torch.relu(self.fc1(x)))


class CelebaCnn(nn.Module):
    """Benchmark for faces: four blocks of convolution, batch norm, max-pool and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[self._block(3 if i == 0 else 32) for i in range(4)])
        self.fc = nn.Linear(5 * 5 * 32, 2)

    def _block(self, channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding="same"), nn.BatchNorm2d(32), nn.MaxPool2d(2, stride=2), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.fc(x.reshape(x.shape[0], -1))


class EmnistCnn(nn.Module):
    """Images without a channel axis, which the model adds."""

    def __init__(self, only_digits: bool = True) -> None:
        super().__init__()
        self.conv2d_1 = nn.Conv2d(1, 32, kernel_size=3)
        self.max_pooling = nn.MaxPool2d(2, stride=2)
        self.conv2d_2 = nn.Conv2d(32, 64, kernel_size=3)
        self.dropout_1 = nn.Dropout(0.25)
        self.flatten = nn.Flatten()
        self.linear_1 = nn.Linear(9216, 128)
        self.dropout_2 = nn.Dropout(0.5)
        self.linear_2 = nn.Linear(128, 10 if only_digits else 62)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.unsqueeze(x, 1)
        x = self.relu(self.conv2d_1(x))
        x = self.relu(self.conv2d_2(x))
        x = self.dropout_1(self.max_pooling(x))
        x = self.flatten(x)
        x = self.dropout_2(self.relu(self.linear_1(x)))
        return self.linear_2(x)


class HarCnn(nn.Module):
    """Human activity from nine sensors over 128 steps, in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(9, 32, 9),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2, stride=2),
            nn.Conv1d(32, 64, 9),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2, stride=2),
        )
        self.fc = nn.Sequential(nn.Linear(64 * 26, 100), nn.ReLU(inplace=True), nn.Linear(100, 6))

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        return self.fc(torch.flatten(out, 1))


class AllConvolutional(nn.Module):
    """Convolutions alone, strides in place of pooling, dropout, a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 48, 3, padding=1)
        self.conv2 = nn.Conv2d(48, 48, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(48, 96, 3, padding=1)
        self.conv4 = nn.Conv2d(96, 96, 3, padding=1, stride=2)
        self.conv5 = nn.Conv2d(96, 96, 1)
        self.class_conv = nn.Conv2d(96, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(x, 0.2, self.training)
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        x = functional.dropout(x, 0.5, training=self.training)
        x = functional.relu(self.conv3(x))
        x = functional.relu(self.conv4(x))
        x = functional.relu(self.conv5(x))
        return self.class_conv(x).mean((2, 3))


class VaeEncoder(nn.Module):
    """The encoder of a variational autoencoder: means and logarithms of variances."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2)
        )
        self.mu = nn.Linear(32 * 7 * 7, 20)
        self.logvar = nn.Linear(32 * 7 * 7, 20)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x).view(x.size(0), -1)
        return self.mu(h), self.logvar(h)


class CifarTutorial(nn.Module):
    """Six and sixteen filters of 5x5, max-pool, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)


def fedavg_cnn() -> nn.Module:
    """The convolutional network of federated averaging, as a sequence of modules."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


class TwoNn(nn.Module):
    """Two hidden layers of 200, and a softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_input = nn.Linear(784, 200)
        self.layer_hidden = nn.Linear(200, 200)
        self.layer_output = nn.Linear(200, 10)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, x.shape[1] * x.shape[-2] * x.shape[-1])
        x = self.relu(self.dropout(self.layer_input(x)))
        x = self.relu(self.layer_hidden(x))
        return self.softmax(self.layer_output(x))


class Block(nn.Module):
    """A residual block with a 1x1 shortcut where shapes change; one ReLU module for both of its places."""

    def __init__(self, channels: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class SmallResNet(nn.Module):
    """Three residual blocks, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.layer1 = Block(16, 16)
        self.layer2 = Block(16, 32, 2)
        self.layer3 = Block(32, 64, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class SqueezeHead(nn.Module):
    """Ends in a convolution that covers what is left of the picture, and squeezes its axes away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2)
        self.conv3 = nn.Conv2d(32, 10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        return self.conv3(x).squeeze()


class AnyImage(nn.Module):
    """Takes pictures with and without a channel axis, by a branch on the number of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 5, stride=2)
        self.out = nn.Linear(8 * 12 * 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            x = x.unsqueeze(1)
        assert x.dim() == 4
        x = self.conv(x).relu()
        return self.out(x.reshape(len(x), -1))


class MadeInside(nn.Module):
    """Makes its activations and pools inside the forward pass, and scales pixels by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.linear = nn.Linear(16 * 4 * 4, 10)
        self.register_buffer("mean", torch.tensor([0.49, 0.48, 0.45]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.25, 0.24, 0.26]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x / 255 - self.mean) / self.std
        x = nn.MaxPool2d(2)(nn.ReLU()(self.conv1(x)))
        x = nn.AvgPool2d(2)(nn.ReLU()(self.conv2(x)))
        return self.linear(nn.Flatten()(x))


class Autoencoder(nn.Module):
    """Convolutions down, transposed convolutions up."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(True), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(True))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class DenseBlocks(nn.Module):
    """Layers that read all before them, joined by concatenation, with pre-activation."""

    def __init__(self, growth: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16 + i * growth) for i in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(16 + i * growth, growth, 3, padding=1, bias=False) for i in range(3)])
        self.transition = nn.Conv2d(16 + 3 * growth, 20, 1)
        self.classifier = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(functional.relu(norm(x)))], 1)
        x = functional.avg_pool2d(self.transition(x), 2)
        x = functional.adaptive_avg_pool2d(functional.relu(x), 1)
        return self.classifier(x.view(x.size(0), -1))


def lenet_average() -> nn.Module:
    """Sigmoids and average pooling, as gradient inversion studies and old textbooks have it."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(2, stride=2),
        nn.Conv2d(6, 16, 5),
        nn.Sigmoid(),
        nn.AvgPool2d(2, stride=2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )


class NextCharacter(nn.Module):
    """A recurrent network over steps of features."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, num_layers=2, batch_first=True)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x)
        return self.fc(output[:, -1])


class SmallTransformer(nn.Module):
    """Patches by a convolution, one block of attention with layer norm and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(x)
        return self.head(x.mean(1))


# Those that stay refused, with words that each refusal names.
REFUSED = {"next-character-lstm": ("lstm",), "small-transformer": ("attention",)}

_MODELS: dict[str, tuple[Factory, tuple[int, ...]]] = {
    "log-softmax-cnn": (LogSoftmaxCnn, (1, 28, 28)),
    "mnist-example": (MnistExample, (1, 28, 28)),
    "femnist-cnn": (FemnistCnn, (1, 28, 28)),
    "celeba-cnn": (CelebaCnn, (3, 84, 84)),
    "emnist-cnn": (EmnistCnn, (28, 28)),
    "har-cnn": (HarCnn, (9, 128)),
    "all-convolutional": (AllConvolutional, (3, 32, 32)),
    "vae-encoder": (VaeEncoder, (1, 28, 28)),
    "cifar-tutorial": (CifarTutorial, (3, 32, 32)),
    "fedavg-cnn": (fedavg_cnn, (1, 28, 28)),
    "two-nn": (TwoNn, (1, 28, 28)),
    "small-resnet": (SmallResNet, (3, 32, 32)),
    "squeeze-head": (SqueezeHead, (1, 28, 28)),
    "any-image": (AnyImage, (28, 28)),
    "made-inside": (MadeInside, (3, 16, 16)),
    "autoencoder": (Autoencoder, (1, 28, 28)),
    "dense-blocks": (DenseBlocks, (3, 16, 16)),
    "lenet-average": (lenet_average, (1, 28, 28)),
    "next-character-lstm": (NextCharacter, (12, 8)),
    "small-transformer": (SmallTransformer, (3, 16, 16)),
}


def models() -> dict[str, tuple[Factory, tuple[int, ...]]]:
    """Return for each name what builds the model, and the shape of one input."""
    return {name: (partial(_built, kind), shape) for name, (kind, shape) in _MODELS.items()}


def _built(kind: Factory) -> nn.Module:
    """Return a model in float64 and evaluation mode, its statistics as if it had seen data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = kind()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return model.double().eval()
