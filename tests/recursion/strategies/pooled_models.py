"""Sequential models of PyTorch with max-pools, a step of theirs, and what the recursion then knows of every value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.networks.operations import windows
from constraint_algebra.recursion import graph_recursion
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.strategies.registry import STRATEGIES, Tried
from constraint_algebra.recursion.strategies.strategy import Strategy


def two_pools(size: int, filters: tuple[int, int], kernel: int, hidden: int, *, padding: bool = True) -> nn.Sequential:
    """Convolution, ReLU, pool, twice, and two linear layers: FedAvg's CNN with 32 and 64 filters 5×5."""
    pad, width = kernel // 2 if padding else 0, size
    for _ in filters:
        width = (width + 2 * pad - kernel + 1) // 2
    return nn.Sequential(
        *(nn.Conv2d(1, filters[0], kernel, padding=pad), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(filters[0], filters[1], kernel, padding=pad), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(filters[1] * width**2, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
    )


def lenet() -> nn.Sequential:
    """LeNet-5 with max-pool and ReLU, 28×28, the first convolution padded."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


class Step:
    """A step of a client, with the truth of every value, the gradient there, and the winners, by number of the module.

    Args:
        build: makes the model; PyTorch's generator is seeded before.
        image: the sample.
        seed: of the parameters.
        label: of the sample.
        dtype: the client's precision.
    """

    def __init__(
        self,
        build: Callable[[], nn.Sequential],
        image: FloatArray,
        *,
        seed: int = 0,
        label: int = 3,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        torch.manual_seed(seed)
        self.model = build().to(dtype).eval()
        self.image = np.asarray(image, dtype=float)
        values: list[Tensor] = [torch.tensor(self.image, dtype=dtype)[None]]
        for module in self.model:
            values.append(module(values[-1]))
        for value in values[1:]:
            value.retain_grad()
        nn.functional.cross_entropy(values[-1], torch.tensor([label])).backward()
        self.values = [value.detach().double().numpy()[0] for value in values]
        self.sent = [np.zeros(0), *(value.grad.double().numpy()[0] for value in values[1:])]  # type: ignore[union-attr]
        self.gradients = {name: p.grad.numpy() for name, p in self.model.named_parameters()}  # type: ignore[union-attr]
        self.network, self.parameters = ca.from_torch(self.model, self.image.shape)

    def reconstruct(
        self, *, only: tuple[Strategy, ...] = STRATEGIES, **options: Any
    ) -> tuple[ca.Reconstruction, GraphKnowledge]:
        """Return the result, and what the recursion knew of every value, with some strategies or all."""
        kept: list[GraphKnowledge] = []
        once: Callable[..., Any] = graph_recursion.Graph.to_input

        def watched(recursion: graph_recursion.Graph, *args: Any) -> Any:
            found = once(recursion, *args)
            kept.extend([] if recursion.knows is None else [recursion.knows])
            return found

        tried = partial(Tried, strategies=only)
        with (
            mock.patch.object(graph_recursion.Graph, "to_input", watched),
            mock.patch.object(graph_recursion, "Tried", tried),
        ):
            result = ca.reconstruct(self.network, self.parameters, self.gradients, batch=1, **options)
        return result, kept[-1]

    def error_after(self, module: int, knows: GraphKnowledge) -> tuple[float, float]:
        """Return which share of what a module makes is known, and the largest error of that."""
        found = knows.values[self.network.named(str(module)).number]
        off = np.abs(found.value - self.values[module + 1])[found.known]
        return float(found.known.mean()), float(off.max(initial=0.0))

    def winners(self, module: int) -> IntArray:
        """Return PyTorch's winner of each window of a pool, by the gradient that it sends back; -1 where that is zero.

        Windows must not overlap; what a ReLU before the pool cuts off counts as zero.
        """
        table = windows(self.network.named(str(module)))
        arrives = self.sent[module - isinstance(self.model[module - 1], nn.ReLU)].ravel()
        sent = np.where(table >= 0, np.abs(arrives[table]), 0.0)
        best = sent.argmax(axis=1)
        rows = np.arange(len(table))
        return np.where(sent[rows, best] > 0, table[rows, best], -1).reshape(self.values[module + 1].shape)
