"""How all figures look, whatever the user's own settings are: the library's style sheet, and nothing else.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; lines differ in marker and dashes as well,
so that they can be told apart in grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

SETTINGS: dict[str, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.titlesize": 12,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.fontsize": 8,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "constraint-algebra",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
BLACK, BLUE, ORANGE, GREEN, VERMILION, SKY = "#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
# One series after another: colour, marker, dashes.
SERIES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "ls": "-"},
    {"color": VERMILION, "marker": "s", "ls": "--"},
    {"color": GREEN, "marker": "^", "ls": "-."},
    {"color": BLACK, "marker": "D", "ls": ":"},
    {"color": ORANGE, "marker": "v", "ls": (0, (5, 1, 1, 1, 1, 1))},
)


@contextmanager
def style() -> Iterator[None]:
    """Draw with these settings, and give the user's own back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield
