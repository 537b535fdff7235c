"""What an observer reads from the gradients of a network while it learns.

Question: How do rank, conditioning and the quality of a reconstruction change while a small network learns to tell
digits?

Hypothesis: The gradient shrinks as the loss falls, and its rounding with it, so that float32 alone protects nothing
at any time; fixed noise protects a trained network and not an untrained one; with ReLU the ranks fall as filters die.

Finding: Without noise every digit comes back at every time, with 144 dB and more: float32 protects nothing, though the
norm of the gradient falls from 2 to less than 1e-3 (median). Ranks stay full, also with ReLU (49 % of its outputs
active before, 83 % after training: filters come to life), and the condition of the first layer stays below 100, rising
from 13 to 63 with LeakyReLU and from 4 to 64 with ReLU. With noise of 1e-5 on every entry a median of 80 to 88 dB
comes back up to the second epoch; after 10 epochs five of six digits are not determined at all, and the one whose
gradient is still large (norm 11 to 26) comes back.

One row a digit that is not trained on, after so many epochs (Adam, see `subjects.trained`): its float32 gradient at
those weights, alone or with Gaussian noise of a fixed standard deviation `noise` on every entry, which the observer
knows. The network: two convolutions with ReLU or LeakyReLU and a head, 8×8 pixels. `gradient_norm` is that of the
whole gradient, `active_share` that of the ReLUs' outputs; other columns: see `measured.MEASURED`.
"""

from __future__ import annotations

import itertools
import time
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from analysis.measured import MEASURED, measured
from analysis.sharing import norm
from analysis.subjects import digit_network, digits, step, trained
from constraint_algebra.errors import ZeroGradientError
from constraint_algebra.theory.activity import activity_of

SEED = 0
ACTIVATIONS = ("LeakyReLU(0.2)", "ReLU")
EPOCHS = (0, 1, 2, 5, 10, 20, 40)
NOISES = (0.0, 1e-5)
DIGITS = tuple(range(1500, 1506))


class Run(NamedTuple):
    """A digit, an activation, a time, and noise."""

    activation: str
    epochs: int
    noise: float
    digit: int


COLUMNS = (*Run._fields, "training_loss", "accuracy", "gradient_norm", "active_share", *MEASURED, "cpu_s")


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has two digits and two epochs at most."""
    few = (ACTIVATIONS[:1], EPOCHS[:2], NOISES, DIGITS[:2])
    return [Run(*key) for key in itertools.product(*(few if quick else (ACTIVATIONS, EPOCHS, NOISES, DIGITS)))]


@lru_cache(maxsize=4)
def course(activation: str, last: int) -> dict[int, tuple[Any, float, float]]:
    """Return model, loss and accuracy after each number of epochs up to the last."""
    import copy

    epochs = tuple(epoch for epoch in EPOCHS if epoch <= last)
    found = trained(digit_network(activation), epochs, seed=SEED)
    return {epoch: (copy.deepcopy(model), loss, right) for epoch, model, loss, right in found}


def judge(run: Run) -> Row:
    """Return how well one digit comes back at one time."""
    network = digit_network(run.activation)
    model, loss, right = course(run.activation, run.epochs if run.epochs < 2 else EPOCHS[-1])[run.epochs]
    images, labels = digits()
    seen = step(model, network, images[run.digit], int(labels[run.digit]))
    assert seen.truth is not None
    weights = {name: a.astype(float) for name, a in seen.parameters.items()}
    active = activity_of(network, weights, seen.truth)
    rng = np.random.default_rng([SEED, run.digit, run.epochs])
    given = {name: (g + run.noise * rng.standard_normal(g.shape)).astype(g.dtype) for name, g in seen.gradients.items()}
    row: Row = {
        "training_loss": loss,
        "accuracy": right,
        "gradient_norm": norm(seen.gradients),
        "active_share": float(np.mean(np.concatenate([m.ravel() for m in active.values()]))) if active else 1.0,
    }
    start = time.process_time()
    try:
        result = ca.reconstruct(network, seen.parameters, given, noise=run.noise, seed=SEED)
    except ZeroGradientError:  # the loss of this digit is 0 in float32
        return row | {"status": "ZERO_GRADIENT", "determined_share": 0.0, "rank_share": 0.0}
    return row | measured(result, seen.truth, network) | {"cpu_s": round(time.process_time() - start, 3)}
