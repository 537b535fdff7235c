"""A random network in the prime field, whatever its graph: weights, values, output gradients, and linear parts.

Weights, biases, statistics of batch norms, the input and the gradient at the output are random residues; on which side
each activation works and which entry each selection takes is given, since a prime field has no order. The eps of a
normalisation by the data's own statistics is zero, or a residue. Everything else follows by the chain rule, summed over
the users of a value: the output gradients are those of one network, and no layer is judged with others than its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray, RealArray
from constraint_algebra.layers.activations import PReLU, is_piecewise_linear
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.normalisation import Standardise
from constraint_algebra.layers.trilinear import touched
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.modular import PRIME, residues
from constraint_algebra.ranks import modular_layers
from constraint_algebra.ranks.linear_part import LinearPart, as_residues
from constraint_algebra.ranks.modular_activations import derivatives, residue, slope
from constraint_algebra.ranks.modular_statistics import ModularStatistics

DRAWN = 2**22  # random numbers at a time


class ModularNetwork:
    """One random network over residues; what it holds is drawn, and computed, when it is first asked for.

    Args:
        network: the graph.
        above: the side on which every activation with two works, by name, in its output shape; and what dropout keeps.
        winners: flat index of the entry that each output of a selection takes, by name, in its output shape.
        seed: of the residues.
        eps: whether what normalisations by the data's own statistics add to a variance is a residue, and not zero.
    """

    def __init__(
        self,
        network: Network,
        above: Mapping[str, BoolArray],
        winners: Mapping[str, IntArray],
        seed: int = 0,
        *,
        eps: bool = False,
    ) -> None:
        """Keep the pattern; nothing is drawn yet."""
        self.network = network
        self.above = above
        self.winners = winners
        self.seed = seed
        self.eps = eps
        self._affine: dict[str, dict[int, LinearPart]] = {}
        self._bent: dict[str, tuple[FloatArray, FloatArray]] = {}
        self._statistics: dict[str, ModularStatistics] = {}

    def rng(self, layer: PlacedLayer | None, what: int) -> np.random.Generator:
        """Return the random numbers of a layer, the same ones whatever was asked for before."""
        return np.random.default_rng([self.seed, 0 if layer is None else layer.number, what])

    def weight(self, layer: PlacedLayer) -> RealArray:
        """Return the weight of a layer, in its canonical shape and in float32, drawn anew: some take hundreds of MB."""
        rng, flat = self.rng(layer, 0), np.empty(math.prod(layer.weight_shape), dtype=np.float32)
        for first in range(0, len(flat), DRAWN):
            part = flat[first : first + DRAWN]
            part[:] = rng.integers(1, int(PRIME), size=len(part), dtype=np.int32)
        return flat.reshape(layer.weight_shape)

    def parts(self, layer: PlacedLayer) -> dict[int, LinearPart]:
        """Return what a layer does to differences of each value that it reads, by its number.

        Layers with a weight have none, and those with statistics of their own have `statistics`.
        """
        if isinstance(layer.layer, Dropout):
            assert self.values  # on which it depends what a mask means
        if layer.is_activation:
            return {layer.inputs[0]: LinearPart(diagonal=self.slope(layer).ravel())}
        if layer.is_selection:
            return {layer.inputs[0]: LinearPart.picking(self.winners[layer.name].ravel(), layer.unknowns)}
        if layer.name not in self._affine:
            self._affine[layer.name] = self._coefficients(layer)
        return self._affine[layer.name]

    def _coefficients(self, layer: PlacedLayer) -> dict[int, LinearPart]:
        if layer.is_reshape:
            return {layer.inputs[0]: LinearPart()}
        if isinstance(layer.layer, Standardise):
            factors = residues(layer.channels, self.rng(layer, 0))
            return {layer.inputs[0]: LinearPart(diagonal=factors.repeat(layer.unknowns // layer.channels))}
        maps = layer.layer.maps(*layer.input_shapes)  # type: ignore[attr-defined]
        numbers = dict.fromkeys(layer.inputs)
        return {n: LinearPart.of([M for m, M in zip(layer.inputs, maps, strict=True) if m == n]) for n in numbers}

    def statistics(self, layer: PlacedLayer) -> ModularStatistics:
        """Return what a normalisation by the data's own statistics does."""
        assert self.values  # of which they are taken on the way up
        return self._statistics[layer.name]

    def slope(self, layer: PlacedLayer) -> FloatArray:
        """Return the derivatives of an activation, in its output shape."""
        if isinstance(layer.activation, PReLU):
            return np.where(self.above[layer.name], 1.0, self.negative_slope(layer))
        if is_piecewise_linear(layer.activation):
            on = self.above.get(layer.name)
            return slope(layer.activation, np.ones(layer.output_shape, dtype=bool) if on is None else on)
        assert self.values  # outputs that bend are drawn on the way up
        return self._bent[layer.name][0]

    def curvature(self, layer: PlacedLayer) -> FloatArray | None:
        """Return the second derivatives of an activation, in its output shape; `None` where they are zero."""
        if is_piecewise_linear(layer.activation):
            return None
        assert self.values
        return self._bent[layer.name][1]

    def negative_slope(self, layer: PlacedLayer) -> FloatArray:
        """Return the slopes of PReLU below zero, so that they broadcast to its output."""
        count = layer.activation.parameters  # type: ignore[attr-defined]
        drawn = residues(count, self.rng(layer, 0))
        return drawn.reshape(-1, *(1,) * (len(layer.output_shape) - 1)) if count > 1 else drawn

    @cached_property
    def values(self) -> list[RealArray]:
        """The values by number, in float32, which holds every residue."""
        found: list[RealArray] = [residues(self.network.input_shape, self.rng(None, 0)).astype(np.float32)]
        for layer in self.network.layers:
            found.append(np.remainder(self._value(layer, found), PRIME).astype(np.float32))
        return found

    def _value(self, layer: PlacedLayer, values: Sequence[RealArray]) -> FloatArray:
        if layer.is_activation and not is_piecewise_linear(layer.activation):
            z = values[layer.inputs[0]].astype(float)
            on = self.above.get(layer.name, np.ones(layer.output_shape, dtype=bool))
            y, steep, bend = derivatives(layer.activation, z, on, self.rng(layer, 1))
            self._bent[layer.name] = steep, bend
            return y
        if layer.is_normalisation:
            eps = float(residues(1, self.rng(layer, 0))[0]) if self.eps else 0.0
            own = ModularStatistics.of(layer.normalisation, values[layer.inputs[0]], eps)
            self._statistics[layer.name] = own
            return own.values.reshape(layer.output_shape)
        if isinstance(layer.layer, Dropout):
            return self._dropped(layer, layer.layer, values[layer.inputs[0]])
        linear = self.up(layer, [values[n][..., None] for n in layer.inputs])[..., 0]
        if layer.is_bilinear:
            return linear if layer.bias_name is None else linear + self._shift(layer, layer.filters)
        if isinstance(layer.layer, Standardise):
            return linear + self._shift(layer, layer.channels)
        if layer.is_affine:
            constant = layer.layer.constant(*layer.input_shapes)  # type: ignore[attr-defined]
            return linear if constant is None else linear + as_residues(constant).reshape(linear.shape)
        return self._edges(layer, linear)

    def _dropped(self, layer: PlacedLayer, dropout: Dropout, x: RealArray) -> FloatArray:
        """Return what dropout leaves.

        Zeros count as dropped, as nobody can tell: they come from ReLU, which passes nothing on below them either.
        """
        kept = (self.above[layer.name] & (x != 0)) * residue(1 / (1 - dropout.p))
        self._affine[layer.name] = {layer.inputs[0]: LinearPart(diagonal=kept.ravel())}
        return np.asarray(x * kept, dtype=float)

    def _shift(self, layer: PlacedLayer, count: int) -> FloatArray:
        return residues((count, *(1,) * (len(layer.output_shape) - 1)), self.rng(layer, 2))

    def _edges(self, layer: PlacedLayer, linear: FloatArray) -> FloatArray:
        """Return outputs with those that are cut off at an edge, as the constant that Hardtanh has there."""
        low = getattr(layer.layer, "low", 0.0)
        on = self.above.get(layer.name)
        if not layer.is_activation or not low or on is None:
            return linear
        return np.where(on, linear, float(as_residues(np.array(low))))

    @cached_property
    def gradients(self) -> list[RealArray]:
        """The gradient with respect to every value by number, in float32."""
        layers = self.network.layers
        shapes = [self.network.input_shape, *(layer.output_shape for layer in layers)]
        found: list[RealArray] = [np.zeros(shape, dtype=np.float32) for shape in shapes]
        found[-1] = residues(shapes[-1], self.rng(None, 1)).astype(np.float32)
        for layer in reversed(layers):
            for number, k in self.down(layer, found[layer.number][..., None]).items():
                found[number] = np.remainder(found[number] + k[..., 0], PRIME).astype(np.float32)
        return found

    @cached_property
    def support(self) -> list[BoolArray]:
        """Where the gradient with respect to every value may be other than zero, by number."""
        layers = self.network.layers
        found = [np.zeros(self.network.input_shape, dtype=bool)]
        found += [np.zeros(layer.output_shape, dtype=bool) for layer in layers]
        found[-1][...] = True
        for layer in reversed(layers):
            own = found[layer.number]
            if layer.is_bilinear:
                found[layer.inputs[0]] |= touched(layer, own)
                continue
            if layer.is_normalisation:
                found[layer.inputs[0]] |= in_whole_groups(layer, own)
                continue
            for number, part in self.parts(layer).items():
                found[number] |= (part.met_below(own.ravel()) > 0).reshape(found[number].shape)
        return found

    def up(self, layer: PlacedLayer, inputs: Sequence[RealArray]) -> FloatArray:
        """Return what differences of what a layer reads, each `(*shape, n)`, become at its output."""
        if layer.is_bilinear:
            return modular_layers.forward(layer, self.weight(layer), inputs[0])
        if layer.is_normalisation:
            return self.statistics(layer).through(inputs[0])
        n, by_number = inputs[0].shape[-1], dict(zip(layer.inputs, inputs, strict=True))
        total = np.zeros((math.prod(layer.output_shape), n))
        for number, part in self.parts(layer).items():
            total += part.up(by_number[number].reshape(-1, n))
        return np.remainder(total, PRIME).reshape(*layer.output_shape, n)

    def down(self, layer: PlacedLayer, k: RealArray) -> dict[int, FloatArray]:
        """Return what a gradient at a layer's output, `(*shape, n)`, becomes at each value that it reads."""
        if layer.is_bilinear:
            return {layer.inputs[0]: modular_layers.input_gradient(layer, self.weight(layer), k)}
        if layer.is_normalisation:
            return {layer.inputs[0]: self.statistics(layer).through(k)}
        n, shapes = k.shape[-1], dict(zip(layer.inputs, layer.input_shapes, strict=True))
        flat = k.reshape(math.prod(layer.output_shape), n)
        return {m: part.down(flat).reshape(*shapes[m], n) for m, part in self.parts(layer).items()}

    def gradient(self, layer: PlacedLayer) -> FloatArray:
        """Return the gradient at the output of a layer with a weight, `(filters, outputs)`."""
        return np.asarray(self.gradients[layer.number].reshape(layer.filters, -1), dtype=float)


def in_whole_groups(layer: PlacedLayer, some: BoolArray) -> BoolArray:
    """Return all entries of the groups of a normalisation that hold one of `some`.

    >>> from constraint_algebra.layers.own_statistics import OwnStatistics
    >>> in_whole_groups(OwnStatistics(2).place((4,)), np.array([True, False, False, False]))
    array([ True,  True, False, False])
    """
    runs = some.reshape(layer.normalisation.runs(layer.input_shape), -1)
    return np.broadcast_to(runs.any(axis=1, keepdims=True), runs.shape).reshape(some.shape)
