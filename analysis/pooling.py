"""When a network with max-pool gives its input away, and how long that takes.

Question: How often, and how fast, does the input of a network with two max-pools come back from the gradient of one
sample, by filters, kernel, picture and training?

Hypothesis: With as many filters as the tutorials have (32 and 64) digits and small photographs come back; with few
filters the winners are not found, or values stay open, and nothing wrong is said; ties on a constant background do not
harm; training changes little.

Finding: Nothing wrong is said in 50 runs. With 32 filters every digit comes back, with kernel 3 and 5, to 1e-11, and so
do photographs of 16×16; 16 filters are enough with kernel 5 and not with kernel 3, 8 filters in one of three runs,
fewer never. With few filters the input of the second convolution is lacking already. Photographs of 32×32 need more
than the 10 s that a step has by default; of those of 16×16 with 16 filters the input of the second convolution is
known, and the winners of the first are not found. 42 to 78 % of the live windows of digits tie, and that does no harm.
While a network learns from 10 % to 94 %, all 12 runs come back, from the first epoch on by the range alone.

One row a picture and a network: convolution of F filters, ReLU, max-pool 2, convolution of 2F filters, ReLU, max-pool
2, a hidden layer of 64 units and a head, with PyTorch's own initialisation, float64. `digit` rows: MNIST digits of
28×28 pixels; `photograph` rows: CIFAR photographs fitted to 3×16×16 and 3×32×32; `trained` rows: digits of 8×8 pixels
at a network with 32 and 64 filters after so many epochs (Adam, see `subjects.trained`), kernel 3. `tied` is the share
of windows of the first max-pool, among those whose largest entry is positive, with more than one such entry; `hidden`
the share of the second convolution's input that is known; `equations`, `ranged`, `winners` how many pixels rest on
each ground; `wrong` how many that are said to be determined are off by more than `WRONG` and their error bar excuses.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from analysis.subjects import digits, sample_step, step, trained
from constraint_algebra.arrays import FloatArray
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import Layer
from constraint_algebra.networks.operations import windows
from constraint_algebra.recursion.result import Reconstruction

SEED = 0
FILTERS, KERNELS = (4, 6, 8, 16, 32), (3, 5)
DIGITS, PHOTOGRAPHS = ("mnist:0", "mnist:1", "mnist:2"), ("cifar10:3", "cifar10:7")
SIZES = (16, 32)
EPOCHS, HELD_OUT = (0, 1, 5, 20), (1500, 1501, 1502)
WRONG = 1e-6  # error of a value that was called determined from which on it is wrong
CLAIM = 100.0  # error bars that excuse a larger one, where equations are ill-conditioned


class Run(NamedTuple):
    """A picture, its size, filters and kernel of the network, and for how many epochs it was trained."""

    kind: str
    picture: str
    size: int
    filters: int
    kernel: int
    epochs: int


COLUMNS = (
    *Run._fields,
    *("status", "determined_share", "hidden", "tied", "equations", "ranged", "winners", "wrong", "largest_error"),
    *("accuracy", "cpu_s"),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grids; a quick one has one digit and two networks."""
    if quick:
        return [Run("digit", DIGITS[0], 28, filters, 3, 0) for filters in FILTERS[:2]]
    some = [Run("digit", digit, 28, f, k, 0) for k, f, digit in itertools.product(KERNELS, FILTERS, DIGITS)]
    some += [Run("photograph", p, size, f, 5, 0) for size, f, p in itertools.product(SIZES, FILTERS[-2:], PHOTOGRAPHS)]
    return some + [Run("trained", str(n), 8, 32, 3, epochs) for epochs, n in itertools.product(EPOCHS, HELD_OUT)]


def network(run: Run) -> ca.Network:
    """Return the network of a row."""
    return ca.Network((3 if run.kind == "photograph" else 1, run.size, run.size), list(_layers(run)))


def _layers(run: Run) -> Iterator[Layer]:
    for filters in (run.filters, 2 * run.filters):
        yield from (ca.Conv2d(filters, run.kernel, padding=run.kernel // 2), ca.ReLU(), ca.MaxPool2d(2))
    yield from (ca.Flatten(), ca.Linear(64), ca.ReLU(), ca.Linear(10))


@lru_cache(maxsize=2)
def course(filters: int, kernel: int) -> dict[int, tuple[Any, float]]:
    """Return the model in float64 and its accuracy after each number of epochs."""
    import copy

    found = trained(network(Run("trained", "", 8, filters, kernel, 0)), EPOCHS, seed=SEED)
    return {epoch: (copy.deepcopy(model).double(), right) for epoch, model, _, right in found}


def judge(run: Run) -> Row:
    """Return how much of one picture comes back, on what it rests, and in which time."""
    row: Row = {}
    if run.kind == "trained":
        model, row["accuracy"] = course(run.filters, run.kernel)[run.epochs]
        images, labels = digits()
        seen = step(model, network(run), images[int(run.picture)], int(labels[int(run.picture)]))
    else:
        seen = sample_step(network(run), run.picture, seed=SEED + runs().index(run))
    start = time.process_time()
    result = ca.reconstruct(seen.network, seen.parameters, seen.gradients, batch=1, seed=SEED)
    seconds = time.process_time() - start
    return row | told(result, seen) | {"cpu_s": round(seconds, 3)}


def told(result: Reconstruction, seen: Capture) -> Row:
    """Return what came back of a known input."""
    truth = seen.truth
    assert truth is not None
    second = next(line for line in result.layers if line.name == seen.network.bilinear[1].name)
    error, bar = np.abs(result.input - truth)[result.determined], result.error_bar[result.determined]
    return {
        "status": result.status.name,
        "determined_share": float(result.determined.mean()),
        "hidden": second.determined / second.unknowns,
        "tied": tied(seen, truth),
        "equations": result.grounds.get(Ground.EQUATIONS, 0),
        "ranged": result.grounds.get(Ground.RANGE, 0),
        "winners": result.grounds.get(Ground.WINNERS, 0),
        "wrong": int(np.count_nonzero(error > np.maximum(WRONG, CLAIM * bar))),
        "largest_error": float(error.max(initial=0.0)),
    }


def tied(seen: Capture, truth: FloatArray) -> float:
    """Return the share of live windows of the first max-pool that several entries win."""
    parameters = {name: a.astype(float) for name, a in seen.parameters.items()}
    values = seen.network.forward(parameters, truth)
    pool = next(layer for layer in seen.network if layer.is_selection)
    entries = values[pool.inputs[0]].ravel()[windows(pool)]
    live = entries.max(axis=1) > 0
    return float(((entries == entries.max(axis=1, keepdims=True)).sum(axis=1) > 1)[live].mean())
