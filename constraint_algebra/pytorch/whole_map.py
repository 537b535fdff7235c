"""The map of the whole network for any PyTorch model, without a network, a layer or a matrix of all of its gradients.

At one input the gradient of the loss at the model's output is taken and held fixed. How all gradients then move with
the input comes from forward-over-reverse differentiation, a few input values at a time. Their rows are hashed to hardly
more than there are unknowns, each to several sums with random weights: nothing of the size of parameters times unknowns
is ever there. Rows can only lose rank by that, and with random weights they do so with a probability of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.linalg as la
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import NonFiniteError, ParameterError, ShapeError, ZeroGradientError
from constraint_algebra.notes import note
from constraint_algebra.numerics.null_space import right_vectors
from constraint_algebra.numerics.rows import gap_at, row_norms
from constraint_algebra.pytorch.gradients import Loss, check_loss, loss_value
from constraint_algebra.pytorch.models import logits
from constraint_algebra.pytorch.tensors import input_tensor, to_tensor
from constraint_algebra.pytorch.verification import CHUNK, along, doubled, refuse_unclear
from constraint_algebra.ranks.whole_map import FLOATS, RowsOfLayer, WholeMap

RTOL = 1e-11  # between 1e-5 and 4e-16 for a residual network, 9e-4 and 8e-16 for a convolutional one
TOLERANCE = 1e-7  # of the null space at a value that it leaves alone, as for local_uniqueness
UNSEEN = 1e-2  # of that share: what the rounding in a parameter's rows is kept below
NARROW = 1e3  # a gap below this factor is no gap
KEPT = 20_000_000  # entries of a Jacobian that needs no hashing, 160 MB
MOVED = 2**24  # entries of it at a time
SUMS = 4  # that each row goes to; a few more sums than rows then lose no rank (cuckoo hashing: 0.97 of them are filled)
PROBES = 4  # directions that tell the size of the gradients' movement
OUTPUT = "(output)"  # no parameter's name


class _Map(NamedTuple):
    """How gradients and output move: a function of one direction, the number of rows of each, and the input."""

    push: Callable[[Tensor], dict[str, Tensor]]
    rows: dict[str, int]
    x: Tensor


@checked
def torch_whole_map(
    model: nn.Module,
    input: ArrayLike | Tensor,  # noqa: A002 -- the word for it
    target: ArrayLike | Tensor,
    loss: Loss = "cross_entropy",
    *,
    rtol: float = RTOL,
    basis: bool = True,
    seed: int = 0,
) -> WholeMap:
    """Return the rank of the map from the input to all gradients of any model, and the input values that it determines.

    It is the Jacobian at one input with the gradient of the loss at the output held fixed, and with the rows of that
    gradient itself: for cross-entropy those of the logits up to a constant, which equal output gradients imply. Where
    a model is linear in pieces (ReLU, max-pool, batch normalisation in evaluation mode) this is the region's map; where
    it bends (attention, layer normalisation, Tanh) it speaks of a neighbourhood to first order. Which of both is not
    told from a model, so that `linear` is always false. Frozen parameters have no gradient, and no rows.

    Args:
        model: any model of `torch_gradients`, copied to float64; dropout in evaluation mode; normalisation
            in either, without what its buffers would tell.
        input: one sample without a batch axis.
        target: its class.
        loss: as for `torch_gradients`.
        rtol: singular values below this share of the largest count as zero; each parameter's rows are scaled to one
            size before.
        basis: whether to keep a basis of the null space.
        seed: of the hashing of rows, where there are too many to keep.

    Raises:
        ShapeError: a model that PyTorch cannot differentiate forwards, an input that it does not take, or more memory
            than there is.
        ParameterError: no parameter has a gradient, or a target is no class; a `ZeroGradientError` where the loss has
            no slope at this output.
        NonFiniteError: an input, an output or gradients that move by no finite amount.

    >>> model = nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(2, 2, dtype=torch.float64))
    >>> print(torch_whole_map(model, [[0.0, 1.0, 2.0, 3.0]], 1).conclusion)
    Rank 2 of 4 (in float64): 0 of 4 input values are determined in a neighbourhood, to first order.
    """
    check_loss(loss)
    moving = _held(doubled(model), input_tensor(input, "input"), to_tensor(target), loss)
    rtol, rows, unknowns = float(rtol), sum(moving.rows.values()), moving.x.numel()
    s, R = _spectrum(moving, rtol, seed)
    rank, size = _rank(s, rtol), s[0] or 1.0
    if not _clear(s, rtol):
        note(
            f"singular values lie close at the cut, {s[rank - 1] / size:.1e} counted and {s[rank] / size:.1e} not, and"
            f" the rank {rank} is that of rtol={rtol:.0e}"
        )
    null = right_vectors(R)[1][rank:].T if rank < unknowns else np.zeros((unknowns, 0))
    return WholeMap(
        determined=(row_norms(null) <= TOLERANCE).reshape(tuple(moving.x.shape)),
        rank=rank,
        linear=False,
        arithmetic=FLOATS,
        layers=(RowsOfLayer("all gradients and the output", rows, rank),),
        gap=gap_at(s / size, rank),
        basis=null if basis else None,
    )


def _spectrum(moving: _Map, rtol: float, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the singular values of the Jacobian, hashed where it is large, and a matrix with its null space."""
    scales = _scales(moving, seed)
    if sum(moving.rows.values()) * moving.x.numel() <= KEPT:
        return _singular(_all_rows(moving, scales))
    s, R = _singular(_hashed_rows(moving, scales, seed))
    if not _clear(s, rtol):  # rows hashed anew can only show more of the rank
        again, other = _singular(_hashed_rows(moving, scales, seed ^ 1))
        if (_rank(again, rtol), _width(again, rtol)) > (_rank(s, rtol), _width(s, rtol)):
            return again, other
    return s, R


