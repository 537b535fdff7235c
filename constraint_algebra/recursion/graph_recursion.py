"""The recursion on a graph: knowledge of values and gradients flows down and up until nothing changes.

The rules are in `graph_rules`, `graph_windows`, `graph_solving`, `graph_joint` and `graph_blind`; here is their order.
What is cheap comes first: a sweep down (gradients from what reads a value, values from what they make), a sweep up
(forward, the gradients that a known input gives, gradients on single paths), and only where both stand still the
equations of several sources at once, and the blind start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from constraint_algebra.arrays import GroundArray, Progress
from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion import graph_rules, graph_statistics, graph_windows, open_values
from constraint_algebra.recursion.dual_equations import dual
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.found import Found, counted, with_grounds
from constraint_algebra.recursion.graph_blind import blind_start
from constraint_algebra.recursion.graph_joint import joint
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, Rule
from constraint_algebra.recursion.graph_solving import by_scale, readers, solve
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.open_values import Beyond, Held
from constraint_algebra.recursion.result import LayerSolution
from constraint_algebra.recursion.strategies.registry import Tried, grounds

ROUNDS = 200  # of sweeps; each learns something, so that this is never reached but by a fault


@dataclass
class Graph:
    """The recursion on a graph from one output gradient: `to_input` goes on from what it knows.

    Args:
        observed: parameters and gradients.
        start: the layer whose output gradient is at hand.
        k: that gradient.
        misfit: the largest residual of a layer, relative to its right-hand sides.
        progress: told how many layers with a weight have a known input.

    Attributes:
        knows: all that is known so far; `None` before the first pass.
    """

    observed: Observation
    start: PlacedLayer
    k: Estimate
    misfit: float
    progress: Progress | None
    knows: GraphKnowledge | None = field(default=None, init=False)
    _once: _Once | None = field(default=None, init=False)  # over all passes: what stood still, still does
    _tried: Tried | None = field(default=None, init=False)
    _grounds: dict[int, GroundArray] = field(default_factory=dict, init=False)

    @property
    def grounds(self) -> tuple[Ground, ...]:
        """The grounds on which it may find anything, the strongest first."""
        own = Ground.EQUATIONS, Ground.RANGE, Ground.ZEROS
        return tuple(sorted({*own, *grounds(self.observed.network)}))

    def to_input(self, beyond: Beyond | None = None) -> Found | None:
        """Return what is known of the input, and what was found layer by layer, last layer first; `None` above misfit.

        Args:
            beyond: what may be used beyond the equations, where these stand still.
        """
        if self.knows is None:
            self.knows = GraphKnowledge.nothing(self.observed)
            self.knows.learn_gradient(self.start.number, self.k)
            _seed(self.knows)
            for layer in self.observed.network:
                if layer.index in self.observed.shared:
                    graph_statistics.by_buffers(self.knows, layer)
        knows = self.knows
        self._once, self._tried = self._once or _Once(knows), self._tried or Tried(knows)
        _flow(self._once, self._tried, self.progress, beyond)
        ground = Ground.EQUATIONS if beyond is None else beyond.weakest
        summaries = [self._summary(knows, layer, ground) for layer in reversed(self.observed.network.bilinear)]
        if any(line.residual > self.misfit for line in summaries):
            return None
        return Found(knows.values[0], summaries, tuple(where_it_stops(knows)), knows.by_valid_range)

    def _summary(self, knows: GraphKnowledge, layer: PlacedLayer, ground: Ground) -> LayerSolution:
        """Return the line of a layer, with the grounds on which its input is known."""
        known = knows.values[layer.inputs[0]].known
        held = with_grounds(self._grounds.get(layer.index), known, ground)
        self._grounds[layer.index] = held
        return replace(_summary(knows, layer), grounds=counted(held))


def where_it_stops(knows: GraphKnowledge) -> list[str]:
    """Return in sentences what the recursion did beyond going down, and what is left open where it stopped."""
    notes = [
        f"layer {name!r} was read by its own weight gradient alone (blind start), and the recursion went on from there"
        for name in knows.blind
    ]
    notes += knows.remarks.values()
    if knows.values[0].known.all():
        return notes
    network = knows.network
    stuck = [layer for layer in network.bilinear if not knows.values[layer.inputs[0]].known.all()]
    if stuck:
        highest = max(stuck, key=lambda layer: layer.index)
        known = knows.values[highest.inputs[0]].known
        notes.append(
            f"the recursion stops at the input of layer {highest.name!r}, of which it knows {int(known.sum()):,} of"
            f" {known.size:,} values"
        )
    else:  # such as a max-pool of the input itself
        notes.append("the inputs of all layers with a weight are known; what comes before them hides the rest")
    for layer in network:
        if layer.is_selection and not knows.values[layer.inputs[0]].known.all():
            open_ones = (knows.winners[layer.index] < 0) & ~(knows.gradients[layer.number].filled() == 0)
            if open_ones.any():
                notes.append(f"which entry won is open in {int(open_ones.sum()):,} windows of layer {layer.name!r}")
    return [*notes, *knows.vain.values()]


def _seed(knows: GraphKnowledge) -> None:
    """Learn the output gradients that are bias gradients: those of layers with one output position."""
    observed = knows.observed
    for layer in knows.network.bilinear:
        if layer.bias_name is not None and math.prod(layer.outputs) == 1:
            db, own = observed.gradients[layer.bias_name], observed.deviations[layer.bias_name]
            known = np.ones(layer.output_shape, dtype=bool)
            found = Estimate(
                db.reshape(layer.output_shape), known, observed.draw(own, own.shape).reshape(*known.shape, -1)
            )
            knows.learn_gradient(layer.number, found)


class _Once:
    """Applies a rule at a layer only where something was learnt there since it was last applied."""

    def __init__(self, knows: GraphKnowledge) -> None:
        self.knows = knows
        self._seen: dict[tuple[Rule, int], object] = {}

    def __call__(self, rule: Rule, layer: PlacedLayer) -> bool:
        around = self._around(layer)
        if self._seen.get((rule, layer.index)) == around:
            return False
        self._seen[rule, layer.index] = around
        return rule(self.knows, layer)

    def _around(self, layer: PlacedLayer) -> object:
        """Return how much was learnt at a layer, and at all that read what it reads or makes."""
        numbers = (*layer.inputs, layer.number)
        readers = {user.index: user for number in numbers for user in self.knows.network.users(number)}
        return tuple(self.knows.seen(user) for user in (layer, *readers.values()))


def _flow(once: _Once, tried: Tried, progress: Progress | None, beyond: Beyond | None) -> None:
    """Apply the rules, the cheap ones until they stand still, then one of the others, and so on."""
    knows, network = once.knows, once.knows.network
    upwards, downwards = network.layers, network.layers[::-1]
    parametric = [layer for layer in downwards if layer.is_bilinear]
    dearer: tuple[Callable[[], bool], ...] = (
        lambda: any(once(_solve, layer) for layer in parametric),
        lambda: any(once(dual, layer) for layer in parametric),
        lambda: any(once(blind_start, layer) for layer in parametric),
        lambda: joint(knows),
        lambda: tried(beyond),
        lambda: beyond is not None and any(_extend(knows, layer, beyond) for layer in parametric),
    )
    for _ in range(ROUNDS):
        learnt = [_down(once, layer) for layer in downwards]
        learnt += [graph_rules.pull(knows, 0), *(_up(once, layer) for layer in upwards)]
        if not any(learnt):
            _report(knows, progress)
            if not any(step() for step in dearer):
                return


def _down(once: _Once, layer: PlacedLayer) -> bool:
    learnt = once(_pull, layer)
    learnt |= once(graph_rules.invert, layer)
    learnt |= once(graph_rules.below_activation, layer)
    if layer.is_selection:
        learnt |= once(_winners, layer)
    return (layer.is_bilinear and once(by_scale, layer)) or learnt


def _up(once: _Once, layer: PlacedLayer) -> bool:
    learnt = once(graph_rules.forward, layer)
    return once(graph_rules.push, layer) or learnt


def _pull(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    return graph_rules.pull(knows, layer.number)


def _solve(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Solve for what a layer reads, once for all that read it."""
    number = layer.inputs[0]
    those = [user for user in knows.network.users(number) if user.is_bilinear and not graph_rules.is_scale(user)]
    return layer in those[:1] and solve(knows, number)


