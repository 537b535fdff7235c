"""A layer in words, and the table of a graph."""

from __future__ import annotations

import pytest

import constraint_algebra as ca
from constraint_algebra.networks.description import describe


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (ca.ChannelScale(), "ChannelScale 4"),
        (ca.ChannelScale(bias=False), "ChannelScale 4, no bias"),
        (ca.AvgPool2d(2), "AvgPool2d, kernel 2"),
        (
            ca.AvgPool2d((2, 3), stride=1, ceil_mode=True),
            "AvgPool2d, kernel 2×3, stride 1, ceil mode True",
        ),
        (ca.MaxPool2d(3, stride=2, padding=1), "MaxPool2d, kernel 3, stride 2, padding 1"),
        (ca.AdaptiveAvgPool2d((None, 2)), "AdaptiveAvgPool2d, output size (None, 2)"),
        (ca.Concatenate(), "Concatenate"),
        (ca.Concatenate(1), "Concatenate, axis 1"),
        (ca.Scale(0.5), "Scale, factor 0.5"),
        (ca.PReLU(4), "PReLU, parameters 4"),
        (ca.LeakyReLU(0.2), "LeakyReLU, slope 0.2"),
        (ca.Upsample(2), "Upsample, factor 2"),
        (ca.Standardise(), "Standardise"),
        (ca.Pad((1, 1), mode="reflect"), "Pad, sides ((1, 1), (1, 1)), mode reflect"),
    ],
)
def test_layers_are_described_without_their_defaults(layer, words) -> None:
    placed = layer.place((4, 6, 6))
    assert describe(placed) == words


def graph() -> ca.Network:
    layers = {"conv": ca.Conv2d(4, 1), "norm": ca.BatchNorm(), "act": ca.PReLU(4), "sum": (ca.Add(), "act", "input")}
    return ca.Network((4, 3, 3), layers)


def test_the_table_of_a_graph_says_what_each_layer_reads_and_counts_parameters() -> None:
    frame = graph().to_frame().set_index("name")
    assert list(frame["inputs"]) == ["input", "conv", "norm.normalised", "norm", "act, input"]
    assert list(frame["parameters"]) == [20, 0, 8, 4, 0]
    assert list(frame["output"]) == ["4×3×3"] * 5
    assert "act, input" in repr(graph())
    assert "5 layers, 32 parameters" in repr(graph())


def test_the_table_of_a_chain_has_no_inputs() -> None:
    assert "inputs" not in ca.Network((4,), [ca.Linear(2)]).to_frame()
