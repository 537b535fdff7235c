"""On what a value that counts as known rests, from the strongest ground to the weakest.

A value inherits the weakest ground of all that it was computed from.
"""

from __future__ import annotations

from enum import IntEnum

from constraint_algebra.errors import UnknownNameError


class Ground(IntEnum):
    """On what a known value rests; a larger number is a weaker ground.

    >>> max(Ground.EQUATIONS, Ground.ZEROS).words
    'zeros that are no accident: unique for generic data, not proven'
    """

    EQUATIONS = 0
    RANGE = 1
    ZEROS = 2
    BITS = 3
    WINNERS = 4
    BRANCHES = 5
    NEIGHBOURHOOD = 6

    @property
    def label(self) -> str:
        """The ground in one or two words."""
        return _LABELS[self]

    @property
    def words(self) -> str:
        """The ground in a clause that says how far it reaches."""
        return _WORDS[self]

    @property
    def everywhere(self) -> bool:
        """Whether no other valid input has these gradients and another value."""
        return self <= Ground.RANGE

    @classmethod
    def _missing_(cls, value: object) -> Ground:
        known = ", ".join(f"Ground.{ground.name}" for ground in cls)
        raise UnknownNameError(f"value must be that of one of {known}, got {type(value).__name__}")


_LABELS = {
    Ground.EQUATIONS: "equations",
    Ground.RANGE: "range",
    Ground.ZEROS: "zeros",
    Ground.BITS: "bits",
    Ground.WINNERS: "winners",
    Ground.BRANCHES: "branches",
    Ground.NEIGHBOURHOOD: "neighbourhood",
}
_WORDS = {
    Ground.EQUATIONS: "the equations alone: proven for all inputs",
    Ground.RANGE: "the range of values: proven for all inputs whose values lie in their range",
    Ground.ZEROS: "zeros that are no accident: unique for generic data, not proven",
    Ground.BITS: "the sides of activations that fit all equations: unique among inputs with these sides",
    Ground.WINNERS: "the winners of windows that fit all equations: unique among inputs with these winners",
    Ground.BRANCHES: "the branches of activations that fit all equations: unique among inputs with these branches",
    Ground.NEIGHBOURHOOD: "a search: unique near the input found",
}
