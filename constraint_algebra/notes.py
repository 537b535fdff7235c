"""What the library assumed about something that a user gave, said once: as a warning, or collected into a result.

An input that can be read in one way only is accepted, and how it was read is said. To silence that:

    import warnings
    warnings.filterwarnings("ignore", category=ca.AssumptionWarning)
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

# Frames that are not the user's: this library, and the decorators of contextlib between two of its functions.
_NOT_THE_USER = (str(Path(__file__).parent), contextlib.__file__)
_collector: ContextVar[list[str] | None] = ContextVar("collector", default=None)


class AssumptionWarning(UserWarning):
    """How the library read something that it was given in another form than its own; Python shows each text once."""


def note(text: str) -> None:
    """Say what was assumed: to `collected` where that is at work, otherwise as a warning at the line of the user.

    The texts of `note` end without a full stop and say what was read as what.
    """
    found = _collector.get()
    if found is None:
        warnings.warn(text, AssumptionWarning, stacklevel=_depth_of_user())
    elif text not in found:
        found.append(text)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect what `note` says into a list, each text once, in place of warnings; other threads are not affected.

    >>> with collected() as said:
    ...     note("read as one sample")
    >>> said
    ['read as one sample']
    """
    found: list[str] = []
    token = _collector.set(found)
    try:
        yield found
    finally:
        _collector.reset(token)


def _depth_of_user() -> int:
    """Return how many frames above `note` the first one outside this library is, counted as `warnings.warn` does."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USER):
        frame, depth = frame.f_back, depth + 1
    return depth
