"""What an observer can say about each input value, from the equations that the gradients yield, noise included.

The observer does not know the input. Each equation of the first layer holds up to its noise, an output seen to be cut
off gives an inequality, and values lie in the valid range. A value is *fixed* where the reconstruction determined it,
*bounded* where these leave it an interval smaller than the range, and *free* otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, Progress
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.proofs.polytope import Polytope
from constraint_algebra.recursion.result import PixelBounds
from constraint_algebra.solvers.null_space import RTOL, NullSpace


@checked
@dataclass(frozen=True, eq=False)
class FirstLayer:
    """What the gradients yield about the first layer: its equations, each with the largest error that noise explains.

    Attributes:
        layer: the first layer with a weight.
        weight, weight_gradient: W and dL/dW, in the weight's shape.
        weight_gradient_error: of each entry of dL/dW.
        output_gradient, output_gradient_error, output_gradient_known: k, in the output shape.
        output, output_error: z - b where the activation passes its value on, NaN elsewhere.
        side, edge: where an output is cut off `side * (z - b - edge) <= 0`; side 0 where nothing is known.
        arithmetic: relative error of the client's sums.
        valid_range: smallest and largest valid value.
        spread: how many standard deviations all errors here stand for.
    """

    layer: PlacedLayer
    weight: FloatArray
    weight_gradient: FloatArray
    weight_gradient_error: FloatArray
    output_gradient: FloatArray
    output_gradient_error: FloatArray
    output_gradient_known: BoolArray
    output: FloatArray
    output_error: FloatArray
    side: FloatArray
    edge: FloatArray
    arithmetic: float
    valid_range: tuple[float, float]
    spread: float

    def bounds(
        self,
        values: FloatArray,
        determined: BoolArray,
        error_bar: FloatArray,
        *,
        pixels: BoolArray | None = None,
        time_limit: float | None = None,
        progress: Progress | None = None,
    ) -> PixelBounds:
        """Return bounds for every value, or for those of the mask `pixels`; `Reconstruction.intervals` asks for them.

        Args:
            values: the reconstruction.
            determined: which of its values are.
            error_bar: one standard deviation of each.
            pixels: which values to look at, by default all.
            time_limit: seconds for each value; its bounds are then wider, and as sound.
            progress: called with (values done, values in all, index).
        """
        low, high = self.valid_range
        wanted = np.ones(values.shape, dtype=bool) if pixels is None else np.asarray(pixels, dtype=bool)
        lower, upper = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
        fixed = wanted & determined
        # No value is known better than arithmetic allows, whatever its error bar says.
        reach = self.spread * np.maximum(error_bar, self.arithmetic * max(abs(low), abs(high)))
        lower[fixed], upper[fixed] = (values - reach)[fixed], (values + reach)[fixed]
        todo = np.argwhere(wanted & ~determined).tolist()
        anchor = np.where(np.isfinite(values), values, (low + high) / 2).ravel()  # solves the equations, not the bounds
        polytope = self.polytope(anchor) if todo else None
        for number, index in enumerate(todo):
            assert polytope is not None
            place, c = tuple(index), np.zeros(values.shape)
            c[place] = 1.0
            half = None if time_limit is None else time_limit / 2
            widen = 1e-9 + float(np.median(polytope.margin)) if len(polytope.margin) else 1e-9
            at = anchor.reshape(values.shape)[place]
            rounding = 4 * np.finfo(float).eps * (abs(at) + 1)
            up = polytope.bound(c.ravel(), widen=widen, time_limit=half)
            down = polytope.bound(-c.ravel(), widen=widen, time_limit=half)
            lower[place], upper[place] = max(low, at - down - rounding), min(high, at + up + rounding)
            if progress is not None:
                progress(number + 1, len(todo), str(place))
        return PixelBounds(lower, upper, fixed, self.valid_range, self.spread)

    def polytope(self, anchor: FloatArray) -> Polytope:
        """Return all differences from a flat anchor that the equations allow."""
        layer, (low, high) = self.layer, self.valid_range
        largest = max(abs(low), abs(high))
        B, factors = unit_rows(weight_equations(layer, self.weight).matrix)
        passing, cut = np.isfinite(self.output).ravel(), (self.side != 0).ravel()
        # What the client's rounding may add to each output, whose row of B has unit norm.
        rounding = self.spread * self.arithmetic * (largest + np.abs(self.edge).ravel() * factors)
        equations = layer, self.output_gradient[None], sp.csr_array(B[passing]), self.output_gradient_known[None]
        null = NullSpace(*equations)
        margin = self._margins(null, self._gradient_error(largest), rounding[passing], factors[passing])
        noise = 3 * float(np.median(margin)) if len(margin) else 0.0
        if noise > RTOL:  # directions that noise alone would tell apart are open
            null = NullSpace(*equations, rtol=noise)
        rhs = self._rhs(null, factors[passing], passing)
        C = sp.csr_array(B[cut] * self.side.ravel()[cut][:, None])
        limit = (self.side * self.edge).ravel()[cut] * factors[cut]
        error = np.where(np.isfinite(self.output_error), self.output_error, 0.0).ravel()[cut] * factors[cut]
        return Polytope(
            null=null,
            margin=margin + np.abs(rhs - null.matrix @ anchor),
            cut=C,
            slack=limit + error + rounding[cut] - C @ anchor,
            lower=low - anchor,
            upper=high - anchor,
        )

    def _gradient_error(self, largest: float) -> FloatArray:
        """Return how far each gradient row may be off, over all channels, `(channels, filters / groups * taps)`."""
        layer = self.layer
        scale = np.abs(self.output_gradient).max() or 1.0
        size = scale * np.sqrt(trilinear.row_sums(layer, (self.output_gradient / scale) ** 2))
        from_k = largest * trilinear.row_sums(layer, self.output_gradient_error)
        own = from_k + self.spread * self.arithmetic * largest * size
        error = self.weight_gradient_error.reshape(layer.filters, -1, own.shape[1]) + own[:, None, :]
        return _by_channel(layer, error)

    def _margins(
        self, null: NullSpace, gradient_error: FloatArray, rounding: FloatArray, factors: FloatArray
    ) -> FloatArray:
        gradient = (gradient_error * null.row_scale)[null.row_counts]
        own = self.output_error.ravel()[np.isfinite(self.output).ravel()] * factors
        return np.concatenate([gradient, own + rounding])

    def _rhs(self, null: NullSpace, factors: FloatArray, passing: BoolArray) -> FloatArray:
        by_row = self.weight_gradient.reshape(self.layer.filters, -1, null.gradient_rows.shape[1])
        gradient = (_by_channel(self.layer, by_row) * null.row_scale)[null.row_counts]
        return np.concatenate([gradient, self.output.ravel()[passing] * factors])


def _by_channel(layer: PlacedLayer, rows: FloatArray) -> FloatArray:
    """Return rows (filter, channel of the group, tap) as `(channel, filter of the group * tap)`, the order of E."""
    groups = rows.reshape(layer.groups, layer.filters // layer.groups, layer.channels // layer.groups, -1)
    return groups.swapaxes(1, 2).reshape(layer.channels, -1)
