"""A photograph, what LeNet-O gives away of it through one gradient, and the error.

Question: What does a single gradient give away of a photograph?

Hypothesis: All of it, to rounding: LeNet-O has as many filters as it needs.

Finding: Every one of the 3,072 values, with 288 dB in float64 and 119 dB in float32; the error bars promise 284 and
115 dB.

One row a precision: the CIFAR-10 sample of the front page through LeNet-O with ReLU at weights from U(-0.5, 0.5).
Columns: see `measured.MEASURED`. Truth and reconstruction lie beside the rows.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import constraint_algebra as ca
from analysis.executors import Row
from analysis.measured import MEASURED, measured
from constraint_algebra.experiments.capture import from_image
from constraint_algebra.experiments.recipe import Recipe

SEED = 0
SAMPLE = "cifar10:7"


class Run(NamedTuple):
    """A precision of parameters and gradients."""

    dtype: str


COLUMNS = (*Run._fields, *MEASURED, "cpu_s")


def runs(*, quick: bool = False) -> list[Run]:
    """Return both precisions; a quick study has the first."""
    return [Run("float64"), Run("float32")][: 1 if quick else None]


def judge(run: Run) -> Row:
    """Return how well the photograph comes back, and both images `(3, 32, 32)`."""
    seen = from_image(Recipe("lenet-o", SEED, dtype=run.dtype), SAMPLE)
    assert seen.truth is not None
    truth = seen.truth.astype(run.dtype).astype(float)  # what the model was given
    start = time.process_time()
    result = ca.reconstruct(seen.network, seen.parameters, seen.gradients, loss=seen.loss, seed=SEED)
    row = measured(result, truth, seen.network) | {"cpu_s": round(time.process_time() - start, 3)}
    return row | {"arrays": {"truth": truth, "reconstruction": result.input, "determined": result.determined}}
