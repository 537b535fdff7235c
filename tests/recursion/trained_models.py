"""Random small networks as people train them: modules with pooling, normalisation, two-branch activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from constraint_algebra.arrays import FloatArray

MONOTONE = (nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.Tanh)
TWO_BRANCHES = (nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish)
THEMES = ("pool", "norm", "branches", "all")  # what a network has of the three


class Residual(nn.Module):
    """`act(body(x) + shortcut(x))`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + self.shortcut(x))


def _tracks(module: nn.Module) -> bool:
    return bool(getattr(module, "track_running_stats", False))


def _note_statistics(noted: list[Tensor], _: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
    noted += [inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))]


def _few_sums(values: Tensor, most: int) -> Tensor:
    """So many random sums of them, where there are more: their Jacobian has the same null space, in less time."""
    if len(values) <= most:
        return values
    weights = torch.randn(most, len(values), generator=torch.Generator().manual_seed(0), dtype=values.dtype)
    return weights @ values / len(values) ** 0.5


class Drawn(NamedTuple):
    """A model in training mode, float64, with an input and a label."""

    model: nn.Module
    x: FloatArray
    label: int

    def outcome(self, buffers_too: bool, x: Tensor) -> Tensor:
        """All gradients, the logits up to a constant and, if asked, the statistics that buffers tell, as one vector."""
        named = dict(self.model.named_parameters())
        moved = list[Tensor]()  # PyTorch writes its buffers without a derivative: here with one
        hooks = [m.register_forward_hook(partial(_note_statistics, moved)) for m in self.model.modules() if _tracks(m)]
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        logits = torch.func.functional_call(self.model, (named, buffers), (x[None],))
        for hook in hooks:
            hook.remove()
        loss = nn.functional.cross_entropy(logits, torch.tensor([self.label]))
        found = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        everything = (*found, logits - logits.mean(), *(moved if buffers_too else ()))
        return torch.cat([_few_sums(values.reshape(-1), self.x.size + 20) for values in everything])

    def jacobian(self, buffers_too: bool) -> FloatArray:
        """How the outcome moves with the input, `(rows, values)`; rows of unit length, zero rows left out."""
        J = torch.autograd.functional.jacobian(
            partial(self.outcome, buffers_too), torch.tensor(self.x), vectorize=False
        )
        flat = J.reshape(-1, self.x.size).numpy()
        sizes = np.linalg.norm(flat, axis=1)
        some = sizes > 1e-12 * sizes.max(initial=1e-300)
        return np.asarray(flat[some] / sizes[some, None])


def drawn(seed: int) -> Drawn:
    """A random network: one to three stages of convolution, normalisation, activation and pool, then a head.

    Three of four have one of the three alone.
    """
    rng, theme = np.random.default_rng(seed), THEMES[seed % len(THEMES)]
    torch.manual_seed(seed)
    size, channels = int(rng.integers(4, 9)), int(rng.integers(1, 4))
    shape = (channels, size, size)
    modules = list[nn.Module]()
    for _ in range(rng.integers(1, 4)):
        stage = _stage(rng, shape, theme)
        shape = _made(stage, shape)
        modules += stage
        if min(shape[1:]) < 3:
            break
    modules.append(nn.Flatten())
    width = int(np.prod(shape))
    if rng.random() < 0.3:
        hidden = int(rng.integers(8, 24))
        modules += [nn.Linear(width, hidden), _activation(rng, theme)()]
        width = hidden
    modules.append(nn.Linear(width, int(rng.integers(3, 11))))
    model = nn.Sequential(*modules).double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, 0, 0.3)
    x = rng.random((channels, size, size))
    if rng.random() < 0.3:  # a background, on which windows tie
        x[:, : size // 3] = 0.0
    return Drawn(model, x, int(rng.integers(3)))


def _activation(rng: np.random.Generator, theme: str) -> Callable[[], nn.Module]:
    some = {"branches": TWO_BRANCHES, "all": (*MONOTONE, *TWO_BRANCHES)}.get(theme, MONOTONE)
    return some[rng.integers(len(some))]


def _stage(rng: np.random.Generator, shape: tuple[int, ...], theme: str) -> list[nn.Module]:
    filters, kernel = int(rng.choice([3, 8, 16, 24, 40])), int(rng.choice([1, 3, 3, 3, 5]))
    stride, bias = int(rng.choice([1, 1, 2])), bool(rng.random() < 0.7)
    activation = _activation(rng, theme)
    stage: list[nn.Module] = [nn.Conv2d(shape[0], filters, kernel, stride, kernel // 2, bias=bias)]
    made = _made(stage, shape)
    norm = _norm(rng, made) if theme in {"norm", "all"} else []
    if rng.random() < 0.2:
        other = nn.Conv2d(shape[0], filters, 1, stride, bias=False)
        body = nn.Sequential(*stage, *norm)
        return [Residual(body, other if made != shape or rng.random() < 0.5 else nn.Identity(), activation())]
    stage += norm
    if theme in {"pool", "all"} and rng.random() < 0.6 and min(made[1:]) >= 4:
        pool = rng.choice(["2", "2", "3", "adaptive"])
        own = {"2": nn.MaxPool2d(2), "3": nn.MaxPool2d(3, 2, 1), "adaptive": nn.AdaptiveMaxPool2d(3)}[str(pool)]
        return [*stage, activation(), own] if rng.random() < 0.7 else [*stage, own, activation()]
    return [*stage, activation()]


def _norm(rng: np.random.Generator, shape: tuple[int, ...]) -> list[nn.Module]:
    filters, positions = shape[0], int(np.prod(shape[1:]))
    kind = str(rng.choice(["", "", "batch", "batch", "group", "layer", "instance"]))
    if positions < 2 or not kind:
        return []
    groups = 2 if filters % 2 == 0 else 1
    return [
        {
            "batch": lambda: nn.BatchNorm2d(filters, track_running_stats=bool(rng.random() < 0.8)),
            "group": lambda: nn.GroupNorm(groups, filters),
            "layer": lambda: nn.GroupNorm(1, filters),
            "instance": lambda: nn.InstanceNorm2d(filters, affine=bool(rng.random() < 0.5)),
        }[kind]()
    ]


def _made(modules: list[nn.Module], shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(nn.Sequential(*modules).float().train()(torch.rand(1, *shape)).shape[1:])
