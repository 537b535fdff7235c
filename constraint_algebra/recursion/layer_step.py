"""One step of the recursion: the input x of one layer, from what is known of its output.

Known of the output are the gradient k and, as far as the activation above tells, the values z. Together with the weight
and its gradient they give two kinds of equations for x,

    A(k) x[c] = dL/dW[:, c]     gradient equations, one row for each filter and tap whose k are all known
    B(W) x    = z - b           weight equations, one row for each output whose z is known

`layer_equations` states them with their noise, and `solve` solves them together. The solved x then settles some k that
were open (`settled_gradient`), and `B(W)^T k` is the gradient at x (`input_gradient`), from which the next step starts.

A step sees one layer and what arrives there, not the network around it: a graph of values, a batch or several local
steps can take it as it is, each with an `Observation` and estimates of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.estimates import Above, Estimate
from constraint_algebra.recursion.noise import STORED_SOLUTION, settled
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import LayerSolution
from constraint_algebra.solvers.noisy_equations import LayerEquations, residual
from constraint_algebra.solvers.two_stage import TwoStage

# Perturbations of x are solved for to within this share of their own size. It changes their variance by a tenth, less
# than the fifth to which so few members tell their spread.
PERTURBATION_ERROR = 0.3

# A gradient row whose k are this small beside the largest says nothing, and its square would underflow.
NEGLIGIBLE_ROW = 1e-100


@dataclass(frozen=True)
class OwnNoise:
    """Standard deviations of a layer's right-hand sides by themselves, apart from what noise in k and z does to them.

    Attributes:
        weight_gradient: of dL/dW: its own noise and the rounding of its sum, in the weight's shape.
        output: of z - b: rounding alone, one for each filter, in a shape that broadcasts to the output's.
    """

    weight_gradient: FloatArray
    output: FloatArray


@dataclass(frozen=True)
class SolvedInput:
    """The input of one layer, found from its equations.

    Attributes:
        input: its values with their noise; those that the equations do not determine count as unknown.
        summary: the layer's line in the result: numbers of equations, rank, condition, residual.
        left_out: filters whose gradient equations contradict all others and were left out, shape `(filters,)`.
    """

    input: Estimate
    summary: LayerSolution
    left_out: BoolArray


def solve(observed: Observation, layer: PlacedLayer, k: Estimate, z: Estimate) -> SolvedInput:
    """Return the layer's input from its gradient and weight equations.

    Args:
        observed: parameters and gradients.
        layer: the layer.
        k: the gradient at its output.
        z: its output, bias included.
    """
    equations, noise = layer_equations(observed, layer, k, z)
    stages, x, left_out = _solve_without_contradictions(equations)
    moved = _moved(observed, stages, x, k, z, noise)
    moved += observed.draw(STORED_SOLUTION * np.abs(x), layer.input_shape)
    determined = stages.verdict.determined
    if not determined.all():  # what is open moves a value with a small share in it, by no more than noise
        determined = determined & settled(stages.verdict.shares, moved, equations.scale)
        moved += observed.draw(equations.scale * stages.verdict.shares, layer.input_shape)
    found = Estimate(x, determined, np.where(determined[..., None], moved, 0.0))
    return SolvedInput(found, _summary(stages, x, determined), left_out)


def settled_gradient(
    observed: Observation, layer: PlacedLayer, k: Estimate, solved: SolvedInput, above: Above | None
) -> Estimate:
    """Return the gradient k at the layer's output, with what the solved input settles where an activation left it open.

    Args:
        observed: parameters and gradients.
        layer: the layer.
        k: the gradient at its output, as far as it was known before.
        solved: its input.
        above: the activation on the layer's output; `None` where there is none, and then x settles nothing.
    """
    if above is None or (k.known.all() and not solved.left_out.any()):
        return k
    W, b = observed.parameters[layer.weight_name], observed.bias(layer)
    return contradictions.settled_by_input(layer, W, b, above, solved.input, k, solved.left_out)


def input_gradient(observed: Observation, layer: PlacedLayer, k: Estimate) -> Estimate:
    """Return the gradient at the layer's input, `B(W)^T k`: known where all the k that it adds up are."""
    W, rounding = observed.parameters[layer.weight_name], observed.rounding
    moved = trilinear.input_gradient(layer, W, np.where(k.known[..., None], k.perturbations, 0.0))
    rounded = rounding.arithmetic * np.sqrt(trilinear.input_gradient(layer, W**2, k.filled() ** 2))
    rounded = np.maximum(rounded, rounding.underflow)
    return Estimate(
        value=trilinear.input_gradient(layer, W, k.filled()),
        known=~trilinear.touched(layer, ~k.known),
        perturbations=moved + observed.draw(rounded, layer.input_shape),
    )


