"""How everything looks: a style sheet, and colours that remain apart for the colour-blind and in grey."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHEET = Path(__file__).with_name("constraint_algebra.mplstyle")

# Okabe and Ito (2008), from dark to light: CIE lightness 0, 46, 54, 70 and 90.
BLACK, BLUE, VERMILION, SKY, YELLOW = "#000000", "#0072B2", "#D55E00", "#56B4E9", "#F0E442"
PALETTE = (BLACK, BLUE, VERMILION, SKY, YELLOW)
MUTED = "#8c8c8c"  # reference lines and what is not there
# Colour and hatch of what rests on each `Ground`, from the strongest to the weakest, from dark to light.
GROUND_LOOKS = (
    (BLUE, ""),
    (VERMILION, "//"),
    (SKY, ".."),
    (YELLOW, ""),
    (YELLOW, "//"),
    (YELLOW, "\\\\"),
    ("white", "oo"),
)


@contextmanager
def style() -> Iterator[None]:
    """Draw with the project's style sheet inside a `with` block.

    Functions of this package draw in whatever style is in force.

    >>> import matplotlib as mpl
    >>> with style(): mpl.rcParams["legend.frameon"]
    False
    """
    import matplotlib as mpl

    with mpl.rc_context(fname=str(SHEET)):
        yield


def ink(colour: object) -> str:
    """Return black or white, whichever is read on a colour.

    >>> ink(BLUE), ink(YELLOW)
    ('white', 'black')
    """
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)  # type: ignore[arg-type]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
