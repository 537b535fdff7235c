"""An operation of a recorded forward pass on the way to becoming layers of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Layer, Shape
from constraint_algebra.layers.kinds import Flatten
from constraint_algebra.layers.rearranging import Reshape
from constraint_algebra.pytorch.graph import Call, Fixed, Value
from constraint_algebra.pytorch.unsupported import BY_HAND, OWNER, PART, Unfitting, Unsupported

Entries = dict[str, tuple[Layer, tuple[str, ...]]]  # layers by name, with the names of what they read


@dataclass(frozen=True, eq=False)
class Flow:
    """A value as the network has it.

    Attributes:
        name: of the layer that makes it, or "input".
        shape: of one sample.
        tensor: shape of the tensor that it is in the model.
        batched: whether that has the batch axis, which `squeeze` takes away.
    """

    name: str
    shape: Shape
    tensor: Shape
    batched: bool = True

    def axis(self, dim: int) -> int:
        """Return the axis of one sample that a dimension of the tensor is; `Unsupported` for the batch axis."""
        dim = dim % len(self.tensor)
        if self.batched and dim == 0:
            raise Unsupported("it works along the batch axis", PART)
        return dim - self.batched


Made = Flow | tuple[Flow, ...]
Reader = Callable[..., Made]


@dataclass(eq=False)
class Place:
    """One call, and the network so far.

    Attributes:
        call: the call.
        name: what its layer is called, if it makes one.
        entries: the layers so far.
        used: names of the parameters used so far.
        is_output: whether the call makes the output of the model.
        read: the values that the output needs; of several that a call makes, some may be in vain.
        loss_part: name of a softmax at the end, `None` without.
    """

    call: Call
    name: str
    entries: Entries
    used: set[str]
    is_output: bool = False
    read: frozenset[Value] = frozenset()
    loss_part: str | None = None

    @property
    def made(self) -> Shape:
        """Shape of the tensor that the call makes."""
        return self.call.outputs[0].shape

    def add(self, layer: Layer, *flows: Flow, suffix: str = "", name: str | None = None) -> Flow:
        """Add a layer that reads values, under the name of the call, and return what it makes."""
        try:
            shape = layer.output_shape(*(flow.shape for flow in flows))
        except ShapeError as error:
            raise Unfitting(str(error), PART) from None
        name = self.unique((self.name if name is None else name) + suffix)
        self.entries[name] = (layer, tuple(flow.name for flow in flows))
        batched = flows[0].batched
        return Flow(name, shape, (1, *shape) if batched else shape, batched)

    def unique(self, name: str) -> str:
        """Return a name that no layer has yet."""
        number, found = 0, name
        while found in self.entries:
            number += 1
            found = f"{name}_{number}"
        return found

    def rearranged(self, flow: Flow, shape: Shape) -> Flow:
        """Return a value in another shape of one sample, its values in the same order."""
        if flow.shape == shape:
            return flow
        layer = Flatten() if len(shape) == 1 else Reshape(shape)
        return self.add(layer, flow)

    def sample(self, flow: Flow, *, squeezed: bool = False) -> tuple[Shape, bool]:
        """Return the shape of one sample of what the call makes, and whether its tensor has the batch axis.

        Args:
            flow: what it reads.
            squeezed: whether the call takes the batch axis away.
        """
        shape = self.made
        if squeezed or not flow.batched:
            return shape or (1,), False
        if not shape or shape[0] != 1:
            raise Unsupported(
                f"it reshapes {flow.tensor} to {shape}, batch axis first, and only joining all axes but the first, or "
                "rearranging these, leaves each sample by itself",
                PART,
            )
        return shape[1:] or (1,), True

    def owner(self, weight: Any, bias: Any = None) -> str:
        """Return the path of the module that owns a weight and a bias, which must be parameters of the model."""
        if isinstance(weight, Value):
            raise Unsupported("its weight is a value of the network: it multiplies values with each other", PART)
        for fixed in (weight, bias):
            if fixed is not None:
                _check_parameter(fixed)
        names = [fixed.name for fixed in (weight, bias) if fixed is not None]
        if self.used & set(names):
            raise Unsupported("its parameters are used more than once, so their gradient is a sum", PART)
        self.used |= set(names)
        owner = _owner(weight.name, "weight")
        if owner is None or (bias is not None and _owner(bias.name, "bias") != owner):
            raise Unsupported(f"{OWNER}, {' and '.join(names)}", BY_HAND)
        return owner


def _check_parameter(fixed: Fixed) -> None:
    """Refuse what is no parameter of the model."""
    if isinstance(fixed.tensor, nn.parameter.UninitializedParameter):
        raise Unsupported("its parameters have no shape yet", "run the model once before analysing it")
    if fixed.kind == "computed":
        raise Unsupported("its weight is computed from parameters, whose gradients are others", PART)
    if fixed.kind != "parameter":
        raise Unsupported(
            "its weight is no parameter of the model, and has no gradient: modules in a plain list, or made in the "
            "forward pass, are not registered",
            PART,
        )


def _owner(name: str, part: str) -> str | None:
    """Return the path of the module that a parameter is `part` of, `None` where it is another."""
    owner, _, last = name.rpartition(".")
    return owner if last == part else None


def along(flow: Flow, value: Value) -> Flow:
    """Return a flow with the shape of its tensor; `Unsupported` where network and model differ in what was made."""
    shape = value.shape[1:] if flow.batched else value.shape
    if (shape or (1,)) != flow.shape:
        raise Unsupported(f"it makes {value.shape}, where the network has {flow.shape} for each sample", PART)
    return replace(flow, tensor=value.shape)


def constant_along_channels(flow: Flow, tensor: torch.Tensor) -> float | tuple[float, ...]:
    """Return a constant that goes with a value as one number, or one for each channel; `Unsupported` otherwise."""
    try:
        spread = tensor.double().cpu().broadcast_to(flow.tensor)
    except RuntimeError:
        raise Unsupported(f"a constant of shape {tuple(tensor.shape)} enlarges what it goes with", PART) from None
    if not bool(spread.isfinite().all()):
        raise Unsupported("a constant has values that are not finite, NaN or infinite", PART)
    rows = spread.reshape(flow.shape[0], -1)
    if not bool((rows == rows[:, :1]).all()):
        raise Unsupported("a constant differs within a channel", PART)
    numbers = rows[:, 0].tolist()
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)
