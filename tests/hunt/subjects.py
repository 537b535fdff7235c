"""The case itself: network, parameters and gradients as an observer has them, and the truth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.notes import collected
from constraint_algebra.pytorch.gradients import to_numpy
from tests.hunt.models import Written, made
from tests.hunt.pictures import OUTSIDE, picture
from tests.hunt.recipes import Recipe

Loss = str | Callable[[Tensor, Tensor], Tensor]


class NoCaseError(Exception):
    """What was drawn has no gradient: numbers that overflow, a layer that PyTorch refuses."""


@dataclass(frozen=True)
class Subject:
    """One case: what the observer gets, and what only the judges know.

    Attributes:
        network, parameters, gradients, buffers: what the observer has; `buffers` is `None` where they are not shared.
        model: in float64 with the parameters as the observer has them.
        x: the true input, as the client's precision has it.
        target: the label, or the outputs that the square loss wants.
    """

    recipe: Recipe
    network: ca.Network
    parameters: Mapping[str, Any]
    gradients: Mapping[str, Any]
    buffers: Mapping[str, Any] | None
    model: nn.Module
    x: FloatArray
    target: Any

    @property
    def valid_range(self) -> tuple[float, float]:
        """The range that the observer may trust."""
        return (-np.inf, np.inf) if self.recipe.picture in OUTSIDE else (0.0, 1.0)

    @property
    def loss(self) -> Loss:
        """The loss as `torch_gradients` takes it."""
        return square if self.recipe.loss == "square" else self.recipe.loss

    def reconstruct(self) -> ca.Reconstruction:
        """What the library makes of it."""
        return ca.reconstruct(
            self.network,
            self.parameters,
            self.gradients,
            buffers=self.buffers,
            loss=None if self.recipe.loss == "square" else self.recipe.loss,
            valid_range=self.valid_range,
            batch=1,
            search=self.recipe.search,
        )


def subject(recipe: Recipe) -> Subject:
    """Return the case of a recipe.

    Raises:
        NoCaseError: there is no finite gradient in its precision.
    """
    rng, dtype = np.random.default_rng([13, recipe.seed]), getattr(torch, recipe.precision)
    loss = square if recipe.loss == "square" else recipe.loss
    try:
        model, shape = made(recipe)
        x = picture(recipe.picture, shape, rng)
        target = _target(recipe, model, x, rng)
    except (RuntimeError, ValueError) as error:  # a normalisation of one value, say
        raise NoCaseError(str(error)) from error
    client = copy.deepcopy(model).to(dtype)  # what it is in its precision, all else starts from
    model = copy.deepcopy(client).double()
    # What graphs of other tests do is written in float64: their gradients are rounded once at the end.
    taken = model if isinstance(model, Written) else client
    x = torch.tensor(x).to(dtype).double().numpy()
    try:
        gradients, after = ca.torch_gradients(taken, x, target, loss, buffers=True)
    except (RuntimeError, ca.ConstraintAlgebraError) as error:
        raise NoCaseError(str(error)) from error
    gradients = {name: torch.tensor(np.asarray(g, float)).to(dtype) for name, g in gradients.items()}
    shared = [*gradients.values(), *(torch.as_tensor(np.asarray(values, float)) for values in after.values())]
    if not all(bool(torch.isfinite(values).all()) for values in shared):
        raise NoCaseError("a gradient or a statistic that is not finite")
    network, state = _read(client, shape)
    tracked = bool(network.tracked_shapes) and recipe.buffers
    return Subject(
        recipe,
        network,
        _handed(state, recipe),
        _handed(_named(client, gradients), recipe),
        {name: after[name] for name in network.tracked_shapes} if tracked else None,
        model,
        x,
        target,
    )


def square(output: Tensor, target: Tensor) -> Tensor:
    """The mean square error."""
    return (output.reshape(-1) - target.reshape(-1)).square().mean()


def _target(recipe: Recipe, model: nn.Module, x: FloatArray, rng: np.random.Generator) -> Any:
    with torch.no_grad():
        outputs = copy.deepcopy(model)(torch.tensor(x)[None]).numel()
    if recipe.loss == "square":
        return rng.standard_normal((1, outputs))
    return int(rng.integers(2 if recipe.loss == "logistic" else outputs))


def _read(client: nn.Module, shape: tuple[int, ...]) -> tuple[ca.Network, dict[str, Tensor]]:
    if isinstance(client, Written):
        held = {**dict(client.named_parameters()), **dict(client.named_buffers())}
        return client.case.network, {name.replace("__", "."): values.detach() for name, values in held.items()}
    with collected():
        network, state = ca.from_torch(client, shape)
    return network, {name: torch.tensor(np.asarray(values, float)).to(_kind(client)) for name, values in state.items()}


def _kind(client: nn.Module) -> torch.dtype:
    return next(client.parameters()).dtype


def _named(client: nn.Module, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("__", "."): g for name, g in gradients.items()} if isinstance(client, Written) else gradients


def _handed(tensors: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Any]:
    return {name: t if recipe.handed == "torch" else to_numpy(t) for name, t in tensors.items()}
