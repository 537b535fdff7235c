"""Residual networks in training mode as people write them, what a client sends, and what the recursion then knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import constraint_algebra as ca
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.recursion import graph_recursion
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge

Norm = Callable[[int], nn.Module]


class Block(nn.Module):
    """Two convolutions with their norms beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int, norm: Norm, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), norm(width), act()
        self.conv2, self.norm2, self.act2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), norm(width), act()
        same = stride == 1 and before == width
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), norm(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))


def residual(
    widths: tuple[int, ...],
    *,
    blocks: int = 1,
    norm: Norm = nn.BatchNorm2d,
    act: Callable[[], nn.Module] = nn.ReLU,
    seed: int = 0,
) -> nn.Sequential:
    """A stem, stages of blocks that halve the map from the second on, the mean of each channel, a head; in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), norm(widths[0]), act()]
    before = widths[0]
    for stage, width in enumerate(widths):
        for number in range(blocks):
            layers.append(Block(before, width, 2 if stage and not number else 1, norm, act))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)).double().train()


def plain(
    widths: tuple[int, int], *, stride: int = 1, norm: Norm = nn.BatchNorm2d, act: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Two convolutions with their norms, the mean of each channel, a head; in float64."""
    torch.manual_seed(1)
    first, second = widths
    below = [nn.Conv2d(3, first, 3, stride, 1, bias=False), norm(first), act()]
    above = [nn.Conv2d(first, second, 3, 1, 1, bias=False), norm(second), act()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 10)]
    return nn.Sequential(*below, *above, *head).double().train()


@dataclass(frozen=True)
class Step:
    """What a client has, and what the observer makes of its gradient.

    Attributes:
        image: its input.
        result: the reconstruction.
        knows: all that the recursion knew in the end.
        inputs, sent: what each layer with a weight truly read, and the gradient at what it made, by name.
    """

    image: np.ndarray
    result: ca.Reconstruction
    knows: GraphKnowledge
    inputs: dict[str, np.ndarray]
    sent: dict[str, np.ndarray]

    @property
    def error(self) -> float:
        """The largest error of what is determined."""
        found = self.result.determined
        return float(np.abs(self.result.input - self.image)[found].max(initial=0.0))

    def known(self, name: str) -> float:
        """The share of the input of a layer that is known."""
        layer = next(layer for layer in self.knows.network if layer.name == name)
        return float(self.knows.values[layer.inputs[0]].known.mean())

    @property
    def error_inside(self) -> float:
        """The largest error of what is known of the layers' inputs and gradients, relative to the largest of each."""
        worst = 0.0
        for layer in self.knows.network.bilinear:
            if isinstance(layer.layer, ChannelScale) or layer.name not in self.inputs:
                continue
            found = self.knows.values[layer.inputs[0]], self.knows.gradients[layer.number]
            for estimate, truth in zip(found, (self.inputs[layer.name], self.sent[layer.name]), strict=True):
                off = np.abs(estimate.value - truth.reshape(estimate.value.shape))[estimate.known]
                worst = max(worst, float(off.max(initial=0.0) / (np.abs(truth).max() or 1.0)))
        return worst


def step(model: nn.Module, size: int, *, buffers: bool = True, seed: int = 0, **options: Any) -> Step:
    """Take one step in PyTorch, and reconstruct the image from its gradient."""
    like = next(model.parameters())
    x = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like.dtype)
    network, parameters = ca.from_torch(model, (3, size, size))
    gradients, after = ca.torch_gradients(model, x, seed % 10, buffers=True)
    kept: list[GraphKnowledge] = []
    once: Any = graph_recursion.Graph.to_input

    def watched(recursion: graph_recursion.Graph, *args: Any) -> Any:
        found = once(recursion, *args)
        kept.extend([recursion.knows] if recursion.knows is not None else [])
        return found

    with mock.patch.object(graph_recursion.Graph, "to_input", watched):
        result = ca.reconstruct(network, parameters, gradients, buffers=after if buffers else None, **options)
    return Step(x.double().numpy(), result, kept[-1], *_truth(model, x, seed % 10))


def _truth(model: nn.Module, x: Tensor, label: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    inputs: dict[str, np.ndarray] = {}
    made: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def seen(_: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
            out.retain_grad()
            inputs[name], made[name] = given[0].detach().double().numpy()[0], out

        return seen

    hooks = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if not list(m.children())]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    nn.functional.cross_entropy(model(x[None].requires_grad_()), torch.tensor([label])).backward()
    model.load_state_dict(state)
    for one in hooks:
        one.remove()
    sent = {name: out.grad.double().numpy()[0] for name, out in made.items() if out.grad is not None}
    return inputs, sent
