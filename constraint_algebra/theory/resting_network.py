"""A random network that is special in one way: gradients below normalisations do not move with what these read.

Below a normalisation with known statistics, `k = (K - mean(K) - x̂ mean(K x̂)) / s` moves with x̂ by `mean(K x̂)` alone.
That is zero at some networks. `K = D g` follows the gradient g at a value y above by factors D, and `B(W)^T k` of a
layer that reads y is part of g. Any change Δ of its weight with `B(Δ) y = 0` leaves all values, and so k there, as is:
`mean(K x̂) = 0` is a linear system in Δ, with a solution where there are more weights at an output than outputs.

A rank is nowhere larger than at almost all networks: what has full rank at a special one, has it at almost all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray, RealArray
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import PRIME, Echelon, multiply, residues
from constraint_algebra.ranks import modular_layers
from constraint_algebra.ranks.modular_network import ModularNetwork

WEIGHTS = 4700  # at one output of a layer whose weight is changed: as many unknowns has the elimination
MORE = 8  # changes that are tried at once, beyond as many as there are means


class RestingNetwork(ModularNetwork):
    """A random network with the values of another one, and other weights.

    Args:
        drawn: the other one.
        names: of normalisations with known statistics.

    Attributes:
        resting: names of those where every `mean(K x̂)` is zero.
    """

    def __init__(self, drawn: ModularNetwork, names: Collection[str]) -> None:
        """Take over all that weights do not change."""
        super().__init__(drawn.network, drawn.above, drawn.winners, drawn.seed, eps=drawn.eps)
        self.values = drawn.values
        self.support = drawn.support
        self._affine, self._bent, self._statistics = drawn._affine, drawn._bent, drawn._statistics
        self._names, self._changes, self._resting = frozenset(names), dict[str, FloatArray](), set[str]()

    @property
    def resting(self) -> set[str]:
        """Names of normalisations where every `mean(K x̂)` is zero."""
        assert self.gradients  # weights are changed on the way down
        return self._resting

    def weight(self, layer: PlacedLayer) -> RealArray:
        """Return the weight of a layer, in its canonical shape and in float32."""
        weight = super().weight(layer)
        if layer.name not in self._changes:
            return weight
        return np.asarray(np.remainder(weight + self._changes[layer.name], PRIME), dtype=np.float32)

    @cached_property
    def gradients(self) -> list[RealArray]:
        """The gradient with respect to every value by number, in float32."""
        layers = self.network.layers
        found: list[RealArray] = [np.zeros(value.shape, dtype=np.float32) for value in self.values]
        found[-1] = residues(found[-1].shape, self.rng(None, 1)).astype(np.float32)
        for layer in reversed(layers):
            self._rest(layer.number, found)
            for number, k in self.down(layer, found[layer.number][..., None]).items():
                found[number] = np.remainder(found[number] + k[..., 0], PRIME).astype(np.float32)
        return found

    def _rest(self, number: int, gradients: list[RealArray]) -> None:
        """Change the weight of a layer that reads a value, so that below it as many normalisations rest as can."""
        norms = list(self._below(number, np.ones(self.values[number].shape)))
        layer = self._changeable(number)
        if not norms:
            return
        if layer is not None:
            change = self._change(layer, norms, gradients)
            if change is not None:
                self._changes[layer.name] = change
                more = modular_layers.input_gradient(layer, change, gradients[layer.number][..., None])[..., 0]
                gradients[number] = np.remainder(gradients[number] + more, PRIME).astype(np.float32)
        for norm, factors in norms:
            products = np.remainder(self._through(norm, factors) * gradients[number], PRIME)
            if not _by_group(products[..., None], norm).any():
                self._resting.add(norm.name)

    def _below(self, number: int, factors: FloatArray) -> Iterator[tuple[PlacedLayer, FloatArray]]:
        """Yield the normalisations whose outputs a value is affinely made of, entry by entry, with the factors."""
        layer = self.network.layers[number - 1] if number else None
        if layer is None:
            return
        if layer.is_normalisation:
            whole_channels = self.values[number][0].size
            size = layer.unknowns // layer.normalisation.runs(layer.input_shape)
            if layer.name in self._names and size % whole_channels == 0:
                yield layer, factors
            return
        if layer.is_bilinear:
            diagonal = isinstance(layer.layer, ChannelScale)
        elif layer.is_activation:
            diagonal = is_piecewise_linear(layer.activation)
        else:
            diagonal = layer.is_affine and all(part.is_diagonal for part in self.parts(layer).values())
        if diagonal and layer.output_shape == layer.input_shape:
            for below, part in self.down(layer, factors[..., None]).items():
                if self.network.users(below) == (layer,):
                    yield from self._below(below, part[..., 0])

    def _changeable(self, number: int) -> PlacedLayer | None:
        """Return the layer that reads a value whose weight can be changed most without changing what it makes."""

        def room(layer: PlacedLayer) -> int:
            S = incidence(layer)
            return layer.channels * S.tap_count - S.output_count

        some = [
            user
            for user in self.network.users(number)
            if user.is_bilinear
            and not isinstance(user.layer, ChannelScale)
            and user.groups == 1
            and 0 < room(user) < WEIGHTS
        ]
        return max(some, key=room, default=None)

    def _change(
        self, layer: PlacedLayer, norms: list[tuple[PlacedLayer, FloatArray]], gradients: list[RealArray]
    ) -> FloatArray | None:
        """Return a change of a weight that leaves the layer's output as it is, and lets all normalisations rest."""
        g, k = gradients[layer.inputs[0]], gradients[layer.number].reshape(layer.filters, -1).astype(float)
        silent = Echelon(layer.channels * incidence(layer).tap_count)
        silent.absorb(_seen(layer, self.values[layer.inputs[0]]).T)
        rng, space = self.rng(layer, 8), silent.columns - silent.rank
        means = sum(norm.normalisation.runs(norm.input_shape) for norm, _ in norms)
        count = min(means + MORE, layer.filters * space)
        if count < means:
            return None
        changes = silent.null(residues((space, count), rng)).T  # of the weights of one filter each
        filters = np.arange(count) % layer.filters
        rows = []
        for norm, factors in norms:
            through = self._through(norm, factors)
            by_weight = multiply(k, _seen(layer, through).T)  # what each weight adds to the sums of K x̂
            of_changes = np.remainder(by_weight[filters] * changes, PRIME)
            before = np.remainder(through * g, PRIME).reshape(layer.channels, -1, 1)
            both = of_changes.reshape(count, layer.channels, -1).transpose(1, 2, 0), before
            rows.append(np.concatenate([_by_group(part, norm) for part in both], axis=1))
        factors_of_changes = _solution(np.concatenate(rows), rng)
        if factors_of_changes is None:
            return None
        found = np.zeros((layer.filters, silent.columns))
        for filter_, change, factor in zip(filters, changes, factors_of_changes, strict=True):
            found[filter_] = np.remainder(found[filter_] + factor * change, PRIME)
        return found.reshape(layer.weight_shape)

    def _through(self, norm: PlacedLayer, factors: FloatArray) -> FloatArray:
        """Return what x̂ becomes at the value above, in its shape."""
        return np.remainder(factors * self.statistics(norm).values.reshape(factors.shape), PRIME)


def _seen(layer: PlacedLayer, values: RealArray) -> FloatArray:
    """Return what each output of a layer sees of values through each tap, `(channels * taps, outputs)`."""
    S = incidence(layer)
    padded = np.pad(values.reshape(layer.channels, -1).astype(float), ((0, 0), (0, 1)))
    return padded[:, S.positions_seen.T].reshape(-1, S.output_count)


def _by_group(values: FloatArray, norm: PlacedLayer) -> FloatArray:
    """Return the sums of values, channels first, over each group of a normalisation, `(groups, n)` for `(..., n)`."""
    groups = norm.normalisation.runs(norm.input_shape)
    return np.asarray(np.remainder(values.reshape(groups, -1, values.shape[-1]).sum(axis=1), PRIME))


def _solution(rows: FloatArray, rng: np.random.Generator) -> FloatArray | None:
    """Return unknowns that make `rows @ (unknowns, 1)` zero; `None` where there are none."""
    form = Echelon(rows.shape[1]).absorb(rows)
    free: IntArray = form.free
    if not len(free) or free[-1] != rows.shape[1] - 1:
        return None
    values = residues((len(free), 1), rng)
    values[-1] = 1.0
    return np.remainder(form.null(values)[:-1, 0], PRIME)
