"""The intervals of all values of an input, several at a time, with progress, and kept on disk as they come."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from constraint_algebra import storage
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, Progress
from constraint_algebra.errors import ConstraintAlgebraError, ShapeError, StorageError
from constraint_algebra.files.locks import locked
from constraint_algebra.files.names import is_there
from constraint_algebra.proofs.indistinguishable import IndistinguishabilitySet
from constraint_algebra.proofs.intervals import Interval, intervals

EVERY = 10.0  # seconds between two writes
SAME = 1e-6  # relative difference of sums over the same set, computed again
ENDS = ("lower_outer", "lower_inner", "upper_inner", "upper_outer")


@checked
@dataclass(frozen=True, eq=False)
class IntervalMap:
    """Intervals in the input shape; NaN where none was asked for.

    Attributes:
        lower_outer, lower_inner, upper_inner, upper_outer: see `Interval`.
    """

    lower_outer: FloatArray
    lower_inner: FloatArray
    upper_inner: FloatArray
    upper_outer: FloatArray

    def __getitem__(self, pixel: tuple[int, ...]) -> Interval:
        """Return the interval of one value."""
        return Interval(*(float(getattr(self, end)[pixel]) for end in ENDS))

    @property
    def width(self) -> FloatArray:
        """Widths that are certainly there."""
        return self.upper_inner - self.lower_inner

    @property
    def outer_width(self) -> FloatArray:
        """Widths that are certainly not exceeded."""
        return self.upper_outer - self.lower_outer


@checked
def interval_map(
    found: IndistinguishabilitySet,
    pixels: BoolArray | None = None,
    *,
    path: str | Path | None = None,
    workers: int = 1,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> IntervalMap:
    """Return the intervals of all values of a set, or of those of a mask.

    Args:
        found: the set.
        pixels: mask in the input shape.
        path: an `.npz` file to keep finished intervals in; where it is there, only what is missing is computed.
        workers: how many processes; more than one need `if __name__ == "__main__":` in a script.
        time_limit: seconds for each value.
        progress: called with (values done, values in all, index).

    Raises:
        ShapeError: a mask of another shape.
        StorageError: the file belongs to another set, is damaged or cannot be written, or another process works on it.
        ConstraintAlgebraError: processes die again and again; one death alone only costs what that process was at.
            What was computed until then is `result` of both, an `IntervalMap`.
    """
    shape = found.input.shape
    wanted = np.ones(shape, dtype=bool) if pixels is None else np.asarray(pixels, dtype=bool)
    if wanted.shape != shape:
        raise ShapeError(f"pixels: the mask must have the input's shape {shape}, got {wanted.shape}")
    with contextlib.ExitStack() as held:
        if path is not None:
            # All that will be kept, before any of it is computed; and nobody else writes there meanwhile.
            storage.check_target(Path(path), overwrite=True, needed=8 * (len(ENDS) + 1) * found.input.size + 4096)
            held.enter_context(locked(Path(path)))
        ends = _begun(found, path)
        try:
            _fill(found, wanted, ends, path, workers=workers, time_limit=time_limit, progress=progress)
        except ConstraintAlgebraError as error:
            error.result = _masked(ends, wanted)
            raise
    return _masked(ends, wanted)


def _fill(
    found: IndistinguishabilitySet,
    wanted: BoolArray,
    ends: dict[str, FloatArray],
    path: str | Path | None,
    *,
    workers: int,
    time_limit: float | None,
    progress: Progress | None,
) -> None:
    """Compute the intervals that are missing among those wanted, and keep them now and then, and at the end."""
    todo = [tuple(index) for index in np.argwhere(wanted & np.isnan(ends["lower_outer"])).tolist()]
    saved, total = time.monotonic(), int(wanted.sum())
    try:
        running = intervals(
            found.polytope, found.input, todo, found.valid_range, workers=workers, time_limit=time_limit
        )
        for number, (pixel, one) in enumerate(running):
            for end in ENDS:
                ends[end][pixel] = getattr(one, end)
            if progress is not None:
                progress(total - len(todo) + number + 1, total, str(pixel))
            if time.monotonic() - saved > EVERY:
                # A disk that is full now may have room at the end: what counts is the last time.
                with contextlib.suppress(StorageError):
                    _keep(found, path, ends)
                saved = time.monotonic()
    finally:
        _keep(found, path, ends)


def _masked(ends: dict[str, FloatArray], wanted: BoolArray) -> IntervalMap:
    return IntervalMap(**{end: np.where(wanted, values, np.nan) for end, values in ends.items()})


def _begun(found: IndistinguishabilitySet, path: str | Path | None) -> dict[str, FloatArray]:
    fresh = {end: np.full(found.input.shape, np.nan) for end in ENDS}
    if path is None or not is_there(Path(path)):
        return fresh
    kept = storage.load(path)
    same = {"input", "equations", *ENDS} <= set(kept) and np.array_equal(kept["input"], found.input)
    same = same and all(kept[end].shape == found.input.shape for end in ENDS)
    own = _fingerprint(found)
    same = same and kept["equations"].shape == own.shape and np.allclose(kept["equations"], own, rtol=SAME, atol=SAME)
    if not same:
        raise StorageError(f"{path} holds the intervals of another input or network; name another file")
    return {end: np.array(kept[end]) for end in ENDS}


def _keep(found: IndistinguishabilitySet, path: str | Path | None, ends: dict[str, FloatArray]) -> None:
    if path is not None:
        about = {"input": found.input, "equations": _fingerprint(found)}
        storage.save(path, {**about, **ends}, overwrite=True)


def _fingerprint(found: IndistinguishabilitySet) -> FloatArray:
    """Return numbers that another set hardly shares: sums over equations, inequalities and the range.

    Combinations of equations may come out turned against each other, so that of those the kernel counts.
    """
    P = found.polytope
    weights = np.cos(np.arange(len(P.lower)))
    plain, kernel = np.abs(P.null.applied(weights)[: P.null.plain]), np.abs(P.null.project(weights))
    sums = [plain.sum(), kernel.sum(), np.abs(P.cut @ weights).sum(), P.slack.sum(), *found.valid_range]
    return np.array([*sums, P.null.plain, P.null.nullity, P.cut.shape[0]])
