"""What an annotation lets through, what it makes of it, and how it is called in a message.

Each annotation becomes one `Kind` (`kind_of`). A kind takes a value and returns what to pass on, mostly the value
itself, or `NO`. Nothing heavy is imported for it: what is not loaded cannot have come.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from constraint_algebra.errors import ConstraintAlgebraError

NO: Any = object()  # what a kind returns for a value that it does not take
LONGEST = 60  # characters of a value that a message quotes

Take = Callable[[Any], Any]

# By the name of an alias: class of a value and who makes the wanted object of it, "module:function". Those stand in
# rooms above this one and load when such a value comes.
makers: dict[str, dict[str, str]] = {
    "NetworkLike": {
        "builtins.str": "networks.zoo:network",
        "torch.nn.modules.module.Module": "pytorch.whole_models:network_of",
    }
}


@dataclass(frozen=True)
class Kind:
    """What an argument may be.

    Attributes:
        words: what to call it, such as "a whole number".
        take: returns what to pass on for a value, or `NO`.
        wanted: names of the classes that are expected, for advice.
        within: for a container that is refused the first of its entries that is at fault: where, what, and what it must
            be; `None` where the container itself is.
    """

    words: str
    take: Take
    wanted: tuple[str, ...] = ()
    within: Callable[[Any], tuple[str, Any, Kind] | None] = lambda value: None  # noqa: ARG005


class _Unknown:
    """Stands for a name that only the type checker imports; whatever is made of it is unknown as well."""

    def __or__(self, other: object) -> _Unknown:
        return self

    __ror__ = __or__

    def __getitem__(self, key: object) -> _Unknown:
        return self

    def __getattr__(self, name: str) -> _Unknown:
        return self


ANYTHING = Kind("anything", lambda value: value)
UNKNOWN = _Unknown()


class _Namespace(dict[str, Any]):
    """The names of some modules and the builtins; `UNKNOWN` for any other."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, UNKNOWN)


def kind_of(annotation: object, namespaces: Iterable[Mapping[str, Any]]) -> Kind:
    """Return the kind of an annotation, read in the namespaces of the modules it comes from."""
    if not isinstance(annotation, str):
        return _of_type(annotation)
    names = _Namespace()
    for namespace in namespaces:
        names.update(namespace)
    return _of_node(ast.parse(annotation, mode="eval").body, names)


def _of_node(node: ast.expr, names: _Namespace) -> Kind:
    # Read part by part: an alias such as ArrayLike is a union itself, and would dissolve in a larger one.
    if isinstance(node, ast.BinOp):
        return _union([_of_node(node.left, names), _of_node(node.right, names)])
    value = eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, names)
    if isinstance(node, ast.Name) and node.id in makers:
        return _made(node.id, typing.get_args(value)[0])
    return _of_type(value)


def _of_type(wanted: Any) -> Kind:
    """Return the kind of an annotation that is an object already."""
    simple = _SIMPLE.get(wanted) if isinstance(wanted, type) or wanted is None else None
    if simple is not None:
        return simple
    if wanted is Any or wanted is object or isinstance(wanted, _Unknown | typing.TypeVar):
        return ANYTHING
    if wanted == getattr(sys.modules.get("numpy.typing"), "ArrayLike", NO):
        return ARRAY
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in {typing.Union, types.UnionType}:
        return _union([_of_type(part) for part in inner])
    if origin is None:
        return _instance(wanted) if isinstance(wanted, type) else ANYTHING
    if origin is Callable:
        return _function(len(inner[0]) if isinstance(inner[0], list) else None)
    if origin is tuple:
        return _tuple(inner)
    if origin.__name__ == "ndarray":
        scalar = typing.get_args(inner[1])
        return _ARRAYS.get(getattr(scalar[0], "__name__", "") if scalar else "", ARRAY)
    if issubclass(origin, Mapping):
        return _mapping(_of_type(inner[0]), _of_type(inner[1]), plain=origin is dict)
    if issubclass(origin, Iterable):
        return _sequence(_of_type(inner[0]), ordered=issubclass(origin, Sequence))
    return _instance(origin)


