"""The equations as formulas, against loops over taps, exact ranks at points, and SymPy's and FLINT's determinants."""

from __future__ import annotations

import itertools
from fractions import Fraction

import flint
import numpy as np
import pytest
import sympy

import constraint_algebra as ca
from constraint_algebra.symbolic import polynomials
from tests.rank_oracles import looped_rows, random_layers

SMALL = {1: 9, 2: 4, 3: 3}
STRIDE = ca.Conv1d(2, 2, stride=2).place((1, 4))


def small_layers(count, seed):
    """Random layers whose weight and gradient equations have at most 600 entries together."""
    for layer in random_layers(count, seed, largest=SMALL):
        if (np.prod(layer.output_shape) + np.prod(layer.weight_shape)) * layer.unknowns <= 600:
            yield layer


def rows_at_a_point(layer, rng):
    """Random whole numbers for W and k, and by loops the rows of both kinds there."""
    W, k = rng.integers(-(10**6), 10**6, layer.weight_shape), rng.integers(-(10**6), 10**6, layer.output_shape)
    everything = np.ones(layer.output_shape, dtype=bool)
    return {"W": W, "k": k}, *looped_rows(layer, W, k, everything, everything)


def rational_rank(A):
    return flint.fmpz_mat(A.tolist()).rank() if A.size else 0


def rational_determinant(A):
    return int(flint.fmpz_mat(A.tolist()).det())


def whole(matrix):
    return np.array(matrix.tolist(), dtype=int).reshape(matrix.shape)


def square_systems(count, seed):
    """Systems with as many rows as unknowns, chosen from those of random layers, with W and k at a random point."""
    rng = np.random.default_rng(seed)
    for layer in small_layers(count, seed):
        system = ca.symbolic.equations(layer)
        rows, n = system.shape
        if rows < n or n > 9:
            continue
        keep = np.isin(np.arange(rows), rng.choice(rows, n, replace=False))
        values, *_ = rows_at_a_point(layer, rng)
        yield system.select(keep), values


def test_symbols_replaced_by_numbers_give_the_rows_of_plain_loops():
    rng = np.random.default_rng(0)
    for layer in small_layers(60, seed=1):
        values, weight_rows, gradient_rows = rows_at_a_point(layer, rng)
        system = ca.symbolic.equations(layer, "weight").subs(values)
        np.testing.assert_array_equal(whole(system.matrix), weight_rows, err_msg=str(layer))
        system = ca.symbolic.equations(layer, "gradient").subs(values)
        names = [f"dL/dW[{','.join(map(str, index))}]" for index in np.ndindex(layer.weight_shape)]
        order = [system.rows.index(name) for name in names]  # the loops go filter by filter
        np.testing.assert_array_equal(whole(system.matrix)[order], gradient_rows, err_msg=str(layer))


def test_matrix_and_right_hand_side_are_those_of_the_linear_system():
    rng = np.random.default_rng(2)
    eighths = lambda shape: rng.integers(-16, 17, shape) / 8  # noqa: E731 -- differences without rounding
    for layer in small_layers(40, seed=3):
        F, V, O = (layer.filters,), layer.weight_shape, layer.output_shape
        W, b, z, k, g = (eighths(shape) for shape in (V, F, O, O, V))
        numeric = ca.stack(ca.weight_equations(layer, W, b, z), ca.gradient_equations(layer, k, g))
        formulas = ca.symbolic.equations(layer, "both").subs({"W": W, "b": b, "z": z, "k": k, "g": g})
        assert formulas.shape == numeric.shape
        assert list(formulas.rows) == list(numeric.rows)
        np.testing.assert_array_equal(np.array(formulas.matrix.tolist(), dtype=float), numeric.matrix.toarray())
        np.testing.assert_array_equal(np.array(list(formulas.rhs), dtype=float), numeric.rhs)
        bias = ca.symbolic.equations(layer, "bias").subs({"h": b})
        other = ca.bias_equations(layer, b)
        np.testing.assert_array_equal(whole(bias.matrix), other.matrix.toarray())
        np.testing.assert_array_equal(np.array(list(bias.rhs), dtype=float), other.rhs)


