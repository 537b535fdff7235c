"""Sound verdicts for every input value: fixed, fixed in its region, ambiguous, or undecided with the reason.

Three claims, and what each rests on. All of them are about inputs in the valid range with exactly these gradients.

*Fixed* is global: every such input has this value. The equations of the whole map (`indistinguishable`) are those of
one region, on which each activation works on one side; that all such inputs lie in it must be shown. `reconstruct`
shows it from the real gradients: whatever it determines of the input of a layer is a function of the gradients, and the
side of an activation can be read off what it gave out. That is so for LeakyReLU, whose output has the sign of its
input, as for ReLU or Hardtanh, where an output on a plateau says no more than the side, and that is what the region
asks. So the lowest layer that reads what an activation gave out decides: if all of its input is determined, everything
above is a function of that, and all sides are known. A network without any activation up to the layer whose k is known
has one region, and nothing is to be shown. It is not enough that an activation is one-to-one: with LeakyReLU the whole
map may well have full rank on both sides of each kink, yet with other coefficients, and an input with some activation
on its other side may solve those.

*Fixed in its region* is about the inputs on which every activation works on the side on which it does for this one: all
of them with these gradients have this value. That needs k where the recursion starts, which a bias gives, and the
equations alone; no layer has to be reconstructed. The bound is one of weak duality (`polytope.reach`). Nothing is said
of other regions. Where a smooth activation lies in between, k moves with the input and there are no such equations for
the whole; then the claim holds for inputs that share sides below it, and only if what the layer above it reads is
determined.

*Ambiguous* is global too: a twin whose real PyTorch gradients are equal is shown, wherever it came from.

Where the equations leave a value open and the valid range, or an inequality of an activation, leaves it no room, the
verdict says so (`Certificate.by_range`).

What none of these shows stays undecided: above all what a layer above a smooth activation hides. Of it the Jacobian of
all gradients says what holds *locally*, in a neighbourhood and to first order.

A model that is no network of known layers (attention, layer normalisation, GELU) has no whole map here. If a
convolution or a linear layer alone reads its input, that layer is enough for twins, and what they do not move is
undecided: see `opaque`.
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
from constraint_algebra.arrays import Arrays, BoolArray, FloatArray, Progress
from constraint_algebra.equations.systems import ENTRY
from constraint_algebra.errors import ParameterError, ShapeError, UnsupportedLayerError
from constraint_algebra.networks.network import Network, bind
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.proofs.certificate import Certificate, digest
from constraint_algebra.proofs.grounds import SPREAD, Grounds, ground_of, grounds, kinks_in_series, pattern_of
from constraint_algebra.proofs.indistinguishable import IndistinguishabilitySet, indistinguishable
from constraint_algebra.proofs.local_uniqueness import LocalUniqueness, local_uniqueness
from constraint_algebra.proofs.opaque import FirstLayerSet, first_layer_set, joined
from constraint_algebra.proofs.other_winners import inputs_with_other_winners
from constraint_algebra.proofs.twin_search import TwinSearch, inside
from constraint_algebra.pytorch.models import unwrapped
from constraint_algebra.pytorch.tensors import to_numpy
from constraint_algebra.pytorch.tracing import from_torch
from constraint_algebra.pytorch.verification import ENTRIES, TOLERANCE, Model, doubled, gradient_jacobian
from constraint_algebra.recursion import backsubstitution

WINNERS = "other winners"
OTHER_WINNERS = 10.0  # seconds at most for inputs with other winners of max-pool windows


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
        model: what `from_torch` reads, or any model that reads its input through one convolution or linear layer
            alone; it is copied to float64, in which the gradients are exact.
        input: one sample without a batch axis.
        target: its class.
        loss: "cross_entropy" or "logistic".
        delta: a value is ambiguous where a verified twin changes it by at least this much.
        tolerance: difference of gradients, relative to the largest, at which they count as equal.
        valid_range: smallest and largest valid value.
        time_limit: seconds after which nothing new is begun; values not settled by then stay undecided, with what was
            not looked at as the reason. The equations are factored in any case, and what they fix by themselves is
            said; a layer of the reconstruction that was begun is finished.
        seed: of the random directions and of the reconstruction's noise.
        progress: called with (values settled, values in all, what is being done).

    Raises:
        UnsupportedLayerError: a layer without equations in a model whose input is not read by one layer alone.
        ShapeError, ParameterError: an input or a target that does not fit.
        MemoryLimitError: it would take more memory than may be taken.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double()
    >>> _ = [torch.nn.init.constant_(p, 0.5 + 0.1 * i) for i, p in enumerate(model.parameters())]
    >>> _ = model[2].weight.data[0].mul_(-1)
    >>> certify(model, [0.25, 0.5], 1).counts
    {'fixed': 2, 'fixed_in_region': 0, 'ambiguous': 0, 'undecided': 0}
    """
    if not 0 < delta <= valid_range[1] - valid_range[0]:
        raise ParameterError("delta", f"delta must be positive and within the valid range {valid_range}, got {delta}")
    x = _sample(input)
    deadline = time.monotonic() + time_limit

    def search_in(found: IndistinguishabilitySet) -> TwinSearch:
        return TwinSearch(doubled(model), found, target, loss, delta, tolerance, deadline, progress)

    try:
        network, arrays = from_torch(model, x.shape)
        if network.is_chain:
            _demand(network)
        parameters = {name: np.asarray(values).astype(float) for name, values in arrays.items()}
        found = indistinguishable(network, parameters, x, target, loss=loss, valid_range=valid_range)
    except UnsupportedLayerError as error:
        return _by_first_layer(model, search_in(_first_layer(model, x, target, loss, valid_range, error)), seed)
    return _by_whole_map(search_in(found), parameters, arrays, seed)


