"""The recursion through a plain chain: layer after layer, from the head's gradient to the network's input.

Knowledge is kept for every value, not for every layer. k[j] is known where d(x[j]) is, and also where the gradient that
arrives at j is zero, whatever x[j] is; a gradient row counts where all its k are known, a weight row where its z is.
Where no activation lies between, a layer that stays open is solved together with those below it (`joint_step`).

What comes to be known of a layer's input only in part may yet make outputs of that layer known, which the layers above
left open: then the pass is made again with these.

A pass may use what lies beyond the equations (`open_values`, `open_bits`). What it has in common with the pass before,
which used less, is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from constraint_algebra.arrays import GroundArray, Progress
from constraint_algebra.ground import Ground
from constraint_algebra.layers.activations import ReLU, formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks import walk
from constraint_algebra.recursion import bits_step, explanations, joint_step, layer_step, open_values
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Above, Estimate, activated, through_activation
from constraint_algebra.recursion.found import Found, counted, with_grounds
from constraint_algebra.recursion.joint_equations import OpenLayer
from constraint_algebra.recursion.joint_step import Step
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.open_values import Beyond, Held
from constraint_algebra.recursion.result import LayerSolution
from constraint_algebra.recursion.value_equations import Reader

ROUNDS = 6  # passes with what came from below; each learns something


@dataclass(frozen=True)
class Place:
    """A place between two layers, and what is known there.

    Attributes:
        values: the values there.
        gradient: the gradient of the loss with respect to them.
        above: the activation that reads them; `None` where another layer does.
        output: of that activation, as far as it is known.
    """

    values: Estimate
    gradient: Estimate
    above: Above | None = None
    output: Estimate | None = None

    def says_something(self) -> bool:
        """Whether any value is known, or any gradient that is not zero."""
        return self.gradient.says_something(self.values)


@dataclass
class Chain:
    """The recursion from one output gradient: `to_input` makes a pass, and remembers it for the next.

    Args:
        observed: parameters and gradients.
        start: the layer to start from.
        k: its output gradient.
        misfit: the largest residual of a layer, relative to its right-hand sides, at which a pass goes on.
        progress: told after each layer of the first pass.
    """

    observed: Observation
    start: PlacedLayer
    k: Estimate
    misfit: float
    progress: Progress | None
    _steps: dict[int, tuple[object, Step, Ground]] = field(default_factory=dict, init=False)
    _grounds: dict[int, GroundArray] = field(default_factory=dict, init=False)
    _taken: dict[int, Estimate] = field(default_factory=dict, init=False)
    _from_below: dict[int, Estimate] = field(default_factory=dict, init=False)
    _by_valid_range: bool = field(default=False, init=False)

    @property
    def grounds(self) -> tuple[Ground, ...]:
        """The grounds on which it may find anything, the strongest first."""
        return Ground.EQUATIONS, Ground.RANGE, Ground.ZEROS, Ground.BITS

    def to_input(self, beyond: Beyond | None = None) -> Found | None:
        """Return the network's input and what was found layer by layer; `None` at a residual above `misfit`.

        With a finite `misfit`, as one of several explanations, also where an activation never has the output found.

        Args:
            beyond: what may be used beyond the equations; a first pass with nothing, then with more and more.
        """
        found = self._pass(beyond)
        for _ in range(ROUNDS if beyond is not None else 0):
            if found is None or not self._learnt_from_below():
                break
            found = self._pass(beyond)
        return found

    def _pass(self, beyond: Beyond | None) -> Found | None:
        network = self.observed.network
        todo = [layer for layer in reversed(network.bilinear) if layer.index <= self.start.index]
        place = Place(Estimate.unknown(self.start.output_shape, MEMBERS), self.k)
        summaries: list[LayerSolution] = []
        group: tuple[OpenLayer, ...] = ()
        upper: Reader | None = None
        for layer, below in zip(todo, [*todo[1:], None], strict=True):
            step = self._step(layer, place, group, upper, beyond)
            summary, x = step.solved.summary, step.solved.input
            if summary.residual > self.misfit:
                return None
            summaries.append(self._with_grounds(summary, layer, x, beyond))
            if self.progress is not None and beyond is None:
                self.progress(len(summaries), len(todo), layer.name)
            if upper is not None and not x.known.all():
                self._from_below[upper.layer.index] = self._output(layer, x, upper.layer)
            if layer.index == 0:
                return Found(x, summaries, by_valid_range=self._by_valid_range)
            between = network.between(below, layer) if below is not None else network.layers[: layer.index]
            if np.isfinite(self.misfit) and explanations.is_out_of_range(between, x):
                return None
            at_input = Place(x, layer_step.input_gradient(self.observed, layer, step.k))
            upper = Reader(layer, step.k, place.values)
            place = through_activations(self.observed, between, at_input, below)
            group = step.open if joint_step.affine(between) else ()
            if not place.says_something() and not any(above.says_something() for above in group):
                return Found(Estimate.unknown(network.input_shape, MEMBERS), summaries)
        return Found(place.values, summaries, by_valid_range=self._by_valid_range)

    def _step(
        self,
        layer: PlacedLayer,
        place: Place,
        group: tuple[OpenLayer, ...],
        upper: Reader | None,
        beyond: Beyond | None,
    ) -> Step:
        """Return what is found at a layer; as before, where no more is known than in the pass before."""
        if beyond is not None and beyond.weakest >= Ground.BITS and upper is not None and not group:
            own = place.gradient, place.above, place.output
            place = replace(place, gradient=bits_step.with_bits(self.observed, layer, *own, upper, beyond))
        seen, before = _known(place, group), self._steps.get(layer.index)
        if before is not None and before[0] == seen:
            step, looked_at = before[1:]
        else:
            this = OpenLayer(layer, place.gradient, place.values, place.above)
            step, looked_at = joint_step.take(self.observed, group, this), Ground.EQUATIONS
        if beyond is not None and (lifted := self._lifted(layer, step, place)) is not None:
            step, looked_at = lifted, Ground.EQUATIONS
        # Bits say nothing of the layer's own input; without a new equation it is not looked at again.
        if beyond is not None and looked_at < min(beyond.weakest, Ground.ZEROS):
            step, looked_at = self._extended(layer, step, place, beyond), beyond.weakest
        self._steps[layer.index] = seen, step, looked_at
        return step

    def _output(self, layer: PlacedLayer, x: Estimate, upper: PlacedLayer) -> Estimate:
        """Return what the layer above reads, as far as a layer's input makes it known."""

        def activation(step: PlacedLayer, z: Estimate) -> Estimate:
            return activated(formulas(step.activation), z)

        def reshape(step: PlacedLayer, y: Estimate) -> Estimate:
            return y.reshape(step.output_shape)

        z = layer_step.output_of(self.observed, layer, x)
        return walk.up(self.observed.network.between(layer, upper), z, walk.Rules(activation, reshape))[-1]

    def _learnt_from_below(self) -> bool:
        """Whether anything is known from below that the last pass left open."""
        steps = ((self._steps[index][1], y) for index, y in self._from_below.items())
        return any((y.known & ~step.solved.input.known).any() for step, y in steps)

    def _lifted(self, layer: PlacedLayer, step: Step, place: Place) -> Step | None:
        """Return a step with what is known of the layer's input from below, `None` where that is nothing new."""
        y, x = self._from_below.get(layer.index), step.solved.input
        if y is None or not (y.known & ~x.known).any():
            return None
        reader = Reader(layer, step.k, place.values)
        readers = [reader] if reader.says_something() else []
        return self._holding(
            layer, step, place, open_values.with_entries(self.observed, self._held(layer, x), y, readers)
        )

    def _held(self, layer: PlacedLayer, x: Estimate) -> Held:
        """Return what is known of a layer's input, and what of it has been taken in beyond its equations."""
        return Held(x, self._taken.get(layer.index, Estimate.unknown(x.value.shape, MEMBERS)))

    def _holding(self, layer: PlacedLayer, step: Step, place: Place, held: Held) -> Step:
        """Return a step with more of the layer's input, and what that settles of the gradient at its output."""
        self._taken[layer.index] = held.taken
        solved = replace(step.solved, input=held.value)
        k = layer_step.settled_gradient(self.observed, layer, step.k, solved, place.above)
        return Step(solved, k, () if held.value.known.all() else step.open)

    def _extended(self, layer: PlacedLayer, step: Step, place: Place, beyond: Beyond) -> Step:
        """Return a step with what the range of the layer's input, and its zeros, decide."""
        if step.solved.input.known.all():
            return step
        made = open_values.origin(self.observed.network, layer.inputs[0], beyond.valid_range)
        reader = Reader(layer, step.k, place.values)
        if made is None or not reader.says_something():
            return step
        cut = None
        if place.above is not None and place.output is not None and isinstance(place.above.activation, ReLU):
            cut = open_values.inactive(self.observed, layer, place.output.reshape(layer.output_shape))
        x = step.solved.input
        held = open_values.extended(self.observed, self._held(layer, x), [reader], made, beyond, cut)
        if held.value.known.sum() == x.known.sum():
            return step
        self._by_valid_range |= not made.levels  # nothing but the network's input has none
        return self._holding(layer, step, place, held)

    def _with_grounds(
        self, summary: LayerSolution, layer: PlacedLayer, x: Estimate, beyond: Beyond | None
    ) -> LayerSolution:
        """Return the line of a layer with the grounds on which its input is known."""
        ground = Ground.EQUATIONS if beyond is None else beyond.weakest
        held = with_grounds(self._grounds.get(layer.index), x.known, ground)
        self._grounds[layer.index] = held
        return replace(summary, determined=int(x.known.sum()), grounds=counted(held))


