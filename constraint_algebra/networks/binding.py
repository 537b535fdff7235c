"""Parameters and gradients as they come, brought to a network's names and to float64.

Mappings by name, sequences in the order of the parameters, PyTorch's tensors and NumPy's arrays: what can be read in
one way only is accepted, and said where names had to be changed. PyTorch itself is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import NonFiniteError, ParameterError
from constraint_algebra.layers.kinds import Shape
from constraint_algebra.layers.normalisation import BUFFERS, COUNTER
from constraint_algebra.notes import note

# What PyTorch's wrappers put into the names: DataParallel and its distributed kin, compile, the fully sharded ones.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def by_name(
    shapes: Mapping[str, Shape],
    order: Sequence[str],
    arrays: Any,
    what: str,
    buffers: Mapping[str, Shape] | None = None,
    moved: Mapping[str, Shape] | None = None,
) -> dict[str, Any]:
    """Return what came under the names of the network's parameters, each array as it is.

    Args:
        shapes: the shape of each parameter by its name.
        order: the names in the order of a sequence of arrays.
        arrays: a mapping, a sequence in that order, pairs of name and array, or for parameters a PyTorch model.
        what: "parameters" or "gradients", for the messages.
        buffers: shapes of what belongs to the parameters and is not trained, by name; it has to be there as well.
        moved: shapes of buffers that may be there.

    Raises:
        ParameterError: something else came, a name is missing or unknown, or an array is `None`.
    """
    named = _named(shapes, order, arrays, what)
    buffers, moved = buffers or {}, moved or {}
    if what == "parameters":
        last = {_last(name) for name in (*buffers, *moved)}
        if hasattr(arrays, "named_buffers"):  # others are constants, or of other parts
            named |= {name: b for name, b in arrays.named_buffers() if _last(name) in last}
        meant = meant_by([str(name) for name in named], moved)
        named = {name: array for name, array in named.items() if _last(name) != COUNTER or name in meant}
        shapes = {**shapes, **buffers, **{name: moved[name] for name in meant.values()}}
    unused = [name for name in order if name not in shapes]  # of parts of the model that its forward pass leaves out
    came = [str(name) for name in named]
    owners = {name.rpartition(".")[0] for name in unused}
    statistics = [f"{owner}.{name}".lstrip(".") for owner in owners for name in BUFFERS]
    unused += [name for name in statistics if name in came and name not in shapes]
    renamed = _renamed(list(shapes), [name for name in came if name not in unused])
    if not renamed and unused:
        renamed = _renamed([*shapes, *unused], came)
    if renamed:
        old, new = next((old, new) for old, new in renamed.items() if old != new)
        note(f"{what}: {old!r} is read as the network's {new!r}, and the other names likewise")
        named = {renamed.get(str(name), str(name)): array for name, array in named.items()}
    named = {name: array for name, array in named.items() if str(name) not in unused}
    unknown = [name for name in named if name not in shapes]
    if unknown:
        raise ParameterError(
            str(unknown[0]), f"{what}: {unknown[0]!r} is no parameter of the network; it has {', '.join(shapes)}"
        )
    for name, shape in shapes.items():
        if name not in named:
            raise ParameterError(
                name,
                f"{what}: {name!r} of shape {shape} is missing; {list(named)} came"
                f"; every parameter's is needed{_free(what)}{_state(name, buffers)}",
            )
        if named[name] is None:
            raise ParameterError(name, f"{what}: {name!r} is None; every parameter's is needed{_free(what)}")
    return {name: named[name] for name in shapes}


def _last(name: object) -> str:
    return str(name).rpartition(".")[2]


def meant_by(came: list[str], moved: Mapping[str, Shape]) -> dict[str, str]:
    """Return which of the names that came mean a buffer that may be there, with wrappers and prefixes or without.

    >>> meant_by(["module.norm.running_var", "module.out.weight"], {"norm.running_var": (3,)})
    {'module.norm.running_var': 'norm.running_var'}
    """
    if not moved:
        return {}
    plain = {theirs: f".{name}" for theirs, name in zip(came, _without_wrappers(came), strict=True)}
    found = {}
    for name in moved:
        own = f".{name}"
        common = {
            theirs: min(len(own), len(other))
            for theirs, other in plain.items()
            if other.endswith(own) or own.endswith(other)
        }
        if common:
            found[name if name in plain else max(common, key=common.__getitem__)] = name
    return found


def _state(name: str, buffers: Mapping[str, Shape]) -> str:
    """Return where a buffer is found."""
    if name not in buffers:
        return ""
    return ": it is a buffer of batch norm, which model.state_dict() has beside the parameters"


def _free(what: str) -> str:
    """Return what to do about a gradient that is not there."""
    if what != "gradients":
        return ""
    return (
        ": a frozen parameter has none, so take the gradient again after model.requires_grad_(True), which changes no"
        " value of the others"
    )


def _named(shapes: Mapping[str, Shape], order: Sequence[str], arrays: Any, what: str) -> dict[Any, Any]:
    """Return names and arrays of whatever form came."""
    if isinstance(arrays, Mapping):
        return dict(arrays)
    if hasattr(arrays, "named_parameters"):
        if what == "parameters":
            return dict(arrays.named_parameters())
        raise ParameterError(
            what,
            f"{what}: a {type(arrays).__name__} came, whose .grad fields may be sums over several steps; give "
            "{name: p.grad for name, p in model.named_parameters()} if they are of one",
        )
    if (
        hasattr(arrays, "shape")
        or isinstance(arrays, str | bytes | set | frozenset)
        or not isinstance(arrays, Iterable)
    ):
        came = f"one array of shape {tuple(arrays.shape)}" if hasattr(arrays, "shape") else type(arrays).__name__
        raise ParameterError(
            what,
            f"{what}: expected a dictionary of arrays by parameter name, or a tuple or list of them in the order of "
            f"the parameters, got {came}; the network has {_listed(shapes)}",
        )
    items = list(arrays)
    if items and all(isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in items):
        return dict(items)
    if items and any(isinstance(item, Mapping) for item in items):
        raise ParameterError(
            what, f"{what}: a {type(arrays).__name__} of {len(items)} dictionaries came; give the one of one sample"
        )
    if len(items) != len(order):
        sizes = ", ".join(str(_shape_of(item)) for item in items)
        raise ParameterError(
            what,
            f"{what}: {len(items)} arrays came for the {len(order)} parameters {_listed(shapes)}; the shapes that came"
            f" are {sizes or 'none'}; give one for each, in this order, or a dictionary by name",
        )
    # A parameter that the forward pass never uses is none of the network's.
    return {name: item for name, item in zip(order, items, strict=True) if name in shapes}


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _shape_of(item: Any) -> object:
    return None if item is None else tuple(getattr(item, "shape", np.shape(item)))


def _renamed(wanted: list[str], came: list[str]) -> dict[str, str] | None:
    """Return the network's name for each that came, where wrappers or one prefix are all that differs; else `None`.

    >>> _renamed(["0.weight", "0.bias"], ["module.0.weight", "module.0.bias"])
    {'module.0.weight': '0.weight', 'module.0.bias': '0.bias'}
    """
    if set(wanted) == set(came) or len(wanted) != len(came):
        return None
    plain, other = _without_wrappers(wanted), _without_wrappers(came)
    for ours in (plain, *_without_prefix(plain)):
        for theirs in (other, *_without_prefix(other)):
            if (ours is plain or theirs is other) and len(set(theirs)) == len(came) and set(ours) == set(theirs):
                network = dict(zip(ours, wanted, strict=True))
                return {name: network[short] for name, short in zip(came, theirs, strict=True)}
    return None


def _without_wrappers(names: list[str]) -> list[str]:
    return [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names]


def _without_prefix(names: list[str]) -> Iterator[list[str]]:
    """Yield names without the first part that all of them share, then without the first two, and so on."""
    while all("." in name for name in names) and len({name.partition(".")[0] for name in names}) == 1:
        names = [name.partition(".")[2] for name in names]
        yield names


def number_type(array: Any) -> str:
    """Return the name of the number type of an array, or of a tensor, whatever its device.

    >>> number_type(np.zeros(2, dtype=np.float32))
    'float32'
    """
    kind = getattr(array, "dtype", None)
    return (str(np.asarray(array).dtype) if kind is None else str(kind)).removeprefix("torch.")


def as_float(name: str, array: Any, shape: Shape, what: str) -> FloatArray:
    """Return one array in float64, a copy, checked.

    Args:
        name: the parameter's name.
        array: what came, an array or a tensor.
        shape: the shape that it needs.
        what: "parameters" or "gradients", for the messages.

    Raises:
        ParameterError: no array of real numbers, or of another shape.
        NonFiniteError: a value is NaN or infinite.
    """
    came = _array(name, array, what)
    if came.dtype.kind in "cOSUmM":  # ml_dtypes' own kinds are none of these
        raise ParameterError(name, f"{what}: {name!r} has type {came.dtype}, expected real numbers; convert it first")
    values = came.astype(float)
    if values.shape != shape:
        message = f"{what}: {name!r} has shape {values.shape}, the network needs {shape}{_likely(values.shape, shape)}"
        raise ParameterError(name, message)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise NonFiniteError(
            name,
            index,
            f"{what}: {name!r} has {values[index]} at {index} and {len(wrong)} such values in all; "
            "only finite values can be analysed: look for overflow in the training step",
        )
    return values


def _array(name: str, array: Any, what: str) -> np.ndarray[Any, Any]:
    """Return anything as an array; a tensor leaves its graph and its device, and bfloat16 becomes float64."""
    if getattr(array, "is_meta", False):
        advice = "load the values first, for example by model.to_empty(device='cpu') and load_state_dict"
        raise ParameterError(name, f"{what}: {name!r} is on the meta device, a shape without values; {advice}")
    if np.ma.is_masked(array):
        raise ParameterError(name, f"{what}: {name!r} has masked values, and every value is needed; fill them first")
    try:
        if hasattr(array, "detach") and hasattr(array, "is_complex"):  # a tensor
            plain = array.detach()
            plain = plain.to_dense() if plain.is_sparse else plain
            return np.asarray((plain if plain.is_complex() else plain.double()).numpy(force=True))
        return np.asarray(array)
    except Exception as error:  # whatever a foreign class raises
        raise ParameterError(
            name, f"{what}: {name!r} is a {type(array).__name__}, which is no array of numbers ({error}); convert it"
        ) from error


def _likely(came: Shape, needed: Shape) -> str:
    """Return what most likely happened to an array of another shape, as the end of a sentence."""
    if came[1:] == needed:
        samples = f"{came[0]} samples" if came[0] != 1 else "one sample"
        return f"; it has a batch axis of {samples} in front: give the gradient of one sample without it, array[0]"
    if len(needed) == 2 and came == needed[::-1]:
        return "; it looks transposed: PyTorch has the outputs first, so give array.T"
    if len(came) == len(needed) > 2 and came == (*needed[2:], needed[1], needed[0]):
        return "; its axes are in the order of Keras, outputs last: give them as (outputs, inputs, *kernel)"
    if sorted(came) == sorted(needed) and len(came) > 1:
        return "; the same sizes in another order: give the axes as (outputs, inputs, *kernel)"
    if np.prod(came) == np.prod(needed):
        return f"; as many values in another shape: reshape it to {needed} if their order is PyTorch's"
    return ""
