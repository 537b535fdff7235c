"""Large layers: one by itself, and chains as wide as the convolutions of a CIFAR ResNet-18, each in its own process.

    python -m paper_repro.benchmarks.large
    python -m paper_repro.benchmarks.large --case "layer 64/2" --case "chain 2"

A layer: values drawn at random, of the outputs a given share active (the others are zeros after ReLU, with zero
gradients), everything known in float64. A chain: the first convolutions of ResNet-18 without its shortcuts (64 filters
five times, then 128 with stride 2), ReLU, He's initialisation with biases of 0.3, one step's gradient of a CIFAR-10
sample in float64. One BLAS thread, but for the factor of a layer that the iteration does not get through; a number in
the environment is respected. All cases take about an hour, those up to "chain 3" three minutes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer

from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.numerics.workers import workers
from paper_repro.benchmarks import measure

if TYPE_CHECKING:
    from constraint_algebra.networks.network import Network

WIDTHS = ((64, 1),) * 5 + ((128, 2),) + ((128, 1),) * 3 + ((256, 2),) + ((256, 1),) * 3 + ((512, 2),) + ((512, 1),) * 3
BIAS = 0.3
SAMPLE, LABEL = "cifar10:7", 1
Row = dict[str, object]


@one_blas_thread()
def layer(filters: int, stride: int, size: int, active: float, channels: int = 64) -> Row:
    """Return the row of one 3×3 convolution with padding 1; `condition` is NaN where it is too large to tell."""
    import constraint_algebra as ca
    from constraint_algebra.layers import trilinear
    from constraint_algebra.solvers.noisy_equations import LayerEquations
    from constraint_algebra.solvers.two_stage import TwoStage

    placed = ca.Conv2d(filters, 3, stride=stride, padding=1).place((channels, size, size))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(placed.weight_shape) / np.sqrt(9 * channels)
    x = rng.random(placed.input_shape)
    passes = rng.random(placed.output_shape) < active
    k = rng.standard_normal(placed.output_shape) * passes
    z, gradient = trilinear.forward(placed, weight, x), trilinear.weight_gradient(placed, k, x)
    rounding, scale = 3 * float(np.finfo(float).eps), float(np.sqrt((x**2).mean()))
    row_sizes = np.sqrt(trilinear.row_sums(placed, k**2))
    filter_sizes = np.sqrt((weight**2).sum(axis=(1, 2, 3), keepdims=True))[:, 0]
    started = _clocks()
    stages = TwoStage(
        LayerEquations(
            layer=placed,
            weight=weight,
            output_gradient=k,
            gradient_rows=row_sizes > 0,
            gradient_noise=np.where(row_sizes > 0, rounding * scale * row_sizes, 1.0),
            weight_gradient=gradient,
            output=np.where(passes, z, np.nan),
            output_noise=np.broadcast_to(rounding * scale * filter_sizes, z.shape),
            scale=scale,
        )
    )
    error = np.abs(stages.solve(gradient[..., None], np.where(passes, z, 0.0)[..., None])[..., 0] - x)
    determined = stages.verdict.determined
    return {
        "unknowns": placed.unknowns,
        "determined": int(determined.sum()),
        "gap_low": stages.verdict.gap[0],
        "gap_high": stages.verdict.gap[1],
        "status": "settled" if stages.verdict.settled else "not settled",
        "largest_error": float(error[determined].max(initial=0.0)),
    } | _spent(started)


def chain(depth: int, seed: int = 0) -> Row:
    """Return the row of a chain of that many convolutions, Flatten and a linear head with 10 outputs."""
    import torch

    import constraint_algebra as ca
    from constraint_algebra import samples
    from constraint_algebra.pytorch.gradients import to_numpy

    network = chain_of(depth)
    model = ca.to_torch(network, seed=seed, init="default", dtype="float64")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, generator=generator)
                assert module.bias is not None
                torch.nn.init.constant_(module.bias, BIAS)
    image = samples.load(SAMPLE).image.astype(float)
    gradients = ca.torch_gradients(model, image, LABEL)
    started = _clocks()
    result = ca.reconstruct(network, {name: to_numpy(p) for name, p in model.named_parameters()}, gradients)
    spent = _spent(started)
    known = result.determined
    error, bar = np.abs(result.input - image)[known], result.error_bar[known]
    return {
        "unknowns": max(placed.unknowns for placed in network.bilinear),
        "determined": int(known.sum()),
        "status": result.status.name,
        "largest_error": float(error.max(initial=0.0)),
        "within_1_bar": float(np.mean(error <= bar)) if known.any() else np.nan,
        "within_4_bars": float(np.mean(error <= 4 * bar)) if known.any() else np.nan,
    } | spent


def chain_of(depth: int, input_shape: tuple[int, int, int] = (3, 32, 32)) -> Network:
    """Return the first convolutions of a CIFAR ResNet-18 as a plain chain, each with ReLU, and a linear head."""
    import constraint_algebra as ca

    layers: list[Any] = []
    for filters, stride in WIDTHS[:depth]:
        layers += [ca.Conv2d(filters, 3, stride=stride, padding=1), ca.ReLU()]
    return ca.Network(input_shape, [*layers, ca.Flatten(), ca.Linear(10)])


CASES: dict[str, Callable[[], Row]] = {
    "layer 128/2": partial(layer, filters=128, stride=2, size=32, active=0.5),
    "layer 64/1": partial(layer, filters=64, stride=1, size=32, active=0.5),
    "layer 64/1 at 56×56": partial(layer, filters=64, stride=1, size=56, active=1.0),
} | {f"chain {depth}": partial(chain, depth=depth) for depth in (1, 2, 3, 4, 5, 6)}
COLUMNS = (
    *("case", "unknowns", "determined", "status", "gap_low", "gap_high", "largest_error"),
    *("within_1_bar", "within_4_bars", "cpu_s", "wall_s", "peak_MB"),
)


def _clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _spent(started: tuple[float, float]) -> Row:
    """Return seconds of CPU and on the clock since `started`, and the peak memory of the process in MB."""
    cpu, wall = _clocks()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": cpu - started[0], "wall_s": wall - started[1], "peak_MB": peak}


def main(
    case: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(CASES)}; by default all.")] = None,
    out: Annotated[Path, typer.Option(help="CSV file; rows are appended.")] = measure.RESULTS / "large.csv",
) -> None:
    """Solve large layers and chains of them, and compare with the truth."""
    wanted = case or list(CASES)
    if unknown := [name for name in wanted if name not in CASES]:
        raise typer.BadParameter(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    rows = []
    with measure.progress(len(wanted), "cases") as advance:
        for name in wanted:
            with workers(1) as pool:
                found = {"case": name} | pool.submit(CASES[name]).result()
            rows.append({column: found.get(column) for column in COLUMNS})
            measure.append(out, rows[-1] | measure.provenance())
            advance(name)
    measure.show(pd.DataFrame(rows), "Large layers and chains, one process each")
    measure.say(f"rows appended to {out}")


if __name__ == "__main__":
    run_alone(main)
