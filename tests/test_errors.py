"""The exception hierarchy: one base, facts as attributes, sentences as messages."""

from __future__ import annotations

import inspect
import pickle

import pytest

import constraint_algebra as ca
from constraint_algebra import errors

EXCEPTIONS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]


@pytest.mark.parametrize("cls", EXCEPTIONS, ids=lambda cls: cls.__name__)
def test_every_exception_has_the_one_base_and_is_public(cls) -> None:
    assert issubclass(cls, ca.ConstraintAlgebraError)
    assert getattr(ca, cls.__name__) is cls


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (ca.ShapeError, ValueError),
        (ca.ParameterError, ValueError),
        (ca.NonFiniteError, ValueError),
        (ca.UnknownNameError, KeyError),
        (ca.MissingPackageError, ImportError),
    ],
)
def test_a_program_may_catch_the_builtin_class(cls, builtin) -> None:
    assert issubclass(cls, builtin)


def test_unsupported_layers_are_all_named_with_reason_and_advice() -> None:
    problems = [
        errors.LayerProblem("features.1", "GELU falls before it rises", "use ReLU"),
        errors.LayerProblem("features.4", "pooling mixes values", "use a stride"),
    ]
    error = ca.UnsupportedLayerError(problems)
    assert error.problems == tuple(problems)
    assert str(error).splitlines() == [
        "2 layers of the model cannot be turned into equations:",
        "  features.1: GELU falls before it rises; use ReLU",
        "  features.4: pooling mixes values; use a stride",
    ]
    assert str(ca.UnsupportedLayerError(problems[:1])).startswith("1 layer of the model")


def test_the_offending_name_and_index_are_attributes() -> None:
    error = ca.NonFiniteError("2.weight", (0, 3), "gradients: '2.weight' has nan")
    assert (error.parameter, error.index, str(error)) == ("2.weight", (0, 3), "gradients: '2.weight' has nan")


def test_an_unknown_name_prints_as_a_sentence_without_quotes() -> None:
    assert str(ca.UnknownNameError("no network 'lenets'; did you mean 'lenet'?")) == (
        "no network 'lenets'; did you mean 'lenet'?"
    )


@pytest.mark.parametrize(
    "error",
    [
        ca.ShapeError("a"),
        ca.ParameterError("p", "b"),
        ca.NonFiniteError("p", (1,), "c"),
        ca.UnsupportedLayerError([errors.LayerProblem("a", "b", "c")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_borders(error) -> None:
    """Studies run in worker processes: an exception that does not unpickle hangs or hides the reason."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
