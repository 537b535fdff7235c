"""The equations of one value that several layers read: all of their gradient and weight equations together.

A value h that several convolutions read has the gradient equations `A_l(k_l) h[c] = dL/dW_l[:, c]` of each of them, and
the weight equations `B(W_l) h = z_l - b_l` of their known outputs; entries of h that are known already are equations
too. The elimination has two stages, as for a layer by itself: what the gradient equations leave open is the same for
all channels that lie in the same groups of all layers, and the others are solved in its coordinates. Rows are weighed
by their noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.numerics.dense_least_squares import Reduced, longest
from constraint_algebra.numerics.singular import svd
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.layer_step import OwnNoise, layer_equations
from constraint_algebra.recursion.noise import LONG_SUM, STORED_SOLUTION, settled
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import LayerSolution
from constraint_algebra.recursion.value_block import Block
from constraint_algebra.solvers.noisy_equations import USABLE, LayerEquations, noise_cut, residual, weight_rows_size

ENTRIES, OPERATIONS = 6e7, 4e10  # of a dense stage: beyond, it is left out
WELL = 1e3  # times the size at which a direction counts as known, a singular value leaves little to be gained
EPS, ROUNDED = float(np.finfo(float).eps), 30  # of all rows together: 1 was off by 3 where all but one value were known
FACTORING = 20  # operations of singular values, in cubes of the number of unknowns
CLEAR = 1e-9  # of a typical value: noise up to which a direction is left to the gradient equations alone
TOGETHER = 2e10  # operations that it is worth to weigh all equations at once instead


@dataclass(frozen=True)
class Reader:
    """A layer that reads the value, with what is known at its output.

    Attributes:
        layer: the layer.
        k: the gradient there.
        z: its output, bias included.
    """

    layer: PlacedLayer
    k: Estimate
    z: Estimate

    def says_something(self) -> bool:
        """Whether it has any equation: an output that is known, or a gradient that is known and not zero."""
        return self.k.says_something(self.z)


@dataclass(frozen=True)
class Part:
    """The equations of one reader, with their noise."""

    reader: Reader
    equations: LayerEquations
    noise: OwnNoise

    @property
    def whiten(self) -> FloatArray:
        """Factor of each gradient row, `(filters, taps)`."""
        eq = self.equations
        return np.where(eq.gradient_rows, 1 / np.where(eq.gradient_rows, eq.gradient_noise, 1.0), 0.0)

    def block(self, group: int) -> FloatArray:
        """Return the whitened gradient rows of a channel of a group that count, `(rows, positions)`."""
        layer, S = self.reader.layer, incidence(self.reader.layer)
        F = layer.filters // layer.groups
        filters = slice(group * F, (group + 1) * F)
        k = np.pad(self.equations.output_gradient.reshape(layer.filters, -1)[filters], ((0, 0), (0, 1)))
        rows = k[:, S.meeting] * self.whiten[filters][..., None]
        return rows[self.equations.gradient_rows[filters]]

    def sides(self, weight_gradient: FloatArray, channels: IntArray) -> FloatArray:
        """Return n right-hand sides `(*weight_shape, n)` of the rows of channels of a group, `(rows, channels, n)`."""
        layer = self.reader.layer
        F, C = layer.filters // layer.groups, layer.channels // layer.groups
        group = int(channels[0]) // C
        filters = slice(group * F, (group + 1) * F)
        rhs = weight_gradient.reshape(layer.filters, C, self.whiten.shape[1], -1)[filters][:, channels % C]
        by_tap = rhs.swapaxes(1, 2) * self.whiten[filters][..., None, None]
        return np.asarray(by_tap[self.equations.gradient_rows[filters]])


class ValueEquations:
    """All equations of one value, eliminated.

    Args:
        observed: parameters and gradients.
        value: what is known of the value.
        readers: the layers that read it.
        left_out: filters of each reader whose gradient equations do not count.
        known_to: share of a typical value to which noise leaves a direction that counts as known.
        stronger: than that many times so clear, a direction is solved for by the gradient equations alone; more lowers
            the noise of what only the weight equations tell, and takes longer.
        together: whether to solve for all that noise blurs at once, where that may add to it and is affordable; the
            client's long sums over all positions then count with the noise that they have.
    """

    def __init__(
        self,
        observed: Observation,
        value: Estimate,
        readers: Sequence[Reader],
        left_out: Sequence[BoolArray] | None = None,
        *,
        known_to: float = 1 / USABLE,
        stronger: float = 1.0,
        together: bool = False,
    ) -> None:
        """Weigh the rows, and eliminate."""
        self.observed, self.value, self.shape = observed, value, value.value.shape
        self.parts = _parts(observed, readers, left_out)
        if together:
            self.parts = tuple(_with_long_sums(observed, part) for part in self.parts)
        self.scale = max(part.equations.scale for part in self.parts)
        self.cut = max(1 / known_to, *(noise_cut(part.equations) for part in self.parts)) / self.scale
        self.stronger, self.together = stronger, together
        self.blocks = list(self._blocks())
        if together:
            self.blocks = self._blurred()
        self.opens = sum(block.opens for block in self.blocks)
        self.own_noise = np.maximum(value.deviation, EPS * self.scale)
        self.entry_noise = self.own_noise.copy()  # known better than the strong part, it tells no more of what is open
        for block in self.blocks:
            at = self.entry_noise[block.channels]
            self.entry_noise[block.channels] = np.hypot(at, block.noise.reshape(at.shape[1:]))

    @property
    def is_small(self) -> bool:
        """Whether the second stage can be held and factored."""
        rows = int(self.value.known.sum()) + sum(part.equations.weight_row_count for part in self.parts) + self.opens
        widest = max(math.prod(self.shape), *(math.prod(part.reader.layer.output_shape) for part in self.parts))
        return widest * self.opens <= ENTRIES and is_affordable(rows, self.opens)

    @property
    def is_plain(self) -> bool:
        """Whether the gradient equations alone determine every direction, and all of them well."""
        return not self.opens and all(block.singular[-1] > WELL * self.cut for block in self.blocks)

    @property
    def rank(self) -> int | None:
        """Numerical rank of all equations."""
        return None if self.opens and not self.is_small else math.prod(self.shape) - self.null.shape[1]

    def _blocks(self) -> Iterator[Block]:
        C = self.shape[0]
        groups = np.array([np.arange(C) // (C // part.reader.layer.groups) for part in self.parts])
        kinds, which = np.unique(groups, axis=1, return_inverse=True)
        positions = math.prod(self.shape[1:])
        for number, of_readers in enumerate(kinds.T):
            pairs = zip(self.parts, of_readers, strict=True)
            A = np.concatenate([np.zeros((0, positions)), *(part.block(int(group)) for part, group in pairs)])
            U, s, Vt = svd(A, full_matrices=len(A) < positions)
            keep = int(np.count_nonzero(s > max(A.shape) * EPS * s.max(initial=0.0)))
            strong = int(np.count_nonzero(s[:keep] > self.stronger * self.cut))
            channels = np.flatnonzero(which.ravel() == number)
            yield Block(channels, U[:, :keep], s[:keep], Vt.T, strong)

    @cached_property
    def reduced(self) -> Reduced | None:
        """What is left, factored in the coordinates of what the first stage leaves open; `None` where nothing is."""
        if not self.opens or not self.is_small:
            return None
        rows = [self._weak_rows(), *(self._weight_rows(part) for part in self.parts), self._entry_rows()]
        matrix = np.concatenate(rows)
        if not len(matrix):
            return None
        self.unit = 1 / (longest(matrix) or 1.0)
        return Reduced(matrix * self.unit, max(self.unit * self.cut, self.opens * EPS, self.unit * self._rounding))

    @property
    def _rounding(self) -> float:
        """What rounding of the basis leaves of whole rows, those of entries too, where they are zero in it."""
        sizes = [weight_rows_size(part.equations) for part in self.parts]
        return ROUNDED * EPS * math.hypot(*sizes, *(1 / self.entry_noise[self.value.known]).tolist())

    @property
    def null(self) -> FloatArray:
        """Orthonormal basis of what all equations leave open, in coordinates of `basis`."""
        return np.eye(self.opens) if self.reduced is None else self.reduced.null

    @cached_property
    def basis(self) -> FloatArray:
        """What the first stage leaves open, `(*shape, open)`."""
        return self._basis()

    def _basis(self) -> FloatArray:
        basis = np.zeros((self.shape[0], math.prod(self.shape[1:]), self.opens))
        for block, start in self._starts():
            for number, channel in enumerate(block.channels.tolist()):
                at = start + number * block.open.shape[1]
                basis[channel][:, at : at + block.open.shape[1]] = block.open
        return basis.reshape(*self.shape, self.opens)

    def _blurred(self) -> list[Block]:
        """Return the blocks, with what their noise blurs left to the second stage, if that may add and is affordable.

        The first stage takes all of a strong direction from the gradient equations, though weight equations may tell it
        much better: 784 values in float32 a hundred times.
        """
        says = sum(part.equations.weight_row_count for part in self.parts) + int(self.value.known.sum())
        blurred = [block.sharper(1 / (CLEAR * self.scale)) for block in self.blocks]
        opens = sum(block.opens for block in blurred)
        return blurred if says and is_affordable(says + opens, opens, TOGETHER) else self.blocks

    def _starts(self) -> Iterator[tuple[Block, int]]:
        """Yield each block with the first column of its open directions, those of a channel side by side."""
        at = 0
        for block in self.blocks:
            yield block, at
            at += block.open.shape[1] * len(block.channels)

    def _weak_rows(self) -> FloatArray:
        rows = [np.zeros((0, self.opens))]
        for block, start in self._starts():
            weak = block.singular[block.strong :]
            places = start + np.arange(len(block.channels))[:, None] * block.open.shape[1] + np.arange(len(weak))
            some = np.zeros((places.size, self.opens))
            some[np.arange(places.size), places.ravel()] = np.tile(weak, len(block.channels))
            rows.append(some)
        return np.concatenate(rows)

    def _weight_rows(self, part: Part) -> FloatArray:
        eq = part.equations
        known = eq.weight_rows
        if not known.any():
            return np.zeros((0, self.opens))
        rows = trilinear.forward(part.reader.layer, eq.weight, self.basis)[known]
        return np.asarray(rows / eq.output_noise[known][:, None])

    def _entry_rows(self) -> FloatArray:
        known = self.value.known
        return np.asarray(self.basis[known] / self.entry_noise[known][:, None])

    def solve(
        self, weight_gradients: Sequence[FloatArray], outputs: Sequence[FloatArray], entries: FloatArray
    ) -> FloatArray:
        """Return the least-squares value for n right-hand sides, `(*shape, n)`.

        Args:
            weight_gradients: for each reader dL/dW, `(*weight_shape, n)`.
            outputs: for each reader z - b, `(*output_shape, n)`; what is unknown does not matter.
            entries: of the value itself, `(*shape, n)`; what is unknown does not matter.
        """
        n = entries.shape[-1]
        x = np.zeros((self.shape[0], math.prod(self.shape[1:]), n))
        weak = [np.zeros((0, n))]
        for block, _ in self._starts():
            pairs = zip(self.parts, weight_gradients, strict=True)
            rhs = np.concatenate([part.sides(dW, block.channels) for part, dW in pairs])
            flat = rhs.reshape(len(rhs), len(block.channels) * n)  # there may be no rows
            x[block.channels] = block.solved(flat).reshape(-1, len(block.channels), n).swapaxes(0, 1)
            weak.append(block.weak(flat).reshape(-1, len(block.channels), n).swapaxes(0, 1).reshape(-1, n))
        x = x.reshape(*self.shape, n)
        if self.reduced is None:
            return x
        sides = [np.concatenate(weak)]
        for part, output in zip(self.parts, outputs, strict=True):
            known = part.equations.weight_rows
            lacking = output[known] - trilinear.forward(part.reader.layer, part.equations.weight, x)[known]
            sides.append(lacking / part.equations.output_noise[known][:, None])
        known = self.value.known
        sides.append((entries - x)[known] / self.entry_noise[known][:, None])
        y = self.reduced.solve(self.unit * np.concatenate(sides))
        return np.asarray(x + self.basis @ y)

    def solution(self) -> FloatArray:
        """Return the value, of what is open the part of least norm; a step of refinement frees it of rounding."""
        x = np.zeros(self.shape)
        for _ in range(2):
            gradients = [
                part.equations.weight_gradient
                - trilinear.weight_gradient(part.reader.layer, part.equations.output_gradient, x)
                for part in self.parts
            ]
            outputs = [
                np.nan_to_num(part.equations.output) - trilinear.forward(part.reader.layer, part.equations.weight, x)
                for part in self.parts
            ]
            entries = (self.value.filled() - x)[..., None]
            lacking = [g[..., None] for g in gradients], [z[..., None] for z in outputs]
            x = x + self.solve(*lacking, entries)[..., 0]
        return x

    def moved(self, x: FloatArray) -> FloatArray:
        """Return how each perturbation moves the value x, to first order, `(*shape, MEMBERS)`."""
        observed, gradients, outputs = self.observed, [], []
        for part in self.parts:
            layer, k, z = part.reader.layer, part.reader.k, part.reader.z
            perturbed = np.where(k.known[..., None], k.perturbations, 0.0)
            gradient = observed.draw(part.noise.weight_gradient, layer.weight_shape)
            gradients.append(gradient - trilinear.weight_gradient(layer, perturbed, x))
            own = np.broadcast_to(part.noise.output, layer.output_shape)
            outputs.append(np.where(z.known[..., None], z.perturbations, 0.0) + observed.draw(own, layer.output_shape))
        entries = np.where(self.value.known[..., None], self.value.perturbations, 0.0)
        return self.solve(gradients, outputs, entries) + observed.draw(STORED_SOLUTION * np.abs(x), self.shape)

    def shares(self) -> FloatArray:
        """Return the share that what is open has of each entry."""
        if not self.opens:
            return np.zeros(self.shape)
        if self.reduced is None and not self.is_small:
            flat = np.zeros((self.shape[0], math.prod(self.shape[1:])))
            for block in self.blocks:
                flat[block.channels] = np.sqrt((block.open**2).sum(axis=1))
            return flat.reshape(self.shape)
        left = self.basis @ self.null
        return np.asarray(np.sqrt((left**2).sum(axis=-1)))

    def estimate(self) -> Estimate:
        """Return the value with its noise; what the equations leave open counts as unknown."""
        x, shares = self.solution(), self.shares()
        moved, leaking = self.moved(x), self.scale * shares
        determined = settled(shares, moved, self.scale)
        moved += self.observed.draw(leaking, self.shape)
        return Estimate(x, determined, np.where(determined[..., None], moved, 0.0))

    def summary(self, part: Part, found: Estimate) -> LayerSolution:
        """Return the line of one reader in the result."""
        kept = [block.singular[: block.strong] for block in self.blocks if block.strong]
        largest = max((float(s.max()) for s in kept), default=1.0)
        least = min((float(s.min()) for s in kept), default=1.0)
        others = tuple(other.reader.layer.name for other in self.parts if other is not part)
        return LayerSolution(
            name=part.reader.layer.name,
            kind=part.reader.layer.kind,
            unknowns=math.prod(self.shape),
            weight_rows=sum(p.equations.weight_row_count for p in self.parts),
            gradient_rows=sum(p.equations.gradient_row_count for p in self.parts),
            rank=self.rank,
            determined=int(found.known.sum()),
            condition=largest / least,
            residual=max(residual(p.equations, found.value) for p in self.parts),
            misfit=self.misfit(found.value),
            together=others,
        )

    def misfit(self, x: FloatArray) -> float:
        """Return the largest misfit of a filter of any reader."""
        return max(float(contradictions.misfits(part.equations, x).max(initial=0.0)) for part in self.parts)


def is_affordable(rows: int, unknowns: int, operations: float = OPERATIONS) -> bool:
    """Return whether a dense system can be factored in some seconds, or in so many operations."""
    return (rows + FACTORING * unknowns) * unknowns**2 <= operations


def _parts(observed: Observation, readers: Sequence[Reader], left_out: Sequence[BoolArray] | None) -> tuple[Part, ...]:
    """Return the equations of all readers, with one size of a typical value for all."""
    own = [layer_equations(observed, r.layer, r.k, r.z) for r in readers]
    scale = max(equations.scale for equations, _ in own if _says(equations)) if any(_says(e) for e, _ in own) else 1.0
    parts = []
    for number, reader in enumerate(readers):
        equations, noise = layer_equations(observed, reader.layer, reader.k, reader.z, scale)
        if left_out is not None:
            equations = contradictions.without(equations, left_out[number])
        parts.append(Part(reader, equations, noise))
    return tuple(parts)


def _with_long_sums(observed: Observation, part: Part) -> Part:
    """Return a part whose gradient equations have the noise of a client's sums over all positions."""
    eq, layer = part.equations, part.reader.layer
    long = LONG_SUM * math.sqrt(math.prod(layer.outputs)) * observed.rounding.arithmetic * eq.scale
    noise = long * np.sqrt(trilinear.row_sums(layer, eq.output_gradient**2))
    own = np.hypot(part.noise.weight_gradient, noise.reshape(layer.filters, 1, *layer.taps))
    return Part(
        part.reader,
        replace(eq, gradient_noise=np.hypot(eq.gradient_noise, noise)),
        replace(part.noise, weight_gradient=own),
    )


def _says(equations: LayerEquations) -> bool:
    return bool(equations.gradient_rows.any() or equations.weight_rows.any())
