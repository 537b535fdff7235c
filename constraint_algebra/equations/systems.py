"""Weight, gradient and bias equations of a layer as explicit sparse linear systems with named rows and unknowns.

For a layer with input x, weight W, bias b, pre-activation z and output gradient k = dL/dz:

    weight equations     B(W) x = z - b                rows z[f, o],         unknowns x[c, q]
    gradient equations   A(k) x[c] = dL/dW[:, c]       rows dL/dW[f, c, t],  unknowns x[c, q]
    bias equations       sum over o of k[f, o] = dL/db[f]                    unknowns k[f, o]

(Eltaras et al. 2024, arXiv 2406.04227; Zhu and Blaschko 2021, arXiv 2010.07733.) All three are contractions of one
incidence. `A` does not depend on the channel: the gradient equations of a layer are the Kronecker product of an
identity with `gradient_block`, one block for each group.

Order: unknowns (c, *position), weight rows (f, *output) and gradient rows (c, f, *tap), each in C order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.display import draw
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer, Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Names(Sequence[str]):
    """Names of rows, unknowns or coefficients, formatted only when asked for.

    >>> names = Names("x", (3, 32, 32))
    >>> len(names), names[39]
    (3072, 'x[0,1,7]')
    """

    def __init__(self, label: str, shape: Shape, flat: IntArray | None = None) -> None:
        """Name the entries `flat` (by default all) of an array called `label` with the given shape."""
        self.label = label
        self.shape = shape
        self.flat = np.arange(math.prod(shape)) if flat is None else flat
        self._pieces: tuple[Names, ...] = (self,)

    def __len__(self) -> int:
        """Return the number of names."""
        return sum(len(piece.flat) for piece in self._pieces)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        """Return one name."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        index %= len(self)
        for piece in self._pieces:
            if index < len(piece.flat):
                place = np.unravel_index(int(piece.flat[index]), piece.shape)
                return f"{piece.label}[{','.join(map(str, place))}]"
            index -= len(piece.flat)
        raise IndexError(index)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Return the first names and their number."""
        shown = ", ".join(self[i] for i in range(min(3, len(self))))
        return f"<{len(self)} names: {shown}{', …' if len(self) > 3 else ''}>"

    def select(self, keep: BoolArray) -> Names:
        """Return the names where `keep` is true."""
        ends = np.cumsum([len(piece.flat) for piece in self._pieces])[:-1]
        parts = np.split(keep, ends)
        pieces = [Names(p.label, p.shape, p.flat[part]) for p, part in zip(self._pieces, parts, strict=True)]
        return Names.joined(pieces)

    @staticmethod
    def joined(pieces: Sequence[Names]) -> Names:
        """Return the names of `pieces` one after the other."""
        if not pieces:
            return Names("", (0,))
        joined = Names(pieces[0].label, pieces[0].shape, pieces[0].flat)
        joined._pieces = tuple(leaf for piece in pieces for leaf in piece._pieces)
        return joined


@dataclass(frozen=True)
class LinearSystem:
    """A sparse linear system `matrix @ unknowns = rhs` that knows the names of its rows, unknowns and coefficients.

    Attributes:
        layer: the layer it belongs to.
        kinds: for each row "weight", "gradient" or "bias", shape `(rows,)`.
        pattern: `csr_array` of the coefficients' numbers, counted from 1: equal numbers are the same value.
        rows, unknowns: their names, such as `dL/dW[2,0,1,1]` and `x[0,3,7]`.
        coefficients: the names of the coefficients, such as `W[2,0,1,1]` and `k[2,5,5]`.
        values: value of each coefficient, `None` where the system comes from shapes alone.
        rhs: right-hand sides, shape `(rows,)`, NaN where unknown, `None` where none is known.
    """

    layer: PlacedLayer
    kinds: NDArray[np.str_]
    pattern: sp.csr_array
    rows: Names
    unknowns: Names
    coefficients: Names
    values: FloatArray | None = None
    rhs: FloatArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of unknowns."""
        return len(self.rows), len(self.unknowns)

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The matrix; ones in the place of every coefficient where the system comes from shapes alone."""
        return self.evaluate(np.ones(len(self.coefficients)) if self.values is None else self.values)

    def evaluate(self, values: NDArray[np.generic]) -> sp.csr_array:
        """Return the matrix with other values for the coefficients; a value that rows share stays shared."""
        p = self.pattern
        return sp.csr_array((values[p.data - 1], p.indices, p.indptr), shape=p.shape)

    def select(self, keep: ArrayLike) -> LinearSystem:
        """Return the system of the rows where the mask `keep` is true."""
        mask = np.asarray(keep, dtype=bool)
        if mask.shape != (len(self.rows),):
            raise ShapeError(f"select needs a mask with one entry for each of {len(self.rows)} rows, got {mask.shape}")
        return replace(
            self,
            kinds=self.kinds[mask],
            pattern=self.pattern[mask],
            rows=self.rows.select(mask),
            rhs=None if self.rhs is None else self.rhs[mask],
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the pattern in the order of its Dulmage-Mendelsohn decomposition, see `plotting.decomposition`."""
        drawn: Axes = draw(self, ax)
        return drawn

    def __repr__(self) -> str:
        """Return one line: kinds, layer, size, where the values come from."""
        kinds = " and ".join(dict.fromkeys(self.kinds.tolist())) or "no"
        source = "from shapes" if self.values is None else "with values"
        size = f"{self.shape[0]} rows, {self.shape[1]} unknowns, {self.pattern.nnz} entries"
        return f"<{kinds} equations of layer {self.layer.name!r} ({self.layer.kind}): {size}, {source}>"


