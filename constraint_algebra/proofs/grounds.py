"""On what a claim about an input rests: whether the real gradients show the pattern of activations, and k at the start.

The equations of `indistinguishable` hold for all inputs of one region with one k at `network.start`. With a bias there
its gradient is k. Without one the loss leaves a few candidates, and the reconstruction keeps those that explain the
gradients; within one region a bias further down may show k as well (`IndistinguishabilitySet.whole`).

What a layer reads is a function of the gradients where `reconstruct` determines it, and then so is everything above it,
the sides of all activations that it comes from included. So two layers matter:

- the lowest that reads what an activation gave out: with its input all sides are known, and the region is everything;
- the lowest above the layer whose output the set keeps: with its input, what the set keeps is known.

Where there is no such layer, nothing needs to be known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, Progress
from constraint_algebra.errors import MissingBiasError, UnsupportedLayerError, ZeroGradientError
from constraint_algebra.ground import Ground
from constraint_algebra.layers.activations import Identity
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.proofs.graph_grounds import pattern_is_open
from constraint_algebra.proofs.indistinguishable import IndistinguishabilitySet
from constraint_algebra.pytorch.gradients import torch_gradients
from constraint_algebra.pytorch.verification import Model
from constraint_algebra.recursion import backsubstitution
from constraint_algebra.recursion.result import UNSOUND, Reconstruction

POOLED = 5.0  # seconds for what the values of a max-pool decide beyond the equations
SPREAD = 6.0  # error bars in a bound
SAME = 1e-9  # difference of values that are the same, beyond their error bars
LATE = "the time limit came before the layers above the first were reconstructed"
PARTLY = "the twins that were looked for are a part of all inputs with these gradients"
CONTRADICTED = "the reconstruction does not reproduce the gradients, so that nothing above is taken from it"


class OutOfTimeError(Exception):
    """Ends a reconstruction between two layers; never leaves this module."""


@dataclass(frozen=True)
class Grounds:
    """What the gradients alone yield, and what is missing for a claim.

    Attributes:
        result: the reconstruction, `None` where none could start or end.
        region: why the equations do not hold for all inputs of the region, `None` where they do.
        everywhere: why they do not hold for all inputs, `None` where they do.
        rivals: whether a head without bias allows another input that nothing rules out.
    """

    result: Reconstruction | None
    region: str | None
    everywhere: str | None
    rivals: bool = False

    @property
    def known(self) -> BoolArray | None:
        """Which input values equations determine, whatever the pattern; `None` where nothing counts."""
        return self._resting_on(Ground.EQUATIONS)

    @property
    def by_range(self) -> BoolArray | None:
        """Which input values the range determines besides, whatever the pattern; `None` where nothing counts."""
        return self._resting_on(Ground.RANGE)

    def _resting_on(self, ground: Ground) -> BoolArray | None:
        if self.result is None or self.result.status in UNSOUND or self.rivals:
            return None
        return np.asarray(self.result.determined & (self.result.ground == ground))

    def with_rival(self, obstacle: str) -> Grounds:
        """Return the same with a rival as an obstacle to every claim."""
        return replace(self, region=self.region or obstacle, everywhere=self.everywhere or obstacle, rivals=True)

    def off(self, x: FloatArray) -> FloatArray:
        """Return how far the reconstruction may be from x, NaN where it determines nothing."""
        if self.result is None:
            return np.full(x.shape, np.nan)
        far = np.abs(self.result.input - x) + SPREAD * np.where(self.result.determined, self.result.error_bar, np.nan)
        return np.asarray(far)


def grounds(
    model: Model,
    parameters: dict[str, FloatArray],
    found: IndistinguishabilitySet,
    target: int,
    *,
    loss: str,
    seed: int,
    is_late: Callable[[], bool],
    progress: Progress | None,
) -> Grounds:
    """Return what the real gradients of an input show about the claims that its set allows.

    Args:
        model: the network in float64, for the gradients.
        parameters: its parameters.
        found: the set.
        target: the class.
        loss: the loss.
        seed: of the reconstruction's noise.
        is_late: whether no further layer may be begun.
        progress: as for `certify`.
    """
    network, result, failure = found.network, None, None
    gradients = torch_gradients(model, found.input, target, loss)

    def next_layer(done: int, total: int, name: str) -> None:
        if progress is not None:
            progress(0, found.input.size, f"layer {name}")
        if done < total and is_late():
            raise OutOfTimeError

    try:
        result = backsubstitution.reconstruct(
            network,
            parameters,
            gradients,
            loss=loss,
            valid_range=found.valid_range,
            batch=1,
            # What a search finds is unique near itself, which shows nothing of other inputs; what pooled values leave
            # no room does.
            search=POOLED if any(layer.is_selection for layer in network) else 0.0,
            seed=seed,
            progress=next_layer,
        )
    except OutOfTimeError:
        failure = LATE
    except UnsupportedLayerError as error:
        failure = f"no reconstruction for this network: {error.problems[0].reason if error.problems else error}"
    except (ZeroGradientError, MissingBiasError) as error:
        failure = f"the gradients do not start a reconstruction: {error}"
        return Grounds(None, failure, failure)
    if result is not None and result.status in UNSOUND:
        failure = CONTRADICTED
    return _judged(found, result if result is None else _own_first(result, found.input), failure)


def _judged(found: IndistinguishabilitySet, result: Reconstruction | None, failure: str | None) -> Grounds:
    """Return what a reconstruction, or that there is none, means for the claims."""
    network = found.network
    k = _k_is_open(found, failure)
    if not network.is_chain:
        partly = None if found.whole else PARTLY
        everywhere = k or pattern_is_open(network, result, failure) or partly
        return Grounds(result, partly and (k or partly), everywhere)
    everywhere = k or _open(network, lowest_reader(network), result, failure)
    region = None if found.whole else k or _open(network, above_kept(found), result, failure)
    return Grounds(result, region if everywhere else None, everywhere)


def _own_first(result: Reconstruction, x: FloatArray) -> Reconstruction:
    """Return what explains the gradients by x itself, with the other explanations as its alternatives."""

    def order(one: Reconstruction) -> tuple[bool, int]:
        allowed = SPREAD * one.error_bar + SAME
        return bool((np.abs(one.guess - x) > allowed)[one.determined].any()), -int(one.determined.sum())

    own, *others = sorted((result, *result.alternatives), key=order)
    return replace(own, status=result.status, alternatives=tuple(others))


def lowest_reader(network: Network) -> PlacedLayer | None:
    """Return the lowest layer, up to the one that k is known of, which reads what an activation gave out.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear, Tanh
    >>> layers = [Conv1d(2, 2), Conv1d(2, 2), Tanh(), Flatten(), Linear(2)]
    >>> lowest_reader(Network((1, 6), layers)).name, lowest_reader(Network((1, 6), [*layers[:2], *layers[3:]]))
    ('4', None)
    """
    bent = False
    for layer in network.layers[: len(network.layers) if network.start is None else network.start.index + 1]:
        if bent and layer.is_bilinear:
            return layer
        bent |= layer.is_activation and not isinstance(layer.layer, Identity)
    return None


def above_kept(found: IndistinguishabilitySet) -> PlacedLayer | None:
    """Return the layer that reads what the set keeps, `None` where it keeps nothing but the pattern."""
    if found.kept is None:
        return None
    later = iter(found.network.bilinear)
    for layer in later:
        if layer.name == found.kept:
            return next(later, None)
    return None


def _k_is_open(found: IndistinguishabilitySet, failure: str | None) -> str | None:
    """Return why another k, where the recursion starts, may have the same gradients; `None` where none has.

    Args:
        found: the set.
        failure: why the reconstruction says nothing; where it does, it has ruled out all other candidates for k.
    """
    start = found.network.start
    if start is None or start.bias_name is None:
        return failure
    if found.kept is None and not found.whole:  # then the set keeps more than the gradients show
        return f"the bias gradient of layer {start.name!r} is zero in part, so that its input is not shown by its own"
    return None


def _open(
    network: Network, layer: PlacedLayer | None, result: Reconstruction | None, failure: str | None
) -> str | None:
    """Return why a layer's input does not follow from the gradients, `None` where it does or there is no such layer."""
    if layer is None or failure is not None:
        return None if layer is None else failure
    solved = () if result is None else result.layers
    solutions = {solution.name: solution for solution in solved}
    together = {name for solution in solved for name in solution.together}  # solved as a part of a lower one

    def count(other: PlacedLayer) -> int:
        return solutions[other.name].determined if other.name in solutions else 0

    if count(layer) == layer.unknowns:
        return None
    top = len(network.layers) if network.start is None else network.start.index
    above = [other for other in network.bilinear if layer.index <= other.index <= top and other.name not in together]
    first = next(other for other in reversed(above) if count(other) < other.unknowns)
    return f"layer {first.name!r} above the first is not determined ({count(first):,} of {first.unknowns:,})"


