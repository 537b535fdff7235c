"""The equations of several layers together, modulo a prime, in what enters the lowest of them.

At a given pattern every layer's input is an affine function of what enters the lowest layer, `h_l = M_l x + c_l`, and
the output gradients k are those of one network: that of the top layer is drawn, all others follow from it through the
weights, `k_l = σ' B(W)^T k`. The equations are

    A_l(k_l) M_l    for every layer l,      and      B(W) M    of the top layer, where its pre-activation is known

One random network in the prime field (weights and the top's k are residues; slopes are what the pattern makes them)
gives their rank for almost all networks. An entry has as many random factors as there are layers, so that a rank of r
is found too small with probability at most `layers * r / (p - 1)`.

The k of the top layer must be generic for that: independent indeterminates. It is, wherever the equations above
determine their unknowns. What arrives at x is the derivative of the multilinear form `T = k^T W_m ... W_1 x` with
respect to x, and second derivatives are symmetric: the rows above are the transpose of the Jacobian of what arrives, as
a function of k and of all W. So where they have full column rank, or on the values that they determine, the map from
(k, W) to what arrives is a submersion, and what arrives is as free as k itself. By induction from the head, whose W is
free, the k that reaches a layer is generic wherever the recursion gets there through determined inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.trilinear import touched
from constraint_algebra.networks.walk import Rules, down_through
from constraint_algebra.numerics.modular import PRIME, PROBES, Echelon, multiply, residues
from constraint_algebra.ranks import modular_layers
from constraint_algebra.ranks.generic import FirstStage
from constraint_algebra.ranks.knowledge import Knowledge, gradient_rows
from constraint_algebra.ranks.whole_map import RowsOfLayer

LIMIT = 3600  # unknowns that the lowest layer's gradient equations may leave, about 10 s
VALUES = 1.5e8  # that may be carried at once, 1.2 GB
PIXELS = 2100  # positions of a channel up to which its gradient equations are eliminated


class Composed(NamedTuple):
    """The rank of the equations of several layers.

    Attributes:
        rank: of all of them.
        determined: which values that enter the lowest layer they determine, in its input shape.
        rows: rows and rank up to each layer, from the lowest on; those of the top layer of both kinds.
        error: upper bound of the probability that the rank is too small.
    """

    rank: int
    determined: BoolArray
    rows: tuple[RowsOfLayer, ...]
    error: float


class Arriving(NamedTuple):
    """An output gradient: residues, where it is known, and where it may be other than zero."""

    k: FloatArray
    gradient: BoolArray
    support: BoolArray


@dataclass(frozen=True)
class RandomNetwork:
    """Some layers of a network in the prime field.

    Attributes:
        layers: the layers in order; the last one has a weight.
        weights: residues by the layer's name.
        slopes: derivatives of the activations among them, residues by name.
        arriving: what is known of the output gradient of every layer, by name.
    """

    layers: tuple[PlacedLayer, ...]
    weights: Mapping[str, FloatArray]
    slopes: Mapping[str, FloatArray]
    arriving: Mapping[str, Arriving]

    @staticmethod
    def draw(
        layers: Sequence[PlacedLayer], known: Knowledge, slopes: Mapping[str, FloatArray], rng: np.random.Generator
    ) -> RandomNetwork:
        """Draw weights, and the output gradient of the last layer where it may be other than zero.

        Args:
            layers: the layers in order; the last one has a weight.
            known: what is known at the outputs of the last.
            slopes: derivatives of the activations, residues in their output shape by name.
            rng: of the residues.
        """
        weights = {layer.name: residues(layer.weight_shape, rng) for layer in layers if layer.is_bilinear}

        def activation(layer: PlacedLayer, above: Arriving) -> Arriving:
            on = slopes[layer.name] != 0
            k = np.remainder(above.k * slopes[layer.name], PRIME)
            return Arriving(k, above.gradient | ~on, above.support & on)

        def bilinear(layer: PlacedLayer, above: Arriving) -> Arriving:
            k = modular_layers.input_gradient(layer, weights[layer.name], above.k[..., None])[..., 0]
            return Arriving(k, ~touched(layer, ~above.gradient), touched(layer, above.support))

        def reshape(layer: PlacedLayer, above: Arriving) -> Arriving:
            shape = layer.input_shape
            return Arriving(above.k.reshape(shape), above.gradient.reshape(shape), above.support.reshape(shape))

        top = Arriving(residues(known.support.shape, rng) * known.support, known.gradient, known.support)
        outputs = down_through(layers[1:], top, Rules(activation, reshape, bilinear))
        arriving = {layer.name: above for layer, above in zip(layers, outputs, strict=True)}
        return RandomNetwork(tuple(layers), weights, slopes, arriving)

    def k(self, layer: PlacedLayer) -> FloatArray:
        """Return the output gradient of a layer, shape `(filters, outputs)`."""
        return self.arriving[layer.name].k.reshape(layer.filters, -1)

    def usable(self, layer: PlacedLayer) -> BoolArray:
        """Return which gradient rows (filter, tap) of a layer count."""
        _, gradient, support = self.arriving[layer.name]
        return gradient_rows(layer, Knowledge(gradient, gradient, support))

    def up(self, layer: PlacedLayer, values: FloatArray) -> FloatArray:
        """Return what differences at a layer's input become at its output, `(*shape, n)`."""
        if layer.is_bilinear:
            return modular_layers.forward(layer, self.weights[layer.name], values)
        if layer.is_activation:
            return np.remainder(values * self.slopes[layer.name][..., None], PRIME)
        return values.reshape(layer.output_shape + values.shape[-1:])


