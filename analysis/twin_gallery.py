"""Photographs and their twins: other valid images with the same gradients of every parameter.

Question: How different may two images be whose gradients are the same to rounding?

Hypothesis: With few filters and ReLU, as different as one likes: a twin exists that comes near to any other
photograph.

Finding: Six filters and ReLU leave 1,887 to 1,975 of 3,072 dimensions open. Twins come to about half of the distance
to an arbitrary other photograph (from 13 to 21 down to 7 to 12), changing single values by 0.79 to 0.89, while no
gradient moves by more than 5e-16 of the largest. Not as different as one likes: 6 filters keep an outline.

One row for each pair of photographs: the first is sent, and of all images with its gradients the one nearest to the
second is the twin. `absolute` and `relative` are the largest difference of any entry of their real float64 gradients,
the latter over the largest entry; `change` is the largest change of a value. The images lie beside the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row

SEED = 0
PAIRS = ((3, 7), (7, 12), (12, 5), (5, 3))  # numbers of the photograph and of the one to come near
FILTERS = 6


class Run(NamedTuple):
    """A photograph, and another one to come near."""

    original: str
    target: str


COLUMNS = (*Run._fields, "nullity", "absolute", "relative", "change", "distance_before", "distance_after")


def runs(*, quick: bool = False) -> list[Run]:
    """Return the pairs; a quick study has the first."""
    return [Run(f"cifar10:{one}", f"cifar10:{other}") for one, other in (PAIRS[:1] if quick else PAIRS)]


def network() -> ca.Network:
    """Return two convolutions with ReLU, the first with six filters, and a head for ten classes."""
    layers = [
        ca.Conv2d(FILTERS, 5, stride=2, padding=2),
        ca.ReLU(),
        ca.Conv2d(16, 5, stride=2, padding=2),
        ca.ReLU(),
        ca.Flatten(),
        ca.Linear(10),
    ]
    return ca.Network((3, 32, 32), layers)


def judge(run: Run) -> Row:
    """Return nullity and differences, and the images `(3, 32, 32)`."""
    from constraint_algebra.pytorch.gradients import to_numpy

    net = network()
    model = ca.to_torch(net, seed=SEED, init="default")
    parameters = {name: to_numpy(p) for name, p in model.named_parameters()}
    sample, target = ca.samples.load(run.original), ca.samples.load(run.target).image
    found = ca.indistinguishable(net, parameters, sample.image, sample.label)
    twin = found.twin(target)
    if twin is None:
        raise RuntimeError(f"{run.original} has no twin; choose fewer filters than {FILTERS}")
    check = ca.verify_twin(model, sample.image, twin.image, sample.label)
    if not check.equal:
        raise RuntimeError(f"{run.original}: {check}")
    return {
        "nullity": found.nullity,
        "absolute": max(check.absolute.values()),
        "relative": check.difference,
        "change": check.change,
        "distance_before": float(np.linalg.norm(sample.image - target)),
        "distance_after": float(np.linalg.norm(twin.image - target)),
        "arrays": {"original": sample.image, "target": target, "twin": twin.image},
    }
