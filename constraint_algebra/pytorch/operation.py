"""Operations without a module of PyTorch's own, as modules: sums, concatenations, reshapes, slices, scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from constraint_algebra import layers as kinds
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Layer, PlacedLayer
from constraint_algebra.layers.transposed import Spread

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class Operation(nn.Module):
    """One layer of a network as PyTorch computes it, over tensors with a batch axis; `from_torch` takes it as it is.

    Attributes:
        layer: the layer.
    """

    def __init__(self, placed: PlacedLayer) -> None:
        """Take a layer, with parameters of its own where it is trained."""
        super().__init__()
        self.layer: Layer = placed.layer
        if isinstance(placed.layer, kinds.ChannelScale):
            shape = placed.stored_shape
            self.weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
            self.bias = nn.Parameter(torch.zeros(shape, dtype=torch.float64)) if placed.bias_name else None

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the layer makes of a batch."""
        layer, x = self.layer, inputs[0]
        match layer:
            case kinds.Subtract():
                return x - inputs[1]
            case kinds.Add():
                total: Tensor = sum(inputs[1:], start=x)
                return total
            case kinds.Concatenate(axis):
                return torch.cat(inputs, axis + 1)
            case kinds.Mean(axes, keepdims=keepdims):
                return x.mean([axis + 1 for axis in axes], keepdim=keepdims).reshape(len(x), *layer_shape(layer, x))
            case kinds.Reshape():
                return x.reshape(len(x), *layer_shape(layer, x))
            case kinds.Permute(axes):
                return x.permute(0, *[axis + 1 for axis in axes])
            case kinds.ChannelScale():
                scaled = x * along_channels(self.weight.flatten(), x)
                return scaled if self.bias is None else scaled + along_channels(self.bias.flatten(), x)
            case kinds.OwnStatistics():
                return _normalised(layer, x)
        return _moved(layer, x)

    def extra_repr(self) -> str:
        """Return the layer."""
        return repr(self.layer)


def _normalised(layer: kinds.OwnStatistics, x: Tensor) -> Tensor:
    """Return a batch normalised by its own statistics."""
    if layer.across or layer.tracked:
        raise ShapeError(f"PyTorch has no module for {layer!r} of {tuple(x.shape[1:])}; give a network of other layers")
    runs = x.reshape(len(x), layer.count, -1)
    off = runs - runs.mean(-1, keepdim=True) if layer.centred else runs
    return (off * (off.square().mean(-1, keepdim=True) + layer.eps).rsqrt()).reshape(x.shape)


def _moved(layer: Layer, x: Tensor) -> Tensor:
    """Return what the layers of one input make that move values, scale them or choose among them."""
    match layer:
        case kinds.Pad(sides, mode=mode, value=value):
            pairs: Any = sides
            flat = [side for pair in reversed(pairs) for side in pair]
            return _padded(x, flat, mode, value)
        case kinds.Slice(ranges):
            for axis, (start, stop, step) in enumerate(ranges, start=1):
                places = range(x.shape[axis])[start:stop:step]
                x = x.index_select(axis, torch.tensor(list(places), device=x.device))
            return x
        case kinds.PixelShuffle(factor):
            return functional.pixel_shuffle(x, factor)
        case kinds.PixelUnshuffle(factor):
            return functional.pixel_unshuffle(x, factor)
        case kinds.Upsample(factor):
            factors = factor if isinstance(factor, tuple) else (factor,) * (x.ndim - 2)
            for axis, times in enumerate(factors, start=2):
                x = x.repeat_interleave(times, dim=axis)
            return x
        case kinds.Scale(factor, shift):
            return x * along_channels(factor, x) + along_channels(shift, x)
        case kinds.Normalise(mean, std):
            return (x - along_channels(mean, x)) / along_channels(std, x)
        case kinds.Maxout(pieces):
            # The first of equal entries, and its gradient to that one alone.
            grouped = x.reshape(len(x), -1, pieces, *x.shape[2:])
            return grouped.max(dim=2)[0]
        case Spread(steps, sides):
            spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], steps, strict=True)))
            apart: Any = (..., *(slice(None, None, step) for step in steps))
            spread[apart] = x
            return functional.pad(spread, [side for pair in reversed(sides) for side in pair])
    raise ShapeError(f"there is no PyTorch module for {layer!r}; give a network of other layers")


def _padded(x: Tensor, flat: list[int], mode: str, value: float) -> Tensor:
    """Return a padded batch; what is cut off is cut off afterwards."""
    added = [max(side, 0) for side in flat]
    if any(added):
        extra: dict[str, Any] = {"value": value} if mode == "zeros" else {}
        if mode != "zeros":  # PyTorch's other modes take all spatial axes and no others
            spatial = max(2 * (x.ndim - 2), 2)
            added = (added + [0] * spatial)[: spatial if not any(added[spatial:]) else None]
        x = functional.pad(x, added, mode=_MODES[mode], **extra)
    for axis, (before, after) in enumerate(zip(flat[::2], flat[1::2], strict=True), start=1):
        if min(before, after) < 0:
            x = x.narrow(-axis, max(-before, 0), x.shape[-axis] - max(-before, 0) - max(-after, 0))
    return x


def layer_shape(layer: Layer, x: Tensor) -> tuple[int, ...]:
    """Return the shape that a layer makes of each sample of a batch."""
    return layer.output_shape(tuple(x.shape[1:]))


def along_channels(values: Any, x: Tensor) -> Tensor:
    """Return numbers, one or one for each channel, in a shape that goes with a batch."""
    numbers = torch.as_tensor(values, dtype=torch.float64).to(x)
    return numbers.reshape(-1, *(1,) * (x.ndim - 2)) if numbers.ndim else numbers
