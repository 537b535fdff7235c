"""What zeros and the range are expected to decide where equations are short of rank, before there is data.

No formula is known for it: it is counted, in trials with random weights, output gradients and inputs whose truth is
known, so that what was decided wrongly is counted as well. The sample is stated with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from constraint_algebra.arguments import checked
from constraint_algebra.errors import ParameterError
from constraint_algebra.ground import Ground
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.theory.simulated_layer import Decided, by_range, by_zeros, input_at_bounds
from constraint_algebra.theory.simulated_pattern import Pattern, layer_input, output_gradient, span_below

CONFIDENCE = 0.95
POSITIONS = 400  # values of a channel up to which its zeros are simulated
VALUES = 800  # values of the input up to which the range is simulated: a trial of 784 takes seconds
VALID = (0.0, 1.0)  # the range simulated: any other is the same up to a scale
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
        values: how many values each has.
        at_edge: mean share of the values that lie exactly on a plateau of the activation below, or at an end of the
            range.
        directions: mean number of directions that the equations leave open.
        decided: mean share of the values decided: of zeros the share of the channels. NaN without trials.
        low, high: its interval with 95 % confidence, by Clopper and Pearson.
        wholly: trials in which every value was decided.
        wrong: trials in which something was decided that is not so.
        seed: of what is drawn.
    """

    layer: str
    ground: Ground
    trials: int
    values: int
    at_edge: float
    directions: float
    decided: float
    low: float
    high: float
    wholly: int
    wrong: int
    seed: int

    @property
    def words(self) -> str:
        """The outcome in a clause.

        >>> trials = [Decided(3, 0.5, 1.0, 3, False)] * 15 + [Decided(3, 0.5, 0.0, 0, False)] * 5
        >>> print(summary("4", Ground.ZEROS, 64, trials, 0).words)
        zeros decide 75 % of the channels of the input of layer '4' (20 simulated: 51 to 91 % with 95 % confidence)
        """
        by_zeros = self.ground is Ground.ZEROS
        what, where = "zeros" if by_zeros else "the range", f"the input of layer {self.layer!r}"
        if not self.trials:
            return f"what {what} would decide of {where} is too much to simulate ({self.values:,} values at a time)"
        sure = f"{_percent(self.low)} to {_percent(self.high)} % with {100 * CONFIDENCE:.0f} % confidence"
        wrong = f", and {self.wrong:,} times something that is not so" if self.wrong else ""
        if by_zeros:
            channels = f"{_percent(self.decided)} % of the channels of {where}"
            return f"zeros decide {channels} ({self.trials:,} simulated: {sure}){wrong}"
        edge = f"with {_percent(self.at_edge)} % of them at an end of it"
        whole = f"{self.wholly:,} of the inputs" if self.wholly else "none of the inputs"
        sample = f"{self.trials:,} simulated: {sure}; all of them in {whole}"
        return f"the range determines {_percent(self.decided)} % of the values of {where} {edge} ({sample}){wrong}"

    def to_dict(self) -> dict[str, str | int | float | None]:
        """Return all attributes as plain values, the ground by its label and what there is none of as `None`."""
        plain = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in vars(self).items()}
        return plain | {"ground": self.ground.label, "words": self.words}


def expected_beyond_rank(
    network: Network, masks: Pattern, at_bound: float | None, trials: int, seed: int
) -> tuple[BeyondRank, ...]:
    """Return what zeros and the range are expected to decide, for each layer that is short of rank by itself.

    The head first. Zeros are asked for where an activation with plateaus makes the layer's input, the range at the
    network's input alone.

    Args:
        network: the network.
        masks: gives those of the activations that cut off, for each trial.
        at_bound: share of the values of the network's input at an end of their range, `None` not to ask for it.
        trials: how many to simulate for each.
        seed: of what is drawn.
    """
    found = []
    for layer in reversed(network.bilinear):
        if layer is network.start or not _is_short(network, layer, masks, seed):
            continue
        if span_below(network, layer) is not None:
            found.append(_zeros(network, layer, masks, trials, seed))
        if at_bound is not None and _reads_input(network, layer):
            found.append(_range(network, layer, masks, (at_bound, trials, seed)))
    return tuple(found)


