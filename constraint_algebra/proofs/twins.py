"""Twins: other valid inputs with the same gradients, chosen by what should differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError, UnknownNameError
from constraint_algebra.proofs.intervals import flat_index
from constraint_algebra.proofs.polytope import Polytope

Objective = str | Sequence[int] | ArrayLike

LEAST = 1e-9  # a smaller change is no change
FARTHEST = "all values as far as a search finds"


@checked
@dataclass(frozen=True)
class Twin:
    """Another valid input whose gradients equal those of the original.

    Attributes:
        image: the twin, in the input shape.
        original: the input that it is a twin of.
        objective: what was to differ most, in words.
    """

    image: FloatArray
    original: FloatArray
    objective: str

    @property
    def difference(self) -> FloatArray:
        """Twin minus original."""
        return self.image - self.original

    @property
    def change(self) -> float:
        """Largest absolute difference of any value."""
        return float(np.abs(self.difference).max())

    @property
    def distance(self) -> float:
        """Root mean square of the differences."""
        return float(np.sqrt((self.difference**2).mean()))

    def __repr__(self) -> str:
        """Return the change and the objective."""
        return f"<Twin: {self.objective}; largest change {self.change:.3g}>"


def find_twin(
    polytope: Polytope,
    original: FloatArray,
    objective: Objective = "mean",
    *,
    seed: int = 0,
    time_limit: float | None = None,
) -> Twin | None:
    """Return a twin, or `None` where none differs from the original.

    Args:
        polytope: the differences allowed.
        original: the input.
        objective: "mean" for the largest change of the mean; "far" for all values as far from the original as a search
            finds, which needs no linear program; an index such as `(0, 3, 7)` for that of one value; a
            boolean mask for that of the mean over a region; "random" for a random direction; an array of numbers in
            the input shape for the twin nearest to that image.
        seed: of the random direction.
        time_limit: seconds after which the best found so far is taken.

    Raises:
        UnknownNameError: an objective of another name.
        ShapeError: an index, mask or image that does not fit the input.
    """
    words, direction, target = _read(objective, original, seed)
    if words == FARTHEST:
        n = polytope.farthest(time_limit=time_limit)
    elif target is not None:
        n = polytope.nearest((target - original).ravel(), time_limit=time_limit)
    else:
        half = None if time_limit is None else time_limit / 2
        ends = [polytope.maximise(sign * direction.ravel(), time_limit=half) for sign in (1.0, -1.0)]
        n = max(ends, key=lambda end: end.inner).difference
    image = original + n.reshape(original.shape)
    # Adding rounds: a value that was to reach its bound may lie beyond it by the last digit.
    flat = original.ravel()
    image = np.clip(image.ravel(), flat + np.minimum(polytope.lower, 0), flat + np.maximum(polytope.upper, 0))
    twin = Twin(image.reshape(original.shape), original, words)
    return twin if twin.change > LEAST else None


def _read(objective: Objective, original: FloatArray, seed: int) -> tuple[str, FloatArray, FloatArray | None]:
    """Return the objective in words, as a direction, and as a target where it is one."""
    nothing = np.zeros(original.shape)
    if isinstance(objective, str):
        if objective == "mean":
            return "largest change of the mean", np.full(original.shape, 1 / original.size), None
        if objective == "far":
            return FARTHEST, nothing, None
        if objective == "random":
            return f"random direction {seed}", np.random.default_rng(seed).standard_normal(original.shape), None
        raise UnknownNameError(
            f'objective must be "mean", "far", "random", an index, a mask or an image, got {objective!r}'
        )
    array = np.asarray(objective)
    if array.shape == original.shape and array.dtype == bool:
        if not array.any():
            raise ShapeError("a region needs at least one value, got a mask without any")
        return f"largest change of the mean over {int(array.sum())} values", array / array.sum(), None
    if (array.shape == original.shape and array.dtype.kind in "fiu" and array.ndim > 1) or array.dtype.kind == "f":
        if array.shape != original.shape or not np.isfinite(array).all():
            raise ShapeError(f"an image to come near must be finite and of shape {original.shape}, got {array.shape}")
        return "nearest to a given image", nothing, array.astype(float)
    if array.dtype.kind in "iu" and array.ndim == 1:
        pixel = tuple(int(i) for i in array)
        flat = flat_index(original.shape, pixel)
        nothing.flat[flat] = 1.0
        return f"largest change of value {pixel}", nothing, None
    raise ShapeError(
        f"an objective is an index into shape {original.shape}, or a mask or an image of that shape;"
        f" got {array.dtype} of shape {array.shape}"
    )
