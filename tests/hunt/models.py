"""The PyTorch module of a recipe, with its defects, as it comes out of its training."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.graph_cases import Case, random_graph
from tests.hunt.recipes import Recipe, Stage
from tests.recursion import trained_models
from tests.recursion.trained_models import Residual

Shape = tuple[int, ...]
RATE = 0.05  # of the few steps of training


class Frozen(nn.BatchNorm2d):
    """A batch norm that nobody trains any more: it stays in evaluation mode."""

    def train(self, mode: bool = True) -> Frozen:
        del mode
        return super().train(mode=False)


class Joined(nn.Module):
    """What several paths make of one input, one below the other, as in DenseNet or Inception."""

    def __init__(self, *paths: nn.Module) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([path(x) for path in self.paths], 1)


class Written(nn.Module):
    """A graph of `graph_cases` as a module: its function, and its parameters under names without dots."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        for name, values in case.parameters.items():
            if name in case.network.parameter_shapes:
                self.register_parameter(name.replace(".", "__"), nn.Parameter(torch.tensor(values)))
            else:
                self.register_buffer(name.replace(".", "__"), torch.tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        held = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        given = {name.replace("__", "."): values for name, values in held.items()}
        return torch.stack([self.case.function(given, one) for one in x])


def made(recipe: Recipe) -> tuple[nn.Module, Shape]:
    """Return the module in float64, in the mode that it is trained in, and the shape of its input."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([12, recipe.seed])
    model, shape = _untrained(recipe)
    _scale(model, recipe, rng)
    return _trained(model, shape, recipe), shape


def _untrained(recipe: Recipe) -> tuple[nn.Module, Shape]:
    if recipe.source == "graph":
        case = random_graph(recipe.seed, smooth=bool(recipe.seed % 4 == 1))
        return Written(case), case.network.input_shape
    if recipe.source == "trained":
        one = trained_models.drawn(recipe.seed)
        return one.model, one.x.shape
    shape: Shape = recipe.shape
    modules = list[nn.Module]()
    for stage in recipe.stages:
        if min(shape[1:]) + 2 * stage.padding < stage.kernel:
            break
        module = _block(stage, shape)
        shape = _after(module, shape)
        modules.append(module)
    width = math.prod(shape)
    modules.append(nn.Flatten())
    if recipe.hidden:
        modules += [nn.Linear(width, recipe.hidden), nn.ReLU()]
        width = recipe.hidden
    modules.append(nn.Linear(width, recipe.classes, bias=recipe.head != "none"))
    flat = [one for module in modules for one in (module if isinstance(module, nn.Sequential) else [module])]
    return nn.Sequential(*flat).double().train(), recipe.shape


def _after(module: nn.Module, shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(copy.deepcopy(module)(torch.rand(1, *shape)).shape[1:])


def _activation(stage: Stage) -> list[nn.Module]:
    return [getattr(nn, stage.activation)()] if stage.activation else []


def _conv(stage: Stage, channels: int, *, keeps: bool = False) -> nn.Conv2d:
    """The convolution of a stage; one that keeps heights and widths, for a second path beside it."""
    kernel = stage.kernel - 1 + stage.kernel % 2 if keeps else stage.kernel
    stride, padding = (1, kernel // 2) if keeps else (stage.stride, stage.padding)
    return nn.Conv2d(channels, stage.filters, kernel, stride, padding, bias=stage.bias)


def _block(stage: Stage, shape: Shape) -> nn.Module:
    channels = shape[0]
    if stage.block == "residual":
        same = stage.filters == channels
        other = nn.Identity() if same else nn.Conv2d(channels, stage.filters, 1, bias=False)
        return Residual(_conv(stage, channels, keeps=True), other, nn.Sequential(*_activation(stage)))
    if stage.block == "dense":
        return Joined(nn.Identity(), nn.Sequential(_conv(stage, channels, keeps=True), *_activation(stage)))
    if stage.block == "joined":
        paths = (_conv(stage, channels, keeps=True), nn.Conv2d(channels, 2, 1))
        return Joined(*(nn.Sequential(path, *_activation(stage)) for path in paths))
    conv = _conv(stage, channels)
    made = _after(conv, shape)
    norm = _norm(stage, made) if stage.block in {"normalised", "frozen"} else []
    pool = _pool(stage, made) if stage.block == "pooled" else []
    return nn.Sequential(conv, *norm, *_activation(stage), *pool)


def _norm(stage: Stage, shape: Shape) -> list[nn.Module]:
    filters = shape[0]
    if stage.block == "frozen":
        norm = Frozen(filters)
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.4, 1.5)
        return [norm]
    if math.prod(shape[1:]) < 2:
        return []
    kinds: tuple[Any, ...] = (
        nn.BatchNorm2d,
        lambda n: nn.GroupNorm(2 if n % 2 == 0 else 1, n),
        lambda n: nn.GroupNorm(1, n),
        lambda n: nn.InstanceNorm2d(n, affine=True),
    )
    norm = kinds[stage.variant](filters)
    nn.init.uniform_(norm.weight, 0.6, 1.4)
    nn.init.normal_(norm.bias, 0, 0.3)
    return [norm]


def _pool(stage: Stage, shape: Shape) -> list[nn.Module]:
    if min(shape[1:]) < 2:
        return []
    return [(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.MaxPool2d(2))[stage.variant]]


@torch.no_grad()
def _scale(model: nn.Module, recipe: Recipe, rng: np.random.Generator) -> None:
    """Give weights their size, biases theirs, and filters their defects."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        layer.weight *= recipe.scale
        if layer.bias is not None and recipe.defect == "no bias":
            layer.bias.zero_()
        if layer.bias is not None and recipe.defect == "large biases":
            layer.bias.normal_()
        if recipe.defect == "coarse":
            for values in layer.parameters():
                values.copy_((values * 8).round() / 4)  # twice as large, so that few of them are zero
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    if convolutions and recipe.defect in {"dead", "duplicated"}:
        layer = convolutions[int(rng.integers(len(convolutions)))]
        layer.weight[0] = 0.0 if recipe.defect == "dead" else layer.weight[-1]
        if layer.bias is not None:
            layer.bias[0] = -1.0 if recipe.defect == "dead" else layer.bias[-1]
    if layers and recipe.head == "zero" and layers[-1].bias is not None:
        layers[-1].bias.zero_()


def _trained(model: nn.Module, shape: Shape, recipe: Recipe) -> nn.Module:
    """Return the model after a few steps on noise; as it was, where these lead to infinity."""
    if not recipe.steps:
        return model
    before = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(recipe.steps):
        optimiser.zero_grad()
        model(torch.rand(4, *shape, dtype=torch.float64)).square().mean().backward()
        optimiser.step()
    finite = all(bool(torch.isfinite(p).all()) and float(p.abs().max()) < 1e6 for p in model.parameters())
    if recipe.head == "zero" and isinstance(model, nn.Sequential) and isinstance(model[-1], nn.Linear):
        nn.init.zeros_(model[-1].bias)
    return model if finite else before
