"""Networks that people train, small enough for tests, each beside a PyTorch function: see `graph_cases`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from tests.graph_cases import Builder, Case


def tutorial_cnn(seed: int = 0, size: int = 32) -> Case:
    """The convolutional network of PyTorch's tutorial, with PyTorch's own initialisation."""
    torch.manual_seed(seed)
    side = ((size - 4) // 2 - 4) // 2
    modules = {
        "conv1": nn.Conv2d(3, 6, 5),
        "conv2": nn.Conv2d(6, 16, 5),
        "fc1": nn.Linear(16 * side * side, 120),
        "fc2": nn.Linear(120, 84),
        "fc3": nn.Linear(84, 10),
    }
    layers = {
        "conv1": ca.Conv2d(6, 5),
        "relu1": ca.ReLU(),
        "pool1": ca.MaxPool2d(2),
        "conv2": ca.Conv2d(16, 5),
        "relu2": ca.ReLU(),
        "pool2": ca.MaxPool2d(2),
        "flat": ca.Flatten(),
        "fc1": ca.Linear(120),
        "relu3": ca.ReLU(),
        "fc2": ca.Linear(84),
        "relu4": ca.ReLU(),
        "fc3": ca.Linear(10),
    }
    parameters = {f"{name}.{key}": p for name, m in modules.items() for key, p in m.named_parameters()}

    def function(P: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        value = x[None]
        for name in ("conv1", "conv2"):
            value = functional.conv2d(value, P[f"{name}.weight"], P[f"{name}.bias"])
            value = functional.max_pool2d(functional.relu(value), 2)
        value = value.flatten(1)
        for name in ("fc1", "fc2"):
            value = functional.relu(functional.linear(value, P[f"{name}.weight"], P[f"{name}.bias"]))
        return functional.linear(value, P["fc3.weight"], P["fc3.bias"])[0]

    arrays = {name: p.detach().numpy().astype(float) for name, p in parameters.items()}
    return Case(ca.Network((3, size, size), layers), arrays, function)


def resnet18(seed: int = 0, *, size: int = 64, stem: int = 16, widths: tuple[int, ...] = (64, 128, 256, 512)) -> Case:
    """ResNet-18 with a 7x7 stem of stride 2, batch norm in evaluation mode and max-pool 3/2/1, for 100 classes."""
    build = Builder((3, size, size), seed, (ca.ReLU(),))
    build.conv(stem, 7, stride=2, padding=3)
    build.norm()
    build.act(prelu=False)
    build.pool(largest=True, kernel=3, stride=2, padding=1)
    for number, width in enumerate(widths):
        for block in range(2):
            _basic(build, width, 2 if number and not block else 1)
    build.adaptive(1, largest=False)
    build.flatten()
    build.linear(100)
    return build.done()


def _basic(build: Builder, width: int, stride: int) -> None:
    start = build.at
    build.conv(width, 3, stride=stride, padding=1)
    build.norm()
    build.act(prelu=False)
    build.conv(width, 3, padding=1)
    branch = build.norm()
    if stride > 1 or build.shape(start)[0] != width:
        build.conv(width, 1, stride=stride, at=start)
        start = build.norm()
    build.put(ca.Add(), lambda _, x, y: x + y, branch, start)
    build.act(prelu=False)
