"""The pattern of a network of pieces, as far as its bias gradients name it without any value being known.

Below `start` every output gradient is what comes back from above times the slope on the side where the activation
worked, one of two numbers. The slopes of a filter add up to its bias gradient,

    sum over outputs of  d[o] * arriving[o]  =  dL/db

and a sum of up to 36 numbers of 52 bits names its terms. So the sides are found filter by filter, from `start` down,
even where no input of a layer can be solved for: which is what the recursion itself needs to find them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.walk import Rules, down
from constraint_algebra.numerics.subset_sums import subset_of_sum
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.regions.gradient_map import GradientMap

SURE = 3.0  # standard deviations of a sum within which it counts as met
FELT = 8.0  # so many times that, an output must weigh to be looked for at all


def slopes_by_sums(
    observed: Observation,
    of_x: GradientMap,
    otherwise: Mapping[int, FloatArray],
    out_of_time: Callable[[], bool] = lambda: False,
) -> dict[int, FloatArray]:
    """Return the slope of every activation by its index, as the bias gradients name it.

    Args:
        observed: parameters and gradients.
        of_x: the gradients as a function of the input; all activations are linear in pieces.
        otherwise: slopes that stand where no sum, or more than one choice, fits.
        out_of_time: asked before each filter; the others keep the slopes of `otherwise`.
    """
    found: dict[int, FloatArray] = {}

    def activation(layer: PlacedLayer, arriving: FloatArray) -> FloatArray:
        found[layer.index] = otherwise[layer.index].copy()
        below = _bilinear_below(of_x, layer)
        if below is not None and below.bias_name is not None:
            slopes = found[layer.index].reshape(below.filters, -1)  # a view
            for f, (a, known) in enumerate(zip(arriving.reshape(below.filters, -1), slopes, strict=True)):
                if not out_of_time():
                    slopes[f] = _of_filter(observed, layer, below, f, a, known)
        return arriving * found[layer.index]

    back = Rules[FloatArray](
        activation=activation,
        reshape=lambda layer, k: k.reshape(layer.input_shape),
        bilinear=lambda layer, k: trilinear.input_gradient(layer, of_x.parameters[layer.weight_name], k),
    )
    down(of_x.layers[1:], np.asarray(of_x.k, dtype=float).reshape(of_x.start.output_shape), back)
    return found


def _of_filter(
    observed: Observation,
    layer: PlacedLayer,
    below: PlacedLayer,
    f: int,
    arriving: FloatArray,
    otherwise: FloatArray,
) -> FloatArray:
    """Return the slopes at the outputs of one filter."""
    form = formulas(layer.activation)
    low, high = form.kink or ((0.0, 1.0) if form.plateaus else (1.0, 1.0))
    name = below.bias_name or ""
    noise = np.hypot(observed.deviations[name][f], 2 * observed.rounding.arithmetic * np.linalg.norm(arriving))
    effect = (high - low) * arriving
    felt = np.abs(effect) > FELT * SURE * noise
    rest = float(np.sum(arriving[~felt] * otherwise[~felt]))
    total = observed.gradients[name][f] - rest - low * arriving[felt].sum()
    chosen = subset_of_sum(effect[felt], float(total), SURE * float(noise))
    slopes = otherwise.copy()
    if chosen is not None:
        slopes[felt] = np.where(chosen, high, low)
    return slopes


def _bilinear_below(of_x: GradientMap, layer: PlacedLayer) -> PlacedLayer | None:
    """Return the layer whose output an activation reads, `None` where another activation lies between."""
    for other in reversed(of_x.layers[: layer.index]):
        if other.is_bilinear:
            return other
        if other.is_activation:
            return None
    return None