def test_the_true_input_fulfils_every_equation():
    rng = np.random.default_rng(4)
    layer = ca.Conv2d(2, 2, stride=(2, 1), padding=1, groups=2).place((2, 3, 2))
    values, weight_rows, gradient_rows = rows_at_a_point(layer, rng)
    x, b = rng.integers(-9, 9, layer.input_shape), rng.integers(-9, 9, 2)
    values |= {"x": x, "b": b, "z": (weight_rows @ x.ravel()).reshape(layer.output_shape) + b[:, None, None]}
    values["g"] = (gradient_rows @ x.ravel()).reshape(layer.weight_shape)
    system = ca.symbolic.equations(layer, "both")
    assert len(system.equations) == len(weight_rows) + len(gradient_rows)
    assert all(equation.doit() == sympy.true for equation in system.subs(values).equations)
    values["x"] = x + 1
    assert not all(equation.doit() == sympy.true for equation in system.subs(values).equations)


def test_rank_is_the_largest_exact_rank_at_random_points():
    rng, deficient = np.random.default_rng(5), 0
    for layer in small_layers(45, seed=6):
        points = [rows_at_a_point(layer, rng)[1:] for _ in range(3)]
        for kind, pick in (("weight", lambda p: p[0]), ("gradient", lambda p: p[1]), ("both", np.concatenate)):
            system = ca.symbolic.equations(layer, kind)
            expected = max(rational_rank(pick(point)) for point in points)
            assert system.rank() == expected, (layer, kind)
            deficient += expected < min(system.shape)
    assert deficient > 15


def test_rank_below_the_structural_one_is_proved():
    """Two bilinear forms of two variables have 2 common roots: 2 of 16 unknowns stay open, which no pattern shows."""
    system = ca.symbolic.equations(ca.Conv2d(2, 2).place((1, 4, 4)), "weight")
    assert system.shape == (18, 16)
    assert system.rank() == 14


def test_dependencies_of_second_degree_are_found_by_elimination(monkeypatch):
    layer = ca.Conv2d(1, (2, 3), stride=(3, 2), padding=((2, 1), (2, 2)), dilation=(3, 1)).place((3, 2, 4))
    system = ca.symbolic.equations(layer)
    assert system.rank() == ca.generic_rank(layer).rank
    polynomials.rank.cache_clear()
    monkeypatch.setattr(polynomials, "LARGEST_ELIMINATION", 8)
    with pytest.raises(ca.ShapeError, match=r"between 10 and 11.*generic_rank"):
        system.rank()


def by_symbol(values):
    """The values of arrays, by symbol."""
    return {
        sympy.Symbol(f"{letter}_{{{','.join(map(str, index))}}}"): sympy.Integer(int(value))
        for letter, array in values.items()
        for index, value in np.ndenumerate(array)
    }


@pytest.mark.slow
def test_determinant_is_the_number_at_random_points():
    singular = several = 0
    for system, values in square_systems(400, seed=7):
        expected = rational_determinant(whole(system.subs(values).matrix))
        assert system.determinant().xreplace(by_symbol(values)) == expected, system
        singular += expected == 0
        several += len(system.exceptional_set()) > 1
    assert singular > 20
    assert several > 5


@pytest.mark.slow
def test_where_one_factor_is_zero_the_rank_drops_and_the_factors_are_irreducible():
    tried = 0
    for system, values in square_systems(400, seed=8):
        for factor in system.exceptional_set():
            once = [s for s in sorted(factor.free_symbols, key=str) if sympy.degree(factor, s) == 1]
            if not once:
                continue
            assert sympy.Poly(factor).is_irreducible
            point = by_symbol(values)
            del point[once[0]]
            (root,) = sympy.solve(factor.xreplace(point), once[0])
            system_there = system.subs(point)  # one symbol is left
            assert system_there.rank() == len(system.rows)
            assert system_there.subs({once[0]: root}).rank() < len(system.rows)
            tried += 1
    assert tried > 20


@pytest.mark.slow
def test_determinant_of_fractions_keeps_its_number_and_whole_factors():
    rng = np.random.default_rng(9)
    a, b = sympy.symbols("a b")
    for _ in range(40):
        n, q = int(rng.integers(1, 5)), rng.integers(-4, 5, (4, 4, 3)).tolist()
        rows = [[u * a / 6 + v * b / 4 + w for u, v, w in row[:n]] for row in q[:n]]
        matrix = sympy.ImmutableMatrix(rows)
        number, factors = polynomials.determinant(matrix)
        product = sympy.expand(number * sympy.prod(factor**power for factor, power in factors))
        assert product == sympy.expand(matrix.det(method="berkowitz"))
        for factor, _ in factors:
            coefficients = sympy.Poly(factor, a, b).coeffs()
            assert all(c.is_Integer for c in coefficients)
            assert sympy.igcd(*coefficients, 0) == 1
            assert coefficients[0] > 0


