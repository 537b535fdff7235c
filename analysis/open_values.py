"""How much of an image stays open, by the number of filters in the first layer.

Question: How many values does the gradient fix, and how wide are the intervals of the others, as a first layer has
more filters?

Hypothesis: Below the fewest filters that determine the layer nothing is fixed although the intervals shrink, and
above it everything is; ReLU, which cuts off about half of the weight equations, needs about twice the filters.

Finding: With LeakyReLU nothing is fixed up to 5 filters and everything from 6 on; with ReLU everything from 8 on.
Below that the intervals hardly shrink: their mean width is 0.99 at 5 filters and, with ReLU, 0.80 at 7, of a valid
range of 1. Before all are, at most 6.6 % of the values are fixed, with ReLU at 2, 3 and 6 filters. ReLU needs a third
more filters, not twice as many.

One row for each activation, number of filters and photograph: the share of fixed values, and the mean width of the
interval of the values over all inputs with the same gradients, from inside and from outside, for a random sample of
them (the same in each row; a fixed value has width 0).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from analysis.subjects import ACTIVATIONS, SMALL
from constraint_algebra.experiments.samples import fit

SEED = 0
FILTERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24)
IMAGES = (3, 7, 12)
SAMPLED = 64  # values whose intervals are computed


class Run(NamedTuple):
    """An activation, a number of filters of the first layer, a photograph."""

    activation: str
    filters: int
    image: str


COLUMNS = (*Run._fields, "unknowns", "nullity", "fixed", "sampled", "width", "outer_width")


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has many filters, which is fast, and one photograph."""
    images = [f"cifar10:{number}" for number in IMAGES]
    return [
        Run(*key)
        for key in itertools.product(ACTIVATIONS, FILTERS[-4:] if quick else FILTERS, images[: 1 if quick else None])
    ]


def judge(run: Run) -> Row:
    """Return nullity, share of fixed values, mean width of the intervals from inside and from outside."""
    from constraint_algebra.pytorch.gradients import to_numpy

    act = ACTIVATIONS[run.activation]
    layers = [
        ca.Conv2d(run.filters, 5, stride=2, padding=2),
        act,
        ca.Conv2d(16, 3, stride=1, padding=1),
        act,
        ca.Flatten(),
        ca.Linear(10),
    ]
    net = ca.Network(SMALL, layers)
    model = ca.to_torch(net, seed=SEED, init="default")
    parameters = {name: to_numpy(p) for name, p in model.named_parameters()}
    sample = ca.samples.load(run.image)
    found = ca.indistinguishable(net, parameters, fit(sample.image, SMALL), sample.label)
    sampled = np.zeros(found.input.size, dtype=bool)
    sampled[np.random.default_rng(SEED).choice(found.input.size, SAMPLED, replace=False)] = True
    widths = ca.interval_map(found, sampled.reshape(SMALL), workers=1)
    return {
        "unknowns": found.input.size,
        "nullity": found.nullity,
        "fixed": float(found.fixed.mean()),
        "sampled": SAMPLED,
        "width": float(np.nanmean(widths.width)),
        "outer_width": float(np.nanmean(widths.outer_width)),
    }
