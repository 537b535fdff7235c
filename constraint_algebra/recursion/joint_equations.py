"""The equations of several layers with no activation between them, in one unknown: the input x of the lowest.

The input of each layer is `h = M x + c`. Every gradient equation `A(k) h = dL/dW` whose k are known is one of x, and so
is every weight equation `B(W) h = z - b` of the highest layer, the only one whose z comes from above. Rows are weighed
by their noise, to which the rounding of h counts; what is determined is judged as for a layer by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.dense_least_squares import Reduced
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Above, Estimate
from constraint_algebra.recursion.layer_step import layer_equations
from constraint_algebra.recursion.noise import STORED_SOLUTION, settled
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import LayerSolution
from constraint_algebra.solvers.gradient_blocks import gather, gradient_blocks, project
from constraint_algebra.solvers.noisy_equations import USABLE, LayerEquations, largest_row, residual

LARGER = 3.0  # times as large, or as small, as its right-hand sides let it seem, an input has noise of another size
SIGNAL = 10.0  # times their noise, right-hand sides tell the size of a typical value


@dataclass(frozen=True)
class OpenLayer:
    """A layer whose input is not wholly determined, with what is known at its output.

    Attributes:
        layer: the layer.
        k: the gradient there.
        z: its output, bias included; counts for the highest layer of a group alone, those below give z to it.
        above: the activation that reads it; `None` where another layer does.
    """

    layer: PlacedLayer
    k: Estimate
    z: Estimate
    above: Above | None = None

    def says_something(self) -> bool:
        """Whether it has any equation: a value that is known, or a gradient that is known and not zero."""
        return self.k.says_something(self.z)


class _Part:
    """The equations of one layer of a group, over the layer's own input h, each in units of its noise.

    Args:
        observed: parameters and gradients.
        place: the layer and what is known at its output.
        highest: whether its z counts.
        scale: size of a typical value of h; `None` where the right-hand sides are to tell.
        variance: of the rounding of h, which the client computed from the unknowns.
        gain: the largest singular value of the map from the unknowns to h.
    """

    def __init__(
        self,
        observed: Observation,
        place: OpenLayer,
        *,
        highest: bool,
        scale: float | None,
        variance: FloatArray,
        gain: float,
    ) -> None:
        """Weigh the rows."""
        self.place, self.layer = place, place.layer
        self.weight, self.bias = observed.parameters[self.layer.weight_name], observed.bias(self.layer)
        self.bias = self.bias.reshape(-1, *(1,) * len(self.layer.outputs))
        z = place.z if highest else Estimate.unknown(self.layer.output_shape, MEMBERS)
        own, noise = layer_equations(observed, self.layer, place.k, z, scale)
        self.equations, self.rounding = _with_rounding(own, variance), noise.output
        counts, known = self.equations.gradient_rows, self.equations.weight_rows
        self.whiten_gradient = np.where(counts, 1 / np.where(counts, self.equations.gradient_noise, 1.0), 0.0)
        self.whiten_output = np.where(known, 1 / np.where(known, self.equations.output_noise, 1.0), 0.0)
        self.size = gain * largest_row(self.equations, self.whiten_output, self.whiten_gradient)
        self.unit = 1 / (self.size or 1.0)  # no row over the unknowns is larger than 1 then
        self.spurious = gain * _coefficient_noise(self.equations) / self.equations.scale
        k, whiten = self.equations.output_gradient, self.unit * self.whiten_gradient
        self.blocks = gradient_blocks(self.layer, k, counts, whiten)

    def up(self, h: FloatArray, bias: float = 1.0) -> FloatArray:
        """Return the layer's output for one h or several, with its bias so many times."""
        b = bias * self.bias
        return trilinear.forward(self.layer, self.weight, h) + (b if h.ndim == b.ndim else b[..., None])

    def applied(self, h: FloatArray) -> FloatArray:
        """Return all rows applied to h `(*input_shape, n)`, `(rows, n)`."""
        n = h.shape[-1]
        h4 = h.reshape(self.layer.groups, self.layer.channels // self.layer.groups, -1, n)
        found = [(block.core @ gather(h4, block)).reshape(-1, n) for block in self.blocks]
        return np.concatenate([*found, self._weight_rows(lambda: self.up(h, 0.0), n)])

    def sides(self, weight_gradient: FloatArray, output: FloatArray) -> FloatArray:
        """Return n right-hand sides of all rows, `(rows, n)`; see `TwoStage.solve`."""
        n = weight_gradient.shape[-1]
        found = project(self.layer, self.blocks, self.unit * self.whiten_gradient, weight_gradient)
        return np.concatenate([*(part.reshape(-1, n) for part in found), self._weight_rows(lambda: output, n)])

    def _weight_rows(self, output: Callable[[], FloatArray], n: int) -> FloatArray:
        """Return the rows of the weight equations that count, given values of all of them."""
        rows = self.equations.weight_rows
        return self.unit * self.whiten_output[rows][:, None] * output()[rows] if rows.any() else np.zeros((0, n))

    def lacking(self, h: FloatArray) -> FloatArray:
        """Return by how much h misses the right-hand sides, `(rows, 1)`."""
        eq = self.equations
        dW = eq.weight_gradient - trilinear.weight_gradient(self.layer, eq.output_gradient, h)
        output = eq.output - trilinear.forward(self.layer, self.weight, h)
        return self.sides(dW[..., None], output[..., None])


def _with_rounding(equations: LayerEquations, variance: FloatArray) -> LayerEquations:
    """Return equations with the noise that comes from rounding the layer's input, of the given variance."""
    layer = equations.layer
    gradient = trilinear.weight_gradient(layer, equations.output_gradient**2, variance)
    by_row = gradient.reshape(layer.filters, -1, equations.gradient_noise.shape[1]).mean(axis=1)
    output = trilinear.forward(layer, equations.weight**2, variance)
    return replace(
        equations,
        gradient_noise=np.hypot(equations.gradient_noise, np.sqrt(by_row)),
        output_noise=np.hypot(equations.output_noise, np.sqrt(output)),
    )


def _coefficient_noise(eq: LayerEquations) -> float:
    """Return how large noise in k makes the rows along one channel, times a typical value; see `noise_cut`."""
    assert eq.coefficient_noise is not None
    shares = np.where(eq.gradient_rows, eq.coefficient_noise / np.where(eq.gradient_rows, eq.gradient_noise, 1.0), 0.0)
    return float(np.sqrt((shares.reshape(eq.layer.groups, -1) ** 2).sum(axis=1).max()))


class JointEquations:
    """The equations of a group of layers in the input x of the lowest, as a dense matrix, factored.

    Args:
        observed: parameters and gradients.
        layers: the layers, the lowest first.
        scales: size of a typical input value of each; `None` where the right-hand sides are to tell.

    Attributes:
        parts: the equations of each layer.
        scale: size of a typical value of x.
        unit: the noise of every row.
        null: orthonormal basis of what the equations leave open, as columns.
        shares: its share of each value, in the shape of x.
        rank: their numerical rank.
        condition: condition number of the directions solved for, each row in units of its noise.
    """

    def __init__(
        self, observed: Observation, layers: Sequence[OpenLayer], scales: Sequence[float | None] | None = None
    ) -> None:
        """Compose the maps from x to the input of each layer, and factor."""
        self.observed, self.layer = observed, layers[0].layer
        n = self.layer.unknowns
        M, variance = np.eye(n).reshape(*self.layer.input_shape, n), np.zeros(self.layer.input_shape)
        self.parts: list[_Part] = []
        rows: list[FloatArray] = []
        for place, scale in zip(layers, scales or [None] * len(layers), strict=True):
            shape = place.layer.input_shape
            M, variance = M.reshape(*shape, n), variance.reshape(shape)
            gain = _largest_singular_value(M.reshape(-1, n))
            highest = place is layers[-1]
            part = _Part(observed, place, highest=highest, scale=scale, variance=variance, gain=gain)
            rows.append(part.applied(M))
            self.parts.append(part)
            M = M if highest else part.up(M, 0.0)
            variance = trilinear.forward(part.layer, part.weight**2, variance) + part.rounding**2
        self._factor(rows)

    def _factor(self, rows: list[FloatArray]) -> None:
        """Bring the rows of all layers to one unit, and say what they determine."""
        n = self.layer.unknowns
        self.scale = _typical(rows, self.sides(self.inputs(np.zeros(self.layer.input_shape))), self.parts)
        self.unit = 1 / (max(part.size for part in self.parts) or 1.0)
        matrix = self._joined(rows)
        # Noise in k turns a null vector into one with a singular value, in every layer by its own share.
        cut = max(USABLE / self.scale, 2 * math.hypot(*(part.spurious for part in self.parts)))
        rounding = n * float(np.finfo(float).eps)  # the largest row is of size 1
        if len(matrix):
            self.reduced: Reduced | None = Reduced(matrix, max(self.unit * cut, rounding))
            self.null, rank, kept = self.reduced.null, self.reduced.rank, self.reduced.kept
        else:
            self.reduced, self.null, rank, kept = None, np.eye(n), 0, np.zeros(0)
        self.rank, self.condition = rank, float(kept.max() / kept.min()) if len(kept) else 1.0
        self.shares = np.sqrt((self.null**2).sum(axis=1)).reshape(self.layer.input_shape)

    def _joined(self, sides: Sequence[FloatArray]) -> FloatArray:
        """Return rows or right-hand sides of all layers, those of each in its own unit, in one unit."""
        return np.concatenate([self.unit / part.unit * some for part, some in zip(self.parts, sides, strict=True)])

    def inputs(self, x: FloatArray) -> list[FloatArray]:
        """Return the input of every layer for one x or several, the lowest first."""
        several, found = x.shape[len(self.layer.input_shape) :], [x]
        for part, above in zip(self.parts, self.parts[1:], strict=False):
            found.append(part.up(found[-1]).reshape(above.layer.input_shape + several))
        return found

    def typical(self, x: FloatArray) -> list[float]:
        """Return the size of a typical input value of each layer at x, or more if its right-hand sides say so."""
        found = [float(np.sqrt((h**2).mean())) for h in self.inputs(x)]
        return [
            max(size, part.equations.scale if part.size else 0.0) for size, part in zip(found, self.parts, strict=True)
        ]

    def misjudged(self, x: FloatArray) -> bool:
        """Whether the noise of some layer was far from what its input is at x, so that all have to be weighed anew."""
        pairs = zip(self.typical(x), self.parts, strict=True)
        return any(not part.equations.scale / LARGER < size < LARGER * part.equations.scale for size, part in pairs)

    def sides(self, inputs: Sequence[FloatArray]) -> list[FloatArray]:
        """Return by how much the inputs of the layers miss their right-hand sides."""
        return [part.lacking(h) for part, h in zip(self.parts, inputs, strict=True)]

    def solution(self) -> FloatArray:
        """Return x, of what is open the part of least norm; one step of refinement frees it of rounding in the maps."""
        x = np.zeros(self.layer.input_shape)
        for _ in range(2):
            x = x + self.solve(self._joined(self.sides(self.inputs(x))))[..., 0]
        return x

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Return the least-squares x for n right-hand sides `(rows, n)`, `(*input_shape, n)`."""
        n = rhs.shape[-1]
        flat = self.reduced.solve(rhs) if self.reduced is not None else np.zeros((self.layer.unknowns, n))
        return flat.reshape(*self.layer.input_shape, n)

    def moved(self, x: FloatArray) -> FloatArray:
        """Return how each perturbation of all k, dL/dW, z and of the client's rounding moves x.

        To first order `A M δx = δ(dL/dW) + A ε - δA h` and `B M δx = δz + B ε`, with ε the rounding of the layer's
        input h = M x + c. What the equations leave open of x is drawn anew for every member: δA multiplies it as well.
        """
        draw, arithmetic = self.observed.draw, self.observed.rounding.arithmetic
        of_null = draw(np.full(self.null.shape[1], self.scale), (self.null.shape[1],))
        inputs = self.inputs(x[..., None] + (self.null @ of_null).reshape(*x.shape, MEMBERS))
        error: FloatArray = np.zeros((*x.shape, MEMBERS))
        sides: list[FloatArray] = []
        for part, h in zip(self.parts, inputs, strict=True):
            layer, k = part.layer, part.place.k
            error, squares = error.reshape(h.shape), (h**2).mean(axis=-1)
            own = self.observed.deviations[layer.weight_name]
            rounded = arithmetic * np.sqrt(trilinear.weight_gradient(layer, k.filled() ** 2, squares))
            gradient = draw(np.hypot(own, rounded), layer.weight_shape)
            for m in range(MEMBERS):
                gradient[..., m] += trilinear.weight_gradient(layer, k.filled(), error[..., m])
                gradient[..., m] -= trilinear.weight_gradient(layer, k.perturbations[..., m], h[..., m])
            rounded = arithmetic * (np.sqrt(trilinear.forward(layer, part.weight**2, squares)) + np.abs(part.bias))
            error = part.up(error, 0.0) + draw(rounded, layer.output_shape)
            sides.append(part.sides(gradient, part.place.z.perturbations + error))
        return self.solve(self._joined(sides)) + draw(STORED_SOLUTION * np.abs(x), x.shape)

    def estimate(self, x: FloatArray) -> Estimate:
        """Return the solution x with its noise.

        A value with a small share in what is open is determined if that moves it by no more than noise does; its error
        bar counts both.
        """
        moved, leaking = self.moved(x), self.scale * self.shares
        determined = settled(self.shares, moved, self.scale)
        moved += self.observed.draw(leaking, x.shape)
        return Estimate(x, determined, np.where(determined[..., None], moved, 0.0))

    def summary(self, found: Estimate) -> LayerSolution:
        """Return the line of the lowest layer in the result, given its input."""
        inputs = self.inputs(found.value)
        each = [(part.equations, h) for part, h in zip(self.parts, inputs, strict=True)]
        return LayerSolution(
            name=self.layer.name,
            kind=self.layer.kind,
            unknowns=self.layer.unknowns,
            weight_rows=sum(part.equations.weight_row_count for part in self.parts),
            gradient_rows=sum(part.equations.gradient_row_count for part in self.parts),
            rank=self.rank,
            determined=int(found.known.sum()),
            condition=self.condition,
            residual=max(residual(equations, h) for equations, h in each),
            misfit=max(float(contradictions.misfits(equations, h).max(initial=0.0)) for equations, h in each),
            together=tuple(part.layer.name for part in self.parts[1:]),
        )


def _typical(rows: Sequence[FloatArray], sides: Sequence[FloatArray], parts: Sequence[_Part]) -> float:
    """Return the size of a typical value of x: that of the right-hand sides over that of their rows; 1 for zeros.

    Right-hand sides that are mostly noise tell no size, unless there are no others.
    """
    guesses = [
        (bool(np.linalg.norm(rhs) > SIGNAL * np.sqrt(len(rhs)) * part.unit), float(np.linalg.norm(rhs) / size))
        for some, rhs, part in zip(rows, sides, parts, strict=True)
        if (size := float(np.linalg.norm(some))) > 0
    ]
    return max((s for clear, s in guesses if clear), default=max((s for _, s in guesses), default=1.0)) or 1.0


def _largest_singular_value(matrix: FloatArray, steps: int = 8) -> float:
    """Return an estimate of the largest singular value from below, by power iteration."""
    v = np.random.default_rng(0).standard_normal((matrix.shape[1],))
    size = float(np.linalg.norm(v))
    for _ in range(steps):
        v = matrix.T @ (matrix @ (v / (size or 1.0)))
        size = float(np.linalg.norm(v))
    return float(np.sqrt(size))
