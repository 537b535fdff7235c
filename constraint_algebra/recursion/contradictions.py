"""What a layer's input, once found, says of the layer's own outputs.

On which side of its edge an activation worked is decided before the layer is solved, from above. Where that stays open,
or was decided wrongly, the solved input settles it: its own output z = W x + b lies on one side or the other. A wrong
decision shows before that: it breaks all gradient equations of its filter by far more than their noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.result import CONTRADICTION
from constraint_algebra.solvers.noisy_equations import LayerEquations

HEALED = 0.5  # of what counts as a contradiction: what must be left where filters were left out
PRIME_SUSPECTS = 0.3  # of the largest residual: filters beyond are left out first, as theirs spoils that of the others
SIDES = 6.0  # standard deviations from the edge at which an output is settled


def misfits(equations: LayerEquations, x: FloatArray) -> FloatArray:
    """Return for each filter the root mean square residual of its gradient equations, in units of their noise."""
    layer = equations.layer
    rows = equations.gradient_rows.reshape(layer.filters, 1, *layer.taps)
    noise = np.where(equations.gradient_rows, equations.gradient_noise, np.inf).reshape(rows.shape)
    residual = trilinear.weight_gradient(layer, equations.output_gradient, x) - equations.weight_gradient
    squares = (np.where(rows, residual, 0.0) / noise) ** 2
    return np.asarray(np.sqrt(squares.reshape(layer.filters, -1).mean(axis=1)))


def suspects(equations: LayerEquations, x: FloatArray) -> BoolArray:
    """Return the filters whose gradient equations contradict the solution most, if any do."""
    found = misfits(equations, x)
    return np.asarray((found > CONTRADICTION) & (found >= PRIME_SUSPECTS * found.max(initial=0.0)))


def agrees(equations: LayerEquations, x: FloatArray) -> bool:
    """Whether no filter's gradient equations come near to a contradiction."""
    return bool(misfits(equations, x).max(initial=0.0) < HEALED * CONTRADICTION)


def without(equations: LayerEquations, filters: BoolArray) -> LayerEquations:
    """Return the equations without the gradient equations of some filters."""
    return replace(equations, gradient_rows=equations.gradient_rows & ~filters[:, None])


def settled(
    layer: PlacedLayer,
    weight: FloatArray,
    bias: FloatArray,
    activation: Activation,
    dy: Estimate,
    x: Estimate,
    k: Estimate,
    doubted: BoolArray,
) -> Estimate:
    """Return the output gradient k, with what z = W x + b settles.

    Args:
        layer: the layer.
        weight: W.
        bias: b, shape `(filters,)`.
        activation: the one on the layer's output.
        dy: the gradient that arrives at the activation's output.
        x: the layer's input.
        k: the output gradient by the evidence from above.
        doubted: filters whose k is not believed.
    """
    f = formulas(activation)
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
