"""What is expected beyond rank: the simulated layer against autograd and linear programmes, the sample, the report."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from scipy.stats import binomtest

import constraint_algebra as ca
from constraint_algebra.beyond_rank.zeros import sparsest
from constraint_algebra.ground import Ground
from constraint_algebra.networks.spans import Span
from constraint_algebra.theory import beyond, simulated_layer
from constraint_algebra.theory.simulated_layer import Decided, by_range, by_zeros, families, input_at_bounds
from constraint_algebra.theory.simulated_pattern import layer_input, masks_of, output_gradient, span_below

RELU = Span(0.0, np.inf, (0.0,))
LAYERS = {
    "stride and padding": ca.Conv2d(2, 3, stride=2, padding=1).place((2, 5, 6)),
    "groups": ca.Conv2d(4, 2, groups=2).place((4, 4, 3)),
    "dilation": ca.Conv1d(2, 3, dilation=2).place((3, 9)),
    "three axes": ca.Conv3d(1, 2, padding=1).place((1, 3, 4, 3)),
    "linear": ca.Linear(3).place((7,)),
}


def autograd_rows(layer, weight, k, known_outputs) -> np.ndarray:
    """Weight equations of the known outputs and all gradient equations, as Jacobians of what PyTorch computes."""
    model = ca.to_torch(ca.Network(layer.input_shape, [layer.layer]))
    own = next(p for p in model.parameters() if p.dim() > 1)
    own.data = torch.tensor(layer.stored(weight))

    def output(x: torch.Tensor) -> torch.Tensor:
        return model(x[None])[0]

    def weight_gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((output(x) * torch.tensor(k)).sum(), own, create_graph=True)[0]

    x = torch.zeros(layer.input_shape, dtype=torch.float64)
    B, A = (torch.autograd.functional.jacobian(f, x).reshape(-1, x.numel()).numpy() for f in (output, weight_gradient))
    return np.vstack([B[known_outputs.ravel()], A])


def drawn(layer, seed=0, active=0.5, at_bound=0.6):
    rng = np.random.default_rng(seed)
    k = rng.standard_normal(layer.output_shape) * (rng.random(layer.output_shape) < active)
    x = input_at_bounds(layer.input_shape, at_bound, (0.0, 1.0), rng)
    return rng.standard_normal(layer.weight_shape), k, x


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_what_is_left_open_and_what_the_range_fixes_is_what_autograd_and_programmes_say(layer) -> None:
    weight, k, x = drawn(layer, active=0.3)
    M = autograd_rows(layer, weight, k, k != 0)
    found = by_range(layer, (k != 0, True), weight, k, x, (0.0, 1.0))
    assert found.directions == M.shape[1] - np.linalg.matrix_rank(M)
    assert found.at_edge == np.isin(x, [0, 1]).mean()
    widths = []
    for j in range(M.shape[1]):
        ends = [
            linprog(sign * np.eye(M.shape[1])[j], A_eq=M, b_eq=M @ x.ravel(), bounds=(0, 1)).x for sign in (1.0, -1.0)
        ]
        widths.append(ends[1][j] - ends[0][j])
    assert found.share == np.mean(np.array(widths) < 1e-7)
    assert not found.wrong


def test_the_layers_of_the_test_before_are_of_all_kinds() -> None:
    shares = [
        by_range(a, (k != 0, True), w, k, x, (0.0, 1.0)) for a in LAYERS.values() for w, k, x in [drawn(a, 0, 0.3)]
    ]
    assert any(0 < one.share < 1 for one in shares)
    assert any(one.added for one in shares)


def test_families_hold_the_truth_and_move_where_autograd_sees_nothing() -> None:
    layer = LAYERS["stride and padding"]
    weight, k, x = drawn(layer, active=1.0)
    none = np.zeros(layer.output_shape, dtype=bool)
    M = autograd_rows(layer, weight, k, none)
    parts = families(sp.csr_array(M), x.ravel(), np.random.default_rng(0))
    assert len(parts) == 8  # two channels, four residue classes
    assert sum(family.dimension for _, family in parts) == la.null_space(M).shape[1]
    for columns, family in parts:
        np.testing.assert_allclose(M[:, columns] @ family.V, 0, atol=1e-12)
        off = x.ravel()[columns] - family.p
        np.testing.assert_allclose(family.V @ (family.V.T @ off), off, atol=1e-10)
        assert (family.noise > 0).all()


def sparsest_points(A: np.ndarray, truth: np.ndarray) -> tuple[int, bool]:
    """The most zeros of any nonnegative point with the same equations, and whether the truth alone has so many."""
    V = la.null_space(A)
    d, best = V.shape[1], []
    for rows in itertools.combinations(range(len(truth)), d):
        if np.linalg.cond(V[list(rows)]) < 1e8:
            point = truth + V @ np.linalg.solve(V[list(rows)], -truth[list(rows)])
            if point.min() > -1e-9:
                best.append((int((np.abs(point) < 1e-9).sum()), point))
    most = max(count for count, _ in best)
    return most, all(np.allclose(point, truth) for count, point in best if count == most)


def test_zeros_decide_where_no_other_point_has_as_many() -> None:
    layer, decided = ca.Conv1d(2, 3, padding=1).place((1, 9)), 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        k = rng.standard_normal(layer.output_shape)
        x = np.abs(rng.standard_normal((1, 9))) * (rng.random((1, 9)) < (0.3, 0.6, 0.9)[seed % 3])
        A = autograd_rows(layer, np.ones(layer.weight_shape), k, np.zeros(layer.output_shape, dtype=bool))
        found = by_zeros(layer, k, 0, x[0], RELU, seed)
        assert found.directions == 3
        assert not found.wrong
        most, alone = sparsest_points(A, x[0])
        if found.share == 1:
            decided += 1
            assert alone
            assert most > 3
        if not alone or most <= 3:
            assert found.share == 0
    assert 3 < decided < 12


def test_a_channel_of_another_group_has_that_groups_equations() -> None:
    layer = ca.Conv1d(4, 2, groups=2).place((2, 6))
    k = np.ones(layer.output_shape)
    k[2:] = 0  # nothing is known of the second channel
    x = np.zeros(6)
    x[0] = 1.0
    assert [by_zeros(layer, k, channel, x, RELU, 0).directions for channel in (0, 1)] == [4, 6]


POOLED = ca.Network(
    (1, 8, 8),
    [
        ca.Conv2d(2, 3),
        ca.ReLU6(),
        ca.MaxPool2d(2),
        ca.Conv2d(2, 2),
        ca.ReLU(),
        ca.MaxPool2d(2),
        ca.Flatten(),
        ca.Linear(3),
    ],
)


def test_patterns_are_those_of_the_activations_around_a_layer() -> None:
    rng = np.random.default_rng(0)
    masks = {"1": rng.random((2, 6, 6)) < 0.2, "4": np.array([[[True, False], [True, True]], np.zeros((2, 2), bool)])}
    given = masks_of(masks)(rng)
    k = output_gradient(POOLED, POOLED[3], given, rng)
    assert (k[0] != 0).sum() == 1  # the winner of the one window
    assert masks["4"][k != 0].all()
    assert not k[1].any()
    x = layer_input(POOLED, POOLED[3], given, rng)
    windows = masks["1"].reshape(2, 3, 2, 3, 2)
    assert (x[~windows.any(axis=(2, 4))] % 6 == 0).all()  # on a plateau, 0 or 6
    assert set(np.unique(x[x % 6 == 0])) == {0, 6}
    assert ((x >= 0) & (x <= 6)).all()
    assert span_below(POOLED, POOLED[3]) == Span(0.0, 6.0, (0.0, 6.0))
    assert span_below(POOLED, POOLED[0]) is None


def test_a_fraction_is_drawn_anew_and_a_mask_is_not() -> None:
    rng, layer = np.random.default_rng(0), POOLED[4]
    anew = [masks_of(0.5)(rng)(layer) for _ in range(3)]
    assert not np.array_equal(anew[0], anew[1])
    mask = np.eye(2, dtype=bool)[None].repeat(2, axis=0)
    assert all(np.array_equal(masks_of({"4": mask})(rng)(layer), mask) for _ in range(2))


def test_the_sample_has_its_interval_and_its_wrong_ones() -> None:
    trials = [
        Decided(2, 0.5, share, 0, wrong) for share, wrong in [(1.0, False)] * 7 + [(0.0, False)] * 2 + [(1.0, True)]
    ]
    found = beyond.summary("2", Ground.ZEROS, 16, trials, 3)
    expected = binomtest(8, 10).proportion_ci(0.95)
    assert (found.decided, found.low, found.high) == (0.8, expected.low, expected.high)
    assert (found.trials, found.wholly, found.wrong, found.seed) == (10, 8, 1, 3)
    assert "10 are short of equations, and zeros decide 8 of 10 (" in found.words
    assert found.words.endswith("with 95 % confidence), and 1 times something that is not so")
    parts = beyond.summary("0", Ground.RANGE, 16, [Decided(2, 0.5, 0.25, 0, False)] * 10, 3)
    assert parts.low <= binomtest(2, 10).proportion_ci(0.95).low
    assert parts.high >= binomtest(3, 10).proportion_ci(0.95).high
    assert "25 % of the values of the input of layer '0', 0 % by equations alone, with" in parts.words
    none = beyond.summary("0", Ground.RANGE, 5000, [], 3)
    assert "too much to simulate (5,000 values at a time)" in none.words
    assert none.to_dict()["decided"] is None


def test_what_is_said_and_is_not_so_is_counted(monkeypatch) -> None:
    def liar(family, *arguments, **named):
        found = sparsest(family, *arguments, **named)
        return found if found is None else replace(found, x=found.x + 1)

    layer, rng = ca.Conv1d(2, 3, padding=1).place((1, 9)), np.random.default_rng(0)
    k, x = rng.standard_normal(layer.output_shape), np.eye(9)[4]
    assert not by_zeros(layer, k, 0, x, RELU, 0).wrong
    monkeypatch.setattr(simulated_layer, "sparsest", liar)
    assert by_zeros(layer, k, 0, x, RELU, 0).wrong


NARROW = ca.Network(
    (1, 8, 8),
    [
        ca.Conv2d(3, 3, stride=2, padding=1),
        ca.ReLU(),
        ca.Conv2d(1, 3, padding=1),
        ca.LeakyReLU(),
        ca.Flatten(),
        ca.Linear(3),
    ],
)


def test_without_trials_nothing_is_simulated_and_the_words_stay(monkeypatch) -> None:
    plain = ca.feasibility(NARROW, activity=0.4)
    assert plain.beyond == ()
    asked = ca.feasibility(NARROW, activity=0.4, trials=2, at_bound=0.5)
    assert asked.conclusion.startswith(f"{plain.conclusion} Expected beyond rank, all above the layer known: of 2 sim")
    assert asked.to_frame().equals(plain.to_frame())
    again = ca.feasibility(NARROW, activity=0.4, trials=2, at_bound=0.5)
    assert pickle.loads(pickle.dumps(again)).beyond == asked.beyond
    assert asked.beyond[0].words in " ".join(repr(asked).split())
    assert "zeros decide" in asked._repr_html_()

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("constraint_algebra.theory.feasibility.expected_beyond_rank", never)
    assert ca.feasibility(NARROW, activity=0.4, trials=2).verdict == plain.verdict  # simulated when asked for only
    assert ca.feasibility(NARROW, activity=0.4).conclusion == plain.conclusion


def test_sparse_channels_are_decided_and_dense_ones_are_not() -> None:
    """16 values, 9 equations at most: 7 directions at least, so that channels need more than 7 zeros."""
    by_activity = {
        activity: next(one for one in ca.feasibility(NARROW, activity=activity, trials=12).beyond)
        for activity in (0.15, 0.9)
    }
    sparse, dense = by_activity.values()
    assert (sparse.layer, sparse.ground, sparse.values, sparse.trials) == ("2", Ground.ZEROS, 16, 12)
    assert dense.decided == 0
    assert dense.directions == pytest.approx(7, abs=0.5)
    assert sparse.decided > 0.1
    assert sparse.at_edge == pytest.approx(0.85, abs=0.1)
    assert sparse.wrong == dense.wrong == 0


def test_given_masks_say_which_channels_are_sparse() -> None:
    below = np.ones((3, 4, 4), dtype=bool)
    below[0] = False
    below[0, 1, 2] = True  # one channel of three
    found = ca.feasibility(NARROW, activity={"1": below}, trials=30).beyond[0]
    assert 0.1 < found.decided < 0.6  # a third, of 30
    assert found.wholly == round(30 * found.decided)


def test_the_range_is_asked_of_the_networks_input_alone() -> None:
    found = ca.feasibility(NARROW, activity=0.6, at_bound=0.8, trials=6).beyond
    assert [(one.layer, one.ground) for one in found] == [("2", Ground.ZEROS), ("0", Ground.RANGE)]
    assert found[1].at_edge == pytest.approx(0.8, abs=0.1)
    assert found[1].values == 64
    assert found[1].wrong == 0
    nowhere = ca.feasibility(NARROW, activity=0.6, at_bound=0.0, trials=6).beyond[1]
    assert nowhere.decided < found[1].decided


def test_a_graph_with_max_pools_and_an_input_that_is_flattened() -> None:
    found = ca.feasibility(POOLED, activity=0.3, at_bound=0.9, trials=3).beyond
    assert [(one.layer, one.ground) for one in found] == [("3", Ground.ZEROS), ("0", Ground.RANGE)]
    flat = ca.Network((1, 3, 3), [ca.Flatten(), ca.Linear(4), ca.ReLU(), ca.Linear(3)])
    assert ca.feasibility(flat, activity=0.5, at_bound=0.5, trials=1).conclusion.endswith("would help.")


def test_what_is_too_large_is_said_and_not_tried() -> None:
    wide = ca.Network((1, 40, 40), [ca.Conv2d(1, 3, stride=2, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(2)])
    assert "too much to simulate (1,600 values at a time)" in ca.feasibility(wide, at_bound=0.9, trials=2).conclusion


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"at_bound": 0.5}, "trials is 0; give trials, such as 20, as well"),
        ({"at_bound": 1.5, "trials": 2}, "at_bound must be a share from 0 to 1, got 1.5"),
        ({"at_bound": float("nan"), "trials": 2}, "at_bound must be a share from 0 to 1, got nan"),
        ({"trials": -1}, "trials must be at least 0, got -1"),
    ],
)
def test_shares_and_trials_that_are_none_are_refused(arguments, words) -> None:
    with pytest.raises(ca.ConstraintAlgebraError, match=words):
        ca.feasibility(NARROW, **arguments)


def by_autograd(k: np.ndarray) -> bool:
    """Whether both kinds of equations of the first layer of `FEW` determine its input, with weights of another seed."""
    weight = np.random.default_rng(1).standard_normal(FEW[0].weight_shape)
    return bool(np.linalg.matrix_rank(autograd_rows(FEW[0], weight, k, k != 0)) == FEW[0].unknowns)


FEW = ca.Network((1, 5, 5), [ca.Conv2d(3, 3, stride=2, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)])


def test_a_layer_is_short_where_any_trial_is_and_the_words_agree() -> None:
    said = []
    for seed in range(8):
        short = []
        for number in range(2):
            rng = np.random.default_rng([seed, 0, number])
            short.append(not by_autograd(output_gradient(FEW, FEW[0], masks_of(0.6)(rng), rng)))
        report = ca.feasibility(FEW, activity=0.6, trials=2, at_bound=0.5, seed=seed)
        assert [one.short for one in report.beyond] == ([sum(short)] if any(short) else [])
        assert ("in the draws looked at no layer was by itself short" in report.conclusion) == (not any(short))
        assert "nothing was simulated" not in report.conclusion
        said.append(sum(short))
    assert set(said) == {0, 1, 2}


def test_zeros_and_the_range_are_not_credited_with_what_equations_decide() -> None:
    trials = [Decided(0, 0.5, 1.0, 0, False, 1.0)] * 17
    trials += [Decided(2, 0.5, 1.0, 2, False), Decided(1, 0.5, 0.0, 0, False)]
    found = beyond.summary("4", Ground.ZEROS, 9, trials, 0)
    expected = binomtest(1, 2).proportion_ci(0.95)
    assert (found.trials, found.short, found.decided) == (19, 2, 0.5)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.to_dict()["by_equations"] == pytest.approx(17 / 19)
    assert "of layer '4' 2 are short of equations, and zeros decide 1 of 2 (" in found.words
    within = ca.feasibility(FEW, activity=0.5, trials=4, at_bound=0.0).beyond[0]
    assert within.decided == pytest.approx(within.by_equations)
    assert 0 < within.by_equations < 1


def test_values_by_equations_alone_are_those_that_no_null_direction_moves() -> None:
    layer = LAYERS["three axes"]
    weight, k, x = drawn(layer, active=0.3)
    V = la.null_space(autograd_rows(layer, weight, k, k != 0))
    found = by_range(layer, (k != 0, True), weight, k, x, (0.0, 1.0))
    assert found.by_equations == np.mean(np.abs(V).max(axis=1) < 1e-9)
    assert found.by_equations < found.share


ACTIVE = 0.2


def test_what_weight_equations_decide_is_no_merit_of_zeros() -> None:
    """One filter of 3x3 has 9 gradient equations for 16 values, and 16 weight equations."""
    layers = [ca.Conv2d(1, 1), ca.ReLU(), ca.Conv2d(1, 3, padding=1), ca.LeakyReLU(), ca.Conv2d(4, 2), ca.Flatten()]
    net = ca.Network((1, 4, 4), [*layers, ca.Linear(3)])
    assert all(one.layer != "2" for one in ca.feasibility(net, activity=ACTIVE, trials=8).beyond)


def test_a_summand_counts_by_its_gradient_equations_alone() -> None:
    def net(read: tuple) -> ca.Network:
        layers = {"a": ca.Conv2d(1, 1), "r": ca.ReLU(), "c": ca.Conv2d(1, 3, padding=1)}
        return ca.Network((1, 4, 4), {**layers, **dict(read), "flat": ca.Flatten(), "head": ca.Linear(3)})

    summed = net((("s", (ca.Conv2d(1, 1), "r")), ("sum", (ca.Add(), "c", "s")), ("o", ca.ReLU())))
    sparse = {"r": np.eye(4, dtype=bool)[None], "o": np.ones((1, 4, 4), dtype=bool)}
    found = {one.layer: one for one in ca.feasibility(summed, activity=sparse, trials=4).beyond}
    assert found["c"].short == 4
    assert not found["c"].output_seen
    assert "by its gradient equations alone as its output is seen in a sum only" in found["c"].words
    assert all(one.layer != "c" for one in ca.feasibility(net(()), activity=ACTIVE, trials=4).beyond)
    rng = np.random.default_rng(0)
    masks = {"r": np.ones((1, 4, 4), bool), "o": np.arange(16).reshape(1, 4, 4) % 3 == 0}
    k = output_gradient(summed, summed.named("c"), masks_of(masks)(rng), rng)
    np.testing.assert_array_equal(k != 0, masks["o"])
    assert all(one.output_seen for one in ca.feasibility(NARROW, activity=0.4, trials=2).beyond)


def test_an_activity_may_be_any_real_number_of_numpy() -> None:
    plain = ca.feasibility(NARROW, activity=0.5, trials=2).beyond
    assert ca.feasibility(NARROW, activity=np.float32(0.5), trials=2).beyond == plain
