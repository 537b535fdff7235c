"""Names for the arrays that go in and out of functions, stated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
GroundArray = NDArray[np.uint8]  # numbers of `Ground`
RealArray = NDArray[Any]  # floats of either precision: a function that takes them returns the same
Arrays = dict[str, NDArray[Any]]  # by PyTorch's parameter name, in whichever type they came
Parameters = dict[str, FloatArray]  # the same, bound to a network in float64
Progress = Callable[[int, int, str], None]  # told (steps done, steps in all, what is done now)


class TorchModel(Protocol):
    """What a PyTorch model is where PyTorch is not imported."""

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """Return every parameter with its name."""


# Parameters or gradients as users have them: by name, in the order of the parameters, or a model with its parameters.
ParametersLike = Mapping[str, Any] | Iterable[Any] | TorchModel
