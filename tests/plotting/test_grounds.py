"""Drawings and tables of what rests on more than equations: every ground seen, in colour, in grey and in words."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import constraint_algebra as ca
from constraint_algebra import plotting
from constraint_algebra.ground import Ground
from constraint_algebra.plotting import look
from constraint_algebra.recursion.result import OPEN
from tests.plotting.test_drawings import axes, heights, legend, lightness


@pytest.fixture
def grounded(solved):
    """The same result, as if the first two rows rested on zeros, one value on bits, and one were open."""
    _, result, image = solved
    known = np.ones(image.shape, dtype=bool)
    known[2, 7, 7] = False
    ground = np.zeros(image.shape, dtype=np.uint8)
    ground[:, :2], ground[1, 4, 5], ground[2, 7, 7] = Ground.ZEROS, Ground.BITS, OPEN
    layers = (replace(result.layers[0], determined=190, grounds=(("equations", 140), ("zeros", 50))), result.layers[1])
    return replace(result, determined=known, everywhere=known, ground=ground, layers=layers)


def test_a_pixel_has_the_colour_of_its_weakest_ground_and_words_beside_it(grounded) -> None:
    ax = plotting.ground_map(grounded.ground, ax=axes())
    expected = np.zeros((8, 8))
    expected[:2], expected[4, 5], expected[7, 7] = Ground.ZEROS, Ground.BITS, len(Ground)
    np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert legend(ax) == ["equations (46)", "zeros (16)", "bits (1)", "not determined (1)"]
    assert [patch.get_hatch() for patch in ax.get_legend().get_patches()] == ["", "..", "", "xx"]
    line = plotting.ground_map(grounded.ground[:, 0], ax=axes())
    assert legend(line) == ["zeros (8)"]
    with pytest.raises(ca.ShapeError, match="a map of grounds needs"):
        plotting.ground_map(grounded.ground[0, 0], ax=axes())


@pytest.mark.parametrize(
    ("grounds", "error", "words"),
    [
        (np.ones((1, 4, 4), dtype=bool), ca.ParameterError, "must hold numbers of Ground, 0 to 6, and 255 .* got bool"),
        (np.zeros((1, 4, 4)), ca.ParameterError, "got float64"),
        (np.full((1, 4, 4), 7), ca.ParameterError, "got 7"),
        (np.full((1, 4, 4), -1), ca.ParameterError, "got -1"),
        (np.zeros((1, 0, 4), dtype=np.uint8), ca.ShapeError, "needs values, got none"),
        (np.zeros((0, 4, 4), dtype=np.uint8), ca.ShapeError, "needs values, got none"),
    ],
)
def test_what_is_no_map_of_grounds_is_refused(grounds, error, words) -> None:
    with pytest.raises(error, match=words):
        plotting.ground_map(grounds, ax=axes())


def test_a_map_of_grounds_may_be_a_list() -> None:
    assert plotting.maps.OPEN == OPEN
    assert legend(plotting.ground_map([[[0, 2, OPEN]]], ax=axes())) == [
        "equations (1)",
        "zeros (1)",
        "not determined (1)",
    ]


def test_grounds_get_lighter_and_those_that_are_near_in_grey_have_a_hatch() -> None:
    found = [lightness(colour) for colour, _ in look.GROUND_LOOKS[:-1]]
    assert found == sorted(found)
    hatches = [hatch for _, hatch in look.GROUND_LOOKS]
    assert all(one != other for one, other in itertools.pairwise(hatches))


def test_a_result_shows_its_grounds_only_where_there_is_more_than_equations(solved, grounded) -> None:
    _, result, image = solved
    for truth, before in ((image, 4), (None, 2)):
        assert len(result.plot(truth)) == before
        drawn = grounded.plot(truth)
        assert len(drawn) == before + 1
        assert drawn[-1].get_title() == "On what each pixel rests"
        plt.close("all")
    given = list(Figure().subplots(1, 5))
    assert not result.plot(image, axes=given)[4].images
    assert len(grounded.plot(image, axes=list(Figure().subplots(1, 4)))) == 4


def test_the_flow_of_knowledge_is_divided_by_grounds(solved, grounded) -> None:
    ax = plotting.knowledge_flow(grounded, axes())
    whole, *parts = ax.containers
    assert legend(ax) == ["equations", "zeros", "bits"]
    np.testing.assert_allclose(np.sum([heights(part) for part in parts], axis=0), heights(whole))
    np.testing.assert_allclose(heights(parts[1]), [0, 100 * 50 / 192, 100 * 48 / 192])
    np.testing.assert_allclose([bar.get_y() for bar in parts[1]], heights(parts[0]))
    np.testing.assert_allclose([bar.get_y() for bar in parts[0]], 0)
    assert plotting.knowledge_flow(solved[1], axes()).get_legend() is None


def test_tables_of_a_result_say_grounds_in_words(solved, grounded) -> None:
    for table in (repr(grounded), grounded._repr_html_()):
        assert "140 equations, 50 zeros" in table
        assert "142 by equations, 48 by zeros, 1 by bits" in table
    assert "grounds" not in repr(solved[1]) + solved[1]._repr_html_()
    assert grounded.to_dict()["grounds"] == {"equations": 142, "zeros": 48, "bits": 1}
    assert grounded.to_dict()["layers"][0]["grounds"] == {"equations": 140, "zeros": 50}
    assert solved[1].to_dict()["grounds"] == {"equations": 192}
