"""All that is known about the input of one layer, with its noise, and which directions that noise leaves known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer

USABLE = 3.0  # a direction known to a third of a typical value is known


@dataclass(frozen=True)
class LayerEquations:
    """What is known about the input of one layer, with its noise.

    Attributes:
        layer: the layer.
        weight: W, in the weight's shape.
        output_gradient: k, in the output shape; where it is unknown the value does not matter.
        gradient_rows: which gradient rows (f, t) count, those whose k are all known, shape `(filters, taps)`.
        gradient_noise: standard deviation of each gradient row, shape `(filters, taps)`.
        weight_gradient: dL/dW, in the weight's shape.
        output: z - b, in the output shape, NaN where the activation does not determine z.
        output_noise: standard deviation of `output`, in the output shape.
        scale: size of a typical input value; the unit in which a direction counts as known.
        coefficient_noise: the part of `gradient_noise` that comes from noise in k; by default all of it.
    """

    layer: PlacedLayer
    weight: FloatArray
    output_gradient: FloatArray
    gradient_rows: BoolArray
    gradient_noise: FloatArray
    weight_gradient: FloatArray
    output: FloatArray
    output_noise: FloatArray
    scale: float
    coefficient_noise: FloatArray | None = None

    @property
    def weight_rows(self) -> BoolArray:
        """Which weight rows count: those whose output is known, in the output shape."""
        return np.isfinite(self.output)

    @property
    def weight_row_count(self) -> int:
        """Number of weight rows that count."""
        return int(self.weight_rows.sum())

    @property
    def gradient_row_count(self) -> int:
        """Number of gradient rows that count, over all channels."""
        return int(self.gradient_rows.sum()) * (self.layer.channels // self.layer.groups)


def noise_cut(eq: LayerEquations) -> float:
    """Return how often the standard deviation of a direction must go into a typical value for it to be known.

    Noise in k turns a null vector n into one with a singular value: each gradient equation of its channel, in units of
    its noise, is off by the share that k has in that noise, divided by the scale. Twice the root of their sum of
    squares is beyond that. Weight equations have exact coefficients and add nothing.
    """
    noise = eq.gradient_noise if eq.coefficient_noise is None else eq.coefficient_noise
    shares = np.where(eq.gradient_rows, noise / np.where(eq.gradient_rows, eq.gradient_noise, 1.0), 0.0).reshape(
        eq.layer.groups, -1
    )
    return max(USABLE, 2 * float(np.sqrt((shares**2).sum(axis=1).max())))


def largest_row(eq: LayerEquations, whiten_output: FloatArray, whiten_gradient: FloatArray) -> float:
    """Return the Euclidean size of the largest row, in units of its noise."""
    layer = eq.layer
    of_filter = np.sqrt((eq.weight.reshape(layer.filters, -1) ** 2).sum(axis=1))
    largest = float(np.abs(eq.output_gradient).max()) or 1.0  # tiny squares underflow
    of_row = largest * np.sqrt(trilinear.row_sums(layer, (eq.output_gradient / largest) ** 2))
    weights = whiten_output.reshape(layer.filters, -1) * of_filter[:, None]
    return max(float(weights.max()), float((whiten_gradient * of_row).max()))


def weight_rows_size(eq: LayerEquations) -> float:
    """Return the Euclidean size of all weight rows together, in units of their noise."""
    of_filter = np.sqrt((eq.weight.reshape(eq.layer.filters, -1) ** 2).sum(axis=1))
    sizes = np.broadcast_to(of_filter.reshape(-1, *(1,) * len(eq.layer.outputs)), eq.layer.output_shape)
    known = eq.weight_rows
    return math.hypot(*(sizes[known] / eq.output_noise[known]).tolist())


def residual(eq: LayerEquations, x: FloatArray) -> float:
    """Return the largest residual at x relative to the largest right-hand side, over both kinds of equations."""
    rows = np.broadcast_to(eq.gradient_rows.reshape(eq.layer.filters, 1, *eq.layer.taps), eq.weight_gradient.shape)
    shares = [0.0]
    for found, given, counts in (
        (trilinear.weight_gradient(eq.layer, eq.output_gradient, x), eq.weight_gradient, rows),
        (trilinear.forward(eq.layer, eq.weight, x), eq.output, eq.weight_rows),
    ):
        largest = np.abs(given).max(where=counts, initial=0.0)
        if largest > 0:
            shares.append(float(np.abs(found - given).max(where=counts, initial=0.0) / largest))
    return max(shares)
