"""The fewest filters that determine a layer's input, over kernel and stride.

Question: How many filters does a layer need until its equations determine its input, and what does the stride do to
it?

Hypothesis: Gradient equations alone need the filters that the residue class with the fewest taps per pixel asks for,
which exceeds counting whenever the stride does not divide the kernel; weight equations lower the number to about the
stride squared.

Finding: Counting is too low for 28 of the 58 layers that any number of filters determines, by a factor of up to 3 (21
filters by counting, 64 in truth, for kernel 7 and stride 4); it is right for stride 1. The residue class with the
fewest taps a pixel decides in all 58, and even where the stride divides the kernel counting can miss (13 for 14 at
kernel 9, stride 3), because the classes are not equally large. With weight equations 3 filters do at stride 1 on three
channels, as many as there are channels, and 7 to 12, 9 to 27, and 11 to 48 at strides 2, 3 and 4: at most channels
times stride squared, fewer for larger kernels. For 14 layers no number does, since a pixel meets no tap.

One row a layer on a 32×32 input, padded by half its kernel, all outputs active and known: fewest filters by counting
gradient equations, by gradient equations exactly, and by both kinds exactly (bounds, equal where settled; missing
where no number suffices). `class_taps` and `class_pixels` are those of the residue class that asks for the most
filters; `classes` is the number of classes.
"""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

import constraint_algebra as ca
from analysis.executors import Row
from constraint_algebra.theory.feasibility import fewest_filters_alone, filters_by_counting
from constraint_algebra.theory.minimum_filters import fewest_filters_by_both

SEED = 0
SIZE = 32
KERNELS, STRIDES, CHANNELS = range(1, 10), range(1, 5), (1, 3)


class Run(NamedTuple):
    """A layer without its number of filters."""

    channels: int
    kernel: int
    stride: int


COLUMNS = (
    *Run._fields,
    *("unknowns", "classes", "class_taps", "class_pixels", "by_counting", "by_gradient_low", "by_gradient_high"),
    *("by_both_low", "by_both_high", "cpu_s"),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has odd kernels and three strides on three channels."""
    grid = itertools.product((3,), (1, 3, 5), (1, 2, 3)) if quick else itertools.product(CHANNELS, KERNELS, STRIDES)
    return [Run(*key) for key in grid]


def judge(run: Run) -> Row:
    """Return the fewest filters of one layer."""
    start = time.process_time()
    layer = ca.Conv2d(1, run.kernel, stride=run.stride, padding=run.kernel // 2).place((run.channels, SIZE, SIZE))
    classes = ca.polyphase_law(layer, limit=0).classes
    tightest = max(classes, key=lambda c: c.pixels / c.taps if c.taps else float("inf"))
    alone, both = fewest_filters_alone(layer), fewest_filters_by_both(layer, seed=SEED)
    return {
        "unknowns": layer.unknowns,
        "classes": len(classes),
        "class_taps": tightest.taps,
        "class_pixels": tightest.pixels,
        "by_counting": filters_by_counting(layer),
        "by_gradient_low": alone and alone[0],
        "by_gradient_high": alone and alone[1],
        "by_both_low": both and both[0],
        "by_both_high": both and both[1],
        "cpu_s": round(time.process_time() - start, 4),
    }
