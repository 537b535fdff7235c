"""Back-substitution: from the head's gradient to the network's input, one layer at a time.

Start at the lowest layer whose output gradient k is at hand: a linear layer's bias gradient. Then, for each layer
towards the input: its gradient and weight equations give its input x (`layer_step`); x is the output y of the
activation below, so that the derivative d(y) is known; `B^T k` times d(y) is the k of the next layer (Eltaras et al.
2024, arXiv 2406.04227).

`chain_recursion` makes the passes through a plain chain, `graph_recursion` those through a graph; `levels` makes them
again with more than equations where these leave values open.
Noise travels along as an ensemble of perturbations, carried through each step to first order: their spread at the input
is the error bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, GroundArray, ParametersLike, Progress
from constraint_algebra.errors import ArgumentRangeError, BatchError, UnknownNameError
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.losses import label_of
from constraint_algebra.networks.network import Network, NetworkLike, bind, canonical, named, stored
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.recursion import checks, explanations, head, last_step, layer_step, levels
from constraint_algebra.recursion.batch import for_any_batch, is_of_one
from constraint_algebra.recursion.buffers import shared
from constraint_algebra.recursion.chain_recursion import Chain
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_recursion import Graph
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import UNSOUND, LayerSolution, Reconstruction, Status

# A normal error lies within 1.045 estimates of its deviation as often as within one deviation, where twelve members
# make the estimate (Student); and the solver leaves the members an error of their own.
FEW_MEMBERS = 1.045 * float(np.hypot(1, layer_step.PERTURBATION_ERROR))
# Residual, relative to the right-hand sides, that rules a candidate out. In 14 runs with two classes and no bias at the
# head it was at most 0.005 for the right candidate (bfloat16), and at least 0.25 for a wrong one.
MISFIT = 0.2
SAME = 4.0  # roundings by which gradients may differ and still be the same
NEAR = 6.0  # deviations from zero at which a value may be zero
PATTERN = (
    "that holds for activations as this gradient shows them: feasibility(network, activity=activity_of(network,"
    " parameters, x)) says what the shapes decide for an input x, and certify which values no method can know"
)


@checked
@one_blas_thread()
def reconstruct(
    network: NetworkLike,
    parameters: ParametersLike,
    gradients: ParametersLike,
    *,
    loss: str | None = "cross_entropy",
    noise: float | Mapping[str, ArrayLike] = 0.0,
    buffers: Mapping[str, Any] | None = None,
    valid_range: tuple[float, float] = (0.0, 1.0),
    batch: int | None = None,
    search: float = last_step.SECONDS,
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
        buffers: the client's buffers after its step, by name as in a state dict, which a batch norm in training mode
            moved; with those from before, among the parameters, they give mean and variance of every channel away.
        valid_range: range of valid input values. Where equations leave values open, it may decide them
            (`Ground.RANGE`), and what it decides holds for inputs within it; it also chooses between several inputs
            with the same gradient. `(-inf, inf)` where there is none.
        batch: number of samples that the gradient comes from, 1 if that is known. Left out, the gradient has to show
            it: where that of several would look the same (`batch` of the room `recursion`), the status says so.
        search: seconds that each thing beyond the equations may take where these leave values open, 0 for equations
            alone: the range of values, zeros behind activations, unknown sides of ReLUs (`levels` and `Ground`), and
            last a search on all equations at once (`Status.LOCAL`, `last_step`), up to 400 input values and a million
            entries of the Jacobian. The number of tries is fixed: reaching the limit alone makes a difference.
        seed: seed of the noise ensemble and of the starts of the search.
        progress: called with (layers done, layers in all, name) after each layer.

    Returns:
        A `Reconstruction`. What is not determined is no error: `.status` and `.determined` say so.

    Raises:
        ParameterError: parameters, gradients or buffers that do not fit the network or each other.
        NonFiniteError: NaN or infinity among them.
        ZeroGradientError: the gradient at the head is zero throughout.
        BatchError: the head's gradient is that of several samples.
        MissingBiasError: no layer gives the output gradient, and the loss is not one that could.
        UnknownNameError: a loss of another name.
        ArgumentRangeError: a negative time, or a range whose ends are not in order.
        MemoryLimitError: it would take more memory than may be taken.
    """
    assert isinstance(network, Network)  # whatever stood for it
    _check_options(batch, loss, search, valid_range)
    demand(network)
    observed = _observation(network, parameters, gradients, noise, seed)
    observed = replace(observed, shared=shared(network, observed.parameters, buffers))
    start, candidates = _starts(observed, loss)
    fitting = _explanations(observed, start, candidates, loss, last_step.Search(search, seed, valid_range), progress)
    chosen = _explained(explanations.choose(fitting, valid_range))
    return chosen if batch == 1 else _for_any_batch(chosen, observed, start, loss)


