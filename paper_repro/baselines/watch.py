"""How a run ends before its time, and the clock that it looks at."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from paper_repro.baselines import Outcome


class RunEnds(Exception):  # noqa: N818 -- it says how a run ends; no baseline lets one out
    """The run ends here; the message says why."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        """Remember how the run ends."""
        super().__init__(reason)
        self.outcome = outcome


@dataclass
class Watch:
    """Time since the start of a run, and its limit in seconds of processor time: other processes do not count."""

    limit: float | None = None
    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def check(self, where: str) -> None:
        """End the run if its time is over."""
        if self.limit is not None and time.process_time() - self.cpu > self.limit:
            raise RunEnds(Outcome.OUT_OF_TIME, f"time limit of {self.limit:g} s of processor time reached in {where}")
