"""Real gradients from PyTorch, and a `Network` as a PyTorch model with parameters.

Models are taken as they are: `tracing` is what reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import ParameterError, ShapeError, UnknownNameError
from constraint_algebra.layers.activations import PReLU
from constraint_algebra.layers.normalisation import BUFFERS, COUNTER
from constraint_algebra.networks.network import Network, NetworkLike
from constraint_algebra.notes import note
from constraint_algebra.pytorch.models import (
    logits,
    outputs,
    refuse_features_first,
    refuse_without_values,
    say_which,
    unwrapped,
)
from constraint_algebra.pytorch.modules import module_of
from constraint_algebra.pytorch.norm_modules import evaluated
from constraint_algebra.pytorch.tensors import input_tensor, to_numpy, to_tensor

Loss = str | Callable[[Tensor, Tensor], Tensor]

_DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
_LOSSES = ("cross_entropy", "logistic")
_INITS = ("uniform", "default")


@overload
def torch_gradients(
    model: nn.Module,
    inputs: ArrayLike | Tensor,
    target: ArrayLike | Tensor,
    loss: Loss = ...,
    *,
    buffers: Literal[False] = ...,
) -> Arrays: ...


@overload
def torch_gradients(
    model: nn.Module,
    inputs: ArrayLike | Tensor,
    target: ArrayLike | Tensor,
    loss: Loss = ...,
    *,
    buffers: Literal[True],
) -> tuple[Arrays, Arrays]: ...


@checked
def torch_gradients(
    model: nn.Module,
    inputs: ArrayLike | Tensor,
    target: ArrayLike | Tensor,
    loss: Loss = "cross_entropy",
    *,
    buffers: bool = False,
) -> Arrays | tuple[Arrays, Arrays]:
    """Return the gradient of the loss for every parameter, under the names and in the dtypes of the parameters.

    The model keeps its `.grad` fields, its buffers and its training or evaluation mode, whose gradients these are: in
    training mode batch norm takes the statistics of the samples themselves. Wrappers and further outputs are accepted
    and said as by `from_torch`; a parameter that the loss does not depend on has no gradient and is left out, and said.

    Args:
        model: any model, supported by `from_torch` or not.
        inputs: one sample with or without a batch axis, or a batch, whose mean loss counts; cast to the model's dtype.
        target: one class per sample; for "logistic" 0 or 1; for a callable whatever it takes, passed on as a tensor.
        loss: "cross_entropy", "logistic" (one output, binary cross-entropy with logits), or a function of output and
            target that returns a scalar tensor.
        buffers: whether to return the buffers as well that the model has after the step, as its `state_dict()` then
            has them: running statistics that batch norm in training mode moves, which a client may send along.

    Raises:
        UnknownNameError: the loss is none of those.
        ParameterError: parameters are frozen, without values, or none is used; or a target is no class of the model.
        ShapeError: inputs, targets and model do not fit each other, or the inputs are 8-bit integers.

    >>> model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    >>> _ = nn.init.zeros_(model.weight)
    >>> torch_gradients(model, [1.0, 4.0], 0)
    {'weight': array([[-0.5, -2. ],
           [ 0.5,  2. ]])}
    """
    check_loss(loss)
    model = unwrapped(model)
    refuse_without_values(model)
    parameters = _trained(model)
    like = next(iter(parameters.values()))
    x = input_tensor(inputs, "inputs").to(like)
    y = to_tensor(target).to(like.device)
    with torch.enable_grad():
        everything, after = _output(model, x, batched=isinstance(loss, str) and y.numel() > 1)
        output, words = logits(everything)
        refuse_features_first(everything, output, list(parameters.values()))
        value = loss_value(loss, output, y)
        if not value.requires_grad:
            names = ", ".join(parameters)
            raise ParameterError(
                next(iter(parameters)), f"the loss depends on no parameter of the model, none of {names}"
            )
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    say_which(words, len(outputs(everything)))
    gradients = {name: to_numpy(g) for name, g in zip(parameters, found, strict=True) if g is not None}
    unused = [name for name in parameters if name not in gradients]
    if unused:
        note(f"the loss does not depend on {', '.join(unused)}: parameters without a gradient, left out here")
    return (gradients, {name: to_numpy(buffer) for name, buffer in after.items()}) if buffers else gradients


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model by name; refuse a model without any, or with frozen ones."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ShapeError("the model has no parameters and therefore no gradient; pass a model with a weight")
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if frozen:
        raise ParameterError(
            frozen[0],
            f"frozen parameters have no gradient: {', '.join(frozen)}; call model.requires_grad_(True), which changes "
            "no gradient of the others",
        )
    return parameters


def check_loss(loss: Loss) -> None:
    """Raise `UnknownNameError` for a name that is no loss."""
    if isinstance(loss, str) and loss not in _LOSSES:
        raise UnknownNameError(f"no loss is called {loss!r}; use {' or '.join(map(repr, _LOSSES))}, or pass a function")


def loss_value(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Return the loss of a batch of outputs as one number."""
    if isinstance(loss, str):
        return _named_loss(loss, output, target.reshape(-1))
    return _own_loss(loss, output, target)