def _known(place: Place, group: tuple[OpenLayer, ...]) -> object:
    """Return what tells whether more is known at a place than before."""
    estimates = [place.values, place.gradient, *(e for above in group for e in (above.k, above.z))]
    return tuple(np.packbits(estimate.known).tobytes() for estimate in estimates)


def through_activations(
    observed: Observation, between: Sequence[PlacedLayer], place: Place, below: PlacedLayer | None
) -> Place:
    """Return what is known at the output of a layer, from what is known at the input of the next layer above it.

    Args:
        observed: parameters and gradients.
        between: the layers without a weight that lie between the two.
        place: what is known at the input of the upper one.
        below: the lower one, whose bias equations are a check on its output gradient; `None` below the first of all.
    """

    def activation(layer: PlacedLayer, place: Place) -> Place:
        y, dy = place.values, place.gradient
        stored = observed.stored(y)
        check = observed.bias_check(below) if below is not None and layer is between[0] else None
        z, dz = through_activation(layer.activation, y, dy, stored, check)
        return Place(z, observed.stored_gradient(dz), Above(layer.activation, dy), y)

    def reshape(layer: PlacedLayer, place: Place) -> Place:
        return Place(place.values.reshape(layer.input_shape), place.gradient.reshape(layer.input_shape))

    return walk.down(between, place, walk.Rules(activation=activation, reshape=reshape))
