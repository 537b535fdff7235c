"""The Jacobian of all gradients of a network with respect to its input, modulo a prime, where activations may bend.

Where an activation bends, the output gradients k below it move with the input: with the differences δ of one input,

    δz = B(W) δh,    δy = σ'(z) δz,    δk_z = σ''(z) δz k_y + σ'(z) δk_y,    δk_h = B(W)^T δk_z

from the top layer, whose k is held fixed. The rows are `A(k) δh + A(δk) h` for every weight and the sums of δk for
every bias. At a random network over the prime field (weights, biases, input, the top's k, outputs of activations that
bend) the rank is the generic one: it speaks of a neighbourhood of almost every input, to first order. That takes the
outputs of activations that bend to have no relations but that equal inputs have equal outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.activations import Softsign, has_two_branches
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.walk import Rules, down_through, up
from constraint_algebra.numerics.modular import PRIME, PROBES, Echelon, multiply, residues
from constraint_algebra.ranks import modular_layers
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.ranks.modular_activations import Derivatives, derivatives
from constraint_algebra.ranks.whole_map import RowsOfLayer
from constraint_algebra.theory.composed import Composed

LIMIT = 1100  # input values
VALUES = 1.5e8  # differences that may be carried at once, 1.2 GB


class Moving(NamedTuple):
    """A value and its differences in several directions, `(*shape, 1)` and `(*shape, n)`."""

    value: FloatArray
    by: FloatArray


def curved_rank(
    layers: Sequence[PlacedLayer], known: Knowledge, above: Mapping[str, BoolArray], seed: int = 0
) -> Composed | None:
    """Return the rank of the Jacobian of the gradients of some layers; `None` where it is too large.

    Args:
        layers: the layers in order; the last one has a weight. Activations may precede the first with one.
        known: what is known at the outputs of the last; its k is held fixed.
        above: the side on which every activation with two works, by name.
        seed: of the residues.
    """
    shape = layers[0].input_shape
    unknowns = math.prod(shape)
    carried = unknowns * float(sum(math.prod(layer.output_shape) for layer in layers))
    if unknowns > LIMIT or carried > VALUES:
        return None
    rng = np.random.default_rng(seed)
    weights = {layer.name: residues(layer.weight_shape, rng) for layer in layers if layer.is_bilinear}
    bent: dict[str, Derivatives] = {}
    start = Moving(residues((*shape, 1), rng), np.eye(unknowns).reshape(*shape, unknowns))
    values = up(layers, start, _forward(weights, bent, above, rng))
    k = (residues(known.support.shape, rng) * known.support)[..., None]
    top = Moving(k, np.zeros((*k.shape[:-1], unknowns)))
    gradients = down_through(layers[1:], top, _backward(weights, bent, values))
    form, rows = Echelon(unknowns), list[RowsOfLayer]()
    for layer, h, gradient in zip(layers, values, gradients, strict=False):
        if layer.is_bilinear:
            count = _absorb(form, moving_rows(layer, h, gradient))
            rows.append(RowsOfLayer(layer.name, count, form.rank))
    _absorb(form, iter([values[-1].by[known.output]]))
    free = form.null(residues((unknowns - form.rank, PROBES), rng))
    return Composed(
        rank=form.rank,
        determined=np.asarray(~free.any(axis=1)).reshape(shape),
        rows=tuple(rows),
        error=curved_error(layers, form.rank),
    )


def curved_error(layers: Sequence[PlacedLayer], rank: int) -> float:
    """Return an upper bound of the probability that a rank is too small.

    It takes the number of random factors in an entry of the Jacobian. On the way up and on the way down there is one
    weight for each layer with one and two factors of the output for each slope; beside these stand k or h, and once,
    for a curvature, a factor more. Softsign makes fractions, and activations with two branches powers of their input,
    with more factors than any bound has use for.
    """
    activations = [layer.activation for layer in layers if layer.is_activation]
    if any(isinstance(activation, Softsign) or has_two_branches(activation) for activation in activations):
        return 1.0
    weights = sum(layer.is_bilinear for layer in layers)
    factors = 2 * weights + 4 * sum(layer.is_activation for layer in layers) + 6
    return min(1.0, factors * rank / (PRIME - 1))


def _forward(
    weights: Mapping[str, FloatArray],
    bent: dict[str, Derivatives],
    above: Mapping[str, BoolArray],
    rng: np.random.Generator,
) -> Rules[Moving]:
    """Return the rules on the way up; slopes and curvatures at the outputs drawn go into `bent`."""

    def bilinear(layer: PlacedLayer, x: Moving) -> Moving:
        W = weights[layer.name]
        z = modular_layers.forward(layer, W, x.value)
        if layer.bias_name is not None:
            z = np.remainder(z + residues((layer.filters, *(1,) * (z.ndim - 1)), rng), PRIME)
        return Moving(z, modular_layers.forward(layer, W, x.by))

    def activation(layer: PlacedLayer, z: Moving) -> Moving:
        on = above.get(layer.name, np.ones(layer.output_shape, dtype=bool))[..., None]
        bent[layer.name] = derivatives(layer.activation, z.value, on, rng)
        return Moving(bent[layer.name].output, np.remainder(bent[layer.name].slope * z.by, PRIME))

    def reshape(layer: PlacedLayer, x: Moving) -> Moving:
        return Moving(*(part.reshape(*layer.output_shape, part.shape[-1]) for part in x))

    return Rules(activation, reshape, bilinear)


def _backward(
    weights: Mapping[str, FloatArray], bent: Mapping[str, Derivatives], values: Sequence[Moving]
) -> Rules[Moving]:
    """Return the rules on the way down, for an output gradient that moves with the input."""

    def bilinear(layer: PlacedLayer, k: Moving) -> Moving:
        return Moving(*(modular_layers.input_gradient(layer, weights[layer.name], part) for part in k))

    def activation(layer: PlacedLayer, k: Moving) -> Moving:
        _, slope, curvature = bent[layer.name]
        moved = np.remainder(np.remainder(curvature * k.value, PRIME) * values[layer.index].by, PRIME)
        return Moving(np.remainder(slope * k.value, PRIME), np.remainder(moved + slope * k.by, PRIME))

    def reshape(layer: PlacedLayer, k: Moving) -> Moving:
        return Moving(*(part.reshape(*layer.input_shape, part.shape[-1]) for part in k))

    return Rules(activation, reshape, bilinear)


def moving_rows(layer: PlacedLayer, h: Moving, k: Moving) -> Iterator[FloatArray]:
    """Yield the rows of a layer's weight and bias gradients, a filter and a channel at a time."""
    S, G = incidence(layer), layer.groups
    F, C, n = layer.filters // G, layer.channels // G, h.by.shape[-1]
    value, by = (part.reshape(layer.filters, S.output_count, -1) for part in k)
    every = np.ones((layer.filters, S.tap_count), dtype=bool)
    fixed = modular_layers.gradient_row_blocks(layer, value[..., 0], every, h.by)
    if not by.any():
        yield from fixed
        return
    padded = np.concatenate([h.value.reshape(layer.channels, -1), np.zeros((layer.channels, 1))], axis=1)
    seen = padded[:, S.positions_seen.T]  # channel, tap, output
    whole = np.concatenate(list(fixed))
    # Blocks come group by group, in each some filters at a time and for these channel by channel.
    start = 0
    for g in range(G):
        for some in modular_layers.filters_at_a_time(layer, np.arange(g * F, (g + 1) * F)):
            for c in range(g * C, (g + 1) * C):
                moved = np.stack([multiply(seen[c], by[f]) for f in some]).reshape(-1, n)
                yield np.remainder(whole[start : start + len(moved)] + moved, PRIME)
                start += len(moved)
    if layer.bias_name is not None:
        yield np.remainder(by.sum(axis=1), PRIME)


def _absorb(form: Echelon, blocks: Iterator[FloatArray]) -> int:
    """Absorb rows and return how many there are."""
    count = 0
    for block in blocks:
        form.absorb(block)
        count += len(block)
    return count
