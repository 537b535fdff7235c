"""What a reconstruction comes to, as columns: determined share, error, and what the error bars promised."""

from __future__ import annotations

import numpy as np

from analysis.executors import Row
from constraint_algebra.arrays import FloatArray
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.result import Reconstruction

GREY = 0.5  # what a value is taken for where the observer knows nothing of it

# psnr_db: of the whole image in [0, 1], cut off at the range; what is not determined counts with the least-squares
#   guess, and what nothing is known of as mid-grey. grey_psnr_db: that of mid-grey everywhere, the observer who sees
#   no gradient.
# determined_psnr_db, promised_psnr_db: of the determined values alone, as measured, and as their error bars promise.
# within_1_bar, within_4_bars: share of their errors within one and four error bars.
# solved_layers: how many layers have an input that is wholly determined, of all layers with a weight.
# rank_share: numerical rank of the first layer's equations over its unknowns, 0 where the recursion did not reach it.
MEASURED = (
    *("status", "determined_share", "psnr_db", "grey_psnr_db", "determined_psnr_db", "promised_psnr_db"),
    *("within_1_bar", "within_4_bars", "rank_share", "first_layer_condition"),
    *("solved_layers", "layers"),
)


def measured(result: Reconstruction, truth: FloatArray, network: Network) -> Row:
    """Return the columns of `MEASURED`."""
    reached = {layer.name: layer for layer in result.layers}.get(network.bilinear[0].name)
    known = result.determined
    row: Row = {
        "status": result.status.name,
        "determined_share": float(known.mean()),
        "psnr_db": decibels(guess(result) - truth),
        "grey_psnr_db": decibels(GREY - truth),
        "rank_share": 0.0 if reached is None else None if reached.rank is None else reached.rank / reached.unknowns,
        "first_layer_condition": None if reached is None or np.isnan(reached.condition) else reached.condition,
        "solved_layers": sum(layer.determined == layer.unknowns for layer in result.layers),
        "layers": len(network.bilinear),
    }
    if not known.any():
        return row
    error, bar = np.abs(result.input - truth)[known], result.error_bar[known]
    row["determined_psnr_db"] = decibels(error)
    if np.isfinite(bar).all():  # not where entries were missing: there are no error bars then
        within = (float(np.mean(error <= times * bar)) for times in (1, 4))
        row |= dict(zip(("within_1_bar", "within_4_bars"), within, strict=True)) | {"promised_psnr_db": decibels(bar)}
    return row


def guess(result: Reconstruction) -> FloatArray:
    """Return the image that an observer would show: grey where nothing is known, cut off at the range of images."""
    return np.clip(np.where(np.isfinite(result.guess), result.guess, GREY), 0, 1)


def decibels(error: FloatArray) -> float:
    """Return the PSNR of an error at a range of 1.

    >>> decibels(np.array([0.1, -0.1]))
    20.0
    """
    return round(float(-10 * np.log10(max(np.mean(error**2), np.finfo(float).tiny))), 6)
