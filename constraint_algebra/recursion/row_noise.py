"""How far noise may put each gradient entry from what an input gives: of the entry itself, of k, and of rounding.

The client rounds every value and every output gradient on its way. An error of a value travels up through weights and
slopes, one of an output gradient down; both are followed as variances, errors of different numbers as independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.walk import Rules, down_through, up
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.regions.gradient_map import GradientMap

# Of the root mean square noise of a parameter: what the noise of an entry counts as at least. At another input than the
# one in hand an output may be active that is not here, and its rows have a noise then.
FLOOR = 0.1
ROUNDED_TOGETHER = 2.0  # rounding errors of one value reach many rows, which then do not average out


@dataclass(frozen=True)
class RowNoise:
    """Standard deviations of the gradients as equations for the input.

    Attributes:
        observed: parameters and gradients.
        of_x: the gradients as a function of the input.
    """

    observed: Observation
    of_x: GradientMap

    def at(self, x: FloatArray) -> FloatArray:
        """Return the standard deviation of each row's residual at an input, shape `(rows,)`."""
        of_k = np.sqrt((self._by_start(x) ** 2).mean(axis=1))
        return self._floored(np.sqrt(self._own**2 + self._rounding(x) ** 2 + of_k**2))

    def draws(self, x: FloatArray) -> FloatArray:
        """Return `MEMBERS` draws of the noise of all rows, shape `(rows, MEMBERS)`."""
        own = np.hypot(self._own, self._rounding(x))
        return self.observed.draw(own, own.shape) + self._by_start(x)

    @cached_property
    def _own(self) -> FloatArray:
        return self.of_x.flat(self.observed.deviations)

    @cached_property
    def _moved_k(self) -> FloatArray:
        """Draws of the noise of `start`'s output gradient, `(filters, MEMBERS)`."""
        start, k = self.of_x.start, self.of_x.k
        if start.bias_name is not None:
            deviation = self.observed.deviations[start.bias_name]
        else:
            of_dW = np.linalg.norm(self.observed.deviations[start.weight_name])
            deviation = of_dW / (np.linalg.norm(self.observed.gradients[start.weight_name]) or 1.0) * np.abs(k)
        return self.observed.draw(deviation, k.shape)

    def _by_start(self, x: FloatArray) -> FloatArray:
        """Return what noise of `start`'s output gradient does to the rows, which depend on it linearly."""
        return self.of_x.for_other(self._moved_k, x)

    def _rounding(self, x: FloatArray) -> FloatArray:
        """Return the standard deviation that the client's arithmetic leaves in each row."""
        share = (ROUNDED_TOGETHER * self.observed.rounding.arithmetic) ** 2
        W = {name: values**2 for name, values in self.of_x.parameters.items()}
        at = self.of_x.at(x)
        values, slopes, k = at

        def product(layer: PlacedLayer, h: FloatArray) -> FloatArray:
            b = 0.0 if layer.bias_name is None else W[layer.bias_name].reshape(-1, *(1,) * len(layer.outputs))
            rounded = trilinear.forward(layer, W[layer.weight_name], h + share * values[layer.index] ** 2)
            return np.asarray(rounded + share * b)

        forth = Rules[FloatArray](
            activation=lambda layer, z: slopes[layer.index] ** 2 * z,
            reshape=lambda layer, h: h.reshape(layer.output_shape),
            bilinear=product,
        )
        of_values = up(self.of_x.layers, np.zeros(self.of_x.network.input_shape), forth)

        def bent(layer: PlacedLayer, variance: FloatArray) -> FloatArray:
            i = layer.index
            by_slope = (self.of_x.curvature(at, layer) * k[i]) ** 2 * of_values[i]
            return np.asarray(slopes[i] ** 2 * variance + by_slope + share * (slopes[i] * k[i]) ** 2)

        back = Rules[FloatArray](
            activation=bent,
            reshape=lambda layer, variance: variance.reshape(layer.input_shape),
            bilinear=lambda layer, variance: trilinear.input_gradient(
                layer, W[layer.weight_name], variance + share * k[layer.index] ** 2
            ),
        )
        of_k = down_through(self.of_x.layers[1:], np.zeros(self.of_x.start.output_shape), back)
        rows: Parameters = {}
        for layer in self.of_x.layers:
            if layer.is_bilinear:
                h2, k2, v, u = values[layer.index] ** 2, k[layer.index] ** 2, of_values[layer.index], of_k[layer.index]
                rows[layer.weight_name] = trilinear.weight_gradient(layer, k2, v + share * h2)
                rows[layer.weight_name] += trilinear.weight_gradient(layer, u, h2)
                if layer.bias_name is not None:
                    rows[layer.bias_name] = trilinear.bias_gradient(layer, u + share * k2)
        return np.sqrt(self.of_x.flat(rows))

    def _floored(self, noise: FloatArray) -> FloatArray:
        """Return noise nowhere far below that of its parameter, or of the whole gradient where all of that is zero."""
        everywhere = float(np.sqrt((noise**2).mean())) or 1.0
        floors = {
            name: np.full(values.shape, FLOOR * float(np.sqrt((values**2).mean())) or FLOOR * everywhere)
            for name, values in self.of_x.by_name(noise).items()
        }
        return np.maximum(noise, self.of_x.flat(floors))
