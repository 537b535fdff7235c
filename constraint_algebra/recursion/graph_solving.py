"""The rules of the recursion on a graph that solve equations: for a value that layers read, and for a gradient above.

- `solve`: a value from the gradient and weight equations of all layers with a weight that read it.
- `dual`: the gradient at the output of a layer whose input h is known: `sum_o k[f, o] h[c, q(o, t)] = dL/dW[f, c, t]`
  is linear in k as well, with the same matrix for every filter; and `sum_o k[f, o] = dL/db[f]`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.recursion import layer_step
from constraint_algebra.recursion.contradictions import SIDES
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.graph_rules import is_scale, peeled
from constraint_algebra.recursion.noise import STORED_SOLUTION
from constraint_algebra.recursion.value_equations import LEAKING, ROUNDED, TOLERANCE, Reader, ValueEquations, healed
from constraint_algebra.solvers.noisy_equations import USABLE

DUAL = 4e9  # operations of a dual system up to which it is solved


def readers(knows: GraphKnowledge, number: int) -> list[Reader]:
    """Return the layers with a weight that read a value and say something of it."""
    found = []
    for user in knows.network.users(number):
        if user.is_bilinear and not is_scale(user):
            k, z = knows.gradients[user.number], knows.values[user.number]
            W = knows.observed.parameters[user.weight_name].reshape(user.filters, -1)
            says = W.any(axis=1).reshape(-1, *(1,) * len(user.outputs))  # a filter of zeros has no equations
            z = replace(z, known=z.known & says)
            if z.known.any() or k.value[k.known].any():
                found.append(Reader(user, k, z))
    return found


def solve(knows: GraphKnowledge, number: int) -> bool:
    """Learn a value from the equations of all layers with a weight that read it."""
    value = knows.values[number]
    those = readers(knows, number)
    if not those or value.known.all():
        return False
    whole = ValueEquations(knows.observed, value, those)
    if len(those) == 1 and not whole.is_plain and (not value.known.any() or whole.rank is None):
        return _solve_alone(knows, number, those[0])
    system, found, out = healed(whole, those)
    for part, left in zip(system.parts, out, strict=True):
        knows.solutions[part.reader.layer.index] = system.summary(part, found)
        if left.any():
            knows.doubt(part.reader.layer.number, left)
    return knows.learn_value(number, found)


def by_scale(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the last unknown value of a channel from the gradient equation of its factor, `sum_o k x = dL/dγ`."""
    if not is_scale(layer):
        return False
    x, k, observed = knows.values[layer.inputs[0]], knows.gradients[layer.number], knows.observed
    open_ones = (~x.known).reshape(layer.channels, -1).sum(axis=1)
    usable = (open_ones == 1) & k.known.reshape(layer.channels, -1).all(axis=1)
    if not usable.any():
        return False
    size = math.prod(layer.positions)
    channels = np.repeat(np.arange(layer.channels), size)
    row = sp.csr_array((k.filled().ravel(), (channels, np.arange(x.value.size))), shape=(layer.channels, x.value.size))
    dW, own = observed.gradients[layer.weight_name].ravel(), observed.deviations[layer.weight_name].ravel()
    moved = observed.draw(own, own.shape) - (kept(k) * x.filled()[..., None]).reshape(layer.channels, size, -1).sum(1)
    found = peeled((row,), Estimate(dW, usable, moved), [x])[0]
    # The coefficient of the unknown has noise of its own, which counts where the value is not small.
    clear = found.known & ~x.known & (np.abs(k.filled()) > SIDES * k.deviation)
    share = np.where(clear, found.value, 0.0) / np.where(clear, k.filled(), 1.0)
    with_k = Estimate(found.value, clear, found.perturbations - share[..., None] * kept(k))
    return knows.learn_value(layer.inputs[0], with_k)


def _solve_alone(knows: GraphKnowledge, number: int, reader: Reader) -> bool:
    """Solve for a value that one layer reads, as in a chain."""
    solved = layer_step.solve(knows.observed, reader.layer, reader.k, reader.z)
    knows.solutions[reader.layer.index] = solved.summary
    if solved.left_out.any():
        knows.doubt(reader.layer.number, solved.left_out)
    return knows.learn_value(number, solved.input)


