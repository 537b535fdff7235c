"""Drawings of ranks, maps, graphs, spectra and results: that they show what the numbers are."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import constraint_algebra as ca
from constraint_algebra import plotting
from constraint_algebra.display import draw
from constraint_algebra.plotting import look

PAIRS = ca.Conv2d(2, 3, stride=2, padding=1).place((1, 4, 4), name="0")


def axes():
    return Figure().subplots()


def heights(container) -> list[float]:
    return [bar.get_height() for bar in container]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# Style


def lightness(colour: str) -> float:
    """CIE L* of a colour, from its relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_the_palette_gets_lighter_so_that_grey_keeps_it_apart() -> None:
    levels = [lightness(colour) for colour in plotting.PALETTE]
    assert np.diff(levels).min() > 7
    assert levels[0] == 0
    hues = [colorsys.rgb_to_hsv(*to_rgb(colour))[0] for colour in plotting.PALETTE[1:3]]  # the two that are closest
    assert abs(hues[0] - hues[1]) > 0.3


def test_the_style_holds_inside_the_block_and_not_outside() -> None:
    import matplotlib as mpl

    before = mpl.rcParams["axes.grid"]
    with plotting.style():
        assert mpl.rcParams["axes.grid"]
        cycle = mpl.rcParams["axes.prop_cycle"].by_key()
    assert mpl.rcParams["axes.grid"] == before
    assert tuple(cycle["color"]) == plotting.PALETTE
    assert look.SHEET.exists()


# Ranks


def test_the_ladder_has_a_bar_for_every_rung_that_is_defined() -> None:
    layer = ca.Conv2d(2, 3).place((1, 8, 8))
    shapes = ca.rank_ladder(ca.weight_equations(layer))
    ax = shapes.plot(axes())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["counted", "structural", "generic"]
    assert [heights(bars)[0] for bars in ax.containers] == [64, 64, 56]
    assert "64 unknowns" in legend(ax)
    weight = np.random.default_rng(0).standard_normal(layer.weight_shape)
    whole = ca.rank_ladder(ca.weight_equations(layer, weight=weight), noise=1e-6)
    drawn = whole.plot(axes())
    assert [heights(bars)[0] for bars in drawn.containers] == [64, 64, 56, whole.numerical, whole.usable]
    ranged = ca.rank_ladder(ca.weight_equations(layer, weight=weight), at=np.zeros(64))
    drawn = ranged.plot(axes())
    assert [label.get_text() for label in drawn.get_xticklabels()][-2:] == ["numerical", "ranged"]
    assert heights(drawn.containers[-1])[0] == ranged.ranged


def test_every_layer_has_its_shares() -> None:
    report = ca.feasibility(ca.zoo.network("cnn6-d"))
    ax = report.plot(axes())
    assert [bars.get_label() for bars in ax.containers] == ["counted", "structural", "generic"]
    for bars, rung in zip(ax.containers, ("counted", "structural", "generic"), strict=True):
        expected = [100 * getattr(row, rung) / row.unknowns for row in report.layers]
        np.testing.assert_allclose(heights(bars), expected)
    (line,) = (line for line in ax.lines if line.get_label() == "determined values")
    np.testing.assert_allclose(line.get_ydata(), [100 * row.determined / row.unknowns for row in report.layers])
    assert report.verdict in ax.get_title()


def test_a_rank_that_is_not_settled_is_a_question_mark() -> None:
    report = ca.feasibility(ca.zoo.network("lenet-o"))
    unsettled = ca.FeasibilityReport(
        report.network,
        tuple(ca.LayerFeasibility(**(vars(row) | {"generic": None})) for row in report.layers),
        None,
        report.assumptions,
        report.error,
        report.active,
    )
    assert sum(text.get_text() == "?" for text in unsettled.plot(axes()).texts) == len(report.layers)
    assert sum(text.get_text() == "?" for text in report.plot(axes()).texts) == 0


def staircase(filters: int) -> pd.DataFrame:
    ranks = [min(4 * f, 10) + min(f, 6) for f in range(1, filters + 1)]
    return pd.DataFrame(
        {
            "filters": range(1, filters + 1),
            "counted": [min(5 * f, 16) for f in range(1, filters + 1)],
            "structural_rank": ranks,
            "rank": ranks,
            "unknowns": 16,
            "determined": [rank == 16 for rank in ranks],
        }
    )


