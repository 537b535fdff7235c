"""Automatic differentiation in float64: gradients anew, and how all that is seen moves with the input."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd

from constraint_algebra.arrays import BoolArray, FloatArray
from tests.hunt.subjects import Subject, square
from tests.whole_map_oracle import rank_and_determined

CLEAR = 1e5  # a last singular value so many times the next one leaves no doubt about the rank
EMPTY = 1e-12  # rows so small beside the largest are none


def gradients(subject: Subject, x: FloatArray) -> dict[str, FloatArray]:
    """The gradient of every parameter at an input, by the model's own names."""
    model = copy.deepcopy(subject.model)
    found = torch.autograd.grad(_loss(subject, model(torch.tensor(x)[None])), list(model.parameters()))
    return {name: g.numpy() for (name, _), g in zip(model.named_parameters(), found, strict=True)}


def apart(one: dict[str, FloatArray], other: dict[str, FloatArray]) -> float:
    """How far gradients are apart, relative to the largest entry of the largest; infinite where they are not finite."""
    size = max((float(np.abs(g).max()) for g in one.values()), default=0.0) or 1.0
    largest = max(float(np.abs(g - other[name]).max()) / size for name, g in one.items())
    return largest if np.isfinite(largest) else np.inf


def jacobian(subject: Subject) -> FloatArray:
    """How gradients, outputs and shared statistics move at the true input, `(rows, values)`; rows of unit length.

    Outputs count as seen at a fixed gradient of the loss, which the head gives away.
    """
    model, noted = _without_memory(subject)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def seen(x: Tensor) -> Tensor:
        noted.clear()
        output = functional_call(model, parameters, (x[None],))[0]
        statistics = list(noted)
        found = grad(lambda p: _loss(subject, functional_call(model, p, (x[None],))))(parameters)
        outputs = output if subject.recipe.loss == "square" or len(output) == 1 else output - output.mean()
        everything = [*found.values(), outputs, *(statistics if subject.buffers is not None else ())]
        return torch.cat([values.reshape(-1) for values in everything])

    with warnings.catch_warnings():
        # PyTorch compiles its own rules on the first use, and says what it does one by one.
        warnings.simplefilter("ignore")
        flat = jacfwd(seen)(torch.tensor(subject.x)).reshape(-1, subject.x.size).numpy()
    sizes = np.linalg.norm(flat, axis=1)
    some = sizes > EMPTY * sizes.max(initial=1e-300)
    return np.asarray(flat[some] / sizes[some, None])


def determined(subject: Subject) -> tuple[BoolArray, bool]:
    """Which values stand still where nothing that is seen moves, and whether the singular values leave no doubt."""
    _, still, clear = rank_and_determined(jacobian(subject))
    return still.reshape(subject.x.shape), clear > CLEAR


def _loss(subject: Subject, output: Tensor) -> Tensor:
    if subject.recipe.loss == "square":
        return square(output, torch.tensor(subject.target))
    if subject.recipe.loss == "logistic":
        wanted = torch.full_like(output[:, 0], float(subject.target))
        return nn.functional.binary_cross_entropy_with_logits(output[:, 0], wanted)
    return nn.functional.cross_entropy(output, torch.tensor([subject.target]))


def _without_memory(subject: Subject) -> tuple[nn.Module, list[Tensor]]:
    """The model, in which no batch norm in training mode writes its statistics down, and a list where these appear."""
    model, noted = copy.deepcopy(subject.model), list[Tensor]()
    for module in model.modules():
        if getattr(module, "track_running_stats", False) and module.training:
            module.register_forward_hook(partial(_note, noted))
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model, noted


def _note(noted: list[Tensor], _: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
    noted += [inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))]
