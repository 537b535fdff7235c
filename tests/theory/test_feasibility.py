"""Feasibility of whole networks: published figures, real PyTorch gradients, and sentences that say what is so."""

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.pytorch.gradients import torch_gradients

COLUMNS = [
    "layer",
    "kind",
    "input_shape",
    "unknowns",
    "weight_rows",
    "gradient_rows",
    "counted",
    "structural",
    "generic",
    "generic_low",
    "generic_high",
    "generic_gradient",
    "generic_weight",
    "determined",
    "filters_needed",
    "filters_by_counting",
    "verdict",
    "reason",
]
INDEX = {"lenet": 0, "lenet-o": 0, "cnn6-o": 0, "cnn6": 0, "cnn6-d": -233}


@pytest.mark.parametrize("name", zoo.names("leakage"))
def test_every_network_of_the_zoo_is_determined_and_all_but_one_by_the_recursion(name) -> None:
    report = ca.feasibility(zoo.network(name))
    assert report.verdict == ("determined, but not by the recursion" if name == "cnn6-d" else "determined")
    assert report.limit.full
    assert report.security_index == INDEX.get(name, 0)
    assert report.error < 0.01
    frame = report.to_frame()
    assert frame.columns.tolist() == COLUMNS
    assert frame["layer"].tolist() == [layer.name for layer in zoo.network(name).bilinear]
    ranks = frame[["counted", "structural", "generic"]].to_numpy()
    assert (np.diff(ranks, axis=1) <= 0).all()
    assert max(map(len, repr(report).splitlines())) <= 120


def test_cnn6_d_stops_at_its_second_convolution_short_by_280() -> None:
    report = ca.feasibility(zoo.network("cnn6-d"))
    row = report.layers[1]
    assert (row.layer, row.unknowns, row.weight_rows, row.gradient_rows) == ("2", 3468, 1620, 2160)
    assert (row.counted, row.structural, row.generic) == (3468, 3468, 3468 - 280)
    assert (row.generic_gradient, row.generic_weight) == (12 * 164, 1620)
    assert (row.filters_needed, row.filters_by_counting) == (81, 33)
    assert row.verdict == "partial"
    # 81 - 20, 72 - 2 * 20 and 72 - 2 * 20 equations a channel.
    assert row.reason == (
        "the gradient equations are short by 384 in residue class 0,1, 384 in residue class 1,0, 732 in residue class"
        " 1,1, over 12 channels; the weight equations close only 1,220 of 1,500"
    )
    below = report.layers[0]
    assert (below.gradient_rows, below.determined, below.verdict) == (0, 0, "undetermined")
    assert report.conclusion.startswith(
        "Determined, but not by the recursion: all equations together determine every value of the 3×32×32 input"
        " (rank 3,072 of 3,072), with outputs of LeakyReLU on either side of zero at random; the recursion determines"
        " none of them; the recursion"
    )
    assert "first falls short at layer '2' (Conv2d): the gradient equations are short" in report.conclusion
    assert repr(report).replace("\n", " ").endswith(report.conclusion)


def test_dlg_lenet_is_determined_only_thanks_to_its_weight_equations() -> None:
    row = ca.feasibility(zoo.network("lenet-dlg")).layers[1]
    assert (row.generic_gradient, row.generic, row.unknowns) == (12 * 240, 3072, 3072)
    assert row.verdict == "determined"
    assert row.reason == (
        "the gradient equations are short by 192 in residue class 1,1, over 12 channels;"
        " the weight equations close the gap of 192"
    )


