"""Names for the arrays that go in and out of functions, stated once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
RealArray = NDArray[Any]  # floats of either precision: a function that takes them returns the same
Arrays = dict[str, NDArray[Any]]  # by PyTorch's parameter name, in whichever type they came
Parameters = dict[str, FloatArray]  # the same, bound to a network in float64
Progress = Callable[[int, int, str], None]  # told (steps done, steps in all, what is done now)
