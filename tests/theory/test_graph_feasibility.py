"""Reports on networks that are no chains: rows, sentences, bounds, and what refuses them."""

import math
import pickle

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.theory import graph_cost as costs
from constraint_algebra.theory import graph_solve
from constraint_algebra.theory.activity import settled
from constraint_algebra.theory.graph_cost import graph_cost
from constraint_algebra.theory.graph_feasibility import drawn_network
from constraint_algebra.theory.graph_recursion import recursion
from tests.theory.graph_networks import residual


def pooling(size=12, filters=4):
    layers = [ca.Conv2d(filters, 3), ca.ReLU(), ca.MaxPool2d(2), ca.Conv2d(8, 3), ca.ReLU(), ca.Flatten()]
    return ca.Network((1, size, size), [*layers, ca.Linear(40), ca.ReLU(), ca.Linear(5)])


def test_a_pooled_network_says_where_it_stops_and_what_it_assumed() -> None:
    report = ca.feasibility(pooling())
    stem = report.layers[0]
    # 4 * 5 * 5 winners, 4 filters of 9 taps; for each filter one combination of the former is one of the latter.
    assert (stem.weight_rows, stem.gradient_rows, stem.generic) == (100, 36, 132)
    assert (stem.verdict, report.verdict) == ("undetermined", "undetermined")
    assert report.limit.rank == report.limit_high == 132
    assert stem.reason == (
        "the 100 weight and 36 gradient equations of layer '0' have rank 132 with what is known before, and leave 12"
        " dimensions open"
    )
    assert "max-pools work with winners of MaxPool2d drawn uniformly at random" in report.assumptions[2]
    assert "with winners of MaxPool2d drawn uniformly at random" in report.conclusion
    assert report.layers[1].reason == "by the gradient equations of layer '3'"
    assert report.layers[-1].verdict == "determined"
    assert report.security_index is None
    assert max(map(len, repr(report).splitlines())) <= 120
    assert report.to_frame()["generic"].tolist()[0] == 132


def test_given_winners_and_masks_are_taken_and_checked() -> None:
    net = pooling(8, 2)
    wins = np.zeros((2, 6, 6), dtype=bool)
    wins[:, ::2, ::2] = True
    masks = {layer.name: np.ones(layer.output_shape, dtype=bool) for layer in net if layer.kind == "ReLU"}
    report = ca.feasibility(net, activity={**masks, "2": wins})
    assert not report.assumed
    assert "winners of MaxPool2d as given" in report.pattern
    assert "Another input may have another pattern" in report.conclusion
    corners = np.arange(72).reshape(2, 6, 6)[:, ::2, ::2]
    same = ca.feasibility(net, activity={**masks, "2": corners})
    np.testing.assert_array_equal(report.limit.determined, same.limit.determined)
    assert ca.feasibility(net, activity=masks).assumed  # winners are drawn
    with pytest.raises(ca.ParameterError, match=r"entry outside its window \(output 3\)"):
        ca.feasibility(net, activity={**masks, "2": np.where(corners == corners[0, 1, 0], 0, corners)})
    with pytest.raises(ca.ParameterError, match="a window without any in the mask"):
        ca.feasibility(net, activity={**masks, "2": ~wins & wins})
    with pytest.raises(ca.ParameterError, match="must be flat indices into its input"):
        ca.feasibility(net, activity={**masks, "2": wins[:1]})
    with pytest.raises(ca.ParameterError, match="unknown: pool"):
        ca.feasibility(net, activity={**masks, "pool": corners})


def test_drawn_winners_lie_in_their_windows_agree_and_are_active_where_any_is() -> None:
    net = ca.Network((2, 9, 9), [ca.Conv2d(3, 1), ca.ReLU(), ca.MaxPool2d(3, stride=2, padding=1), ca.Flatten()])
    drawn = drawn_network(net, 0.3, 0)
    won, table = drawn.winners["2"].ravel(), net[2].selection.windows(net[2].input_shape)
    assert (table == won[:, None]).any(axis=1).all()
    alive = drawn.above["1"].ravel()
    some = np.where(table >= 0, alive[table], False).any(axis=1)
    np.testing.assert_array_equal(alive[won], some)
    assert 0 < some.sum() < some.size or some.all()
    # A place that wins one window is in no other window beaten by the place that it beats there.
    beaten = {(int(w), int(e)) for w, row in zip(won, table, strict=True) for e in row if e not in {w, -1}}
    assert not {(b, a) for a, b in beaten} & beaten
    counts = np.bincount((table == won[:, None]).argmax(axis=1), minlength=9)
    assert counts.min() > 0  # none of the nine places is left out


def test_activity_of_takes_winners_from_data() -> None:
    net = pooling(8, 2)
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(shape) for name, shape in net.parameter_shapes.items()}
    x = rng.standard_normal(net.input_shape)
    pattern = ca.activity_of(net, parameters, x)
    assert list(pattern) == ["1", "2", "4", "7"]
    values = net.forward(parameters, x)
    np.testing.assert_array_equal(values[2].ravel()[pattern["2"]], values[3])
    assert not ca.feasibility(net, activity=pattern).assumed


