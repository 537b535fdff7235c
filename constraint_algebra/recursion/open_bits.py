"""Which outputs of a layer a ReLU above it passed, where its own outputs are not all known: one bit each.

The bias gradients name most of them at once (`bits_by_sums`); `passes` searches for the others by robust alternation
(`beyond_rank.alternation`) over all equations that there are (`bit_equations`). A pattern counts only where the layer's
input, solved for with it, fits the gradient equations of every filter and all bias equations to their noise, puts every
output on the side that its bit says, and leaves the ReLU's output in the family that the layers above allow; and where
there are more equations than unknowns, by so many that no other pattern would fit by accident.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.beyond_rank.alternation import Answer, alternate
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.recursion import bits_by_sums, layer_step
from constraint_algebra.recursion.bit_equations import BitEquations, freedom
from constraint_algebra.recursion.bits_by_sums import Outputs, Sums
from constraint_algebra.recursion.contradictions import RESOLVED, SIDES
from constraint_algebra.recursion.estimates import Above, Estimate, sides
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import CONTRADICTION

FITS = RESOLVED * CONTRADICTION  # residual in units of noise up to which an equation fits
POSITIONS, UNKNOWNS, ENTRIES = 1200, 3000, 2**25  # of a channel, in all, and of the matrix: up to which it is tried
CHECKS, BITS = 3.0, 0.1  # equations that check a filter: so many and so many a bit; one rules 2^20 patterns out
CORRECTIONS = 3  # times that a pattern which fits the gradient takes over the sides of its own outputs


def passes(
    observed: Observation,
    layer: PlacedLayer,
    above: Above,
    y: Estimate,
    family: Family | None,
    *,
    seconds: float,
    seed: int,
) -> BoolArray | None:
    """Return which outputs of a layer the ReLU above passes, in its output shape; `None` where no pattern fits all.

    Args:
        observed: parameters and gradients.
        layer: the layer.
        above: the ReLU on its output, and the gradient that arrives there.
        y: the ReLU's output, as far as it is known.
        family: all y that the layers above leave possible, flat.
        seconds: how long to search.
        seed: of the search.
    """
    deadline = time.monotonic() + seconds
    if not _is_small(layer) or not above.gradient.known.all() or formulas(above.activation).plateaus != (0.0,):
        return None
    outputs = _outputs(observed, layer, above, y, family)
    if outputs.known.all():
        return None
    check = _Check(observed, layer, above, y.reshape(layer.output_shape), outputs)
    sums = _sums(observed, layer, above)
    if sums is not None:
        outputs = bits_by_sums.decided(outputs, sums, deadline)
    if outputs.known.all():
        return check.corrected(outputs.on.reshape(layer.output_shape))
    W, dW = observed.parameters[layer.weight_name], observed.gradients[layer.weight_name]
    equations = BitEquations(layer, W, observed.bias(layer), dW, outputs, observed.rounding.arithmetic)
    if equations.unknowns > UNKNOWNS or equations.unknowns * outputs.known.size > ENTRIES:
        return None
    problem = _Bits(equations, check, outputs)
    if alternate(problem, rng=np.random.default_rng(seed), deadline=deadline) is None:
        return None
    assert problem.pattern is not None  # what was confirmed
    return problem.pattern


def _is_small(layer: PlacedLayer) -> bool:
    rows = layer.filters * int(np.prod(layer.taps))
    positions = layer.unknowns // layer.channels
    outputs = int(np.prod(layer.output_shape))
    return layer.groups == 1 and positions <= POSITIONS and max(rows * positions, outputs * layer.unknowns) <= ENTRIES


def _outputs(observed: Observation, layer: PlacedLayer, above: Above, y: Estimate, family: Family | None) -> Outputs:
    """Return what is known of the layer's outputs, filter by filter."""
    shaped = y.reshape(layer.output_shape)
    dy = above.gradient.reshape(layer.output_shape)
    value, decided, _ = sides(formulas(above.activation), shaped, dy, observed.bias_check(layer))
    by_filter = (layer.filters, -1)
    known = shaped.known & decided
    on = known & (value > 0)
    matters = ~known & (dy.value != 0)
    return Outputs(
        dy=dy.value.reshape(by_filter),
        y=np.where(on, value, np.nan).reshape(by_filter),
        known=~matters.reshape(by_filter),
        on=on.reshape(by_filter),
        family=family,
    )


