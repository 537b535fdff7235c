"""How all gradients of a graph move with the input at a fixed gradient of the logits, by automatic differentiation."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from constraint_algebra.arrays import FloatArray
from tests.graph_cases import Case


def tensors(case: Case) -> dict[str, Tensor]:
    """Parameters and buffers as PyTorch wants them."""
    return {name: torch.tensor(array) for name, array in case.parameters.items()}


def head_gradient(case: Case, x: FloatArray, label: int) -> Tensor:
    """The gradient of cross-entropy at the logits."""
    k = torch.softmax(case.function(tensors(case), torch.tensor(x)), 0)
    k[label] -= 1
    return k


def gradients(case: Case, x: FloatArray, label: int) -> dict[str, FloatArray]:
    """The gradient of cross-entropy for every parameter."""
    given = tensors(case)
    trained = {name: given[name].requires_grad_() for name in case.network.parameter_shapes}
    logits = case.function(given, torch.tensor(x))
    loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([label]))
    found = torch.autograd.grad(loss, list(trained.values()))
    return {name: g.numpy() for name, g in zip(trained, found, strict=True)}


def largest_difference(case: Case, x: FloatArray, other: FloatArray, label: int) -> float:
    """The largest difference of any gradient at two inputs, relative to the largest entry of its tensor."""
    one, two = gradients(case, x, label), gradients(case, other, label)
    return max(float(np.abs(one[n] - two[n]).max() / max(np.abs(one[n]).max(), 1e-300)) for n in one)


def jacobian(case: Case, x: FloatArray, k: Tensor) -> FloatArray:
    """The derivative of all gradients of `k · logits`, and of the logits up to a constant."""
    given = tensors(case)
    trained = [given[name].requires_grad_() for name in case.network.parameter_shapes]
    image = torch.tensor(x, requires_grad=True)
    logits = case.function(given, image)
    found = torch.autograd.grad((logits * k).sum(), trained, create_graph=True)
    rows = torch.cat([*(g.reshape(-1) for g in found), logits - logits.mean()])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*")  # what PyTorch does one by one
        every = torch.eye(len(rows), dtype=torch.float64)
        (J,) = torch.autograd.grad(rows, image, every, is_grads_batched=True)
    return J.reshape(-1, x.size).numpy()


def rank_and_determined(J: FloatArray) -> tuple[int, FloatArray, float]:
    """The rank of unit rows, the norm that each unknown has in the kernel, and the gap at the cut."""
    n, sizes = J.shape[1], np.linalg.norm(J, axis=1)
    J = J[sizes > 1e-13 * sizes.max(initial=0.0)]
    J = J / np.linalg.norm(J, axis=1, keepdims=True)
    if len(J) > n:
        J = np.linalg.qr(J, mode="r")
    s, vectors = np.linalg.svd(J)[1:] if len(J) else (np.zeros(0), np.eye(n))
    rank = int(np.count_nonzero(s > 1e-10 * s.max(initial=0.0)))
    below = float(s[rank]) if rank < len(s) else 0.0
    return rank, np.linalg.norm(vectors[rank:], axis=0), float(s[rank - 1] / max(below, 1e-17)) if rank else np.inf
