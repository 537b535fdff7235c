"""Exact linear algebra of small matrices whose entries are polynomials: determinants in factors, dependencies, rank.

SymPy's expressions go in and come out. In between, FLINT multiplies and factors the polynomials, with rational
coefficients. Nothing here is probabilistic: random values only ever prove that a rank is at least what it is at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import flint
import numpy as np
import scipy.sparse as sp
import sympy
from sympy.polys.matrices import DomainMatrix

from constraint_algebra.equations.constraint_graph import structural_rank
from constraint_algebra.equations.dulmage_mendelsohn import dulmage_mendelsohn
from constraint_algebra.errors import ParameterError, ShapeError

LARGEST_EXPANSION = 30_000  # terms held at a time while a determinant is expanded
LARGEST_ELIMINATION = 12  # columns or rows, whichever are fewer, that are eliminated symbolically

Factors = tuple[tuple[sympy.Expr, int], ...]


class Polynomials:
    """The entries of a SymPy matrix as polynomials over the rationals.

    Attributes:
        symbols: the indeterminates, in SymPy's order of names.
        ring: FLINT's ring over them.
        rows: for each row its entries other than zero, by column.

    Raises:
        ParameterError: an entry that is no polynomial with rational coefficients.
    """

    def __init__(self, matrix: sympy.ImmutableMatrix) -> None:
        """Read the entries, each distinct one once."""
        self.shape: tuple[int, int] = matrix.shape
        self.symbols: list[sympy.Symbol] = sorted(matrix.free_symbols, key=sympy.default_sort_key)
        self.ring = flint.fmpq_mpoly_ctx.get([str(s) for s in self.symbols])
        self.rows: list[dict[int, Any]] = [{} for _ in range(matrix.rows)]
        known: dict[sympy.Expr, Any] = {}
        for (i, j), entry in sorted(matrix.todok().items()):
            if entry not in known:
                known[entry] = self._polynomial(entry)
            if known[entry] != 0:
                self.rows[i][j] = known[entry]

    def _polynomial(self, entry: sympy.Expr) -> Any:
        try:
            # One symbol more than needed, since SymPy has no polynomials in no symbol.
            terms = sympy.Poly(entry, *self.symbols, sympy.Dummy(), domain=sympy.QQ).terms()
        except (sympy.CoercionFailed, sympy.PolynomialError) as error:
            raise ParameterError(
                str(entry), f"exact algebra needs polynomials with rational coefficients, got {entry}"
            ) from error
        return self.ring.from_dict({powers[:-1]: flint.fmpq(int(c.p), int(c.q)) for powers, c in terms})

    @cached_property
    def pattern(self) -> sp.csr_array:
        """The places of the entries other than zero."""
        places = [(i, j) for i, row in enumerate(self.rows) for j in row]
        row, column = np.array(places, dtype=np.intp).reshape(-1, 2).T
        return sp.csr_array((np.ones(len(places), dtype=np.int32), (row, column)), shape=self.shape)

    def at(self, point: Sequence[int]) -> Any:
        """Return FLINT's matrix of the values at a point, one number for each symbol."""
        values = flint.fmpq_mat(*self.shape)
        for i, row in enumerate(self.rows):
            for j, entry in row.items():
                values[i, j] = entry(*point)
        return values

    def to_sympy(self, polynomial: Any) -> sympy.Expr:
        """Return FLINT's polynomial as a SymPy expression."""
        return sympy.Add(
            *(
                sympy.Mul(_rational(c), *(s ** int(p) for s, p in zip(self.symbols, powers, strict=True)))
                for powers, c in polynomial.to_dict().items()
            )
        )


