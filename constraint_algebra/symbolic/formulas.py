"""The same equations as formulas, for layers small enough to be read: what "generic" means, symbol by symbol.

    system = ca.symbolic.equations(layer, kind)      # "weight", "gradient", "both" or "bias"

Each value that `LinearSystem` names is one SymPy symbol, however many rows it stands in, with the same indices:

    x input    W weight    k output gradient    z pre-activation    b bias    g = dL/dW    h = dL/db

A generic rank holds for almost all values of W and k. For a square system of full generic rank "almost all" has an
exact meaning: the determinant is a polynomial, and the system is singular where one of its irreducible factors is zero
and nowhere else. A stride or a dilation splits the taps and pixels into residue classes that share no equation; each is
a connected component with its own determinant, and the determinant of the layer is their product.

For a system with more equations than unknowns the exceptional set is where all largest minors vanish at once. That
ideal is not offered. Choose a square system among the rows with `select`: where its determinant is not zero, the whole
system has full rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike, NDArray

from constraint_algebra.arguments import checked
from constraint_algebra.equations.constraint_graph import components, without_zeros
from constraint_algebra.equations.stacking import stack
from constraint_algebra.equations.systems import LinearSystem, bias_equations, gradient_equations, weight_equations
from constraint_algebra.errors import ShapeError, UnknownNameError
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.symbolic import polynomials, symbols

LARGEST = 10_000  # entries of the matrix, zeros included
KINDS = ("weight", "gradient", "both", "bias")


@checked
def equations(layer: PlacedLayer, kind: str = "both") -> SymbolicSystem:
    """Return the equations of a small layer as formulas, rows and unknowns in the order of `LinearSystem`.

    Args:
        layer: a layer with a weight at its place, in a chain or a graph: `network.named(name)`. The unknowns of a
            batch norm are its input standardised, those of a transposed convolution have zeros between them.
        kind: "weight", "gradient", "both" (weight equations first) or "bias".

    Raises:
        ShapeError: the matrix would have more than `LARGEST` entries, or "bias" of a layer without one.
        UnknownNameError: another kind.

    The weight equations of a linear layer are singular exactly where its weight is:

    >>> from constraint_algebra.layers import Conv1d, Conv2d, Linear
    >>> system = equations(Linear(2, bias=False).place((2,)), "weight")
    >>> for equation in system.equations: print(equation.lhs, "=", equation.rhs)
    W_{0,0}*x_{0} + W_{0,1}*x_{1} = z_{0}
    W_{1,0}*x_{0} + W_{1,1}*x_{1} = z_{1}
    >>> system.determinant()
    W_{0,0}*W_{1,1} - W_{0,1}*W_{1,0}

    A stride of 2 separates even from odd pixels, and the determinant has one factor for each class, here the same one:
    the output gradients of the two filters must not be proportional.

    >>> system = equations(Conv1d(2, 2, stride=2).place((1, 4)), "gradient")
    >>> system.matrix
    Matrix([
    [k_{0,0},       0, k_{0,1},       0],
    [      0, k_{0,0},       0, k_{0,1}],
    [k_{1,0},       0, k_{1,1},       0],
    [      0, k_{1,0},       0, k_{1,1}]])
    >>> for part in system.components(): print(part.determinant(), list(part.unknowns))
    k_{0,0}*k_{1,1} - k_{0,1}*k_{1,0} [x_{0,0}, x_{0,2}]
    k_{0,0}*k_{1,1} - k_{0,1}*k_{1,0} [x_{0,1}, x_{0,3}]
    >>> system.determinant()
    (k_{0,0}*k_{1,1} - k_{0,1}*k_{1,0})**2

    An image of 4×4 pixels, four filters of 2×2 taps, stride 2: four residue classes of four pixels, each with the
    determinant of all 16 output gradients as a 4×4 matrix, which has 24 terms.

    >>> image = equations(Conv2d(4, 2, stride=2).place((1, 4, 4)), "gradient")
    >>> image.rank(), [part.shape for part in image.components()]
    (16, [(4, 4), (4, 4), (4, 4), (4, 4)])
    >>> factor, power = image.determinant().as_base_exp()
    >>> len(factor.args), power
    (24, 4)
    """
    if kind not in KINDS:
        raise UnknownNameError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    _check_size(layer, kind)
    if kind == "both":
        return from_system(stack(weight_equations(layer), gradient_equations(layer)))
    if kind == "bias":
        return from_system(bias_equations(layer))
    return from_system(weight_equations(layer) if kind == "weight" else gradient_equations(layer))


@checked
def from_system(system: LinearSystem) -> SymbolicSystem:
    """Return a linear system as formulas: its rows, such as `select` left them, without its values.

    Only a coefficient known to be zero, as where a ReLU is inactive, is a zero here as well.

    Raises:
        ShapeError: the matrix has more than `LARGEST` entries.
    """
    _check_entries(*system.shape, system.layer)
    pattern = without_zeros(system).tocoo()
    matrix = sympy.SparseMatrix(*system.shape, {})
    for i, j, number in zip(*pattern.coords, pattern.data, strict=True):
        matrix[int(i), int(j)] = symbols.symbol(system.coefficients[int(number) - 1])
    names = tuple(system.rows)
    return SymbolicSystem(
        layer=system.layer,
        kinds=tuple(system.kinds.tolist()),
        rows=names,
        matrix=sympy.ImmutableMatrix(matrix),
        unknowns=symbols.column([symbols.symbol(name) for name in system.unknowns]),
        rhs=symbols.column([symbols.right_hand_side(name, system.layer) for name in names]),
    )


@dataclass(frozen=True)
class SymbolicSystem:
    """A linear system `matrix * unknowns = rhs` of SymPy expressions.

    Attributes:
        layer: the layer it belongs to.
        kinds: for each row "weight", "gradient" or "bias".
        rows: the names of the rows, as in `LinearSystem`.
        matrix: SymPy matrix of the coefficients, shape `(rows, unknowns)`.
        unknowns: SymPy matrix of one column.
        rhs: SymPy matrix of one column.
    """

    layer: PlacedLayer
    kinds: tuple[str, ...]
    rows: tuple[str, ...]
    matrix: sympy.ImmutableMatrix
    unknowns: sympy.ImmutableMatrix
    rhs: sympy.ImmutableMatrix

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of unknowns."""
        return self.matrix.rows, self.matrix.cols

    @property
    def equations(self) -> list[sympy.Eq]:
        """The rows as SymPy equations, also where one reads `0 = g`."""
        left = self.matrix * self.unknowns
        return [sympy.Eq(lhs, rhs, evaluate=False) for lhs, rhs in zip(left, self.rhs, strict=True)]

    def rank(self) -> int:
        """Return the rank over the field of rational functions: exact, component by component.

        Raises:
            ShapeError: a component whose rank the bounds of `polynomials.rank` leave open and that is too large to be
                eliminated symbolically.

        >>> from constraint_algebra.layers import Conv2d
        >>> equations(Conv2d(1, 3, padding=1).place((1, 3, 3)), "both").rank()
        9
        """
        return sum(polynomials.rank(part.matrix) for part in self.components())

    def determinant(self) -> sympy.Expr:
        """Return the determinant of a square system in factors, not multiplied out.

        Raises:
            ShapeError: the system is not square, or the expansion of one of its blocks is too large.

        >>> from constraint_algebra.layers import Conv1d
        >>> system = equations(Conv1d(1, 3, padding=1).place((1, 3)), "weight")
        >>> system.determinant()
        -W_{0,0,1}*(2*W_{0,0,0}*W_{0,0,2} - W_{0,0,1}**2)
        >>> system.subs({"W": [[[1, 2, 2]]]}).rank()
        2
        """
        number, factors = polynomials.determinant(self._square())
        return sympy.Mul(number, *(factor**power for factor, power in factors))

    def exceptional_set(self) -> list[sympy.Expr]:
        """Return the irreducible factors of the determinant: the system is singular where one of them is zero.

        Those of a determinant that is zero everywhere are the one factor 0. Multiplicities are in `determinant`.

        Raises:
            ShapeError: as `determinant`.

        Two filters of three taps on four pixels make Sylvester's matrix. Its determinant is the resultant: the input
        is determined unless the two filters, read as polynomials, have a common root, as here 1.

        >>> from constraint_algebra.layers import Conv1d
        >>> system = equations(Conv1d(2, 3).place((1, 4)), "weight")
        >>> (resultant,) = system.exceptional_set()
        >>> len(resultant.args), system.subs({"W": [[[1, -3, 2]], [[1, 4, -5]]]}).rank()
        (7, 3)
        """
        number, factors = polynomials.determinant(self._square())
        return [sympy.Integer(0)] if number == 0 else [factor for factor, _ in factors]

    def dependencies(self) -> sympy.ImmutableMatrix:
        """Return D with `D * matrix = 0`: dependencies between equations that hold for all values of the symbols.

        Those whose coefficients are linear in the symbols, independent of each other, one a row. Weight and gradient
        equations of F filters share F² of them: the weight of one filter times the gradient equations of another is
        the output gradient of that other times the weight equations of the first.

        >>> from constraint_algebra.layers import Linear
        >>> system = equations(Linear(1).place((2,)), "both")
        >>> system.rows, system.dependencies()
        (('z[0]', 'dL/dW[0,0]', 'dL/dW[0,1]'), Matrix([[k_{0}, -W_{0,0}, -W_{0,1}]]))
        """
        return polynomials.linear_dependencies(self.matrix)

    def components(self) -> tuple[SymbolicSystem, ...]:
        """Return the connected components, each a system of its own, in the order of their first unknown.

        For gradient equations these are the residue classes of each channel. An unknown that no equation touches is a
        component without rows; equations without unknowns belong to none.
        """
        parts = components(polynomials.Polynomials(self.matrix).pattern)
        return tuple(self._extract(part.rows.tolist(), part.columns.tolist()) for part in parts)

    def select(self, keep: ArrayLike) -> SymbolicSystem:
        """Return the system of the rows where the mask `keep` is true, such as those of the active outputs.

        Raises:
            ShapeError: the mask does not have one entry for each row.
        """
        mask = np.asarray(keep, dtype=bool)
        if mask.shape != (len(self.rows),):
            raise ShapeError(f"select needs a mask with one entry for each of {len(self.rows)} rows, got {mask.shape}")
        return self._extract(np.flatnonzero(mask).tolist(), list(range(self.matrix.cols)))

    def subs(self, values: Mapping[Any, Any]) -> SymbolicSystem:
        """Return the system with values in the place of symbols.

        Args:
            values: by letter, `{"W": array, "k": array}` in the layer's shapes, NaN where a symbol is to stay; or by
                symbol, with numbers or SymPy expressions, such as `{k0: k1}`. Floats count as the fractions they are.

        Raises:
            UnknownNameError: a letter that no symbol of a layer has.
            ShapeError: an array of another shape than the layer needs.
            NonFiniteError: an infinite value.
            ParameterError: a value that is neither a number nor a SymPy expression.

        >>> from constraint_algebra.layers import Linear
        >>> system = equations(Linear(2).place((2,)), "weight")
        >>> system.subs({"W": [[1, 2], [2, 4]]}).rank(), system.rank()
        (1, 2)
        """
        given: dict[sympy.Symbol, sympy.Expr] = {}
        for key, value in values.items():
            given |= (
                {key: symbols.exact(str(key), (), value)} if isinstance(key, sympy.Symbol) else self._array(key, value)
            )
        given = {symbol: value for symbol, value in given.items() if value is not sympy.nan}
        matrix, unknowns, rhs = (m.xreplace(given) for m in (self.matrix, self.unknowns, self.rhs))
        return replace(self, matrix=matrix, unknowns=unknowns, rhs=rhs)

    def latex(self, *, matrix: bool = False) -> str:
        r"""Return the equations in LaTeX, one a line, or as `matrix * unknowns = rhs`.

        >>> from constraint_algebra.layers import Linear
        >>> print(equations(Linear(1).place((2,)), "weight").latex())
        \begin{aligned}
        W_{0,0} x_{0} + W_{0,1} x_{1} &= z_{0} - b_{0}
        \end{aligned}
        """
        if matrix:
            return f"{sympy.latex(self.matrix)} {sympy.latex(self.unknowns)} = {sympy.latex(self.rhs)}"
        terms = [[] for _ in self.rows]  # type: list[list[sympy.Expr]]
        for (i, j), entry in sorted(self.matrix.todok().items()):
            terms[i].append(entry * self.unknowns[j])
        lines = [
            f"{symbols.sum_latex(left)} &= {symbols.expression_latex(r)}"
            for left, r in zip(terms, self.rhs, strict=True)
        ]
        return "\n".join([r"\begin{aligned}", " \\\\\n".join(lines), r"\end{aligned}"])

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def __repr__(self) -> str:
        """Return one line: kinds, layer, size."""
        kinds = " and ".join(dict.fromkeys(self.kinds)) or "no"
        size = f"{self.shape[0]} rows, {self.shape[1]} unknowns"
        return f"<{kinds} equations of layer {self.layer.name!r} ({self.layer.kind}) as formulas: {size}>"

    def _square(self) -> sympy.ImmutableMatrix:
        if self.matrix.rows != self.matrix.cols:
            raise ShapeError(
                f"a determinant needs a square system, got {self.shape[0]} rows and {self.shape[1]} unknowns; choose "
                "rows with select, take one of components(), or ask for rank()"
            )
        return self.matrix

    def _extract(self, rows: list[int], columns: list[int]) -> SymbolicSystem:
        return replace(
            self,
            kinds=tuple(self.kinds[i] for i in rows),
            rows=tuple(self.rows[i] for i in rows),
            matrix=self.matrix.extract(rows, columns),
            unknowns=self.unknowns.extract(columns, [0]),
            rhs=self.rhs.extract(rows, [0]),
        )

    def _array(self, letter: str, values: Any) -> dict[sympy.Symbol, sympy.Expr]:
        shapes = _shapes(self.layer)
        if letter not in shapes:
            raise UnknownNameError(f"subs knows the letters {', '.join(shapes)} and SymPy symbols, got {letter!r}")
        array: NDArray[np.object_] = np.asarray(values, dtype=object)
        if array.shape != shapes[letter]:
            raise ShapeError(f"{letter} must have shape {shapes[letter]}, got {array.shape}")
        return {
            symbols.indexed(letter, index): symbols.exact(letter, index, value)
            for index, value in np.ndenumerate(array)
        }


