"""One run of the study: a real gradient, a method, and a row of what came of it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import constraint_algebra as ca
from constraint_algebra import samples, zoo
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ConstraintAlgebraError
from constraint_algebra.experiments import metrics
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.files.space import folder_within
from constraint_algebra.files.writing import write
from paper_repro.baselines import BaselineResult, Outcome
from paper_repro.baselines.ambiguity import likeliest
from paper_repro.benchmarks.memory import with_peak_memory
from paper_repro.plan import AS_PUBLISHED, CLASSES, DLG, IDLG, OURS, RCONV, RGAP, Run, is_pictured

Row = dict[str, object]

RECOGNISED, EXACT = 1e-2, 1e-6  # mean squared errors below which a run counts as a success
IMPOSSIBLE = "IMPOSSIBLE"
BROKEN = "EXCEPTION"
COLUMNS = (
    *Run._fields,
    *("outcome", "reason", "values", "determined", "mse", "psnr", "ssim", "recognised", "exact"),
    *("wall", "cpu", "memory_mb", "alternatives", "torch", "library"),
)


class Found(NamedTuple):
    """What a method made of a gradient, whichever it was.

    Attributes:
        image: in the input shape, `None` where the method gives none.
        outcome: the name of its status.
        reason: why it did not succeed, empty where it ran to its end.
        determined: number of values that it calls determined, `None` where it has no such notion.
        alternatives: number of other images that it cannot tell from this one.
        ended: what its last step found, for a run that ends with a wrong image.
    """

    image: FloatArray | None
    outcome: str
    reason: str
    determined: int | None = None
    alternatives: int = 0
    ended: str = ""


def step_of(run: Run) -> Capture:
    """Return the training step that a run reconstructs from, with the image that went in, rounded to its dtype.

    The label is the sample's. A network with one logistic output gets its parity; where that is what the network says
    with such certainty that the gradient is zero, and there is nothing to reconstruct from, the other one.
    """
    entry, sample = zoo.entry(run.network), samples.load(f"{run.dataset}:{run.image}")
    logistic = entry.loss == "logistic"
    network = zoo.network(
        run.network,
        classes=None if logistic else CLASSES[run.dataset],
        activation=None if run.activation == AS_PUBLISHED else run.activation,
        input_shape=(1, 32, 32) if run.dataset == "mnist" else None,
    )
    model = ca.to_torch(network, seed=run.seed, init=run.init, dtype=run.dtype)
    image = samples.fit(sample.image, network.input_shape)
    assert sample.label is not None
    label = sample.label % 2 if logistic else sample.label
    gradients = ca.torch_gradients(model, image, label, loss=entry.loss)
    if logistic and not any(g.any() for g in gradients.values()):
        gradients = ca.torch_gradients(model, image, 1 - label, loss=entry.loss)
    _, parameters = ca.from_torch(model, network.input_shape)
    truth = image.astype(run.dtype).astype(float)
    return Capture(network, parameters, gradients, entry.loss, {}, truth)


def by_library(step: Capture) -> Found:
    """Reconstruct with the library; among several inputs with the same gradient the likeliest counts."""
    result = ca.reconstruct(step.network, step.parameters, step.gradients, loss=step.loss, batch=1)
    candidates = [result, *result.alternatives]
    best = candidates[likeliest([c.guess for c in candidates])] if np.isfinite(result.guess).all() else result
    reason = "" if np.isfinite(best.guess).all() and result.determined.all() else result.conclusion
    return Found(best.guess, result.status.name, reason, int(result.determined.sum()), len(candidates) - 1)


def by_baseline(method: Callable[..., BaselineResult], step: Capture, *, seed: int, limit: float) -> Found:
    """Reconstruct with a baseline."""
    result = method(step.network, step.parameters, step.gradients, seed=seed, time_limit=limit)
    reason = result.reason if result.outcome is not Outcome.FINISHED else ""
    ended = result.steps[-1] if result.steps else ""
    return Found(result.input, result.outcome.name, reason, None, len(result.alternatives), ended)


def method_of(run: Run, limit: float) -> Callable[[Capture], Found]:
    """Return the function that does a run's work."""
    if run.method == OURS:
        return by_library
    from paper_repro.baselines.dlg import dlg
    from paper_repro.baselines.idlg import idlg
    from paper_repro.baselines.rconv_published import rconv_published
    from paper_repro.baselines.rgap import rgap

    baselines: Mapping[str, Callable[..., BaselineResult]] = {RCONV: rconv_published, RGAP: rgap, DLG: dlg, IDLG: idlg}
    return partial(by_baseline, baselines[run.method], seed=run.seed, limit=limit)