def relu_network(seed):
    """A small network with ReLU throughout, of random shape."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(rng.integers(1, 4)):
        kernel, stride = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        layers.append(ca.Conv2d(int(rng.integers(2, 9)), kernel, stride=stride, padding=int(rng.integers(0, kernel))))
        layers.append([ca.ReLU(), ca.ReLU(), ca.LeakyReLU(0.2), ca.Tanh()][rng.integers(4)])
    return ca.Network((int(rng.integers(1, 4)), 9, 8), [*layers, ca.Flatten(), ca.Linear(5)])


def compare(net, seed, image_seed=0):
    """Ranks and determined inputs by theory and by numbers; returns the layers compared and the shares inactive."""
    model = ca.to_torch(net, seed=seed, init="uniform", dtype="float64")
    net, parameters = ca.from_torch(model, net.input_shape)
    image = np.random.default_rng(image_seed).random(net.input_shape)
    active = ca.activity_of(net, parameters, image)
    try:
        found = ca.reconstruct(net, parameters, torch_gradients(model, image, 0), search=0)
    except ca.ZeroGradientError:  # the network is saturated
        return [], []
    report = ca.feasibility(net, activity=active)
    rows = {row.layer: row for row in report.layers}
    for layer in found.layers:
        row = rows[layer.name]
        theory = (row.generic, row.determined, row.weight_rows)
        assert theory == (layer.rank, layer.determined, layer.weight_rows), (net, layer.name)
        if layer.name != net.bilinear[-1].name:  # a saturated softmax has entries that vanish in numbers
            assert row.gradient_rows == layer.gradient_rows
    np.testing.assert_array_equal(report.determined, found.determined)
    return [rows[layer.name] for layer in found.layers], [1 - float(mask.mean()) for mask in active.values()]


@pytest.mark.parametrize("name", ["lenet-o", "cnn6-o"])
def test_ranks_from_masks_are_those_of_real_gradients_on_the_papers_networks(name) -> None:
    rows, inactive = compare(zoo.network(name), seed=1)
    assert len(rows) == len(zoo.network(name).bilinear)
    assert len(inactive) >= 2
    assert all(0.3 <= share <= 0.7 for share in inactive)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "lenet-o", "cnn6-o", "lenet-4relu", "rconv-relu"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_ranks_from_masks_are_those_of_real_gradients_on_more_networks(name, activation) -> None:
    rows, inactive = compare(zoo.network(name, activation=activation), seed=1)
    assert rows
    assert all(0.3 <= share <= 0.7 for share in inactive)


@pytest.mark.slow
def test_ranks_from_masks_are_those_of_real_gradients_on_small_networks() -> None:
    verdicts, inactive = [], []
    for seed in range(40):
        rows, shares = compare(relu_network(seed), seed)
        verdicts += [row.verdict for row in rows]
        inactive += shares
    assert verdicts.count("determined") > 20
    assert verdicts.count("partial") > 10
    assert verdicts.count("undetermined") > 3
    assert sum(0.3 <= share <= 0.7 for share in inactive) > 20


def test_a_dead_region_is_named() -> None:
    net = ca.Network((1, 6, 6), [ca.Conv2d(16, 3, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)])
    active = np.ones((16, 6, 6), dtype=bool)
    active[:, 3:, :] = False  # the lower half is dead: no output sees rows 4 and 5
    report = ca.feasibility(net, activity={"1": active})
    assert report.layers[0].verdict == "partial"
    assert report.determined[0, :4].all()
    assert not report.determined[0, 4:].any()
    assert report.layers[0].reason == (
        "12 values meet no equation: no output that they touch is known or has a k other than zero;"
        " all others are determined"
    )
    assert report.conclusion.startswith("Partly determined: the gradient determines 24 of 36 input values")


def test_a_network_that_is_dead_throughout_says_so() -> None:
    net = ca.Network((1, 6, 6), [ca.Conv2d(3, 3), ca.ReLU(), ca.Conv2d(3, 3), ca.ReLU(), ca.Flatten(), ca.Linear(4)])
    report = ca.feasibility(net, activity=0.0)
    assert report.verdict == "undetermined"
    assert report.layers[1].reason == (
        "the output gradient is zero throughout and no output is known: no equation is left"
    )


def test_layers_above_the_start_are_computed_forward() -> None:
    net = ca.Network((6,), [ca.Linear(4), ca.Sigmoid(), ca.Linear(3, bias=False), ca.Sigmoid(), ca.Linear(2)])
    report = ca.feasibility(net)
    assert [row.verdict for row in report.layers] == ["determined"] * 3
    assert report.layers[1].gradient_rows == 0
    assert report.layers[2].gradient_rows == 6
    assert "computed forward from that of layer '0'" in report.layers[1].reason
    assert "the output gradient of layer '0' is its bias gradient" in report.assumptions


def test_what_comes_before_the_first_layer_counts() -> None:
    net = ca.Network((2, 2), [ca.ReLU(), ca.Flatten(), ca.Linear(3)])
    active = np.array([[True, False], [True, True]])
    report = ca.feasibility(net, activity=[active])
    np.testing.assert_array_equal(report.determined, active)
    assert report.layers[0].verdict == "determined"
    assert report.conclusion == (
        "Partly determined: the gradient determines 3 of 4 input values, with 3 of 4 outputs of ReLU active, by the"
        " masks given; an activation before the first layer cuts off the others. Another input may have another"
        " pattern; certify(model, x, target) proves what the gradient of one input x fixes."
    )


def test_what_is_undecided_is_missing_and_stays_so_below() -> None:
    convolutions = [ca.Conv2d(4, 3, padding=1), ca.LeakyReLU(), ca.Conv2d(2, 3, padding=1), ca.LeakyReLU()]
    report = ca.feasibility(ca.Network((1, 50, 50), [*convolutions, ca.Flatten(), ca.Linear(3)]))
    first, second = report.layers[:2]
    assert (second.verdict, second.generic, second.determined) == ("undecided", None, None)
    # Two filters read two of the channels, and each shares a dimension with both; the truth lies between.
    assert (second.generic_low, second.generic_high) == (2 * 2500 + 2 * 18, 2 * 2500 + 4 * 18 - 4)
    assert second.reason == "the bounds of the generic rank, 5,036 and 5,068, do not meet"
    assert (first.verdict, first.generic, first.weight_rows) == ("undecided", None, None)
    assert first.reason == "what layer '2' leaves known is undecided"
    assert report.determined is None
    assert report.verdict == "undecided"
    assert report.conclusion.startswith("Undecided: whether the 1×50×50 input is determined is open")
    assert report.to_frame()["generic"].isna().tolist() == [True, True, False]
    assert "5036..5068" in repr(report)
    assert report.security_index is None


def test_the_conclusion_says_which_pattern_was_assumed_and_who_knows_that_of_an_input() -> None:
    """All outputs active, the same network is determined; at the pattern of a real image it is not."""
    net = ca.Network((1, 6, 6), [ca.Conv2d(4, 3, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)])
    whole = ca.feasibility(net)
    assert whole.conclusion == (
        "Determined: the gradient determines every value of the 1×6×6 input, with every output of ReLU active."
        " Which outputs are active depends on the input: activity=activity_of(network, parameters, x) takes those of x;"
        " certify(model, x, target) proves what the gradient of one input x fixes."
    )
    half = ca.feasibility(net, activity=np.float64(0.25)).conclusion
    assert (
        f"with {int(ca.feasibility(net, activity=0.25).active['1'].sum())} of 144 outputs of ReLU active, drawn" in half
    )
    assert "activity_of(network, parameters, x)" in half
    mask = np.zeros((4, 6, 6), dtype=bool)
    mask[:, :3] = True
    given = ca.feasibility(net, activity=[mask])
    assert given.verdict == "partial"
    assert ", with 72 of 144 outputs of ReLU active, by the masks given; the recursion first falls" in given.conclusion
    assert "activity_of" not in given.conclusion
    assert "certify(model, x, target)" in given.conclusion
    assert "by the masks given" in repr(given)


def test_where_no_activation_cuts_off_nothing_is_assumed_about_it() -> None:
    layers = [ca.Conv2d(16, 3, padding=1), ca.LeakyReLU(), ca.Flatten(), ca.Linear(4)]
    report = ca.feasibility(ca.Network((1, 6, 6), layers))
    assert report.pattern == ""
    assert report.conclusion == "Determined: the gradient determines every value of the 1×6×6 input."


def test_a_network_without_a_start_is_refused() -> None:
    with pytest.raises(ca.MissingBiasError, match="let the network end in"):
        ca.feasibility(ca.Network((1, 6, 6), [ca.Conv2d(2, 3), ca.ReLU()]))


def test_the_report_states_what_it_rests_on() -> None:
    report = ca.feasibility(zoo.network("lenet-o"), activity=0.5, seed=3)
    text = repr(report).replace("\n", " ")
    assert "honest-but-curious observer who knows the architecture, the weights and the gradient of one step" in text
    assert "each with probability 0.5, independently" in text
    assert "generic" in text
    html = report._repr_html_()
    assert "<table" in html
    assert report.conclusion in html
    again = ca.feasibility(zoo.network("lenet-o"), activity=0.5, seed=3)
    assert report.layers == again.layers
    assert report.layers != ca.feasibility(zoo.network("lenet-o"), activity=0.5, seed=4).layers