def _starts(observed: Observation, loss: str | None) -> tuple[PlacedLayer, list[FloatArray]]:
    """Return the layer to start from and what its output gradient may be."""
    return head.output_gradients(observed.network, observed.parameters, observed.gradients, loss, observed.deviations)


def _explanations(
    observed: Observation,
    start: PlacedLayer,
    candidates: list[FloatArray],
    loss: str | None,
    search: last_step.Search,
    progress: Progress | None,
) -> list[Reconstruction]:
    """Return the results for the output gradients that the layer to start from may have."""

    def explanation(k: FloatArray, misfit: float) -> Reconstruction | None:
        own, arriving, k = _in_its_unit(replace(observed, draw=Ensemble(search.seed).draw), start, k)
        recursion = Chain if observed.network.is_chain else Graph
        passes = recursion(own, start, arriving, misfit, progress)
        found = passes.to_input()
        if found is None:
            return None
        judge = partial(_result, own, start=start, k=arriving, loss=loss)
        result = judge(found.input, found.summaries)
        result = replace(result, notes=(*result.notes, *found.notes))
        result = levels.take(result, found, passes, judge, search)
        return last_step.take(result, own, start, k, partial(judge, summaries=found.summaries), search)

    # Of several candidates the wrong ones show in the first layers; where noise hides that, all are carried through.
    fitting = [result for k in candidates if len(candidates) > 1 and (result := explanation(k, MISFIT)) is not None]
    return fitting or [result for k in candidates if (result := explanation(k, np.inf)) is not None]


def polished(
    network: Network,
    parameters: ParametersLike,
    gradients: ParametersLike,
    x: FloatArray,
    *,
    loss: str | None,
    noise: float | Mapping[str, ArrayLike],
    search: last_step.Search,
) -> Reconstruction:
    """Return the input near x that has the gradients of one sample, as `reconstruct` returns what its search found."""
    observed = _observation(network, parameters, gradients, noise, search.seed)
    start, candidates = _starts(observed, loss)
    results = []
    for k in candidates:
        own, arriving, k_own = _in_its_unit(observed, start, k)
        judge = partial(_result, own, summaries=[], start=start, k=arriving, loss=loss)
        results.append(last_step.polished(x, own, start, k_own, judge, search))
    chosen = explanations.choose(results, search.valid_range)
    return _for_any_batch(chosen, observed, start, loss)


def _observation(
    network: Network,
    parameters: ParametersLike,
    gradients: ParametersLike,
    noise: float | Mapping[str, ArrayLike],
    seed: int,
) -> Observation:
    """Return what came as numbers of the network, with its noise."""
    bound = bind(network, parameters, "parameters")
    came = named(network, gradients, "gradients")
    given, rounding = bind(network, came, "gradients"), precision(came)
    rounding = rounding.summing(_longest_sum(network))
    # Noise is stated as the client's arrays are, in PyTorch's shapes.
    deviations = canonical(network, deviations_of(stored(network, given), rounding, noise))
    return Observation(network, bound, given, deviations, rounding, Ensemble(seed).draw)


