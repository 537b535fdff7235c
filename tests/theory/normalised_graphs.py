"""Random small networks that normalise by the data's own statistics, each beside the same function in plain PyTorch.

The Jacobian of all gradients, and of what buffers say, is by automatic differentiation alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, jacfwd
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from tests.whole_map_oracle import rank_and_determined

CLEAR = 1e4  # a last singular value so many times the next one leaves no doubt about the rank
Step = Callable[[dict[str, Tensor], Tensor, list[Tensor]], Tensor]
ACTIVATIONS: tuple[tuple[Any, Callable[[Tensor], Tensor]], ...] = (
    (ca.ReLU(), functional.relu),
    (ca.LeakyReLU(0.2), lambda z: functional.leaky_relu(z, 0.2)),
    (ca.ReLU(), functional.relu),
    (ca.Tanh(), torch.tanh),
)
BRANCHED: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "SiLU": (ca.SiLU(), functional.silu),
    "GELU": (ca.GELU(), functional.gelu),
    "GELU by tanh": (ca.GELU("tanh"), lambda z: functional.gelu(z, approximate="tanh")),
    "Mish": (ca.Mish(), functional.mish),
    "Hardswish": (ca.Hardswish(), functional.hardswish),
}
KINDS = ("batch", "batch", "group", "layer", "last", "instance", "rms")


def standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Return values less their mean, over the root of their variance; PyTorch's own functions refuse an eps of 0."""
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, unbiased=False, keepdim=True) + eps).sqrt()


