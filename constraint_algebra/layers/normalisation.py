"""Batch norm in evaluation mode: an affine map by the running statistics, and a factor and a shift for each channel.

`y = γ x̂ + β` with `x̂ = (x - mean) / sqrt(var + eps)` (Ioffe and Szegedy 2015, arXiv 1502.03167). The statistics are
buffers: known, and not trained, so that the first half is affine with known coefficients. The second is a depthwise
convolution with one tap whose input is x̂; its gradient equation is one row for each channel, `sum_o k x̂ = dL/dγ`.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Affine, Compound, Layer, Shape, flag, number
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.scaling import diagonal

BUFFERS = ("running_mean", "running_var")
SUFFIX = ".normalised"  # what the name of the first half has after that of the batch norm


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


@names_checked
@dataclass(frozen=True)
class BatchNorm(Compound):
    """Batch norm in evaluation mode, of any number of axes.

    Args:
        eps: added to the variance.
        affine: whether it has a factor and a shift for each channel.

    >>> [name for name, layer in BatchNorm().parts((3, 8, 8))]
    ['.normalised', '']
    """

    _: KW_ONLY
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        _check_eps("BatchNorm", self.eps)
        object.__setattr__(self, "affine", flag("BatchNorm", "affine", self.affine))

    def parts(self, input_shape: Shape) -> list[tuple[str, Layer]]:  # noqa: ARG002 -- others need it
        """Return both halves, or the first alone."""
        first = Standardise(self.eps)
        return [(SUFFIX, first), ("", ChannelScale())] if self.affine else [("", first)]


def _check_eps(kind: str, eps: float) -> None:
    number(kind, "eps", eps)
    if not eps >= 0:
        raise ShapeError(f"{kind}: eps must not be negative, got {eps}")