def composed_rank(
    layers: Sequence[PlacedLayer], known: Knowledge, slopes: Mapping[str, FloatArray], seed: int = 0
) -> Composed | None:
    """Return the rank of the equations of several layers in what enters the lowest; `None` where they are too large.

    Args:
        layers: the layers in order; the first and the last one have a weight.
        known: what is known at the outputs of the last.
        slopes: derivatives of the activations among the layers, residues in their output shape by name.
        seed: of the residues.
    """
    lowest, unknowns = layers[0], layers[0].unknowns
    if math.prod(lowest.positions) > PIXELS:
        return None
    rng = np.random.default_rng(seed)
    drawn = RandomNetwork.draw(layers, known, slopes, rng)
    spaces = _first_stage(drawn, lowest)
    opens = sum(N.shape[1] for N in spaces)
    widest = max(math.prod(layer.input_shape) for layer in layers)
    if opens > LIMIT or opens * float(widest) > VALUES:
        return None
    basis = _diagonal(spaces).reshape(*lowest.input_shape, opens)
    form, rows = _second_stage(drawn, basis, known)
    y = form.null(residues((opens - form.rank, PROBES), rng))
    determined = np.asarray(~multiply(basis.reshape(unknowns, opens), y).any(axis=1)).reshape(lowest.input_shape)
    rank = unknowns - opens + form.rank
    error = min(1.0, sum(layer.is_bilinear for layer in layers) * rank / (PRIME - 1))
    return Composed(rank, determined, rows, error)


def _first_stage(drawn: RandomNetwork, lowest: PlacedLayer) -> list[FloatArray]:
    """Return for every channel a basis of what the gradient equations of the lowest layer leave open of it.

    They are the same for every channel of a group.
    """
    S, G = incidence(lowest), lowest.groups
    k, usable = (values.reshape(G, lowest.filters // G, -1) for values in (drawn.k(lowest), drawn.usable(lowest)))
    spaces = [FirstStage.of(S, k[g], usable[g]).null_space() for g in range(G)]
    return [N for N in spaces for _ in range(lowest.channels // G)]


def _diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    """Return blocks of equal height, one below the other, each in columns of its own."""
    ends = np.cumsum([0, *(block.shape[1] for block in blocks)])
    whole = np.zeros((len(blocks), len(blocks[0]), ends[-1]))
    for number, block in enumerate(blocks):
        whole[number, :, ends[number] : ends[number + 1]] = block
    return whole


def _second_stage(drawn: RandomNetwork, basis: FloatArray, known: Knowledge) -> tuple[Echelon, tuple[RowsOfLayer, ...]]:
    """Return the echelon form of all other equations in the coordinates of a basis, rows and rank layer by layer."""
    unknowns, opens = math.prod(basis.shape[:-1]), basis.shape[-1]
    form, values, rows = Echelon(opens), basis, list[RowsOfLayer]()
    for layer in drawn.layers:
        if layer.is_bilinear:
            usable = drawn.usable(layer)
            if rows:  # those of the lowest layer are zero on the basis
                for block in modular_layers.gradient_row_blocks(layer, drawn.k(layer), usable, values):
                    form.absorb(block)
                    if form.rank == opens:
                        break
            count = int(usable.sum()) * (layer.channels // layer.groups)
            rows.append(RowsOfLayer(layer.name, count, unknowns - opens + form.rank))
        if form.rank == opens or not values.any():
            break
        values = drawn.up(layer, values)
    weight_rows = int(known.output.sum())
    if form.rank < opens and weight_rows and values.any():
        form.absorb(values[known.output])
        rows[-1] = RowsOfLayer(rows[-1].layer, rows[-1].rows + weight_rows, unknowns - opens + form.rank)
    return form, tuple(rows)
