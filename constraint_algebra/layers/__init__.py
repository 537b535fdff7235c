"""Layers: what they are, and the trilinear form that all equations come from.

| module | concept |
| --- | --- |
| `base` | the kinds of operations; a layer at its place |
| `hyper_parameters` | what they are held to |
| `kinds` | all that most modules need of the two above and below, and `Flatten` |
| `convolutions` | layers with a weight: convolutions, linear layers, a scale for each channel |
| `transposed` | transposed convolutions |
| `joins`, `rearranging`, `scaling` | affine operations: sums, concatenations; moves; known factors |
| `pooling` | means of windows, which are affine, and their largest entries, which are selections |
| `normalisation` | batch, group, layer, instance and RMS norm as they are written; batch norm in evaluation mode |
| `own_statistics` | normalisation by the statistics of the values themselves |
| `dropout` | values dropped at random, in training mode |
| `activations` | the pointwise functions: value, inverse and derivative as functions of the output |
| `formula` | what is known of one of them as formulas |
| `two_branches` | the pointwise functions that fall before they rise: both inverses of an output |
| `incidence` | which input position meets which output position through which tap |
| `trilinear` | the incidence contracted with weights, inputs and output gradients, without building a matrix |
"""

from __future__ import annotations

from constraint_algebra.layers.activations import (
    ELU,
    GELU,
    SELU,
    Hardswish,
    Hardtanh,
    Identity,
    LeakyReLU,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
)
from constraint_algebra.layers.base import (
    Activation,
    Affine,
    Compound,
    Layer,
    Normalisation,
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
    Linear,
)
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.joins import Add, Concatenate, Subtract
from constraint_algebra.layers.kinds import Flatten
from constraint_algebra.layers.normalisation import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
    Standardise,
)
from constraint_algebra.layers.own_statistics import OwnStatistics
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
from constraint_algebra.layers.transposed import (
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Spread,
)

__all__ = [
    "ELU",
    "GELU",
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
    "Dropout",
    "Flatten",
    "GroupNorm",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Maxout",
    "Mean",
    "Mish",
    "Normalisation",
    "Normalise",
    "OwnStatistics",
    "PReLU",
    "Pad",
    "Parametric",
    "Permute",
    "PixelShuffle",
    "PixelUnshuffle",
    "PlacedLayer",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Rearrangement",
    "Reshape",
    "Scale",
    "Selection",
    "Shape",
    "SiLU",
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