def kinks_in_series(network: Network) -> bool:
    """Whether two activations with kinks follow each other: what comes out may then not show the side of the first.

    In a graph they may meet in a sum as well, and the answer is always that they may.

    >>> from constraint_algebra.layers import Flatten, Hardtanh, LeakyReLU, Linear
    >>> kinks_in_series(Network((4,), [Linear(3), LeakyReLU(), Flatten(), Hardtanh(0.2, 0.5), Linear(2)]))
    True
    """
    if not network.is_chain:
        return True
    for layer in network.bilinear:
        behind = [other for other in network.after(layer) if other.is_activation]
        if sum(not isinstance(other.layer, Identity) for other in behind) > 1:
            return True
    return False


def pattern_of(network: Network) -> str:
    """Return what inputs of one region share, as a clause.

    >>> from constraint_algebra.layers import Linear, ReLU
    >>> pattern_of(Network((4,), [Linear(3), ReLU(), Linear(2)]))
    'every activation works on the same side'
    """
    words = "every activation works on the same side"
    return f"{words} and every maximum is the same entry" if any(x.is_selection for x in network) else words


def ground_of(found: IndistinguishabilitySet) -> str:
    """Return what twins of a set rest on, as a sentence."""
    own: str | None = getattr(found, "ground", None)
    if own is not None:
        return own
    chosen = any(layer.is_selection for layer in found.network)
    entries = " and the entry that every maximum is" if chosen else ""
    if found.kept is None:
        return f"twins keep the side on which every activation of the network works for the sample{entries}"
    return f"twins keep the output of layer {found.kept!r} and the side of every activation below it{entries}"
