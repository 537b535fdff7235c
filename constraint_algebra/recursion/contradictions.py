"""Filters whose output gradient k is wrong or open, and how the layer's solved input x settles it.

On which side of its edge the activation above worked is decided before the layer is solved. A wrong decision makes a k
wrong, and with it all gradient equations of its filter: the solution breaks them by far more than their noise, and the
layer is solved without them (`suspects`, `without`, `resolved`). Where the side is open or doubted, x settles it: the
output z = W x + b lies on one side or the other (`settled_by_input`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.recursion.estimates import EDGE, Above, Estimate
from constraint_algebra.recursion.result import CONTRADICTION
from constraint_algebra.solvers.noisy_equations import LayerEquations

RESOLVED = 0.5  # of a contradiction: what the filters that are kept must stay below, clear of the limit
PRIME_SUSPECTS = 0.3  # of the largest misfit: filters beyond are left out first, as theirs spoils that of the others
SIDES = EDGE


def misfits(equations: LayerEquations, x: FloatArray) -> FloatArray:
    """Return for each filter the root mean square residual of its gradient equations, in units of their noise."""
    layer = equations.layer
    rows = equations.gradient_rows.reshape(layer.filters, 1, *layer.taps)
    noise = np.where(equations.gradient_rows, equations.gradient_noise, np.inf).reshape(rows.shape)
    residual = trilinear.weight_gradient(layer, equations.output_gradient, x) - equations.weight_gradient
    squares = (np.where(rows, residual, 0.0) / noise) ** 2
    return np.asarray(np.sqrt(squares.reshape(layer.filters, -1).mean(axis=1)))


def suspects(equations: LayerEquations, x: FloatArray) -> BoolArray:
    """Return the filters whose gradient equations contradict the input x most, if any do."""
    found = misfits(equations, x)
    return np.asarray((found > CONTRADICTION) & (found >= PRIME_SUSPECTS * found.max(initial=0.0)))


def resolved(equations: LayerEquations, x: FloatArray) -> bool:
    """Whether no filter's gradient equations come near to contradicting the input x."""
    return bool(misfits(equations, x).max(initial=0.0) < RESOLVED * CONTRADICTION)


def without(equations: LayerEquations, filters: BoolArray) -> LayerEquations:
    """Return the equations without the gradient equations of some filters."""
    return replace(equations, gradient_rows=equations.gradient_rows & ~filters[:, None])


def settled_by_input(
    layer: PlacedLayer,
    weight: FloatArray,
    bias: FloatArray,
    above: Above,
    x: Estimate,
    k: Estimate,
    doubted: BoolArray,
) -> Estimate:
    """Return the layer's output gradient k, with what the side of z = W x + b settles of it.

    Args:
        layer: the layer.
        weight: W.
        bias: b, shape `(filters,)`.
        above: the activation that reads z, and the gradient at its output.
        x: the layer's input.
        k: the output gradient by the evidence from above.
        doubted: filters whose k is not believed, shape `(filters,)`.
    """
    f, dy = formulas(above.activation), above.gradient
    per_filter = (-1, *(1,) * len(layer.outputs))
    doubtful = np.broadcast_to(doubted.reshape(per_filter), k.known.shape)
    asked = (~k.known | doubtful) & dy.known
    edge_at_zero = f.kink is not None or f.plateaus == (0.0,)
    if not edge_at_zero or not asked.any():
        return replace(k, known=k.known & ~doubtful)
    z = trilinear.forward(layer, weight, x.filled()) + bias.reshape(per_filter)
    moved = trilinear.forward(layer, weight, np.where(x.known[..., None], x.perturbations, 0.0))
    reached = trilinear.forward(layer, (weight != 0).astype(float), (~x.known).astype(float)) == 0
    deviation = np.sqrt((moved**2).mean(axis=-1))
    sure = asked & reached & (np.abs(z) > SIDES * deviation)
    d = f.derivative(f.value(z))
    return Estimate(
        np.where(sure, dy.value * d, k.value),
        sure | (k.known & ~doubtful),
        np.where(sure[..., None], d[..., None] * dy.perturbations, k.perturbations),
    )