def _union(kinds: Sequence[Kind]) -> Kind:
    def take(value: Any) -> Any:
        for kind in kinds:
            taken = kind.take(value)
            if taken is not NO:
                return taken
        return NO

    def within(value: Any) -> tuple[str, Any, Kind] | None:
        return next((found for kind in kinds if (found := kind.within(value)) is not None), None)

    words = list(dict.fromkeys(kind.words for kind in kinds))
    return Kind(" or ".join(words), take, tuple(name for kind in kinds for name in kind.wanted), within)


def _instance(wanted: type) -> Kind:
    """Return the kind of the objects of a class, or with the attributes of a protocol."""
    if getattr(wanted, "_is_protocol", False):
        needed = [name for name in dir(wanted) if not name.startswith("_")] or ["__call__"]
        return Kind(
            f"an object with {', '.join(needed)}",
            lambda value: value if not _is_class(value) and all(hasattr(value, name) for name in needed) else NO,
            (wanted.__name__,),
        )
    words = f"a PyTorch {wanted.__name__}" if wanted.__module__.startswith("torch") else _a(wanted.__name__)
    return Kind(words, lambda value: value if isinstance(value, wanted) else NO, (wanted.__name__,))


def _made(alias: str, wanted: type) -> Kind:
    """Return the kind of the objects of a class and of what stands for one."""

    def take(value: Any) -> Any:
        if isinstance(value, wanted):
            return value
        for base in type(value).__mro__:
            maker = makers[alias].get(f"{base.__module__}.{base.__qualname__}")
            if maker is not None:
                module, _, function = maker.partition(":")
                return getattr(import_module(f"constraint_algebra.{module}"), function)(value)
        return NO

    return Kind(f"{_a(wanted.__name__)}, or what stands for one", take, (wanted.__name__,))


def _function(arguments: int | None) -> Kind:
    """Return the kind of functions that take a number of arguments."""

    def take(value: Any) -> Any:
        if _is_class(value) or not callable(value):
            return NO
        try:
            inspect.signature(getattr(value, "forward", value)).bind(*[None] * (arguments or 0))
        except TypeError:
            return value if arguments is None else NO
        except ValueError:  # written in C: it does not say
            return value
        return value

    return Kind("a function" if arguments is None else f"a function of {arguments} arguments", take)


def _sequence(of: Kind, *, ordered: bool = True) -> Kind:
    def take(value: Any) -> Any:
        if not ordered and isinstance(value, Iterator):
            value = list(value)  # it can be gone through once, and that is here
        if not _is_list(value) or (ordered and isinstance(value, set | frozenset)):
            return NO
        taken = [of.take(one) for one in value]
        if any(one is NO for one in taken):
            return NO
        changed = any(new is not old for new, old in zip(taken, value, strict=True))
        return taken if changed else value

    def within(value: Any) -> tuple[str, Any, Kind] | None:
        entries = enumerate(value) if _is_list(value) else ()
        return next(((f"[{i}]", one, of) for i, one in entries if of.take(one) is NO), None)

    return Kind(f"a list of {_plural(of.words)}", take, (*of.wanted, "Sequence"), within)


def _is_list(value: Any) -> bool:
    if type(value) is tuple or type(value) is list:
        return True
    if isinstance(value, Sequence | set | frozenset):
        return not isinstance(value, str | bytes | bytearray)
    return not _is_class(value) and getattr(value, "ndim", 0) == 1


def _tuple(inner: tuple[Any, ...]) -> Kind:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return _sequence(_of_type(inner[0]))
    kinds = [_of_type(part) for part in inner]

    def take(value: Any) -> Any:
        if not _is_list(value) or isinstance(value, set | frozenset) or len(value) != len(kinds):
            return NO
        taken = tuple(kind.take(one) for kind, one in zip(kinds, value, strict=True))
        return NO if any(one is NO for one in taken) else taken

    return Kind(f"({', '.join(kind.words for kind in kinds)})", take, tuple(n for kind in kinds for n in kind.wanted))


def _mapping(key: Kind, of: Kind, *, plain: bool) -> Kind:
    def take(value: Any) -> Any:
        if not isinstance(value, dict if plain else Mapping) or any(key.take(name) is NO for name in value):
            return NO
        taken = {name: of.take(one) for name, one in value.items()}
        if any(one is NO for one in taken.values()):
            return NO
        return value if all(taken[name] is one for name, one in value.items()) else taken

    def within(value: Any) -> tuple[str, Any, Kind] | None:
        entries = value.items() if isinstance(value, Mapping) else ()
        wrong = ((name, one) for name, one in entries if of.take(one) is NO)
        return next(((f"[{name!r}]", one, of) for name, one in wrong), None)

    names = "names" if key is _SIMPLE[str] else _plural(key.words)
    words = f"a mapping of {names}" if of is ANYTHING else f"a mapping of {names} to {_plural(of.words)}"
    return Kind(words, take, ("Mapping",), within)


