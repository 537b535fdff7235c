"""The competitors, each written from its paper's equations, and the result that all of them return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Outcome(Enum):
    """How a run ended, in one sentence."""

    FINISHED = "the method ran to its end; whether the result is right is for the truth to say"
    FAILED = "the method came to a step that it cannot take; .reason says which"
    OUT_OF_TIME = "the time limit ended the run; .reason says where"


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """What a published method made of a gradient.

    Attributes:
        method: its name, the key of its paper.
        outcome: how the run ended.
        input: the reconstruction in the network's input shape, `None` unless the run finished.
        reason: why it did not finish, empty if it did.
        wall: seconds on the clock.
        cpu: seconds of processor time.
        steps: for each step done what it found, such as rows used per layer, in order.
        label: the label that the method found, `None` where it looks for none.
        alternatives: other inputs that the method cannot tell from `input`.
    """

    method: str
    outcome: Outcome
    input: NDArray[np.float64] | None
    reason: str
    wall: float
    cpu: float
    steps: tuple[str, ...] = ()
    label: int | None = None
    alternatives: tuple[NDArray[np.float64], ...] = ()