def dual(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the gradient at the output of a layer with a weight whose whole input is known."""
    x, k = knows.values[layer.inputs[0]], knows.gradients[layer.number]
    if k.known.all() or not x.known.all() or not x.value.any():
        return False
    C, outputs = layer.channels // layer.groups, math.prod(layer.outputs)
    rows = C * math.prod(layer.taps) + 1
    if rows * outputs * min(rows, outputs) > DUAL:
        return False
    found = Estimate.unknown(layer.output_shape, MEMBERS)
    by_filter = found.reshape((layer.filters, outputs))
    for group in range(layer.groups):
        _dual_of_group(knows, layer, group, by_filter)
    return knows.learn_gradient(layer.number, by_filter.reshape(layer.output_shape))


def _dual_of_group(knows: GraphKnowledge, layer: PlacedLayer, group: int, found: Estimate) -> None:
    """Solve for the gradients of the filters of a group, `(filters, outputs)`, and put them into `found`."""
    observed, G = knows.observed, layer.groups
    F, C = layer.filters // G, layer.channels // G
    filters, channels = slice(group * F, (group + 1) * F), slice(group * C, (group + 1) * C)
    x, seen = knows.values[layer.inputs[0]], incidence(layer).positions_seen
    h = np.pad(x.value.reshape(layer.channels, -1)[channels], ((0, 0), (0, 1)))
    A = h[:, seen].transpose(0, 2, 1).reshape(-1, len(seen))  # rows (c, t), columns the outputs
    rhs = observed.gradients[layer.weight_name].reshape(layer.filters, -1)[filters].T
    own = observed.deviations[layer.weight_name].reshape(layer.filters, -1)[filters].T
    if layer.bias_name is not None:
        A = np.concatenate([A, np.ones((1, A.shape[1]))])
        rhs = np.concatenate([rhs, observed.gradients[layer.bias_name][None, filters]])
        own = np.concatenate([own, observed.deviations[layer.bias_name][None, filters]])
    size = float(np.linalg.norm(rhs)) / (float(np.linalg.norm(A)) or 1.0) or 1.0  # of a typical k
    moved_h = np.pad(kept(x).reshape(layer.channels, -1, MEMBERS)[channels], ((0, 0), (0, 1), (0, 0)))
    from_h = np.sqrt((moved_h**2).mean(axis=-1))[:, seen].transpose(0, 2, 1).reshape(-1, len(seen))
    by_row = size * np.sqrt((from_h**2).sum(axis=1))
    by_row = np.pad(by_row, (0, len(A) - len(by_row)))
    rounding = observed.rounding.arithmetic * size * np.sqrt((A**2).sum(axis=1))
    noise = np.sqrt((own**2).mean(axis=1) + rounding**2 + by_row**2)
    weight = 1 / np.maximum(noise, np.finfo(float).tiny * 1e16)
    U, s, Vt = la.svd(A * weight[:, None], full_matrices=False, check_finite=False)
    spurious = 2 * float(np.sqrt(((by_row * weight) ** 2).sum()))
    keep = (s * size > max(USABLE, spurious)) & (s > max(A.shape) * np.finfo(float).eps * s.max(initial=0.0))
    U, s, V = U[:, keep], s[keep], Vt[keep].T
    k = V @ ((U.T @ (rhs * weight[:, None])) / s[:, None])  # (outputs, filters)
    share = np.sqrt(np.clip(1 - (V**2).sum(axis=1), 0.0, None)) if len(s) < A.shape[1] else np.zeros(A.shape[1])
    draws = observed.draw(np.hypot(own, rounding[:, None]), own.shape)  # (rows, filters, members)
    shifted = moved_h[:, seen].transpose(0, 2, 1, 3).reshape(-1, len(seen), MEMBERS)
    draws[: len(shifted)] -= np.einsum("rom,of->rfm", shifted, k, optimize=True)
    moved = np.einsum("or,rfm->ofm", V @ (U.T / s[:, None]) * weight, draws, optimize=True)
    moved += observed.draw(STORED_SOLUTION * np.abs(k), k.shape)
    bars = np.sqrt((moved**2).mean(axis=-1)) + ROUNDED * size
    known = (share < TOLERANCE)[:, None] & (size * share[:, None] <= LEAKING * bars)
    found.value[filters], found.known[filters] = k.T, known.T
    found.perturbations[filters] = moved.transpose(1, 0, 2)