def _longest_sum(network: Network) -> int:
    """Return how many products the longest sum has that the recursion looks at: of z, of B^T k or of dL/dW."""
    longest = 1
    for layer in network.bilinear:
        taps, positions = math.prod(layer.taps), math.prod(layer.outputs)
        longest = max(longest, taps * layer.filters // layer.groups)
        if layer is not network.start:  # of which z is not looked at
            longest = max(longest, positions, taps * layer.channels // layer.groups)
    return longest


def _check_options(batch: int | None, loss: str | None, search: float, valid_range: tuple[float, float]) -> None:
    """Refuse a number of samples or a loss that cannot be reconstructed, a time limit or a range that is none."""
    if not valid_range[0] < valid_range[1]:
        raise ArgumentRangeError("valid_range", f"valid_range must be (smallest, largest), got {valid_range}")
    if not search >= 0:
        raise ArgumentRangeError("search", f"search must be a time in seconds, 0 for no search, got {search!r}")
    if batch not in {None, 1}:
        raise BatchError("batch", f"batch must be 1 or None, got {batch!r}: only one sample can be reconstructed")
    if loss not in {"cross_entropy", "logistic", None}:
        raise UnknownNameError(f'loss must be "cross_entropy", "logistic" or None, got {loss!r}')


def demand(network: Network) -> None:
    """Refuse a network whose reconstruction the memory surely does not hold; nothing is allocated yet.

    Parameters, gradients and their deviations are there at the same time, and at a layer its incidence, what every
    output sees, and the ensemble of both sides.
    """
    values = 3.0 * network.parameter_count
    most = max((_working_values(layer) for layer in network.bilinear), default=0.0)
    memory.demand("to reconstruct through this network", 8 * (values + most), "take a smaller network or input")


def _working_values(layer: PlacedLayer) -> float:
    seen = (layer.channels + 4.0) * math.prod(layer.taps) * math.prod(layer.outputs)
    return seen + MEMBERS * (layer.unknowns + math.prod(layer.output_shape))


def _start_gradient(observed: Observation, layer: PlacedLayer, k: FloatArray) -> Estimate:
    """Return the output gradient of the layer to start from, with its noise.

    It is the layer's bias gradient, with the noise of that; or else k follows from the weight gradient and the loss.
    """
    if not layer.is_bilinear:
        found = head.by_biases(observed.network, observed.parameters, observed.gradients, observed.deviations)
        assert found is not None  # it gave k
        moved = observed.draw(found[1], k.shape)
    elif layer.bias_name is not None:
        moved = observed.draw(observed.deviations[layer.bias_name], k.shape)
    else:
        moved = head.by_loss(layer, k, observed)
    return Estimate(k, np.ones(k.shape, dtype=bool), moved).reshape(layer.output_shape)


def _in_its_unit(observed: Observation, start: PlacedLayer, k: FloatArray) -> tuple[Observation, Estimate, FloatArray]:
    """Return gradients in a unit in which their squares are numbers, the output gradient with its noise, and bare."""
    unit = observed.unit(k)
    return observed.multiplied(unit), _start_gradient(observed, start, k).multiplied(unit), unit * k


def _exactly(k: FloatArray) -> Estimate:
    """Return numbers as they are: what noise they have, the client computed with."""
    return Estimate(k, np.ones(k.shape, dtype=bool), np.zeros((*k.shape, MEMBERS)))


def _result(
    observed: Observation,
    x: Estimate,
    summaries: list[LayerSolution],
    start: PlacedLayer,
    k: Estimate,
    loss: str | None,
    ground: GroundArray | None = None,
) -> Reconstruction:
    """Return the result for the input x, checked against the gradients and judged by that.

    Its values rest on the equations, if no other grounds are stated. The check covers
    all layers up to the head where its bias gradient gives its k, up to `start` otherwise.
    """
    last = observed.network.head
    if last is not None and last.bias_name is not None:
        start, k = last, _exactly(observed.gradients[last.bias_name])

    def judged(x: Estimate) -> Reconstruction:
        found: dict[str, float] = {}
        explained: dict[str, float] = {}
        at_all: dict[str, float] = {}
        if x.known.any() and np.isfinite(x.value).all():  # a graph may know single values, and nothing of the others
            again = checks.recomputed(observed, x.value, start, k.value)
            found = checks.discrepancies(observed, again)
            explained, at_all = checks.explained_discrepancies(observed, x, start, k, again)
        return Reconstruction(
            input=x.value,
            determined=x.known,
            error_bar=np.where(x.known, FEW_MEMBERS * x.deviation, np.inf),
            status=Status.DETERMINED,
            layers=tuple(reversed(summaries)),
            label=_label(observed, start, k.value.ravel(), loss),
            discrepancy=found,
            ground=np.zeros(x.known.shape, np.uint8) if ground is None else ground,
        ).judged(explained, same=SAME * observed.rounding.epsilon, at_all=at_all)

    result = judged(x)
    zeros = x.known & (x.value != 0) & (np.abs(x.value) <= NEAR * x.deviation)
    if result.status not in UNSOUND or not zeros.any():
        return result
    # Outputs of a filter without bias over a background of zeros lie on the edge of a ReLU: rounding picks the side.
    return judged(replace(x, value=np.where(zeros, 0.0, x.value)))


def _label(observed: Observation, layer: PlacedLayer, k: FloatArray, loss: str | None) -> int | None:
    """Return the label that the head's gradient betrays, given the output gradient k of a layer, best of the head."""
    last = observed.network.head
    if last is None and layer is not observed.network.layers[-1]:
        return None
    if last is None or layer is last:
        return label_of(k, loss, signed=True)
    rows = observed.gradients[last.weight_name].reshape(last.filters, -1)  # k times the head's input, of either sign
    return label_of(rows.sum(axis=1), loss, signed=False)


def _explained(result: Reconstruction) -> Reconstruction:
    """Return a result that is open in part with the words that say on what it rests, and where more is said."""
    if result.status not in {Status.PARTIAL, Status.UNDETERMINED}:
        return result
    return replace(result, notes=(*result.notes, PATTERN))


def _for_any_batch(
    result: Reconstruction, observed: Observation, start: PlacedLayer, loss: str | None
) -> Reconstruction:
    """Return a result; if its gradient may be that of several samples, with the status and the words that say so."""
    if is_of_one(observed.network, observed.gradients, result.status, start, loss):
        return result
    status = Status.IF_SINGLE if result.status is Status.DETERMINED else result.status
    known = result.determined.any()
    return replace(result, status=status, notes=(*result.notes, for_any_batch(start)) if known else result.notes)