def judge(run: Run, *, limit: float, pictures: Path | None = None) -> Row:
    """Return the row of one run.

    The columns beside those of `Run`:

    - outcome: the name of the library's or the baseline's status; IMPOSSIBLE where the method refuses the network,
      EXCEPTION where it broke.
    - reason: why it did not succeed; of a baseline that ran to its end, what its last step found.
    - values, determined: number of input values, and of those that the library calls determined.
    - mse, psnr, ssim: over the whole image, values in [0, 1], `data_range` 1; missing where no whole image came.
    - recognised, exact: mean squared error below 1e-2 (20 dB), below 1e-6.
    - wall, cpu: seconds of the method alone. memory_mb: peak of its process.
    - alternatives: number of other images that the method cannot tell from this one.

    Args:
        run: what to do.
        limit: seconds of processor time for a baseline.
        pictures: folder for the images that figures show, `None` for none.
    """
    step = step_of(run)
    work = method_of(run, limit)
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        found, memory = with_peak_memory(partial(work, step))
    except ConstraintAlgebraError as refusal:
        found, memory = Found(None, IMPOSSIBLE, " ".join(str(refusal).split())), float("nan")
    except Exception as error:  # one run that breaks is a row that says so, not the end of the study
        found, memory = Found(None, BROKEN, f"{type(error).__name__}: {' '.join(str(error).split())}"), float("nan")
    row: Row = dict(run._asdict())
    row |= {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "memory_mb": memory}
    row |= {name: getattr(found, name) for name in ("outcome", "reason", "determined", "alternatives")}
    row |= quality(found.image, step) | versions()
    if not row["recognised"]:
        row["reason"] = found.reason or found.ended
    if pictures is not None and is_pictured(run) and found.image is not None:
        save_picture(found.image, picture_path(pictures, run))
    return row


def quality(image: FloatArray | None, step: Capture) -> Row:
    """Return the columns that compare an image with the truth."""
    assert step.truth is not None
    row: Row = {"values": step.truth.size, "recognised": False, "exact": False}
    if image is None or not np.isfinite(image).all():
        return row
    with np.errstate(over="ignore"):
        mse = metrics.mse(image, step.truth)
    row |= {"mse": mse, "recognised": mse < RECOGNISED, "exact": mse < EXACT}
    if np.isfinite(mse):
        # Structure of values far outside the range is that of noise, and its squares would overflow.
        row |= {"psnr": metrics.psnr(image, step.truth), "ssim": metrics.ssim(np.clip(image, -1, 2), step.truth)}
    return row


def versions() -> dict[str, object]:
    """Return the versions that provenance does not have."""
    import torch

    return {"torch": torch.__version__, "library": ca.__version__}


def picture_path(folder: Path, run: Run) -> Path:
    """Return where the image of a run is kept."""
    name = "_".join(str(field).replace(" ", "-") for field in run)
    return folder / f"{name}.png"


def save_picture(image: FloatArray, path: Path) -> None:
    """Keep an image as a PNG of eight bits a value."""
    from PIL import Image

    from constraint_algebra.plotting import pixels

    stream = io.BytesIO()
    Image.fromarray(pixels(image)).save(stream, format="PNG")
    write(folder_within(path.parent.parent, path.parent.name) / path.name, stream.getvalue())
