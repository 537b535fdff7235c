"""What zeros and the range are expected to decide where equations are short of rank, before there is data.

No formula is known for it: it is counted, in trials with random weights, output gradients and inputs whose truth is
known, so that what was decided wrongly is counted as well. The sample is stated with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.stats import binomtest

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ParameterError
from constraint_algebra.ground import Ground
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.bounded import BoundedRank, bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.theory.simulated_layer import (
    Decided,
    by_equations,
    by_range,
    by_zeros,
    input_at_bounds,
    share_at_ends,
)
from constraint_algebra.theory.simulated_pattern import (
    Pattern,
    layer_input,
    output_gradient,
    output_is_seen,
    span_below,
)

CONFIDENCE = 0.95
POSITIONS = 400  # values of a channel up to which its zeros are simulated
VALUES = 800  # values of the input up to which the range is simulated: a trial of 784 takes seconds
VALID = (0.0, 1.0)  # the range simulated: any other is the same up to a scale
LOOKS = 3  # draws that say whether a layer is short of equations, where there is too much to simulate
ROUNDING = 1e-9  # of a sum of shares


@checked
@dataclass(frozen=True)
class BeyondRank:
    """What zeros, or the range, decided in a simulation of one layer whose equations are short of rank.

    Everything above the layer counts as known. A trial of zeros is one channel of the layer's input, a trial of the
    range is one whole input. Values of one input depend on each other, so that it counts as one in the interval.

    Attributes:
        layer: name of the layer whose input is asked for.
        ground: `Ground.ZEROS` or `Ground.RANGE`.
        trials: how many were simulated; 0 where there is too much to simulate.
        short: in how many of them the equations leave something open.
        values: how many values each has.
        at_edge: mean share of the values that lie exactly on a plateau of the activation below, or at an end of the
            range.
        directions: mean number of directions that the equations leave open.
        by_equations: mean share of the values that the equations alone decide; of zeros the share of the channels.
        decided: of the range the mean share of the values that equations and range decide together; of zeros the share
            of the channels that they decide, among those that are short of equations. NaN without any.
        low, high: its interval with 95 % confidence, by Clopper and Pearson.
        wholly: trials in which every value was decided.
        wrong: trials in which something was decided that is not so.
        seed: of what is drawn.
        output_seen: whether the layer's output before the activation counts as known where a gradient comes through.
            It does not where it is seen only in a sum; the gradient equations are then all that there is.
    """

    layer: str
    ground: Ground
    trials: int
    short: int
    values: int
    at_edge: float
    directions: float
    by_equations: float
    decided: float
    low: float
    high: float
    wholly: int
    wrong: int
    seed: int
    output_seen: bool = True

    @property
    def words(self) -> str:
        """The outcome in a clause.

        >>> trials = [Decided(0, 0.5, 1.0, 0, False, 1.0)] * 17 + [Decided(3, 0.5, 1.0, 3, False)] * 3
        >>> print(summary("4", Ground.ZEROS, 64, trials, 0).words)
        of 20 simulated channels of the input of layer '4' 3 are short of equations, and zeros decide 3 of 3 (29 to 100 % with 95 % confidence)
        """  # noqa: E501
        by_zeros = self.ground is Ground.ZEROS
        what, where = "zeros" if by_zeros else "the range", f"the input of layer {self.layer!r}"
        if not self.trials:
            return f"what {what} would decide of {where} is too much to simulate ({self.values:,} values at a time)"
        sure = f"{_percent(self.low)} to {_percent(self.high)} % with {100 * CONFIDENCE:.0f} % confidence"
        wrong = f", and {self.wrong:,} times something that is not so" if self.wrong else ""
        alone = "" if self.output_seen else ", by its gradient equations alone as its output is seen in a sum only"
        if by_zeros:
            short = f"{self.short:,} {'is' if self.short == 1 else 'are'} short of equations"
            decided = f"zeros decide {round(self.decided * self.short) if self.short else 0:,} of {self.short:,}"
            return f"of {self.trials:,} simulated channels of {where} {short}, and {decided} ({sure}){wrong}{alone}"
        shares = (
            f"{_percent(self.decided)} % of the values of {where}, {_percent(self.by_equations)} % by equations alone"
        )
        edge = f"with {_percent(self.at_edge)} % of them at an end of it"
        whole = f"{self.wholly:,} of the inputs" if self.wholly else "none of the inputs"
        sample = f"{self.trials:,} simulated: {sure}; all of them in {whole}"
        return f"equations and the range determine {shares}, {edge} ({sample}){wrong}{alone}"

    def to_dict(self) -> dict[str, str | int | float | None]:
        """Return all attributes as plain values, the ground by its label and what there is none of as `None`."""
        plain = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in vars(self).items()}
        return plain | {"ground": self.ground.label, "words": self.words}


def expected_beyond_rank(
    network: Network, masks: Pattern, at_bound: float | None, trials: int, seed: int
) -> tuple[BeyondRank, ...]:
    """Return what zeros and the range are expected to decide, for each layer that is short of rank by itself.

    The head first; a layer counts as short where the equations leave something open in any of the trials. Zeros are
    asked for where an activation with plateaus makes the layer's input, the range at the network's input alone.

    Args:
        network: the network.
        masks: gives those of the activations that cut off, for each trial.
        at_bound: share of the values of the network's input at an end of their range, `None` not to ask for it.
        trials: how many to simulate for each.
        seed: of what is drawn.
    """
    found = list[BeyondRank | None]()
    for layer in reversed(network.bilinear):
        if layer is network.start:
            continue
        one = _Simulated(network, layer, masks, trials, seed)
        if span_below(network, layer) is not None:
            found.append(one.zeros())
        if at_bound is not None and _reads_input(network, layer):
            found.append(one.within_range(at_bound))
    return tuple(one for one in found if one is not None)


def check_trials(at_bound: float | None, trials: int) -> None:
    """Refuse a share that is none, and one without trials."""
    if at_bound is not None and not 0 <= at_bound <= 1:
        raise ParameterError("at_bound", f"at_bound must be a share from 0 to 1, got {at_bound!r}")
    if at_bound is not None and not trials:
        raise ParameterError(
            "trials", "at_bound is for a simulation, and trials is 0; give trials, such as 20, as well"
        )


def _reads_input(network: Network, layer: PlacedLayer) -> bool:
    """Whether a layer reads the network's input, rearranged at most."""
    number = layer.inputs[0]
    while number and network.layers[number - 1].is_reshape:
        number = network.layers[number - 1].inputs[0]
    return number == 0


