"""Other inputs with the same gradients, by trying all over the valid range.

A value that equations or the range determine has no other value in any valid input with these gradients. Starts are
drawn at random, so many that they lie on every side of the kinks that few values have, and from each the gradients,
which automatic differentiation gives in float64, are fitted by damped least squares. What comes of it is another input
only if every entry of every gradient is the same there to ten digits, and those that are zero are zero. A search that
finds nothing proves nothing; what it finds is a proof.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from constraint_algebra.arrays import BoolArray, FloatArray
from tests.hunt import oracle
from tests.hunt.subjects import Subject

FAR = 1e-3  # of the largest value: another input, not the same once more
ENOUGH = 12  # inputs that are compared entry by entry
MOST = 6  # input values up to which starts at random reach everywhere
STARTS, STEPS = 32, 20
STEP = 1e-7  # between two gradients whose difference is a slope
DONE, STANDS = 1e-26, 1.0  # squared misfit of a start that is there; damping of one that goes nowhere
NEAR = 1e-8  # a misfit below which gradients are compared entry by entry
SAME = 1e-10  # entries of gradients so close, relative to themselves, are the same
ROUNDED = 1e-14  # of the largest entry of a gradient, which sums leave of what cancels


def applies(subject: Subject) -> bool:
    """Whether a case has few values, in float64, and no statistics of its own that a client could share."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    plain = not any(isinstance(module, norms) for module in subject.model.modules())
    return subject.x.size <= MOST and subject.recipe.precision == "float64" and plain


def other_inputs(subject: Subject) -> list[FloatArray]:
    """Valid inputs with the same gradients as the true one that differ from it, some of them, if there are any."""
    far = FAR * float(np.abs(subject.x).max())
    found = [x for x in _fitted(subject, _starts(subject)) if np.abs(x - subject.x).max() > far]
    given = oracle.gradients(subject, subject.x)
    return [x for x in found[:ENOUGH] if same(given, oracle.gradients(subject, x))]


def same(given: dict[str, FloatArray], found: dict[str, FloatArray]) -> bool:
    """Whether gradients are equal, entry by entry."""
    return all(
        bool((np.abs(found[name] - g) <= SAME * np.abs(g) + ROUNDED * np.abs(g).max() * (g != 0)).all())
        for name, g in given.items()
    )


def sides(subject: Subject, x: FloatArray) -> BoolArray:
    """On which piece every activation works, one row for each end of a piece of any."""
    seen = list[Tensor]()
    kinked = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.ELU, nn.SELU, nn.Hardswish, nn.Softsign)
    hooks = [
        module.register_forward_hook(lambda _, given, __: seen.append(given[0].reshape(-1)))
        for module in subject.model.modules()
        if isinstance(module, kinked)
    ]
    try:
        with torch.no_grad():
            subject.model(torch.tensor(x)[None])
    finally:
        for hook in hooks:
            hook.remove()
    values = torch.cat([*seen, torch.zeros(0)]).numpy()
    return np.asarray([values > end for end in (0.0, 6.0, -1.0, 1.0, -3.0, 3.0)])


def _starts(subject: Subject) -> FloatArray:
    rng = np.random.default_rng([15, subject.recipe.seed])
    low, high = subject.valid_range
    if not np.isfinite(high - low):
        return rng.standard_normal((STARTS, subject.x.size)) * 2
    return low + (high - low) * rng.random((STARTS, subject.x.size))


def _fitted(subject: Subject, starts: FloatArray) -> list[FloatArray]:
    """From every start the input within the range whose gradients fit best, by damped least squares."""
    parameters = {name: p.detach() for name, p in subject.model.named_parameters()}

    def seen(x: Tensor) -> Tensor:
        def loss(given: dict[str, Tensor]) -> Tensor:
            return oracle._loss(subject, functional_call(subject.model, given, (x.reshape(1, *subject.x.shape),)))

        return torch.cat([g.reshape(-1) for g in grad(loss)(parameters).values()])

    each, moves = vmap(seen), np.concatenate([np.zeros((1, subject.x.size)), STEP * np.eye(subject.x.size)])
    given = seen(torch.tensor(subject.x.reshape(-1))).numpy()
    ends = np.cumsum([p.numel() for p in parameters.values()])
    sizes = np.concatenate([np.full(len(g), np.abs(g).max(initial=0.0) or 1.0) for g in np.split(given, ends[:-1])])

    def misfit(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch compiles its own rules on the first use, and says so
            found = each(torch.tensor((points[:, None] + moves).reshape(-1, subject.x.size))).numpy()
        values, *moved = found.reshape(len(points), len(moves), -1).transpose(1, 0, 2)
        slopes = np.stack([m - values for m in moved], -1) / STEP
        return (values - given) / sizes, slopes / sizes[:, None]

    return [x.reshape(subject.x.shape) for x in _descended(misfit, starts, subject.valid_range)]


def _descended(
    misfit: Callable[[FloatArray], tuple[FloatArray, FloatArray]], points: FloatArray, within: tuple[float, float]
) -> FloatArray:
    """Levenberg and Marquardt's method from all starts at once; what leaves the range stays at its end."""
    damping, there = np.full(len(points), 1e-2), list[FloatArray]()
    errors, slopes = misfit(points)
    for _ in range(STEPS):
        cost = (errors**2).sum(1)
        normal = np.einsum("smi,smj->sij", slopes, slopes)
        size = np.trace(normal, axis1=1, axis2=2) + 1e-300
        normal += (damping * size)[:, None, None] * np.eye(points.shape[1])
        step = np.linalg.solve(normal, np.einsum("smi,sm->si", slopes, errors)[..., None])[..., 0]
        tried = np.clip(points - step, *within)
        new_errors, new_slopes = misfit(tried)
        better = (new_errors**2).sum(1) < cost
        points = np.where(better[:, None], tried, points)
        errors = np.where(better[:, None], new_errors, errors)
        slopes = np.where(better[:, None, None], new_slopes, slopes)
        damping = np.where(better, np.maximum(damping / 10, 1e-14), damping * 10)
        cost = (errors**2).sum(1)
        there.extend(points[cost < DONE])
        going = (cost >= DONE) & (damping < STANDS)
        points, errors, slopes, damping, cost = (a[going] for a in (points, errors, slopes, damping, cost))
        if not len(points):
            return np.array(there).reshape(-1, tried.shape[1])
    return np.concatenate([np.array(there).reshape(-1, tried.shape[1]), points[cost < NEAR**2]])
