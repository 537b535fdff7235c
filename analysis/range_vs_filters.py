"""What the range of pixels adds to the rank of a first layer, against its number of filters.

Question: How many filters determine a dark picture, if its pixels are known to lie in a range?

Hypothesis: A digit has three quarters of its pixels at an end of the range, and fewer equations than pixels suffice,
with a sharp transition, as in compressed sensing; each residue class of a stride has its own.

Finding: Yes, and sharply. With kernel 5 and stride 1, where counting is right and asks for 32 filters, no pixel is
determined up to rank 450 of 784 (500 for the digit with the fewest dark pixels), and with one filter more, 19 or 21,
all are. A stride makes a staircase of it, one step for each residue class of pixels: with stride 2 the first quarter
is determined from 11 to 13 filters on and all of them from 26 to 30 on, where the equations alone need 49 (kernel 5);
with kernel 3 from 100 to 124 on in place of 196. There it is the class with one tap a pixel that waits.

One row for each layer, number of filters and digit: gradient equations alone count, for one draw of random weights and
output gradients. `rank` is exact for almost all of them; `ranged` counts the bounds that the range implies as well, and
`determined_in_range` is the share of pixels that equations and range determine, by a certificate each.
"""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

import constraint_algebra as ca
from analysis.executors import Row

SEED = 0
DIGITS = (3, 0, 4)
STEPS = {(5, 1): range(1, 35), (5, 2): range(1, 52), (3, 2): range(4, 201, 4)}  # filters by kernel and stride


class Run(NamedTuple):
    """A layer, its number of filters, a digit."""

    kernel: int
    stride: int
    filters: int
    image: str


COLUMNS = (
    *Run._fields,
    *("unknowns", "at_bound", "counted", "structural_rank", "rank", "ranged", "determined_in_range", "cpu_s"),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has one digit and every sixth number of filters."""
    images = [f"mnist:{number}" for number in DIGITS[: 1 if quick else None]]
    return [
        Run(kernel, stride, filters, image)
        for (kernel, stride), steps in STEPS.items()
        for filters, image in itertools.product(steps[:: 6 if quick else 1], images)
    ]


def judge(run: Run) -> Row:
    """Return the ranks of one layer at one digit."""
    image, start = ca.samples.load(run.image).image, time.process_time()
    layer = ca.Conv2d(run.filters, run.kernel, stride=run.stride, padding=run.kernel // 2).place(image.shape)
    row = ca.rank_against_filters(layer, [run.filters], values=image, seed=SEED).iloc[0]
    return {
        "unknowns": int(row["unknowns"]),
        "at_bound": round(float(((image <= 0) | (image >= 1)).mean()), 4),
        "counted": int(row["counted"]),
        "structural_rank": int(row["structural_rank"]),
        "rank": int(row["rank"]),
        "ranged": int(row["ranged"]),
        "determined_in_range": float(row["determined_in_range"]),
        "cpu_s": round(time.process_time() - start, 2),
    }