def test_without_any_output_gradient_nothing_is_found_and_it_says_so() -> None:
    net = ca.Network((1, 6, 6), [ca.Conv2d(2, 3), ca.AvgPool2d(2), ca.Flatten(), ca.ReLU()])
    report = ca.feasibility(net)
    assert report.verdict in {"partial", "undetermined"}
    assert report.assumptions[0] == "no output gradient is at hand"
    assert report.layers[0].reason == (
        "neither its output nor its output gradient is known, and it is no place for a blind start"
    )
    with pytest.raises(ca.MissingBiasError, match="no layer with a weight"):
        ca.feasibility(ca.Network((1, 4, 4), [ca.MaxPool2d(2), ca.Flatten()]))


def test_a_head_without_bias_starts_by_the_loss() -> None:
    net = ca.Network((1, 8), [ca.Conv1d(8, 2), ca.AvgPool1d(7), ca.Flatten(), ca.Linear(3, bias=False)])
    report = ca.feasibility(net)
    assert "follows from the loss" in report.assumptions[0]
    assert report.layers[1].verdict == "determined"


def test_a_report_of_a_graph_travels_with_its_limit() -> None:
    report = ca.feasibility(pooling(8, 2), activity=0.5, seed=3)
    again = pickle.loads(pickle.dumps(report))
    assert again.limit.rank == report.limit.rank
    assert again.conclusion == report.conclusion


def test_the_same_seed_draws_the_same() -> None:
    net = residual(6, 4, ((4, 1),))
    first, second = (ca.feasibility(net, activity=0.5, seed=7) for _ in range(2))
    assert first.limit.rank == second.limit.rank
    np.testing.assert_array_equal(first.determined, second.determined)
    drawn = [drawn_network(net, 0.5, seed).gradients[3] for seed in (7, 8)]
    assert not np.array_equal(*drawn)


def test_the_fewest_filters_of_a_graph_are_refused_with_a_way_on() -> None:
    with pytest.raises(ca.ParameterError, match=r"no chain.*feasibility\(network\)"):
        ca.minimum_filters(residual(6, 4, ((4, 1),)))


def test_what_is_too_large_is_not_begun(monkeypatch) -> None:
    net = pooling(8, 2)
    assert graph_cost(net).beyond == ""
    monkeypatch.setattr(costs, "BYTES", 1e4)
    report = ca.feasibility(net)
    assert report.determined is None
    assert {row.verdict for row in report.layers} == {"undecided"}
    assert report.layers[0].reason.startswith("the masks and residues of all values would take")
    assert report.limit is not None  # small enough by itself
    monkeypatch.setattr(costs, "BYTES", 2.0**31)
    monkeypatch.setattr(costs, "SECONDS", 1e-9)
    assert "would take about 0 seconds" in ca.feasibility(net).layers[0].reason


def test_equations_too_many_to_eliminate_leave_verdicts_open_and_bounds(monkeypatch) -> None:
    net = pooling()
    whole = ca.feasibility(net).layers[0]
    monkeypatch.setattr(graph_solve, "OPEN", 50)
    report = ca.feasibility(net)
    row = report.layers[0]
    assert (row.verdict, row.determined) == ("undecided", None)
    assert row.generic_low <= whole.generic <= row.generic_high
    assert row.generic_low < row.generic_high
    assert "unknowns are too many to eliminate with the weight equations" in row.reason
    assert report.determined is None
    assert report.limit.rank == 132


def test_estimates_of_large_networks_come_from_shapes() -> None:
    for name in ("resnet18", "resnet50", "vgg16", "mobilenetv2", "densenet121"):
        cost = graph_cost(zoo.network(name))
        assert not cost.beyond, name
        assert 2**28 < cost.size < 2**31
        assert 1 < cost.seconds < 60
    assert "GiB" in graph_cost(zoo.network("vgg16", input_shape=(3, 896, 896))).beyond


@pytest.mark.slow
def test_resnet18_comes_back_down_to_its_third_stage_and_has_bounds() -> None:
    report = ca.feasibility(zoo.network("resnet18"), activity=0.5)
    verdicts = {row.layer: row.verdict for row in report.layers}
    assert verdicts["layer2.1.conv1"] == verdicts["layer3.0.conv1"] == verdicts["layer4.0.conv1"] == "determined"
    assert verdicts["layer2.0.conv1"] == verdicts["conv1"] == report.verdict == "undecided"
    assert report.limit is None
    assert 100_000 < report.limit_high < math.prod((3, 224, 224))


def test_what_the_recursion_finds_grows_with_what_is_active() -> None:
    net = residual(6, 6, ((6, 1),))
    few, many = (recursion(drawn_network(net, settled(net, share), 1)) for share in (0.3, 1.0))
    assert many.values[0].sum() >= few.values[0].sum()