def _held(exact: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> _Map:
    """Return how all gradients move with the input while the gradient at the output is held fixed, and how that does.

    It is known where a bias at the end has it for its gradient; otherwise that is said.
    """
    weights = {name: p.detach() for name, p in exact.named_parameters() if p.requires_grad}
    if not weights:
        raise ParameterError("model", "model: no parameter has a gradient; call model.requires_grad_(True)")
    still = {name: p.detach() for name, p in exact.named_parameters() if not p.requires_grad}
    still |= {name: b.detach().clone() for name, b in exact.named_buffers()}
    like = next(iter(weights.values()))
    x, y = x.to(like), y.to(like.device)
    if not x.numel():
        raise ShapeError(f"input has no values, its shape is {tuple(x.shape)}; give one sample")
    if not x.isfinite().all():
        index = tuple(int(i) for i in (~x.isfinite()).nonzero()[0])
        raise NonFiniteError("input", index, f"input is {float(x[index])} at {index}; give finite values")
    refuse_unclear(exact, x[None])

    def output(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        chosen: Tensor = logits(torch.func.functional_call(exact, {**weights, **still}, (image[None],)))[0]
        return chosen

    def at_output(z: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda z: loss_value(loss, z, y))(z)
        return found

    with torch.enable_grad():
        z: Tensor = logits(exact(x[None]))[0]
    if not z.isfinite().all():
        raise NonFiniteError("model", (), "model: the output of the model is not finite; give finite parameters")
    k = at_output(z.detach())
    if not k.any():
        raise ZeroGradientError(
            "target", "the gradient of the loss at the output is zero, and so is every gradient; give another target"
        )

    def gradients(image: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.func.grad(lambda weights: (k * output(weights, image)).sum())(weights)
        return found

    def rows(image: Tensor) -> dict[str, Tensor]:
        moved = output(weights, image)
        if loss == "cross_entropy":  # its gradient fixes the logits up to a constant, however small it is
            moved = moved - moved.mean(dim=1, keepdim=True)
        elif loss != "logistic":
            moved = at_output(moved)
        return {**gradients(image), OUTPUT: moved}

    def push(direction: Tensor) -> dict[str, Tensor]:
        moved: dict[str, Tensor] = torch.func.jvp(rows, (x,), (direction,))[1]
        return moved

    _say_unless_shown(exact, z, k)
    return _Map(push, {**{name: p.numel() for name, p in weights.items()}, OUTPUT: z.numel()}, x)


def _say_unless_shown(exact: nn.Module, z: Tensor, k: Tensor) -> None:
    """Say that the gradient at the output is taken as known, unless it is that of a bias."""
    if not z.requires_grad:
        raise ParameterError("model", "model: the output depends on no parameter that has a gradient; give another")
    found = torch.autograd.grad((k * z).sum(), [p for p in exact.parameters() if p.requires_grad], allow_unused=True)
    if not any(g is not None and g.numel() == k.numel() and torch.allclose(g.ravel(), k.ravel()) for g in found):
        note("no bias has the gradient at the output for its own, and that is taken as known all the same")


def _scales(moving: _Map, seed: int) -> dict[str, float]:
    """Return for each parameter what brings the movement of its gradient to one size; 0 where it does not move.

    Some gradients are zero by what follows: a bias before a normalisation by its own statistics, that of the keys in
    attention. Their movement is rounding, which must not count as rows: it is no linear function of the direction.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(PROBES, *moving.x.shape, generator=generator, dtype=torch.float64).to(moving.x)
    found, thrice = along(moving.push, directions), along(moving.push, 3 * directions)
    sizes = {}
    for name, moved in found.items():
        norm, noise = (float(torch.linalg.vector_norm(v)) for v in (moved, thrice[name] - 3 * moved))
        if not np.isfinite(norm):
            raise NonFiniteError(
                name, (), f"the gradient of {name} moves with the input by no finite amount; give finite values"
            )
        sizes[name] = max(norm, noise / (UNSEEN * RTOL))
    return {name: 1 / size if size else 0.0 for name, size in sizes.items()}


def _columns(moving: _Map, scales: dict[str, float]) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Yield columns of the Jacobian, some at a time, as one matrix for each parameter."""
    unknowns = moving.x.numel()
    step = max(1, min(CHUNK, MOVED // sum(moving.rows.values())))
    for a in range(0, unknowns, step):
        count = min(step, unknowns - a)
        directions = torch.zeros(count, unknowns).to(moving.x)
        directions[range(count), range(a, a + count)] = 1.0
        moved = along(moving.push, directions.reshape(count, *moving.x.shape))
        yield slice(a, a + count), {name: scales[name] * v.reshape(-1, count) for name, v in moved.items()}


def _all_rows(moving: _Map, scales: dict[str, float]) -> FloatArray:
    rows, unknowns = sum(moving.rows.values()), moving.x.numel()
    memory.demand("the Jacobian of all gradients", 16.0 * rows * unknowns + 24.0 * unknowns**2, "take a smaller input")
    J = np.empty((rows, unknowns))
    for columns, moved in _columns(moving, scales):
        J[:, columns] = torch.cat([moved[name] for name in moving.rows]).cpu().numpy()
    return J


def _hashed_rows(moving: _Map, scales: dict[str, float], seed: int) -> FloatArray:
    """Return random sums of the rows, a quarter more than there are unknowns: each row in a few of them."""
    rows, unknowns = sum(moving.rows.values()), moving.x.numel()
    sums = unknowns + unknowns // 4 + 64
    memory.demand(
        f"the Jacobian in {unknowns:,} input values, its rows hashed to {sums:,},",
        16.0 * sums * unknowns + 24.0 * unknowns**2 + 8.0 * SUMS * rows,
        "take a smaller input",
    )
    generator = torch.Generator().manual_seed(seed)
    places, weights = {}, {}
    for name, count in moving.rows.items():
        places[name] = torch.randint(sums, (SUMS, count), generator=generator, dtype=torch.int32).to(moving.x.device)
        weights[name] = torch.randn(SUMS, count, generator=generator, dtype=torch.float32).to(moving.x.device)
    hashed = np.empty((sums, unknowns))
    for columns, moved in _columns(moving, scales):
        found = torch.zeros(sums, columns.stop - columns.start).to(moving.x)
        for name, values in moved.items():
            for place, weight in zip(places[name], weights[name], strict=True):
                found.index_add_(0, place, values * weight[:, None])
        hashed[:, columns] = found.cpu().numpy()
    return hashed


def _singular(J: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a singular value for each unknown, and a matrix with these and their vectors of no more rows than that."""
    R = J
    if len(J) > J.shape[1]:
        R = np.asarray(la.qr(J, mode="r", overwrite_a=True)[0][: J.shape[1]])
    s = np.asarray(la.svdvals(R), dtype=float)
    return np.pad(s, (0, R.shape[1] - len(s))), R


def _rank(s: FloatArray, rtol: float) -> int:
    return int(np.count_nonzero(s > rtol * s[0]))


def _width(s: FloatArray, rtol: float) -> float:
    """Return by which factor the last singular value that counts exceeds the first that does not."""
    last, first = gap_at(s, _rank(s, rtol))
    return last / first if first > 0 else np.inf


def _clear(s: FloatArray, rtol: float) -> bool:
    return not _width(s, rtol) < NARROW