def output_of(observed: Observation, layer: PlacedLayer, x: Estimate) -> Estimate:
    """Return the output of a layer, bias included: known where all the inputs that it reads are."""
    W, arithmetic = observed.parameters[layer.weight_name], observed.rounding.arithmetic
    b = observed.bias(layer).reshape(-1, *(1,) * len(layer.outputs))
    moved = trilinear.forward(layer, W, np.where(x.known[..., None], x.perturbations, 0.0))
    rounded = arithmetic * (np.sqrt(trilinear.forward(layer, W**2, x.filled() ** 2)) + np.abs(b))
    return Estimate(
        value=trilinear.forward(layer, W, x.filled()) + b,
        known=trilinear.forward(layer, (W != 0).astype(float), (~x.known).astype(float)) == 0,
        perturbations=moved + observed.draw(rounded, layer.output_shape),
    )


def layer_equations(
    observed: Observation, layer: PlacedLayer, k: Estimate, z: Estimate, scale: float | None = None
) -> tuple[LayerEquations, OwnNoise]:
    """Return the layer's equations with their noise, and the part of it that neither k nor z brings along.

    A sum of products is rounded by a share of the root of its sum of squares: of the Euclidean size of a row, times a
    typical value of x.

    Args:
        observed: parameters and gradients.
        layer: the layer.
        k: the gradient at its output.
        z: its output, bias included.
        scale: size of a typical value of x, if more is known of it than the right-hand sides tell.
    """
    W, dW = observed.parameters[layer.weight_name], observed.gradients[layer.weight_name]
    deviation, arithmetic = observed.deviations[layer.weight_name], observed.rounding.arithmetic
    b = observed.bias(layer).reshape(-1, *(1,) * len(layer.outputs))
    filter_size = np.sqrt((W.reshape(layer.filters, -1) ** 2).sum(axis=1)).reshape(b.shape)
    row_size, usable = _gradient_rows(layer, k)
    output = np.where(z.known, z.value - b, np.nan)
    output_deviation = z.deviation + arithmetic * np.abs(b)
    sizes = row_size * usable, np.broadcast_to(filter_size, output.shape)
    scale = scale or _typical_input(layer, sizes, dW, output, output_deviation)

    from_rounding = arithmetic * scale * row_size
    from_k = scale * np.sqrt(trilinear.row_sums(layer, np.where(k.known, k.deviation, 0.0) ** 2))
    from_dW = deviation.reshape(layer.filters, -1, row_size.shape[1]).mean(axis=1)  # one for all channels
    noise = from_rounding + from_k + from_dW
    rounding = np.maximum(arithmetic * (scale * filter_size + np.abs(b)), np.finfo(float).tiny)
    equations = LayerEquations(
        layer=layer,
        weight=W,
        output_gradient=k.filled(),
        gradient_rows=usable,
        gradient_noise=np.where(noise > 0, noise, 1.0),
        weight_gradient=dW,
        output=output,
        output_noise=z.deviation + rounding,
        scale=scale,
        coefficient_noise=from_k,
    )
    by_tap = from_rounding.reshape(layer.filters, 1, *layer.taps)
    return equations, OwnNoise(np.hypot(deviation, by_tap), rounding)


def _gradient_rows(layer: PlacedLayer, k: Estimate) -> tuple[FloatArray, BoolArray]:
    """Return the Euclidean size of each gradient row and whether it counts, both `(filters, taps)`."""
    values = k.filled()
    largest = np.abs(values).max() or 1.0
    size = largest * np.sqrt(trilinear.row_sums(layer, (values / largest) ** 2))
    complete = trilinear.row_sums(layer, (~k.known).astype(float)) == 0
    return size, complete & (size > NEGLIGIBLE_ROW * largest)


