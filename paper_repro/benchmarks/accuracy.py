"""How well the library reconstructs: networks × images × seeds × precisions, one CSV row a run, one table row a net.

    python -m paper_repro.benchmarks.accuracy --quick
    python -m paper_repro.benchmarks.accuracy --dtype float32 --dtype float64 --processes 2

Interrupted, it goes on where it stopped. The threat model is that of the library: one step's gradient, architecture
and weights are known.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from analysis.runner import run_study
from constraint_algebra.arrays import Arrays, FloatArray
from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.ground import Ground
from paper_repro.benchmarks import measure, verdicts

Row = dict[str, object]

NETWORKS = (
    "rconv-relu",
    "rconv-leakyrelu",
    "rconv-sigmoid",
    "rconv-tanh",
    "lenet",
    "lenet-o",
    "cnn6-o",
    "lenet-4relu",
    "lenet-all-relu",
)
DTYPES = ("float32", "float64")
IMAGES = tuple(range(20))
SEEDS = tuple(range(5))
RECONSTRUCTED = 80.0  # decibels
CALIBRATED = 0.9  # share of errors within four bars below which a single run is reported
CLAIM = 100.0  # error bars beyond which a value that was called determined is wrong
FILE = measure.RESULTS / "accuracy.csv"


class Run(NamedTuple):
    """One reconstruction to do: which network, precision, weights and image.

    `noise` is the standard deviation of Gaussian noise on the gradient, relative to each parameter's RMS gradient.
    """

    network: str
    dtype: str
    noise: float
    seed: int
    image: int

    def __str__(self) -> str:
        """Return the run in words."""
        noise = f"noise {self.noise:g}, " if self.noise else ""
        return f"{self.network}, {self.dtype}, {noise}seed {self.seed}, cifar10:{self.image}"


def judge(run: Run) -> Row:
    """Return the row of one run; an exception becomes a row as well.

    The columns:

    - status: that of the result; ZERO GRADIENT where the client's loss is so saturated that every number it shares is
      zero, and the library says so; or EXCEPTION, with its text in `error`.
    - values: number of input values.
    - exact: number of values that the gradient determines by the exact answer, -1 where it is unknown.
    - determined: number of values that the result calls determined.
    - overclaimed, missed: number of values that only the result, by equations, or only the exact answer calls
      determined.
    - wrong: number of values called determined whose error exceeds 100 error bars and 1e-4.
    - mse, psnr, worst: over the values that both call determined; worst is the largest error.
    - promised: the PSNR that the error bars lead one to expect there.
    - within1, within4: share of errors there within one and four error bars.
    - cpu, wall: seconds.
    """
    import constraint_algebra as ca
    from constraint_algebra.experiments.capture import from_image
    from constraint_algebra.experiments.recipe import Recipe

    row: Row = dict(run._asdict())
    step = from_image(Recipe(run.network, run.seed, dtype=run.dtype), f"cifar10:{run.image}")
    assert step.truth is not None
    truth = step.truth.astype(run.dtype).astype(float)  # what the client's model was given
    exact = verdicts.determined(step.network, {n: a.astype(float) for n, a in step.parameters.items()}, truth)
    gradients, deviations = noisy(step.gradients, run)
    zeros = not any(np.any(gradient) for gradient in gradients.values())
    if zeros:
        exact = np.zeros(truth.shape, dtype=bool)  # the masks do not matter where nothing is shared
    row |= {"values": truth.size, "exact": -1 if exact is None else int(exact.sum())}
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        result = ca.reconstruct(step.network, step.parameters, gradients, loss=step.loss, noise=deviations)
    except ca.ZeroGradientError as error:
        counts = dict.fromkeys(("determined", "overclaimed", "missed", "wrong"), 0)
        return row | counts | {"status": "ZERO GRADIENT" if zeros else "EXCEPTION", "error": str(error)}
    except Exception as error:  # the point of the benchmark is to find these
        return row | {"status": "EXCEPTION", "error": f"{type(error).__name__}: {error}"}
    row |= {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "status": result.status.name}
    row |= compared(result.input, result.determined, result.error_bar, truth, exact)
    # The exact answer is that of equations: what the range, zeros and sides decide beyond them is no claim of theirs.
    if exact is not None:
        row["overclaimed"] = int(((result.ground == Ground.EQUATIONS) & ~exact).sum())
    return row


def noisy(gradients: Arrays, run: Run) -> tuple[Arrays, dict[str, float]]:
    """Return gradients with the noise of a run, and its standard deviation for each parameter."""
    rng = np.random.default_rng([run.seed, run.image])
    deviations = {name: run.noise * float(np.sqrt(np.mean(g.astype(float) ** 2))) for name, g in gradients.items()}
    if not run.noise:
        return gradients, deviations
    noise = {name: deviations[name] * rng.standard_normal(g.shape) for name, g in gradients.items()}
    return {name: (g + noise[name]).astype(g.dtype) for name, g in gradients.items()}, deviations


def compared(
    x: FloatArray, determined: NDArray[np.bool_], bar: FloatArray, truth: FloatArray, exact: NDArray[np.bool_] | None
) -> Row:
    """Return the columns of `judge` that follow from a result and the truth, all in the input shape."""
    exact_mask = determined if exact is None else exact
    common = determined & exact_mask
    row: Row = {
        "determined": int(determined.sum()),
        "overclaimed": int((determined & ~exact_mask).sum()),
        "missed": int((exact_mask & ~determined).sum()),
    }
    error = np.abs(np.where(determined, x - truth, 0.0))
    row["wrong"] = int((determined & ~(error <= np.maximum(CLAIM * bar, 1e-4))).sum())
    if not common.any():
        return row
    e, b = error[common], bar[common]
    mse = float(np.mean(e**2))
    return row | {
        "mse": mse,
        "psnr": _psnr(mse),
        "worst": float(e.max()),
        "within1": float(np.mean(e <= b)),
        "within4": float(np.mean(e <= 4 * b)),
        "promised": _psnr(float(np.mean(b**2))),
    }


def _psnr(mse: float) -> float:
    return float(-10 * np.log10(max(mse, np.finfo(float).tiny)))


def failures(rows: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for every run that is not as it should be."""
    for row in rows.to_dict("records"):
        r: dict[str, Any] = {str(name): value for name, value in row.items()}
        name = str(Run(*(r[field] for field in Run._fields)))
        if r["status"] == "EXCEPTION":
            yield f"{name}: {r['error']}"
            continue
        reasons = [
            (r["status"] == "INCONSISTENT", "INCONSISTENT"),
            (r["wrong"] > 0, f"{r['wrong']:.0f} values claimed determined are wrong"),
            (r["overclaimed"] > 0, f"{r['overclaimed']:.0f} values claimed determined are not"),
            (r["missed"] > 0 and not r["noise"], f"{r['missed']:.0f} determined values missed"),
            (
                r["psnr"] < RECONSTRUCTED and not r["noise"],
                f"PSNR {r['psnr']:.1f}, and the error bars promise {r['promised']:.1f}",
            ),
            (r["within4"] < CALIBRATED, f"{r['within4']:.1%} of errors within 4 bars"),
        ]
        found = [words for bad, words in reasons if bad]
        if found:
            yield f"{name}: {'; '.join(found)}"


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each network and precision.

    - determined: runs in which every value is determined, by the exact answer, or by the result where that is unknown.
    - reconstructed: those of them that came back with status DETERMINED and at least 80 dB; with noise, which may well
      leave less, with 90 % of the errors within 4 error bars.
    - false claims: runs that call a value determined that is not, or is wrong, and whose status does not warn.
    - PSNR: of the determined runs.
    - within 1 and 4 bars: share of all errors.
    - CPU s: median.
    """
    lines = []
    for (network, dtype, noise), group in rows.groupby(["network", "dtype", "noise"], sort=False):
        unknown = (group["exact"] < 0) & (group["status"] == "DETERMINED")
        full = group[(group["exact"] == group["values"]) | unknown]
        good = full["within4"] >= CALIBRATED if noise else full["psnr"] >= RECONSTRUCTED
        back = full[(full["status"] == "DETERMINED") & good]
        false = group[(group["status"] != "INCONSISTENT") & ((group["wrong"] > 0) | (group["overclaimed"] > 0))]
        weights = group["determined"].fillna(0)
        lines.append(
            {
                "network": network,
                "dtype": dtype,
                "noise": noise,
                "runs": len(group),
                "exceptions": int((group["status"] == "EXCEPTION").sum()),
                "determined": len(full),
                "reconstructed": len(back),
                "false claims": len(false),
                "median PSNR": full["psnr"].median(),
                "worst PSNR": full["psnr"].min(),
                "within 1 bar": _mean(group["within1"], weights),
                "within 4 bars": _mean(group["within4"], weights),
                "CPU s": group["cpu"].median(),
            }
        )
    return pd.DataFrame(lines)


def _mean(values: pd.Series, weights: pd.Series) -> float:
    known = values.notna()
    return float(np.average(values[known], weights=weights[known])) if weights[known].sum() else np.nan


def run(runs: Iterable[Run], path: Path, processes: int = 1, *, restart: bool = False) -> pd.DataFrame:
    """Do the runs that the file does not hold yet, each appended as it ends; return all that were asked for."""
    constant = measure.provenance()
    return run_study(runs, path, COLUMNS, judge, processes=processes, what="runs", constant=constant, restart=restart)


COLUMNS = (
    *Run._fields,
    *(
        "status",
        "values",
        "exact",
        "determined",
        "overclaimed",
        "missed",
        "wrong",
        "mse",
        "psnr",
        "worst",
        "within1",
        "within4",
    ),
    *("promised", "cpu", "wall", "error"),
)


def main(
    dtype: Annotated[list[str] | None, typer.Option(help="Precisions; by default float32 and float64.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="Networks; by default the nine of the paper.")] = None,
    noise: Annotated[list[float] | None, typer.Option(help="Noise on the gradient, relative to its RMS.")] = None,
    images: Annotated[int, typer.Option(min=1, max=20, help="CIFAR-10 samples, from 0 on.")] = len(IMAGES),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the weights, from 0 on.")] = len(SEEDS),
    quick: Annotated[bool, typer.Option("--quick", help="2 images and 2 seeds.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = os.cpu_count() or 1,
    out: Annotated[Path, typer.Option(help="CSV file; runs that it holds are not repeated.")] = FILE,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew: remove the file first.")] = False,
) -> None:
    """Reconstruct from real gradients, and judge each result against the exact answer and the true image."""
    if quick:
        images, seeds = min(images, 2), min(seeds, 2)
    order = itertools.product(network or NETWORKS, dtype or DTYPES, noise or (0.0,), range(seeds), range(images))
    rows = run([Run(*key) for key in order], out, processes, restart=restart)
    measure.show(summary(rows), "Reconstruction of CIFAR-10 samples")
    for sentence in failures(rows):
        measure.say(f"  {sentence}")
    measure.say(f"{len(rows)} runs in {out}")


if __name__ == "__main__":
    run_alone(main)
