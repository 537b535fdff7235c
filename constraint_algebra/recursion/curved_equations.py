"""The equations of a value below normalisations with known statistics, where x̂ are hidden: quadratic, near a value.

The gradient equations `A(k) x = dL/dW` have k that depend on x themselves, affine with a small slope. Near a value all
equations together are linear, with `δ(A(k) x) = A(k) δx + A(δk) x` and `δk = slope · W δx`: those of the layers that
read it, its own known entries, and mean and variance of each group. They are solved by their matrix where that is
small, else by conjugate gradients without one: see `curved_preconditioner`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.numerics.conjugate_gradients import conjugate_gradients
from constraint_algebra.numerics.dense_least_squares import Reduced, longest
from constraint_algebra.recursion.curved_preconditioner import FEW, Preconditioner
from constraint_algebra.recursion.curved_reader import CurvedReader
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import kept
from constraint_algebra.recursion.normalised_output import NormalisedOutput
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.value_equations import Reader, ValueEquations

PRECISE = 1e-8  # of what is solved for: the share at which an iteration is done
SOLVES = 2  # each on what the one before left
ITERATIONS = 400
MOST = 30.0  # times the size of the typical row: what any row counts at most
PROBES = 4  # random differences that tell the sizes of rows, and what is open
DENSE = 2e9  # operations of factoring the matrix, up to which it is held
WEAKER = 5.0  # per cent of the directions of the gradient equations that count as weaker ones
LOWEST = 0.03  # share of its weight that an equation of a known output keeps: digits are lost with it
BALANCE = 2.0  # times what these see of a direction: what the equations of known outputs count at most, by iteration


class CurvedEquations:
    """All equations of a value near it, in units of their noise.

    Args:
        observed: parameters and gradients.
        value: what is known of the value.
        plain: layers that read it, with all that is known of k.
        bent: layers that read it, whose k depends on it.
        guesses: of the hidden x̂ of each of these.
        x: the value.
        curved: whether k moves with the value; without, it is what the guesses make of it.
    """

    def __init__(
        self,
        observed: Observation,
        value: Estimate,
        plain: Sequence[Reader],
        bent: Sequence[NormalisedOutput],
        guesses: Sequence[FloatArray],
        x: FloatArray,
        *,
        curved: bool = True,
    ) -> None:
        """Weigh the rows."""
        self.observed, self.value, self.bent, self.x = observed, value, bent, x
        readers = [*plain, *(b.reader(guess) for b, guess in zip(bent, guesses, strict=True))]
        self.fixed = ValueEquations(observed, value, readers)
        slopes: list[FloatArray | float] = [0.0] * len(plain)
        slopes += [b.slope.reshape(b.layer.output_shape)[..., None] * curved for b in bent]
        self._readers = [
            CurvedReader(part.reader.layer, part.equations.weight, part.equations.output_gradient, slope, x)
            for part, slope in zip(self.fixed.parts, slopes, strict=True)
        ]
        self._statistics = [b.statistics(b.output(x)) for b in bent]
        self._whiten = self._weights(curved=curved)
        self._whiten = self._capped()
        if not self._is_small:
            self._balance()

    def _weights(self, *, curved: bool) -> FloatArray:
        """Return one over the noise of each row, zero for rows that do not count."""
        weights = []
        for part in self.fixed.parts:
            layer, eq = part.reader.layer, part.equations
            of_gradient = part.whiten.reshape(layer.filters, 1, *layer.taps)
            weights.append(np.broadcast_to(of_gradient, layer.weight_shape))
            weights.append(eq.weight_rows / np.where(eq.weight_rows, eq.output_noise, 1.0))
        weights.append(self.value.known / np.where(self.value.known, self.fixed.own_noise, 1.0))
        # Far from a solution the scale of a group is no straight line, and its row would lead anywhere.
        weights += [curved / b.statistics_size for b in self.bent]
        return np.concatenate([part.ravel() for part in weights])

    def _capped(self) -> FloatArray:
        """Return the weights, those of rows that are by far the most exact lowered, which no iteration could follow."""
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (*self.x.shape, PROBES))
        sizes = np.sqrt((self.forward(probes) ** 2).mean(axis=1))
        most = MOST * float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
        return np.asarray(self._whiten * most / np.maximum(sizes, most))

    @cached_property
    def _places(self) -> list[tuple[slice, slice]]:
        """Where the rows of each reader stand: of its gradient, and of its outputs."""
        found, start = [], 0
        for reader in self._readers:
            middle = start + math.prod(reader.layer.weight_shape)
            end = middle + math.prod(reader.layer.output_shape)
            found.append((slice(start, middle), slice(middle, end)))
            start = end
        return found

    def _balance(self) -> None:
        """Lower the weights of known outputs to about those of the weaker directions of the gradient equations.

        They tie all channels, which the preconditioner cannot follow. Whatever the weights, the solution is the same,
        but for noise, and the same stays open.
        """
        squares = np.concatenate([block.singular[: block.strong] ** 2 for block in self.fixed.blocks])
        outputs = self._by_outputs[self._by_outputs > 0]
        if squares.size and outputs.size:
            share = math.sqrt(BALANCE * float(np.percentile(squares, WEAKER)) / float(np.median(outputs)))
            for _, at in self._places:
                self._whiten[at] *= min(max(share, LOWEST), 1.0)
            del self._by_outputs

    @property
    def scale(self) -> float:
        """Size of a typical value."""
        return self.fixed.scale

    def forward(self, d: FloatArray) -> FloatArray:
        """Return what differences `(*shape, n)` of the value make of all rows, `(rows, n)`."""
        rows, moved = [], []
        for reader in self._readers:
            gradient, z = reader.forward(d)
            rows += [gradient, z]
            moved.append(z)
        of_bent = zip(self.bent, self._statistics, moved[len(moved) - len(self.bent) :], strict=True)
        return self._flat([*rows, d, *(b.statistics_moved(at, z) for b, at, z in of_bent)])

    def adjoint(self, r: FloatArray) -> FloatArray:
        """Return the transpose of `forward` applied to rows `(rows, n)`."""
        n, start = r.shape[-1], 0
        whole = self._whiten[:, None] * r

        def taken(*shape: int) -> FloatArray:
            nonlocal start
            part = whole[start : start + math.prod(shape)]
            start += len(part)
            return part.reshape(*shape, n)

        rows = [(taken(*r.layer.weight_shape), taken(*r.layer.output_shape)) for r in self._readers]
        found = taken(*self.x.shape).copy()
        of_bent = [
            b.statistics_back(at, taken(2 * len(at.scale))) for b, at in zip(self.bent, self._statistics, strict=True)
        ]
        plain = [np.zeros(1)] * (len(rows) - len(self.bent))
        for reader, (gradient, output), more in zip(self._readers, rows, plain + of_bent, strict=True):
            found += reader.adjoint(gradient, output + more)
        return found

    def lacking(self) -> FloatArray:
        """Return what the right-hand sides of all rows are off at the value, `(rows,)`."""
        rows = []
        for part in self.fixed.parts:
            layer, eq = part.reader.layer, part.equations
            rows.append(eq.weight_gradient - trilinear.weight_gradient(layer, eq.output_gradient, self.x))
            rows.append(np.nan_to_num(eq.output) - trilinear.forward(layer, eq.weight, self.x))
        rows.append(self.value.filled() - self.x)
        rows += [b.statistics_lacking(at) for b, at in zip(self.bent, self._statistics, strict=True)]
        return np.asarray(self._flat([row[..., None] for row in rows])[:, 0])

    def noise(self) -> FloatArray:
        """Return draws of the noise of all rows, `(rows, MEMBERS)`."""
        observed, rows = self.observed, []
        for part in self.fixed.parts:
            layer, k, z = part.reader.layer, part.reader.k, part.reader.z
            gradient = observed.draw(part.noise.weight_gradient, layer.weight_shape)
            own = np.broadcast_to(part.noise.output, layer.output_shape)
            rows.append(gradient - trilinear.weight_gradient(layer, kept(k), self.x))
            rows.append(kept(z) + observed.draw(own, layer.output_shape))
        return self._flat([*rows, kept(self.value), *(b.statistics_noise for b in self.bent)])

    def _flat(self, rows: list[FloatArray]) -> FloatArray:
        """Return rows one below the other, in units of their noise."""
        whole: FloatArray = np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows])
        return np.asarray(self._whiten[:, None] * whole)

    @property
    def _is_small(self) -> bool:
        """Whether the matrix can be held, and factored."""
        return int((self._whiten > 0).sum()) * self.x.size**2 <= DENSE

    @cached_property
    def _dense(self) -> tuple[Reduced, float] | None:
        """The matrix of all rows, factored, and the unit that it is in; `None` where it is large."""
        counts = self._whiten > 0
        if not self._is_small or not counts.any():
            return None
        matrix = self.forward(np.eye(self.x.size).reshape(*self.x.shape, -1))[counts]
        unit = 1 / (longest(matrix) or 1.0)
        rounding = max(matrix.shape) * float(np.finfo(float).eps)
        return Reduced(matrix * unit, max(unit * self.fixed.cut, rounding)), unit

    def solve(self, rows: FloatArray, distance: float) -> FloatArray:
        """Return the differences `(*shape, n)` of the value that make differences of rows, of least squares.

        Args:
            rows: `(rows, n)`.
            distance: from the solution, in the norm of the rows, at which an iteration is done.
        """
        if self._dense is not None:
            reduced, unit = self._dense
            return reduced.solve(unit * rows[self._whiten > 0]).reshape(*self.x.shape, -1)
        return conjugate_gradients(self, self._precondition, rows, distance=distance, iterations=ITERATIONS)[0]

    def shares(self) -> FloatArray:
        """Return the share of each entry in what all equations together leave open.

        Where there is no matrix, it is what does not come back of random differences that are solved for again.
        """
        if self._dense is not None:
            return np.asarray(np.sqrt((self._dense[0].null ** 2).sum(axis=1)).reshape(self.x.shape))
        probes = np.random.default_rng(1).choice([-1.0, 1.0], (*self.x.shape, PROBES))
        lost = probes
        for _ in range(SOLVES):
            rows = self.forward(lost)
            lost = lost - self.solve(rows, PRECISE * float(np.sqrt((rows**2).sum(axis=0).max())))
        return np.asarray(np.sqrt((lost**2).mean(axis=-1)))

    @cached_property
    def _by_outputs(self) -> FloatArray:
        """What the equations of known outputs add to the normal equations on the diagonal, in the value's shape."""
        found = np.zeros(self.x.shape)
        for part, (_, at) in zip(self.fixed.parts, self._places, strict=True):
            layer = part.reader.layer
            of_output = self._whiten[at].reshape(layer.output_shape)
            found += trilinear.input_gradient(layer, part.equations.weight**2, of_output**2)
        return found

    @cached_property
    def _precondition(self) -> Preconditioner:
        """An approximate inverse of the normal equations."""
        start = self._places[-1][1].stop
        own = self._whiten[start : start + self.x.size].reshape(self.x.shape)
        blocks = [(block.channels, block.singular, block.right) for block in self.fixed.blocks]
        curved = (r.curvature(self._whiten[at]) for r, (at, _) in zip(self._readers, self._places, strict=True))
        by_entry = (sum(curved, start=self._by_outputs) + own**2).reshape(self.x.shape[0], -1)
        return Preconditioner(blocks, by_entry, self._tying(start + self.x.size))

    def _tying(self, start: int) -> FloatArray:
        """Return the rows of mean and scale, from a row on, transposed."""
        found = [np.zeros((self.x.size, 0))]
        for b, at, reader in zip(
            self.bent, self._statistics, self._readers[len(self._readers) - len(self.bent) :], strict=True
        ):
            weights = self._whiten[start : start + 2 * len(at.scale)]
            start += len(weights)
            if weights.any() and self.x.size * len(weights) <= FEW:
                back = b.statistics_back(at, np.diag(weights)[:, weights > 0])
                found.append(trilinear.input_gradient(reader.layer, reader.weight, back).reshape(self.x.size, -1))
        return np.concatenate(found, axis=1)
