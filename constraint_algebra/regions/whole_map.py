"""The rank of the map of a whole network and the values that it determines: from shapes, for numbers, or exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, ParametersLike
from constraint_algebra.errors import (
    LayerProblem,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedLayerError,
)
from constraint_algebra.layers.activations import PReLU, formulas, is_piecewise_linear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.activation_pattern import demand_slopes
from constraint_algebra.networks.losses import loss_gradients
from constraint_algebra.networks.network import Network, NetworkLike, bind, chain_rule
from constraint_algebra.networks.walk import down
from constraint_algebra.numerics.rows import row_norms
from constraint_algebra.ranks.whole_map import FLOATS, RowsOfLayer, WholeMap
from constraint_algebra.regions.equations import WholeEquations
from constraint_algebra.regions.gradient_map import GradientMap
from constraint_algebra.regions.inequalities import bends_itself
from constraint_algebra.regions.rational import rational_map
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, rank_of
from constraint_algebra.theory.activity import Activity
from constraint_algebra.theory.limit import generic_whole_map
from constraint_algebra.theory.propagation import start_layer

HERE = "with every activation on its side at this input"
HERE_TOO = "with every activation on its side and every winner of a window as at this input"
LOSSES = ("cross_entropy", "logistic", None)


@checked
def whole_map(
    network: NetworkLike,
    parameters: ParametersLike | None = None,
    input: ArrayLike | None = None,  # noqa: A002 -- the word for it
    target: int | None = None,
    *,
    activity: Activity = 1.0,
    loss: str | None = "cross_entropy",
    exact: bool = False,
    rtol: float = RTOL,
    seed: int = 0,
) -> WholeMap:
    """Return the rank of the map from the input to all gradients, and which input values it determines.

    At a given output gradient of the head, and as long as every activation keeps its side, the gradients of a network
    whose activations are linear in pieces are an affine function of the input. Its kernel holds the differences of all
    inputs of the region with the same gradients: no method can know more there. Where an activation bends, this is the
    Jacobian at one input instead, and speaks of its neighbourhood to first order.

    From shapes alone the result holds for almost all parameters and inputs with a pattern, by random residues modulo a
    prime. With parameters and an input it is that of these numbers, in float64 or, with `exact`, over the rationals.

    Args:
        network: the architecture.
        parameters: weights and biases by PyTorch's names.
        input: one sample in the network's input shape; it sets the region.
        target: its class; without it the output gradient of the head is drawn at random, of sum zero for cross-entropy
            as it is there. The output gradient of cross-entropy is not rational, so that `exact` takes no target.
        activity: from shapes alone, which outputs of activations are active, as for `feasibility`.
        loss: "cross_entropy", "logistic", or `None`: any output gradient.
        exact: over the rationals, for small networks: nothing is rounded.
        rtol: in float64, singular values below this share of the largest of their layer count as zero.
        seed: of what is drawn.

    Raises:
        ParameterError: parameters without an input or the other way round, or what does not fit.
        ShapeError: an input of another shape, or a map that is too large.
        MissingBiasError: no layer gives its output gradient away, and there is no input or an activation bends.
        UnsupportedLayerError: with `exact`, an activation that bends.
        MemoryLimitError: in float64, a map too large to be held.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear
    >>> net = Network((1, 12), [Conv1d(8, 2, stride=2), Conv1d(1, 1), Flatten(), Linear(10)])
    >>> found = whole_map(net)  # the layer above gives all eight filters multiples of one output gradient
    >>> found.rank, found.determined.any()
    (7, np.False_)
    >>> [tuple(layer) for layer in found.layers]  # name, rows, rank of all rows so far
    [('0', 16, 2), ('1', 8, 2), ('3', 60, 7)]
    """
    assert isinstance(network, Network)  # whatever stood for it
    _check_together(parameters is not None, input is not None, target, loss, exact)
    if parameters is None or input is None:
        return generic_whole_map(network, activity=activity, seed=seed)
    if exact:
        return rational_map(network, parameters, input, seed=seed)
    return _in_floats(network, parameters, input, target, loss, rtol, seed)


def _check_together(parameters: bool, values: bool, target: int | None, loss: str | None, exact: bool) -> None:
    """Refuse what does not go together."""
    if parameters != values:
        there, missing = ("parameters", "input") if parameters else ("input", "parameters")
        raise ParameterError(
            missing, f"{there} came without {missing}: give both for these numbers, or neither for almost all"
        )
    if loss not in LOSSES:
        raise UnknownNameError(f'loss must be "cross_entropy", "logistic" or None, got {loss!r}')
    for name, given in (("target", target is not None), ("exact", exact)):
        if given and not parameters:
            raise ParameterError(name, f"{name} belongs to numbers: give parameters and input as well, or leave it out")
    if exact and target is not None:
        raise ParameterError(
            "target",
            f"the output gradient of a class, here target={target}, is not rational; leave target out, and one is"
            " drawn, or leave exact out",
        )


def _in_floats(
    network: Network,
    parameters: ParametersLike,
    input: ArrayLike,  # noqa: A002 -- as above
    target: int | None,
    loss: str | None,
    rtol: float,
    seed: int,
) -> WholeMap:
    bound, x = bind(network, parameters, "parameters"), np.array(input, dtype=float)
    if x.shape != network.input_shape:
        raise ShapeError(f"input must have shape {network.input_shape}, one sample without batch; got {x.shape}")
    if not np.isfinite(x).all():
        raise ParameterError("input", "input must be finite, got NaN or infinity among its values")
    values = network.forward(bound, x)
    k = loss_gradients(values[-1], target, loss) if target is not None else _drawn(network, loss, seed)
    if not network.is_chain:
        _refuse_bends(network)
    elif not _is_plain(network):
        return _of_jacobian(network, bound, values, k, rtol)
    return _of_equations(network, bound, values, k, loss, rtol)


def _drawn(network: Network, loss: str | None, seed: int) -> FloatArray:
    k = np.random.default_rng(seed).standard_normal((1, math.prod(network.output_shape)))
    return k - k.mean() if loss == "cross_entropy" and k.size > 1 else k


def _refuse_bends(network: Network) -> None:
    """Refuse activations that bend and own statistics in a graph: k moves with the input there, along every path."""
    advice = "torch_whole_map(model, input, target) takes any model; indistinguishable keeps what enters it"
    problems = [
        LayerProblem(layer.name, f"{layer.kind} {_reason(layer)}, so that k below it moves with the input", advice)
        for layer in network.layers
        if bends_itself(layer)
    ]
    if problems:
        raise UnsupportedLayerError(problems)


def _reason(layer: PlacedLayer) -> str:
    return "divides values by their own statistics" if layer.is_normalisation else "bends"


def _is_plain(network: Network) -> bool:
    """Whether no activation bends up to the layer that gives its whole input, and only reshapes precede the first."""
    top, first = network.start or network.layers[-1], network.bilinear[:1]
    below = [x for x in network.layers[: top.index + 1] if x.is_activation]
    straight = all(is_piecewise_linear(x.activation) for x in below)
    return straight and not any(x.index < layer.index for x in below for layer in first)


def _of_equations(
    network: Network,
    parameters: Mapping[str, FloatArray],
    values: list[FloatArray],
    k: FloatArray,
    loss: str | None,
    rtol: float,
) -> WholeMap:
    found = WholeEquations(network, parameters, values, k, centred=loss == "cross_entropy", rtol=rtol)
    return WholeMap(
        determined=found.fixed,
        rank=len(found.basis) - found.nullity,
        linear=found.kept is None,
        arithmetic=FLOATS,
        layers=tuple(found.layers),
        pattern=_pattern(network),
        gap=found.gap,
        basis=found.basis,
    )


def _of_jacobian(
    network: Network, parameters: Mapping[str, FloatArray], values: list[FloatArray], k: FloatArray, rtol: float
) -> WholeMap:
    demand_slopes(network, values)
    start = start_layer(network)
    at_output = k[0].reshape(network.output_shape)
    at_start = down(network.layers[start.index + 1 :], at_output, chain_rule(parameters, values))
    of_input = GradientMap(network, parameters, start, at_start)
    n = of_input.unknowns
    memory.demand(
        f"the Jacobian of {of_input.rows:,} gradient entries in {n:,} input values",
        24.0 * of_input.rows * n,
        "take a smaller input or network",
    )
    jacobian = of_input.jacobian(values[0])
    basis, layers, gap, at = np.eye(n), [RowsOfLayer("input", 0, 0)], (1.0, 0.0), 0
    for layer in of_input.layers:
        if not layer.is_bilinear or not basis.shape[1]:
            continue
        names = [name for name in (layer.weight_name, layer.bias_name) if name is not None]
        count = sum(math.prod(of_input.shapes[name]) for name in names)
        J = jacobian[at : at + count]
        at += count
        size = math.sqrt(
            np.abs(J).sum(axis=0).max() * np.abs(J).sum(axis=1).max()
        )  # at least its largest singular value
        seen = rank_of(J @ basis, rtol * size)
        layers.append(RowsOfLayer(layer.name, count, layers[-1].rank + seen.rank))
        if size:
            gap = (min(gap[0], seen.least / size) if seen.rank else gap[0], max(gap[1], seen.dropped / size))
        basis = basis @ seen.null
    return WholeMap(
        determined=(row_norms(basis) <= TOLERANCE).reshape(network.input_shape),
        rank=layers[-1].rank,
        linear=of_input.linear,
        arithmetic=FLOATS,
        layers=tuple(layers[1:]),
        pattern=_pattern(network),
        gap=gap,
        basis=basis,
    )


def _pattern(network: Network) -> str:
    """Return what the pattern is, empty where nothing has one."""
    if any(layer.is_selection for layer in network.layers):
        return HERE_TOO
    kinked = [x for x in network.layers if x.is_activation and _has_kink(x)]
    return HERE if kinked else ""


def _has_kink(layer: PlacedLayer) -> bool:
    if isinstance(layer.layer, PReLU):
        return True
    f = formulas(layer.activation)
    return bool(f.plateaus) or f.kink is not None
