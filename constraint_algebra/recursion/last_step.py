"""The last step: where the recursion stops, a search for an input with these gradients, on all equations at once.

A layer's own equations may leave its input open although those of the whole network determine its input: what the layer
reads is a function of fewer values. Then Levenberg and Marquardt's method looks for an input whose gradients are those
given, from what is known and from several random starts; in a network of pieces first from the pattern that the bias
gradients name (`sides_by_sums`), for otherwise it would have to cross the edges of regions, where gradients jump.

A search proves nothing by having ended. What it found counts only if

- its gradients are those given, in units of their noise, for every parameter by itself;
- the Jacobian of all gradients there has full column rank, and the error bars that follow are small;
- no activation changes its side within the error bars, so that the Jacobian speaks of a neighbourhood.

Then no other input near it has these gradients (inverse function theorem). That none elsewhere has is not shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray, GroundArray
from constraint_algebra.ground import Ground
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.levenberg_marquardt import DAMPING, SMALLEST, minimise
from constraint_algebra.numerics.singular import svd
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import Reconstruction, Status
from constraint_algebra.recursion.row_noise import RowNoise
from constraint_algebra.recursion.sides_by_sums import slopes_by_sums
from constraint_algebra.regions.gradient_map import GradientMap

STARTS, WITH_KINKS = 6, 4  # at kinks gradients jump, and random starts seldom come back
SECONDS = 5.0
# Unknowns and entries of a Jacobian for each second of the limit, so that at least some ten factorisations fit into it.
UNKNOWNS, ENTRIES = 80, 200_000
LOOKED_AT = 3  # starts whose Jacobian is looked at before a search begins
RTOL = 1e-9  # singular values below this share of the largest count as zero
AGREES = 2.0  # root mean square of the residuals of a parameter, in units of their noise; right inputs stay below 1.5
ENDED = 2.0  # error bars by which a search that has ended would go on at most
SHARE = 0.02  # of the valid range: the largest error bar at which a value counts as found
SAME = 12.0  # error bars within which two inputs are one


@dataclass(frozen=True)
class Search:
    """How long and where to search.

    Attributes:
        seconds: time limit; 0 for no search.
        seed: of the random starts.
        valid_range: smallest and largest valid input value.
    """

    seconds: float
    seed: int
    valid_range: tuple[float, float]

    @cached_property
    def box(self) -> tuple[float, float]:
        """The valid range, from 0 to 1 where that is not finite."""
        low, high = self.valid_range
        return (low, high) if np.isfinite([low, high]).all() and low < high else (0.0, 1.0)


@dataclass(frozen=True)
class Solution:
    """An input that was accepted.

    Attributes:
        estimate: its values with their noise.
        smallest: the smallest singular value of the Jacobian there, relative to the largest.
        misfit: the largest root mean square of a parameter's residuals, in units of their noise.
    """

    estimate: Estimate
    smallest: float
    misfit: float

    def is_known(self, box: tuple[float, float]) -> bool:
        """Whether the error bars are so small that the values count as found."""
        return bool(self.estimate.deviation.max() <= SHARE * (box[1] - box[0]))

    def same_as(self, other: Solution) -> bool:
        """Whether two searches ended at one input."""
        bars = SAME * (self.estimate.deviation + other.estimate.deviation) + 1e-12
        return bool((np.abs(self.estimate.value - other.estimate.value) <= bars).all())


def misfit(residuals: Mapping[str, FloatArray]) -> float:
    """Return the largest root mean square of the residuals of a parameter, given in units of their noise."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(max((values**2).mean() for values in residuals.values())))


def certified(x: FloatArray, jacobian: FloatArray, draws: FloatArray, worst: float) -> Solution | None:
    """Return an input with the error bars that follow from the Jacobian there, `None` where its rank is not full.

    Args:
        x: the input.
        jacobian: of all gradients, `(rows, unknowns)`, each row in units of its noise.
        draws: of the noise of the rows, in the same units, `(rows, MEMBERS)`.
        worst: the misfit there; beyond 1 it widens the error bars.
    """
    if not np.isfinite(jacobian).all():
        return None
    Q, R = la.qr(jacobian, mode="economic", check_finite=False)
    left, s, right = svd(R)
    if not (np.isfinite(s).all() and s[-1] > RTOL * s[0]):
        return None
    moved = -(right.T @ ((left.T @ (Q.T @ draws)) / s[:, None])) * max(1.0, worst)
    estimate = Estimate(x, np.ones(x.shape, dtype=bool), moved.reshape(*x.shape, draws.shape[1]))
    return Solution(estimate, float(s[-1] / s[0]), worst)