@pytest.mark.parametrize("taps", [2, 3, 4])
def test_two_filters_on_a_line_have_the_resultant_for_determinant(taps):
    system = ca.symbolic.equations(ca.Conv1d(2, taps).place((1, 2 * (taps - 1))), "weight")
    t = sympy.Symbol("t")
    filters = [sum(sympy.Symbol(f"W_{{{f},0,{i}}}") * t ** (taps - 1 - i) for i in range(taps)) for f in range(2)]
    resultant = sympy.expand(sympy.resultant(*filters, t))
    assert sympy.expand(system.determinant()) in (resultant, -resultant)
    assert len(system.exceptional_set()) == 1


def test_residue_classes_are_the_factors():
    layer = ca.Conv2d(4, 2, stride=2).place((2, 4, 4))
    system = ca.symbolic.equations(layer, "gradient")
    parts = system.components()
    classes = [
        {f"x_{{{c},{y},{x}}}" for y in range(i, 4, 2) for x in range(j, 4, 2)}
        for c, i, j in itertools.product(range(2), range(2), range(2))
    ]
    assert [{s.name for s in part.unknowns} for part in parts] == classes
    k = sympy.Matrix(4, 4, lambda f, o: sympy.Symbol(f"k_{{{f},{o // 2},{o % 2}}}"))
    (factor,) = system.exceptional_set()
    assert sympy.expand(factor) in (sympy.expand(k.det()), -sympy.expand(k.det()))
    base, power = system.determinant().as_base_exp()
    assert (base, power) in {(factor, 8), (-factor, 8)}
    product = sympy.prod(part.determinant() for part in parts)
    assert sympy.expand(product - system.determinant()) == 0


def test_a_class_that_is_short_of_equations_makes_the_whole_determinant_zero():
    """Even pixels get two taps' equations and odd pixels one: 6 equations in 6 unknowns, and singular everywhere."""
    layer = ca.Conv1d(2, 3, stride=2, padding=1)
    system = ca.symbolic.equations(layer.place((1, 6)), "gradient")
    assert system.shape == (6, 6)
    assert sorted(part.shape for part in system.components()) == [(2, 3), (4, 3)]
    assert system.determinant() == 0
    assert system.exceptional_set() == [0]
    assert system.rank() == 5


@pytest.mark.parametrize(
    "layer",
    [ca.Linear(2).place((2,)), ca.Conv1d(2, 2).place((1, 3)), ca.Conv2d(2, 2, stride=2).place((1, 2, 4))],
    ids=["linear", "one axis", "two axes with a stride"],
)
def test_both_kinds_share_one_dependency_for_each_pair_of_filters(layer):
    system = ca.symbolic.equations(layer, "both")
    D = system.dependencies()
    assert (D * system.matrix).expand().is_zero_matrix
    name = lambda letter, *index: sympy.Symbol(f"{letter}_{{{','.join(map(str, index))}}}")  # noqa: E731
    combinations = []
    for f, other in itertools.product(range(2), repeat=2):
        row = sympy.zeros(1, len(system.rows))
        for i, label in enumerate(system.rows):
            index = [int(v) for v in label.split("[")[1][:-1].split(",")]
            if label.startswith("dL/dW") and index[0] == f:
                row[i] = name("W", other, *index[1:])
            elif label.startswith("z") and index[0] == other:
                row[i] = -name("k", f, *index[1:])
        assert (row * system.matrix).expand().is_zero_matrix
        combinations.append(row)
    formula = sympy.Matrix.vstack(*combinations)
    point = {s: sympy.Integer(p) for p, s in enumerate(sorted(formula.free_symbols, key=str), start=2)}
    assert formula.subs(point).rank() == 4
    # Those found span the formula's.
    assert sympy.Matrix.vstack(D, formula).subs(point).rank() == D.rows
    assert system.rank() <= len(system.rows) - 4


def test_known_zeros_are_zeros_and_selected_rows_stay_selected():
    layer = ca.Conv1d(1, 2).place((1, 3))
    numeric = ca.gradient_equations(layer, [[0.0, 5.0]])
    formulas = ca.symbolic.from_system(numeric.select([True, False]))
    k = sympy.Symbol("k_{0,1}")
    assert formulas.matrix == sympy.Matrix([[0, k, 0]])
    assert formulas.rows == ("dL/dW[0,0,0]",)
    assert formulas.equations == [sympy.Eq(k * sympy.Symbol("x_{0,1}"), sympy.Symbol("g_{0,0,0}"))]


def test_a_pixel_without_equations_is_a_component_without_rows():
    system = ca.symbolic.equations(ca.Conv1d(1, 1, stride=2).place((1, 3)), "weight")
    assert [part.shape for part in system.components()] == [(1, 1), (0, 1), (1, 1)]
    assert system.rank() == 2


