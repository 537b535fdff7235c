"""Counted, structural and exact rank of a layer against its number of filters.

Question: How far off is counting equations, over kernels, strides, paddings, sizes and numbers of filters?

Hypothesis: Counting is right for stride 1 and too high for larger strides, where the polyphase law leaves some
residue classes short of taps; weight and gradient equations together lose their F² dependencies on top, which no
sparsity pattern shows.

Finding: Of 3,060 layers of which gradient equations alone count, counting calls 1,659 determined and is wrong about
484: 4 of 553 at stride 1, 211 at stride 2 and 269 at stride 3, by up to 61 % of the unknowns (44 % where the kernel is
no smaller than the stride). Residue classes are the reason: the structural rank, which sees them, is too high in 12 of
2,969 cases only. The exceptions at stride 1 are large kernels on 8×8 pixels without padding, whose few outputs the
taps share. With weight equations counting is wrong about 346 of 1,704 layers that it calls determined, and now the
structural rank is too high in 554 of 2,161 cases, in 490 of them by exactly F². In 7 layers with one filter on 16
channels the bounds of the rank do not meet.

One row a configuration: a convolution with square kernel, stride and padding on a square input, all outputs active
and known; `equations` says whether gradient equations alone or weight and gradient equations count. `rank` is exact
for almost all weights and output gradients (see `constraint_algebra.ranks.bounded`); `low` and `high` bound it, and it
is missing where they differ. `structural_rank` is missing where the graph is too large.
"""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.generic import KINDS, GenericRank
from constraint_algebra.ranks.knowledge import Knowledge, gradient_rows
from constraint_algebra.ranks.polyphase import polyphase_law
from constraint_algebra.ranks.structural import layer_structural_rank

SEED = 0
KERNELS, STRIDES, SIZES, CHANNELS = (2, 3, 4, 5, 7), (1, 2, 3), (8, 16, 32), (3, 16)
PADDINGS = ("none", "half")  # half of the kernel, rounded down
FILTERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
STAIRS = range(1, 73)  # every number of filters, for some layers, to see single steps
EQUATIONS = ("gradient", "both")
EDGES = 300_000  # edges of the largest graph whose structural rank is found


class Run(NamedTuple):
    """A layer, and which of its equations count."""

    equations: str
    channels: int
    size: int
    kernel: int
    stride: int
    padding: str
    filters: int


COLUMNS = (
    *Run._fields,
    *("unknowns", "weight_rows", "gradient_rows", "counted", "structural_rank", "rank", "low", "high", "determined"),
    *("error_probability", "rank_cpu_s", "structural_cpu_s"),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has fewer of everything."""
    if quick:
        return [Run(*key) for key in itertools.product(EQUATIONS, (3,), (16,), (3, 5), (1, 2), ("half",), FILTERS[::2])]
    grid = [Run(*key) for key in itertools.product(EQUATIONS, CHANNELS, SIZES, KERNELS, STRIDES, PADDINGS, FILTERS)]
    chosen = [run for run in grid if run.equations == "gradient" or run.size < 32 or is_chosen(run)]
    stairs = itertools.product(EQUATIONS, (3,), (16,), (3, 5), STRIDES, ("half",), STAIRS)
    return list(dict.fromkeys([*chosen, *(Run(*key) for key in stairs)]))


def is_chosen(run: Run) -> bool:
    """Whether both kinds of equations are eliminated for a 32×32 layer, which takes most of the time."""
    return run.channels == 3 and run.kernel in {3, 5} and run.padding == "half"


def layer_of(run: Run) -> PlacedLayer:
    """Return the layer at its place."""
    conv = ca.Conv2d(
        run.filters, run.kernel, stride=run.stride, padding=run.kernel // 2 if run.padding == "half" else 0
    )
    return conv.place((run.channels, run.size, run.size))


def judge(run: Run) -> Row:
    """Return the ranks of one layer, and CPU seconds of the exact and of the structural one."""
    layer = layer_of(run)
    seen = np.zeros(layer.output_shape, dtype=bool) if run.equations == "gradient" else None
    known = Knowledge.of(layer, output=seen)  # without outputs there are no weight equations
    start = time.process_time()
    found = proved_full(layer, known) or bounded_rank(layer, knowledge=known, seed=SEED)
    middle = time.process_time()
    structural: int | None = found.unknowns  # never below the generic rank
    if found.low < found.unknowns:
        structural = layer_structural_rank(layer, known, generic_low=found.low, edges=EDGES, seed=SEED)
    return {
        "unknowns": found.unknowns,
        "weight_rows": found.weight_rows,
        "gradient_rows": found.gradient_rows,
        "counted": found.counted,
        "structural_rank": structural,
        "rank": found.rank,
        "low": found.low,
        "high": found.high,
        "determined": None if found.determined is None else int(found.determined.sum()),
        "error_probability": found.error,
        "rank_cpu_s": round(middle - start, 4),
        "structural_cpu_s": round(time.process_time() - middle, 4),
    }


def proved_full(layer: PlacedLayer, known: Knowledge) -> GenericRank | None:
    """Return the rank of a layer whose gradient equations alone have full rank by the closed form of the polyphase law.

    That takes no elimination. `None` where the closed form does not say so.
    """
    if layer.channels * polyphase_law(layer, limit=0).low < layer.unknowns:
        return None
    weight, gradient = int(known.output.sum()), layer.channels * int(gradient_rows(layer, known).sum())
    full, everything = layer.unknowns, np.ones(layer.input_shape, dtype=bool)
    return GenericRank(KINDS, weight, gradient, full, full, 0, full, full, everything, 0.0)
