"""One hierarchy for everything that can be wrong with an input.

Each message says what was expected, what came, and what to do. Facts that a program may want (the parameter's name,
the index, the list of layers) are attributes as well as words.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class ConstraintAlgebraError(Exception):
    """Base of every exception that this library raises on purpose.

    Attributes:
        kept: the temporary folder that a result is in which could not be written where it should be, `None` without.
        result: the object behind such a result, `None` without.
    """

    kept: Path | None = None
    result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from message and attributes without `__init__`, so that errors cross process borders unharmed."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ArgumentError(ConstraintAlgebraError, TypeError):
    """An argument of the wrong kind, or one that the function does not have, or lacks.

    Attributes:
        argument: the argument's name.
    """

    def __init__(self, argument: str, message: str) -> None:
        """Remember the offending `argument`."""
        self.argument = argument
        super().__init__(message)


class ArgumentRangeError(ArgumentError, ValueError):
    """An argument of the right kind whose value no such argument can have."""


class UnknownAttributeError(ConstraintAlgebraError, AttributeError):
    """A name that the library, or one of its objects, does not have."""


class ShapeError(ConstraintAlgebraError, ValueError):
    """A shape or hyper-parameter that no layer can have, or shapes that do not chain."""


class MemoryLimitError(ShapeError):
    """Something that would take more memory than may be taken; nothing was allocated. See the module `memory`."""


class LayerProblem(NamedTuple):
    """One layer of a model that the library cannot handle: where it is, why, and what can be done all the same."""

    path: str
    reason: str
    advice: str


class UnsupportedLayerError(ConstraintAlgebraError):
    """Layers that have no equations here; lists all of them at once.

    Attributes:
        problems: one `LayerProblem` for each offending layer, in the order of the forward pass.
    """

    def __init__(self, problems: Sequence[LayerProblem], otherwise: str = "") -> None:
        """Collect `problems` into one message, a line for each, and `otherwise`: what can be said all the same."""
        if not isinstance(problems, Sequence) or not all(isinstance(p, LayerProblem) for p in problems):
            raise ArgumentError("problems", f"problems must be a list of LayerProblems, got {type(problems).__name__}")
        if not isinstance(otherwise, str):
            raise ArgumentError("otherwise", f"otherwise must be a string, got {type(otherwise).__name__}")
        self.problems = tuple(problems)
        lines = [f"  {p.path}: {p.reason}; {p.advice}" for p in self.problems]
        count = "1 layer" if len(lines) == 1 else f"{len(lines)} layers"
        ends = [otherwise] if otherwise else []
        super().__init__("\n".join([f"{count} of the model cannot be turned into equations:", *lines, *ends]))


class ParameterError(ConstraintAlgebraError, ValueError):
    """Parameters or gradients that do not fit the network.

    Attributes:
        parameter: the name of the offending parameter.
    """

    def __init__(self, parameter: str, message: str) -> None:
        """Remember the offending `parameter`."""
        self.parameter = parameter
        super().__init__(message)


class NonFiniteError(ParameterError):
    """NaN or infinity among the values given.

    Attributes:
        parameter: the name of the offending parameter.
        index: the first offending index, a tuple.
    """

    def __init__(self, parameter: str, index: tuple[int, ...], message: str) -> None:
        """Remember the offending `parameter` and `index`."""
        self.index = index
        super().__init__(parameter, message)


class ZeroGradientError(ParameterError):
    """A gradient of zeros, which says nothing about the input."""


class BatchError(ParameterError):
    """A gradient of several samples where that of one sample is needed."""


class MissingBiasError(ParameterError):
    """A head without a bias whose scale no known loss can settle."""


class StorageError(ConstraintAlgebraError):
    """A file that is not what it should be: corrupted, truncated, foreign, or unsafe to open."""


class OutputExistsError(ConstraintAlgebraError):
    """Output that is already there and would be overwritten."""


class UnknownNameError(ConstraintAlgebraError, KeyError):
    """A name (of a network, a sample, a loss) that the library does not know."""

    def __str__(self) -> str:
        """Return the sentence itself, where `KeyError` would put it in quotes."""
        return str(self.args[0])


class MissingPackageError(ConstraintAlgebraError, ImportError):
    """An optional package that the call needs and that is not installed."""