def _output(model: nn.Module, x: Tensor, *, batched: bool) -> tuple[object, dict[str, Tensor]]:
    """Return all outputs for `x`, and the buffers after it; a batch axis is added where the model does not take `x`."""
    convolutional = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in model.modules())
    problems = []
    for added in (True, False) if x.ndim and not batched else (False,):
        # Batch norm in training mode writes into its buffers; these are copies.
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        inputs = x[None] if added else x
        try:
            everything = torch.func.functional_call(model, buffers, (inputs,)) if buffers else model(inputs)
        except (RuntimeError, ValueError, IndexError) as error:
            problems.append(f"{tuple(inputs.shape)}: {error}")
            continue
        output, _ = logits(everything)
        # A linear layer takes any number of leading axes: two of them mean that one was there before.
        if not added or output.ndim < 3 or convolutional:
            _check_samples(output, len(inputs) if inputs.ndim else 0)
            return everything, buffers
    raise ShapeError("the model does not take the inputs, whose shape it was given as " + "; and as ".join(problems))


def _check_samples(output: Tensor, samples: int) -> None:
    if output.ndim < 2 and samples == 1:
        return  # the model squeezed the batch axis of one sample away
    if not output.ndim or len(output) != samples:
        came = tuple(output.shape)
        raise ShapeError(f"the model must return one tensor with a row for each of {samples} samples, got {came}")


def _named_loss(loss: str, output: Tensor, target: Tensor) -> Tensor:
    logistic = loss == "logistic"
    if output.ndim < 2 and len(target) == 1:  # without its batch axis, as squeeze() leaves it
        output = output.reshape(1, -1)
    elif output.ndim == 1 and logistic:
        output = output[:, None]
    if output.ndim != 2 or (logistic and output.shape[1] != 1):
        needs = "(samples, 1)" if logistic else "(samples, classes)"
        raise ShapeError(
            f"loss {loss!r} needs an output of shape {needs}, got {tuple(output.shape)};"
            " pass a function of output and target"
        )
    if len(target) != len(output):
        raise ShapeError(f"loss {loss!r} needs one target for each of {len(output)} samples, got {len(target)}")
    classes = 2 if logistic else output.shape[1]
    wrong = [t for t in target.tolist() if t not in range(classes)]
    if wrong:
        raise ParameterError("target", f"loss {loss!r} needs whole targets from 0 to {classes - 1}, got {wrong[0]}")
    if logistic:
        return functional.binary_cross_entropy_with_logits(output[:, 0], target.to(output))
    return functional.cross_entropy(output, target.long())


