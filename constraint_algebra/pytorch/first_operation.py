"""The operation through which alone a model reads its input, whatever the rest of the model is.

The model runs once on a real input, and every call of PyTorch on the way is looked at. What is computed from the input
stays *marked* until a convolution or a linear layer has read it. Up to there only affine operations are let through,
and behind there nothing marked may be read again, neither by an operation nor by a branch in Python.

Marks can be lost where PyTorch does not show its calls, as in compiled code. So the finding is put to the test: with
the operation's output held fixed, another input must leave everything behind it as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from constraint_algebra import layers as kinds
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers import Layer, PlacedLayer
from constraint_algebra.pytorch.affine_reading import affine_map
from constraint_algebra.pytorch.gradients import Loss, check_loss, loss_value
from constraint_algebra.pytorch.models import logits
from constraint_algebra.pytorch.tensors import input_tensor, to_numpy, to_tensor
from constraint_algebra.pytorch.unsupported import AS_IT_IS
from constraint_algebra.pytorch.verification import Model, doubled, plain_attention, refuse_unclear
from constraint_algebra.pytorch.watching import Reached, Read, Watch, follow

SAME = 1e-9  # relative difference of what is computed twice
_CONVS = {
    "conv1d": kinds.Conv1d,
    "conv2d": kinds.Conv2d,
    "conv3d": kinds.Conv3d,
}


@dataclass(frozen=True, eq=False)
class FirstOperation:
    """The convolution or linear layer through which alone a model reads its input.

    Attributes:
        layer: the operation; one that is linear at several places is a convolution with one tap over them.
        weight: its weight, `(filters, channels / groups, *taps)`.
        map: its flat input as an affine function of the model's: the matrix, `(layer.unknowns, input values)`.
        output: its output, with its bias.
        output_gradient: gradient of the loss there, through everything that follows.
        then: what alone reads its output, and so on: ReLU, a factor for each channel, max-pool.
        owned: whether its weight and its bias are parameters that nothing else reads.
    """

    layer: PlacedLayer
    weight: FloatArray
    map: sp.csr_array
    output: FloatArray
    output_gradient: FloatArray
    then: tuple[Layer, ...]
    owned: bool


def first_operation(model: Model, values: Any, target: Any, loss: Loss = "cross_entropy") -> FirstOperation:
    """Return the operation through which alone a model reads its input.

    Args:
        model: any model of `torch_gradients`; it is copied to float64.
        values: one sample without a batch axis.
        target: its class.
        loss: as for `torch_gradients`.

    Raises:
        UnsupportedLayerError: the input is read by anything else, or by something else first.
        ShapeError: an input that the model does not take.

    >>> model = nn.Sequential(nn.Linear(4, 2), nn.GELU(), nn.LayerNorm(2), nn.Linear(2, 3))
    >>> first_operation(model, [0.25, 0.5, 0.75, 1.0], 1).layer.kind
    'Linear'
    """
    check_loss(loss)
    exact = doubled(model)
    x, y = input_tensor(values, "input").double(), to_tensor(target)
    refuse_unclear(exact, x[None])
    run = _Run(exact, y, loss)
    seen = run(x)
    read = seen.watch.read
    if read is None:
        raise _refusal(model, "no convolution and no linear layer reads the input where PyTorch shows it")
    _test(model, run, x, seen)
    layer, arrange = _placed(exact, read)
    k = torch.autograd.grad(seen.value, read.output, retain_graph=True, allow_unused=True)[0]
    k = torch.zeros_like(read.output) if k is None else k
    places = arrange(np.arange(read.input.numel()).reshape(read.input.shape)).ravel()
    return FirstOperation(
        layer=layer,
        weight=to_numpy(read.weight).reshape(layer.weight_shape),
        map=sp.csr_array(affine_map(run.before, x)[places]),
        output=arrange(to_numpy(read.output)),
        output_gradient=arrange(to_numpy(k)),
        then=seen.watch.steps,
        owned=seen.watch.owns([p for p in exact.parameters() if p.requires_grad]),
    )


@dataclass(frozen=True)
class _Seen:
    """One run: what was seen, and the loss."""

    watch: Watch
    value: Tensor


class _Run:
    """Runs a model under observation, with the output of its first operation as a leaf of its own."""

    def __init__(self, model: Model, target: Tensor, loss: Loss) -> None:
        self.model, self.target, self.loss = model, target, loss

    def __call__(self, x: Tensor, output: Tensor | None = None) -> _Seen:
        """Run on one sample; an `output` stands in place of what the first operation makes."""
        watch, batch = Watch(replacement=output), x[None].clone()
        with torch.enable_grad(), plain_attention():
            everything = follow(watch, self.model, batch)
            chosen, _ = logits(everything)
            if watch.is_marked(chosen):
                raise _refusal(self.model, "its output is computed from the input beside its layers")
            if watch.problem is not None:
                raise _refusal(self.model, watch.problem)
            value = loss_value(self.loss, chosen, self.target)
        return _Seen(watch, value)

    def before(self, batch: Tensor) -> Tensor:
        """Return what the first operation reads, of a batch; nothing behind it runs."""
        try:
            follow(Watch(stop=True), self.model, batch.clone())
        except Reached as reached:
            return reached.value
        raise ShapeError("the first operation of the model was not reached again; give a model that always computes so")


def _test(model: Model, run: _Run, x: Tensor, seen: _Seen) -> None:
    """Hold the output of the first operation fixed: another input must then change nothing, nor may the same one."""
    read = seen.watch.read
    assert read is not None
    generator = torch.Generator().manual_seed(0)
    low, high = float(x.min()), float(x.max())
    other = low + (high - low or 1.0) * torch.rand(x.shape, generator=generator, dtype=x.dtype)
    reasons = {
        "two runs on the same input differ, as with dropout in training mode; call model.eval() first": x,
        "with the output of its first layer held fixed, another input still changes what follows": other,
    }
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    expected = _gradients(seen, read, parameters)
    for reason, image in reasons.items():
        try:
            again = run(image, read.output.detach())
        except Exception as error:  # whatever a model raises whose layer gives something else than it computed
            words = f"with the output of its first layer held fixed it does not run ({type(error).__name__}: {error})"
            raise _refusal(model, " ".join(words.split())) from error
        assert again.watch.read is not None
        try:
            found = _gradients(again, again.watch.read, parameters)
        except RuntimeError as error:  # such as checkpointing, which computes the layer once more
            words = (
                f"with the output of its first layer held fixed its gradient fails ({type(error).__name__}: {error})"
            )
            raise _refusal(model, " ".join(words.split())[:300]) from error
        if not all(torch.allclose(a, b, rtol=SAME, atol=SAME * _size(a)) for a, b in zip(expected, found, strict=True)):
            raise _refusal(model, reason)


def _gradients(seen: _Seen, read: Read, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the loss and its gradients behind the first operation, zeros where there are none."""
    places = [read.output, *parameters]
    found = torch.autograd.grad(seen.value, places, retain_graph=True, allow_unused=True)
    return [seen.value.detach(), *(torch.zeros(()) if g is None else g for g in found)]


