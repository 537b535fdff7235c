"""Normalisation as it is written: batch, group, layer, instance and RMS norm, each a chain of simpler operations.

`y = γ x̂ + β` with `x̂ = (x - mean) / sqrt(var + eps)` (Ioffe and Szegedy 2015, arXiv 1502.03167). In evaluation mode
batch norm takes mean and variance from buffers: known, and not trained, so that the first half, `Standardise`, is
affine with known coefficients. Otherwise they are those of the values themselves, and the first half is
`OwnStatistics`. The second half is a factor and a shift for each channel, a depthwise convolution with one tap whose
input is x̂; its gradient equation is one row for each channel, `sum_o k x̂ = dL/dγ`. Layer norm has its factors along
the last axes: these become the channels of that convolution, and go back afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Affine, Compound, Layer, Shape, check_shape, flag, number, whole
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.own_statistics import OwnStatistics
from constraint_algebra.layers.rearranging import Permute, Reshape
from constraint_algebra.layers.scaling import diagonal

BUFFERS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"  # of steps in training mode; it has a part in one only where there is no momentum
SUFFIX = ".normalised"  # what the name of the first half has after that of the whole
MOVES = (".turned", ".joined", ".split", ".back")  # and what moves the axes that have factors
FLOAT32_EPS = float(np.finfo(np.float32).eps)

Parts = list[tuple[str, Layer]]


@names_checked
@dataclass(frozen=True)
class Standardise(Affine):
    """`(x - mean) / sqrt(var + eps)` for each channel, by buffers; its coefficients are in `networks.operations`."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        """Check eps."""
        _check_eps("Standardise", self.eps)

    def coefficients(self, mean: FloatArray, var: FloatArray, shape: Shape) -> tuple[sp.csr_array, FloatArray]:
        """Return the diagonal matrix and the constant."""
        factor = (var + self.eps) ** -0.5
        each = math.prod(shape[1:])
        return diagonal(factor.repeat(each)), (-mean * factor).repeat(each)

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:  # noqa: ARG002 -- others need it
        """Refuse: the coefficients are not from shapes alone."""
        raise ShapeError("Standardise: its coefficients are buffers; use networks.operations.affine_maps")


@dataclass(frozen=True)
class _Norm(Compound):
    """What all of them have: checked hyper-parameters, and factors behind the first half."""

    def __post_init__(self) -> None:
        """Check the hyper-parameters that a kind has."""
        kind = type(self).__name__
        _check_eps(kind, self.eps)  # type: ignore[attr-defined]
        for name in ("affine", "training", "tracked", "bias"):
            if hasattr(self, name):
                object.__setattr__(self, name, flag(kind, name, getattr(self, name)))
        if getattr(self, "momentum", None) is not None:
            number(kind, "momentum", self.momentum)  # type: ignore[attr-defined]

    def _channelwise(self, first: Layer) -> Parts:
        """Return the first half, and a factor and a shift for each channel if it has them."""
        affine, bias = self.affine, self.bias  # type: ignore[attr-defined]
        return [(SUFFIX, first), ("", ChannelScale(bias=bias))] if affine else [("", first)]

    def _by_buffers_or_own(self, channels: int, *, across: bool) -> Parts:
        """Return what has buffers, and takes them in evaluation mode."""
        eps, tracked, momentum = self.eps, self.tracked, self.momentum  # type: ignore[attr-defined]
        if tracked and not self.training:  # type: ignore[attr-defined]
            return self._channelwise(Standardise(eps))
        moving = {"tracked": True, "momentum": momentum} if tracked else {}
        return self._channelwise(OwnStatistics(channels, eps=eps, across=across, **moving))


@names_checked
@dataclass(frozen=True)
class BatchNorm(_Norm):
    """Batch norm, of any number of axes: in evaluation mode by its buffers, otherwise by the data's own statistics.

    Args:
        eps: added to the variance.
        affine: whether it has a factor and a shift for each channel.
        training: whether it is in training mode, and takes mean and variance of each channel from the sample itself.
        momentum: share of the new statistics in the buffers after a step in training mode; `None` for the mean over all
            steps so far.
        tracked: whether it has buffers; without them it never takes other statistics than the data's own.
        bias: whether it has the shift, where it is affine.

    >>> [(name, type(layer).__name__) for name, layer in BatchNorm().parts((3, 8, 8))]
    [('.normalised', 'Standardise'), ('', 'ChannelScale')]
    >>> BatchNorm(training=True).parts((3, 8, 8))[0][1]
    OwnStatistics(count=3, eps=1e-05, centred=True, tracked=True, momentum=0.1, across=True)
    """

    _: KW_ONLY
    eps: float = 1e-5
    affine: bool = True
    training: bool = False
    momentum: float | None = 0.1
    tracked: bool = True
    bias: bool = True

    def parts(self, input_shape: Shape) -> Parts:
        """Return both halves, or the first alone."""
        return self._by_buffers_or_own(input_shape[0], across=True)


@names_checked
@dataclass(frozen=True)
class InstanceNorm(_Norm):
    """Instance norm: each channel of one sample by its own mean and variance (Ulyanov et al. 2016, arXiv 1607.08022).

    Args:
        eps: added to the variance.
        affine: whether it has a factor and a shift for each channel.
        tracked: whether it has buffers, which it moves in training mode and takes in evaluation mode.
        training: whether it is in training mode, which makes a difference only where it has buffers.
        momentum: share of the new statistics in the buffers after a step in training mode.
        bias: whether it has the shift, where it is affine.

    >>> [(name, type(layer).__name__) for name, layer in InstanceNorm().parts((3, 8, 8))]
    [('', 'OwnStatistics')]
    """

    _: KW_ONLY
    eps: float = 1e-5
    affine: bool = False
    tracked: bool = False
    training: bool = False
    momentum: float = 0.1
    bias: bool = True

    def parts(self, input_shape: Shape) -> Parts:
        """Return both halves, or the first alone."""
        if len(input_shape) < 2:
            raise ShapeError(f"InstanceNorm needs an input of shape (channels, *spatial), got {input_shape}")
        return self._by_buffers_or_own(input_shape[0], across=False)


@names_checked
@dataclass(frozen=True)
class GroupNorm(_Norm):
    """Group norm: groups of neighbouring channels of one sample (Wu and He 2018, arXiv 1803.08494).

    Args:
        groups: number of groups; it divides the channels.
        eps: added to the variance.
        affine: whether it has a factor and a shift for each channel.
        bias: whether it has the shift, where it is affine.

    >>> GroupNorm(2).parts((4, 8, 8))[0][1].runs((4, 8, 8))
    2
    """

    groups: int
    _: KW_ONLY
    eps: float = 1e-5
    affine: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        super().__post_init__()
        object.__setattr__(self, "groups", whole("GroupNorm", "groups", self.groups, least=1))

    def parts(self, input_shape: Shape) -> Parts:
        """Return both halves, or the first alone."""
        if input_shape[0] % self.groups:
            raise ShapeError(f"GroupNorm: {input_shape[0]} channels cannot be split into {self.groups} groups")
        return self._channelwise(OwnStatistics(self.groups, eps=self.eps))


@dataclass(frozen=True)
class _TrailingNorm(_Norm):
    """A normalisation over the last axes, with a factor for each of their entries."""

    argument_note: ClassVar[str] = (
        "a number is that of the last axes, so that PyTorch's LayerNorm(64) is LayerNorm((64,)), or LayerNorm(1)"
    )

    axes: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        super().__post_init__()
        kind, several = type(self).__name__, isinstance(self.axes, Sequence)
        axes = check_shape(self.axes, f"{kind}: axes") if several else whole(kind, "axes", self.axes, least=1)  # type: ignore[arg-type]
        if axes == ():
            raise ShapeError(f"{kind}: axes must not be empty; give the shape of the last axes, or their number")
        object.__setattr__(self, "axes", axes)

    def _over_the_last(self, input_shape: Shape, *, centred: bool, bias: bool) -> Parts:
        """Return the normalisation, and the factors behind it where it has them."""
        kind, axes = type(self).__name__, self.axes
        last = tuple(axes) if isinstance(axes, Sequence) else input_shape[-axes:]
        if input_shape[-len(last) :] != last or (isinstance(axes, int) and len(last) != axes):
            what = f"the last {axes} axes" if isinstance(axes, int) else f"the last axes {last}"
            raise ShapeError(f"{kind}: an input of shape {input_shape} does not have {what}; {self.argument_note}")
        lead = input_shape[: -len(last)]
        first = OwnStatistics(math.prod(lead), eps=self.eps, centred=centred)  # type: ignore[attr-defined]
        if not self.affine:  # type: ignore[attr-defined]
            return [("", first)]
        return [(SUFFIX, first), *_factors(lead, last, bias)]


@names_checked
@dataclass(frozen=True)
class LayerNorm(_TrailingNorm):
    """Layer norm over the last axes of one sample (Ba et al. 2016, arXiv 1607.06450).

    Args:
        axes: how many of the last axes belong together, or their shape, as PyTorch's `normalized_shape`.
        eps: added to the variance.
        affine: whether each entry of these axes has a factor.
        bias: whether it has a shift as well.

    >>> [name for name, layer in LayerNorm((5,)).parts((4, 3, 5))]
    ['.normalised', '.turned', '', '.back']
    >>> [name for name, layer in LayerNorm(3).parts((4, 3, 5))]
    ['.normalised', '.joined', '', '.split']
    """

    _: KW_ONLY
    eps: float = 1e-5
    affine: bool = True
    bias: bool = True

    def parts(self, input_shape: Shape) -> Parts:
        """Return the normalisation, and the factors with what moves their axes."""
        return self._over_the_last(input_shape, centred=True, bias=self.bias)


@names_checked
@dataclass(frozen=True)
class RMSNorm(_TrailingNorm):
    """RMS norm over the last axes: by the root of the mean square (Zhang and Sennrich 2019, arXiv 1910.07467).

    Args:
        axes: how many of the last axes belong together, or their shape, as PyTorch's `normalized_shape`.
        eps: added to the mean square; by default what PyTorch takes for a model in float32.
        affine: whether each entry of these axes has a factor.

    >>> RMSNorm((5,), affine=False).parts((5,))[0][1].centred
    False
    """

    _: KW_ONLY
    eps: float = FLOAT32_EPS
    affine: bool = True

    def parts(self, input_shape: Shape) -> Parts:
        """Return the normalisation, and the factors with what moves their axes."""
        return self._over_the_last(input_shape, centred=False, bias=False)


def _factors(lead: Shape, last: Shape, bias: bool) -> Parts:
    """Return a factor for each entry of the last axes, which stand first as channels in between."""
    n, m = len(lead), len(last)
    turned = Permute((*range(n, n + m), *range(n))), Permute((*range(m, m + n), *range(m)))
    joined = Reshape((math.prod(last), *lead)), Reshape((*last, *lead))
    scale = ChannelScale(bias=bias, shape=last if m > 1 else None)
    turn, join, split, back = MOVES
    parts: Parts = [(join, joined[0]), ("", scale), (split, joined[1])] if m > 1 else [("", scale)]
    return [(turn, turned[0]), *parts, (back, turned[1])] if lead else parts


def _check_eps(kind: str, eps: float) -> None:
    number(kind, "eps", eps)
    if not eps >= 0:
        raise ShapeError(f"{kind}: eps must not be negative, got {eps}")
