"""Exact ranks a minute and core at 32×32: python -m pytest tests/benchmarks/bench_exact_rank.py -s (pytest-benchmark).

Goal: 2,000 a minute on two cores. Takes a minute, in one process with one thread. The layers are drawn once from the
grid of the study `rank_vs_filters`, the same ones each time; a few of them take most of the time. Processor time
counts, so that other programs disturb little.
"""

import itertools
import time

import numpy as np
import pytest

from analysis.rank_vs_filters import CHANNELS, FILTERS, KERNELS, PADDINGS, STRIDES, Run, layer_of, proved_full
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge

SIZE, COUNT, SEED = 32, 200, 0
SETS = {
    "gradient equations, up to 16 channels": ("gradient", CHANNELS, KERNELS, PADDINGS),
    "both kinds, 3 channels, kernels 3 and 5": ("both", (3,), (3, 5), ("half",)),
    "both kinds, up to 16 channels": ("both", CHANNELS, KERNELS, PADDINGS),
}


def drawn(equations: str, channels, kernels, paddings) -> list[Run]:
    """Return layers of 32×32 drawn at random from the study's grid, all where there are fewer."""
    grid = list(itertools.product((equations,), channels, (SIZE,), kernels, STRIDES, paddings, FILTERS))
    chosen = np.random.default_rng(SEED).choice(len(grid), min(COUNT, len(grid)), replace=False)
    return [Run(*grid[number]) for number in sorted(chosen)]


def ranks(layers: list[Run]) -> float:
    """Settle the rank of every layer, as the study does; return processor seconds."""
    start = time.process_time()
    for run in layers:
        layer = layer_of(run)
        seen = np.zeros(layer.output_shape, dtype=bool) if run.equations == "gradient" else None
        known = Knowledge.of(layer, output=seen)
        found = proved_full(layer, known) or bounded_rank(layer, knowledge=known, seed=SEED)
        assert 0 < found.low <= found.unknowns
    return time.process_time() - start


@pytest.mark.parametrize("name", SETS)
def test_exact_ranks_a_minute(benchmark, name) -> None:
    layers = drawn(*SETS[name])
    seconds = benchmark.pedantic(lambda: ranks(layers), rounds=1)
    benchmark.extra_info["rows_a_minute"] = round(60 * len(layers) / seconds)
    print(f"\n{name}: {60 * len(layers) / seconds:,.0f} rows a minute and core")  # noqa: T201
