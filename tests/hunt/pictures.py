"""The inputs: ordinary pictures, and those made to mislead."""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import FloatArray

LARGE, TINY = 1e3, 1e-9  # sizes of pictures that nobody scaled
OUTSIDE = {"large", "signed"}  # have values outside 0 to 1


def picture(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Return a picture of a kind: values between 0 and 1, but for those in `OUTSIDE`."""
    plain = rng.random(shape)
    if name == "background":  # on which windows tie, and biases alone decide
        plain[:, : max(1, shape[1] // 3)] = 0.0
        return plain
    made = {
        "ordinary": lambda: plain,
        "black": lambda: np.zeros(shape),
        "constant": lambda: np.full(shape, plain.flat[0]),
        "large": lambda: LARGE * plain,
        "tiny": lambda: TINY * plain,
        "signed": lambda: rng.standard_normal(shape),
    }
    return made[name]()
