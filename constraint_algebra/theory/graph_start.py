"""Where a recursion may start without any output gradient at hand.

**Blind.** For stride 1 and an output as large as the input, the weight gradient of a convolution is `D_t = K S_t H^T`
at tap t, with K (filters by positions), H (channels by positions) and the known shift S_t of the zero-padded grid. If K
and H have as many independent columns as there are positions, and the taps shift in all directions, then K and H are
fixed up to one factor: whatever turns one solution into another commutes with all shifts, and only multiples of the
identity do. A bias gradient fixes the factor. Below a normalisation of each channel by its own statistics the k of each
filter sums to zero, so that K has one independent column less, and beside that the same holds; the sums of k further
below, or shared buffers, fix the factor there.

**By bias gradients of a layer below.** Between a layer with a bias and what its output is affinely made into, as by an
average pool at the end of a network without a linear head, the bias gradient is a sum of known multiples of the
gradient there.
"""

from __future__ import annotations

import math

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.activations import LeakyReLU, ReLU
from constraint_algebra.layers.convolutions import ChannelScale, Conv
from constraint_algebra.layers.joins import Add
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import PRIME, Echelon
from constraint_algebra.theory.graph_spaces import PIXELS
from constraint_algebra.theory.graph_state import GraphState, is_source, others_known

POSITIONS = 256  # of a map up to which a blind start is tried: the eigenproblem has as many unknowns squared
SUMMED = 2e6  # residues of the sums of bias gradients that are carried at once


def start_blind(state: GraphState, layer: PlacedLayer) -> bool:
    """Fix input and output gradient of a convolution by its own gradient, where nothing is known of the input.

    Returns whether anything was found.
    """
    number, below = layer.number, layer.inputs[0]
    if not is_blind(layer) or state.values[below].any():
        return False
    if not state.is_new("blind", number, (*state.versions[number], *state.versions[below])):
        return False
    k = state.drawn.gradient(layer)
    positions = k.shape[1]
    h = state.drawn.values[below].reshape(layer.channels, -1)
    norm = _norm_of_channels(state, layer)
    if not (_is_full(k, positions - (norm is not None)) and _is_full(h.astype(float), positions)):
        return False
    by = _factor(state, layer) if norm is None else _factor_below(state, layer, norm)
    if by is None:
        state.stops[below] = (
            f"the weight gradient of layer {layer.name!r} alone fixes it up to one factor that stays open"
        )
        return False
    reason = f"by the weight gradient of layer {layer.name!r} alone (blind start), its factor by {by}"
    found = state.learn_gradient(number, np.ones_like(state.gradients[number]), reason)
    return state.learn(below, np.ones_like(state.values[below]), reason) or found