def weight_equations(
    layer: PlacedLayer,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    output: ArrayLike | None = None,
) -> LinearSystem:
    """Return the weight equations `B(W) x = z - b`, one row for every output.

    Args:
        layer: a convolution or linear layer at its place, such as `network[0]`.
        weight: `(filters, channels / groups, *taps)`; without it the system comes from shapes alone.
        bias: `(filters,)`; left out it counts as zero.
        output: the pre-activation z in the layer's output shape, NaN where the activation does not determine it.

    Raises:
        ShapeError: an array of another shape than the layer needs.

    >>> from constraint_algebra.layers import Conv1d
    >>> B = weight_equations(Conv1d(2, 2).place((1, 3)), weight=[[[1, 2]], [[3, 4]]])
    >>> B.matrix.toarray()
    array([[1., 2., 0.],
           [0., 1., 2.],
           [3., 4., 0.],
           [0., 3., 4.]])
    >>> list(B.rows)
    ['z[0,0]', 'z[0,1]', 'z[1,0]', 'z[1,1]']
    """
    S = incidence(layer)
    F, C, G, Q, O, T = *_counts(layer), S.position_count, S.output_count, S.tap_count
    f, c, s = np.indices((F, C // G, len(S))).reshape(3, -1)
    rows = f * O + S.output[s]
    columns = (f // (F // G) * (C // G) + c) * Q + S.position[s]
    numbers = (f * (C // G) + c) * T + S.tap[s]
    rhs = None
    if output is not None:
        shift = np.zeros(F) if bias is None else _shaped(bias, (F,), "bias")
        rhs = _shaped(output, layer.output_shape, "output").ravel() - np.repeat(shift, O)
    return LinearSystem(
        layer=layer,
        kinds=np.full(F * O, "weight"),
        pattern=_pattern(numbers, rows, columns, (F * O, C * Q)),
        rows=Names("z", layer.output_shape),
        unknowns=Names("x", layer.input_shape),
        coefficients=Names("W", layer.weight_shape),
        values=_values(weight, layer.weight_shape, "weight"),
        rhs=rhs,
    )


def gradient_equations(
    layer: PlacedLayer, output_gradient: ArrayLike | None = None, weight_gradient: ArrayLike | None = None
) -> LinearSystem:
    """Return the gradient equations `A(k) x[c] = dL/dW[:, c]` of all channels.

    Args:
        layer: a convolution or linear layer at its place.
        output_gradient: k = dL/dz in the layer's output shape; without it the system comes from shapes alone.
        weight_gradient: dL/dW in the weight's shape.

    Raises:
        ShapeError: an array of another shape than the layer needs.

    >>> from constraint_algebra.layers import Conv1d
    >>> A = gradient_equations(Conv1d(1, 2).place((2, 3)), output_gradient=[[5, 7]])
    >>> A.matrix.toarray()
    array([[5., 7., 0., 0., 0., 0.],
           [0., 5., 7., 0., 0., 0.],
           [0., 0., 0., 5., 7., 0.],
           [0., 0., 0., 0., 5., 7.]])
    >>> list(A.rows)
    ['dL/dW[0,0,0]', 'dL/dW[0,0,1]', 'dL/dW[0,1,0]', 'dL/dW[0,1,1]']
    """
    F, C, G = _counts(layer)
    taps = incidence(layer).tap_count
    # Row (c, f, t) bears the name of the weight's entry [f, c within its group, t].
    c, f, t = np.indices((C, F // G, taps)).reshape(3, -1)
    entry = ((c // (C // G) * (F // G) + f) * (C // G) + c % (C // G)) * taps + t
    rhs = _values(weight_gradient, layer.weight_shape, "weight_gradient")
    return LinearSystem(
        layer=layer,
        kinds=np.full(len(entry), "gradient"),
        pattern=sp.csr_array(sp.block_diag([gradient_block(layer, c // (C // G)) for c in range(C)], format="csr")),
        rows=Names("dL/dW", layer.weight_shape, entry),
        unknowns=Names("x", layer.input_shape),
        coefficients=Names("k", layer.output_shape),
        values=_values(output_gradient, layer.output_shape, "output_gradient"),
        rhs=None if rhs is None else rhs[entry],
    )


def gradient_block(layer: PlacedLayer, group: int = 0) -> sp.csr_array:
    """Return the pattern of `A` for one channel of a group: rows (f, *tap) with f in the group, columns *position.

    The entries are the numbers of k[f, *output], counted from 1 over all filters, as in `LinearSystem.pattern`.
    """
    S = incidence(layer)
    F = layer.filters // layer.groups
    f, s = np.indices((F, len(S))).reshape(2, -1)
    rows, numbers = f * S.tap_count + S.tap[s], (group * F + f) * S.output_count + S.output[s]
    return _pattern(numbers, rows, S.position[s], (F * S.tap_count, S.position_count))


def bias_equations(layer: PlacedLayer, bias_gradient: ArrayLike | None = None) -> LinearSystem:
    """Return the bias equations `sum over o of k[f, o] = dL/db[f]`: a check on the output gradient k.

    Raises:
        ShapeError: the layer has no bias, or the array has another shape than `(filters,)`.

    >>> from constraint_algebra.layers import Linear
    >>> bias_equations(Linear(2).place((5,))).matrix.toarray()
    array([[1., 0.],
           [0., 1.]])
    """
    if layer.bias_name is None:
        raise ShapeError(f"layer {layer.name!r} has no bias and therefore no bias equations")
    F, O = layer.filters, math.prod(layer.outputs)
    return LinearSystem(
        layer=layer,
        kinds=np.full(F, "bias"),
        pattern=_pattern(np.zeros(F * O, dtype=np.intp), np.repeat(np.arange(F), O), np.arange(F * O), (F, F * O)),
        rows=Names("dL/db", (F,)),
        unknowns=Names("k", layer.output_shape),
        coefficients=Names("one", ()),
        values=np.ones(1),
        rhs=_values(bias_gradient, (F,), "bias_gradient"),
    )


def stack(first: LinearSystem, second: LinearSystem) -> LinearSystem:
    """Return the rows of two systems of the same layer over the same unknowns, one below the other.

    Right-hand sides (and values) are kept if both systems have them.

    Raises:
        ShapeError: the systems have different unknowns.
    """
    if first.layer != second.layer or first.unknowns.label != second.unknowns.label:
        raise ShapeError(f"stack needs two systems over the same unknowns, got {first!r} and {second!r}")
    shifted = second.pattern.copy()
    shifted.data = shifted.data + len(first.coefficients)
    return LinearSystem(
        layer=first.layer,
        kinds=np.concatenate([first.kinds, second.kinds]),
        pattern=sp.csr_array(sp.vstack([first.pattern, shifted], format="csr")),
        rows=Names.joined([first.rows, second.rows]),
        unknowns=first.unknowns,
        coefficients=Names.joined([first.coefficients, second.coefficients]),
        values=_both(first.values, second.values),
        rhs=_both(first.rhs, second.rhs),
    )


def _both(first: FloatArray | None, second: FloatArray | None) -> FloatArray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _counts(layer: PlacedLayer) -> tuple[int, int, int]:
    return layer.filters, layer.channels, layer.groups


def _pattern(numbers: IntArray, rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> sp.csr_array:
    """Return coefficient numbers, counted from 1 so that none is a stored zero, at their places."""
    pattern = sp.coo_array((numbers + 1, (rows, columns)), shape=shape).tocsr()
    pattern.sort_indices()
    return pattern


def _values(values: ArrayLike | None, shape: Shape, what: str) -> FloatArray | None:
    return None if values is None else _shaped(values, shape, what).ravel()


def _shaped(values: ArrayLike, shape: Shape, what: str) -> FloatArray:
    array = np.asarray(values, dtype=float)
    if array.shape != shape:
        raise ShapeError(f"{what} must have shape {shape}, got {array.shape}")
    return array