def test_the_staircase_marks_where_counting_and_where_the_rank_suffice() -> None:
    frame = staircase(8)
    ax = plotting.rank_against_filters(frame.sample(frac=1, random_state=0), axes())
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(lines["exact rank"].get_ydata(), frame["rank"])
    np.testing.assert_array_equal(lines["counted"].get_ydata(), frame["counted"])
    np.testing.assert_array_equal(lines["16 unknowns"].get_ydata(), [16, 16])
    notes = {text.get_text(): text.xy for text in ax.texts if hasattr(text, "xy")}
    assert notes == {"enough\nby counting:\n4 filters": (4.0, 16), "determined:\n6 filters": (6.0, 16)}


def test_the_range_is_a_second_curve_that_grey_tells_apart() -> None:
    frame = staircase(8).assign(ranged=lambda f: np.where(f["filters"] >= 5, 16, f["rank"]))
    ax = plotting.rank_against_filters(frame, axes())
    lines = {line.get_label(): line for line in ax.lines}
    exact, ranged = lines["exact rank"], lines["rank with the range"]
    np.testing.assert_array_equal(ranged.get_ydata(), frame["ranged"])
    assert (exact.get_linestyle(), exact.get_marker(), ranged.get_linestyle(), ranged.get_marker()) == (
        "-",
        "o",
        "--",
        "^",
    )
    assert "rank with the range" in legend(ax)
    notes = {text.get_text(): text.xy for text in ax.texts if hasattr(text, "xy")}
    assert notes["with the range:\n5 filters"] == (5.0, 16)
    assert notes["determined:\n6 filters"] == (6.0, 16)
    assert "rank with the range" not in legend(plotting.rank_against_filters(staircase(8), axes()))


def test_structural_and_exact_rank_are_both_seen_and_many_points_are_left_out() -> None:
    for count, marker in ((30, "o"), (31, "")):
        lines = {line.get_label(): line for line in plotting.rank_against_filters(staircase(count), axes()).lines}
        exact, structural = lines["exact rank"], lines["structural rank"]
        assert exact.get_marker() == marker
        assert structural.get_markerfacecolor() == "none"
        assert structural.get_markersize() > 2 * exact.get_markersize()


def test_where_counting_is_right_there_is_one_note() -> None:
    frame = staircase(8).assign(counted=lambda f: f["rank"])
    notes = [text.get_text() for text in plotting.rank_against_filters(frame, axes()).texts]
    assert notes == ["determined,\nas counted:\n6 filters"]


def test_a_staircase_that_never_gets_there_says_so() -> None:
    ax = plotting.rank_against_filters(staircase(5), axes())
    assert any("not determined" in text.get_text() for text in ax.texts)
    with pytest.raises(KeyError, match="lacks the columns rank, determined; it needs filters"):
        plotting.rank_against_filters(staircase(5).drop(columns=["rank", "determined"]))


# Maps


def test_a_pixel_has_the_class_of_the_equations_that_fix_it() -> None:
    W, G, both = (np.zeros((2, 2, 3), dtype=bool) for _ in range(3))
    W[:, 0, 0] = both[:, 0, 0] = True
    G[:, 0, 1] = both[:, 0, 1] = True
    W[:, 0, 2] = G[:, 0, 2] = both[:, 0, 2] = True
    both[:, 1, 0] = True
    both[0, 1, 1] = W[0, 1, 1] = True  # one channel of two: the pixel is not determined
    ax = plotting.determinacy_classes(W, G, both, ax=axes())
    np.testing.assert_array_equal(ax.images[0].get_array(), [[2, 3, 4], [1, 0, 0]])
    assert ax.get_title() == "Determined: 4 of 6 pixels"
    assert legend(ax) == [
        "not determined (2)",
        "only both together (1)",
        "weight equations alone (1)",
        "gradient equations alone (1)",
        "either kind alone (1)",
    ]


def test_a_map_of_a_layer_is_that_of_its_generic_masks() -> None:
    layer = ca.Conv2d(8, 3, stride=2, padding=1).place((2, 8, 8))
    active = np.random.default_rng(0).random(layer.output_shape) < 0.3
    ax = plotting.determinacy_map(layer, active=active, ax=axes())
    found = ca.generic_rank(layer, active=active).determined
    assert ((ax.images[0].get_array() > 0) == found.all(axis=0)).all()