@dataclass(frozen=True)
class Problem:
    """The gradients as equations for the input.

    Attributes:
        observed: parameters and gradients.
        of_x: the gradients as a function of the input.
    """

    observed: Observation
    of_x: GradientMap

    @cached_property
    def given(self) -> FloatArray:
        """The gradients given, in the order of the rows."""
        return self.of_x.flat(self.observed.gradients)

    @cached_property
    def noise(self) -> RowNoise:
        """What noise does to each row."""
        return RowNoise(self.observed, self.of_x)

    def solved(self, start: FloatArray, of_x: GradientMap, out_of_time: Callable[[], bool]) -> FloatArray:
        """Return where the search from a start ended, for these equations or those of a given pattern."""
        weight = 1 / self.noise.at(start)
        return minimise(
            lambda x: (of_x.value(x) - self.given) * weight,
            lambda x: of_x.jacobian(x) * weight[:, None],
            start,
            damping=SMALLEST if of_x.fixed else DAMPING,
            enough=AGREES**2 * len(weight),
            out_of_time=out_of_time,
        ).x

    def singular_values(self, x: FloatArray) -> FloatArray:
        """Return those of the Jacobian with its rows in units of their noise."""
        rows = self.of_x.jacobian(x) / self.noise.at(x)[:, None]
        if not np.isfinite(rows).all():  # on a jump of an activation, or beyond the range of numbers
            return np.zeros(rows.shape[1])
        triangle = np.asarray(la.qr(rows, mode="r", check_finite=False)[0])[: rows.shape[1]]
        return np.asarray(la.svdvals(triangle, check_finite=False))

    def accepted(self, x: FloatArray, box: tuple[float, float]) -> Solution | None:
        """Return an input with its error bars if it passes all that is asked of it."""
        noise = self.noise.at(x)
        residuals = (self.of_x.value(x) - self.given) / noise
        worst = misfit(self.of_x.by_name(residuals))
        if not worst <= AGREES:
            return None
        rows, draws = self.of_x.jacobian(x) / noise[:, None], self.noise.draws(x) / noise[:, None]
        solution = certified(x.reshape(self.of_x.network.input_shape), rows, draws, worst)
        if solution is None or not solution.is_known(box) or not _has_ended(solution, rows, residuals):
            return None
        return solution if self._keeps_its_sides(solution) else None

    def _keeps_its_sides(self, solution: Solution) -> bool:
        """Whether every activation of pieces has one slope at an input and at all that noise makes of it."""
        x = solution.estimate
        pieces = [i.index for i in self.of_x.layers if i.is_activation and is_piecewise_linear(i.activation)]
        here = self.of_x.slopes(x.value) if pieces else {}
        there = (self.of_x.slopes(x.value + x.perturbations[..., m]) for m in range(MEMBERS if pieces else 0))
        return all(np.array_equal(here[i], slopes[i]) for slopes in there for i in pieces)


def _has_ended(solution: Solution, rows: FloatArray, residuals: FloatArray) -> bool:
    """Whether the next step would stay within the error bars; where the time ran out it may lead far away."""
    step = np.linalg.lstsq(rows, residuals, rcond=None)[0]
    return bool((np.abs(step) <= ENDED * solution.estimate.deviation.ravel()).all())


def take(
    result: Reconstruction,
    observed: Observation,
    start: PlacedLayer,
    k: FloatArray,
    judge: Callable[[Estimate], Reconstruction],
    search: Search,
) -> Reconstruction:
    """Return what a search adds to a result that is open; any other result as it is.

    Args:
        result: what the recursion found.
        observed: parameters and gradients.
        start: the layer that the recursion started from.
        k: its output gradient.
        judge: makes the result of an input, checked against all gradients.
        search: how long and where to search.
    """
    openness = {Status.PARTIAL, Status.UNDETERMINED}
    if search.seconds <= 0 or result.status not in openness or not observed.network.is_chain:
        return result
    problem = Problem(observed, GradientMap(observed.network, observed.parameters, start, k))
    if not _is_small(problem.of_x, search.seconds):
        return result
    end = time.monotonic() + search.seconds

    def out_of_time() -> bool:
        return time.monotonic() > end

    starts = list(_starts(problem, result, search, out_of_time))
    if not any(_has_full_rank(problem.singular_values(x)) for x in starts[:LOOKED_AT]):
        return result
    found: list[Solution] = []
    ended = 0
    for x in starts:
        if out_of_time():
            break
        solution = problem.accepted(problem.solved(x, problem.of_x, out_of_time), search.box)
        ended += solution is not None or not out_of_time()
        found += [solution] if solution is not None else []
    return concluded(result, found, judge, search, ended)


def _is_small(of_x: GradientMap, seconds: float) -> bool:
    """Whether a search can pay: enough equations, not too many, and none of the input values out of sight of all."""
    first = of_x.network.bilinear[0]
    enough = of_x.rows >= of_x.unknowns
    small = of_x.unknowns <= UNKNOWNS * seconds and of_x.rows * of_x.unknowns <= ENTRIES * seconds
    return enough and small and bool(trilinear.touched(first, np.ones(first.output_shape, dtype=bool)).all())