@dataclass(frozen=True)
class _Simulated:
    """The trials of one layer.

    Attributes:
        network, layer, masks, trials, seed: as of `expected_beyond_rank`.
        ranks: the ranks of the patterns met so far.
    """

    network: Network
    layer: PlacedLayer
    masks: Pattern
    trials: int
    seed: int
    ranks: dict[bytes, BoundedRank] = field(default_factory=dict)

    def zeros(self) -> BeyondRank | None:
        """Simulate the zeros of single channels, each with an output gradient of its own; `None` if none is short."""
        layer, span, positions = self.layer, span_below(self.network, self.layer), math.prod(self.layer.positions)
        assert span is not None
        if positions > POSITIONS:
            return self._not_tried(Ground.ZEROS, positions)
        done = []
        for number in range(self.trials):
            rng = self._rng(number)
            at = self.masks(rng)
            k, x = output_gradient(self.network, layer, at, rng), layer_input(self.network, layer, at, rng)
            channel = int(rng.integers(layer.channels))
            found = by_zeros(layer, k, channel, x[channel], span, int(rng.integers(2**32)))
            # A channel alone has gradient equations only: what weight equations add is no merit of zeros.
            if found.directions and self._is_determined(k, channel):
                found = by_equations(found.at_edge)
            done.append(found)
        return self._summary(Ground.ZEROS, positions, done)

    def within_range(self, at_bound: float) -> BeyondRank | None:
        """Simulate whole inputs of which a share lies at either end of the range; `None` if none is short."""
        layer = self.layer
        if layer.unknowns > VALUES:
            return self._not_tried(Ground.RANGE, layer.unknowns)
        done = []
        for number in range(self.trials):
            rng = self._rng(number)
            k = output_gradient(self.network, layer, self.masks(rng), rng)
            x = input_at_bounds(layer.input_shape, at_bound, VALID, rng)
            if self._is_determined(k):
                done.append(by_equations(share_at_ends(x, VALID)))
                continue
            weight = rng.standard_normal(layer.weight_shape)
            rows = (self._known_outputs(k), True)
            done.append(by_range(layer, rows, weight, k, x, VALID, seed=int(rng.integers(2**32))))
        return self._summary(Ground.RANGE, layer.unknowns, done)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.layer.index, number])

    def _summary(self, ground: Ground, values: int, done: Sequence[Decided]) -> BeyondRank | None:
        if not any(one.directions for one in done):
            return None
        return summary(self.layer.name, ground, values, done, self.seed, output_seen=self._seen)

    def _not_tried(self, ground: Ground, values: int) -> BeyondRank | None:
        """Return that there is too much to simulate, where one of a few draws is short of equations."""
        for number in range(min(self.trials, LOOKS)):
            rng = self._rng(number)
            if not self._is_determined(output_gradient(self.network, self.layer, self.masks(rng), rng)):
                return summary(self.layer.name, ground, values, [], self.seed, output_seen=self._seen)
        return None

    @cached_property
    def _seen(self) -> bool:
        return output_is_seen(self.network, self.layer)

    def _known_outputs(self, k: FloatArray) -> BoolArray:
        return np.asarray((k != 0) & self._seen)

    def _is_determined(self, k: FloatArray, channel: int | None = None) -> bool:
        """Whether all equations of the layer certainly determine its input, or a channel of it."""
        passed = k != 0
        key = np.packbits(passed).tobytes()
        if key not in self.ranks:
            known = Knowledge(self._known_outputs(k), np.ones_like(passed), passed)
            self.ranks[key] = bounded_rank(self.layer, knowledge=known, seed=self.seed)
        found = self.ranks[key]
        if channel is None or found.determined is None:
            return found.low == self.layer.unknowns
        return bool(found.determined.reshape(self.layer.input_shape)[channel].all())


