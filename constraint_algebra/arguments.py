"""Arguments of public functions and constructors, checked by their annotations: one mechanism, one wording.

`checked` stands in front of a function or class. A refusal names the argument, says what it must be, what came, and
what to write. What is unambiguous is taken for what it stands for, see `argument_kinds.makers`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from constraint_algebra.argument_kinds import NO, Kind, described, kind_of
from constraint_algebra.errors import ArgumentError, ArgumentRangeError, UnknownAttributeError
from constraint_algebra.pytorch_names import argument_advice

T = TypeVar("T", bound=Callable[..., Any])

# The least value of arguments that mean the same wherever they stand.
_LEAST: dict[str, float] = {
    "seed": 0,
    "workers": 1,
    "target": 0,
    "tolerance": 0.0,
    "rtol": 0.0,
    "delta": 0.0,
    "spread": 0.0,
    "time_limit": 0.0,
    "index": 0,
    "trials": 0,
}
_LARGEST_SEED = 2**64 - 1  # PyTorch's generators take no more

# What to write, by a class that is wanted and one that came; the first pair that fits counts.
_ADVICE: tuple[tuple[str, str, str], ...] = (
    ("PlacedLayer", "Layer", "place it: layer.place(input_shape), or take it from a network, network[0]"),
    ("PlacedLayer", "Network", "choose one of its layers, such as network[0]"),
    ("PlacedLayer", "Module", "its network is ca.from_torch(model, input_shape)[0]; choose a layer of that"),
    ("PlacedLayer", "LinearSystem", "a system knows its layer: system.layer"),
    ("Network", "PlacedLayer", "write ca.Network(layer.input_shape, [layer]); for a layer alone see ca.bounded_rank"),
    ("Network", "Layer", "write ca.Network(input_shape, [layer])"),
    ("Network", "list", "write ca.Network(input_shape, layers)"),
    ("Network", "tuple", "it returns two things: write network, parameters = ca.from_torch(model, input_shape)"),
    ("Network", "str", "write ca.zoo.network(name)"),
    ("Network", "Module", "write ca.from_torch(model, input_shape)[0]"),
    ("LinearSystem", "PlacedLayer", "write ca.gradient_equations(layer) or ca.weight_equations(layer)"),
    ("LinearSystem", "Layer", "write ca.gradient_equations(layer.place(input_shape))"),
    ("LinearSystem", "Network", "write ca.gradient_equations(network[0])"),
    ("Layer", "Module", "ca.from_torch(model, input_shape) makes a network of a model"),
    ("Layer", "list", "give one list of layers, without lists in it"),
    ("Module", "Network", "write ca.to_torch(network)"),
    ("Module", "str", "write ca.to_torch(ca.zoo.network(name))"),
    ("IndistinguishabilitySet", "Network", "write ca.indistinguishable(network, parameters, input)"),
    ("Mapping", "Module", "write {name: p.detach() for name, p in model.named_parameters()}"),
    ("Mapping", "tuple", "give a mapping by PyTorch's names: dict(zip(network.parameter_shapes, arrays))"),
    ("Mapping", "list", "give a mapping by PyTorch's names: dict(zip(network.parameter_shapes, arrays))"),
    ("Array", "dict", "give one array of it, by its name"),
    ("Array", "str", "give the numbers themselves, such as ca.samples.load(name).image or ca.samples.read_image(path)"),
    ("Array", "Sample", "its picture: sample.image"),
    ("Array", "Reconstruction", "its picture: result.input"),
)

# Other words for an attribute.
_SYNONYMS = {"image": "input", "x": "input", "mask": "determined", "error": "error_bar", "errors": "error_bar"}


def checked(target: T) -> T:
    """Return a function, or a class whose constructor, checks its arguments by their annotations.

    An argument named in `_LEAST` is held to its range as well. The objects of a class say which attribute was meant.

    >>> @checked
    ... def doubled(number: int) -> int:
    ...     return 2 * number
    >>> doubled("3")
    Traceback (most recent call last):
    constraint_algebra.errors.ArgumentError: doubled: number must be a whole number, got '3'
    >>> doubled(nubmer=3)
    Traceback (most recent call last):
    constraint_algebra.errors.ArgumentError: doubled has no argument nubmer; did you mean number?; it takes number
    """
    if isinstance(target, type):
        _check_class(target, values=True)
        return target
    plan = _Plan(target, target.__name__)

    @functools.wraps(target)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return target(*plan.fitted(args, kwargs), **kwargs)

    return wrapper  # type: ignore[return-value]


def names_checked(target: T) -> T:
    """Return a class whose constructor refuses names that it does not have; its values are its own to check."""
    _check_class(target, values=False)
    return target


def _check_class(cls: Any, *, values: bool) -> None:
    """Put the checks before the constructor of a class, whose objects then say which attribute was meant."""
    init = cls.__init__
    plan = _Plan(init, cls.__name__, owner=cls, values=values)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init(self, *plan.fitted(args, kwargs), **kwargs)

    cls.__init__, cls.__getattr__ = __init__, _missing_attribute


class _Plan:
    """What a function takes: read at its first call, when all that its annotations name is loaded."""

    def __init__(self, function: Callable[..., Any], name: str, owner: type | None = None, *, values: bool = True):
        self.function, self.name, self.owner, self.values = function, name, owner, values
        self.read = False

    def _read(self) -> None:
        parameters = list(inspect.signature(self.function).parameters.values())[self.owner is not None :]
        plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = [p for p in parameters if p.kind not in plain]
        self.open = len(named) < len(parameters)  # *args or **kwargs
        self.positional = tuple(p.name for p in named if p.kind is not inspect.Parameter.KEYWORD_ONLY)
        self.required = tuple(p.name for p in named if p.default is inspect.Parameter.empty)
        self.kinds = {p.name: None if p.name.startswith("_") else self._kind(p.annotation) for p in named}
        self.read = True

    def _kind(self, annotation: object) -> Kind | None:
        if not self.values or annotation is inspect.Parameter.empty:
            return None
        classes = reversed(self.owner.__mro__) if self.owner is not None else ()
        spaces = [vars(sys.modules[cls.__module__]) for cls in classes]
        return kind_of(annotation, [*spaces, getattr(inspect.unwrap(self.function), "__globals__", {})])

    def fitted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return the positional arguments to pass on, and put those by name in their place."""
        if not self.read:
            self._read()
        if len(args) > len(self.positional) and not self.open:
            self._too_many(args)
        fitted = [self._taken(name, value) for name, value in zip(self.positional, args, strict=False)]
        fitted += args[len(fitted) :]
        for name, value in kwargs.items():
            if name in self.kinds:
                kwargs[name] = self._taken(name, value)
            elif not self.open:
                self._unexpected(name)
        if kwargs or len(args) < len(self.required):
            self._complete(len(args), kwargs)
        return fitted

    def _taken(self, name: str, value: Any) -> Any:
        kind = self.kinds[name]
        if kind is None:
            return value
        taken = kind.take(value)
        if taken is NO:
            raise ArgumentError(name, f"{self.name}: {_refusal(name, kind, value)}")
        if name in _LEAST and isinstance(taken, int | float) and self.owner is None:
            _in_range(self.name, name, taken)
        return taken

    def _complete(self, given: int, kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that are missing, or that came twice."""
        for name in self.positional[:given]:
            if name in kwargs:
                raise ArgumentError(name, f"{self.name}: {name} came twice, by position and by name; write it once")
        missing = [name for name in self.required if name not in kwargs and name not in self.positional[:given]]
        if missing:
            raise ArgumentError(
                missing[0], f"{self.name} lacks {' and '.join(missing)}; it takes {', '.join(self.kinds) or 'nothing'}"
            )

    def _too_many(self, args: tuple[Any, ...]) -> NoReturn:
        count = len(self.positional)
        by_name = [name for name in self.kinds if name not in self.positional]
        few = f"{count} argument{'s' if count != 1 else ''} ({', '.join(self.positional)})" if count else "no arguments"
        words = [f"{self.name} takes {few} by position, got {len(args)}, the next being {described(args[count])}"]
        if by_name:
            words.append(f"write the others by name: {', '.join(f'{name}=' for name in by_name)}")
        note = getattr(self.owner, "argument_note", None)
        raise ArgumentError((by_name or [""])[0], "; ".join([*words, note] if note else words))

    def _unexpected(self, name: str) -> NoReturn:
        advice = argument_advice(name, frozenset(self.kinds)) or nearest(name, self.kinds)
        takes = f"it takes {', '.join(self.kinds) or 'none'}"
        raise ArgumentError(name, "; ".join(filter(None, [f"{self.name} has no argument {name}", advice, takes])))


def _refusal(where: str, kind: Kind, value: Any) -> str:
    """Return the words for a value that is not of its kind, or for the entry of it that is at fault."""
    within = kind.within(value)
    if within is not None:
        place, entry, wanted = within
        return _refusal(where + place, wanted, entry)
    advice = _advice(kind.wanted, value)
    return f"{where} must be {kind.words}, got {described(value)}{f'; {advice}' if advice else ''}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return a hint at the name that was meant, `None` where none is near.

    >>> nearest("reconstrct", ["reconstruct", "stack"]), nearest("q", ["stack"])
    ('did you mean reconstruct?', None)
    """
    by_small = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_small, n=1, cutoff=0.7)
    return f"did you mean {by_small[close[0]]}?" if close else None


