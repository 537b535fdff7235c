"""Which of several inputs with the same gradient to show: one rule for all methods, blind to the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def likeliest(images: Sequence[NDArray[np.float64]]) -> int:
    """Return which image lies best in [0, 1]: whose smallest value is nearest to 0 and largest nearest to 1.

    One that is not finite throughout is never preferred to one that is.

    >>> likeliest([np.array([0.0, 0.01]), np.array([0.1, 0.9]), np.array([-0.9, -0.1])])
    1
    """
    misfit = [abs(np.min(image)) + abs(np.max(image) - 1) for image in images]
    return int(np.argmin(np.nan_to_num(misfit, nan=np.inf)))
