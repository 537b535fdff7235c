"""How all figures look, whatever the user's own settings are: the library's style sheet and colours, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

from constraint_algebra import plotting
from constraint_algebra.plotting.look import BLACK, BLUE, SKY, VERMILION, YELLOW

SETTINGS: dict[str, Any] = {"figure.titlesize": 12, "font.family": "DejaVu Sans", "pdf.fonttype": 42}
# One series after another: colour, marker, dashes, so that they can be told apart in grey.
SERIES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "ls": "-"},
    {"color": VERMILION, "marker": "s", "ls": "--"},
    {"color": BLACK, "marker": "D", "ls": ":"},
    {"color": SKY, "marker": "^", "ls": "-."},
    {"color": YELLOW, "marker": "v", "ls": (0, (5, 1, 1, 1, 1, 1)), "mec": BLACK},
)

__all__ = ["BLACK", "BLUE", "SERIES", "SKY", "VERMILION", "YELLOW", "style"]


@contextmanager
def style() -> Iterator[None]:
    """Draw with these settings, and give the user's own back afterwards."""
    with plotting.style():  # begins with matplotlib's defaults
        mpl.rcParams.update(SETTINGS)
        yield
