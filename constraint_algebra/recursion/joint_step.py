"""Layers with no activation between them, solved together: their unknown is the input of the lowest.

Between activations everything is affine. Where the equations of a layer do not determine its input, these values are
still an affine function of the input of a layer further down, which may be smaller: a layer that expands three pixels
to eight channels hides none of them. So a layer that stays open keeps its equations, and at each layer below, up to the
next activation, those of all of them are put together (`joint_equations`).

`take` does a step of the recursion: the layer by itself, as in `layer_step`, or together with the open ones above it.
A joint system is dense: beyond `UNKNOWNS`, or a size that the memory does not hold, only the layer's own equations
count, which is as sound and may determine less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra import memory
from constraint_algebra.errors import MemoryLimitError
from constraint_algebra.layers.activations import Identity
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.recursion import contradictions, layer_step
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.joint_equations import JointEquations, OpenLayer
from constraint_algebra.recursion.layer_step import SolvedInput
from constraint_algebra.recursion.observation import Observation

UNKNOWNS = 4096  # most unknowns of a joint system: a minute where all its singular values are needed
ENTRIES = 2**27  # most entries of its matrix, and of the map from its unknowns to the values between two layers: 1 GiB


@dataclass(frozen=True)
class Step:
    """What a step of the recursion found at a layer.

    Attributes:
        solved: its input.
        k: the gradient at its output, with what the solved input settles.
        open: the layers to which the next one below belongs if no activation lies between, the highest first: empty
            where the input is wholly determined, and then says all that they do.
    """

    solved: SolvedInput
    k: Estimate
    open: tuple[OpenLayer, ...]


def affine(between: Sequence[PlacedLayer]) -> bool:
    """Whether the layers between two with a weight only pass values on."""
    return not any(step.is_activation and not isinstance(step.activation, Identity) for step in between)


def take(observed: Observation, group: tuple[OpenLayer, ...], this: OpenLayer) -> Step:
    """Return the input of a layer by its own equations, together with those of the open layers above it if there are.

    Args:
        observed: parameters and gradients.
        group: the open layers above with no activation between, the highest first.
        this: the layer, and what is known at its output.
    """
    layers = (*group, this)
    if group and fits([part.layer for part in layers]):
        solved = _solved(observed, layers)
        layers = _settled(observed, layers, solved.input)
    else:
        solved = layer_step.solve(observed, this.layer, this.k, this.z)
        k = layer_step.settled_gradient(observed, this.layer, this.k, solved, this.above)
        layers = (*group, replace(this, k=k))
    return Step(solved, layers[-1].k, () if solved.input.known.all() else layers)


def fits(layers: Sequence[PlacedLayer]) -> bool:
    """Return whether the joint system of layers, the highest first, is small enough, from shapes alone."""
    n = layers[-1].unknowns
    rows = sum(_most_rows(layer) for layer in layers) + math.prod(layers[0].output_shape)
    entries = n * max(rows, *(layer.unknowns for layer in layers))
    try:
        memory.demand("to eliminate layers together", 8.0 * 4 * entries, "take a smaller network")
    except MemoryLimitError:
        return False
    return n <= UNKNOWNS and entries <= ENTRIES


def _most_rows(layer: PlacedLayer) -> int:
    """Return the most rows that the gradient equations of a layer take, those of one channel compressed."""
    return layer.channels * min(math.prod(layer.positions), layer.filters // layer.groups * math.prod(layer.taps))


def _solved(observed: Observation, layers: tuple[OpenLayer, ...]) -> SolvedInput:
    """Return the input of the lowest of several layers, the highest first, from the equations of all."""
    joint = JointEquations(observed, layers[::-1])
    x = joint.solution()
    if joint.misjudged(x):  # right-hand sides that happen to be small let the input seem so, and its rounding
        joint = JointEquations(observed, layers[::-1], joint.typical(x))
        x = joint.solution()
    found, none = joint.estimate(x), np.zeros(joint.layer.filters, dtype=bool)
    return SolvedInput(found, joint.summary(found), none)


def _settled(observed: Observation, layers: tuple[OpenLayer, ...], x: Estimate) -> tuple[OpenLayer, ...]:
    """Return layers, the highest first, with what the input x of the lowest settles of their output gradients.

    Only the highest has outputs whose side an activation left open; what that settles goes down through the others.
    """
    highest = layers[0]
    if highest.above is None or highest.k.known.all():
        return layers
    h = x
    for place, above in zip(layers[:0:-1], layers[-2::-1], strict=True):
        h = layer_step.output_of(observed, place.layer, h).reshape(above.layer.input_shape)
    W, b = observed.parameters[highest.layer.weight_name], observed.bias(highest.layer)
    none = np.zeros(highest.layer.filters, dtype=bool)
    k = contradictions.settled_by_input(highest.layer, W, b, highest.above, h, highest.k, none)
    if (k.known == highest.k.known).all():
        return layers
    found = [replace(highest, k=k)]
    for place in layers[1:]:
        above = found[-1]
        k = layer_step.input_gradient(observed, above.layer, above.k).reshape(place.layer.output_shape)
        found.append(replace(place, k=k))
    return tuple(found)