def _has_full_rank(s: FloatArray) -> bool:
    return bool(np.isfinite(s).all() and s[-1] > RTOL * s[0])


def _starts(
    problem: Problem, result: Reconstruction, search: Search, out_of_time: Callable[[], bool]
) -> Iterator[FloatArray]:
    """Yield where to start: known values as they are, others random; the first by the pattern of the bias gradients."""
    rng = np.random.default_rng(search.seed)
    of_x = problem.of_x
    kinked = any(layer.is_activation for layer in of_x.layers) and of_x.linear
    for number in range(WITH_KINKS if kinked else STARTS):
        x = np.where(result.determined, result.guess, rng.uniform(*search.box, result.input.shape)).ravel()
        if number == 0 and kinked:
            fixed = slopes_by_sums(problem.observed, of_x, of_x.slopes(x), out_of_time)
            x = problem.solved(x, replace(of_x, fixed=fixed), out_of_time)
        yield x


def concluded(
    result: Reconstruction,
    found: list[Solution],
    judge: Callable[[Estimate], Reconstruction],
    search: Search,
    ended: int,
) -> Reconstruction:
    """Return the result with what was found, or with a note that nothing was."""
    groups: list[list[Solution]] = []
    for solution in found:
        group = next((group for group in groups if solution.same_as(group[0])), None)
        groups.append([solution]) if group is None else group.append(solution)
    low, high = search.valid_range
    slack = 1e-3 * (high - low)

    def is_valid(group: list[Solution]) -> bool:
        x = group[0].estimate.value
        return bool(((x >= low - slack) & (x <= high + slack)).all())

    judged = [(group, judge(group[0].estimate)) for group in sorted(groups, key=lambda g: (not is_valid(g), -len(g)))]
    confirmed = [(group, its) for group, its in judged if its.status is Status.DETERMINED]
    if not confirmed:
        tried = f"a search from {ended} starts found no input with these gradients that it could show to be determined"
        return replace(result, notes=(*result.notes, tried))
    group, best = confirmed[0]
    others = tuple(replace(its, status=Status.LOCAL, ground=_grounds(result)) for _, its in confirmed[1:])
    notes = (*best.notes, words(group[0], f"{len(group)} of {ended} starts"))
    if is_valid(group) and any(is_valid(other) for other, _ in confirmed[1:]):
        bars = np.where(result.determined, result.error_bar, np.inf)
        best = replace(best, status=Status.AMBIGUOUS, determined=result.determined, ground=result.ground)
        best = replace(best, error_bar=bars)
    else:
        best = replace(best, status=Status.LOCAL, ground=_grounds(result))
    return replace(best, alternatives=others, notes=notes)


def _grounds(result: Reconstruction) -> GroundArray:
    """Return the grounds of an input that a search found: those that the result has, else the search."""
    return np.where(result.determined, result.ground, np.uint8(Ground.NEIGHBOURHOOD))


def words(solution: Solution, starts: str) -> str:
    """Return how an input was found and on what its verdict rests."""
    size = solution.estimate.value.size
    return (
        f"found by Levenberg and Marquardt's method on all gradients at once, where {starts} ended; residuals are"
        f" {solution.misfit:.2g} times their noise; the Jacobian there, activations as they work at the input found,"
        f" has rank {size:,} of {size:,}, smallest singular value {solution.smallest:.1e} of the largest, tolerance"
        f" {RTOL:.0e}"
    )


def polished(
    x: FloatArray,
    observed: Observation,
    start: PlacedLayer,
    k: FloatArray,
    judge: Callable[[Estimate], Reconstruction],
    search: Search,
) -> Reconstruction:
    """Return what a search from one input found: `take` says of the arguments what they are."""
    problem = Problem(observed, GradientMap(observed.network, observed.parameters, start, k))
    end = time.monotonic() + search.seconds
    ended = problem.solved(x.ravel(), problem.of_x, lambda: time.monotonic() > end)
    solution = problem.accepted(ended, search.box)
    found = judge(solution.estimate) if solution is not None else None
    if solution is None or found is None or found.status is not Status.DETERMINED:
        return unaccepted(ended.reshape(x.shape))
    nowhere_else = np.zeros_like(found.determined)
    return replace(
        found, status=Status.LOCAL, everywhere=nowhere_else, notes=(*found.notes, words(solution, "the start"))
    )


def unaccepted(x: FloatArray, reason: str = "") -> Reconstruction:
    """Return the result of a search whose end does not pass as an input with these gradients: it is a guess."""
    note = reason or (
        "the search ended at an input whose gradients are not those given, to their noise, or that they do not"
        " determine; .guess holds it"
    )
    nothing, forever = np.zeros(x.shape, dtype=bool), np.full(x.shape, np.inf)
    return Reconstruction(x, nothing, forever, Status.UNDECIDED, (), None, {}, notes=(note,))