def check_trials(at_bound: float | None, trials: int) -> None:
    """Refuse a share that is none, and one without trials."""
    if at_bound is not None and not 0 <= at_bound <= 1:
        raise ParameterError("at_bound", f"at_bound must be a share from 0 to 1, got {at_bound!r}")
    if at_bound is not None and not trials:
        raise ParameterError(
            "trials", "at_bound is for a simulation, and trials is 0; give trials, such as 20, as well"
        )


def _is_short(network: Network, layer: PlacedLayer, masks: Pattern, seed: int) -> bool:
    """Whether a layer's equations may leave something open where all above it is known."""
    rng = np.random.default_rng([seed, layer.index])
    passed = output_gradient(network, layer, masks(rng), rng) != 0
    known = Knowledge(passed, np.ones_like(passed), passed)
    return bounded_rank(layer, knowledge=known, seed=seed).low < layer.unknowns


def _reads_input(network: Network, layer: PlacedLayer) -> bool:
    """Whether a layer reads the network's input, rearranged at most."""
    number = layer.inputs[0]
    while number and network.layers[number - 1].is_reshape:
        number = network.layers[number - 1].inputs[0]
    return number == 0


def _zeros(network: Network, layer: PlacedLayer, masks: Pattern, trials: int, seed: int) -> BeyondRank:
    """Simulate the zeros of single channels, each with an output gradient of its own."""
    span = span_below(network, layer)
    assert span is not None
    positions = math.prod(layer.positions)
    trials = trials if positions <= POSITIONS else 0

    def trial(number: int) -> Decided:
        rng = np.random.default_rng([seed, layer.index, number])
        at = masks(rng)
        k, x = output_gradient(network, layer, at, rng), layer_input(network, layer, at, rng)
        channel = int(rng.integers(layer.channels))
        return by_zeros(layer, k, channel, x[channel], span, int(rng.integers(2**32)))

    return summary(layer.name, Ground.ZEROS, positions, map(trial, range(trials)), seed)


def _range(
    network: Network,
    layer: PlacedLayer,
    masks: Pattern,
    asked: tuple[float, int, int],
) -> BeyondRank:
    """Simulate whole inputs of which a share lies at either end of the range."""
    at_bound, trials, seed = asked
    trials = trials if layer.unknowns <= VALUES else 0

    def trial(number: int) -> Decided:
        rng = np.random.default_rng([seed, layer.index, number])
        k = output_gradient(network, layer, masks(rng), rng)
        x = input_at_bounds(layer.input_shape, at_bound, VALID, rng)
        weight = rng.standard_normal(layer.weight_shape)
        return by_range(layer, (k != 0, True), weight, k, x, VALID, seed=int(rng.integers(2**32)))

    return summary(layer.name, Ground.RANGE, layer.unknowns, map(trial, range(trials)), seed)


def summary(name: str, ground: Ground, values: int, trials: Iterable[Decided], seed: int) -> BeyondRank:
    """Return what trials decided.

    >>> trials = [Decided(3, 0.5, 1.0, 3, False)] * 15 + [Decided(3, 0.5, 0.0, 0, False)] * 5
    >>> found = summary("4", Ground.ZEROS, 64, trials, 0)
    >>> found.decided, round(found.low, 2), round(found.high, 2), found.wrong
    (0.75, 0.51, 0.91, 0)
    """
    done = list(trials)
    if not done:
        none = float("nan")
        return BeyondRank(name, ground, 0, values, none, none, none, none, none, 0, 0, seed)
    count, total = len(done), math.fsum(one.share for one in done)
    # A share that varies between 0 and 1 varies less than one that is either, so that this interval is wide enough.
    low = binomtest(math.floor(total + ROUNDING), count).proportion_ci(CONFIDENCE).low
    high = binomtest(math.ceil(total - ROUNDING), count).proportion_ci(CONFIDENCE).high
    return BeyondRank(
        layer=name,
        ground=ground,
        trials=count,
        values=values,
        at_edge=float(np.mean([one.at_edge for one in done])),
        directions=float(np.mean([one.directions for one in done])),
        decided=total / count,
        low=float(low),
        high=float(high),
        wholly=sum(one.share == 1 for one in done),
        wrong=sum(one.wrong for one in done),
        seed=seed,
    )


def _percent(share: float) -> str:
    """Return a share as a whole percentage that is 0 or 100 only where it is just that.

    >>> _percent(0.9999), _percent(0.742), _percent(1.0)
    ('over 99', '74', '100')
    """
    if 0.995 <= share < 1:
        return "over 99"
    return "under 1" if 0 < share < 0.005 else f"{100 * share:.0f}"
