"""Real PyTorch gradients as the judge: are those of a twin equal, and how do gradients move with the input?"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.pytorch.gradients import Loss, check_loss, loss_value, torch_gradients
from constraint_algebra.pytorch.models import logits, outputs, refuse_features_first, say_which, unwrapped
from constraint_algebra.pytorch.norm_modules import without_moving
from constraint_algebra.pytorch.tensors import input_tensor, to_numpy, to_tensor

if TYPE_CHECKING:
    import pandas as pd


Model = nn.Module

TOLERANCE = 1e-10  # relative to the largest gradient
ENTRIES = 150_000_000  # of a Jacobian, 1.2 GB
CHUNK = 64  # directions at a time


@checked
@dataclass(frozen=True)
class TwinVerification:
    """How far the gradients of two inputs are apart.

    Attributes:
        absolute: for each parameter the largest absolute difference of its float64 gradients.
        relative: the same, relative to the largest entry of that parameter's gradient; 0 where both are zero.
        largest: largest entry of all gradients.
        tolerance: largest absolute difference, relative to `largest`, at which gradients count as equal.
        change: largest absolute difference of the inputs.
        bit_identical_float32: whether the gradients of both inputs, computed in float32, agree in every bit.
    """

    absolute: dict[str, float]
    relative: dict[str, float]
    largest: float
    tolerance: float
    change: float
    bit_identical_float32: bool

    @property
    def difference(self) -> float:
        """Largest difference of any gradient, relative to the largest gradient."""
        return max(self.absolute.values()) / (self.largest or 1.0)

    @property
    def equal(self) -> bool:
        """Whether all float64 gradients agree to the tolerance."""
        return self.difference <= self.tolerance

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per parameter."""
        import pandas as pd

        columns = {"parameter": list(self.absolute), "absolute": self.absolute.values()}
        return pd.DataFrame({**columns, "relative": self.relative.values()})

    def __repr__(self) -> str:
        """Return the verdict in one line."""
        verdict = "equal" if self.equal else "NOT equal"
        bits = "identical" if self.bit_identical_float32 else "not identical"
        return (
            f"<TwinVerification: inputs differ by {self.change:.3g}, gradients {verdict} ({self.difference:.1e} of the"
            f" largest, tolerance {self.tolerance:.0e}), in float32 {bits} bit by bit>"
        )


@checked
def verify_twin(
    model: nn.Module,
    input: ArrayLike | Tensor,  # noqa: A002 -- the word for it
    twin: ArrayLike | Tensor,
    target: ArrayLike | Tensor,
    loss: Loss = "cross_entropy",
    *,
    tolerance: float = TOLERANCE,
) -> TwinVerification:
    """Return how far apart the real gradients of an input and its twin are, in float64, and whether in float32 at all.

    The model is copied, and stays as it is.

    Args:
        model: any model of `torch_gradients`.
        input: one sample.
        twin: another of the same shape.
        target: the class of both.
        loss: as for `torch_gradients`.
        tolerance: difference, relative to the largest gradient, at which gradients count as equal.

    Raises:
        ShapeError: inputs of different shapes; and what `torch_gradients` raises.

    >>> model = nn.Linear(2, 2, dtype=torch.float64)
    >>> same = verify_twin(model, [0.25, 0.5], [0.25, 0.5], 1)
    >>> same.equal, same.bit_identical_float32, same.difference
    (True, True, 0.0)
    """
    x, other = (to_numpy(input_tensor(v, name).double()) for v, name in ((input, "input"), (twin, "twin")))
    if x.shape != other.shape:
        raise ShapeError(f"input and twin must have the same shape, got {x.shape} and {other.shape}")
    model = unwrapped(model)
    exact, coarse = doubled(model), copy.deepcopy(model).float()
    first, second = (torch_gradients(exact, values, target, loss) for values in (x, other))
    absolute = {name: float(np.abs(first[name] - second[name]).max()) for name in first}
    sizes = {name: float(np.abs(values).max()) for name, values in first.items()}
    bits = [torch_gradients(coarse, values, target, loss) for values in (x, other)]
    return TwinVerification(
        absolute=absolute,
        relative={name: value / (sizes[name] or 1.0) for name, value in absolute.items()},
        largest=max(sizes.values()),
        tolerance=tolerance,
        change=float(np.abs(x - other).max(initial=0.0)),
        bit_identical_float32=all(bits[0][name].tobytes() == bits[1][name].tobytes() for name in bits[0]),
    )


