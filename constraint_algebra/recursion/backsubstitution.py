"""Back-substitution: from the head's gradient to the network's input, one layer at a time.

Start at the lowest layer whose output gradient k is at hand: a linear layer's bias gradient. Then, for each layer
towards the input: its gradient and weight equations give its input x; x is the output y of the activation below, so
that the derivative d(y) is known; `B^T k` times d(y) is the k of the next layer (Eltaras et al. 2024, arXiv
2406.04227).

Knowledge is kept for every value, not for every layer. k[j] is known where d(x[j]) is, and also where the gradient that
arrives at j is zero, whatever x[j] is; a gradient row counts where all its k are known, a weight row where its z is.
Noise travels along as an ensemble of perturbations, carried through each step to first order: their spread at the input
is the error bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray, FloatArray, Parameters, Progress
from constraint_algebra.errors import UnknownNameError
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.networks.losses import label_of
from constraint_algebra.networks.network import Network, bind
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.recursion import contradictions, head
from constraint_algebra.recursion.activation_sides import BiasCheck
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate, through_activation
from constraint_algebra.recursion.noise import SOLVED, Precision, deviations_of, precision
from constraint_algebra.recursion.result import LayerSolution, Reconstruction, Status
from constraint_algebra.solvers.noisy_equations import LayerEquations, residual
from constraint_algebra.solvers.two_stage import TwoStage

# A normal error lies within 1.045 estimates of its deviation as often as within one deviation, where twelve members
# make the estimate (Student); and the members are carried to a distance of 0.3 of their own size.
FEW = 1.045 * float(np.hypot(1, 0.3))
DRAWS = 2  # members that show how far the error bars of the input move the gradients
GENEROUS = 30.0  # times that distance, a discrepancy is still explained
MISFIT = 0.2  # residual, relative to the right-hand sides, that rules a candidate out


@one_blas_thread()
def reconstruct(
    network: Network,
    parameters: Mapping[str, Any],
    gradients: Mapping[str, Any],
    *,
    loss: str | None = "cross_entropy",
    noise: float | Mapping[str, ArrayLike] = 0.0,
    valid_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    progress: Progress | None = None,
) -> Reconstruction:
    """Return the input that the gradients of one sample determine, with an error bar for every value.

    Args:
        network: the architecture.
        parameters: weights and biases at which the gradient was taken, by PyTorch's names.
        gradients: the gradient of the loss with respect to each of them; their type's precision sets the noise floor.
        loss: "cross_entropy", "logistic" (one output, binary cross-entropy with logits), or `None` for any other, for
            which some layer from the first linear one on needs a bias.
        noise: standard deviation of noise added to the gradients, such as that of differential privacy, beyond their
            rounding: one number, or one or an array for each parameter by name.
        valid_range: range of valid input values, used only to choose between several inputs with the same gradient.
        seed: seed of the noise ensemble.
        progress: called with (layers done, layers in all, name) after each layer.

    Returns:
        A `Reconstruction`. What is not determined is no error: it is said in `.status` and `.determined`.

    Raises:
        ParameterError: parameters or gradients that do not fit the network.
        NonFiniteError: NaN or infinity among them.
        ZeroGradientError: the gradient at the head is zero throughout.
        BatchError: the head's gradient is that of several samples.
        MissingBiasError: no layer gives the output gradient, and the loss is not one that could.
        UnknownNameError: a loss of another name.
    """
    if loss not in {"cross_entropy", "logistic", None}:
        raise UnknownNameError(f'loss must be "cross_entropy", "logistic" or None, got {loss!r}')
    bound = bind(network, parameters, "parameters")
    given = bind(network, gradients, "gradients")
    rounding = precision(gradients)
    deviations = deviations_of(given, rounding, noise)
    start, candidates = head.output_gradients(network, bound, given, loss, deviations)

    def run(k: FloatArray, misfit: float) -> Reconstruction | None:
        recursion = _Recursion(network, bound, given, deviations, rounding, seed)
        return recursion.run(start, k, loss, progress, misfit)

    # Of several candidates the wrong ones show in the first layers; where noise hides that, all are carried through.
    results = [run(k, MISFIT) for k in candidates] if len(candidates) > 1 else []
    fitting = [result for result in results if result is not None]
    fitting = fitting or [result for k in candidates if (result := run(k, np.inf)) is not None]
    return _choose(fitting, valid_range)


class _Recursion:
    """One pass from the head to the input; its fields are what every step needs."""

    def __init__(
        self,
        network: Network,
        parameters: Parameters,
        gradients: Parameters,
        deviations: Parameters,
        rounding: Precision,
        seed: int,
    ) -> None:
        self.network, self.parameters, self.gradients = network, parameters, gradients
        self.deviations, self.rounding = deviations, rounding
        self._draw = Ensemble(seed).draw
        # The activation above the layer at hand, and the gradient that arrives there.
        self._above: tuple[Activation, Estimate] | None = None

    def run(
        self,
        start: PlacedLayer,
        output_gradient: FloatArray,
        loss: str | None,
        progress: Progress | None,
        misfit: float,
    ) -> Reconstruction | None:
        """Solve layer after layer, from `start` to the first; `None` at a residual above `misfit`."""
        todo = [layer for layer in reversed(self.network.bilinear) if layer.index <= start.index]
        solutions: list[LayerSolution] = []
        k = self._start(start, output_gradient)
        z = Estimate.unknown(start.output_shape, MEMBERS)
        for number, layer in enumerate(todo):
            x, solution, doubted = self._solve(layer, k, z)
            if solution.residual > misfit:
                return None
            solutions.append(solution)
            if progress is not None:
                progress(number + 1, len(todo), layer.name)
            if layer.index == 0:
                return self._result(x, solutions, start, output_gradient, loss)
            k = self._settled(layer, x, k, doubted)
            below = todo[number + 1] if layer is not todo[-1] else None
            z, k = self._through(below, layer, x, self._arriving(layer, k))
            if not (z.known.any() or k.value[k.known].any()):
                z = Estimate.unknown(self.network.input_shape, MEMBERS)
                break
        return self._result(z, solutions, start, output_gradient, loss)

    def _given(self, name: str) -> Estimate:
        """Return a given gradient with its noise."""
        values = self.gradients[name]
        return Estimate(values, np.ones(values.shape, dtype=bool), self._draw(self.deviations[name], values.shape))

    def _start(self, layer: PlacedLayer, k: FloatArray) -> Estimate:
        """Return the output gradient of the head: its bias gradient, or what its weight gradient and the loss imply."""
        if layer.bias_name is not None:
            return self._given(layer.bias_name).reshape(layer.output_shape)
        dW, name = self.gradients[layer.weight_name], layer.weight_name
        share = np.linalg.norm(self.deviations[name]) / (np.linalg.norm(dW) or 1.0)
        noise = self._draw(share * np.abs(k), k.shape)
        return Estimate(k, np.ones(k.shape, dtype=bool), noise).reshape(layer.output_shape)

    def _solve(self, layer: PlacedLayer, k: Estimate, z: Estimate) -> tuple[Estimate, LayerSolution, BoolArray]:
        """Return the layer's input from its gradient and weight equations, and the filters whose k they contradict."""
        W, dW = self.parameters[layer.weight_name], self.gradients[layer.weight_name]
        deviation = self.deviations[layer.weight_name]
        equations, row_rounding, output_rounding = self._equations(layer, W, dW, deviation, k, z)
        stages, x, doubted = self._agreeing(equations)
        equations = stages.equations
        moves_dW = np.hypot(deviation, row_rounding.reshape(layer.filters, 1, *layer.taps))
        if layer.positions or equations.weight_row_count:
            perturbations = self._moved(stages, x, k, z, moves_dW, output_rounding)
        else:
            perturbations = self._moved_features(stages, x, k, moves_dW)
        determined = stages.verdict.determined
        solution = LayerSolution(
            name=layer.name,
            kind=layer.kind,
            unknowns=layer.unknowns,
            weight_rows=equations.weight_row_count,
            gradient_rows=equations.gradient_row_count,
            rank=stages.verdict.rank,
            determined=int(determined.sum()),
            condition=stages.verdict.condition,
            residual=residual(equations, x),
            settled=stages.verdict.settled,
            misfit=float(contradictions.misfits(equations, x).max(initial=0.0)),
        )
        perturbations += self._draw(SOLVED * np.abs(x), layer.input_shape)
        return Estimate(x, determined, np.where(determined[..., None], perturbations, 0.0)), solution, doubted

    def _moved(
        self,
        stages: TwoStage,
        x: FloatArray,
        k: Estimate,
        z: Estimate,
        moves_dW: FloatArray,
        moves_z: FloatArray,
    ) -> FloatArray:
        """Return how each perturbation of k, dW and z moves x, to first order."""
        layer = stages.equations.layer
        moved = self._draw(moves_dW, layer.weight_shape)
        moved -= trilinear.weight_gradient(layer, k.perturbations, x)
        output = np.where(z.known[..., None], z.perturbations, 0.0) + self._draw(moves_z, layer.output_shape)
        share = 0.3 * np.sqrt(layer.unknowns)  # of all directions together
        return stages.solve(moved, output, share=share, single=True)

    def _moved_features(self, stages: TwoStage, x: FloatArray, k: Estimate, moves_dW: FloatArray) -> FloatArray:
        """Return the same for a linear layer without weight equations: x is the mean of the rows dW / k, weighted.

        Each of its values has its own column of dW, so that one draw stands for those of all rows.
        """
        whiten = stages.whiten_gradient
        rows = whiten[:, 0] * stages.equations.output_gradient
        share = rows / (rows @ rows)
        own = self._draw(np.sqrt(share**2 @ (whiten * moves_dW) ** 2), x.shape)
        return own - x[:, None] * (share @ (whiten * k.perturbations))

    def _agreeing(self, equations: LayerEquations) -> tuple[TwoStage, FloatArray, BoolArray]:
        """Solve; where gradient equations contradict the rest, without those of the filters that do, if that heals it.

        Returns the equations eliminated, the solution, and the filters left out.
        """

        def solved(equations: LayerEquations) -> tuple[TwoStage, FloatArray, BoolArray]:
            stages = TwoStage(equations)
            x = stages.solve(equations.weight_gradient[..., None], equations.output[..., None])[..., 0]
            return stages, x, contradictions.suspects(equations, x)

        first, x, suspects = solved(equations)
        none = np.zeros(equations.layer.filters, dtype=bool)
        out, stages, better = none, first, x
        while suspects.any() and (out | suspects).sum() <= len(out) // 2:
            out = out | suspects
            stages, better, suspects = solved(contradictions.without(equations, out))
        healed = out.any() and contradictions.agrees(stages.equations, better)
        if not healed or stages.verdict.determined.sum() < first.verdict.determined.sum():
            return first, x, none
        return stages, better, out

    def _settled(self, layer: PlacedLayer, x: Estimate, k: Estimate, doubted: BoolArray) -> Estimate:
        """Return the layer's output gradient with what its solved input settles."""
        if self._above is None or (k.known.all() and not doubted.any()):
            return k
        bias = self.parameters[layer.bias_name] if layer.bias_name is not None else np.zeros(layer.filters)
        weight = self.parameters[layer.weight_name]
        return contradictions.settled(layer, weight, bias, *self._above, x, k, doubted)

    def _equations(
        self, layer: PlacedLayer, W: FloatArray, dW: FloatArray, deviation: FloatArray, k: Estimate, z: Estimate
    ) -> tuple[LayerEquations, FloatArray, FloatArray]:
        """Return the layer's equations, and the rounding of the sums on the left of gradient and of weight rows."""
        known_k, largest = k.filled(), np.abs(k.filled()).max() or 1.0
        size = largest * np.sqrt(trilinear.row_sums(layer, (known_k / largest) ** 2))  # of each gradient row
        complete = trilinear.row_sums(layer, (~k.known).astype(float)) == 0
        rows = complete & (size > 1e-100 * largest)  # smaller ones say nothing and their squares underflow
        per_filter = (-1, *(1,) * len(layer.outputs))
        bias = self.parameters[layer.bias_name] if layer.bias_name is not None else np.zeros(layer.filters)
        output = np.where(z.known, z.value - bias.reshape(per_filter), np.nan)
        filter_size = np.sqrt((W.reshape(layer.filters, -1) ** 2).sum(axis=1)).reshape(per_filter)
        shifted = z.deviation + self.rounding.arithmetic * np.abs(bias).reshape(per_filter)  # noise of z - b
        scale = _scale(layer, size * rows, dW, np.broadcast_to(filter_size, output.shape), output, shifted)
        row_rounding = self.rounding.arithmetic * scale * size
        output_rounding = self.rounding.arithmetic * (scale * filter_size + np.abs(bias).reshape(per_filter))
        output_rounding = np.maximum(output_rounding, np.finfo(float).tiny)
        from_k = scale * np.sqrt(trilinear.row_sums(layer, np.where(k.known, k.deviation, 0.0) ** 2))
        from_dW = deviation.reshape(layer.filters, -1, size.shape[1]).mean(axis=1)
        noise = row_rounding + from_k + from_dW
        equations = LayerEquations(
            layer=layer,
            weight=W,
            output_gradient=known_k,
            gradient_rows=rows,
            gradient_noise=np.where(noise > 0, noise, 1.0),
            weight_gradient=dW,
            output=output,
            output_noise=z.deviation + output_rounding,
            scale=scale,
            coefficient_noise=from_k,
        )
        return equations, row_rounding, output_rounding

    def _arriving(self, layer: PlacedLayer, k: Estimate) -> Estimate:
        """Return the gradient with respect to the layer's input, `B^T k`, where all k that it needs are known."""
        W = self.parameters[layer.weight_name]
        moved = trilinear.input_gradient(layer, W, np.where(k.known[..., None], k.perturbations, 0.0))
        rounding = self.rounding.arithmetic * np.sqrt(trilinear.input_gradient(layer, W**2, k.filled() ** 2))
        rounding = np.maximum(rounding, 0.3 * self.rounding.smallest)
        return Estimate(
            trilinear.input_gradient(layer, W, k.filled()),
            ~trilinear.touched(layer, ~k.known),
            moved + self._draw(rounding, layer.input_shape),
        )

    def _through(
        self, below: PlacedLayer | None, above: PlacedLayer, y: Estimate, k: Estimate
    ) -> tuple[Estimate, Estimate]:
        """Return the output of the layer below and the gradient there, from the input of the layer above."""
        first = 0 if below is None else below.index + 1
        self._above = None
        for layer in reversed(self.network.layers[first : above.index]):
            if isinstance(layer.layer, Activation):
                if layer.index == first and below is not None:
                    self._above = layer.layer, k.reshape(below.output_shape)
                stored = self._draw(2 * self.rounding.deviation(np.where(y.known, y.value, 0.0)), y.value.shape)
                y, k = through_activation(
                    layer.layer, y, k, stored, self._bias_check(below) if layer.index == first else None
                )
            y, k = y.reshape(layer.input_shape), k.reshape(layer.input_shape)
        return y, k

    def _bias_check(self, layer: PlacedLayer | None) -> BiasCheck | None:
        """Return the bias equations of a layer, `None` where it has no bias."""
        if layer is None or layer.bias_name is None:
            return None
        name = layer.bias_name
        return BiasCheck(self.gradients[name], self.deviations[name], self.rounding.arithmetic)

    def _result(
        self, x: Estimate, solutions: list[LayerSolution], start: PlacedLayer, k: FloatArray, loss: str | None
    ) -> Reconstruction:
        last = self.network.head
        if last is not None and last.bias_name is not None:
            start, k = last, self.gradients[last.bias_name]
        betrayed: FloatArray | None = k if start is last else None
        if last is not None and start is not last:  # k times the sum of the layer's input
            betrayed = self.gradients[last.weight_name].reshape(last.filters, -1).sum(axis=1)
        found, explained = self._discrepancy(x, start, k) if x.known.any() else ({}, {})
        return Reconstruction(
            input=x.value,
            determined=x.known,
            error_bar=np.where(x.known, FEW * x.deviation, np.inf),
            status=Status.DETERMINED,
            layers=tuple(reversed(solutions)),
            label=None if betrayed is None else label_of(betrayed, loss, signed=start is last),
            discrepancy=found,
        ).judged(explained)

    def _discrepancy(self, x: Estimate, start: PlacedLayer, k: FloatArray) -> tuple[dict[str, float], dict[str, float]]:
        """Return how far the gradients recomputed from x are from those given, and how far noise alone would put them.

        Both are the largest difference of any entry of a parameter's gradient, relative to its largest entry. The
        second is generous: noise and rounding of that gradient itself, and what moving x by its own error bars does.
        """

        def again(values: FloatArray) -> Parameters:
            return self.network.backward(self.parameters, self.network.forward(self.parameters, values), k, start.index)

        size = {name: np.abs(values).max() or 1.0 for name, values in self.gradients.items()}
        central = again(x.value)
        found = {name: float(np.abs(g - self.gradients[name]).max() / size[name]) for name, g in central.items()}
        moved = [again(x.value + x.perturbations[..., m]) for m in range(DRAWS)]
        explained = {}
        for name, g in central.items():
            own = 1e5 * self.rounding.epsilon + 1e4 * np.abs(self.deviations[name]).max() / size[name]
            by_input = max(np.abs(member[name] - g).max() for member in moved) / size[name]
            explained[name] = float(min(own + GENEROUS * by_input, 0.5))
        return found, explained


