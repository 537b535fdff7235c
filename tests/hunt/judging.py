"""One case from its recipe to its record, with all faults and the calibration in it."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator

import constraint_algebra as ca
from tests.hunt import other_inputs, rational, statements, verdicts
from tests.hunt.drawing import drawn
from tests.hunt.models import Written, made
from tests.hunt.recipes import FAMILIES, Recipe
from tests.hunt.records import Record
from tests.hunt.subjects import NoCaseError, Subject, subject
from tests.hunt.verdicts import Fault

SLOW = 30.0  # seconds of computing beyond which a network of so few values takes too long
ASKED: dict[str, Callable[[Subject], bool]] = {  # further judges, and of which cases each is asked
    "moves": statements.is_ordinary,
    "foretold": statements.is_ordinary,
    "certified": statements.is_ordinary,
    "over_rationals": lambda case: rational.applies(case) and statements.shows(case),
    "elsewhere": lambda case: other_inputs.applies(case) and statements.shows(case),
}
# What may be said of the gradient of one sample: that nothing follows from it, or that it is too large.
HONEST = (ca.ZeroGradientError, ca.MissingBiasError, ca.MemoryLimitError, ca.UnsupportedLayerError)
BLAME = "no input and label explain the gradient"

Alter = Callable[[ca.Reconstruction], ca.Reconstruction]


def judged_seed(seed: int) -> Record:
    """The record of the case of a seed."""
    return judged(drawn(seed), tuple(ASKED))


def judged(recipe: Recipe, checks: tuple[str, ...] = (), alter: Alter = lambda result: result) -> Record:
    """The record of one case.

    Args:
        recipe: of the case.
        checks: judges beside those of every result, of `ASKED`.
        alter: what happens to the result before it is judged, to see the judges at work.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library or PyTorch remarks is no verdict
        try:
            family, case = family_of(recipe), subject(recipe)
        except NoCaseError:
            return Record(recipe.seed, "unknown", recipe.precision, recipe.is_graph, "no case")
        except Exception as error:
            fault = list(_foreign(error))
            return Record(recipe.seed, "unknown", recipe.precision, recipe.is_graph, "foreign exception", [fault])
        status, result, seconds, found = _reconstructed(case, alter)
        asked = [name for name in checks if ASKED[name](case)]
        for name in asked:
            found += {fault.kind: fault for fault in _stated(name, case, result)}.values()  # one of a kind is enough
    counts = verdicts.calibration(case, result) if result is not None else (0, 0, 0, 0, 0.0)
    faults = [list(fault) for fault in found]
    own = recipe.seed, family, recipe.precision, recipe.is_graph, status, faults
    return Record(*own, case.x.size, *counts, round(seconds, 3), asked)


def _reconstructed(case: Subject, alter: Alter) -> tuple[str, ca.Reconstruction | None, float, list[Fault]]:
    """The status, the result, the seconds that it took and what is wrong with it."""
    start = time.process_time()
    try:
        result = alter(case.reconstruct())
    except ca.ConstraintAlgebraError as error:
        return type(error).__name__, None, time.process_time() - start, list(_refused(error))
    except Exception as error:
        return "foreign exception", None, time.process_time() - start, [_foreign(error)]
    seconds = time.process_time() - start
    slow = [Fault("slow", f"{seconds:.0f} s for {case.x.size} values")] if seconds > SLOW else []
    return result.status.name, result, seconds, [*slow, *verdicts.faults(case, result)]


def family_of(recipe: Recipe) -> str:
    """Whether activations are piecewise linear, bounded, bending, of two branches, several of these or none."""
    if recipe.source == "stages":
        names = {stage.activation for stage in recipe.stages} - {""} | ({"ReLU"} if recipe.hidden else set())
    else:
        try:
            model = made(recipe)[0]
        except (RuntimeError, ValueError) as error:
            raise NoCaseError(str(error)) from error
        names = {type(m).__name__ for m in model.modules()}
        names |= {layer.kind for layer in model.case.network} if isinstance(model, Written) else set()
    found = {family for family, members in FAMILIES.items() if names & set(members)}
    return "none" if not found else found.pop() if len(found) == 1 else "mixed"


def _stated(name: str, case: Subject, result: ca.Reconstruction | None) -> Iterator[Fault]:
    """The faults that one of the further judges finds."""
    try:
        if name == "moves" and result is not None:
            yield from statements.moves(case, result)
        if name == "foretold":
            yield from statements.foretold(case, result)
        if name == "certified":
            yield from statements.certified(case)
        if name in {"over_rationals", "elsewhere"}:
            yield from getattr(statements, name)(case, result)
    except ca.ConstraintAlgebraError:
        return  # what cannot be stated is said
    except Exception as error:
        yield _foreign(error)


def _refused(error: ca.ConstraintAlgebraError) -> Iterator[Fault]:
    """A refusal that blames honest gradients, or that no user could have caused."""
    if not isinstance(error, HONEST) or BLAME in str(error):
        yield Fault("refused", f"{type(error).__name__}: {str(error)[:200]}")


def _foreign(error: Exception) -> Fault:
    """An exception that is none of the library's own, with the last place within the library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "constraint_algebra/" in f.filename]
    at = f"{own[-1].filename.rsplit('constraint_algebra/', 1)[1]}:{own[-1].lineno}" if own else "not in the library"
    return Fault("exception", f"{type(error).__name__} at {at}: {str(error)[:200]}")
