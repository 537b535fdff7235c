"""What a reconstruction leaves on disk: figures as strict JSON, arrays, and pictures."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from constraint_algebra import __version__, plotting, storage
from constraint_algebra.display import plain
from constraint_algebra.experiments import metrics
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.files import result_folder
from constraint_algebra.recursion.result import Reconstruction

# result.json comes last and leaves first: where it stands, the others are complete.
FILES = ("result.json", "reconstruction.npz", "reconstruction.png", "comparison.png")
ROOM = 2**20  # bytes to ask for before the work: a result of a photograph of 3×32×32 takes 0.2 MB
PACKAGES = ("numpy", "scipy", "torch")


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Refuse, before the work, a folder whose result would be overwritten, that takes no new files or has no room.

    Raises:
        OutputExistsError: a result is there and `overwrite` is false.
        StorageError: the folder cannot be written to.
    """
    result_folder.refuse_existing(out, FILES, overwrite=overwrite, needed=ROOM)


def folder(out: Path, *, overwrite: bool) -> result_folder.ResultFolder:
    """Return the folder of a result, to hold with `with` while the work lasts: no other process gets it meanwhile.

    Raises:
        OutputExistsError, StorageError: as `refuse_existing`; another process holds it.
    """
    return result_folder.ResultFolder(out, FILES, overwrite=overwrite, needed=ROOM)


def figures(capture: Capture, result: Reconstruction, *, cpu_seconds: float) -> dict[str, Any]:
    """Return everything worth keeping about a reconstruction, as plain values.

    `mse`, `psnr` and `ssim` compare with the true image over all values, `mse_determined` over the determined ones;
    they are `None` where the image is not known or the figure is not finite (an exact reconstruction has no finite
    PSNR: its `mse` is 0). `determined` is a share; `grounds` says how many of the values rest on what.
    """
    told = result.to_dict()
    values: dict[str, Any] = plain(
        {
            "status": told["status"],
            "message": told["message"],
            **_closeness(capture.truth, result.guess, result.determined),
            "determined": float(result.determined.mean()),
            "grounds": told["grounds"],
            "label": told["label"],
            "cpu_seconds": cpu_seconds,
            "input_shape": told["input_shape"],
            "largest_error_bar": told["largest_error_bar"],
            "discrepancy": max(result.discrepancy.values(), default=None),
            "alternatives": told["alternatives"],
            "layers": told["layers"],
            "seed": capture.seed,
            "loss": capture.loss,
            "captured": dict(capture.about),
            "notes": [*capture.notes, *result.notes],
            "versions": versions(),
        }
    )
    return values


def write(
    out: Path | result_folder.ResultFolder, capture: Capture, result: Reconstruction, values: Mapping[str, Any]
) -> list[Path]:
    """Write the files of a result, all or none, and return their paths; those of an earlier result are replaced.

    `reconstruction.png` has the exact size of the image; `comparison.png` needs the true image; samples that are no
    pictures get neither; both show the guess where a value is not determined. `reconstruction.npz` holds `input`,
    `guess`, `determined`, `error_bar` and `ground` (numbers of `Ground`, `OPEN` where not determined), and other inputs
    with the same gradient as `alternatives/0` and so on.

    Args:
        out: the folder, or `folder(out)` where it is held already.
        capture: what the result comes from.
        result: the result.
        values: its `figures`.

    Raises:
        StorageError: the folder or the disk refuses. The old result is as it was; the new one is in the temporary
            folder `kept`, and `result` of the exception.
    """
    contents = {"reconstruction.npz": storage.to_bytes(Path("reconstruction.npz"), _arrays(result))}
    if plotting.is_picture(result.input.shape):
        contents["reconstruction.png"] = _png(result)
        if capture.truth is not None:
            contents["comparison.png"] = _comparison(capture.truth, result)
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
    contents["result.json"] = (text + "\n").encode("utf-8", "backslashreplace")
    if isinstance(out, result_folder.ResultFolder):
        return out.write(contents, result=result)
    return result_folder.write_result(out, FILES, contents, overwrite=True, result=result)


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


def _arrays(result: Reconstruction) -> dict[str, NDArray[Any]]:
    arrays = {name: getattr(result, name) for name in ("input", "guess", "determined", "error_bar", "ground")}
    return arrays | {f"alternatives/{i}": other.input for i, other in enumerate(result.alternatives)}


def _png(result: Reconstruction) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(plotting.pixels(result.guess)).save(stream, format="PNG")
    return stream.getvalue()


def _comparison(truth: NDArray[np.float64], result: Reconstruction) -> bytes:
    from matplotlib.figure import Figure

    # A Figure of its own draws on Agg, whatever the user's backend is.
    count = 4 if result.beyond_equations else 3
    figure = Figure(figsize=(10 * count / 3, 3.6), layout="constrained")
    axes = list(figure.subplots(1, count))
    plotting.comparison(truth, result.guess, determined=result.determined, axes=axes)
    if result.beyond_equations:
        plotting.ground_map(result.ground, ax=axes[3])
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
