"""Which branch each output of an activation worked on, found together with what the layer below reads.

Upper branches everywhere to begin with, the gradient equations and the weight equations of outputs above zero give a
first value; from then on each entry takes the pre-image nearer to what the layer makes of that value, and all weight
equations count. Where that turns in circles, the robust alternation takes over (`branch_equations`).

Nothing is believed but by its residual: all equations fit to their noise, and the other branch of each entry would
break them by more than that. An entry whose weight equation nothing else checks is left open, and its gradient
equations with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.beyond_rank.alternation import alternate
from constraint_algebra.layers import trilinear
from constraint_algebra.recursion import contradictions, layer_step
from constraint_algebra.recursion.branch_equations import LARGEST, BranchEquations
from constraint_algebra.recursion.branching import Branching, Options
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import EDGE, Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.graph_solving import readers
from constraint_algebra.recursion.result import CONTRADICTION
from constraint_algebra.recursion.value_equations import Reader, ValueEquations

ROUNDS = 30  # of choosing and solving; 3 to 6 were enough wherever it came to stand
ALONE = 0.9  # share of a check from which on an output is checked whatever others are
BITS = 1.5  # that checks must tell of each branch
LOOKS = 6  # at a solution, each leaving open what nothing else checks


class Settled(NamedTuple):
    """Branches that fit all equations.

    Attributes:
        value: what the layer reads, with what the equations leave open unknown.
        z: what the activation reads, at the entries whose branch is settled.
        system: the equations.
        readers: the layers whose equations they are.
    """

    value: Estimate
    z: Estimate
    system: ValueEquations
    readers: list[Reader]


@dataclass(frozen=True)
class BranchSearch:
    """The search below one activation.

    Attributes:
        knows: what is known; it stays as it is.
        at: the way from the layer to the activation.
        options: what either branch would mean.
    """

    knows: GraphKnowledge
    at: Branching
    options: Options

    @property
    def number(self) -> int:
        """Number of the value that is looked for."""
        return self.at.layer.inputs[0]

    def start(self) -> FloatArray | None:
        """Return the value if all entries were on the upper branch, without their weight equations."""
        every, none = self._masks()
        z, k = self.options.taken(every, none)
        system, _ = self._equations(replace(z, known=none), k)
        return None if system is None else system.solution()

    def settled(self, x: FloatArray) -> Settled | None:
        """Return branches that fit, from a value not far from the truth on; `None` where it does not come to stand."""
        _, none = self._masks()
        upper, before = self._nearer(x), list[bytes]()
        while upper.tobytes() not in before:
            if len(before) == ROUNDS:
                return None
            before.append(upper.tobytes())
            system, _ = self._equations(*self.options.taken(upper, none))
            if system is None:
                return None
            upper = self._nearer(system.solution())
        return self._checked(upper) if upper.tobytes() == before[-1] else None

    def alternated(self, rng: np.random.Generator, deadline: float) -> Settled | None:
        """Return branches that fit, by robust alternation; `None` where it finds none, or the layer is too large."""
        every, none = self._masks()
        sides = [self.options.taken(side, none) for side in (every, none)]
        pair = [self._reader(*side) for side in sides]
        layer, observed = self.at.layer, self.knows.observed
        if layer.unknowns > LARGEST or pair[0] is None or pair[1] is None:
            return None
        system, _ = self._equations(*sides[0])
        if system is None or not system.estimate().known.any():  # not even with all branches
            return None
        found = list[Settled]()

        def confirm(x: FloatArray) -> bool:
            settled = self.settled(x.reshape(layer.input_shape))
            found.extend([] if settled is None else [settled])
            return settled is not None

        W, dW = observed.parameters[layer.weight_name], observed.gradients[layer.weight_name]
        problem = BranchEquations(pair[0], pair[1], W, observed.bias(layer), dW, confirm)
        if not len(problem.open):
            return None
        alternate(problem, rng=rng, deadline=deadline)
        return found[-1] if found else None

    def _reader(self, z: Estimate, k: Estimate) -> Reader | None:
        those = readers(self.at.brought_down(self.knows, z, k), self.number)
        return next((reader for reader in those if reader.layer is self.at.layer), None)

    def _masks(self) -> tuple[BoolArray, BoolArray]:
        every = np.ones(self.options.asked.shape, dtype=bool)
        return every, ~every

    def _nearer(self, x: FloatArray) -> BoolArray:
        z = self.at.brought_up(self.knows, self._exact(x))
        return np.asarray(self.options.nearer(z.value) | ~z.known | ~self.options.choices)

    def _exact(self, x: FloatArray) -> Estimate:
        return Estimate(x, np.ones(x.shape, dtype=bool), np.zeros((*x.shape, MEMBERS)))

    def _equations(self, z: Estimate, k: Estimate) -> tuple[ValueEquations | None, list[Reader]]:
        those = readers(self.at.brought_down(self.knows, z, k), self.number)
        if not any(reader.layer is self.at.layer for reader in those):
            return None, those  # nothing in them would check a branch
        return ValueEquations(self.knows.observed, self.knows.values[self.number], those), those

    def _checked(self, upper: BoolArray) -> Settled | None:
        """Return what follows from some branches, if all equations fit and each branch is checked by others."""
        _, left_open = self._masks()
        for _ in range(LOOKS):
            z, k = self.options.taken(upper, left_open)
            system, those = self._equations(z, k)
            if system is None:
                return None
            x = system.solution()
            whole = Estimate(x, np.ones(x.shape, dtype=bool), system.moved(x))
            seen = self.at.brought_up(self.knows, whole)
            if not self._fits(system, those, whole, z, seen):
                return None
            unsure = self._unsure(upper, left_open, whole, seen, system, those) & ~left_open
            if not unsure.any():
                return Settled(system.estimate(), z, system, those)
            left_open |= unsure
        return None

    def _fits(self, system: ValueEquations, those: list[Reader], x: Estimate, z: Estimate, seen: Estimate) -> bool:
        """Return whether all gradient and weight equations hold at x to their noise, and z is what x makes."""
        if system.misfit(x.value) >= contradictions.RESOLVED * CONTRADICTION:
            return False
        made = [(layer_step.output_of(self.knows.observed, reader.layer, x), reader.z) for reader in those]
        return all(_agree(found, given) for found, given in [*made, (seen, z)])

    def _unsure(
        self,
        upper: BoolArray,
        left_open: BoolArray,
        x: Estimate,
        z: Estimate,
        system: ValueEquations,
        those: list[Reader],
    ) -> BoolArray:
        """Return the entries whose other branch would fit as well, for all that the other equations say."""
        o = self.options
        other = self.at.brought_down(self.knows, *o.taken(~upper, left_open)).values[self.at.layer.number]
        place = next(n for n, reader in enumerate(those) if reader.layer is self.at.layer)
        own, leverage = those[place].z, leverages(system, place)
        made = layer_step.output_of(self.knows.observed, self.at.layer, x)
        both = own.known & other.known & ~self.knows.values[self.at.layer.number].known
        gap, noise = np.abs(other.filled() - own.filled()), np.hypot(own.deviation, made.deviation)
        doubtful = both & ~_is_checked(gap / np.maximum(noise, np.finfo(float).tiny), leverage)
        unsure = self.at.raised(self.knows, doubtful) | (np.abs(o.apart) <= EDGE * z.deviation)
        edge = np.where(upper, o.apart, np.abs(z.value - o.upper))
        at_end = o.far & (edge <= EDGE * z.deviation)
        if np.isfinite(o.branches.flat):
            at_end |= o.far & ~upper & (z.value + EDGE * z.deviation > o.branches.flat)
        return np.asarray((unsure | at_end | ~z.known) & o.choices)


def _agree(found: Estimate, given: Estimate) -> bool:
    """Return whether values are those given to their noise, where both are known."""
    noise = np.hypot(found.deviation, given.deviation) + np.finfo(float).tiny
    both = found.known & given.known
    return not (both & (np.abs(found.filled() - given.filled()) > CONTRADICTION * noise)).any()


def _is_checked(gap: FloatArray, leverage: FloatArray) -> BoolArray:
    """Return where other equations than its own say which branch an output is on.

    Without its own equation z would be known to within the noise over `sqrt(1 - leverage)`. And where few equations
    check many branches, some wrong choice of all of them fits by accident: the leverages of rows beyond the unknowns
    add up to their number, so that `1 - leverage` is the share of a check that an output has, and a check tells as many
    bits as halvings lead from the gap to the noise. That must be more than the one bit asked for.

    Args:
        gap: distance of the two pre-images, in standard deviations.
        leverage: of the weight equation of the output.
    """
    checks = np.clip(1 - leverage, 0.0, 1.0)
    bits = np.log2(np.maximum(gap / CONTRADICTION, 1.0))
    return np.asarray((gap * np.sqrt(checks) > EDGE) & ((checks > ALONE) | (checks * bits > BITS)))


def leverages(system: ValueEquations, number: int) -> FloatArray:
    """Return for each output of a reader the share that its weight equation has in its own fit; 0 where it has none.

    Args:
        system: the equations.
        number: of the reader.
    """
    layer, equations = system.parts[number].reader.layer, system.parts[number].equations
    counts, shares = equations.weight_rows, np.zeros(layer.output_shape)
    if system.reduced is not None and counts.any():
        rows = trilinear.forward(layer, equations.weight, system.basis)[counts] / equations.output_noise[counts, None]
        shares[counts] = system.reduced.leverages(system.unit * rows)
    return shares
