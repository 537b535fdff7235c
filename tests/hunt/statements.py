"""What `feasibility`, `certify` and the grounds of a result claim, against the Jacobian by automatic differentiation.

These judge ordinary cases in float64 alone: generic weights and pictures, where a rank has no accidents.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import constraint_algebra as ca
from constraint_algebra.ground import Ground
from constraint_algebra.notes import collected
from tests.hunt import oracle
from tests.hunt.models import Written
from tests.hunt.subjects import Subject
from tests.hunt.verdicts import Fault

SECONDS = 2.0  # that a certificate may take
EQUAL = 1e-6  # gradients of twins so far apart, relative to the largest, are not equal
GRADIENTS_SHOW = 1e-8  # a largest gradient below this leaves no singular value that could be told from rounding


def is_ordinary(subject: Subject) -> bool:
    """Whether nothing about a case is an accident by design."""
    recipe = subject.recipe
    return (
        recipe.precision == "float64"
        and recipe.picture in {"ordinary", "signed"}
        and recipe.scale == 1.0
        and recipe.defect not in {"dead", "duplicated"}
        and max(float(np.abs(g).max()) for g in oracle.gradients(subject, subject.x).values()) > GRADIENTS_SHOW
    )


def moves(subject: Subject, result: ca.Reconstruction) -> Iterator[Fault]:
    """Values that equations, or a neighbourhood, determine, and that the null space of the Jacobian moves."""
    local = (result.ground == Ground.EQUATIONS) | (result.ground == Ground.NEIGHBOURHOOD)
    if not local.any():
        return
    still, clear = oracle.determined(subject)
    if clear and (local & ~still).any():
        share = f"{(local & ~still).sum()} of {local.sum()}"
        yield Fault("moves", f"{share} values called determined move with no gradient")


def foretold(subject: Subject, result: ca.Reconstruction | None) -> Iterator[Fault]:
    """A limit that `feasibility` states for the pattern of an input and the Jacobian does not have; what is missed.

    Missed is a value that the recursion finds by its own equations for this pattern, as `feasibility` foretells, and
    that the result lacks.
    """
    if subject.recipe.head == "none":
        return  # the scale that such a head leaves is no matter of rank
    arrays = {name: np.asarray(torch.as_tensor(p).double()) for name, p in subject.parameters.items()}
    with collected():
        pattern = ca.activity_of(subject.network, arrays, subject.x, sides=True)
        report = ca.feasibility(subject.network, activity=pattern, buffers=subject.buffers is not None)
    own = report.determined
    if result is not None and own is not None and (own & ~result.determined).any():
        lacking = (own & ~result.determined).sum()
        yield Fault("missed", f"{lacking} of {own.sum()} values that the equations determine")
    limit = report.limit
    if limit is None or limit.by_eps:  # which the limit takes as zero, and the Jacobian as it is
        return
    still, clear = oracle.determined(subject)
    claimed = np.asarray(limit.determined).reshape(still.shape)
    if clear and not (claimed == still).all():
        yield Fault("foretold", f"feasibility: {claimed.sum()} values determined, Jacobian: {still.sum()}")


def certified(subject: Subject) -> Iterator[Fault]:
    """Twins that are none, and values called fixed that a twin or the Jacobian's null space moves."""
    recipe = subject.recipe
    if isinstance(subject.model, Written) or recipe.loss == "square" or recipe.picture != "ordinary":
        return
    found = ca.certify(subject.model, subject.x, subject.target, loss=recipe.loss, time_limit=SECONDS)
    given = oracle.gradients(subject, subject.x)
    for witness in found.witnesses:
        gap = oracle.apart(given, oracle.gradients(subject, witness.twin.image))
        if gap > EQUAL:
            yield Fault("twin", f"a verified twin has gradients {gap:.1e} apart")
        moved = np.abs(witness.twin.image - subject.x)[found.fixed] - found.bound[found.fixed]
        if moved.max(initial=0.0) > EQUAL:
            yield Fault("twin", f"a twin moves a fixed value {moved.max():.1e} beyond its bound")
    free = found.fixed & ~found.by_range
    if free.any():
        still, clear = oracle.determined(subject)
        if clear and (free & ~still).any():
            yield Fault("fixed", f"{(free & ~still).sum()} of {free.sum()} values called fixed move with no gradient")