def is_blind(layer: PlacedLayer) -> bool:
    """Return whether shapes allow a blind start: see the module.

    >>> from constraint_algebra.layers import Conv2d
    >>> is_blind(Conv2d(16, 3, padding=1).place((16, 4, 4))), is_blind(Conv2d(16, 1).place((16, 4, 4)))
    (True, False)
    """
    conv = layer.bilinear if layer.is_bilinear else None
    if not isinstance(conv, Conv) or conv.groups != 1 or layer.positions != layer.outputs:
        return False
    positions = math.prod(layer.positions)
    if positions < 2 or positions > POSITIONS or min(layer.filters, layer.channels) < positions:
        return False
    axes = zip(layer.positions, conv.taps, conv.strides, conv.dilations, conv.paddings, strict=True)
    return all(
        s == 1 and (size == 1 or (k >= 3 and k % 2 == 1 and d == 1 and before == after == k // 2))
        for size, k, s, d, (before, after) in axes
    )


def _is_full(matrix: FloatArray, rank: int) -> bool:
    return Echelon(matrix.shape[1]).absorb(matrix).rank == rank


def _factor(state: GraphState, layer: PlacedLayer) -> str | None:
    """Return what fixes the one factor: a bias gradient, the layer's own or on the single path up from it."""
    number = layer.number
    if layer.bias_name is not None and _sums(state, layer, np.ones(layer.output_shape, dtype=bool)):
        return "its bias gradient"
    network, reached = state.drawn.network, np.ones(layer.output_shape, dtype=bool)
    while True:
        users = network.users(number)
        if len(users) != 1 or (users[0].is_bilinear and not isinstance(users[0].layer, ChannelScale)):
            return None
        user = users[0]
        if is_source(user):
            return None
        if user.is_bilinear:
            reached = reached.reshape(user.output_shape)
            if user.bias_name is not None and _sums(state, user, reached):
                return f"the bias gradient of layer {user.name!r}"
        else:
            linear = state.drawn.parts(user)[number]
            alone = reached.ravel() & (linear.met_below(np.ones(math.prod(user.output_shape), dtype=bool)) == 1)
            reached = (linear.met_above(alone) > 0).reshape(user.output_shape)
        number = user.number


def _norm_of_channels(state: GraphState, layer: PlacedLayer) -> PlacedLayer | None:
    """Return the normalisation of each channel by its own statistics that alone reads a layer's output."""
    users = state.drawn.network.users(layer.number)
    if len(users) != 1 or not users[0].is_normalisation:
        return None
    norm = users[0].normalisation
    return users[0] if norm.centred and norm.runs(users[0].input_shape) == layer.filters else None


def _factor_below(state: GraphState, layer: PlacedLayer, norm: PlacedLayer) -> str | None:
    """Return what fixes the one factor below a normalisation: a bias gradient below a ReLU, whose signs are known."""
    network, number = state.drawn.network, layer.inputs[0]
    activation = network.layers[number - 1] if number else None
    if activation is not None and isinstance(activation.layer, ReLU | LeakyReLU):
        slope = state.drawn.slope(activation)
        if (others_known(state, layer, number) | (slope == 0)).all():
            back = state.drawn.down(layer, state.drawn.gradients[layer.number][..., None])[number][..., 0]
            below = _biased(state, activation.inputs[0], np.remainder(slope * back, PRIME))
            if below is not None:
                return f"the bias gradient of layer {below.name!r}"
    return f"the statistics of layer {norm.name!r}" if state.statistics[norm.name].any() else None


def _biased(state: GraphState, number: int, arriving: FloatArray) -> PlacedLayer | None:
    """Return a layer with a bias that makes a value, or a term of it, and whose sums do not vanish."""
    network = state.drawn.network
    maker = network.layers[number - 1] if number else None
    if maker is None or len(network.users(number)) != 1:
        return None
    if maker.is_bilinear:
        sums = np.remainder(arriving.reshape(maker.filters, -1).sum(axis=1), PRIME)
        return maker if maker.bias_name is not None and sums.any() else None
    if not isinstance(maker.layer, Add):
        return None
    return next(filter(None, (_biased(state, n, arriving) for n in maker.inputs)), None)


def _sums(state: GraphState, layer: PlacedLayer, reached: BoolArray) -> bool:
    """Return whether some filter's output gradients are all reached, and do not cancel in their sum."""
    whole = reached.reshape(layer.filters, -1).all(axis=1)
    sums = np.remainder(state.drawn.gradient(layer).sum(axis=1), PRIME)
    return bool((whole & (sums != 0)).any())


def start_by_sums(state: GraphState, layer: PlacedLayer) -> bool:
    """Solve for a gradient above a layer by the layer's bias gradients; returns whether any entry was found."""
    if layer.bias_name is None or state.gradients[layer.number].all():
        return False
    top, sums = _above(state, layer)
    unknown = ~state.gradients[top].ravel()
    if sums is None or top == layer.number or not 0 < unknown.sum() <= PIXELS:
        return False
    if not state.is_new("sums", layer.number, (state.versions[top][1],)):
        return False
    form = Echelon(int(unknown.sum())).absorb(sums[unknown].T)
    mask = np.zeros(unknown.shape, dtype=bool)
    mask[unknown] = form.determined(np.random.default_rng([state.drawn.seed, 7, layer.number]))
    if form.rank < form.columns:
        state.count_error(form.rank)
    return state.learn_gradient(top, mask, f"the bias gradient of layer {layer.name!r}")


def _above(state: GraphState, layer: PlacedLayer) -> tuple[int, FloatArray | None]:
    """Return the value that a layer's output is made into by affine steps alone, each its only user, and the sums.

    The sums are the coefficients of the gradient with respect to that value in each filter's bias gradient.
    """
    network, number = state.drawn.network, layer.number
    if layer.filters * math.prod(layer.output_shape) > SUMMED:
        return number, None
    sums = np.zeros((layer.filters, *layer.output_shape))
    for f in range(layer.filters):
        sums[f, f] = 1
    x = np.moveaxis(sums, 0, -1)
    while len(network.users(number)) == 1:
        user = network.users(number)[0]
        if is_source(user) or (user.is_bilinear and not isinstance(user.layer, ChannelScale)):
            break
        if layer.filters * math.prod(user.output_shape) > SUMMED:
            break
        zeros = [np.zeros((*shape, layer.filters)) for shape in user.input_shapes]
        x = state.drawn.up(user, [x if n == number else z for n, z in zip(user.inputs, zeros, strict=True)])
        number = user.number
    return number, x.reshape(-1, layer.filters)