def doubled(model: Model) -> Model:
    """Return a copy of a model in float64, in its mode, without the buffers that a step in that mode only moves."""
    return without_moving(copy.deepcopy(unwrapped(model)).double())


@checked
def gradient_jacobian(
    model: nn.Module,
    input: ArrayLike | Tensor,  # noqa: A002
    target: ArrayLike | Tensor,
    loss: Loss = "cross_entropy",
) -> dict[str, FloatArray]:
    """Return how the gradient of every parameter moves with the input, by forward-over-reverse differentiation.

    Its rank decides locally: of full column rank, no other input nearby has the same gradients; a null vector is a
    direction along which they do not move to first order. ReLU's kinks count as their derivative there.

    Args:
        model: the model, with its own dtype copied to float64.
        input: one sample without a batch axis.
        target: its class.
        loss: as for `torch_gradients`.

    Returns:
        For each parameter an array of shape `(*parameter_shape, *input_shape)`.

    Raises:
        ShapeError: more entries than memory holds at ease, or a model that PyTorch cannot differentiate forwards.

    >>> model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> _ = nn.init.constant_(model.weight, 2.0)
    >>> square = lambda output, target: ((output - target) ** 2).sum()     # L = (2x)², dL/dw = 4x², slope 8x
    >>> gradient_jacobian(model, [3.0], torch.zeros(1, 1), square)["weight"].ravel()
    array([24.])
    """
    check_loss(loss)
    exact = doubled(model)
    parameters = {name: p.detach() for name, p in exact.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in exact.named_buffers()}
    x, y = input_tensor(input, "input").double(), to_tensor(target)
    if not x.numel():
        raise ShapeError(f"input has no values, its shape is {tuple(x.shape)}; give one sample")
    entries = sum(p.numel() for p in parameters.values()) * x.numel()
    if entries > ENTRIES:
        raise ShapeError(f"the Jacobian would have {entries:,} entries, more than {ENTRIES:,}; verify_twin needs none")

    refuse_unclear(exact, x[None])

    memory.demand(f"the Jacobian, {entries:,} entries,", 16.0 * entries, "verify_twin needs none")

    def value(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        everything: Any = torch.func.functional_call(exact, {**weights, **buffers}, (image[None],))
        return loss_value(loss, logits(everything)[0], y)

    def push(direction: Tensor) -> dict[str, Tensor]:
        gradient = torch.func.grad(value)
        moved: dict[str, Tensor] = torch.func.jvp(lambda image: gradient(parameters, image), (x,), (direction,))[1]
        return moved

    directions = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    moved = along(push, directions)
    return {name: to_numpy(values.reshape(*parameters[name].shape, *x.shape)) for name, values in moved.items()}


def refuse_unclear(model: Model, batch: Tensor) -> None:
    """Refuse an input that the model does not take, and outputs of which it is unclear which are the logits."""
    with torch.enable_grad():
        try:
            everything = model(batch)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ShapeError(
                f"the model does not take the input as a batch of shape {tuple(batch.shape)}: {error}"
            ) from error
        chosen, words = logits(everything)
        refuse_features_first(everything, chosen, [p for p in model.parameters() if p.requires_grad])
    say_which(words, len(outputs(everything)))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Take attention by the formulas for a while: its fused kernels have no forward derivative."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whole encoder layers
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def along(push: Callable[[Tensor], dict[str, Tensor]], directions: Tensor) -> dict[str, Tensor]:
    """Return how all gradients move along many directions, these along a last axis.

    Args:
        push: how they move along one.
        directions: one for each entry of the first axis.

    Raises:
        ShapeError: PyTorch cannot differentiate the model forwards.
    """
    try:
        with plain_attention(), warnings.catch_warnings():
            # PyTorch compiles its own rules on the first use, by a function that it calls deprecated.
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
            moved: dict[str, Tensor] = torch.func.vmap(push, chunk_size=CHUNK)(directions)
    except (RuntimeError, NotImplementedError) as error:
        raise ShapeError(
            f"PyTorch cannot differentiate this model forwards ({str(error).splitlines()[0]}); if dropout in training"
            " mode is the cause, model.eval() gives the step without; verify_twin needs no Jacobian"
        ) from error
    # Not by out_dims: PyTorch reads past the sizes of a gradient that does not move at all.
    return {name: values.movedim(0, -1) for name, values in moved.items()}
