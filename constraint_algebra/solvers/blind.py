r"""The blind start: the weight gradient of one layer alone fixes its input and its output gradient, up to one factor.

    dL/dW[f, c, t] = sum over outputs o of  k[f, o] h[c, q(o, t)],     D_t = K S_t H^T  for every tap t

Some tap, the anchor, shows each output a position of its own; on these positions `S` of the anchor is the identity and
the other taps are shifts. With K and H of full rank there, `D_anchor = U s V^T` gives `T_t = P S_t P^-1`, and
`T_t P = P S_t` are linear equations for P. Shifts in both directions of every axis generate all matrices, so that P is
unique up to one factor, and then `K = U P`, `H^T = P^-1 s V^T`.

They are solved from the corner: the position that every forward shift moves out of the picture is the one common null
vector of their `T_t`, and the backward shifts make every other column of P from it. All taps together then fit K and H
by least squares (`bilinear_fit`), which takes the noise from what the corner lost. A result counts where it explains
all taps to their noise, and where K and H have full rank by more than their own error bars.

Below a normalisation of each channel by its own statistics the k of each filter sums to zero, and K has rank O - 1: the
corner is another one then (`blind_centred`), all else is the same.

Each group of a layer stands by itself, with a factor of its own. A linear layer is the case of one output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.solvers import blind_centred
from constraint_algebra.solvers.bilinear_fit import Normal, Shifts
from constraint_algebra.solvers.blind_group import Group, Refused, Weights, first_order, one_group
from constraint_algebra.solvers.blind_shapes import anchor, applies, obstacle

__all__ = [
    "Factored",
    "Refused",
    "Scale",
    "applies",
    "attempt",
    "factor",
    "moved",
    "obstacle",
    "scale_from_bias",
    "scaled",
]

CERTAIN = 8.0  # the factor in units of its noise
SIGNIFICANT = 4.0  # the same for each filter, root mean square: sums that are all noise reach one
CONTRADICTION = 8.0  # misfit of the bias equations in units of noise beyond which they are not this layer's
FLOAT64 = 2.4 * 2.0**-52  # relative error of a sum of products in float64, the client's and that of the fit
Draw = Callable[[FloatArray, Shape], FloatArray]  # noise of given standard deviations, `(*shape, members)`


@dataclass(frozen=True)
class Factored:
    """Input and output gradient of a layer, each group up to one factor: `k -> c k`, `h -> h / c`.

    Attributes:
        layer: the layer.
        output_gradient: k, in the output shape; each group scaled so that k and h have equal norms.
        input: h, in the input shape; each group with the sign that makes its sum positive, as behind a ReLU.
        deviations: standard deviation of every entry of the weight gradient, in the canonical shape of the weight: what
            was given and the client's own rounding of the sums, as large as the residuals show them. Draw the noise
            for `moved` from these.
        arithmetic: relative rounding error of a sum of products, as it was given.
        misfit: root mean square residual of all taps in units of the noise expected, the largest of the groups.
        singular: smallest singular value of k and of h, relative to the largest: the smallest of the groups.
        certainty: the same singular value in units of its own noise, of k and of h.
        corner: second smallest and smallest singular value of the equations for the corner, relative to the largest:
            the column of P that all others follow from is unique by this gap. The worst of the groups.
    """

    layer: PlacedLayer
    output_gradient: FloatArray
    input: FloatArray
    deviations: FloatArray
    arithmetic: float
    misfit: float
    singular: tuple[float, float]
    certainty: tuple[float, float]
    corner: tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """The factor of each group.

    Attributes:
        values: what k has to be multiplied by and h divided by, `(groups,)`.
        moved: how noise moves it, `(groups, members)`.
    """

    values: FloatArray
    moved: FloatArray


def factor(
    layer: PlacedLayer,
    weight_gradient: FloatArray,
    deviations: FloatArray | None = None,
    *,
    arithmetic: float = FLOAT64,
    centred: bool = False,
) -> Factored | None:
    """Return what `attempt` does, `None` where it refuses."""
    found = attempt(layer, weight_gradient, deviations, arithmetic=arithmetic, centred=centred)
    return found if isinstance(found, Factored) else None


@one_blas_thread()
def attempt(
    layer: PlacedLayer,
    weight_gradient: FloatArray,
    deviations: FloatArray | None = None,
    *,
    arithmetic: float = FLOAT64,
    centred: bool = False,
) -> Factored | Refused:
    """Return input and output gradient of a layer from its weight gradient, or why not.

    Args:
        layer: a convolution or linear layer.
        weight_gradient: dL/dW in the canonical shape `layer.weight_shape`.
        deviations: standard deviation of each of its entries; by default the rounding of float64.
        arithmetic: relative error of the client's sums of products, `Precision.arithmetic` of the room `recursion`.
        centred: whether a normalisation of each channel by its own statistics reads the layer's output, so that the k
            of each filter sums to zero, and no bias gradient gives the factor.

    >>> from constraint_algebra.layers import Conv1d, trilinear
    >>> layer, random = Conv1d(6, 3, padding=1).place((5, 4)), np.random.default_rng(0)
    >>> k, h = random.normal(size=(6, 4)), random.normal(size=(5, 4))
    >>> found = factor(layer, trilinear.weight_gradient(layer, k, h))
    >>> c = (k * found.output_gradient).sum() / (found.output_gradient**2).sum()
    >>> bool(abs(c * found.output_gradient - k).max() < 1e-13), bool(abs(found.input / c - h).max() < 1e-13)
    (True, True)
    """
    why = obstacle(layer)
    if why is not None:
        return Refused(why)
    start, shifts = anchor(layer), Shifts.of(layer)
    assert start is not None  # an obstacle otherwise
    given = np.zeros(layer.weight_shape) if deviations is None else deviations
    groups = []
    for D, own in zip(by_group(layer, weight_gradient), by_group(layer, given), strict=True):
        found = one_group(shifts, start, D, own, arithmetic, blind_centred.from_corner if centred else None)
        if isinstance(found, Refused):
            return found
        groups.append(found)
    return together(layer, groups, arithmetic)


@one_blas_thread()
def moved(factored: Factored, draws: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return how noise of the weight gradient moves k and h, to first order and in the same gauge.

    Args:
        factored: the factors.
        draws: noise, `(*layer.weight_shape, members)`; `observed.draw(factored.deviations, layer.weight_shape)`.

    Returns:
        Movements of `output_gradient` `(*output_shape, members)` and of `input` `(*input_shape, members)`.
    """
    layer, shifts = factored.layer, Shifts.of(factored.layer)
    members = draws.shape[-1]
    each = [by_group(layer, draws[..., m]) for m in range(members)]
    k, h = by_place(layer, factored.output_gradient, factored.input)
    of_k, of_h = np.empty((*k.shape, members)), np.empty((*h.shape, members))
    for g, noise in enumerate(by_group(layer, factored.deviations)):
        weights = Weights.of(noise)
        problem = Normal(shifts, *weights.on(k[g], h[g]))
        dK, dH = first_order(problem, weights, np.stack([draw[g] for draw in each]))
        of_k[g], of_h[g] = np.moveaxis(dK, 0, -1), np.moveaxis(dH, 0, -1)
    return of_k.reshape(*layer.output_shape, members), of_h.reshape(*layer.input_shape, members)


