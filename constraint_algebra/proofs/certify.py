"""Sound verdicts for every input value: fixed, ambiguous, or undecided with the reason.

*Fixed* needs the layers above the first to be determined, which `reconstruct` shows from the real gradients; then the
activations of the first layer are the same for every input with these gradients, and its equations decide. *Ambiguous*
needs a twin whose real PyTorch gradients are equal. What neither shows stays undecided, and the Jacobian of all
gradients says what holds nearby.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, Progress
from constraint_algebra.equations.systems import ENTRY
from constraint_algebra.errors import MissingBiasError, ParameterError, ShapeError, ZeroGradientError
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.proofs.certificate import Certificate, Witness, digest
from constraint_algebra.proofs.indistinguishable import IndistinguishabilitySet, indistinguishable
from constraint_algebra.proofs.local_uniqueness import LocalUniqueness, local_uniqueness
from constraint_algebra.proofs.twins import Twin
from constraint_algebra.pytorch.gradients import torch_gradients
from constraint_algebra.pytorch.tracing import from_torch
from constraint_algebra.pytorch.verification import ENTRIES, TOLERANCE, Model, doubled, gradient_jacobian, verify_twin
from constraint_algebra.recursion import backsubstitution
from constraint_algebra.recursion.result import Reconstruction, Status

ROUNDS = 3  # twins in random directions, which move most values far enough
SPREAD = 6.0  # error bars in a bound


@checked
@one_blas_thread()
def certify(
    model: Model,
    input: ArrayLike,  # noqa: A002 -- the word for it
    target: int,
    *,
    loss: str = "cross_entropy",
    delta: float = 1e-3,
    tolerance: float = TOLERANCE,
    valid_range: tuple[float, float] = (0.0, 1.0),
    time_limit: float = 600.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certificate:
    """Return for every input value whether the gradients fix it, with the proof.

    Args:
        model: a chain of layers that `from_torch` reads; it is copied to float64, in which the gradients are exact.
        input: one sample without a batch axis.
        target: its class.
        loss: "cross_entropy" or "logistic".
        delta: a value is ambiguous where a verified twin changes it by at least this much.
        tolerance: difference of gradients, relative to the largest, at which they count as equal.
        valid_range: smallest and largest valid value.
        time_limit: seconds after which nothing new is begun; values not settled by then stay undecided, with what was
            not looked at as the reason. The equations of the first layer are factored in any case, and a layer of the
            reconstruction that was begun is finished.
        seed: of the random directions and of the reconstruction's noise.
        progress: called with (values settled, values in all, what is being done).

    Raises:
        UnsupportedLayerError: a layer without equations, or an activation before the first layer with a weight.
        ShapeError, ParameterError: an input or a target that does not fit.
        MemoryLimitError: it would take more memory than may be taken.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double()
    >>> _ = [torch.nn.init.constant_(p, 0.5 + 0.1 * i) for i, p in enumerate(model.parameters())]
    >>> _ = model[2].weight.data[0].mul_(-1)
    >>> certify(model, [0.25, 0.5], 1).counts
    {'fixed': 2, 'ambiguous': 0, 'undecided': 0}
    """
    if not 0 < delta <= valid_range[1] - valid_range[0]:
        raise ParameterError("delta", f"delta must be positive and within the valid range {valid_range}, got {delta}")
    x = _sample(input)
    deadline = time.monotonic() + time_limit
    network, arrays = from_torch(model, x.shape)
    _demand(network)
    parameters = {name: np.asarray(values).astype(float) for name, values in arrays.items()}
    found = indistinguishable(network, parameters, x, target, loss=loss, valid_range=valid_range)
    exact = doubled(model)
    search = _Search(exact, found, target, loss, delta, tolerance, deadline, progress)
    result, obstacle = _from_gradients(search, network, parameters, seed)
    for other in () if result is None else result.alternatives:
        search.offer(_inside(other.input, valid_range), "another input that a head without bias allows")
    if search.refused:
        obstacle = obstacle or "a head without bias allows another input, whose gradients are equal up to rounding only"
    verdicts = _verdicts(search, result, obstacle, seed)
    local = _local(exact, x, target, loss) if verdicts.undecided.any() and not search.is_late() else None
    digests = {name: digest(values) for name, values in arrays.items()}
    return _certificate(search, verdicts, result, obstacle, local, digests)


def _sample(values: ArrayLike) -> FloatArray:
    """Return the input as an array of its own; `ShapeError` where there are no values."""
    x = np.array(values, dtype=float)
    if not x.size:
        raise ShapeError(f"input has no values, its shape is {x.shape}; give one sample without a batch axis")
    return x


def _demand(network: Network) -> None:
    """Refuse what the memory does not hold: a reconstruction, the weight equations and the basis of what they leave."""
    first = network.bilinear[0]
    rows = first.filters * math.prod(first.outputs) + first.channels * first.filters * math.prod(first.taps)
    entries = math.prod(first.weight_shape) * math.prod(first.outputs)
    size = ENTRY * entries + 16.0 * first.unknowns * max(0, first.unknowns - rows)
    memory.demand(f"to certify an input of {first.unknowns:,} values", size, "take a smaller input or network")
    backsubstitution.demand(network)


@dataclass(frozen=True)
class _Verdicts:
    """What is fixed and what is ambiguous, and how far each value may be off; infinite where nothing is shown."""

    fixed: BoolArray
    ambiguous: BoolArray
    bound: FloatArray

    @property
    def undecided(self) -> BoolArray:
        """Neither of both."""
        return ~self.fixed & ~self.ambiguous


def _verdicts(search: _Search, result: Reconstruction | None, obstacle: str | None, seed: int) -> _Verdicts:
    """Return the verdicts after the search for twins of all values that are not fixed without it."""
    bound = _fixed(search.found, result, obstacle, search.delta)
    search.run(np.isfinite(bound), seed)
    settled_by_width = search.narrow if obstacle is None else np.zeros(bound.shape, dtype=bool)
    bound = np.where(settled_by_width & ~np.isfinite(bound), search.outer, bound)
    ambiguous, bound = search.moved >= search.delta, np.maximum(bound, search.moved)
    return _Verdicts(np.isfinite(bound) & ~ambiguous, ambiguous, bound)


def _certificate(
    search: _Search,
    verdicts: _Verdicts,
    result: Reconstruction | None,
    obstacle: str | None,
    local: LocalUniqueness | None,
    digests: dict[str, str],
) -> Certificate:
    """Return verdicts and evidence as they are handed out."""
    found = search.found
    return Certificate(
        input=found.input,
        target=int(search.target),
        loss=search.loss,
        fixed=verdicts.fixed,
        ambiguous=verdicts.ambiguous,
        bound=np.where(verdicts.fixed, verdicts.bound, np.nan),
        moved=search.moved,
        seen=np.stack([search.low, search.high]),
        witnesses=tuple(search.witnesses),
        reasons=tuple(_reasons(verdicts.undecided, obstacle, search, local)),
        local=local,
        nullity=found.nullity,
        gap=found.gap,
        delta=search.delta,
        tolerance=search.tolerance,
        fixed_tolerance=found.polytope.null.tolerance,
        valid_range=found.valid_range,
        status=None if result is None else result.status.name.lower(),
        digests=digests,
        architecture=repr(found.network),
    )


class _Search:
    """Twins, verified one by one, until every value moved far enough or cannot."""

    def __init__(
        self,
        model: Model,
        found: IndistinguishabilitySet,
        target: int,
        loss: str,
        delta: float,
        tolerance: float,
        deadline: float,
        progress: Progress | None,
    ) -> None:
        self.model, self.found, self.target, self.loss = model, found, target, loss
        self.delta, self.tolerance, self.deadline, self.progress = delta, tolerance, deadline, progress
        self.witnesses: list[Witness] = []
        self.moved = np.zeros(found.input.shape)
        self.low, self.high = found.input.copy(), found.input.copy()
        self.outer = np.full(found.input.shape, np.inf)  # how far a value may move at most
        self.refused, self.late = 0, False

    @property
    def narrow(self) -> BoolArray:
        """Which values cannot move by delta within the set."""
        return np.asarray(self.outer < self.delta)

    def offer(self, image: FloatArray | None, objective: str) -> None:
        """Verify a candidate, and keep it where it moves a value farther than those before."""
        if image is None:
            return
        change = np.abs(image - self.found.input)
        if not (change > self.moved).any():
            return
        check = verify_twin(self.model, self.found.input, image, self.target, self.loss, tolerance=self.tolerance)
        if not check.equal:
            self.refused += 1
            return
        news = (change >= self.delta) & (self.moved < self.delta)
        strongest = change.max() > self.moved.max()
        self.moved = np.maximum(self.moved, change)
        self.low, self.high = np.minimum(self.low, image), np.maximum(self.high, image)
        if news.any() or strongest:
            self.witnesses.append(Witness(Twin(image, self.found.input, objective), check))

    def run(self, fixed: BoolArray, seed: int) -> None:
        """Search in random directions first, then for one value after the other."""
        P, x = self.found.polytope, self.found.input
        if self.is_late():
            return
        if P.null.nullity == 0:
            self.outer[...] = 0.0
            return
        self.outer = P.reach(np.arange(x.size)).reshape(x.shape)
        for number, objective in enumerate(["mean", *["random"] * ROUNDS]):
            if self.is_late():
                return
            twin = self.found.twin(objective, seed=seed + number, time_limit=self._left())
            self.offer(None if twin is None else twin.image, objective)
            self._report(fixed, f"twin {number + 1}")
            if (fixed | self.narrow | (self.moved >= self.delta)).all():
                return
        for pixel in np.argwhere(~fixed & ~self.narrow).tolist():
            place = tuple(pixel)
            if self.is_late():
                return
            if self.moved[place] < self.delta:
                self._settle(place)
                self._report(fixed, f"value {place}")

    def _settle(self, place: tuple[int, ...]) -> None:
        P, x = self.found.polytope, self.found.input
        direction = np.zeros(x.shape)
        direction[place] = 1.0
        farthest = 0.0
        for sign in (1.0, -1.0):
            best = P.maximise(sign * direction.ravel(), time_limit=self._left())
            farthest = max(farthest, best.outer)
            if best.inner >= self.delta:
                self.offer(_inside(x + best.difference.reshape(x.shape), self.found.valid_range), f"value {place}")
            if self.moved[place] >= self.delta:
                return
        self.outer[place] = min(self.outer[place], farthest)

    def _left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def is_late(self) -> bool:
        """Whether the time is up; that is remembered."""
        self.late = self._left() == 0.0
        return self.late

    def _report(self, fixed: BoolArray, doing: str) -> None:
        if self.progress is not None:
            settled = fixed | self.narrow | (self.moved >= self.delta)
            self.progress(int(settled.sum()), settled.size, doing)


class _OutOfTimeError(Exception):
    """Ends a reconstruction between two layers; never leaves this module."""


def _from_gradients(
    search: _Search, network: Network, parameters: dict[str, FloatArray], seed: int
) -> tuple[Reconstruction | None, str | None]:
    """Return what the gradients alone yield, and why the first layer's activations are not determined, if so."""
    loss, valid_range = search.loss, search.found.valid_range
    gradients = torch_gradients(search.model, search.found.input, search.target, loss)

    def next_layer(done: int, total: int, name: str) -> None:
        if search.progress is not None:
            search.progress(0, search.found.input.size, f"layer {name}")
        if done < total and search.is_late():
            raise _OutOfTimeError

    try:
        result = backsubstitution.reconstruct(
            network,
            parameters,
            gradients,
            loss=loss,
            valid_range=valid_range,
            batch=1,
            seed=seed,
            progress=next_layer,
        )
    except _OutOfTimeError:
        return None, "the time limit came before the layers above the first were reconstructed"
    except (ZeroGradientError, MissingBiasError) as error:
        return None, f"the gradients do not start a reconstruction: {error}"
    if result.status is Status.INCONSISTENT:
        return result, "the reconstruction does not reproduce the gradients, so that nothing above is taken from it"
    above = [layer for layer in network.bilinear[1:] if network.start is None or layer.index <= network.start.index]
    solutions = {solution.name: solution for solution in result.layers}
    for layer in reversed(above):
        solution = solutions.get(layer.name)
        if solution is None or solution.determined < solution.unknowns:
            count = 0 if solution is None else solution.determined
            return result, f"layer {layer.name!r} above the first is not determined ({count:,} of {layer.unknowns:,})"
    return result, None