class Normalised:
    """A random network.

    Args:
        seed: of all that is drawn.
        eps: of all normalisations.
        activation: a name of `BRANCHED` for all of its activations; its values are then small.
    """

    def __init__(self, seed: int, eps: float, activation: str | None = None) -> None:
        self.rng, self.eps = np.random.default_rng([23, seed]), eps
        self.activations = ACTIVATIONS if activation is None else (BRANCHED[activation],)
        self.size = 1.0 if activation is None else 0.25
        self.layers: dict[str, Any] = {}
        self.steps: list[tuple[str, tuple[str, ...], Any]] = []
        self.parameters: dict[str, Tensor] = {}
        self.shape: dict[str, tuple[int, ...]] = {"input": self._shape()}
        self.at = "input"
        if self._chance(0.15):
            self._norm()
        self._conv(self._whole(2, 5))
        self._norm()
        self._activation()
        if self._chance(0.4):
            self._block()
        elif self._chance(0.7):
            self._conv(self._whole(2, 6))
            self._norm()
            self._activation()
        if self._chance(0.3):
            self._pool()
        self._put("flat", ca.Flatten(), lambda _p, x, _b: x.flatten(1), (int(np.prod(self.shape[self.at])),))
        self._linear(4)
        self.network = ca.Network(self.shape["input"], self.layers)

    def _shape(self) -> tuple[int, ...]:
        return (self._whole(1, 3), self._whole(3, 5), self._whole(3, 5))

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _put(self, name: str, layer: Any, step: Any, shape: tuple[int, ...], *reads: str) -> str:
        name = f"{name}{len(self.layers)}"
        reads = reads or (self.at,)
        self.layers[name] = (layer, *reads)
        self.steps.append((name, reads, step))
        self.shape[name] = shape
        self.at = name
        return name

    def _random(self, name: str, *shape: int, positive: bool = False) -> None:
        values = self.size * self.rng.standard_normal(shape)
        self.parameters[name] = torch.tensor(np.abs(values) + 0.3 if positive else values)

    def _conv(self, filters: int, kernel: int = 3, stride: int | None = None) -> str:
        channels, *sides = self.shape[self.at]
        stride = self._whole(1, 2) if stride is None else stride
        bias, padding = self._chance(0.5), kernel // 2
        name = f"conv{len(self.layers)}"
        self._random(f"{name}.weight", filters, channels, kernel, kernel)
        if bias:
            self._random(f"{name}.bias", filters)

        def step(p: dict[str, Tensor], x: Tensor, _: list[Tensor]) -> Tensor:
            own = p.get(f"{name}.bias")
            return functional.conv2d(x, p[f"{name}.weight"], own, stride=stride, padding=padding)

        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        layer = ca.Conv2d(filters, kernel, stride=stride, padding=padding, bias=bias)
        return self._put("conv", layer, step, (filters, *sides))

    def _norm(self) -> str:
        shape, eps = self.shape[self.at], self.eps
        channels, *sides = shape
        kind = str(self.rng.choice(KINDS))
        kind = "layer" if int(np.prod(sides)) < 3 or (kind in {"last", "rms"} and sides[-1] < 3) else kind
        affine = self._chance(0.75)
        name = f"norm{len(self.layers)}"
        groups = 1 if channels % 2 else 2
        if kind == "batch":
            layer: Any = ca.BatchNorm(eps=eps, affine=affine, training=True)
            own: tuple[int, ...] = (channels,)
        elif kind == "group":
            layer, own = ca.GroupNorm(groups, eps=eps, affine=affine), (channels,)
        elif kind == "instance":
            layer, own = ca.InstanceNorm(eps=eps, affine=affine), (channels,)
        elif kind == "rms":
            layer, own = ca.RMSNorm(shape[1:], eps=eps, affine=affine), shape[1:]
        else:
            own = shape if kind == "layer" else shape[-1:]
            layer = ca.LayerNorm(own, eps=eps, affine=affine)
        if affine:
            self._random(f"{name}.weight", *own, positive=True)
            if kind != "rms":
                self._random(f"{name}.bias", *own)

        def step(p: dict[str, Tensor], x: Tensor, buffers: list[Tensor]) -> Tensor:
            w, b = p.get(f"{name}.weight"), p.get(f"{name}.bias")
            if kind in {"batch", "instance"}:
                if kind == "batch":
                    buffers += [x.mean((0, 2, 3)), x.var((0, 2, 3))]
                y = standardised(x, (2, 3), eps)
            elif kind == "group":
                y = standardised(x.unflatten(1, (groups, -1)), (2, 3, 4), eps).flatten(1, 2)
            elif kind == "rms":
                y = x / (x.pow(2).mean((-2, -1), keepdim=True) + eps).sqrt()
            else:
                y = standardised(x, tuple(range(-len(own), 0)), eps)
            if w is None:
                return y
            w = w.reshape(-1, 1, 1) if kind in {"batch", "group", "instance"} else w
            return y * w if b is None else y * w + b.reshape(w.shape)

        return self._put("norm", layer, step, shape)

    def _activation(self) -> str:
        layer, function = self.activations[self._whole(0, len(self.activations) - 1)]
        return self._put("act", layer, lambda _p, x, _b: function(x), self.shape[self.at])

    def _block(self) -> None:
        start = self.at
        filters, stride = self._whole(2, 4), self._whole(1, 2)
        self._conv(filters, 3, stride)
        self._norm()
        branch = self._conv(filters, 3, 1) if self._chance(0.5) else self.at
        self.at = start
        shortcut = self._conv(filters, 1, stride)
        self._put("sum", ca.Add(), lambda _p, x, y, _b: x + y, self.shape[branch], branch, shortcut)
        self._activation()

    def _pool(self) -> None:
        channels, *sides = self.shape[self.at]
        if min(sides) >= 2:
            shape = (channels, *(side // 2 for side in sides))
            self._put("pool", ca.AvgPool2d(2), lambda _p, x, _b: functional.avg_pool2d(x, 2), shape)

    def _linear(self, units: int) -> None:
        name, features = f"linear{len(self.layers)}", self.shape[self.at][0]
        self._random(f"{name}.weight", units, features)
        self._random(f"{name}.bias", units)

        def step(p: dict[str, Tensor], x: Tensor, _: list[Tensor]) -> Tensor:
            return functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

        self._put("linear", ca.Linear(units), step, (units,))

    def function(self, parameters: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and what buffers say: mean and variance of each channel."""
        values, buffers = {"input": image[None]}, list[Tensor]()
        for name, reads, step in self.steps:
            values[name] = step(parameters, *(values[read] for read in reads), buffers)
        said = torch.cat(buffers) if buffers else image.new_zeros(0)
        return values[self.at][0], said

    def arrays(self) -> dict[str, FloatArray]:
        """Return the parameters as arrays."""
        return {name: value.numpy() for name, value in self.parameters.items()}


def jacobian(case: Normalised, x: FloatArray, *, buffers: bool) -> NDArray[np.float64]:
    """Return the Jacobian of all gradients and centred logits, and of buffers, at an input, rows of unit norm."""
    k = torch.randn(case.network.output_shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def gradients(image: Tensor) -> Tensor:
        found = grad(lambda own: (case.function(own, image)[0] * k).sum())(case.parameters)
        logits, said = case.function(case.parameters, image)
        rows = [*(value.flatten() for value in found.values()), logits - logits.mean()]
        return torch.cat([*rows, said] if buffers else rows)

    image = torch.tensor(x)
    with warnings.catch_warnings():
        # PyTorch compiles its own rules on the first use, by a function that it calls deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        J = jacfwd(gradients)(image).reshape(-1, image.numel()).numpy()
    sizes = np.linalg.norm(J, axis=1)
    J = J[sizes > 1e-11 * sizes.max(initial=1e-2)]  # a map may be constant: a mean of what is quadratic in x̂ is
    return np.asarray(J / np.linalg.norm(J, axis=1, keepdims=True))


def judged(
    seed: int, eps: float, *, buffers: bool, activation: str | None = None
) -> tuple[Normalised, FloatArray, int, NDArray[np.bool_]]:
    """Return a network, the first random input that leaves no doubt about the rank, the rank and what is determined."""
    case = Normalised(seed, eps, activation)
    for attempt in range(6):
        x = np.random.default_rng([29, seed, attempt]).standard_normal(case.network.input_shape)
        rank, determined, clear = rank_and_determined(jacobian(case, x, buffers=buffers))
        if clear > CLEAR:
            return case, x, rank, determined
    raise AssertionError(f"no clear rank for network {seed}")