def _shapes(layer: PlacedLayer) -> dict[str, Shape]:
    """Return the shape of the array behind each letter."""
    x, W, z, b = layer.input_shape, layer.weight_shape, layer.output_shape, (layer.filters,)
    return {"x": x, "W": W, "k": z, "z": z, "b": b, "g": W, "h": b}


def _check_size(layer: PlacedLayer, kind: str) -> None:
    """Refuse a large layer from its shapes, before anything of its size is made."""
    weight_rows, gradient_rows = math.prod(layer.output_shape), math.prod(layer.weight_shape)
    rows = {
        "weight": weight_rows,
        "gradient": gradient_rows,
        "both": weight_rows + gradient_rows,
        "bias": layer.filters,
    }
    _check_entries(rows[kind], weight_rows if kind == "bias" else layer.unknowns, layer)


def _check_entries(rows: int, unknowns: int, layer: PlacedLayer) -> None:
    if rows * unknowns > LARGEST:
        raise ShapeError(
            f"formulas are for matrices of at most {LARGEST} entries, and layer {layer.name!r} ({layer.kind}) has "
            f"{rows} equations in {unknowns} unknowns; take a smaller input, fewer channels or fewer filters, or ask "
            "for numbers: rank_ladder and generic_rank take layers of any size"
        )