def _scale(
    layer: PlacedLayer,
    row_sizes: FloatArray,
    dW: FloatArray,
    filter_sizes: FloatArray,
    output: FloatArray,
    output_noise: FloatArray,
) -> float:
    """Return the size of a typical input value, from both right-hand sides and the size of their rows; 1 for zeros."""
    used = dW.reshape(layer.filters, -1, row_sizes.shape[1]) * (row_sizes > 0)[:, None, :]
    known = np.isfinite(output) & bool(np.nansum(output**2) > 100 * np.sum(output_noise[np.isfinite(output)] ** 2))
    guesses = (
        np.linalg.norm(used) / (np.linalg.norm(row_sizes) * np.sqrt(used.shape[1]) or 1.0),
        np.linalg.norm(output[known]) / (np.linalg.norm(filter_sizes[known]) or 1.0),
    )
    return float(max(guesses)) or 1.0


def _choose(results: list[Reconstruction], valid_range: tuple[float, float]) -> Reconstruction:
    """Return the result that fits best, with the other inputs that explain the gradients as well."""
    low, high = valid_range
    slack = 1e-3 * (high - low)

    def valid(result: Reconstruction) -> bool:
        inside = (result.input >= low - slack) & (result.input <= high + slack)
        return bool(inside[result.determined].all())

    consistent = [r for r in results if r.status is not Status.INCONSISTENT] or results
    best, *others = sorted(consistent, key=lambda r: (not valid(r), max(r.discrepancy.values(), default=np.inf)))
    status = Status.AMBIGUOUS if best.status is Status.DETERMINED and any(map(valid, others)) else best.status
    return replace(best, status=status, alternatives=tuple(others))