def _by_whole_map(search: TwinSearch, parameters: dict[str, FloatArray], arrays: Arrays, seed: int) -> Certificate:
    """Return the certificate of a network, whose map is known as a whole."""
    rests = grounds(
        search.model,
        parameters,
        search.found,
        search.target,
        loss=search.loss,
        seed=seed,
        is_late=search.is_late,
        progress=search.progress,
    )
    rests = _other_scales(search, rests)
    _other_winners(search, parameters, seed)
    verdicts = _verdicts(search, _bounds(search, rests), rests, seed)
    local = _local(search) if verdicts.undecided.any() and not search.is_late() else None
    return _certificate(search, verdicts, rests, local, arrays)


def _first_layer(
    model: Model,
    x: FloatArray,
    target: int,
    loss: str,
    valid_range: tuple[float, float],
    refused: UnsupportedLayerError,
) -> FirstLayerSet:
    """Return the twins by the first layer alone; where that is refused too, all reasons at once."""
    try:
        return first_layer_set(model, x, target, loss=loss, valid_range=valid_range)
    except UnsupportedLayerError as error:
        raise joined(refused, error) from error


def _by_first_layer(model: Model, search: TwinSearch, seed: int) -> Certificate:
    """Return the certificate of a model of which only the first layer is looked into."""
    found = search.found
    assert isinstance(found, FirstLayerSet)
    nothing: FloatArray = np.full(found.input.shape, np.inf)
    why = f"no twin that keeps the outputs of layer {found.kept!r} moves it, and others were not looked for"
    rests = Grounds(None, why, why)
    known = np.where(found.known & (found.reach < search.delta), found.reach, np.inf)
    verdicts = _verdicts(search, (known, nothing), rests, seed)
    if search.late:
        rests = Grounds(None, "the time limit came before all twins that the first layer allows were looked for", why)
    local = _local(search) if verdicts.undecided.any() and not search.is_late() else None
    arrays = {name: to_numpy(p) for name, p in unwrapped(model).named_parameters()}
    return _certificate(search, verdicts, rests, local, arrays)


