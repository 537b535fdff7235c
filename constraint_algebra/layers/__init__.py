"""Layers: what they are, and the trilinear form that all equations come from.

| module | concept |
| --- | --- |
| `kinds` | shapes and hyper-parameters of convolutions, linear layers and reshapes; a layer at its place |
| `activations` | the pointwise functions: value, inverse and derivative as functions of the output |
| `incidence` | which input position meets which output position through which tap |
| `trilinear` | the incidence contracted with weights, inputs and output gradients, without building a matrix |

A new operation has its module here: a join of two values, a pooling, a normalisation.
"""

from __future__ import annotations

from constraint_algebra.layers.activations import (
    ELU,
    SELU,
    Hardtanh,
    Identity,
    LeakyReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
)
from constraint_algebra.layers.kinds import (
    Activation,
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    Flatten,
    Layer,
    Linear,
    PlacedLayer,
    Shape,
    check_shape,
)

__all__ = [
    "ELU",
    "SELU",
    "Activation",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Flatten",
    "Hardtanh",
    "Identity",
    "Layer",
    "LeakyReLU",
    "Linear",
    "PlacedLayer",
    "ReLU",
    "ReLU6",
    "Shape",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
    "check_shape",
]
