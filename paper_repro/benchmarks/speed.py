"""CPU time of the library beside the published R-CONV algorithm, in the same run on the same gradients.

    python -m paper_repro.benchmarks.speed --quick

One BLAS thread, the median of several repetitions, CPU time: wall time on a shared machine says little. Both get the
same float64 arithmetic and the same machine, so that the ratio means something elsewhere as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import constraint_algebra as ca
from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.experiments.capture import Capture, from_image
from constraint_algebra.experiments.metrics import psnr
from constraint_algebra.experiments.recipe import Recipe
from paper_repro.baselines import BaselineResult, Outcome
from paper_repro.baselines.rconv_published import rconv_published
from paper_repro.benchmarks import layer_steps, measure

NETWORKS = (
    "lenet",
    "lenet-o",
    "cnn6-o",
    "lenet-4relu",
    "rconv-relu",
    "rconv-leakyrelu",
    "rconv-sigmoid",
    "rconv-tanh",
    "lenet-all-relu",
)
LAYERED = ("lenet-o", "lenet-dlg", "lenet-all-relu")
DTYPES = ("float32", "float64")
IMAGE, SEED = "cifar10:7", 1


def reconstruction(network: str, dtype: str, *, repetitions: int, limit: float) -> dict[str, object]:
    """Return the row of one network: CPU seconds of the library and of the published algorithm, and how good they are.

    Args:
        network: a name of the zoo.
        dtype: of parameters and gradients.
        repetitions: of the library; the published algorithm gets fewer where they take long.
        limit: seconds for one run of the published algorithm; beyond, the ratio is a lower bound.
    """
    step = from_image(Recipe(network, SEED, dtype=dtype), IMAGE)
    given = step.network, step.parameters, step.gradients
    ours = measure.timed(lambda: ca.reconstruct(*given, loss=step.loss), repetitions)
    theirs = measure.timed(lambda: rconv_published(*given, time_limit=limit), repetitions, budget=12.0)
    published: BaselineResult = theirs.value
    return {
        "network": network,
        "dtype": dtype,
        "library": ours.median,
        "published": theirs.median,
        "ratio": theirs.median / ours.median,
        "at least": published.outcome is not Outcome.FINISHED,
        "library PSNR": _quality(step, ours.value.input),
        "published PSNR": _quality(step, published.input),
        "library says": ours.value.status.name,
        "published says": published.reason or published.outcome.name,
        "repetitions": f"{len(ours.seconds)} and {len(theirs.seconds)}",
    }


def _quality(step: Capture, x: np.ndarray | None) -> float:
    if x is None or not np.isfinite(x).all():
        return np.nan
    dtype = next(iter(step.parameters.values())).dtype
    assert step.truth is not None
    return psnr(x, step.truth.astype(dtype).astype(float))


def main(
    network: Annotated[list[str] | None, typer.Option(help="Networks to reconstruct through; by default nine.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Precisions; by default float32 and float64.")] = None,
    layers: Annotated[list[str] | None, typer.Option(help="Networks timed layer by layer; by default three.")] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Repetitions of which the median counts.")] = 5,
    limit: Annotated[float, typer.Option(help="Seconds for one run of the published algorithm.")] = 600.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Three repetitions, 15 seconds, LeNet-O layer by layer.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder; rows are appended to its CSV files.")] = measure.RESULTS,
) -> None:
    """Time reconstruction, assembly, rank and determinacy, each beside the published algorithm."""
    if quick:
        repetitions, limit = min(repetitions, 3), min(limit, 15.0)
    networks, dtypes = network or NETWORKS, dtype or DTYPES
    layered = layers or (LAYERED[:1] if quick else LAYERED)
    tables: dict[str, list[dict[str, object]]] = {"reconstruction": [], "layers": []}
    with measure.progress(len(networks) * len(dtypes) + len(layered), "speed") as advance:
        for name in networks:
            for kind in dtypes:
                tables["reconstruction"].append(reconstruction(name, kind, repetitions=repetitions, limit=limit))
                advance(f"{name}, {kind}")
        for name in layered:
            tables["layers"] += layer_steps.rows(name, repetitions=repetitions, limit=limit)
            advance(f"layers of {name}")
    for title, rows in tables.items():
        for row in rows:
            measure.append(out / f"speed_{title}.csv", row | measure.provenance())
        measure.show(readable(pd.DataFrame(rows)), f"CPU seconds: {title}")
    measure.say(f"rows appended to {out}/speed_*.csv")


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table for the screen, in which a ratio that is a lower bound says so."""
    if rows.empty:
        return rows
    ratio = [
        f"{'> ' if least else ''}{value:.3g}" for value, least in zip(rows["ratio"], rows["at least"], strict=True)
    ]
    hidden = [name for name in ("at least", "repetitions") if name in rows]
    return rows.assign(ratio=ratio).drop(columns=hidden)


if __name__ == "__main__":
    run_alone(main)