def _fixed(
    found: IndistinguishabilitySet, result: Reconstruction | None, obstacle: str | None, delta: float
) -> FloatArray:
    """Return how far fixed values may be off, infinite for those not shown to be fixed."""
    fixed, bound = found.fixed.copy(), np.full(found.input.shape, np.inf)
    if obstacle is not None:
        usable = result is not None and result.status is not Status.INCONSISTENT
        fixed &= result.determined if usable and result is not None else False
    flat = np.flatnonzero(fixed)
    if len(flat):
        bound.ravel()[flat] = found.polytope.reach(flat)
    if result is not None:
        known = fixed & result.determined
        by_gradients = np.abs(result.input - found.input) + SPREAD * result.error_bar
        bound[known] = np.maximum(bound[known], by_gradients[known])
    return np.where(bound < delta, bound, np.inf)


def _local(model: Model, x: FloatArray, target: int, loss: str) -> LocalUniqueness | None:
    try:
        return local_uniqueness(gradient_jacobian(model, x, target, loss), x.shape)
    except ShapeError:
        return None


def _reasons(
    undecided: BoolArray, obstacle: str | None, search: _Search, local: LocalUniqueness | None
) -> Iterator[tuple[str, BoolArray]]:
    """Yield every reason with the values that it holds for."""
    if not undecided.any():
        return
    cause = obstacle or "the time limit came before a twin or a bound"
    if obstacle is None and not search.late:
        cause = "the two sides of its interval do not meet, by rounding in nearly dependent equations"
    if obstacle is None and search.refused:
        cause = f"{search.refused} twins failed in float64, whose rounding hides gradients this small"
    if local is None and search.late:
        yield f"{cause}; the time limit came before the Jacobian was looked at", undecided
        return
    if local is None:
        yield (
            f"{cause}; the Jacobian is larger than {ENTRIES:,} entries or than the memory, and was not looked at",
            undecided,
        )
        return
    if local.unique:
        yield f"{cause}; no other input nearby has these gradients (the Jacobian has full column rank)", undecided
        return
    rank = f"the Jacobian has rank {local.rank:,} of {local.norms.size:,}"
    for mask, words in (
        (undecided & local.moves, "to first order the gradients let it move"),
        (undecided & ~local.moves, "to first order it does not move"),
    ):
        if mask.any():
            yield f"{cause}; {words} ({rank})", mask


def _inside(image: FloatArray, valid_range: tuple[float, float]) -> FloatArray | None:
    """Return an image with rounding at the ends of the range removed, `None` where it lies outside."""
    low, high = valid_range
    slack = 1e-12 * (high - low)
    if not ((image >= low - slack) & (image <= high + slack)).all():  # NaN is outside
        return None
    return np.clip(image, low, high)
