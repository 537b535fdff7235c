"""Layers: what they are, and the trilinear form that all equations come from.

| module | concept |
| --- | --- |
| `base` | the kinds of operations; a layer at its place |
| `kinds` | all that most modules need of the two above and below, and `Flatten` |
| `convolutions` | layers with a weight: convolutions also transposed, linear layers, a scale for each channel |
| `joins`, `rearranging`, `scaling` | affine operations: sums, concatenations; moves; known factors |
| `pooling` | means of windows, which are affine, and their largest entries, which are selections |
| `normalisation` | batch norm in evaluation mode |
| `own_statistics` | normalisation by the statistics of the values themselves |
| `activations` | the pointwise functions: value, inverse and derivative as functions of the output |
| `incidence` | which input position meets which output position through which tap |
| `trilinear` | the incidence contracted with weights, inputs and output gradients, without building a matrix |
"""

from __future__ import annotations

from constraint_algebra.layers.activations import (
    ELU,
    SELU,
    Hardtanh,
    Identity,
    LeakyReLU,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
)
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
)
from constraint_algebra.layers.convolutions import (
    ChannelScale,
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    Spread,
)
from constraint_algebra.layers.joins import Add, Concatenate, Subtract
from constraint_algebra.layers.kinds import Flatten
from constraint_algebra.layers.normalisation import BatchNorm, Standardise
from constraint_algebra.layers.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    Maxout,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Mean,
)
from constraint_algebra.layers.rearranging import Pad, Permute, PixelShuffle, PixelUnshuffle, Reshape, Slice, Upsample
from constraint_algebra.layers.scaling import Normalise, Scale

__all__ = [
    "ELU",
    "SELU",
    "Activation",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Add",
    "Affine",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "ChannelScale",
    "Compound",
    "Concatenate",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Flatten",
    "Hardtanh",
    "Identity",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Maxout",
    "Mean",
    "Normalise",
    "PReLU",
    "Pad",
    "Parametric",
    "Permute",
    "PixelShuffle",
    "PixelUnshuffle",
    "PlacedLayer",
    "ReLU",
    "ReLU6",
    "Rearrangement",
    "Reshape",
    "Scale",
    "Selection",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softplus",
    "Softsign",
    "Spread",
    "Standardise",
    "Subtract",
    "Tanh",
    "Upsample",
    "check_shape",
]