def _sample(values: ArrayLike) -> FloatArray:
    """Return the input as an array of its own; `ShapeError` where there are no values."""
    x = np.array(values, dtype=float)
    if not x.size:
        raise ShapeError(f"input has no values, its shape is {x.shape}; give one sample without a batch axis")
    return x


def _demand(network: Network) -> None:
    """Refuse what the memory does not hold: a reconstruction, and the equations with what they leave open.

    What the first layer's gradient equations leave open at least is carried up through the network, in three copies of
    both: directions of the input, and what arrives at a layer.
    """
    first = network.bilinear[0]
    rows, outputs = math.prod(first.weight_shape), math.prod(first.outputs)
    widest = max(math.prod(layer.output_shape) for layer in network.layers)
    size = ENTRY * rows * outputs + 24.0 * max(0, first.unknowns - rows) * (first.unknowns + widest)
    memory.demand(f"to certify an input of {first.unknowns:,} values", size, "take a smaller input or network")
    backsubstitution.demand(network)


def _other_scales(search: TwinSearch, rests: Grounds) -> Grounds:
    """Offer the inputs that a head without bias allows beside this one as twins; what remains of them is an obstacle.

    Such an input is no obstacle where it lies outside the valid range by more than its error, or where it is determined
    and a verified twin: then it has shown how far it moves each value.
    """
    low, high = search.found.valid_range
    for other in () if rests.result is None else rests.result.alternatives:
        margin = SPREAD * other.error_bar + 1e-12 * (high - low)
        if ((other.guess < low - margin) | (other.guess > high + margin))[other.determined].any():
            continue
        refused = search.refused
        image = np.where(other.determined, np.clip(other.guess, low, high), other.guess)
        search.offer(inside(image, (low, high)), "another input that a head without bias allows")
        if not other.determined.all():
            rests = rests.with_rival("a head without bias allows another input, of which not every value is determined")
        elif search.refused > refused:
            rests = rests.with_rival(
                "a head without bias allows another input, whose gradients are equal up to rounding only"
            )
    return rests


def _other_winners(search: TwinSearch, parameters: dict[str, FloatArray], seed: int) -> None:
    """Offer inputs with the same pooled values and other winners as twins; recomputed gradients say which are."""
    found = search.found
    if found.network.is_chain or search.is_late():
        return
    bound = bind(found.network, parameters, "parameters")
    deadline = min(search.deadline, time.monotonic() + OTHER_WINNERS)
    images = inputs_with_other_winners(
        found.network, bound, found.input, found.valid_range, seed=seed, deadline=deadline
    )
    refused = search.refused
    for image, name in images:
        search.offer(inside(image, found.valid_range), f"{WINNERS} of the windows of {name!r}")
    search.refused = refused  # most have other gradients, which is no matter of rounding


def _twins_rest_on(search: TwinSearch) -> str:
    """Return what the twins rest on, as a sentence."""
    words = ground_of(search.found)
    if any(one.twin.objective.startswith(WINNERS) for one in search.witnesses):
        return f"{words}, but for those with other winners, which keep what the max-pool gives out"
    return words


@dataclass(frozen=True)
class _Verdicts:
    """What is fixed, and on what that rests, what is ambiguous, and how far each value may be off."""

    fixed: BoolArray
    fixed_in_region: BoolArray
    ambiguous: BoolArray
    by_range: BoolArray
    bound: FloatArray

    @property
    def undecided(self) -> BoolArray:
        """None of these."""
        return ~self.fixed & ~self.fixed_in_region & ~self.ambiguous