def test_maps_of_one_axis_are_lines_and_of_three_are_refused() -> None:
    line = plotting.residue_classes(ca.Conv1d(2, 3, stride=2, padding=1).place((1, 8)), axes())
    assert line.images[0].get_array().shape == (1, 8)
    with pytest.raises(ca.ShapeError, match="one or two spatial axes"):
        plotting.residue_classes(ca.Conv3d(2, 2).place((1, 4, 4, 4)), axes())
    with pytest.raises(ca.ShapeError, match=r"three masks \(channels, height, width\)"):
        plotting.determinacy_map(ca.Conv3d(2, 2).place((1, 3, 3, 3)), ax=axes())
    with pytest.raises(ca.ShapeError, match="too large"):
        plotting.determinacy_classes(None, None, None)


def test_residue_classes_are_those_of_the_positions_modulo_the_stride() -> None:
    ax = plotting.residue_classes(PAIRS, axes())
    shown = np.asarray(ax.images[0].get_array())
    down, right = np.indices((4, 4)) % 2
    assert len(np.unique(shown)) == 4
    for parity in range(4):
        assert len(np.unique(shown[2 * down + right == parity])) == 1
    assert sorted(legend(ax))[0].startswith("class 0: 4 taps (4)")
    written = np.array([int(text.get_text()) for text in ax.texts]).reshape(4, 4)
    np.testing.assert_array_equal(written, shown)
    large = plotting.residue_classes(ca.Conv2d(2, 3, stride=2, padding=1).place((1, 20, 20)), axes())
    assert not large.texts


def test_the_graph_tells_more_components_apart_than_there_are_colours() -> None:
    system = ca.gradient_equations(ca.Conv2d(1, 3, stride=3).place((1, 9, 9)))
    ax = plotting.constraint_graph(system, axes())
    assert len(ca.components(system)) == 9
    assert len({(line.get_color(), str(line._dash_pattern)) for line in ax.lines}) == 9


# Graphs


def test_the_graph_has_all_nodes_edges_and_names() -> None:
    system = ca.gradient_equations(PAIRS)
    ax = plotting.constraint_graph(system, axes())
    assert len(ax.lines) == system.pattern.nnz
    texts = [text.get_text() for text in ax.texts]
    assert texts[:34] == [*system.rows, *system.unknowns]
    parts = ca.components(system)
    for node, number in enumerate(map(int, texts[34:])):  # every node has the number of its component
        assert node in (parts[number].rows if node < 18 else parts[number].columns + 18)
    assert len({(line.get_color(), str(line.get_linestyle())) for line in ax.lines}) == 4
    assert legend(ax) == ["18 gradient equations", "16 unknowns"]
    assert ax.get_title() == f"Constraint graph: {len(ca.components(system))} connected components"
    colours = np.concatenate([points.get_facecolors() for points in ax.collections])
    assert len(np.unique(colours, axis=0)) == 4


def test_a_graph_too_large_to_see_is_refused() -> None:
    layer = ca.Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32))
    with pytest.raises(ca.ParameterError, match="shows nothing; choose a layer"):
        plotting.constraint_graph(ca.gradient_equations(layer))


def test_below_the_parts_of_the_decomposition_stands_nothing() -> None:
    system = ca.gradient_equations(PAIRS)
    ax = system.plot(axes())
    found = ca.dulmage_mendelsohn(system)
    points = ax.collections[0].get_offsets()
    assert len(points) == system.pattern.nnz
    parts = [found.underconstrained, found.square, found.overconstrained]
    tops, lefts = (np.cumsum([0, *(len(part[axis]) for part in parts)]) for axis in (0, 1))
    for part in range(3):
        inside = points[(points[:, 1] >= tops[part]) & (points[:, 1] < tops[part + 1])]
        assert (inside[:, 0] >= lefts[part]).all()
    assert legend(ax) == ["underconstrained: 2 × 4", "square: 8 × 8", "overconstrained: 8 × 4"]
    blocks = [patch for patch in ax.patches if not patch.get_label()]
    assert len(blocks) == len(found.blocks)
    for block in blocks:  # nothing left of a block in its rows, within the square part
        top, left = block.get_y() + 0.5, block.get_x() + 0.5
        rows = points[(points[:, 1] >= top) & (points[:, 1] < top + block.get_height())]
        assert (rows[:, 0] >= left).all()