def test_values_by_symbol_not_a_number_and_fractions():
    system = ca.symbolic.equations(ca.Linear(2).place((2,)), "weight")
    W = [sympy.Symbol(f"W_{{{i},{j}}}") for i in range(2) for j in range(2)]
    assert system.subs({"W": [[0.5, np.nan], [Fraction(1, 3), np.int64(2)]]}).matrix == sympy.Matrix(
        [[sympy.Rational(1, 2), W[1]], [sympy.Rational(1, 3), 2]]
    )
    assert system.subs({W[2]: W[0], W[3]: W[1]}).rank() == 1
    assert system.subs({W[0]: W[1], W[1]: W[0]}).matrix[0, :] == sympy.Matrix([[W[1], W[0]]])
    assert system.subs({W[0]: 0.1}).matrix[0, 0] == sympy.Rational(*(0.1).as_integer_ratio())


def test_latex_names_the_entries_in_their_order():
    system = ca.symbolic.equations(ca.Linear(2).place((11,)), "gradient")
    assert system.latex().splitlines()[1] == r"k_{0} x_{0} &= g_{0,0} \\"
    line = ca.symbolic.equations(ca.Linear(1).place((11,)), "weight").latex().splitlines()[1]
    places = [line.index(f" x_{{{i}}}") for i in range(11)]
    assert places == sorted(places)
    assert line.endswith("&= z_{0} - b_{0}")
    small = ca.symbolic.equations(STRIDE, "gradient")
    assert small._repr_latex_() == f"$\\displaystyle {small.latex()}$"
    assert small.latex(matrix=True).count(r"k_{0,1}") == 2
    nothing = small.subs({"k": [[0, -1], [0, 1]]}).latex().splitlines()
    assert nothing[1] == r"- x_{0,2} &= g_{0,0,0} \\"
    assert small.subs({"k": np.zeros((2, 2))}).latex().splitlines()[1] == r"0 &= g_{0,0,0} \\"


def test_a_large_layer_is_refused_before_anything_is_built():
    layer = ca.Conv2d(512, 3, padding=1).place((512, 224, 224))
    for kind in ca.symbolic.KINDS:
        with pytest.raises(ca.ShapeError, match=r"at most 10000 entries.*smaller input.*rank_ladder"):
            ca.symbolic.equations(layer, kind)


def test_a_determinant_that_would_take_too_many_terms_is_refused(monkeypatch):
    monkeypatch.setattr(polynomials, "LARGEST_EXPANSION", 1000)
    system = ca.symbolic.equations(ca.Linear(7).place((7,)), "weight")
    with pytest.raises(ca.ShapeError, match=r"more than 1000 terms.*substitute"):
        system.determinant()


def test_what_cannot_be_is_refused():
    system = ca.symbolic.equations(STRIDE, "both")
    with pytest.raises(ca.ShapeError, match=r"8 rows and 4 unknowns.*select"):
        system.determinant()
    with pytest.raises(ca.ShapeError, match=r"8 rows and 4 unknowns.*select"):
        system.exceptional_set()
    with pytest.raises(ca.ShapeError, match="one entry for each of 8 rows"):
        system.select([True])
    with pytest.raises(ca.UnknownNameError, match="'wieght'"):
        ca.symbolic.equations(STRIDE, "wieght")
    with pytest.raises(ca.UnknownNameError, match="letters x, W"):
        system.subs({"V": [1]})
    with pytest.raises(ca.ShapeError, match=r"k must have shape \(2, 2\), got \(4,\)"):
        system.subs({"k": [1, 2, 3, 4]})
    with pytest.raises(ca.NonFiniteError, match=r"k\[1, 0\] is infinite") as caught:
        system.subs({"k": [[1, 2], [np.inf, 4]]})
    assert caught.value.index == (1, 0)
    with pytest.raises(ca.ParameterError, match=r"k\[0, 0\] must be a real number"):
        system.subs({"k": [["two", 2], [3, 4]]})
    with pytest.raises(ca.ParameterError, match="rational coefficients, got sqrt"):
        system.subs({sympy.Symbol("k_{0,0}"): sympy.sqrt(2)}).rank()
    with pytest.raises(ca.ShapeError, match="no bias"):
        ca.symbolic.equations(ca.Linear(2, bias=False).place((2,)), "bias")
    with pytest.raises(ca.ShapeError, match="no weight"):
        ca.symbolic.equations(ca.ReLU().place((2,)))
