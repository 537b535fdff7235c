"""R-CONV as published (Eltaras et al. 2024, arXiv 2406.04227): the algorithm that the library is measured against.

Written from the paper's equations, plainly, and on purpose with the numerical choices of the published experiments:

1. The head's input is one row of its weight gradient divided by the bias gradient of that row; any row will do.
2. σ′ is a function of σ's output, which is the input just found. ReLU counts as active where that exceeds zero after
   rounding to seven digits.
3. A convolution's input follows from its gradient equations, the same for every channel: row by row is appended, and
   kept if a singular value decomposition says that the rank has grown, until there are as many rows as unknowns; then a
   square solve. Where gradient rows do not suffice and the activation is invertible, weight rows are appended likewise.
4. The first convolution, if its activation is invertible, is solved from its first weight equations alone, as many as
   there are unknowns.

Rows kept for their rank can be nearly dependent, and one wrong ReLU spoils all below: hence the failures, above all
in float32, that least squares over all equations does not have. Nothing here uses the library's own equations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters, Progress
from constraint_algebra.errors import MissingBiasError, ShapeError
from constraint_algebra.layers import Activation, Conv2d, Linear, PlacedLayer
from constraint_algebra.layers.activations import formulas
from constraint_algebra.networks.network import Network, bind
from constraint_algebra.networks.walk import Rules, down
from paper_repro.baselines import BaselineResult, Outcome
from paper_repro.baselines.convolution_rows import arrive, gradient_rows, weight_rows
from paper_repro.baselines.watch import RunEnds, Watch

Rows = Iterable[tuple[FloatArray, FloatArray]]

METHOD = "rconv2024"
DIGITS = 7  # of the rounding that decides whether a ReLU was active


def rconv_published(
    network: Network,
    parameters: Mapping[str, Any],
    gradients: Mapping[str, Any],
    *,
    seed: int = 0,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> BaselineResult:
    """Reconstruct an input as published.

    Args:
        network: two-dimensional convolutions without groups, each with an activation, and one linear layer at the end.
        parameters: weights and biases, by name.
        gradients: the gradient of one sample, by name; computed with in float64, whatever its type.
        seed: of the one arbitrary choice, the row of the head.
        time_limit: seconds of processor time, looked at between two factorisations.
        progress: called with (layers done, layers in all, name) after each layer.

    Raises:
        ShapeError: a network that the algorithm is not made for.
        MissingBiasError: the head has no bias.
        ParameterError: parameters or gradients that do not fit the network.
    """
    convolutions = checked(network)
    W, dW = bind(network, parameters, "parameters"), bind(network, gradients, "gradients")
    watch, steps = Watch(time_limit), list[str]()
    x, outcome, reason = None, Outcome.FINISHED, ""
    try:
        with np.errstate(all="ignore"):
            for done, (name, value, what) in enumerate(_layers(network, convolutions, W, dW, seed, watch), start=1):
                x = _finite(value, name)
                steps.append(f"{name}: {what}")
                if progress is not None:
                    progress(done, len(convolutions) + 1, name)
    except RunEnds as stop:
        x, outcome, reason = None, stop.outcome, str(stop)
    except np.linalg.LinAlgError as error:
        x, outcome, reason = None, Outcome.FAILED, f"a square solve failed ({error}) after {len(steps)} layers"
    wall, cpu = time.perf_counter() - watch.wall, time.process_time() - watch.cpu
    return BaselineResult(METHOD, outcome, x, reason, wall, cpu, tuple(steps))


def checked(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the convolutions of a network that the algorithm is made for, in order."""
    *convolutions, head = network.bilinear
    wrong = [c.name for c in convolutions if not isinstance(c.layer, Conv2d) or c.groups > 1]
    if wrong or not convolutions or not isinstance(head.layer, Linear) or head is not network.layers[-1]:
        raise ShapeError(
            "the published algorithm takes two-dimensional convolutions without groups and one linear layer at the"
            f" end, got\n{network!r}\nuse constraint_algebra.reconstruct"
        )
    if head.bias_name is None:
        raise MissingBiasError(
            head.weight_name,
            f"the published algorithm starts at the bias gradient of the head, and layer {head.name!r} has no bias;"
            " use constraint_algebra.reconstruct",
        )
    return tuple(convolutions)


def _layers(
    network: Network, convolutions: tuple[PlacedLayer, ...], W: Parameters, dW: Parameters, seed: int, watch: Watch
) -> Iterator[tuple[str, FloatArray, str]]:
    """Yield name, input and what was done, for each layer from the head on."""
    head = network.layers[-1]
    x, row = head_input(dW[head.weight_name], dW[f"{head.name}.bias"], seed)
    yield head.name, x, f"row {row} of the weight gradient"
    arriving, upper = W[head.weight_name].T @ dW[f"{head.name}.bias"], head
    for layer in reversed(convolutions):
        z, d = down(network.between(layer, upper), (x, np.ones(x.shape)), BELOW)
        k = arriving.reshape(layer.output_shape) * d
        bias = W[layer.bias_name].reshape(-1, 1, 1) if layer.bias_name is not None else 0.0
        x, what = layer_input(layer, W[layer.weight_name], z - bias, k, dW[layer.weight_name], watch)
        yield layer.name, x, what
        arriving, upper = arrive(layer, W[layer.weight_name], k), layer


