"""The polyphase law against exact ranks of equations written down by plain loops."""

import numpy as np
import pytest

import constraint_algebra as ca
from tests.rank_oracles import exact_rank, random_layers, random_rows

LARGER = {1: 30, 2: 8, 3: 4}


def gradient_rank(layer, rng):
    """Exact rank for one channel: the equations of a layer with one channel per group, one group of them."""
    one = type(layer.layer)(**{**vars(layer.layer), "groups": 1, "filters": layer.filters // layer.groups})
    return exact_rank(random_rows(one.place((1, *layer.positions)), rng)[1])


def test_law_is_the_exact_rank_on_320_random_geometries():
    rng = np.random.default_rng(0)
    proofs = {"closed form": 0, "elimination": 0}
    several = 0
    for layer in random_layers(320, seed=1, largest=LARGER):
        law = ca.polyphase_law(layer)
        assert law.rank == gradient_rank(layer, rng), layer
        assert sum(c.pixels for c in law.classes) == np.prod(layer.positions)
        assert all(c.rank <= min(c.rows, c.met) <= c.pixels for c in law.classes)
        several += len(law.classes) > 1
        for c in law.classes:
            proofs[c.proof] += 1
    assert several > 150
    assert proofs["closed form"] > 20 * proofs["elimination"] > 0


PUBLISHED = {
    "LeNet 1": (lambda: ca.Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)), 300),
    "LeNet 2": (lambda: ca.Conv2d(16, 5, stride=2, padding=2).place((12, 16, 16)), 256),
    "LeNet 3": (lambda: ca.Conv2d(12, 5, padding=2).place((16, 8, 8)), 64),
    "LeNet-O 4": (lambda: ca.Conv2d(3, 5, padding=2).place((3, 8, 8)), 64),
    "DLG LeNet 2": (lambda: ca.Conv2d(12, 5, stride=2, padding=2).place((12, 16, 16)), 240),
    "CNN6 1": (lambda: ca.Conv2d(12, 4, stride=2, padding=2).place((3, 32, 32)), 192),
    "CNN6 2": (lambda: ca.Conv2d(36, 3, stride=2, padding=1).place((12, 17, 17)), 244),
    "CNN6-d 2": (lambda: ca.Conv2d(20, 3, stride=2, padding=1).place((12, 17, 17)), 164),
    "CNN6 3": (lambda: ca.Conv2d(36, 3, padding=1).place((36, 9, 9)), 81),
    "CNN6 5": (lambda: ca.Conv2d(64, 3, stride=2, padding=1).place((36, 9, 9)), 81),
    "CNN6 6": (lambda: ca.Conv2d(128, 3, padding=1).place((64, 5, 5)), 25),
}


@pytest.mark.parametrize(("build", "rank"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_layers(build, rank):
    law = ca.polyphase_law(build())
    assert law.rank == rank == sum(min(c.rows, c.met) for c in law.classes)


def test_the_closed_form_of_most_published_layers_is_proved_without_elimination():
    proofs = {name: {c.proof for c in ca.polyphase_law(build()).classes} for name, (build, _) in PUBLISHED.items()}
    assert [name for name, proof in proofs.items() if proof != {"closed form"}] == ["LeNet-O 4"]  # 3 windows, 4 corners


def test_it_shows_which_class_is_short_and_by_how_much():
    law = ca.polyphase_law(PUBLISHED["DLG LeNet 2"][0]())
    assert {c.residue: c.short for c in law.classes} == {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 16}


@pytest.mark.parametrize(
    ("layer", "fewest"),
    [
        (lambda: ca.Conv2d(1, 5, stride=2, padding=2).place((3, 32, 32)), 64),  # counting says 41
        (lambda: ca.Conv2d(1, 5, stride=2, padding=2).place((12, 16, 16)), 16),  # counting says 11
        (lambda: ca.Conv2d(1, 3, stride=2, padding=1).place((3, 32, 32)), 256),  # counting says 114
        (lambda: ca.Conv2d(1, 4, stride=2, padding=2).place((3, 32, 32)), 64),  # the six layers of CNN6
        (lambda: ca.Conv2d(1, 3, stride=2, padding=1).place((12, 17, 17)), 81),
        (lambda: ca.Conv2d(1, 3, padding=1).place((36, 9, 9)), 9),
        (lambda: ca.Conv2d(1, 3, stride=2, padding=1).place((36, 9, 9)), 25),
        (lambda: ca.Conv2d(1, 3, padding=1).place((64, 5, 5)), 3),
        (lambda: ca.Linear(1).place((7,)), 1),
    ],
)
def test_fewest_filters_of_published_layers(layer, fewest):
    assert ca.fewest_filters(layer()) == (fewest, fewest)


@pytest.mark.slow
def test_fewest_filters_are_what_a_search_finds():
    rng = np.random.default_rng(2)
    found = {"some": 0, "none": 0, "more than counting": 0}
    for layer in random_layers(360, seed=3, largest={1: 14, 2: 5, 3: 3}):
        pixels, limit = int(np.prod(layer.positions)), int(np.prod(layer.positions))
        searched = next(
            (F for F in range(1, limit + 1) if gradient_rank(layer.with_filters(F * layer.groups), rng) == pixels), None
        )
        expected = None if searched is None else (searched * layer.groups,) * 2
        assert ca.fewest_filters(layer) == expected, layer
        found["none" if searched is None else "some"] += 1
        found["more than counting"] += searched is not None and searched > -(-pixels // int(np.prod(layer.taps)))
    assert min(found.values()) > 5


def test_two_filters_of_2_by_2_taps_over_3_by_3_pixels_fall_short_of_the_closed_form():
    law = ca.polyphase_law(ca.Conv2d(2, 2).place((1, 3, 3)))
    assert (law.classes[0].rows, law.classes[0].met, law.rank) == (8, 9, 7)
    assert law.classes[0].proof == "elimination"


def test_beyond_the_limit_both_bounds_are_given():
    layer = ca.Conv2d(7, 3).place((1, 8, 8))
    exact = ca.polyphase_law(layer)
    bounded = ca.polyphase_law(layer, limit=1)
    assert exact.classes[0].proof == "elimination"
    assert bounded.low < exact.rank <= bounded.high
    assert bounded.rank is None
    assert bounded.classes[0].short is None
    assert f"rank {bounded.low} to {bounded.high} of 64" in repr(bounded)
    low, high = ca.fewest_filters(layer, limit=1)
    assert low <= ca.fewest_filters(layer)[0] <= high
    assert low < high


def test_dilation_and_stride_with_a_common_factor_leave_pixels_that_no_tap_meets():
    layer = ca.Conv1d(5, 3, stride=4, dilation=2).place((1, 17))
    taps = {c.residue: c.taps for c in ca.polyphase_law(layer).classes}
    assert taps == {(0,): 2, (1,): 0, (2,): 1, (3,): 0}
    assert ca.fewest_filters(layer) is None


def test_a_linear_layer_is_one_class():
    law = ca.polyphase_law(ca.Linear(4).place((7,)))
    assert [(c.residue, c.taps, c.pixels, c.rank) for c in law.classes] == [((), 1, 1, 1)]


def test_a_layer_without_equations_is_refused():
    with pytest.raises(ca.ShapeError, match="no weight"):
        ca.polyphase_law(ca.ReLU().place((1, 3, 3)))
