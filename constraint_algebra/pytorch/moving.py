"""Operations that only move values, read as layers: reshapes, permutations, padding, parts, joins, enlargements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from constraint_algebra import layers as kinds
from constraint_algebra.layers.base import Shape
from constraint_algebra.pytorch.place import Flow, Made, Place, Reader
from constraint_algebra.pytorch.unsupported import PART, Unsupported
from constraint_algebra.pytorch.weighted import is_in_conv

Range = tuple[int | None, int | None, int | None]
_ALL: Range = (None, None, None)
_MODES = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def _reshape(at: Place, x: Flow, *_: Any, **__: Any) -> Flow:
    shape, batched = at.sample(x)
    return _with(at.rearranged(x, shape), batched)


def _squeeze(at: Place, x: Flow, dim: Any = None) -> Flow:
    dims = range(len(x.tensor)) if dim is None else (dim,) if isinstance(dim, int) else dim
    squeezed = x.batched and any(d % len(x.tensor) == 0 for d in dims)
    shape, batched = at.sample(x, squeezed=squeezed)
    return _with(at.rearranged(x, shape), batched)


def _with(flow: Flow, batched: bool) -> Flow:
    return Flow(flow.name, flow.shape, flow.tensor, batched)


def _same(at: Place, x: Flow, *_: Any, **__: Any) -> Flow:
    """Take what leaves its values as they are; `Unsupported` where it rounds or repeats them."""
    value, before = at.call.outputs[0], at.call.inputs[0]
    if value.shape != before.shape:
        raise Unsupported(f"it repeats values, from {before.shape} to {value.shape}", PART)
    if not value.dtype.is_floating_point or value.dtype.itemsize < before.dtype.itemsize:
        raise Unsupported(f"it rounds values from {before.dtype} to {value.dtype}".replace("torch.", ""), PART)
    return x


def _permute(at: Place, x: Flow, *order: Any, dims: Any = None) -> Flow:
    order = order if dims is None else (dims,)
    order = order[0] if len(order) == 1 and isinstance(order[0], tuple) else order
    return _in_order(at, x, [d % len(x.tensor) for d in order])


def _in_order(at: Place, x: Flow, order: Sequence[int]) -> Flow:
    if x.batched and order[0] != 0:
        raise Unsupported("it moves the batch axis", PART)
    axes = tuple(d - 1 for d in order[1:]) if x.batched else tuple(order)
    if axes == tuple(range(len(axes))):
        return x
    return _with(at.add(kinds.Permute(axes), x), x.batched)


def _transpose(at: Place, x: Flow, dim0: int = -2, dim1: int = -1) -> Flow:
    order = list(range(len(x.tensor)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _in_order(at, x, order)


def _movedim(at: Place, x: Flow, source: Any, destination: Any) -> Flow:
    count = len(x.tensor)
    pairs = zip(*[(d,) if isinstance(d, int) else d for d in (source, destination)], strict=True)
    moved = {to % count: origin % count for origin, to in pairs}
    rest = iter(d for d in range(count) if d not in moved.values())
    return _in_order(at, x, [moved[d] if d in moved else next(rest) for d in range(count)])


def _pad(at: Place, x: Flow, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Flow:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    while pairs and pairs[0] == (0, 0):
        pairs = pairs[1:]
    if len(pairs) > len(x.shape):
        raise Unsupported("its padding reaches the batch axis", PART)
    if not pairs:
        return x
    suffix = ".pad" if is_in_conv(at.call.module) else ""
    return at.add(kinds.Pad(tuple(pairs), mode=_MODES[mode], value=float(value or 0.0)), x, suffix=suffix)


def _part(at: Place, x: Flow, ranges: dict[int, Range]) -> Flow:
    """Return a part of a value, `ranges` by axis of one sample."""
    if not ranges:
        return x
    full = tuple(ranges.get(axis, _ALL) for axis in range(max(ranges) + 1))
    return at.add(kinds.Slice(full), x)


def _getitem(at: Place, x: Flow, index: Any) -> Flow:
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(not (e is None or e is Ellipsis or isinstance(e, int | slice)) or isinstance(e, bool) for e in entries):
        raise Unsupported("it takes values by an index that is a tensor or a list", PART)
    named = sum(e is not None and e is not Ellipsis for e in entries)
    place = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    entries[place : place + 1] = [slice(None)] * (len(x.tensor) - named)
    dim, ranges = 0, {}
    for entry in entries:
        if entry is None:
            continue
        part = (entry, entry + 1 or None, None) if isinstance(entry, int) else (entry.start, entry.stop, entry.step)
        if isinstance(entry, int) or len(range(x.tensor[dim])[entry]) != x.tensor[dim] or (part[2] or 1) != 1:
            ranges[x.axis(dim)] = part
        dim += 1
    flow = _part(at, x, ranges)
    shape, batched = at.sample(x)
    return _with(at.rearranged(flow, shape), batched)


def _narrow(at: Place, x: Flow, dim: int, start: int, length: int) -> Flow:
    return _part(at, x, {x.axis(dim): (start, start + length or None, None)})


def _select(at: Place, x: Flow, dim: int, index: int) -> Flow:
    flow = _part(at, x, {x.axis(dim): (index, index + 1 or None, None)})
    return at.rearranged(flow, at.sample(x)[0])


def _split(at: Place, x: Flow, sizes: Any = None, dim: int = 0, **kw: Any) -> Made:
    """Read `chunk`, `split` and the like by the shapes of what they make."""
    del sizes
    dim = kw.get("dim", dim)
    axis = x.axis(dim)
    ends = list(accumulate(value.shape[dim] for value in at.call.outputs))
    return tuple(_part(at, x, {axis: (a, b, None)}) for a, b in zip([0, *ends], ends, strict=False))


def _unbind(at: Place, x: Flow, dim: int = 0) -> Made:
    axis = x.axis(dim)
    parts = [_part(at, x, {axis: (i, i + 1, None)}) for i in range(len(at.call.outputs))]
    return tuple(at.rearranged(part, at.sample(x)[0]) for part in parts)


def _flip(at: Place, x: Flow, *given: Any, dims: Any = None) -> Flow:
    given = given if dims is None else (dims,)
    given = given[0] if isinstance(given[0], tuple) else given
    return _part(at, x, {x.axis(d): (None, None, -1) for d in given})


def _cat(at: Place, tensors: tuple[Any, ...], dim: int = 0, **_: Any) -> Flow:
    flows = _all_flows(tensors)
    if len(flows) == 1:
        return flows[0]
    return at.add(kinds.Concatenate(flows[0].axis(dim)), *flows)


def _stack(at: Place, tensors: tuple[Any, ...], dim: int = 0, **_: Any) -> Flow:
    flows = _all_flows(tensors)
    axis = dim % (len(flows[0].tensor) + 1) - flows[0].batched
    if axis < 0:
        raise Unsupported("it works along the batch axis", PART)
    shape: Shape = (*flows[0].shape[:axis], 1, *flows[0].shape[axis:])
    return at.add(kinds.Concatenate(axis), *(at.rearranged(flow, shape) for flow in flows))


def _all_flows(tensors: tuple[Any, ...]) -> list[Flow]:
    if not all(isinstance(t, Flow) for t in tensors):
        raise Unsupported("it joins values with a tensor that does not depend on the input; padding does that", PART)
    if len({t.batched for t in tensors}) > 1:
        raise Unsupported("it joins values with and without a batch axis", PART)
    return list(tensors)


def _enlarge(
    at: Place,
    x: Flow,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Flow:
    """Read nearest-neighbour enlargement by whole factors."""
    del size, align_corners, antialias
    for factor in scale_factor if isinstance(scale_factor, tuple) else (scale_factor or 1,):
        if factor != int(factor) and not recompute_scale_factor:
            raise Unsupported(f"it enlarges by {factor}, and only whole factors of enlargement are read", PART)
    before, after = x.tensor[2:], at.made[2:]
    factors = [b // a for a, b in zip(before, after, strict=True)]
    if not mode.startswith("nearest"):
        raise Unsupported(f"it interpolates ({mode}), and only nearest-neighbour enlargement has equations here", PART)
    if any(a * f != b or f < 1 for a, b, f in zip(before, after, factors, strict=True)):
        raise Unsupported(f"it brings {before} to {after}, and only whole factors of enlargement are read", PART)
    if set(factors) == {1}:
        return x
    return at.add(kinds.Upsample(factors[0] if len(set(factors)) == 1 else tuple(factors)), x)


def _pixel_shuffle(at: Place, x: Flow, factor: int, *, back: bool = False) -> Flow:
    return at.add(kinds.PixelUnshuffle(factor) if back else kinds.PixelShuffle(factor), x)


def _channel_shuffle(at: Place, x: Flow, groups: int) -> Flow:
    channels, *sizes = x.shape
    split = at.add(kinds.Reshape((groups, channels // groups, *sizes)), x, suffix=".groups")
    turned = at.add(kinds.Permute((1, 0, *range(2, len(sizes) + 2))), split, suffix=".turned")
    return at.add(kinds.Reshape(x.shape), turned)


READERS: dict[str, Reader] = {
    **dict.fromkeys(
        ("flatten", "view", "reshape", "unsqueeze", "unflatten", "view_as", "reshape_as", "ravel"), _reshape
    ),
    "squeeze": _squeeze,
    **dict.fromkeys(("contiguous", "clone", "to", "float", "double", "type", "type_as", "cpu", "cuda", "alias"), _same),
    **dict.fromkeys(("_to_copy", "requires_grad_", "expand", "expand_as", "lift_fresh_copy", "identity"), _same),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "mT"), _transpose),
    **dict.fromkeys(("movedim", "moveaxis"), _movedim),
    "pad": _pad,
    "constant_pad_nd": lambda at, x, pad, value=0.0: _pad(at, x, pad, "constant", value),
    **{f"reflection_pad{n}d": partial(_pad, mode="reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": partial(_pad, mode="replicate") for n in (1, 2, 3)},
    "__getitem__": _getitem,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _split),
    "unbind": _unbind,
    "flip": _flip,
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _stack,
    "interpolate": _enlarge,
    **{f"upsample_nearest{n}d": lambda at, x, _=None, by=None, *__: _enlarge(at, x, None, by) for n in (1, 2, 3)},
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": partial(_pixel_shuffle, back=True),
    "channel_shuffle": _channel_shuffle,
}