@lru_cache(maxsize=256)
def rank(matrix: sympy.ImmutableMatrix) -> int:
    """Return the rank over the field of rational functions, proved from both sides.

    From below by the rank at a point with whole coordinates. From above by the pattern of what is left without the rows
    and the columns that follow from others by `linear_dependencies`. Where the bounds do not meet the matrix is
    eliminated symbolically.

    Raises:
        ShapeError: the bounds do not meet and the matrix is too large to be eliminated.

    >>> from sympy.abc import a, b, c
    >>> rank(sympy.ImmutableMatrix([[a, b], [a * c, b * c]]))
    1
    """
    low = _rank_at_a_point(Polynomials(matrix))
    if low == min(matrix.shape):
        return low
    rest = matrix
    for _ in range(2):
        dependent = set(_pivots(linear_dependencies(rest)))  # rows that follow from the others
        rest = rest.extract([i for i in range(rest.rows) if i not in dependent], list(range(rest.cols))).T
    high = structural_rank(Polynomials(rest).pattern)
    if low == high:
        return low
    if min(rest.shape) > LARGEST_ELIMINATION:
        raise ShapeError(
            f"the rank of a block of {matrix.rows} rows and {matrix.cols} unknowns lies between {low} and {high}, and "
            f"only blocks with at most {LARGEST_ELIMINATION} of either are eliminated symbolically; take a smaller "
            "layer, or generic_rank, which states an error probability"
        )
    return len(DomainMatrix.from_Matrix(rest).rref_den()[2])


def determinant(matrix: sympy.ImmutableMatrix) -> tuple[sympy.Rational, Factors]:
    """Return the determinant as a number and its irreducible factors with their multiplicities.

    The determinant is the product of those of the blocks of the Dulmage-Mendelsohn decomposition: each is expanded and
    factored by itself, equal ones once. The number is zero where the determinant is.

    Raises:
        ShapeError: the matrix is not square, or the expansion of a block exceeds `LARGEST_EXPANSION` terms.

    >>> from sympy.abc import a, b, c
    >>> determinant(sympy.ImmutableMatrix([[0, a, b], [0, b, a], [2 * c, a, c]]))
    (2, ((c, 1), (a + b, 1), (a - b, 1)))
    """
    if matrix.rows != matrix.cols:
        raise ShapeError(f"a determinant needs as many rows as unknowns, got {matrix.rows} and {matrix.cols}")
    parts = dulmage_mendelsohn(Polynomials(matrix).pattern)
    if len(parts.square.rows) < matrix.rows:
        return sympy.Integer(0), ()
    rows = [int(i) for block in parts.blocks for i in block.rows]
    columns = [int(j) for block in parts.blocks for j in block.columns]
    number, powers = sympy.Integer(_sign(rows) * _sign(columns)), dict[sympy.Expr, int]()
    for block in parts.blocks:
        coefficient, factors = _block_determinant(matrix.extract(block.rows.tolist(), block.columns.tolist()))
        number *= coefficient
        for factor, power in factors:
            powers[factor] = powers.get(factor, 0) + power
    if number == 0:
        return number, ()
    order = sorted(powers.items(), key=lambda item: (len(sympy.Add.make_args(item[0])), str(item[0])))
    return number, tuple(order)


@lru_cache(maxsize=256)
def linear_dependencies(matrix: sympy.ImmutableMatrix) -> sympy.ImmutableMatrix:
    """Return a matrix D with `D @ matrix == 0`, its rows independent over the rational functions.

    They are all dependencies between the rows whose coefficients are numbers or linear forms in the symbols, without
    those that follow from others; dependencies of higher degree are not looked for.

    >>> from sympy.abc import a, b
    >>> linear_dependencies(sympy.ImmutableMatrix([[a, b], [b, a], [a * b, b * b]]))
    Matrix([[b, 0, -1]])
    """
    polynomials = Polynomials(matrix)
    one = (0,) * len(polynomials.symbols)
    forms = [one, *(tuple(int(s == t) for t in range(len(one))) for s in range(len(one)))]  # 1 and each symbol
    # The unknown (i, form) is the coefficient of that form before row i; each column and monomial is an equation.
    equations: dict[tuple[int, tuple[int, ...]], dict[int, Any]] = {}
    for i, row in enumerate(polynomials.rows):
        for j, entry in row.items():
            for powers, value in entry.to_dict().items():
                for u, form in enumerate(forms):
                    monomial = tuple(int(p) + q for p, q in zip(powers, form, strict=True))
                    equation = equations.setdefault((j, monomial), {})
                    equation[u * matrix.rows + i] = sympy.QQ(int(value.p), int(value.q))
    vectors = []
    for solution in _null_space(list(equations.values()), len(forms) * matrix.rows):
        vector = dict[int, sympy.Expr]()
        for unknown, value in solution.items():
            u, i = divmod(unknown, matrix.rows)
            form = polynomials.symbols[u - 1] if u else sympy.Integer(1)
            vector[i] = vector.get(i, sympy.Integer(0)) + sympy.Rational(value.numerator, value.denominator) * form
        vectors.append(vector)
    found = sympy.ImmutableMatrix(len(vectors), matrix.rows, lambda d, i: vectors[d].get(i, 0))
    return found.extract(_pivots(found.T), list(range(matrix.rows)))