def _own_loss(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> Tensor:
    value = loss(output, target.to(output.dtype) if target.is_floating_point() else target)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ShapeError("the loss must return one number as a tensor that depends on the output; reduce it by .mean()")
    return value.reshape(())


@checked
def to_torch(network: NetworkLike, *, seed: int = 0, init: str = "uniform", dtype: str = "float64") -> nn.Module:
    """Return a PyTorch model whose parameters and buffers have the network's names and shapes.

    `from_torch` makes the same network of it. It is an `nn.Sequential` where each layer reads the one before, except
    that names with dots make nested modules and a network of one layer without a name is that module. Layers without a
    module of PyTorch's own, such as sums, become modules that hold them. The model is in evaluation mode, but for batch
    norms and instance norms that are in training mode in the network, as long as nobody calls `eval()`. Running
    statistics are those of a new module, mean 0 and variance 1. The global random state is left as it was.

    Args:
        network: the network.
        seed: the seed of the parameters; every dtype gets the same values, rounded.
        init: "uniform" draws every weight and bias from U(-0.5, 0.5), slopes of PReLU without their sign, "default" is
            PyTorch's own initialisation.
        dtype: "float64", "float32", "float16" or "bfloat16".

    Raises:
        UnknownNameError: no such `init` or `dtype`.
        ShapeError: two layers have the same name, or a layer is none of PyTorch's.

    >>> from constraint_algebra.layers import LeakyReLU, Linear
    >>> to_torch(Network((3,), [Linear(2), LeakyReLU(0.2)]))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): LeakyReLU(negative_slope=0.2)
    )
    """
    assert isinstance(network, Network)  # whatever stood for it
    for name, known in ((init, _INITS), (dtype, tuple(_DTYPES))):
        if name not in known:
            raise UnknownNameError(f"no init or dtype is called {name!r}; use one of {', '.join(known)}")
    with seeded(seed):
        model = module_of(network)
    if init == "uniform":
        rng = np.random.default_rng(seed)
        drawn = {name: rng.uniform(-0.5, 0.5, s) for name, s in network.parameter_shapes.items()}
        slopes = {layer.weight_name for layer in network if isinstance(layer.layer, PReLU)}
        positive = {name: np.abs(drawn[name]) for name in slopes}
        load_parameters(model, {**drawn, **positive, **_statistics(model)})
    model = model.to(_DTYPES[dtype])
    return model if network.is_chain else evaluated(model)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Give PyTorch's global generator a seed for a while, and its own state back afterwards.

    >>> with seeded(3): a = torch.rand(2)
    >>> with seeded(3): print(bool((torch.rand(2) == a).all()))
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def load_parameters(model: nn.Module, arrays: Mapping[str, ArrayLike]) -> None:
    """Copy arrays into the parameters of a model, and into the statistics of its batch norms, in the model's dtype.

    Args:
        model: the model, changed in place.
        arrays: an array for each parameter and running statistic; other buffers where they are given, but for batch
            norm's counters.

    Raises:
        ParameterError: a name is missing or unknown, or a shape differs; the model is then unchanged.
    """
    needed = {**dict(model.named_parameters()), **_statistics(model)}
    state = {**needed, **dict(model.named_buffers())}
    arrays = {name: array for name, array in arrays.items() if name.rpartition(".")[2] != COUNTER or name in state}
    for name in [*arrays, *needed]:
        if name not in state or name not in arrays:
            where = "the model" if name not in state else "the arrays"
            raise ParameterError(name, f"parameter {name!r} is not among those of {where}; give the same names")
    values = {name: to_tensor(array) for name, array in arrays.items()}
    for name, value in values.items():
        if value.shape != state[name].shape:
            came, wanted = tuple(value.shape), tuple(state[name].shape)
            raise ParameterError(name, f"parameter {name!r} has shape {came}, the model needs {wanted}")
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running means and variances of all batch norms by name."""
    return {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in BUFFERS}