def _in_range(function: str, name: str, value: float) -> None:
    least = _LEAST[name]
    if math.isnan(value) or value < least:
        raise ArgumentRangeError(name, f"{function}: {name} must be at least {least:g}, got {value!r}")
    if name == "seed" and value > _LARGEST_SEED:
        raise ArgumentRangeError(name, f"{function}: {name} must be below 2**64, got {described(value)}")


def _advice(wanted: tuple[str, ...], value: Any) -> str | None:
    """Return what to write for a value that came in place of objects of some classes."""
    if isinstance(value, type):
        meant = {base.__name__ for base in value.__mro__} & set(wanted)
        return f"write an object of it, {value.__name__}(...)" if meant else None
    if "Sequence" in wanted and hasattr(value, "__index__") and not hasattr(value, "dtype"):
        return f"write ({value},)"
    came = [base.__name__ for base in type(value).__mro__]
    return next((advice for want, base, advice in _ADVICE if want in wanted and base in came), None)


def _missing_attribute(self: Any, name: str) -> NoReturn:
    cls = type(self)
    if hasattr(cls, name):  # a property that raised AttributeError itself: again, for its own words
        object.__getattribute__(self, name)
    if name.startswith("_"):
        raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
    known = [other for other in dir(self) if not other.startswith("_")]
    meant = _SYNONYMS.get(name)
    hint = f"did you mean {meant}?" if meant in known else nearest(name, known)
    raise UnknownAttributeError(f"{cls.__name__} has no attribute {name!r}{f'; {hint}' if hint else ''}")
