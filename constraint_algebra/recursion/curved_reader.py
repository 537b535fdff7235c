"""What one layer's equations make of differences of the value that it reads, as products of whole matrices.

With k fixed and the value x given, the gradient rows `A(k) δx + A(slope · W δx) x` hold two matrices that do not change
from one product to the next: of k at the taps, and of what the outputs see of x. Each is gathered once.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.incidence import incidence


class CurvedReader:
    """One layer that reads a value, and the derivative of its rows.

    Args:
        layer: the layer.
        weight: its weight.
        k: the gradient at its output; zero where that is not known.
        slope: of k in the output, in its shape and a last axis; a number where all are alike.
        x: the value.
    """

    def __init__(
        self, layer: PlacedLayer, weight: FloatArray, k: FloatArray, slope: FloatArray | float, x: FloatArray
    ) -> None:
        """Gather both matrices."""
        self.layer, self.weight, self.slope = layer, weight, slope
        S, G = incidence(layer), layer.groups
        padded = np.pad(k.reshape(layer.filters, -1), ((0, 0), (0, 1)))
        self._gradients = np.ascontiguousarray(padded[:, S.meeting]).reshape(G, -1, S.position_count)
        padded = np.pad(x.reshape(layer.channels, -1), ((0, 0), (0, 1)))
        self._seen = np.ascontiguousarray(padded[:, S.positions_seen.T]).reshape(G, -1, S.output_count)

    def forward(self, d: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what differences `(*input_shape, n)` make of the weight's gradient and of the output, n last."""
        z = trilinear.forward(self.layer, self.weight, d)
        return self._by_difference(d) + self._by_gradient(np.asarray(self.slope * z)), z

    def adjoint(self, gradient: FloatArray, output: FloatArray) -> FloatArray:
        """Return the transpose of `forward` applied to `(*weight_shape, n)` and `(*output_shape, n)`."""
        layer, n = self.layer, gradient.shape[-1]
        G, F, C = layer.groups, layer.filters // layer.groups, layer.channels // layer.groups
        parts = gradient.reshape(G, F, C, -1, n)
        by_row = parts.transpose(0, 1, 3, 2, 4).reshape(G, self._gradients.shape[1], C * n)
        sent = self._gradients.swapaxes(1, 2) @ by_row  # group, position, channel and n
        direct = sent.reshape(G, -1, C, n).swapaxes(1, 2).reshape(*layer.input_shape, n)
        seen_by = parts.transpose(0, 1, 4, 2, 3).reshape(G, F * n, -1) @ self._seen
        through = seen_by.reshape(G, F, n, -1).swapaxes(2, 3).reshape(*layer.output_shape, n)
        return np.asarray(direct + trilinear.input_gradient(layer, self.weight, output + self.slope * through))

    def curvature(self, weights: FloatArray) -> FloatArray:
        """Return what k that moves adds to the normal equations of the value, on the diagonal, in its shape.

        Args:
            weights: of the gradient rows, in the weight's order.
        """
        layer = self.layer
        squares = weights.reshape(layer.groups, layer.filters // layer.groups, -1) ** 2 @ self._seen**2
        of_output = np.square(self.slope) * squares.reshape(*layer.output_shape, 1)
        return trilinear.input_gradient(layer, self.weight**2, of_output)[..., 0]

    def _by_difference(self, d: FloatArray) -> FloatArray:
        """Return `A(k) d`, `(*weight_shape, n)`."""
        layer, n = self.layer, d.shape[-1]
        G, F, C = layer.groups, layer.filters // layer.groups, layer.channels // layer.groups
        by_place = d.reshape(G, C, -1, n).swapaxes(1, 2).reshape(G, -1, C * n)
        rows = (self._gradients @ by_place).reshape(G, F, -1, C, n)
        return rows.swapaxes(2, 3).reshape(*layer.weight_shape, n)

    def _by_gradient(self, k: FloatArray) -> FloatArray:
        """Return `A(k) x` for gradients `(*output_shape, n)` at the output, `(*weight_shape, n)`."""
        layer, n = self.layer, k.shape[-1]
        G, F = layer.groups, layer.filters // layer.groups
        by_output = k.reshape(G, F, -1, n).swapaxes(2, 3).reshape(G, F * n, -1)
        rows = (by_output @ self._seen.swapaxes(1, 2)).reshape(G, F, n, -1)
        return rows.swapaxes(2, 3).reshape(*layer.weight_shape, n)
