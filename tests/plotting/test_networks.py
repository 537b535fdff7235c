"""Networks as drawings: every layer and arrow is there, nothing covers anything else, words fit into their boxes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import constraint_algebra as ca
from constraint_algebra import plotting, zoo
from constraint_algebra.display import draw
from constraint_algebra.plotting.boxes import Box, boxes, graph
from constraint_algebra.plotting.flow import known_values
from constraint_algebra.plotting.layout import BOX, HEIGHT, layout

MOST = {"resnet-small-gap": 80, "densenet121": 20, "fl-vae-encoder": 80}  # boxes beyond which modules are folded


@st.composite
def graphs(draw) -> nx.DiGraph:
    """Random acyclic graphs whose first box is read by all, and whose last reads what nothing else does."""
    count = draw(st.integers(2, 16))
    made = nx.DiGraph()
    made.add_node(0)
    for box in range(1, count):
        near = st.integers(max(0, box - 3), box - 1) if draw(st.booleans()) else st.integers(0, box - 1)
        made.add_edges_from((other, box) for other in draw(st.sets(near, min_size=1, max_size=3)))
    made.add_edges_from((box, count - 1) for box in range(count - 1) if not made.out_degree(box))
    return made


def rectangle(place) -> tuple[float, float, float, float]:
    (x, y) = place
    return x - BOX / 2, y - HEIGHT / 2, x + BOX / 2, y + HEIGHT / 2


def overlap(one, other, by: float = 1e-9) -> bool:
    return all(min(one[i + 2], other[i + 2]) - max(one[i], other[i]) > by for i in (0, 1))


@given(graphs())
@settings(max_examples=25)
def test_no_box_covers_another_and_no_arrow_crosses_a_box(made) -> None:
    found = layout(made)
    frames = {box: rectangle(place) for box, place in found.places.items()}
    assert not any(overlap(*pair) for pair in itertools.combinations(frames.values(), 2))
    assert set(found.arrows) == set(made.edges)
    for (start, end), line in found.arrows.items():
        assert line[0] == pytest.approx((found.places[start][0], frames[start][1]))
        assert line[-1][1] == pytest.approx(frames[end][3])
        assert frames[end][0] < line[-1][0] < frames[end][2]
        for (x0, y0), (x1, y1) in itertools.pairwise(line):
            assert x0 == x1 or y0 == y1
            piece = (min(x0, x1) - 1e-3, min(y0, y1) - 1e-3, max(x0, x1) + 1e-3, max(y0, y1) + 1e-3)
            assert not any(overlap(piece, frame, by=2e-3) for frame in frames.values())
        assert all(0 <= x <= found.width for x, _ in line)


@given(graphs())
@settings(max_examples=20)
def test_only_arrows_with_a_common_end_share_a_way_down(made) -> None:
    downs = [
        (edge, x0, min(y0, y1), max(y0, y1))
        for edge, line in layout(made).arrows.items()
        for (x0, y0), (x1, y1) in itertools.pairwise(line)
        if x0 == x1
    ]
    for (edge, x, low, high), (other, at, bottom, top) in itertools.combinations(downs, 2):
        if abs(x - at) < 1e-9 and min(high, top) - max(low, bottom) > 1e-9:
            assert set(edge) & set(other)


def test_a_long_network_goes_on_beside_itself_and_no_shortcut_crosses() -> None:
    found = layout(nx.path_graph(60, create_using=nx.DiGraph))
    columns = {x for x, _ in found.places.values()}
    assert len(columns) > 3
    assert found.depth < 20


def test_layers_without_a_weight_join_the_box_that_they_alone_read() -> None:
    found = boxes(zoo.network("resnet-small-flatten"))
    assert [box.lines() for box in found[:3]] == [
        ["input", "3×16×16"],
        ["conv1", "Conv2d 3×3", "batch norm, ReLU", "→ 32×16×16"],
        ["layer1.0.conv1", "Conv2d 3×3", "batch norm, ReLU", "→ 32×16×16"],
    ]
    join = next(box for box in found if box.kind == "join")
    assert join.lines() == ["layer1.0.add", "+, ReLU", "→ 32×16×16"]
    assert [found[number].lines()[0] for number in join.inputs] == ["layer1.0.conv2", "conv1"]
    assert sum(len(box.layers) for box in found) == len(zoo.network("resnet-small-flatten"))


def test_a_network_with_too_many_boxes_is_folded_by_its_modules() -> None:
    network = zoo.network("densenet121")
    found = boxes(network)
    assert len(found) < 80 < len(boxes(network, most=500))
    assert sum(len(box.layers) for box in found) == len(network)
    folded = next(box for box in found if box.kind == "module")
    assert folded.lines() == ["…denseblock1.denselayer1", "2 Conv2d, Concatenate", "→ 96×56×56"]
    assert nx.is_directed_acyclic_graph(graph(found))
    assert [box.module for box in boxes(network, most=5) if box.module] == ["features"]


@pytest.mark.parametrize("name", MOST)
def test_words_fit_into_their_boxes_and_every_arrow_is_drawn(name) -> None:
    network = zoo.network(name)
    ax = draw(network, most=MOST[name])
    figure = ax.figure
    figure.canvas.draw()
    found = boxes(network, MOST[name])
    frames = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    assert len(frames) == len(found)
    assert sum(isinstance(patch, FancyArrowPatch) for patch in ax.patches) == graph(found).number_of_edges()
    words = [text for text in ax.texts if text.get_text()]
    assert [text.get_text() for text in words] == [line for box in found for line in box.lines()]
    owners = [frame for box, frame in zip(found, frames, strict=True) for _ in box.lines()]
    assert min(text.get_fontsize() for text in words) > 5
    for text, frame in zip(words, owners, strict=True):
        shown = text.get_window_extent()
        assert frame.x0 <= shown.x0 < shown.x1 <= frame.x1, text.get_text()
        assert frame.y0 <= shown.y0 < shown.y1 <= frame.y1, text.get_text()
    assert f"{network.parameter_count:,} parameters" in ax.get_title()
    plt.close(figure)


def test_known_shares_are_bars_of_their_length_and_numbers() -> None:
    network = zoo.network("resnet-small-flatten")
    ax = plotting.architecture(network, values={"input": 1.0, "relu": 0.25}, gradients={"relu": 0.5},
                               ax=Figure(figsize=(7, 5)).subplots())  # fmt: skip
    bars = [patch.get_width() for patch in ax.patches if isinstance(patch, Rectangle)]
    full = bars[0]
    assert bars == pytest.approx([full, full, full, full / 4, full, full / 2])
    assert [text.get_text() for text in ax.texts if "%" in text.get_text()] == ["100 %", "25 %", "50 %"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "known share of values",
        "known share of gradients",
    ]
    with pytest.raises(ca.ParameterError, match="'conv9' is no layer"):
        plotting.architecture(network, gradients={"conv9": 1.0})


def test_one_value_read_twice_is_one_arrow() -> None:
    twice = ca.Network((4,), {"a": ca.Linear(4), "sum": (ca.Add(), "a", "a")})
    found = boxes(twice)
    assert [box.inputs for box in found] == [(), (0,), (1, 1)]
    assert isinstance(found[0], Box)
    assert list(graph(found).edges) == [(0, 1), (1, 2)]


@pytest.fixture(scope="module")
def report():
    return ca.feasibility(
        ca.Network(
            (2, 4, 4),
            {
                "conv": ca.Conv2d(4, 1, stride=2),  # looks at a quarter of the pixels
                "norm": ca.BatchNorm(),
                "relu": ca.ReLU(),
                **{f"c{n}": ca.Conv2d(4, 1, bias=False) for n in range(8)},
                "sum": (ca.Add(), "c7", "relu"),
                "flat": ca.Flatten(),
                "head": ca.Linear(3),
            },
        ),
    )


def test_knowledge_flows_through_the_boxes_of_a_graph(report) -> None:
    quarter = replace(report, layers=tuple(replace(row, determined=row.unknowns // 4) for row in report.layers))
    shares = known_values(quarter, report.network)
    assert {name: shares[name] for name in ("flat", "relu", "c6")} == {"flat": 0.25, "relu": 0.25, "c6": 0.25}
    assert set(known_values(report, report.network).values()) == {0.25, 1.0}
    assert shares["input"] == report.determined.mean() == 0.25
    ax = plotting.knowledge_flow(report, Figure(figsize=(7, 5)).subplots())
    assert ax.get_title().startswith("Knowledge flow")
    drawn = {box.layers[-1].name if box.layers else "input" for box in boxes(report.network)}
    assert sum("%" in text.get_text() for text in ax.texts) == len(drawn & set(shares))


def test_the_names_of_many_layers_stand_upright_and_do_not_touch(report) -> None:
    ax = report.plot()
    ax.figure.canvas.draw()
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == [f"{row.layer}  {row.unknowns:,}" for row in report.layers]
    frames = [label.get_window_extent() for label in labels]
    assert all(before.x1 < after.x0 for before, after in itertools.pairwise(frames))
    plt.close(ax.figure)