def summary(
    name: str, ground: Ground, values: int, trials: Sequence[Decided], seed: int, *, output_seen: bool = True
) -> BeyondRank:
    """Return what trials decided.

    >>> trials = [Decided(3, 0.5, 1.0, 3, False)] * 15 + [Decided(3, 0.5, 0.0, 0, False)] * 5
    >>> found = summary("4", Ground.ZEROS, 64, trials, 0)
    >>> found.decided, round(found.low, 2), round(found.high, 2), found.wrong
    (0.75, 0.51, 0.91, 0)
    """
    # A channel that equations decide says nothing of zeros; an input may be decided in part by either.
    counted = [one for one in trials if one.directions or ground is Ground.RANGE]
    decided, low, high = _interval([one.share for one in counted])
    return BeyondRank(
        layer=name,
        ground=ground,
        trials=len(trials),
        short=sum(one.directions > 0 for one in trials),
        values=values,
        at_edge=_mean([one.at_edge for one in trials]),
        directions=_mean([one.directions for one in trials]),
        by_equations=_mean([one.by_equations for one in trials]),
        decided=decided,
        low=low,
        high=high,
        wholly=sum(one.share == 1 for one in trials),
        wrong=sum(one.wrong for one in trials),
        seed=seed,
        output_seen=output_seen,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _interval(shares: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of shares and its interval; NaN where there are none."""
    count, total = len(shares), math.fsum(shares)
    if not count:
        return math.nan, math.nan, math.nan
    # A share that varies between 0 and 1 varies less than one that is either, so that this interval is wide enough.
    low = binomtest(math.floor(total + ROUNDING), count).proportion_ci(CONFIDENCE).low
    high = binomtest(math.ceil(total - ROUNDING), count).proportion_ci(CONFIDENCE).high
    return total / count, float(low), float(high)


def _percent(share: float) -> str:
    """Return a share as a whole percentage that is 0 or 100 only where it is just that.

    >>> _percent(0.9999), _percent(0.742), _percent(1.0)
    ('over 99', '74', '100')
    """
    if 0.995 <= share < 1:
        return "over 99"
    return "under 1" if 0 < share < 0.005 else f"{100 * share:.0f}"
