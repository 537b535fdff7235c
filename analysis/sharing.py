"""What a client may share of its gradient: all of it, clipped, noisy, pruned, quantised, or of some layers alone.

A defence takes the gradient and returns what an observer sees of it and knows about it. What was changed by a known
rule (noise, quantisation) comes with the standard deviation of the change; what was not sent comes as a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import constraint_algebra as ca
from analysis.missing import reconstruct_partly
from constraint_algebra.arrays import Arrays, BoolArray, FloatArray
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.result import Reconstruction, Status

UNKNOWN = 1e6  # times the largest entry of the gradient: noise that drowns whatever it is on
CLIP = 1.0  # norm of the whole gradient that DP-SGD clips to


class Shared(NamedTuple):
    """What an observer sees of a gradient.

    Attributes:
        gradients: by parameter; 0 where nothing was sent.
        noise: standard deviation of what the defence changed, by parameter, known to the observer.
        sent: masks of the entries that were sent, `None` where all were.
    """

    gradients: Arrays
    noise: dict[str, float]
    sent: dict[str, BoolArray] | None = None


class Defence(NamedTuple):
    """A rule by which a client shares less than its gradient.

    Attributes:
        kind: of the defence.
        strength: in words or figures.
        share: applies it; random numbers come from the generator.
    """

    kind: str
    strength: str
    share: Callable[[Arrays, np.random.Generator], Shared]

    @property
    def name(self) -> str:
        """Kind and strength."""
        return f"{self.kind}, {self.strength}" if self.strength else self.kind


def defences(network: Network) -> list[Defence]:
    """Return all defences for a network: none, 21 settings for every network, and one for each layer with a weight."""
    found = [Defence("none", "", lambda g, _: Shared(g, {})), Defence("clipping", f"norm {CLIP:g}", _clipping)]
    found += [
        Defence("DP-SGD", f"multiplier {z:.0e}", _dp_sgd(z))
        for z in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    ]
    found += [Defence("top-k pruning", f"{share:.0%} kept", _top(share)) for share in (0.9, 0.5, 0.2, 0.1, 0.01)]
    found += [Defence("quantisation", f"{bits} bits", _quantised(bits)) for bits in (16, 8, 4)]
    found += [Defence("sign", "1 bit", _sign)]
    weights = network.bilinear
    head = network.layers[-1].name
    for number, layer in enumerate(weights, start=1):
        words = "head" if layer.name == head else f"layer {number} of {len(weights)}"
        found.append(Defence("withheld", words, _without(lambda n, own=layer.name: n.rpartition(".")[0] == own)))
    found.append(Defence("only shared", "head", _without(lambda n: n.rpartition(".")[0] != head)))
    found.append(Defence("only shared", "biases", _without(lambda n: not n.endswith("bias"))))
    return found


def observe(seen: Capture, shared: Shared, *, seed: int = 0) -> Reconstruction:
    """Return what an observer makes of a shared gradient.

    The library does it where all entries of a parameter were sent, or none: of a gradient that was not sent nothing is
    known, which is noise far above its size. Single entries that are missing are left out one by one (`missing`).

    Raises:
        ShapeError: single entries are missing, and a layer is too large for that.
    """
    sent = shared.sent or {name: np.ones(g.shape, dtype=bool) for name, g in shared.gradients.items()}
    start = seen.network.start
    if start is None or not sent[start.bias_name or start.weight_name].any():
        return _nothing(seen.network)
    if not all(mask.all() or not mask.any() for mask in sent.values()):
        return reconstruct_partly(seen, sent)
    largest = max(float(np.abs(g.astype(float)).max()) for g in shared.gradients.values())
    noise = {name: shared.noise.get(name, 0.0) if sent[name].all() else UNKNOWN * largest for name in sent}
    given = seen.network, seen.parameters, shared.gradients
    return ca.reconstruct(*given, loss=seen.loss, noise=noise, batch=seen.batch, seed=seed)


def _nothing(network: Network) -> Reconstruction:
    """Return the result of an observer who has nowhere to start."""
    unknown = np.full(network.input_shape, np.nan)
    return Reconstruction(
        unknown, np.zeros(unknown.shape, bool), np.full(unknown.shape, np.inf), Status.UNDETERMINED, (), None, {}
    )


def norm(gradients: Arrays) -> float:
    """Return the Euclidean norm of the whole gradient."""
    return float(np.sqrt(sum(float(np.sum(g.astype(float) ** 2)) for g in gradients.values())))


def _clipped(gradients: Arrays) -> dict[str, FloatArray]:
    factor = min(1.0, CLIP / norm(gradients))
    return {name: factor * g.astype(float) for name, g in gradients.items()}


def _clipping(gradients: Arrays, _: np.random.Generator) -> Shared:
    return Shared({name: g.astype(gradients[name].dtype) for name, g in _clipped(gradients).items()}, {})


def _dp_sgd(multiplier: float) -> Callable[[Arrays, np.random.Generator], Shared]:
    """Clip, and add Gaussian noise of the multiplier times the clipping norm (Abadi et al. 2016, arXiv 1607.00133)."""

    def share(gradients: Arrays, rng: np.random.Generator) -> Shared:
        deviation = multiplier * CLIP
        noisy = {name: g + deviation * rng.standard_normal(g.shape) for name, g in _clipped(gradients).items()}
        return Shared(dict(noisy), dict.fromkeys(noisy, deviation))

    return share


def _top(kept: float) -> Callable[[Arrays, np.random.Generator], Shared]:
    """Keep the largest entries of each weight; biases, which are few, are sent whole."""

    def share(gradients: Arrays, _: np.random.Generator) -> Shared:
        sent = {}
        for name, g in gradients.items():
            size = np.abs(g.astype(float))
            count = max(1, round(kept * size.size))
            least = np.partition(size.ravel(), -count)[-count]
            sent[name] = np.ones(g.shape, dtype=bool) if name.endswith("bias") else (size >= least) & (size > 0)
        return Shared({name: np.where(sent[name], g, 0) for name, g in gradients.items()}, {}, sent)

    return share


def _quantised(bits: int) -> Callable[[Arrays, np.random.Generator], Shared]:
    """Round to equal steps between plus and minus the largest entry of each parameter."""

    def share(gradients: Arrays, _: np.random.Generator) -> Shared:
        steps = {n: float(np.abs(g.astype(float)).max()) / (2 ** (bits - 1) - 1) or 1.0 for n, g in gradients.items()}
        rounded = {name: np.round(g.astype(float) / steps[name]) * steps[name] for name, g in gradients.items()}
        return Shared(dict(rounded), {name: step / np.sqrt(12) for name, step in steps.items()})

    return share


def _sign(gradients: Arrays, _: np.random.Generator) -> Shared:
    """Send signs alone; an observer takes each entry for one, give or take one."""
    signs: dict[str, NDArray[np.float64]] = {name: np.sign(g.astype(float)) for name, g in gradients.items()}
    return Shared(dict(signs), dict.fromkeys(signs, 1.0))


def _without(withheld: Callable[[str], bool]) -> Callable[[Arrays, np.random.Generator], Shared]:
    def share(gradients: Arrays, _: np.random.Generator) -> Shared:
        sent = {name: np.full(g.shape, not withheld(name)) for name, g in gradients.items()}
        return Shared({name: np.where(sent[name], g, 0) for name, g in gradients.items()}, {}, sent)

    return share
