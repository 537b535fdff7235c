"""Normalisation by the data's own statistics: batch norm in training mode, group, layer, instance and RMS norm.

They are one operation with different groups of values. With `s = sqrt(var + eps)` over a group,

    x̂ = (x - mean) / s,        dL/dx = (k - mean(k) - x̂ mean(k x̂)) / s        for k = dL/dx̂,

so that a gradient comes down by the same symmetric map by which a difference goes up (Ioffe and Szegedy 2015,
arXiv 1502.03167; Wu and He 2018, arXiv 1803.08494; Ba et al. 2016, arXiv 1607.06450). One sample stands here: a channel
of batch norm is one group over its positions, as in instance norm. A RMS norm takes no mean away (Zhang and Sennrich
2019, arXiv 1910.07467), and its `mean(k)` is left out as well.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Normalisation, Shape, flag, number, whole


@names_checked
@dataclass(frozen=True)
class OwnStatistics(Normalisation):
    """`(x - mean) / sqrt(var + eps)` over each of so many runs of values in C order.

    Args:
        count: number of groups; it divides the number of values.
        eps: added to the variance.
        centred: whether the mean is taken away; a RMS norm does not.
        tracked: whether mean and variance of each group move buffers, which a client may share.
        momentum: share of the new statistics in the buffers after the step; `None` for a mean over all steps so far.
        across: whether the samples of a batch share their statistics, as in batch norm.

    >>> layer = OwnStatistics(2).place((4, 2, 2))
    >>> layer.output_shape, layer.normalisation.runs(layer.input_shape)
    ((4, 2, 2), 2)
    """

    count: int
    _: KW_ONLY
    eps: float = 1e-5
    centred: bool = True
    tracked: bool = False
    momentum: float | None = 0.1
    across: bool = False

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        object.__setattr__(self, "count", whole("OwnStatistics", "count", self.count, least=1))
        number("OwnStatistics", "eps", self.eps)
        if not (self.eps >= 0 and math.isfinite(self.eps)):
            raise ShapeError(f"OwnStatistics: eps must not be negative, got {self.eps}")
        for name in ("centred", "tracked", "across"):
            object.__setattr__(self, name, flag("OwnStatistics", name, getattr(self, name)))
        if self.momentum is not None:
            number("OwnStatistics", "momentum", self.momentum)

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        return self.eps

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the same shape; `ShapeError` where the groups do not divide the values, or hold one each."""
        shape = self.single(input_shapes)
        size = math.prod(shape)
        if size % self.count:
            raise ShapeError(f"OwnStatistics: {size} values of {shape} cannot be split into {self.count} groups")
        if self.centred and size == self.count:
            raise ShapeError(
                f"OwnStatistics: each of {self.count} groups of {shape} holds one value, whose deviation from its own "
                "mean is zero; statistics need several"
            )
        return shape

    def runs(self, input_shape: Shape) -> int:  # noqa: ARG002 -- others need it
        """Return the number of groups."""
        return self.count


class Statistics(NamedTuple):
    """What a normalisation made of its input.

    Attributes:
        mean: of each group, `(groups,)`; zero where none is taken away.
        scale: `sqrt(var + eps)` of each group, `(groups,)`.
        normalised: x̂, in the input's shape.
        centred: whether the mean was taken away.
    """

    mean: FloatArray
    scale: FloatArray
    normalised: FloatArray
    centred: bool

    def through(self, d: FloatArray) -> FloatArray:
        """Return what differences of the input become at the output, and gradients at the output at the input.

        Args:
            d: one in the input's shape, or several `(*shape, n)`.
        """
        several = d.shape[self.normalised.ndim :]
        runs = d.reshape(len(self.scale), -1, *several)
        own = self.normalised.reshape(len(self.scale), -1, *(1,) * len(several))
        moved = runs - own * (own * runs).mean(axis=1, keepdims=True)
        if self.centred:
            moved = moved - runs.mean(axis=1, keepdims=True)
        return np.asarray((moved / self.scale.reshape(-1, 1, *(1,) * len(several))).reshape(d.shape))


def statistics(operation: Normalisation, x: FloatArray) -> Statistics:
    """Return the statistics of values, and what they become.

    >>> found = statistics(OwnStatistics(1, eps=0.0), np.array([1.0, 3.0]))
    >>> found.mean, found.scale, found.normalised
    (array([2.]), array([1.]), array([-1.,  1.]))
    """
    runs = x.reshape(operation.runs(x.shape), -1)
    mean = runs.mean(axis=1) if operation.centred else np.zeros(len(runs))
    off = runs - mean[:, None]
    scale = np.sqrt((off * off).mean(axis=1) + operation.epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant group with eps = 0 has no x̂, in PyTorch either
        return Statistics(mean, scale, (off / scale[:, None]).reshape(x.shape), operation.centred)
