"""What is known at the outputs of a layer, and which of its equations count for that.

A gradient row counts where all its k are known and one of them is not zero, a weight row where its z is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.incidence import Incidence, tap_slices
from constraint_algebra.layers.kinds import PlacedLayer


@checked
@dataclass(frozen=True)
class Knowledge:
    """What is known at the outputs of a layer; three masks in its output shape.

    Attributes:
        output: where the pre-activation z is known: there is a weight equation.
        gradient: where the output gradient k is known: a gradient equation counts only if all its k are known.
        support: where k may be other than zero.
    """

    output: BoolArray
    gradient: BoolArray
    support: BoolArray

    @staticmethod
    def of(
        layer: PlacedLayer,
        *,
        active: ArrayLike | None = None,
        output: ArrayLike | None = None,
        gradient: ArrayLike | None = None,
        support: ArrayLike | None = None,
    ) -> Knowledge:
        """Return the masks for a layer, true where not given.

        Args:
            layer: a convolution or linear layer at its place.
            active: outputs that a ReLU lets pass. The others have no weight equation, and k = 0 there.
            output: where z is known, on top of `active`.
            gradient: where k is known.
            support: where k may be other than zero, on top of `active`.

        Raises:
            ShapeError: a mask of another shape than the layer's output.
        """
        masks = {"active": active, "output": output, "gradient": gradient, "support": support}
        full = {name: mask_of(layer, mask, name) for name, mask in masks.items()}
        if active is None:
            return Knowledge(full["output"], full["gradient"], full["support"])
        return Knowledge(full["output"] & full["active"], full["gradient"], full["support"] & full["active"])

    @property
    def is_complete(self) -> bool:
        """Whether all masks are true everywhere."""
        return bool(self.output.all() and self.gradient.all() and self.support.all())


def usable_rows(S: Incidence, known: BoolArray) -> BoolArray:
    """Return which gradient rows (f, tap) have all their k known."""
    meets = sp.csr_array((np.ones(len(S)), (S.tap, S.output)), shape=(S.tap_count, S.output_count))
    missing = (~known).astype(float) @ meets.T
    return np.asarray(missing == 0)


def mask_of(layer: PlacedLayer, mask: ArrayLike | None, name: str) -> BoolArray:
    """Return a mask in the output shape, all true where none is given; `ShapeError` for another shape."""
    if mask is None:
        return np.ones(layer.output_shape, dtype=bool)
    array = np.asarray(mask)
    if array.dtype != bool or array.shape != layer.output_shape:
        raise ShapeError(
            f"{name} must be a boolean mask in the output shape {layer.output_shape} of layer {layer.name!r}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array


def gradient_rows(layer: PlacedLayer, known: Knowledge) -> BoolArray:
    """Return which gradient rows count, shape `(filters, taps)`; each stands for one row per channel of its group."""
    axes = tuple(range(1, 1 + len(layer.outputs)))
    gradient, support = (m.reshape(layer.filters, *layer.outputs) for m in (known.gradient, known.support))
    columns = [gradient[:, *at].all(axis=axes) & support[:, *at].any(axis=axes) for at, _ in tap_slices(layer)]
    return np.stack(columns, axis=1)
