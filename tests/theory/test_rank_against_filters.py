"""The ranks over the number of filters: against explicit systems, and as the picture wants them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from scipy.optimize import linprog

import constraint_algebra as ca

mpl.use("Agg")

LAYERS = {
    "stride": ca.Conv2d(1, 3, stride=2, padding=1).place((2, 7, 6), "first"),
    "groups": ca.Conv2d(2, 2, groups=2).place((4, 4, 5), "grouped"),
    "untouched pixels": ca.Conv1d(1, 2, stride=3).place((2, 9)),
    "linear": ca.Linear(1).place((5,)),
}


@pytest.mark.parametrize("equations", ["gradient", "weight", "both"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_row_is_what_the_explicit_system_has(layer, equations) -> None:
    counts = [layer.groups * n for n in (1, 2, 3, 5, 9)]
    frame = ca.rank_against_filters(layer, counts, equations)
    assert frame["filters"].tolist() == counts
    for row in frame.itertuples():
        one = layer.with_filters(row.filters)
        B, A = ca.weight_equations(one), ca.gradient_equations(one)
        system = {"gradient": A, "weight": B, "both": ca.stack(B, A)}[equations]
        ladder, known = ca.rank_ladder(system), ca.determined(system)
        assert (row.unknowns, row.rank) == (ladder.unknowns, ladder.generic)
        assert row.structural_rank == ladder.structural
        assert row.determined == known.all()
        assert row.determined_values == known.sum()
        met = np.diff(system.pattern.indptr) > 0  # rows without a coefficient do not count
        kinds = system.kinds[met]
        assert row.weight_rows + row.gradient_rows == len(kinds)
        assert row.gradient_rows == np.count_nonzero(kinds == "gradient")
        assert row.counted == min(len(kinds), row.unknowns)
        assert row.low == row.high == row.rank
        assert row.error < 1e-3


def test_the_frame_is_what_the_picture_wants() -> None:
    frame = ca.rank_against_filters(LAYERS["stride"])
    assert frame["filters"].tolist() == list(range(1, 25))
    ax = ca.plotting.rank_against_filters(frame)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    for words, column in {"counted": "counted", "structural rank": "structural_rank", "exact rank": "rank"}.items():
        np.testing.assert_array_equal(lines[words], frame[column])
    enough = ca.fewest_filters(LAYERS["stride"])[0]
    assert any(f"determined:\n{enough} filters" in text.get_text() for text in ax.texts)


def test_what_is_not_settled_is_missing_and_not_called_determined() -> None:
    layer = ca.Conv2d(1, 3, padding=1).place((4, 50, 50))  # two filters for four channels: the bounds do not meet
    frame = ca.rank_against_filters(layer, [2, 4], "both")
    assert frame["rank"].isna().tolist() == [True, False]
    assert frame["determined"].tolist() == [False, True]
    assert frame["determined_values"].isna().tolist() == [True, False]
    assert frame.loc[0, "low"] < frame.loc[0, "high"]
    ax = ca.plotting.rank_against_filters(frame)
    assert np.isnan({line.get_label(): line.get_ydata() for line in ax.lines}["exact rank"][0])


def test_groups_step_by_groups_where_no_filters_are_named() -> None:
    small = ca.Conv1d(3, 1, groups=3).place((3, 2))
    assert ca.rank_against_filters(small)["filters"].tolist() == list(range(3, 73, 3))


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ([], r"positive whole numbers, multiples of the 2 groups of layer 'grouped', .* got none"),
        ([2, 0], "got 0"),
        ([2, 3], "multiples of the 2 groups of layer 'grouped', such as range.2, 49, 2., got 3"),
        ([2.5], r"filters.* must be a whole number, got 2.5"),
    ],
)
def test_filters_that_a_layer_cannot_have_are_refused(filters, words) -> None:
    with pytest.raises(ca.ConstraintAlgebraError, match=words):
        ca.rank_against_filters(LAYERS["groups"], filters)


def test_other_equations_are_refused_by_name() -> None:
    with pytest.raises(ca.UnknownNameError, match="equations must be one of gradient, weight, both, got 'bias'"):
        ca.rank_against_filters(LAYERS["linear"], equations="bias")


@pytest.mark.parametrize("equations", ["gradient", "weight", "both"])
def test_the_range_fixes_what_programmes_say(equations) -> None:
    """Weights and output gradients are those of the seed and the number of filters: the widths of all values."""
    layer, filters = ca.Conv2d(1, 3, stride=2, padding=1).place((1, 5, 6)), [1, 2, 3]
    x = np.pad(np.full((1, 2, 2), 0.3), ((0, 0), (1, 2), (2, 2)))
    frame = ca.rank_against_filters(layer, filters, equations, values=x, seed=5)
    plain = ca.rank_against_filters(layer, filters, equations, seed=5)
    assert frame[plain.columns].equals(plain)
    for row in frame.itertuples():
        one, (first, second) = layer.with_filters(row.filters), map(np.random.default_rng, ([5, 0], [5, 1]))
        W, k = first.standard_normal(one.weight_shape), second.standard_normal(one.output_shape)
        B, A = ca.weight_equations(one, W).matrix.toarray(), ca.gradient_equations(one, k).matrix.toarray()
        M = {"gradient": A, "weight": B, "both": np.vstack([B, A])}[equations]
        fixed = []
        for e in np.eye(30):
            ends = [linprog(sign * e, A_eq=M, b_eq=M @ x.ravel(), bounds=(0, 1)).fun for sign in (1, -1)]
            fixed.append(-ends[1] - ends[0] < 1e-7)
        assert row.determined_in_range == np.mean(fixed)
        tight = np.array(fixed) & (x.ravel() == 0)  # every value that is fixed at a bound is an equation
        assert row.ranged == np.linalg.matrix_rank(np.vstack([M, np.eye(30)[tight]]))
    assert frame["determined_in_range"].iloc[-1] > 0


@pytest.mark.parametrize("layer", [LAYERS["stride"], LAYERS["groups"]], ids=["stride", "groups"])
def test_more_filters_never_take_away(layer) -> None:
    frame = ca.rank_against_filters(layer, range(layer.groups, 9 * layer.groups, layer.groups), at_bound=0.7)
    assert frame["ranged"].is_monotonic_increasing
    assert frame["determined_in_range"].is_monotonic_increasing
    assert frame["determined_in_range"].iloc[0] < 1
    assert (frame["ranged"] > frame["rank"]).any()


def test_a_share_at_the_bound_is_drawn_and_none_of_them_adds_nothing() -> None:
    layer = LAYERS["stride"]
    frame = ca.rank_against_filters(layer, [4, 6], at_bound=0.0, valid_range=(-1, 3))
    assert (frame["ranged"] == frame["rank"]).all()
    dark = ca.rank_against_filters(layer, [3, 4], at_bound=1.0, valid_range=(-1, 3))
    assert (dark["ranged"] > dark["rank"]).all()
    ax = ca.plotting.rank_against_filters(dark)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(lines["rank with the range"], dark["ranged"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"at_bound": 1.5}, "at_bound must be a share from 0 to 1, got 1.5"),
        ({"at_bound": 0.5, "values": np.zeros((2, 7, 6))}, "give one of them"),
        ({"values": np.zeros((7, 6))}, r"values have shape \(7, 6\), expected the input shape \(2, 7, 6\)"),
        ({"values": np.full((2, 7, 6), 2.0)}, "values lie from 2 to 2, outside valid_range"),
        ({"values": np.full((2, 7, 6), np.nan)}, "values"),
        ({"values": np.full((2, 7, 6), np.inf), "valid_range": (0.0, np.inf)}, "values must be finite, got inf"),
        ({"at_bound": 0.5, "valid_range": (0.0, np.inf)}, "valid_range must be finite for at_bound"),
        ({"at_bound": 0.5, "valid_range": (1.0, 1.0)}, "valid_range must have its smaller value first"),
    ],
)
def test_an_input_that_is_none_is_refused(arguments, words) -> None:
    with pytest.raises(ca.ConstraintAlgebraError, match=words):
        ca.rank_against_filters(LAYERS["stride"], [2], **arguments)
