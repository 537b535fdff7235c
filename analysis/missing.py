"""Back-substitution where entries of the gradient are missing: pruned, or never sent.

The library's `reconstruct` needs every entry. Here each layer's equations are written down as they are, those whose
right-hand side or coefficients are not known are left out, and the rest is solved by dense least squares: slow, for
small networks, and exact about which entry is missing where. Gradients are taken for exact float64 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.equations.stacking import stack
from constraint_algebra.equations.systems import LinearSystem, gradient_equations, weight_equations
from constraint_algebra.errors import ShapeError
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.layers import PlacedLayer, trilinear
from constraint_algebra.layers.activations import formulas
from constraint_algebra.networks.chains import demand_chain
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.walk import Rules, down
from constraint_algebra.numerics.rows import EPSILON, unit_rows
from constraint_algebra.ranks.determinacy import null_space_norms
from constraint_algebra.recursion.result import LayerSolution, Reconstruction, Status

LARGEST = 1600  # unknowns of a layer that a dense factorisation takes on, some seconds
ZERO = 1e-9  # of the largest value: a ReLU's output below that is 0, solved for with rounding


def largest_layer(network: Network) -> int:
    """Return the most unknowns that any layer has, to compare with `LARGEST`."""
    return max(layer.unknowns for layer in network.bilinear)


def reconstruct_partly(seen: Capture, sent: Mapping[str, BoolArray]) -> Reconstruction:
    """Return what follows from the entries of the gradient that were sent; without error bars (NaN).

    Args:
        seen: the training step; the network's last layer is linear with a bias.
        sent: for each parameter, which entries of its gradient the observer has.

    Raises:
        ShapeError: a layer has more unknowns than `LARGEST`, or the network is no plain chain.
    """
    network, head = seen.network, seen.network.layers[-1]
    demand_chain(network, "a reconstruction without some gradients", "give all gradients of a network that is none")
    if largest_layer(network) > LARGEST:
        raise ShapeError(
            f"a layer has {largest_layer(network):,} unknowns, and dense least squares takes at most {LARGEST:,};"
            " use a smaller input"
        )
    weights = {name: a.astype(float) for name, a in seen.parameters.items()}
    given = {name: np.where(sent[name], a.astype(float), 0.0) for name, a in seen.gradients.items()}
    bias = f"{head.name}.bias"
    k, k_known = given[bias].reshape(head.output_shape), sent[bias].reshape(head.output_shape)
    z = np.full(head.output_shape, np.nan)
    solutions: list[LayerSolution] = []
    x, known = np.full(network.input_shape, np.nan), np.zeros(network.input_shape, dtype=bool)
    todo = list(reversed(network.bilinear))
    for number, layer in enumerate(todo):
        shift = weights.get(layer.bias_name or "", np.zeros(layer.filters))
        system = stack(
            weight_equations(layer, weights[layer.weight_name], shift, z),
            gradient_equations(layer, np.where(k_known, k, 0.0), given[layer.weight_name]),
        )
        x, known, solution = _solved(layer, system.select(_usable(layer, system, z, k_known, sent[layer.weight_name])))
        solutions.append(solution)
        arriving = trilinear.input_gradient(layer, weights[layer.weight_name], np.where(k_known, k, 0.0))
        arriving_known = ~trilinear.touched(layer, ~k_known)
        lower = todo[number + 1].index + 1 if layer is not todo[-1] else 0
        above = x, known, arriving, arriving_known
        x, known, k, k_known = down(network.layers[lower : layer.index], above, BELOW)
        z = np.where(known, x, np.nan)
        if layer is not todo[-1] and not np.isfinite(z).any() and not (k_known & (k != 0)).any():
            x, known = np.full(network.input_shape, np.nan), np.zeros(network.input_shape, dtype=bool)
            break
    return Reconstruction(
        input=x,
        determined=known,
        error_bar=np.where(known, np.nan, np.inf),
        status=Status.DETERMINED,
        layers=tuple(reversed(solutions)),
        label=None,
        discrepancy={},
    ).judged({})


def _usable(layer: PlacedLayer, system: LinearSystem, z: FloatArray, k_known: BoolArray, sent: BoolArray) -> BoolArray:
    """Return which rows have all that they need: z, or an entry that was sent and every k that it multiplies."""
    per_filter_and_tap = trilinear.row_sums(layer, (~k_known).astype(float)) == 0
    shape = (layer.filters, -1, per_filter_and_tap.shape[1])
    entries = sent.reshape(shape) & per_filter_and_tap[:, None, :]
    # The equations put the entries of the weight's gradient into the order of their rows: of the masks as well.
    rows = gradient_equations(layer, weight_gradient=entries.reshape(layer.weight_shape).astype(float)).rhs
    assert rows is not None
    usable = np.concatenate([np.isfinite(z).ravel(), rows > 0])
    assert len(usable) == system.shape[0]
    return usable


def _solved(layer: PlacedLayer, system: LinearSystem) -> tuple[FloatArray, BoolArray, LayerSolution]:
    """Return the least-squares solution of the rows, brought to unit norm, and which unknowns they determine."""
    norms = null_space_norms(system)
    size = np.sqrt(np.asarray((system.matrix**2).sum(axis=1)).ravel())
    A, rhs = unit_rows(system.matrix)[0].toarray(), np.asarray(system.rhs) / np.where(size > 0, size, 1)
    x = np.zeros(system.shape[1])
    if len(rhs):
        x = la.lstsq(A, rhs, cond=max(A.shape) * EPSILON, lapack_driver="gelsd")[0]
    residual = np.abs(A @ x - rhs).max(initial=0.0) / (np.abs(rhs).max(initial=0.0) or 1.0)
    solution = LayerSolution(
        name=layer.name,
        kind=layer.kind,
        unknowns=layer.unknowns,
        weight_rows=int((system.kinds == "weight").sum()),
        gradient_rows=int((system.kinds == "gradient").sum()),
        rank=norms.rank,
        determined=int(norms.determined.sum()),
        condition=np.nan,
        residual=float(residual),
    )
    return x.reshape(layer.input_shape), norms.determined.reshape(layer.input_shape), solution


# An output, where it is known, the gradient there, and where that is known.
Below = tuple[FloatArray, BoolArray, FloatArray, BoolArray]


def _activation(layer: PlacedLayer, above: Below) -> Below:
    (y, known, k, k_known), f = above, formulas(layer.activation)
    y = np.where(np.abs(y) <= ZERO * np.abs(y[known]).max(initial=0.0), 0.0, y)
    k_known = k_known & (known | (k == 0))
    k = np.where(k_known, k * f.derivative(np.where(known, y, 0.0)), 0.0)
    z = f.inverse(np.where(known, y, 0.0))
    known = known & np.isfinite(z)
    return np.where(known, z, np.nan), known, k, k_known


def _reshape(layer: PlacedLayer, above: Below) -> Below:
    (y, known, k, k_known), shape = above, layer.input_shape
    return y.reshape(shape), known.reshape(shape), k.reshape(shape), k_known.reshape(shape)


BELOW = Rules(_activation, _reshape)
