"""The gradients of the layers between a value and known ones above it, as functions of the value.

With values h going up and gradients k coming down from where they are known, `dL/dW = A(k) h` and `dL/db` the sum of k.
What moves h moves k as well: an activation sends `σ′(z) k` back, which moves by `σ″(z) dz k`, and a normalisation

    k_x = (k - m1 - x̂ m2) / s        m1 = mean(k), m2 = mean(k x̂)

which moves by `-(dx̂ m2 + x̂ mean(k dx̂) + k_x ds) / s`. All other operations send k back by fixed coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.own_statistics import Statistics
from constraint_algebra.networks import operations
from constraint_algebra.recursion import graph_rules, layer_step
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept

CLEAR = 1e3  # times its noise, a gradient that says anything: below a normalisation that of a bias is zero


@dataclass(frozen=True)
class UpwardGradients:
    """The gradient equations of layers on the way up.

    Attributes:
        knows: what is known; it stays as it is.
        layers: all on the way, in order.
        ends: numbers of the known values at which it ends.
    """

    knows: GraphKnowledge
    layers: tuple[PlacedLayer, ...]
    ends: tuple[int, ...]

    @cached_property
    def _arrives(self) -> frozenset[int]:
        """Numbers of the values at which all of the gradient is known, or a function of the value below."""
        own, found = set(self.layers), {n for n in self.ends if self.knows.gradients[n].known.all()}
        for layer in reversed(self.layers):
            users = self.knows.network.users(layer.number)
            if layer.number not in self.ends and users and all(u in own and u.number in found for u in users):
                found.add(layer.number)
        return frozenset(found)

    @cached_property
    def parts(self) -> tuple[tuple[PlacedLayer, str], ...]:
        """The layers with a weight at which the gradient arrives, with the name of each parameter."""
        some = [layer for layer in self.layers if layer.is_bilinear and layer.number in self._arrives]
        names = [(layer, name) for layer in some for name in (layer.weight_name, layer.bias_name) if name is not None]
        return tuple((layer, name) for layer, name in names if self._is_clear(name))

    def _is_clear(self, name: str) -> bool:
        observed = self.knows.observed
        largest = max(float(np.abs(g).max(initial=0.0)) for g in observed.gradients.values())
        noise = float(observed.deviations[name].max(initial=0.0)) + observed.rounding.arithmetic * largest
        return float(np.sqrt((observed.gradients[name] ** 2).mean())) > CLEAR * noise

    @property
    def given(self) -> list[FloatArray]:
        """What is given of each."""
        return [self.knows.observed.gradients[name] for _, name in self.parts]

    def made(self, values: list[FloatArray], at: operations.Pattern) -> list[FloatArray]:
        """Return what values and patterns make of each."""
        k = self._falling(at)
        return [
            trilinear.weight_gradient(layer, k[layer.number], values[layer.inputs[0]])
            if name == layer.weight_name
            else k[layer.number].reshape(layer.filters, -1).sum(axis=1)
            for layer, name in self.parts
        ]

    def moved(
        self, values: list[FloatArray], at: operations.Pattern, moved: Mapping[int, FloatArray]
    ) -> list[FloatArray]:
        """Return how each moves with values that move, `(*shape, n)`."""
        k = self._falling(at)
        dk = self._moving(values, at, moved, k)
        count, found = next(iter(moved.values())).shape[-1], []
        for layer, name in self.parts:
            number, x = layer.number, layer.inputs[0]
            bend = dk.get(number, np.zeros((*layer.output_shape, count)))
            if name == layer.weight_name:
                straight = trilinear.weight_gradients(layer, k[number], moved[x])
                found.append(straight + trilinear.weight_gradient(layer, bend, values[x]))
            else:
                found.append(bend.reshape(layer.filters, -1, count).sum(axis=1))
        return found

    def _falling(self, at: operations.Pattern) -> dict[int, FloatArray]:
        """Return the gradient at each value at which it arrives."""
        found = {n: self.knows.gradients[n].value for n in self.ends if n in self._arrives}
        for layer in reversed(self.layers):
            if layer.number in self._arrives:
                sent = operations.cotangents(layer, self.knows.observed.parameters, at, found[layer.number])
                self._add(found, layer, sent)
        return found

    def _moving(
        self,
        values: list[FloatArray],
        at: operations.Pattern,
        moved: Mapping[int, FloatArray],
        k: Mapping[int, FloatArray],
    ) -> dict[int, FloatArray]:
        """Return how these gradients move with the values."""
        found = dict[int, FloatArray]()
        for layer in reversed(self.layers):
            if layer.number not in self._arrives:
                continue
            if layer.number in found:
                sent = operations.cotangents(layer, self.knows.observed.parameters, at, found[layer.number])
                self._add(found, layer, sent)
            x = layer.inputs[0]
            if layer.is_activation:
                bend = self._curvature(layer, values) * k[layer.number]
                self._add(found, layer, (bend[..., None] * moved[x],))
            elif layer.is_normalisation:
                self._add(found, layer, (_bent(at[layer.name], k[layer.number], moved[x], moved[layer.number]),))
        return found

    def _add(self, found: dict[int, FloatArray], layer: PlacedLayer, sent: tuple[FloatArray, ...]) -> None:
        for number, part in zip(layer.inputs, sent, strict=True):
            if number in self._arrives and number not in self.ends:
                found[number] = found[number] + part if number in found else part

    def _curvature(self, layer: PlacedLayer, values: list[FloatArray]) -> FloatArray:
        """Return σ″."""
        f, z, y = operations.formulas_of(layer, self.knows.observed.parameters), *_around(layer, values)
        if f.branches is not None:
            return f.branches.curvature(z)
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(f.slope(y) * f.derivative(y))

    def noise(self, trial: GraphKnowledge) -> list[FloatArray]:
        """Return draws of the noise of each, `(*shape, MEMBERS)`, for values and gradients with theirs."""
        for layer in reversed(self.layers):
            for number in layer.inputs:
                graph_rules.pull(trial, number)
        found = []
        for layer, name in self.parts:
            k, x, observed = trial.gradients[layer.number], trial.values[layer.inputs[0]], trial.observed
            if name == layer.weight_name:
                scale = float(np.sqrt((x.filled() ** 2).mean())) or 1.0
                nothing = Estimate.unknown(layer.output_shape, MEMBERS)
                own = layer_step.layer_equations(observed, layer, k, nothing, scale)[1].weight_gradient
                moved = trilinear.weight_gradients(layer, k.filled(), kept(x))
                moved = moved + trilinear.weight_gradient(layer, kept(k), x.filled())
            else:
                flat = k.filled().reshape(layer.filters, -1)
                rounding = observed.rounding.arithmetic * np.sqrt((flat**2).sum(axis=1))
                own = np.hypot(observed.deviations[name], rounding)
                moved = kept(k).reshape(layer.filters, -1, MEMBERS).sum(axis=1)
            found.append(observed.draw(own, own.shape) - moved)
        return found


def _around(layer: PlacedLayer, values: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    return values[layer.inputs[0]], values[layer.number]


def _bent(own: object, k: FloatArray, d: FloatArray, d_made: FloatArray) -> FloatArray:
    """Return how what a normalisation sends back moves with its input, k fixed.

    Args:
        own: its statistics.
        k: what arrives.
        d: how its input moves, `(*shape, n)`.
        d_made: how x̂ moves.
    """
    assert isinstance(own, Statistics)
    groups, n = len(own.scale), d.shape[-1]
    x, K, sent = (part.reshape(groups, -1, 1) for part in (own.normalised, k, own.through(k)))
    dz, dx = d.reshape(groups, -1, n), d_made.reshape(groups, -1, n)
    m2, of_m2 = (K * x).mean(axis=1, keepdims=True), (K * dx).mean(axis=1, keepdims=True)
    ds = (x * dz).mean(axis=1, keepdims=True)
    return np.asarray(-(dx * m2 + x * of_m2 + sent * ds) / own.scale[:, None, None]).reshape(d.shape)
