"""Dropout in training mode: each value dropped at random, the others enlarged, so that the mean stays.

`y = m x / (1 - p)` with a mask m that the client draws anew for each step (Srivastava et al. 2014). The mask is a
buffer of the layer, "<name>.mask", which nobody but the client sees. From an output it follows all the same, but for
values that are zero themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse as sp

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Affine, Shape, flag, number
from constraint_algebra.layers.scaling import diagonal


@names_checked
@dataclass(frozen=True)
class Dropout(Affine):
    """Dropout in training mode; in evaluation mode it does nothing, and is left out.

    Args:
        p: probability that a value is dropped, between 0 and 1.
        features: whether whole channels are dropped, as PyTorch's Dropout2d does.

    >>> import numpy as np
    >>> Dropout(0.25).coefficients(np.array([1.0, 0.0, 1.0])).diagonal()
    array([1.33333333, 0.        , 1.33333333])
    """

    p: float = 0.5
    features: bool = False

    def __post_init__(self) -> None:
        """Check the hyper-parameters."""
        number("Dropout", "p", self.p)
        if not 0 < self.p < 1:
            raise ShapeError(f"Dropout: p must lie between 0 and 1, got {self.p}; at 0 it does nothing, leave it out")
        object.__setattr__(self, "features", flag("Dropout", "features", self.features))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the same shape; `ShapeError` where channels are to be dropped and there is nothing in one."""
        shape = self.single(input_shapes)
        if self.features and len(shape) < 2:
            raise ShapeError(f"Dropout: features needs an input of shape (channels, *spatial), got {shape}")
        return shape

    def coefficients(self, mask: FloatArray) -> sp.csr_array:
        """Return the diagonal matrix of a mask, without the zeros."""
        matrix = diagonal(mask.ravel() / (1 - self.p))
        matrix.eliminate_zeros()
        return matrix

    def maps(self, *input_shapes: Shape) -> tuple[sp.csr_array, ...]:  # noqa: ARG002 -- others need it
        """Refuse: the coefficients are not from shapes alone."""
        raise ShapeError("Dropout: its coefficients are a mask; use networks.operations.affine_maps")
