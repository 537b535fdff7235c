"""Models of which only the first layer can be looked into, and others that read their input in a second way."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils import checkpoint

SHAPE = (3, 8, 8)


class Block(nn.Module):
    """A transformer block: attention and a perceptron, both behind a layer normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.first(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.perceptron(self.second(tokens))


class VisionTransformer(nn.Module):
    """Normalised image, patches embedded by a convolution or a linear layer, a class token, blocks, a head."""

    def __init__(self, *, width: int = 8, patch: int = 2, linear: bool = False, blocks: int = 2) -> None:
        super().__init__()
        self.patch, channels, size = patch, *SHAPE[:2]
        tokens = (size // patch) ** 2
        self.embed = (
            nn.Linear(channels * patch**2, width) if linear else nn.Conv2d(channels, width, patch, stride=patch)
        )
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1))
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, tokens + 1, width))
        self.blocks = nn.Sequential(*(Block(width, 2) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        if isinstance(self.embed, nn.Linear):
            pieces = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
            tokens = self.embed(pieces.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        else:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class Forward(nn.Module):
    """A model made of submodules and a function of itself and the input."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Standardised(nn.Conv2d):
    """A convolution whose weight is computed from its parameter."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, (self.weight - mean) / std, self.bias, self.stride, self.padding)


def conv(filters: int = 2, **options) -> nn.Conv2d:
    return nn.Conv2d(3, filters, 3, stride=2, padding=1, **options)


def tail(features: int) -> list[nn.Module]:
    return [nn.Tanhshrink(), nn.Flatten(), nn.LayerNorm(features), nn.Linear(features, 4)]


def shifted() -> nn.Module:
    """A parameter is added to the input before the first layer."""
    model = Forward(lambda m, x: m.rest(x + m.shift), rest=nn.Sequential(conv(), *tail(32)))
    model.shift = nn.Parameter(torch.randn(SHAPE))
    return model


# Models whose first layer alone reads the input.
READ_ONCE = {
    "transformer": VisionTransformer,
    "linear patches": lambda: VisionTransformer(linear=True),
    "tanhshrink": lambda: nn.Sequential(conv(), *tail(32)),
    "reflected": lambda: nn.Sequential(conv(padding_mode="reflect"), *tail(32)),
    "pooled before": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 2, 3, padding=1), *tail(32)),
    "pool behind": lambda: nn.Sequential(conv(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), *tail(16)),
    "batch norm in training mode": lambda: nn.Sequential(conv(), nn.BatchNorm2d(2), *tail(32)).train(),
    "batch norm and ReLU": lambda: nn.Sequential(conv(4), nn.BatchNorm2d(4), nn.ReLU(), *tail(64)).eval(),
    "weight normalisation": lambda: nn.Sequential(parametrizations.weight_norm(conv()), *tail(32)),
    "a weight that is computed": lambda: nn.Sequential(Standardised(3, 2, 3, 2, 1), *tail(32)),
    "grouped": lambda: nn.Sequential(conv(3, groups=3), *tail(48)),
    "a shift that is learned": shifted,
    "checkpoint": lambda: Forward(
        lambda m, x: checkpoint.checkpoint(m.rest, m.a(x), use_reentrant=False), a=conv(), rest=nn.Sequential(*tail(32))
    ),
    "a branch behind": lambda: Forward(
        lambda m, x: m.rest(z if (z := m.a(x)).sum() > 0 else -z), a=conv(), rest=nn.Sequential(*tail(32))
    ),
    "recurrent behind": lambda: Forward(
        lambda m, x: m.head(m.r(m.a(x).flatten(2))[0][:, -1]),
        a=conv(),
        r=nn.LSTM(16, 4, batch_first=True),
        head=nn.Linear(4, 4),
    ),
}


class Leak(torch.autograd.Function):
    """Hands values on beside what PyTorch shows of them."""

    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        return torch.from_dlpack(x.detach())

    @staticmethod
    def backward(_, k: Tensor) -> Tensor:
        return k


def scripted(x: Tensor, z: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls its scripts deprecated
        return torch.jit.script(_scaled)(x, z)


def _scaled(x: Tensor, z: Tensor) -> Tensor:
    return z * x.mean()


def beside(function) -> nn.Module:
    """A model that makes something of the output of its first layer and its input."""
    return Forward(lambda m, x: m.rest(function(m.a(x), x)), a=conv(), rest=nn.Sequential(*tail(32)))


# Models that read the input in a second way, or in another one first.
READ_TWICE = {
    "a shortcut around the first layer": lambda: Forward(
        lambda m, x: m.head(torch.flatten(m.a(x) + x, 1)), a=nn.Conv2d(3, 3, 3, padding=1), head=nn.Linear(192, 4)
    ),
    "a shortcut and more": lambda: Forward(
        lambda m, x: m.head(functional.gelu(torch.flatten(m.a(x) + x, 1))),
        a=nn.Conv2d(3, 3, 3, padding=1),
        head=nn.Linear(192, 4),
    ),
    "two convolutions": lambda: Forward(
        lambda m, x: m.rest(m.a(x) + m.b(x)), a=conv(), b=conv(), rest=nn.Sequential(*tail(32))
    ),
    "its mean": lambda: beside(lambda z, x: z * x.mean()),
    "its mean without a gradient": lambda: beside(lambda z, x: z * x.detach().mean()),
    "a mask of it": lambda: beside(lambda z, x: z * (x > 0.5).double().mean()),
    "a branch on it": lambda: beside(lambda z, x: z if x.sum() > 1 else -z),
    "a number of it": lambda: beside(lambda z, x: z * x.mean().item()),
    "its array": lambda: beside(lambda z, x: z * float(np.asarray(x.detach()).mean())),
    "its list": lambda: beside(lambda z, x: z * x.tolist()[0][0][0][0]),
    "a script": lambda: beside(lambda z, x: scripted(x, z)),
    "behind PyTorch's back": lambda: beside(lambda z, x: z * Leak.apply(x).mean()),
    "written elsewhere": lambda: beside(lambda z, x: z * torch.zeros_like(x).copy_(x).mean()),
    "another layer first": lambda: nn.Sequential(nn.LayerNorm(8), conv(), *tail(32)),
    "a factor that is learned": lambda: Forward(
        lambda m, x: m.rest(x * m.rest[0].weight.mean()), rest=nn.Sequential(conv(), *tail(32))
    ),
    "recurrent": lambda: Forward(
        lambda m, x: m.head(m.r(x.flatten(2))[0][:, -1]), r=nn.LSTM(64, 4, batch_first=True), head=nn.Linear(4, 4)
    ),
    "attention": lambda: Forward(
        lambda m, x: m.head(m.r(*[x.flatten(2)] * 3, need_weights=False)[0].mean(1)),
        r=nn.MultiheadAttention(64, 4, batch_first=True),
        head=nn.Linear(64, 4),
    ),
    "dropout in training mode": lambda: nn.Sequential(conv(), nn.Dropout(0.5), *tail(32)).train(),
}


def made(models: dict, name: str, seed: int = 0) -> nn.Module:
    """One of the models above in float64, its batch normalisation with statistics of its own."""
    torch.manual_seed(seed)
    model = models[name]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE)
