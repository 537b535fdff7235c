"""CPU time of the steps at one layer: assembly, exact and numerical rank with determinacy, solution.

The published algorithm has one counterpart for both ranks, the choice of rows one by one, and none for determinacy. All
steps get the layer's true values from a float64 step, so that no layer waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.equations.systems import gradient_equations, weight_equations
from constraint_algebra.experiments.capture import Capture, from_image
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.layers import Activation, Conv2d, PlacedLayer, trilinear
from constraint_algebra.layers.activations import formulas
from constraint_algebra.networks.description import describe
from constraint_algebra.ranks.generic import generic_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.solvers.noisy_equations import LayerEquations
from constraint_algebra.solvers.two_stage import TwoStage
from constraint_algebra.solvers.verdict import Verdict
from paper_repro.baselines import rconv_published as published
from paper_repro.benchmarks import measure

Row = dict[str, object]
EPSILON = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class LayerValues:
    """One layer of a training step with all its true values.

    Attributes:
        layer: the convolution.
        W, weight_gradient: its weight and the gradient of it.
        x: its input.
        output: z - b, NaN where the activation hides z.
        k: its output gradient.
    """

    layer: PlacedLayer
    W: FloatArray
    weight_gradient: FloatArray
    x: FloatArray
    output: FloatArray
    k: FloatArray


def values_of(step: Capture) -> Iterator[LayerValues]:
    """Yield the values of every convolution of a step, from the head on."""
    assert step.truth is not None
    parameters = {name: array.astype(float) for name, array in step.parameters.items()}
    y = step.network.forward(parameters, step.truth)
    head = step.network.layers[-1]
    arriving = step.gradients[f"{head.name}.bias"].astype(float)
    hidden = np.zeros(head.output_shape, dtype=bool)
    for layer in reversed(step.network.layers):
        if isinstance(layer.layer, Activation):
            f = formulas(layer.layer)
            arriving = arriving * f.derivative(y[layer.index + 1])
            hidden = ~np.isfinite(f.inverse(y[layer.index + 1]))
        elif layer.is_bilinear:
            W, x = parameters[layer.weight_name], y[layer.index]
            if isinstance(layer.layer, Conv2d):
                z = trilinear.forward(layer, W, x)
                dW = step.gradients[layer.weight_name].astype(float)
                yield LayerValues(layer, W, dW, x, np.where(hidden, np.nan, z), arriving)
            arriving = trilinear.input_gradient(layer, W, arriving)
        arriving = arriving.reshape(layer.input_shape)


def equations(values: LayerValues) -> LayerEquations:
    """Return the layer's equations as the solver takes them, with the noise of float64 arithmetic."""
    size = np.sqrt(trilinear.row_sums(values.layer, values.k**2))
    scale = float(np.sqrt(np.mean(values.x**2)))
    weights = np.sqrt((values.W**2).sum(axis=(1, 2, 3)))[:, None, None]
    return LayerEquations(
        layer=values.layer,
        weight=values.W,
        output_gradient=values.k,
        gradient_rows=size > 0,
        gradient_noise=np.where(size > 0, EPSILON * scale * size, 1.0),
        weight_gradient=values.weight_gradient,
        output=values.output,
        output_noise=np.broadcast_to(EPSILON * scale * weights, values.output.shape),
        scale=scale,
    )


def assemble(values: LayerValues) -> tuple[Any, Any]:
    """Return all weight and gradient equations as explicit sparse matrices."""
    first, second = weight_equations(values.layer, values.W), gradient_equations(values.layer, values.k)
    return first.matrix, second.matrix


def published_assembly(values: LayerValues) -> tuple[FloatArray, FloatArray]:
    """Return the rows of the published algorithm: all weight rows, and the gradient rows of one channel, both dense."""
    weights = np.array(list(published.weight_rows(values.layer, values.W)))
    return weights, np.array([row for *_, row in published.gradient_rows(values.layer, values.k)])


def published_rank(values: LayerValues, limit: float) -> int | None:
    """Return the rank of one channel's gradient rows, found row by row; `None` where the time is over."""
    pixels = int(np.prod(values.layer.positions))
    rows = ((row, np.zeros(1)) for *_, row in published.gradient_rows(values.layer, values.k))
    start = np.zeros((0, pixels)), np.zeros((0, 1))
    try:
        return len(published.independent_rows(*start, rows, published.Watch(limit), "rank")[0])
    except published.RunEnds:
        return None


def published_solution(values: LayerValues, limit: float) -> FloatArray | None:
    """Return the layer's input, `None` where the algorithm or the time comes to its end."""
    v = values
    try:
        return published.layer_input(v.layer, v.W, v.output, v.k, v.weight_gradient, published.Watch(limit))[0]
    except (published.RunEnds, np.linalg.LinAlgError):
        return None


def numerical_verdict(values: LayerValues) -> Verdict:
    """Return rank and determined unknowns of all equations at their values."""
    return TwoStage(equations(values)).verdict


def solution(values: LayerValues) -> FloatArray:
    """Return the layer's input from all equations."""
    stages = TwoStage(equations(values))
    return stages.solve(values.weight_gradient[..., None], values.output[..., None])[..., 0]


def rows(network: str, *, repetitions: int, limit: float, seed: int = 1, image: str = "cifar10:7") -> list[Row]:
    """Return one row for each convolution of a network and each step.

    Args:
        network: a name of the zoo.
        repetitions: of which the median counts.
        limit: seconds for one step of the published algorithm; beyond, the ratio is a lower bound.
        seed: of the weights.
        image: the sample.
    """
    found: list[Row] = []
    for v in values_of(from_image(Recipe(network, seed, dtype="float64"), image)):
        active = np.isfinite(v.output)
        known = Knowledge.of(v.layer, active=active, support=v.k != 0)
        rank = partial(published_rank, v, limit)
        steps: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "assembly": (partial(assemble, v), partial(published_assembly, v)),
            "exact rank, determined": (partial(generic_rank, v.layer, knowledge=known), rank),
            "numerical rank, determined": (partial(numerical_verdict, v), rank),
            "solution": (partial(solution, v), partial(published_solution, v, limit)),
        }
        theirs: dict[str, measure.Timing] = {}
        for name, (library, counterpart) in steps.items():
            ours = measure.timed(library, repetitions, budget=10.0)
            same = "rank" if "rank" in name else name
            if same not in theirs:
                theirs[same] = measure.timed(counterpart, repetitions, budget=10.0)
            other = theirs[same]
            found.append(
                {
                    "network": network,
                    "layer": v.layer.name,
                    "geometry": describe(v.layer),
                    "unknowns": v.layer.unknowns,
                    "step": name,
                    "library": ours.median,
                    "published": other.median,
                    "ratio": other.median / ours.median,
                    "at least": other.value is None,
                }
            )
    return found