def _sums(observed: Observation, layer: PlacedLayer, above: Above) -> Sums | None:
    """Return the bias equations, `None` where there are none."""
    check = observed.bias_check(layer)
    if check is None:
        return None
    dy = above.gradient.reshape((layer.filters, int(np.prod(layer.outputs))))
    # Of random signs: which outputs pass is not known yet.
    squares = (dy.perturbations**2).mean(axis=-1).sum(axis=1) + ((check.arithmetic * dy.value) ** 2).sum(axis=1)
    return Sums(check.gradient, np.sqrt(check.deviation**2 + squares))


@dataclass(frozen=True)
class _Check:
    """Whether a pattern is the one: everything that must hold.

    Attributes:
        observed, layer, above: as in `passes`.
        y: the ReLU's output in the layer's output shape.
        outputs: what is known of it, and the family.
    """

    observed: Observation
    layer: PlacedLayer
    above: Above
    y: Estimate
    outputs: Outputs

    def corrected(self, pattern: BoolArray) -> BoolArray | None:
        """Return the pattern if all fits, or the one of its own outputs if that does; `None` otherwise."""
        for _ in range(CORRECTIONS):
            k = self._gradient(pattern)
            if not self._fits_biases(k):
                return None
            z = replace(self.y, known=self.y.known & pattern)
            solved = layer_step.solve(self.observed, self.layer, k, z)
            if solved.left_out.any() or solved.summary.misfit > FITS or not self._is_checked(k):
                return None
            out = layer_step.output_of(self.observed, self.layer, solved.input)
            clear = out.known & (np.abs(out.value) > SIDES * out.deviation)
            own = np.where(clear, out.value > 0, pattern)
            if (own == pattern).all():
                return pattern if self._in_family(out) else None
            if (own != pattern)[self.y.known & pattern].any():
                return None
            pattern = own
        return None

    def _gradient(self, pattern: BoolArray) -> Estimate:
        """Return the gradient at the layer's output."""
        dy = self.above.gradient.reshape(self.layer.output_shape)
        return Estimate(
            np.where(pattern, dy.value, 0.0),
            np.ones(pattern.shape, dtype=bool),
            np.where(pattern[..., None], dy.perturbations, 0.0),
        )

    def _is_checked(self, k: Estimate) -> bool:
        """Whether the filters with open bits have equations enough that other bits would not fit by accident."""
        asked = (~self.outputs.known).sum(axis=1)
        free = freedom(self.layer, k.value.reshape(asked.shape[0], -1), self.observed.rounding.arithmetic)
        return bool((free >= CHECKS + BITS * asked)[asked > 0].all())

    def _fits_biases(self, k: Estimate) -> bool:
        """Whether the gradients at the outputs of each filter add up to its bias gradient."""
        check = self.observed.bias_check(self.layer)
        if check is None:
            return True
        axes = tuple(range(1, k.value.ndim))
        moved = k.perturbations.sum(axis=axes)
        size = np.sqrt((k.value**2).sum(axis=axes))
        noise = np.sqrt(check.deviation**2 + (moved**2).mean(axis=-1) + (check.arithmetic * size) ** 2)
        missing = np.abs(k.value.sum(axis=axes) - check.gradient)
        return bool((missing <= CONTRADICTION * np.maximum(noise, self.observed.rounding.underflow)).all())

    def _in_family(self, out: Estimate) -> bool:
        """Whether the ReLU's output, as the layer's input gives it, is one that the layers above allow."""
        family = self.outputs.family
        if family is None or not out.known.all():
            return True
        off = np.maximum(out.value, 0).ravel() - family.p
        missing = off - family.V @ (family.V.T @ off)
        noise = np.hypot(family.noise, out.deviation.ravel())
        return bool(np.sqrt(np.mean((missing / np.maximum(noise, np.finfo(float).tiny)) ** 2)) <= CONTRADICTION)


@dataclass
class _Bits:
    """The bits as a problem of robust alternation, with the pattern that was confirmed."""

    equations: BitEquations
    check: _Check
    outputs: Outputs
    pattern: BoolArray | None = None

    def __post_init__(self) -> None:
        """Take over how entries and blocks belong together."""
        self.kinds, self.block = self.equations.kinds, self.equations.block

    def start(self) -> FloatArray:
        """Return the shares to start from."""
        return self.equations.start()

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        """Return what the values solved for say of the bits."""
        return self.equations.solve(shares, weights)

    def confirmed(self, chosen: IntArray) -> IntArray | None:
        """Return the bits if all that must hold does."""
        outputs = self.outputs
        pattern = outputs.on.copy()
        pattern[~outputs.known] = chosen > 0
        self.pattern = self.check.corrected(pattern.reshape(self.check.layer.output_shape))
        return None if self.pattern is None else self.pattern.reshape(outputs.known.shape)[~outputs.known].astype(int)