def _array(words: str, letters: str) -> Kind:
    """Return the kind of arrays whose type has one of NumPy's letters; lists and tensors become arrays."""

    def take(value: Any) -> Any:
        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.ndarray):
            return value if value.dtype.kind in letters or _holds_numbers(value, letters) else NO
        if value is None or isinstance(value, str | bytes | Mapping) or _is_class(value):
            return NO
        if hasattr(value, "detach") and hasattr(value, "dtype"):
            return take(_from_tensor(value))
        try:
            array = numpy.asarray(value)
        except ConstraintAlgebraError:
            raise
        except Exception:
            return NO  # whatever a foreign object raises, it is no array
        return NO if take(array) is NO else value

    return Kind(words, take, ("Array",))


def _holds_numbers(array: Any, letters: str) -> bool:
    if array.dtype.kind == "V" and array.dtype.names is None:  # bfloat16 and the like
        return "f" in letters and array.dtype.itemsize <= 2
    return array.dtype.kind == "O" and "f" in letters and all(isinstance(one, numbers.Real) for one in array.ravel())


def _from_tensor(tensor: Any) -> Any:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such type; each of its numbers is one of float32
        tensor = tensor.float()
    return tensor.to_dense().numpy() if tensor.is_sparse else tensor.numpy()


def _whole(value: Any) -> Any:
    if type(value) is int:  # at once; an abstract class takes a microsecond
        return value
    return value if isinstance(value, numbers.Integral) and not isinstance(value, bool) else NO


def _real(value: Any) -> Any:
    if type(value) is float or type(value) is int:
        return value
    return value if isinstance(value, numbers.Real) and not isinstance(value, bool) else NO


def _flag(value: Any) -> Any:
    return value if isinstance(value, bool) or type(value).__name__ == "bool_" or type(value).__name__ == "bool" else NO


def _is_class(value: object) -> bool:
    return isinstance(value, type)


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeio' else 'a'} {name}"


def _plural(words: str) -> str:
    first = words.partition(" ")[2] if words.startswith(("a ", "an ")) else words
    head, space, rest = first.partition(" of ")
    return first if head.endswith("s") or first == "anything" else f"{head}s{space}{rest}"


ARRAY = _array("an array of numbers", "fiub")
_ARRAYS = {
    "float64": _array("an array of real numbers", "fiub"),
    "int64": _array("an array of whole numbers", "iu"),
    "bool": _array("an array of True and False", "b"),
    "bool_": _array("an array of True and False", "b"),
    "str_": _array("an array of words", "U"),
}
_SIMPLE: dict[Any, Kind] = {
    None: Kind("None", lambda value: value if value is None else NO),
    types.NoneType: Kind("None", lambda value: value if value is None else NO),
    bool: Kind("True or False", _flag),
    int: Kind("a whole number", _whole),
    float: Kind("a number", _real),
    str: Kind("a string", lambda value: value if isinstance(value, str) else NO),
    os.PathLike: Kind("a path", lambda value: value if isinstance(value, os.PathLike) else NO),
}


def described(value: object) -> str:
    """Return what a value is, in few words; an object's own words may be long, or raise.

    >>> described([1, 2]), described("lenet"), described(int)
    ('a list of 2', "'lenet'", 'the class int')
    """
    if _is_class(value):
        return f"the class {value.__name__}"  # type: ignore[attr-defined]
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        text = repr(value[:LONGEST] if isinstance(value, str | bytes) else value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    kind = type(value)
    shape = getattr(value, "shape", None)
    if hasattr(value, "dtype") and isinstance(shape, tuple):
        return f"{_a(kind.__name__)} of {value.dtype} with shape {tuple(shape)}"
    if isinstance(value, list | tuple | set | frozenset | dict):
        return f"{_a(kind.__name__)} of {len(value)}"
    if any(base.__name__ == "Module" and base.__module__.startswith("torch.") for base in kind.__mro__):
        return f"a PyTorch module, {kind.__name__}"
    return _a(kind.__name__)
