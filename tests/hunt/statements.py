"""What `feasibility`, `certify` and the grounds of a result claim, against the Jacobian by automatic differentiation.

`moves`, `foretold` and `certified` judge ordinary cases in float64 alone: generic weights and pictures, where a rank
has no accidents. `over_rationals` judges small chains, with accidents as well; `elsewhere` inputs of few values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import constraint_algebra as ca
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.ground import Ground
from constraint_algebra.layers.activations import has_two_branches
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.notes import collected
from tests.hunt import oracle, other_inputs, rational
from tests.hunt.models import Written
from tests.hunt.subjects import Subject
from tests.hunt.verdicts import Fault

SECONDS = 2.0  # that a certificate may take
GENERIC = ("", "no bias", "large biases")  # defects that leave weights generic
EQUAL = 1e-6  # gradients of twins so far apart, relative to the largest, are not equal
CONDITIONED = 1e-5  # singular values of equations of unit length that leave no doubt in double precision
NEARBY = (Ground.EQUATIONS, Ground.RANGE, Ground.BITS, Ground.NEIGHBOURHOOD)  # hold nearby at the least
LOOSE = 1e7  # error bars that gradients equal to ten digits may explain, of sixteen
GRADIENTS_SHOW = 1e-8  # a largest gradient below this leaves no singular value that could be told from rounding


def is_ordinary(subject: Subject) -> bool:
    """Whether nothing about a case is an accident by design."""
    return subject.recipe.scale == 1.0 and subject.recipe.defect in GENERIC and shows(subject)


def shows(subject: Subject) -> bool:
    """Whether gradients are in double precision and of a size, at an input inside its range."""
    recipe = subject.recipe
    return (
        recipe.precision == "float64"
        and recipe.picture in {"ordinary", "signed"}
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
    that the result lacks. Nothing is missed where `feasibility` is told what the result must search for, in a limited
    time: which entries of a max-pool won, the branches of activations, zeros below a normalisation by own statistics.
    """
    if subject.recipe.head == "none":
        return  # the scale that such a head leaves is no matter of rank
    report = _report(subject)
    own = report.determined
    told = any(_is_searched_for(layer) for layer in subject.network)
    if result is not None and own is not None and (own & ~result.determined).any() and not told:
        lacking = (own & ~result.determined).sum()
        yield Fault("missed", f"{lacking} of {own.sum()} values that the equations determine")
    limit = report.limit
    if limit is None or limit.by_eps:  # which the limit takes as zero, and the Jacobian as it is
        return
    still, clear = oracle.determined(subject)
    claimed = np.asarray(limit.determined).reshape(still.shape)
    if clear and not (claimed == still).all():
        yield Fault("foretold", f"feasibility: {claimed.sum()} values determined, Jacobian: {still.sum()}")


def _is_searched_for(layer: PlacedLayer) -> bool:
    """Whether `feasibility` takes as given what `reconstruct` has to search for."""
    branched = layer.is_activation and has_two_branches(layer.activation)
    return bool(layer.is_selection or layer.is_normalisation or branched)


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
    free = found.fixed & ~found.by_range & (np.nan_to_num(found.bound) < EQUAL)  # others may move, up to their bound
    if free.any():
        still, clear = oracle.determined(subject)
        if clear and (free & ~still).any():
            yield Fault("fixed", f"{(free & ~still).sum()} of {free.sum()} values called fixed move with no gradient")


def over_rationals(subject: Subject, result: ca.Reconstruction | None) -> Iterator[Fault]:
    """Values called determined that a null vector of the exact equations moves, and values missed.

    Judged is what rests on grounds that hold at least nearby: an input that lies inside its range, and of which no
    output lies on a kink, may go along the null vector a little, and no gradient changes. Missed is a value that is
    exactly determined layer by layer, at every layer with singular values that leave no doubt.
    """
    exact = rational.chain(subject)
    if exact.on_a_kink:
        return
    limit = rational.limit(exact).reshape(subject.x.shape)
    least = rational.reached(exact, CONDITIONED).reshape(subject.x.shape)
    if subject.recipe.head == "none" or subject.recipe.scale != 1.0:
        least[...] = False  # such a head's scale may have several roots; gradients of large weights may be noise
    if result is not None:
        wrong = np.isin(result.ground, NEARBY) & ~limit
        if wrong.any():
            yield Fault("moves", f"{wrong.sum()} values called determined move over the rationals")
        lacking = least & ~result.determined
        if lacking.any():
            yield Fault("missed", f"{lacking.sum()} of {least.sum()} values that exact elimination determines")
    if subject.recipe.defect not in GENERIC:
        return  # `feasibility` speaks of almost all weights
    report = _report(subject)
    if report.determined is not None and not (least <= report.determined).all() & (report.determined <= limit).all():
        counts = f"{least.sum()} to {limit.sum()}"
        yield Fault("foretold", f"the recursion: {report.determined.sum()} values, over the rationals: {counts}")
    most = report.limit
    if most is not None and not most.by_eps and not (np.reshape(most.determined, limit.shape) == limit).all():
        yield Fault("foretold", f"the limit: {np.sum(most.determined)} values, over the rationals: {limit.sum()}")


def elsewhere(subject: Subject, result: ca.Reconstruction | None) -> Iterator[Fault]:
    """Other valid inputs with the same gradients that differ where no other should.

    What equations or the range determine has no other value anywhere. What the sides of activations determine besides,
    and what a certificate calls fixed in its region, has none in inputs with the same sides.
    """
    others = other_inputs.other_inputs(subject)
    sides = other_inputs.sides(subject, subject.x)
    if result is not None:
        # What gradients equal to ten digits leave open is no other input.
        open_still = LOOSE * np.where(result.determined, result.error_bar, 0.0)
        for x in others:
            beside = bool((other_inputs.sides(subject, x) == sides).all())
            unique = result.everywhere | ((result.ground == Ground.BITS) & beside)
            yield from _differ("elsewhere", "determined", unique, subject, x, open_still)
    if others and subject.recipe.picture == "ordinary":
        found = ca.certify(subject.model, subject.x, subject.target, loss=subject.recipe.loss, time_limit=SECONDS)
        for x in others:
            beside = bool((other_inputs.sides(subject, x) == sides).all())
            fixed = found.fixed | (found.fixed_in_region & beside)
            yield from _differ("fixed", "fixed", fixed, subject, x, np.nan_to_num(found.bound))


def _differ(
    kind: str, word: str, unique: BoolArray, subject: Subject, x: FloatArray, allowed: FloatArray
) -> Iterator[Fault]:
    """Values said to be unique that differ in another input."""
    other = unique & (np.abs(x - subject.x) > np.maximum(other_inputs.FAR * np.abs(subject.x).max(), allowed))
    if other.any():
        yield Fault(kind, f"{other.sum()} of {unique.sum()} values called {word} differ in {x.round(6).tolist()}")


def _report(subject: Subject) -> ca.FeasibilityReport:
    """What `feasibility` says of the pattern of the true input."""
    arrays = {name: np.asarray(torch.as_tensor(p).double()) for name, p in subject.parameters.items()}
    with collected():
        pattern = ca.activity_of(subject.network, arrays, subject.x, sides=True)
        return ca.feasibility(subject.network, activity=pattern, buffers=subject.buffers is not None)
