"""Layers by their shapes and hyper-parameters; a layer at its place: `base` and `convolutions` under one name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from constraint_algebra.arguments import names_checked
from constraint_algebra.layers.base import (
    Activation,
    Affine,
    Compound,
    Layer,
    Parametric,
    PlacedLayer,
    Rearrangement,
    Selection,
    Shape,
    check_shape,
    number,
    positive,
)
from constraint_algebra.layers.convolutions import Conv, Conv1d, Conv2d, Conv3d, Linear, Padding

__all__ = [
    "Activation",
    "Affine",
    "Compound",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Flatten",
    "Layer",
    "Linear",
    "Padding",
    "Parametric",
    "PlacedLayer",
    "Rearrangement",
    "Selection",
    "Shape",
    "check_shape",
    "number",
    "positive",
]


@names_checked
@dataclass(frozen=True)
class Flatten(Rearrangement):
    """All axes into one, in C order."""

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return `(number of values,)`."""
        return (math.prod(self.single(input_shapes)),)
