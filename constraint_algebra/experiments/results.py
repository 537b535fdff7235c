"""What a reconstruction leaves on disk: figures as strict JSON, arrays, and pictures."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from constraint_algebra import __version__, plotting, storage
from constraint_algebra.errors import OutputExistsError
from constraint_algebra.experiments import metrics
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.recursion.result import Reconstruction

# result.json is written last and removed first: where it stands, the others are complete.
FILES = ("result.json", "reconstruction.npz", "reconstruction.png", "comparison.png")
PACKAGES = ("numpy", "scipy", "torch")


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise `OutputExistsError` where a result would be overwritten; call it before the work, not after."""
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; name a folder with --out")
    there = [name for name in FILES if (out / name).exists()]
    if there and not overwrite:
        raise OutputExistsError(
            f"{out} already holds {', '.join(there)}; pass --force to replace them, or name another folder with --out"
        )


def figures(capture: Capture, result: Reconstruction, *, cpu_seconds: float) -> dict[str, Any]:
    """Return everything worth keeping about a reconstruction, as plain values.

    `mse`, `psnr` and `ssim` compare with the true image over all values, `mse_determined` over the determined ones;
    they are `None` where the image is not known or the figure is not finite (an exact reconstruction has no finite
    PSNR: its `mse` is 0).
    """
    values: dict[str, Any] = _plain(
        {
            "status": result.status.name.lower(),
            "message": result.conclusion,
            **_closeness(capture.truth, result.input, result.determined),
            "determined": float(result.determined.mean()),
            "label": result.label,
            "cpu_seconds": cpu_seconds,
            "input_shape": list(result.input.shape),
            "largest_error_bar": _largest(result.error_bar[result.determined]),
            "discrepancy": max(result.discrepancy.values(), default=None),
            "alternatives": len(result.alternatives),
            "layers": [vars(layer) for layer in result.layers],
            "seed": capture.seed,
            "loss": capture.loss,
            "captured": dict(capture.about),
            "versions": versions(),
        }
    )
    return values


def write(out: Path, capture: Capture, result: Reconstruction, values: Mapping[str, Any]) -> list[Path]:
    """Write the files of a result and return their paths; those of an earlier result are replaced or removed.

    `reconstruction.png` has the exact size of the image; `comparison.png` needs the true image; samples that are no
    pictures get neither. `reconstruction.npz` holds the arrays `input`, `determined` and `error_bar`, and other inputs
    with the same gradient as `alternatives/0` and so on.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    if plotting.is_picture(result.input.shape):
        from PIL import Image

        Image.fromarray(plotting.pixels(result.input)).save(out / "reconstruction.png")
        if capture.truth is not None:
            _save_comparison(out / "comparison.png", capture.truth, result)
    arrays = {"input": result.input, "determined": result.determined, "error_bar": result.error_bar}
    arrays |= {f"alternatives/{i}": other.input for i, other in enumerate(result.alternatives)}
    storage.save(out / "reconstruction.npz", arrays)
    (out / "result.json").write_text(json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
    return [out / name for name in FILES if (out / name).exists()]


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"constraint_algebra": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _closeness(
    truth: NDArray[np.float64] | None, image: NDArray[np.float64], determined: NDArray[np.bool_]
) -> dict[str, float | None]:
    if truth is None:
        return dict.fromkeys(("mse", "psnr", "ssim", "mse_determined"))
    return {
        "mse": metrics.mse(truth, image),
        "psnr": metrics.psnr(truth, image),
        "ssim": metrics.ssim(truth, image),
        "mse_determined": metrics.mse(truth[determined], image[determined]) if determined.any() else None,
    }


def _largest(values: NDArray[np.float64]) -> float | None:
    return float(values.max()) if values.size else None


def _plain(value: Any) -> Any:
    """Return a value that strict JSON can hold: Python's own types, `None` for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _save_comparison(path: Path, truth: NDArray[np.float64], result: Reconstruction) -> None:
    from matplotlib.figure import Figure

    # A Figure of its own draws on Agg, whatever the user's backend is.
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    plotting.comparison(truth, result.input, determined=result.determined, axes=list(figure.subplots(1, 3)))
    figure.savefig(path, dpi=150)