def _size(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _placed(model: Model, read: Read) -> tuple[PlacedLayer, Callable[[Any], Any]]:
    """Return the operation as a layer, and what brings arrays of its input or output into the layer's order."""
    name = next((n for n, p in model.named_parameters() if p is read.weight), read.function)
    name = name.removesuffix("weight").removesuffix(".")
    bias, settings = read.bias is not None, read.settings
    if read.function == "linear":
        tokens = read.input.numel() // read.input.shape[-1]
        filters, features = read.weight.shape
        if tokens == 1:
            return kinds.Linear(filters, bias=bias).place((features,), name), lambda a: a.reshape(-1)
        layer = kinds.Conv1d(filters, 1, bias=bias).place((features, tokens), name)
        return layer, lambda a: a.reshape(tokens, -1).T
    axes = read.weight.ndim - 2
    if read.input.ndim == axes + 2 and len(read.input) != 1:
        raise _refusal(
            model, f"its first convolution reads {len(read.input)} pieces of the input, each as a sample of its own"
        )
    padding: Any = settings["padding"]
    kernel = tuple(read.weight.shape[2:])
    layer = _CONVS[read.function](
        read.weight.shape[0],
        kernel,
        stride=_per_axis(settings["stride"], axes),
        padding=padding if isinstance(padding, str) else _per_axis(padding, axes),
        dilation=_per_axis(settings["dilation"], axes),
        groups=settings["groups"],
        bias=bias,
    ).place(tuple(read.input.shape[-axes - 1 :]), name)
    return layer, lambda a: a.reshape(a.shape[-axes - 1 :])


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))


def _refusal(model: nn.Module, reason: str) -> UnsupportedLayerError:
    advice = (
        "without a network of known layers, certificates need a convolution or linear layer that alone reads the input"
    )
    return UnsupportedLayerError([LayerProblem(type(model).__name__, reason, advice)], AS_IT_IS)