def _finite(x: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(x).all():
        raise RunEnds(Outcome.FAILED, f"the input found for layer {name!r} holds values that are not finite")
    return x


def head_input(dW: FloatArray, db: FloatArray, seed: int) -> tuple[FloatArray, int]:
    """Return x from `dW[row] = db[row] x`, and the row."""
    rows = np.flatnonzero(db)
    if not len(rows):
        raise RunEnds(Outcome.FAILED, "the head's bias gradient is zero")
    row = int(np.random.default_rng(seed).choice(rows))
    return dW[row] / db[row], row


def through(activation: Activation, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return z, NaN where unknown, and σ′(z), both from the output y; where σ cuts off, y is rounded."""
    f = formulas(activation)
    y = np.round(y, DIGITS) if f.plateaus else y
    return f.inverse(y), f.derivative(y)


def _activation(layer: PlacedLayer, above: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
    z, slope = through(layer.activation, above[0])
    return z, above[1] * slope


# What goes down is the value and the derivative of all activations passed so far.
BELOW = Rules[tuple[FloatArray, FloatArray]](
    activation=_activation,
    reshape=lambda layer, above: (above[0].reshape(layer.input_shape), above[1].reshape(layer.input_shape)),
)


def layer_input(
    layer: PlacedLayer, W: FloatArray, output: FloatArray, k: FloatArray, dW: FloatArray, watch: Watch
) -> tuple[FloatArray, str]:
    """Return a convolution's input, and which rows gave it.

    Args:
        layer: the convolution.
        W: its weight.
        output: z - b in the output shape, NaN where unknown.
        k: output gradient in the output shape.
        dW: gradient of the weight.
        watch: the time.
    """
    invertible = bool(np.isfinite(output).all())
    if invertible and layer.index == 0:
        return _from_weights(layer, W, output, watch)
    pixels, channels = int(np.prod(layer.positions)), layer.channels
    rows = ((row, dW[f, :, i, j]) for f, i, j, row in gradient_rows(layer, k))
    A, b = independent_rows(np.zeros((0, pixels)), np.zeros((0, channels)), rows, watch, f"layer {layer.name!r}")
    if len(A) == pixels:
        return _square(A, b).T.reshape(layer.input_shape), f"{pixels} gradient rows per channel"
    if not invertible:
        raise RunEnds(
            Outcome.FAILED,
            f"gradient rows of layer {layer.name!r} have rank {len(A)} for {pixels} unknowns per channel, and its"
            " activation is not invertible",
        )
    weights = zip(weight_rows(layer, W), output.reshape(-1, 1), strict=True)
    start: tuple[FloatArray, FloatArray] = np.kron(np.eye(channels, dtype=float), A).astype(float), b.T.reshape(-1, 1)
    A, b = independent_rows(*start, weights, watch, f"layer {layer.name!r}")
    if len(A) < layer.unknowns:
        raise RunEnds(
            Outcome.FAILED, f"all rows of layer {layer.name!r} have rank {len(A)} for {layer.unknowns} unknowns"
        )
    used = len(start[0]), len(A) - len(start[0])
    return _square(A, b).reshape(layer.input_shape), f"{used[0]} gradient rows, {used[1]} weight rows"


def _from_weights(layer: PlacedLayer, W: FloatArray, output: FloatArray, watch: Watch) -> tuple[FloatArray, str]:
    n = layer.unknowns
    if output.size < n:
        raise RunEnds(Outcome.FAILED, f"layer {layer.name!r} has {output.size} weight rows for {n} unknowns")
    watch.check(f"layer {layer.name!r}")
    rows = (row for row, _ in zip(weight_rows(layer, W), range(n), strict=False))
    A = np.fromiter(rows, dtype=(float, n), count=n)
    return _square(A, output.ravel()[:n]).reshape(layer.input_shape), f"the first {n} weight rows"


def _square(A: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.solve(A, b), dtype=float)


def independent_rows(
    A: FloatArray, b: FloatArray, rows: Rows, watch: Watch, where: str
) -> tuple[FloatArray, FloatArray]:
    """Append rows with their right-hand sides where the rank grows by it, until A is square."""
    kept, rhs = [*A], [*b]
    for row, value in rows:
        if len(kept) == A.shape[1]:
            break
        watch.check(f"{where}, row {len(kept) + 1} of {A.shape[1]}")
        if np.linalg.matrix_rank(np.array([*kept, row])) > len(kept):
            kept.append(row)
            rhs.append(value)
    return np.array(kept).reshape(-1, A.shape[1]), np.array(rhs).reshape(-1, b.shape[1])
