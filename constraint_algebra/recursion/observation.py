"""What the observer has in hand: a network, its parameters, and one gradient of each of them, with its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.layers.formula import Formulas
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.activation_sides import BiasCheck
from constraint_algebra.recursion.buffers import Shared
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.noise import Precision

ORDINARY = 1e-60, 1e60  # sizes of the largest gradient whose squares, and those of its noise, are numbers
STORED_OUTPUT = 2  # roundings of an activation's output when the client computes and stores it

Draw = Callable[[FloatArray, Shape], FloatArray]  # noise of given standard deviations, `(*shape, MEMBERS)`


@dataclass(frozen=True)
class Observation:
    """What every step of the recursion reads.

    Attributes:
        network: the architecture.
        parameters: weights and biases at which the gradient was taken, by name.
        gradients: the gradient of the loss with respect to each of them.
        deviations: the standard deviation of every entry of these gradients.
        rounding: the precision in which the client computed.
        draw: where the noise of the ensemble comes from; each call takes the next random numbers of one generator.
        shared: statistics of normalisations that the client's buffers give away, by the layer's index.
    """

    network: Network
    parameters: Parameters
    gradients: Parameters
    deviations: Parameters
    rounding: Precision
    draw: Draw
    shared: Mapping[int, Shared] = field(default_factory=dict)

    def bias(self, layer: PlacedLayer) -> FloatArray:
        """Return a layer's bias, shape `(filters,)`: zeros where it has none."""
        return np.zeros(layer.filters) if layer.bias_name is None else self.parameters[layer.bias_name]

    def bias_check(self, layer: PlacedLayer) -> BiasCheck | None:
        """Return a layer's bias equations as a check on its output gradient, `None` where it has no bias."""
        if layer.bias_name is None:
            return None
        name = layer.bias_name
        return BiasCheck(self.gradients[name], self.deviations[name], self.rounding.arithmetic)

    def unit(self, k: FloatArray) -> float:
        """What to multiply gradients by, so that squares of them and of their noise neither underflow nor overflow.

        It is 1 for ordinary gradients; a saturated loss may leave ones of 1e-190. A power of two, it rounds nothing.

        Args:
            k: the output gradient that the others are explained by, which counts among them.
        """
        largest = max(float(np.abs(g).max(initial=0.0)) for g in (k, *self.gradients.values()))
        low, high = ORDINARY
        return 1.0 if largest == 0 or low <= largest <= high else 2.0 ** -max(math.frexp(largest)[1], -1000)

    def multiplied(self, unit: float) -> Observation:
        """Return the observation of a loss so many times as large: all equations are linear in its gradients."""
        if unit == 1.0:
            return self
        rounding = replace(self.rounding, gradient_unit=unit * self.rounding.gradient_unit)
        gradients = {name: unit * g for name, g in self.gradients.items()}
        # A deviation may be smaller than all numbers; that of rounding next to zero is one once it is multiplied.
        deviations = {name: np.maximum(unit * d, rounding.underflow) for name, d in self.deviations.items()}
        return replace(self, gradients=gradients, deviations=deviations, rounding=rounding)

    def stored_gradient(self, k: Estimate) -> Estimate:
        """Return a gradient as the client stored it: next to zero its numbers have a spacing of their own."""
        spacing = self.rounding.underflow
        coarse = k.known & (k.value != 0) & (spacing > self.rounding.epsilon * np.abs(k.value))
        if not coarse.any():
            return k
        return replace(k, perturbations=k.perturbations + self.draw(np.where(coarse, spacing, 0.0), k.value.shape))

    def gate(self, f: Formulas, z: Estimate) -> FloatArray | float:
        """Return draws of what the client's rounding does to σ′(z) where a gate in it is rounded as 1 is."""
        if f.branches is None or not f.branches.cancels:
            return 0.0
        return self.draw(np.where(z.known, STORED_OUTPUT * self.rounding.deviation(np.ones(())), 0.0), z.value.shape)

    def stored(self, y: Estimate) -> FloatArray:
        """Return draws of what the client's rounding does to an activation's output y, `(*shape, MEMBERS)`."""
        return self.draw(STORED_OUTPUT * self.rounding.deviation(y.filled()), y.value.shape)