def scale_from_bias(
    factored: Factored,
    bias_gradient: FloatArray,
    deviations: FloatArray | None = None,
    *,
    moved_k: FloatArray | None = None,
    draw: Draw | None = None,
    multiple: FloatArray | None = None,
) -> Scale | None:
    """Return the factor of each group from `sum_o k[f, o] = dL/dbias[f]`, by least squares over its filters.

    Args:
        factored: the factors.
        bias_gradient: dL/dbias of the layer, or of one above it whose k is a multiple of this layer's, `(filters,)`.
        deviations: standard deviation of each of its entries; by default the rounding of float64.
        moved_k: what `moved` returned for k, which moves the factor as well.
        draw: where the noise of the bias gradient comes from, such as `observed.draw`. Without `moved_k` and `draw` the
            factor has no movements.
        multiple: where the bias gradient is that of a layer above: this layer's k is so many times that layer's, for
            each filter; `gamma / sqrt(var + eps)` below a batch norm.

    Returns:
        The factors; `None` where the sums of k are zero to their noise in some group, or contradict the bias gradient.
    """
    layer = factored.layer
    k = factored.output_gradient.reshape(layer.groups, layer.filters // layer.groups, -1)
    sums, squares = k.sum(axis=2), (k**2).sum(axis=2)
    times = (np.ones(layer.filters) if multiple is None else multiple).reshape(sums.shape)
    wanted = times * bias_gradient.reshape(sums.shape)
    given = np.zeros(sums.shape) if deviations is None else np.abs(times) * deviations.reshape(sums.shape)
    if not (sums.any(axis=1) & wanted.any(axis=1)).all():
        return None
    # The client rounded its sums of the true k, of whose size a first solution tells.
    first = (sums * wanted).sum(axis=1, keepdims=True) / (sums**2).sum(axis=1, keepdims=True)
    of_bias = np.hypot(given, factored.arithmetic * np.abs(first) * np.sqrt(squares))
    of_sums = factored.arithmetic * np.sqrt(squares)
    shifted = None if moved_k is None else moved_k.reshape(*k.shape, -1).sum(axis=2)
    if shifted is not None:
        of_sums = np.hypot(of_sums, np.sqrt((shifted**2).mean(axis=-1)))
    variance = of_bias**2 + (first * of_sums) ** 2
    weight = np.divide(1.0, variance, out=np.zeros_like(variance), where=variance > 0)
    information = (weight * sums**2).sum(axis=1)
    values = (weight * sums * wanted).sum(axis=1) / np.where(information > 0, information, 1.0)
    misfit = (weight * (wanted - values[:, None] * sums) ** 2).sum(axis=1) / max(sums.shape[1] - 1, 1)
    certain = values**2 * information >= max(CERTAIN**2, SIGNIFICANT**2 * sums.shape[1])
    if not (certain & (misfit <= CONTRADICTION**2)).all():
        return None
    if shifted is None and draw is None:
        return Scale(values, np.zeros((layer.groups, 0)))
    change = 0.0 if draw is None else draw(of_bias.ravel(), (layer.filters,)).reshape(*sums.shape, -1)
    change = change - (0.0 if shifted is None else values[:, None, None] * shifted)
    return Scale(values, np.einsum("gf,gfm->gm", weight * sums, change) / information[:, None])


def scaled(
    factored: Factored, scale: Scale, movements: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return k, h and their movements with the factor in place; `movements` are those that `moved` returned."""
    layer, c = factored.layer, scale.values
    k, h = by_place(layer, factored.output_gradient, factored.input)
    of_k, of_h = (m.reshape(*side.shape, -1) for m, side in zip(movements, (k, h), strict=True))
    times, change = c[:, None, None], scale.moved[:, None, None]
    of_k = times[..., None] * of_k + k[..., None] * change
    of_h = of_h / times[..., None] - h[..., None] / times[..., None] ** 2 * change
    members = of_k.shape[-1]
    out, into = layer.output_shape, layer.input_shape
    return (
        (times * k).reshape(out),
        (h / times).reshape(into),
        of_k.reshape(*out, members),
        of_h.reshape(*into, members),
    )


def together(layer: PlacedLayer, groups: list[Group], arithmetic: float) -> Factored:
    """Return the groups as one layer, with the weakest evidence of any."""
    noise = np.stack([group.noise for group in groups])  # group, tap, filter, channel
    sides = [[getattr(group, name)[side] for group in groups] for name in ("singular", "certainty") for side in (0, 1)]
    k, h, q, p = (min(side) for side in sides)
    return Factored(
        layer=layer,
        output_gradient=np.stack([group.K for group in groups]).reshape(layer.output_shape),
        input=np.stack([group.H for group in groups]).reshape(layer.input_shape),
        deviations=np.moveaxis(noise, 1, -1).reshape(layer.weight_shape),
        arithmetic=arithmetic,
        misfit=max(group.misfit for group in groups),
        singular=(k, h),
        certainty=(q, p),
        corner=min((group.corner for group in groups), key=lambda gap: gap[0] / (gap[1] or np.finfo(float).tiny)),
    )


def by_group(layer: PlacedLayer, weight: FloatArray) -> FloatArray:
    """Return what has the weight's shape as `(groups, taps, filters, channels)`."""
    G = layer.groups
    return np.moveaxis(weight.reshape(G, layer.filters // G, layer.channels // G, -1), -1, 1)


def by_place(layer: PlacedLayer, k: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return k as `(groups, filters, outputs)` and h as `(groups, channels, positions)`."""
    G = layer.groups
    return k.reshape(G, layer.filters // G, -1), h.reshape(G, layer.channels // G, -1)
