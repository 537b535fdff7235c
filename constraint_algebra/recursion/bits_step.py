"""The gradient at a layer's output, where values above it are open and with them the sides of its activation.

What arrives at a ReLU, `dL/dy`, is known there; what it passes on is that or zero: one bit for each output whose value
is open. `open_bits` finds all bits of a layer at once. They count only if the layer's input, solved for with them, puts
every output on the side that its bit says.
"""

from __future__ import annotations

import time

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.recursion import layer_step, open_bits
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.estimates import Above, Estimate
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.open_values import Beyond, family_of
from constraint_algebra.recursion.value_equations import Reader, ValueEquations


def with_bits(
    observed: Observation,
    layer: PlacedLayer,
    gradient: Estimate,
    above: Above | None,
    y: Estimate | None,
    upper: Reader,
    beyond: Beyond,
) -> Estimate:
    """Return the gradient at a layer's output, with the bits of its ReLU if a pattern fits all equations.

    Args:
        observed: parameters and gradients.
        layer: the layer.
        gradient: at its output, as far as it is known.
        above: the activation that reads it.
        y: the output of that.
        upper: the layer that reads y.
        beyond: how long to search.
    """
    if above is None or y is None or gradient.known.all() or not above.gradient.known.all():
        return gradient
    if formulas(above.activation).plateaus != (0.0,):
        return gradient
    family = _family(observed, y, upper)
    found = open_bits.passes(observed, layer, above, y, family, seconds=beyond.end - time.monotonic(), seed=beyond.seed)
    if found is None:
        return gradient
    k = _passed(gradient, above.gradient, found)
    return k if _is_confirmed(observed, layer, k, y, found) else gradient


def _family(observed: Observation, y: Estimate, upper: Reader) -> Family | None:
    """Return the family of all y that the equations of the layer above leave possible."""
    value = y.reshape(upper.layer.input_shape)
    if not upper.says_something():
        return None
    system = ValueEquations(observed, value, [upper])
    return None if system.rank is None else family_of(system)


def _passed(gradient: Estimate, dy: Estimate, passes: BoolArray) -> Estimate:
    """Return the gradient below a ReLU: as it was known, elsewhere what arrives, where it passes."""
    known, on = gradient.known, passes.reshape(gradient.known.shape)
    arriving = dy.reshape(gradient.known.shape)
    moved = np.where(on[..., None], arriving.perturbations, 0.0)
    return Estimate(
        np.where(known, gradient.value, np.where(on, arriving.value, 0.0)),
        np.ones(known.shape, dtype=bool),
        np.where(known[..., None], gradient.perturbations, moved),
    )


def _is_confirmed(observed: Observation, layer: PlacedLayer, k: Estimate, y: Estimate, passes: BoolArray) -> bool:
    """Whether the layer's input, solved for with the bits, puts every output on its side."""
    z = Estimate(y.value, y.known & passes.reshape(y.known.shape), y.perturbations).reshape(layer.output_shape)
    solved = layer_step.solve(observed, layer, k, z)
    if solved.left_out.any():
        return False
    out = layer_step.output_of(observed, layer, solved.input)
    clear = out.known & (np.abs(out.value) > SIDES * out.deviation)
    return bool(((out.value > 0) == passes.reshape(out.known.shape))[clear].all())