def _typical_input(
    layer: PlacedLayer,
    row_sizes: tuple[FloatArray, FloatArray],
    dW: FloatArray,
    output: FloatArray,
    output_deviation: FloatArray,
) -> float:
    """Return the size of a typical input value: that of the right-hand sides over that of their rows; 1 for zeros.

    Args:
        layer: the layer.
        row_sizes: of the gradient rows, `(filters, taps)`, 0 where they do not count, and of the weight rows.
        dW: right-hand sides of the gradient rows.
        output: right-hand sides of the weight rows, NaN where unknown; noise to a tenth and more, they tell no size.
        output_deviation: standard deviation of these.
    """
    gradient_rows, weight_rows = row_sizes
    used = dW.reshape(layer.filters, -1, gradient_rows.shape[1]) * (gradient_rows > 0)[:, None, :]
    finite = np.isfinite(output)
    known = finite & bool(np.nansum(output**2) > 100 * np.sum(output_deviation[finite] ** 2))
    guesses = (
        np.linalg.norm(used) / (np.linalg.norm(gradient_rows) * np.sqrt(used.shape[1]) or 1.0),
        np.linalg.norm(output[known]) / (np.linalg.norm(weight_rows[known]) or 1.0),
    )
    return float(max(guesses)) or 1.0


def _solve_without_contradictions(equations: LayerEquations) -> tuple[TwoStage, FloatArray, BoolArray]:
    """Solve; where filters' gradient equations contradict the rest, solve without them, if the rest then agrees.

    At most half of the filters are left out, and only if no less is determined without them.

    Returns:
        The equations that were solved, the solution, and the filters left out.
    """

    def solved(equations: LayerEquations) -> tuple[TwoStage, FloatArray, BoolArray]:
        stages = TwoStage(equations)
        x = stages.solve(equations.weight_gradient[..., None], equations.output[..., None])[..., 0]
        return stages, x, contradictions.suspects(equations, x)

    with_all, x_with_all, suspects = solved(equations)
    none = np.zeros(equations.layer.filters, dtype=bool)
    out, stages, x = none, with_all, x_with_all
    while suspects.any() and (out | suspects).sum() <= len(out) // 2:
        out = out | suspects
        stages, x, suspects = solved(contradictions.without(equations, out))
    healed = out.any() and contradictions.resolved(stages.equations, x)
    if not healed or stages.verdict.determined.sum() < with_all.verdict.determined.sum():
        return with_all, x_with_all, none
    return stages, x, out


def _moved(
    observed: Observation, stages: TwoStage, x: FloatArray, k: Estimate, z: Estimate, noise: OwnNoise
) -> FloatArray:
    """Return how each perturbation of k, dL/dW and z moves x, `(*input_shape, members)`.

    To first order `A δx = δ(dL/dW) - δA x` and `B δx = δz`.
    """
    layer = stages.equations.layer
    if not layer.positions and not stages.equations.weight_row_count:
        return _moved_mean(observed, stages, x, k, noise)
    gradient = observed.draw(noise.weight_gradient, layer.weight_shape)
    gradient -= trilinear.weight_gradient(layer, k.perturbations, x)
    output = np.where(z.known[..., None], z.perturbations, 0.0) + observed.draw(noise.output, layer.output_shape)
    share = PERTURBATION_ERROR * np.sqrt(layer.unknowns)  # of all directions together
    return stages.solve(gradient, output, share=share, single=True)


def _moved_mean(observed: Observation, stages: TwoStage, x: FloatArray, k: Estimate, noise: OwnNoise) -> FloatArray:
    """Return the same for a linear layer without weight equations, where x is a weighted mean of the rows dL/dW / k.

    Each value of x has its own column of dL/dW, so that one draw stands for those of all rows.
    """
    whiten = stages.whiten_gradient
    rows = whiten[:, 0] * stages.equations.output_gradient
    share = rows / ((rows @ rows) or 1.0)  # nothing is left where all rows contradict each other
    own = observed.draw(np.sqrt(share**2 @ (whiten * noise.weight_gradient) ** 2), x.shape)
    return own - x[:, None] * (share @ (whiten * k.perturbations))


def _summary(stages: TwoStage, x: FloatArray, determined: BoolArray) -> LayerSolution:
    equations, verdict = stages.equations, stages.verdict
    return LayerSolution(
        name=equations.layer.name,
        kind=equations.layer.kind,
        unknowns=equations.layer.unknowns,
        weight_rows=equations.weight_row_count,
        gradient_rows=equations.gradient_row_count,
        rank=verdict.rank,
        determined=int(determined.sum()),
        condition=verdict.condition,
        residual=residual(equations, x),
        settled=verdict.settled,
        misfit=float(contradictions.misfits(equations, x).max(initial=0.0)),
    )