def _extend(knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond) -> bool:
    """Learn of what a layer reads by the range of its values and by zeros, once for all that read it."""
    number = layer.inputs[0]
    made = open_values.origin(knows.network, number, beyond.valid_range)
    those = readers(knows, number)
    value = knows.values[number]
    if made is None or not those or layer is not those[0].layer or value.known.all():
        return False
    held = open_values.extended(knows.observed, Held(value, value), those, made, beyond)
    learnt = knows.learn_value(number, held.value)
    knows.by_valid_range |= learnt and not made.levels  # nothing but the network's input has none
    return learnt


def _winners(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    return graph_windows.by_gradient(knows, layer, graph_rules.own_part(knows, layer, 0))


def _report(knows: GraphKnowledge, progress: Progress | None) -> None:
    if progress is not None:
        layers = knows.network.bilinear
        done = [layer for layer in layers if knows.values[layer.inputs[0]].known.all()]
        progress(len(done), len(layers), done[0].name if done else "")


def _summary(knows: GraphKnowledge, layer: PlacedLayer) -> LayerSolution:
    """Return the line of a layer in the result: of the last time that its input was solved for, if it was."""
    known = int(knows.values[layer.inputs[0]].known.sum())
    found = knows.solutions.get(layer.index)
    if found is not None:
        return replace(found, determined=known)
    return LayerSolution(
        name=layer.name,
        kind=layer.kind,
        unknowns=layer.unknowns,
        weight_rows=0,
        gradient_rows=0,
        rank=None,
        determined=known,
        condition=1.0,
        residual=0.0,
    )
