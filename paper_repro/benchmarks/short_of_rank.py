"""Networks with ReLU whose recursion may end for want of rank: equations alone, all that is known, the published way.

    python -m paper_repro.benchmarks.short_of_rank --seeds 2
    python -m paper_repro.benchmarks.short_of_rank --first-seed 100 --seeds 60 --dtype float64 --processes 2

One row a run: LeNet with four ReLU, or CNN6-O with ReLU from the second activation on, at weights from U(-0.5, 0.5),
on a CIFAR-10 sample. Interrupted, it goes on where it stopped. The threat model is that of the library.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import typer

from analysis.runner import run_study
from constraint_algebra.arrays import FloatArray
from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.ground import Ground
from constraint_algebra.layers import ReLU
from constraint_algebra.networks import zoo
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.result import Reconstruction
from paper_repro.baselines.rconv_published import rconv_published
from paper_repro.benchmarks import measure
from paper_repro.benchmarks.accuracy import CLAIM

Row = dict[str, object]

NETWORKS = ("lenet-4relu", "cnn6-o-relu")
DTYPES = ("float64", "float32")
IMAGES = 20  # samples, one after the other with the seeds
EXACT = 1e-9  # largest error of a run in float64 that came back exactly
RETURNED = 1e-3  # largest error of a run that came back at all, for every method and precision
LIMIT = 300.0  # seconds of processor time for the published algorithm
FILE = measure.RESULTS / "short_of_rank.csv"


class Run(NamedTuple):
    """One gradient: which network, precision, seed of the weights, and sample."""

    network: str
    dtype: str
    seed: int
    image: int


COLUMNS = (
    *Run._fields,
    *("values", "alone_status", "alone_determined", "alone_error", "alone_cpu"),
    *("status", "determined", *(ground.label for ground in Ground)),
    *("error_largest", "bar_largest", "wrong", "within4", "cpu", "stopped_at"),
    *("published_outcome", "published_error", "published_cpu", "published_reason", "error"),
)


def network(name: str) -> Network:
    """Return the network of a run: one of the zoo, or one of the zoo with ReLU from its second activation on.

    >>> [layer.activation for layer in network("cnn6-o-relu").layers if layer.is_activation][:3]
    [LeakyReLU(slope=0.2), ReLU(), ReLU()]
    """
    found = zoo.network(name.removesuffix("-relu"))
    if not name.endswith("-relu"):
        return found
    first = next(layer.index for layer in found.layers if layer.is_activation)
    layers = [ReLU() if layer.is_activation and layer.index > first else layer.layer for layer in found.layers]
    return Network(found.input_shape, layers)


def step_of(run: Run) -> Capture:
    """Return the training step of a run."""
    from analysis.subjects import sample_step

    return sample_step(network(run.network), f"cifar10:{run.image}", seed=run.seed, dtype=run.dtype, init="uniform")


def judge(run: Run) -> Row:
    """Return the row of one run.

    The columns:

    - values: number of input values.
    - alone_status, alone_determined, alone_error, alone_cpu: by equations alone (`search=0`): status, number of values
      determined, the largest error of these, seconds.
    - status, determined, equations, range, ...: the same with all that is known, and how many values rest on what.
    - error_largest, bar_largest: the largest error of a determined value, and the largest error bar.
    - wrong: determined values whose error exceeds 100 error bars and 1e-4, in float64 1e-9.
    - within4: share of the errors within four error bars.
    - cpu: seconds of processor time, equations included. stopped_at: the layer whose input stayed open, if any.
    - published_outcome, published_error, published_cpu: of the published algorithm; the error is that of its image.
    """
    import constraint_algebra as ca

    step = step_of(run)
    assert step.truth is not None
    given = step.network, step.parameters, step.gradients
    row: Row = {"values": step.truth.size}
    start = time.process_time()
    alone = ca.reconstruct(*given, loss=step.loss, batch=1, search=0)
    row |= {"alone_cpu": time.process_time() - start, "alone_status": alone.status.name}
    row |= {"alone_determined": int(alone.determined.sum()), "alone_error": _largest_error(alone, step.truth)}
    start = time.process_time()
    found = ca.reconstruct(*given, loss=step.loss, batch=1)
    row |= {"cpu": time.process_time() - start} | told(found, step.truth, run.dtype)
    published = rconv_published(*given, seed=run.seed, time_limit=LIMIT)
    error = np.nan if published.input is None else float(np.abs(published.input - step.truth).max())
    row |= {"published_outcome": published.outcome.name, "published_error": error, "published_cpu": published.cpu}
    return row | {"published_reason": published.reason}


def told(result: Reconstruction, truth: FloatArray, dtype: str) -> Row:
    """Return the columns of `judge` that follow from a result and the truth."""
    known = result.determined
    error, bar = np.abs(result.input - truth)[known], result.error_bar[known]
    allowed = np.maximum(CLAIM * bar, 1e-4 if dtype == "float32" else EXACT)
    stops = [f"layer {layer.name}" for layer in result.layers if layer.determined < layer.unknowns]
    return {
        "status": result.status.name,
        "determined": int(known.sum()),
        **{ground.label: int((result.ground == ground).sum()) for ground in Ground},
        "error_largest": _largest_error(result, truth),
        "bar_largest": float(bar.max()) if bar.size else np.nan,
        "wrong": int(np.count_nonzero(~(error <= allowed))),
        "within4": float(np.mean(error <= 4 * bar)) if bar.size else np.nan,
        "stopped_at": stops[-1] if stops else "",
    }


def _largest_error(result: Reconstruction, truth: FloatArray) -> float:
    known = result.determined
    return float(np.abs(result.input - truth)[known].max()) if known.any() else np.nan


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each network and precision.

    - alone: runs in which equations determine every value, and all that is known does: "all"; of those that are open
      by equations alone, how many "come back" whole with an error below 1e-3, and "exactly" below 1e-9.
    - by range, zeros, bits: runs that come back, by the weakest ground of their values.
    - wrong: runs with a value that is called determined and is wrong.
    - published: runs whose image by the published algorithm has an error below 1e-3.
    - s: median seconds of processor time.
    """
    lines = []
    for (name, dtype), group in rows.groupby(["network", "dtype"], sort=False):
        whole = group["determined"] == group["values"]
        back = whole & (group["error_largest"] < RETURNED)
        was_open = group["alone_determined"] < group["values"]
        weakest = {
            ground.label: int((back & was_open & (group["status"] == status)).sum())
            for ground, status in ((Ground.RANGE, "GIVEN_RANGE"), (Ground.ZEROS, "BY_ZEROS"), (Ground.BITS, "BY_BITS"))
        }
        lines.append(
            {
                "network": name,
                "dtype": dtype,
                "runs": len(group),
                "alone": int((~was_open & (group["alone_error"] < RETURNED)).sum()),
                "all": int(back.sum()),
                "open": int(was_open.sum()),
                "come back": int((back & was_open).sum()),
                "exactly": int((whole & was_open & (group["error_largest"] <= EXACT)).sum()),
                **{f"by {label}": count for label, count in weakest.items()},
                "wrong": int((group["wrong"] > 0).sum()),
                "published": int((group["published_error"] < RETURNED).sum()),
                "s alone": group["alone_cpu"].median(),
                "s": group["cpu"].median(),
                "s published": group["published_cpu"].median(),
            }
        )
    return pd.DataFrame(lines)


