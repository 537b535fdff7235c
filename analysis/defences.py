"""What is left to an observer when a client shares less than its gradient.

Question: Which defence takes away how much: clipping and noise (DP-SGD), pruning, quantisation, withholding the
gradients of layers, sharing the head or the biases alone?

Hypothesis: Clipping takes nothing, since it scales both sides of every equation; noise costs 20 dB a factor of ten
and then all; pruning takes rows, of which there are more than enough, and so nothing until most are gone; withholding
one layer takes nothing where the weight equations of that layer suffice.

Finding: Clipping takes nothing (305 dB). DP-SGD noise costs 20 dB a factor of ten down to 53 dB at a multiplier of
1e-5; from 1e-4 on nothing is determined and the guess is mid-grey, at multipliers far below the 0.1 to 1 that privacy
accounting asks for. Pruning half of all weights' gradients takes nothing with LeakyReLU (275 dB); 20 % kept leave
nothing. With ReLU already 90 % kept leave nothing, because its true zeros pass for pruned ones: what is sent of the
head then has a rank of 0.41 to 0.59 of its unknowns. Rounding to 16 bits leaves 90 dB; 8 bits leave no value
determined and yet pictures of 40 dB with LeakyReLU and 34 dB with ReLU; 4 bits and signs leave nothing, at full rank:
what they take, noise takes. Withholding the first layer's gradient takes nothing, for its 768 weight equations
suffice; withholding the second, the third or the head, or sharing head or biases alone, leaves nothing to this
recursion, whose rank at its weakest layer falls to 0.38 and less.

One row a defence for a sample of CIFAR-10 at 16×16 pixels, float64, through LeNet-O cut to the size (see
`subjects.small_network`) with ReLU or LeakyReLU in its last convolution, at weights from U(-0.5, 0.5). How each
defence works, and what an observer knows of it: `sharing`. Where single entries are missing, `missing` solves for
what follows from the others, with all their digits; otherwise the library's `reconstruct` does, told the standard
deviation. `exact_rank_share` is the smallest over all layers with a weight, the head among them, of a share: the
generic rank of those equations of the layer that were sent, everything above it known, over its unknowns. Below 1 the
recursion breaks at some layer for want of equations; at 1 whatever is lost is lost to noise. Other columns: see
`measured.MEASURED`. For one sample the guesses are kept as pictures.
"""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

import numpy as np

from analysis.executors import Row
from analysis.measured import MEASURED, guess, measured
from analysis.sharing import Shared, defences, observe
from analysis.subjects import sample_step, small_network
from constraint_algebra.arrays import BoolArray
from constraint_algebra.equations.stacking import stack
from constraint_algebra.equations.systems import LinearSystem, gradient_equations, weight_equations
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.plotting import pixels
from constraint_algebra.ranks.generic import generic_rank
from constraint_algebra.ranks.ladder import generic_blocks
from constraint_algebra.theory.activity import activity_of

SEED = 0
ACTIVATIONS = ("LeakyReLU(0.2)", "ReLU")
IMAGES = (3, 7, 12)
PICTURED = 7  # whose guesses are kept as pictures


class Run(NamedTuple):
    """A defence, named by kind and strength, for a sample of CIFAR-10."""

    kind: str
    strength: str
    activation: str
    image: int


COLUMNS = (*Run._fields, "sent_share", "exact_rank_share", *MEASURED, "cpu_s")


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has one image and LeakyReLU alone."""
    few = itertools.product(ACTIVATIONS[:1], IMAGES[:1]) if quick else itertools.product(ACTIVATIONS, IMAGES)
    names = [(d.kind, d.strength) for d in defences(small_network())]
    return [Run(*name, *rest) for name, rest in itertools.product(names, few)]


def judge(run: Run) -> Row:
    """Return what an observer makes of one sample."""
    start = time.process_time()
    network = small_network(run.activation)
    seen = sample_step(network, f"cifar10:{run.image}", seed=SEED + run.image, init="uniform")
    assert seen.truth is not None
    (defence,) = [d for d in defences(network) if (d.kind, d.strength) == (run.kind, run.strength)]
    shared = defence.share(seen.gradients, np.random.default_rng([SEED, run.image]))
    result = observe(seen, shared, seed=SEED)
    total = sum(g.size for g in seen.gradients.values())
    row: Row = {
        "sent_share": 1.0 if shared.sent is None else sum(int(m.sum()) for m in shared.sent.values()) / total,
        "exact_rank_share": min(rank_shares(seen, shared).values()),
        **measured(result, seen.truth, network),
        "cpu_s": round(time.process_time() - start, 3),
    }
    if run.image == PICTURED:
        row["arrays"] = {"guess": pixels(guess(result)), "truth": pixels(seen.truth)}
    return row


def rank_shares(seen: Capture, shared: Shared) -> dict[str, float]:
    """Return for every layer with a weight: generic rank of its equations that were sent over its unknowns."""
    assert seen.truth is not None
    masks = activity_of(seen.network, {n: a.astype(float) for n, a in seen.parameters.items()}, seen.truth)
    shares, active = {}, None
    for layer in reversed(seen.network.layers):
        if layer.is_bilinear:
            sent = None if shared.sent is None else shared.sent[layer.weight_name]
            shares[layer.name] = exact_rank(layer, sent, active) / layer.unknowns
            active = np.ones(layer.input_shape, dtype=bool)
        elif active is not None:
            active = active.reshape(layer.output_shape) & masks.get(layer.name, True)
            active = active.reshape(layer.input_shape)
    return shares


def exact_rank(layer: PlacedLayer, sent: BoolArray | None, active: BoolArray | None) -> int:
    """Return the generic rank of a layer's weight equations and of those gradient equations that were sent.

    Args:
        layer: a convolution or linear layer.
        sent: which entries of its weight's gradient were, `None` for all.
        active: outputs that the activation lets pass, whose z is known and whose k is not zero; `None` for the head,
            whose z nobody is told: there are gradient equations alone.
    """
    kinds = ("gradient",) if active is None else ("weight", "gradient")
    if sent is None or sent.all():
        found = generic_rank(layer, kinds=kinds, active=active, seed=SEED).rank
        assert found is not None
        return found
    k = np.ones(layer.output_shape) if active is None else active.astype(float)
    # The equations put the entries of the weight's gradient into the order of their rows: of the masks as well.
    gradient = gradient_equations(layer, k, sent.astype(float))
    assert gradient.rhs is not None
    gradient = gradient.select(gradient.rhs > 0)
    rank = _generic(gradient)
    if active is None or rank == layer.unknowns:
        return rank
    return _generic(stack(weight_equations(layer, np.ones(layer.weight_shape)).select(active.ravel()), gradient))


def _generic(system: LinearSystem) -> int:
    return sum(form.rank for _, form in generic_blocks(system, SEED))