def _verdicts(search: TwinSearch, bounds: tuple[FloatArray, FloatArray], rests: Grounds, seed: int) -> _Verdicts:
    """Return the verdicts after the search for twins of all values that are not fixed without it.

    Args:
        search: the search.
        bounds: how far values may be off for all inputs and within the region, infinite where that is not shown.
        rests: what the claims rest on.
        seed: of the search.
    """
    everywhere, region = bounds
    search.run(np.isfinite(everywhere) | np.isfinite(region), seed)
    by_equations = np.isfinite(everywhere) | np.isfinite(region)
    # Inequalities are no assumption where the gradients show all sides; what arrives at a second kink shows no side of
    # the first that it lies beyond.
    outer = search.reach if kinks_in_series(search.found.network) else search.outer
    for mine, shown, by_set in ((everywhere, rests.everywhere, outer), (region, rests.region, search.outer)):
        if shown is None:
            mine[...] = np.where(np.isfinite(mine) | (by_set >= search.delta), mine, by_set)
    ambiguous = search.moved >= search.delta
    fixed = np.isfinite(everywhere) & ~ambiguous
    in_region = np.isfinite(region) & ~fixed & ~ambiguous
    bound = np.maximum(np.where(fixed, everywhere, region), search.moved)
    claimed = fixed | in_region
    by_range = claimed & ~by_equations
    by_pools = np.zeros_like(fixed) if rests.by_range is None else fixed & rests.by_range
    if by_range.any():
        by_range &= search.reach >= search.delta
    by_range |= by_pools
    return _Verdicts(fixed, in_region, ambiguous, by_range, np.where(claimed, bound, np.nan))


def _bounds(search: TwinSearch, rests: Grounds) -> tuple[FloatArray, FloatArray]:
    """Return how far values may be off for all inputs and within the region, infinite where that is not shown.

    Only what the equations fix counts here.
    """
    found, x = search.found, search.found.input
    reach = np.full(x.shape, np.inf)
    if found.fixed.any():
        reach = np.where(found.fixed & (search.reach < search.delta), search.reach, np.inf)
    everywhere, known = reach.copy(), rests.known
    if rests.everywhere is not None:
        everywhere = np.where(known, reach, np.inf) if known is not None else np.full(x.shape, np.inf)
    if rests.result is not None:
        off = np.where(rests.result.determined, rests.off(x), 0.0)
        everywhere = np.maximum(everywhere, off)
        if rests.by_range is not None:
            everywhere = np.where(rests.by_range, off, everywhere)
    everywhere = np.where(everywhere < search.delta, everywhere, np.inf)
    return everywhere, reach if rests.region is None else np.full(x.shape, np.inf)


def _certificate(
    search: TwinSearch,
    verdicts: _Verdicts,
    rests: Grounds,
    local: LocalUniqueness | None,
    arrays: Arrays,
) -> Certificate:
    """Return verdicts and evidence as they are handed out."""
    found = search.found
    return Certificate(
        input=found.input,
        target=int(search.target),
        loss=search.loss,
        fixed=verdicts.fixed,
        fixed_in_region=verdicts.fixed_in_region,
        ambiguous=verdicts.ambiguous,
        by_range=verdicts.by_range,
        bound=verdicts.bound,
        moved=search.moved,
        seen=np.stack([search.low, search.high]),
        witnesses=tuple(search.witnesses),
        reasons=tuple(_reasons(verdicts.undecided, rests.region, search, local)),
        obstacle=rests.everywhere,
        kept=found.kept,
        local=local,
        nullity=found.nullity,
        gap=found.gap,
        delta=search.delta,
        tolerance=search.tolerance,
        fixed_tolerance=found.polytope.null.tolerance,
        valid_range=found.valid_range,
        status=None if rests.result is None else rests.result.status.name.lower(),
        digests={name: digest(values) for name, values in arrays.items()},
        architecture=repr(found.network),
        ground=_twins_rest_on(search),
        pattern=pattern_of(found.network),
    )


def _local(search: TwinSearch) -> LocalUniqueness | None:
    x = search.found.input
    try:
        return local_uniqueness(gradient_jacobian(search.model, x, search.target, search.loss), x.shape)
    except ShapeError:
        return None


def _reasons(
    undecided: BoolArray, obstacle: str | None, search: TwinSearch, local: LocalUniqueness | None
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
