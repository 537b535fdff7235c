"""The interval of each value over a polytope: what of it is certain, from inside and from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ConstraintAlgebraError, ShapeError
from constraint_algebra.numerics.workers import workers as pool_of
from constraint_algebra.proofs.polytope import Polytope

Pixel = tuple[int, ...]
FRUITLESS = 3  # deaths of processes with nothing between them, after which another one would be no better


@checked
@dataclass(frozen=True)
class Interval:
    """The smallest and the largest value of an input value, each from both sides.

    Attributes:
        lower_outer: no point of the set lies below.
        lower_inner: a point of the set has this value.
        upper_inner: a point of the set has this value.
        upper_outer: no point of the set lies above.

    >>> Interval(0.1, 0.11, 0.5, 0.52)
    Interval: from 0.1 to 0.52, at least from 0.11 to 0.5
    """

    lower_outer: float
    lower_inner: float
    upper_inner: float
    upper_outer: float

    @property
    def width(self) -> float:
        """Width that is certainly there, between two points of the set."""
        return self.upper_inner - self.lower_inner

    @property
    def outer_width(self) -> float:
        """Width that is certainly not exceeded."""
        return self.upper_outer - self.lower_outer

    @property
    def doubt(self) -> float:
        """How far the two sides still are apart."""
        return self.outer_width - self.width

    def contains(self, value: float) -> bool:
        """Whether a value lies between the outer ends."""
        return self.lower_outer <= value <= self.upper_outer

    def __repr__(self) -> str:
        """Return both in words, to six digits after the point."""
        ends = (self.lower_outer, self.upper_outer, self.lower_inner, self.upper_inner)
        return "Interval: from {} to {}, at least from {} to {}".format(*(f"{round(end, 6) + 0.0:g}" for end in ends))


def interval(
    polytope: Polytope,
    anchor: FloatArray,
    pixel: Pixel,
    valid_range: tuple[float, float],
    *,
    time_limit: float | None = None,
    solver: str | None = None,
) -> Interval:
    """Return the interval of one value; after `time_limit` seconds a wider one, equally sound.

    Args:
        polytope: the differences allowed.
        anchor: what they are differences from, in the input shape.
        pixel: index of the value, such as `(channel, row, column)`.
        valid_range: smallest and largest valid value.
        time_limit: seconds for both ends together.
        solver: see `Polytope.maximise`.

    Raises:
        ShapeError: the index does not fit the input.
    """
    flat = flat_index(anchor.shape, pixel)
    value, half = float(anchor.ravel()[flat]), None if time_limit is None else time_limit / 2
    c = np.zeros(anchor.size)
    c[flat] = 1.0
    up = polytope.maximise(c, time_limit=half, solver=solver)
    down = polytope.maximise(-c, time_limit=half, solver=solver)
    (low, high), rounding = valid_range, 4 * np.finfo(float).eps * (abs(value) + 1)
    return Interval(
        lower_outer=max(value - down.outer - rounding, low),
        lower_inner=max(value - down.inner, low),
        upper_inner=min(value + up.inner, high),
        upper_outer=min(value + up.outer + rounding, high),
    )


def intervals(
    polytope: Polytope,
    anchor: FloatArray,
    pixels: Sequence[Pixel],
    valid_range: tuple[float, float],
    *,
    workers: int = 1,
    time_limit: float | None = None,
) -> Iterator[tuple[Pixel, Interval]]:
    """Yield pixels and their intervals as they are ready.

    Args:
        polytope: the differences allowed.
        anchor: what they are differences from.
        pixels: indices of the values.
        valid_range: smallest and largest valid value.
        workers: how many processes; more than one are started afresh, so that a script needs the usual
            `if __name__ == "__main__":` around what it runs.
        time_limit: seconds for each.

    Raises:
        ConstraintAlgebraError: processes die again and again, and nothing is computed between.
    """
    polytope.prepare()
    task = _Task(polytope, anchor, valid_range, time_limit)
    if workers == 1:
        yield from map(task, pixels)
        return
    yield from _in_processes(task, pixels, workers)


def _in_processes(task: _Task, pixels: Sequence[Pixel], count: int) -> Iterator[tuple[Pixel, Interval]]:
    """Yield pixels and their intervals from several processes, which are started anew where one of them dies."""
    left, fruitless = dict.fromkeys(pixels), 0
    while left and fruitless < FRUITLESS:
        before = len(left)
        with suppress(BrokenExecutor), pool_of(count, _begin, (task,)) as pool:
            for done in as_completed([pool.submit(_work, pixel) for pixel in left]):
                if not isinstance(done.exception(), BrokenExecutor):  # where it is, others may still be whole
                    pixel, one = done.result()
                    del left[pixel]
                    yield pixel, one
        fruitless = fruitless + 1 if len(left) == before else 0
    if left:
        raise ConstraintAlgebraError(
            f"a process died {FRUITLESS} times before any of the {len(left)} intervals that are left was there, the"
            f" next of value {next(iter(left))}; there may be too little memory for {count} at a time, or the script"
            ' lacks its `if __name__ == "__main__":`; workers=1 computes them in this process'
        )


@dataclass(frozen=True)
class _Task:
    """What a process keeps, to be asked for one pixel after the other."""

    polytope: Polytope
    anchor: FloatArray
    valid_range: tuple[float, float]
    time_limit: float | None

    def __call__(self, pixel: Pixel) -> tuple[Pixel, Interval]:
        return pixel, interval(self.polytope, self.anchor, pixel, self.valid_range, time_limit=self.time_limit)


_tasks: list[_Task] = []


def _begin(task: _Task) -> None:
    _tasks[:] = [task]


def _work(pixel: Pixel) -> tuple[Pixel, Interval]:
    return _tasks[0](pixel)


def flat_index(shape: tuple[int, ...], pixel: Pixel) -> int:
    """Return the flat index of a pixel; `ShapeError` where the input has none such.

    >>> flat_index((3, 4, 5), (1, 0, 2))
    22
    """
    index = tuple(pixel)
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise ShapeError(f"a pixel is an index into an input of shape {shape}, got {pixel}; count from 0")
    return int(np.ravel_multi_index(index, shape))