# Spectra


def test_singular_values_with_cut_and_floor() -> None:
    ax = plotting.singular_values([1e-9, 3.0, 0.5, 0.0], cut=1e-3, noise_floor=1e-6, ax=axes())
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [3, 0.5, 1e-9, 3e-18])
    assert "cut 1.0e-03: rank 2" in legend(ax)
    assert "noise floor 1.0e-06: 2 above it" in legend(ax)
    assert ax.get_yscale() == "log"


def test_singular_values_of_a_system_have_rows_of_unit_norm() -> None:
    weight = np.random.default_rng(1).standard_normal(PAIRS.weight_shape)
    system = ca.weight_equations(PAIRS, weight=weight)
    dense = system.matrix.toarray()
    expected = np.linalg.svd(dense / np.linalg.norm(dense, axis=1, keepdims=True), compute_uv=False)
    ax = plotting.singular_values(system, ax=axes())
    np.testing.assert_allclose(ax.lines[0].get_ydata()[: len(expected)], expected)
    for nothing in (ca.weight_equations(PAIRS), []):
        with pytest.raises(ca.ParameterError, match="singular values"):
            plotting.singular_values(nothing)


# Results


def test_knowledge_flows_from_the_head_to_the_input(solved) -> None:
    network, result, _ = solved
    for source in (ca.feasibility(network), result):
        ax = plotting.knowledge_flow(source, axes())
        labels = [label.get_text().split("\n")[0] for label in ax.get_xticklabels()]
        assert labels == [network.bilinear[1].name, network.bilinear[0].name, "input"]
        assert heights(ax.containers[0]) == [100, 100, 100]
    partial = ca.feasibility(ca.zoo.network("cnn6-d"))
    found = heights(plotting.knowledge_flow(partial, axes()).containers[0])
    np.testing.assert_allclose(found[:-1], [100 * row.determined / row.unknowns for row in partial.layers][::-1])


def test_error_and_error_bar_share_a_scale(solved) -> None:
    _, result, image = solved
    drawn = result.plot(image, axes=list(Figure().subplots(1, 4)))
    assert [ax.get_title() for ax in drawn] == [
        "Original",
        "Reconstruction",
        "|error|",
        "error bar (one standard deviation)",
    ]
    error, bar = (ax.images[0] for ax in drawn[2:])
    assert error.norm.vmin == bar.norm.vmin
    assert error.norm.vmax == bar.norm.vmax
    np.testing.assert_allclose(bar.get_array(), np.maximum(result.error_bar.max(axis=0), bar.norm.vmin))
    assert len(result.plot(axes=list(Figure().subplots(1, 2)))) == 2


def test_what_is_not_determined_is_hatched_and_a_truth_of_another_shape_refused(solved) -> None:
    _, result, image = solved
    known = np.ones(image.shape, dtype=bool)
    known[0, 2, 3] = False
    partly = replace(result, determined=known, error_bar=np.where(known, result.error_bar, np.inf))
    drawn = partly.plot(image, axes=list(Figure().subplots(1, 4)))
    assert [len(ax.images) for ax in drawn] == [1, 2, 2, 2]
    with pytest.raises(ca.ShapeError, match="shape of the result"):
        result.plot(image[:1])


def test_a_type_without_a_drawing_is_refused_and_a_subclass_has_that_of_its_base() -> None:
    class Ladder(ca.RankLadder):
        pass

    assert draw(Ladder(4, 3, 3, 3, 2, error=0.0), axes()).get_title() == "Rank ladder of 4 equations"
    with pytest.raises(TypeError, match="no drawing is registered for int"):
        draw(3)


def test_what_a_user_named_is_text_in_a_notebook() -> None:
    named = ca.Network((1, 4, 4), [ca.Conv2d(2, 3), ca.Flatten(), ca.Linear(3)], names=["<b>1</b>", "&", "last"])
    for shown in (named, ca.feasibility(named), ca.minimum_filters(named), ca.polyphase_law(named[0])):
        assert "<b>" in repr(shown)
        assert "&lt;b&gt;1&lt;/b&gt;" in shown._repr_html_()
        assert "<b>" not in shown._repr_html_()
