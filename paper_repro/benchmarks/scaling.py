"""How reconstruction grows with resolution: ImageNet samples of 32 to 224 pixels, each in a process of its own.

    python -m paper_repro.benchmarks.scaling
    python -m paper_repro.benchmarks.scaling --resolution 32 --resolution 64

The network has the first layer of LeNet (12 filters 5/2/2, LeakyReLU), whose weight equations are square and whose
gradient equations are 900 in number at any resolution, then two layers of patches. At all resolutions every layer is
determined. One BLAS thread, unless the environment says otherwise.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.numerics.workers import workers
from paper_repro.benchmarks import measure

RESOLUTIONS = (32, 64, 128, 224)
SAMPLE, SEED, LABEL = "imagenet:3", 0, 1


def run(resolution: int) -> dict[str, object]:
    """Return the row of one resolution.

    The columns: unknowns of the first layer; seconds of CPU and on the clock of `reconstruct` alone; peak memory of the
    process in MB, PyTorch included; PSNR and largest error over all values, for values in [0, 1]; status and condition.
    """
    import constraint_algebra as ca
    from constraint_algebra.experiments import metrics
    from constraint_algebra.pytorch.gradients import to_numpy

    network = ca.Network(
        (3, resolution, resolution),
        [
            *(ca.Conv2d(12, 5, stride=2, padding=2), ca.LeakyReLU(0.2)),
            *(ca.Conv2d(384, 4, stride=4), ca.LeakyReLU(0.2)),
            *(ca.Conv2d(64, 4, stride=4), ca.LeakyReLU(0.2)),
            *(ca.Flatten(), ca.Linear(10)),
        ],
    )
    model = ca.to_torch(network, seed=SEED, init="uniform", dtype="float64")
    image = picture(resolution)
    gradients = ca.torch_gradients(model, image, LABEL)
    parameters = {name: to_numpy(p) for name, p in model.named_parameters()}
    cpu, wall = time.process_time(), time.perf_counter()
    result = ca.reconstruct(network, parameters, gradients)
    error = np.abs(result.input - image)
    return {
        "resolution": resolution,
        "unknowns": network[0].unknowns,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "psnr_dB": metrics.psnr(result.input, image, data_range=1.0),
        "largest_error": float(error.max()),
        "within_4_bars": float(np.mean(error <= 4 * result.error_bar)),
        "determined": int(result.determined.sum()),
        "status": result.status.name,
        "condition": result.layers[0].condition,
    }


def picture(resolution: int) -> NDArray[np.float64]:
    """Return the ImageNet sample at another resolution, `(3, resolution, resolution)` in [0, 1]."""
    from PIL import Image

    from constraint_algebra import samples

    image = samples.load(SAMPLE).image
    channels = [Image.fromarray(np.round(255 * channel).astype(np.uint8)) for channel in image]
    return np.stack([np.asarray(channel.resize((resolution, resolution))) / 255 for channel in channels])


def main(
    resolution: Annotated[list[int] | None, typer.Option(help="Pixels along each side; by default four.")] = None,
    out: Annotated[Path, typer.Option(help="CSV file; rows are appended.")] = measure.RESULTS / "scaling.csv",
) -> None:
    """Reconstruct one image at several resolutions through a network whose layers are all determined."""
    rows = []
    sizes = resolution or list(RESOLUTIONS)
    with measure.progress(len(sizes), "resolutions") as advance:
        for size in sizes:
            with workers(1, measure.keep_one_thread) as pool:
                rows.append(pool.submit(run, size).result())
            measure.append(out, rows[-1] | measure.provenance())
            advance(f"{size} pixels")
    measure.show(pd.DataFrame(rows), "Reconstruction by resolution, one process each")
    measure.say(f"rows appended to {out}")


if __name__ == "__main__":
    run_alone(main)