def run(runs: Iterable[Run], path: Path, processes: int = 1, *, restart: bool = False) -> pd.DataFrame:
    """Do the runs that the file does not hold yet, each appended as it ends; return all that were asked for."""
    constant = measure.provenance()
    return run_study(runs, path, COLUMNS, judge, processes=processes, what="runs", constant=constant, restart=restart)


def line(row: pd.Series) -> str:
    """Return one run in words."""
    name = f"{row['network']}, {row['dtype']}, seed {row['seed']}, cifar10:{row['image']}"
    if isinstance(row["error"], str):
        return f"{name}: {row['error']}"
    counts = ", ".join(f"{row[ground.label]:.0f} {ground.label}" for ground in Ground if row[ground.label])
    stop = f", open from {row['stopped_at']} on" if isinstance(row["stopped_at"], str) else ""
    ours = f"{row['alone_status']} by equations in {row['alone_cpu']:.1f} s, {row['status']} ({counts or 'nothing'}"
    error = "" if np.isnan(row["error_largest"]) else f", error {row['error_largest']:.0e}"
    theirs = f"published {row['published_outcome']}, error {row['published_error']:.0e}, {row['published_cpu']:.1f} s"
    return f"{name}: {ours}{error}{stop}) in {row['cpu']:.1f} s; {theirs}"


def main(
    network: Annotated[list[str] | None, typer.Option(help=f"Networks; by default {' and '.join(NETWORKS)}.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Precisions; by default float64 and float32.")] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first run.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; sample and weights change with each.")] = 60,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = os.cpu_count() or 1,
    out: Annotated[Path, typer.Option(help="CSV file; runs that it holds are not repeated.")] = FILE,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew: remove the file first.")] = False,
) -> None:
    """Reconstruct by equations alone, by all that is known, and as published, from the same gradients."""
    numbers = range(first_seed, first_seed + seeds)
    order = itertools.product(network or NETWORKS, dtype or DTYPES, numbers)
    rows = run([Run(*key, key[-1] % IMAGES) for key in order], out, processes, restart=restart)
    for _, row in rows.iterrows():
        measure.say(line(row))
    measure.show(summary(rows), "Networks with ReLU, short of rank")
    measure.say(f"{len(rows)} runs in {out}")


if __name__ == "__main__":
    run_alone(main)