def _pivots(matrix: sympy.ImmutableMatrix) -> list[int]:
    """Return columns, chosen greedily, that span the others at a point; their independence holds almost everywhere."""
    polynomials = Polynomials(matrix)
    if not all(matrix.shape):
        return []
    echelon, rank = polynomials.at(_point(len(polynomials.symbols))).rref()
    return [next(j for j in range(matrix.cols) if echelon[i, j] != 0) for i in range(rank)]


def _null_space(equations: list[dict[int, Any]], unknowns: int) -> list[dict[int, Any]]:
    """Return a basis of the null space of sparse rational equations, vectors with few and early entries first."""
    # An equation in one unknown settles it; most go this way, before anything is eliminated.
    zero: set[int] = set()
    while True:
        equations = [{u: v for u, v in e.items() if u not in zero} for e in equations]
        new = {next(iter(e)) for e in equations if len(e) == 1}
        if not new:
            break
        zero |= new
    free = [u for u in range(unknowns) if u not in zero]
    number = {u: n for n, u in enumerate(free)}
    rows = {i: {number[u]: v for u, v in e.items()} for i, e in enumerate(filter(None, equations))}
    basis = DomainMatrix(rows, (len(rows), len(free)), sympy.QQ).nullspace().to_dod()
    vectors = [{free[n]: v for n, v in row.items()} for row in basis.values()]
    return sorted(vectors, key=lambda v: (len(v), sorted(v)))


@lru_cache(maxsize=256)
def _block_determinant(block: sympy.ImmutableMatrix) -> tuple[sympy.Rational, Factors]:
    """Expand along the rows: a minor of the first rows belongs to the set of its columns, here a bit mask."""
    polynomials = Polynomials(block)
    minors: dict[int, Any] = {0: polynomials.ring.constant(1)}
    for row in polynomials.rows:
        longer: dict[int, Any] = {}
        for columns, minor in minors.items():
            for j, entry in row.items():
                if not columns >> j & 1:
                    term = -minor * entry if (columns >> j).bit_count() & 1 else minor * entry
                    mask = columns | 1 << j
                    longer[mask] = longer[mask] + term if mask in longer else term
        minors = longer
        if sum(map(len, minors.values())) > LARGEST_EXPANSION:
            raise ShapeError(
                f"the determinant of a block of {block.rows} unknowns takes more than {LARGEST_EXPANSION} terms to "
                "expand; take a smaller layer, or substitute numbers for some of the coefficients first"
            )
    (value,) = minors.values()
    if not value:
        return sympy.Integer(0), ()
    number, found = value.factor()  # FLINT's factors have whole coprime coefficients, the first of them positive
    return _rational(number), tuple((polynomials.to_sympy(factor), int(power)) for factor, power in found)


def _rank_at_a_point(polynomials: Polynomials) -> int:
    if not all(polynomials.shape):
        return 0
    return int(polynomials.at(_point(len(polynomials.symbols))).rref()[1])


def _point(count: int) -> list[int]:
    """Return random whole numbers; where a minor happens to vanish at them, a bound is weaker and still right."""
    return [int(v) for v in np.random.default_rng(0).integers(1, 2**20, size=count)]


def _rational(value: Any) -> sympy.Rational:
    value = flint.fmpq(value)
    return sympy.Rational(int(value.p), int(value.q))


def _sign(order: list[int]) -> int:
    """Return the sign of a permutation: each cycle of even length turns it round."""
    sign, unseen = 1, set(range(len(order)))
    while unseen:
        start = i = unseen.pop()
        while (i := order[i]) != start:
            unseen.remove(i)
            sign = -sign
    return sign
