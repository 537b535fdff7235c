"""Pictures: what is drawn, not how it looks."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from constraint_algebra import ShapeError, plotting


def axes(count: int = 1) -> list:
    return list(np.atleast_1d(Figure().subplots(1, count)))


def test_pixels_keep_size_and_colours_and_mark_what_is_no_number() -> None:
    image = np.array([[[0.0, 1.0, np.nan]], [[0.2, -3.0, 0.5]], [[1.0, 2.0, 0.5]]])
    assert plotting.pixels(image).tolist() == [[[0, 51, 255], [255, 0, 255], [128, 128, 128]]]
    assert plotting.pixels(np.zeros((1, 4, 7))).shape == (4, 7)


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4), (3, 4, 4, 4), (12,)])
def test_what_is_no_picture_is_refused(shape) -> None:
    assert not plotting.is_picture(shape)
    with pytest.raises(ShapeError, match=r"a picture has shape \(1 or 3 channels, height, width\)"):
        plotting.pixels(np.zeros(shape))


def test_a_picture_hatches_what_is_not_determined() -> None:
    determined = np.ones((3, 4, 5), dtype=bool)
    (plain,), (hatched,) = axes(), axes()
    plotting.picture(np.zeros((3, 4, 5)), determined=determined, title="A", ax=plain)
    determined[1, 2, 3] = False
    plotting.picture(np.zeros((3, 4, 5)), determined=determined, title="A", ax=hatched)
    assert plain.get_title() == "A"
    assert "not determined" in hatched.get_title()
    assert (len(plain.images), len(hatched.images)) == (1, 2)
    assert hatched.images[1].get_extent() == hatched.images[0].get_extent()


def test_the_hatching_covers_exactly_the_pixels_of_the_mask_and_shows_on_black_and_white() -> None:
    mask = np.array([[True, False, False], [False, False, True]])
    veil = plotting.hatching(mask)
    side = veil.shape[0] // 2
    tiles = veil.reshape(2, side, 3, side, 4).swapaxes(1, 2)
    assert np.array_equal((tiles[..., 3] > 0).all(axis=(2, 3)), mask)
    assert np.array_equal((tiles[..., 3] > 0).any(axis=(2, 3)), mask)
    for ground in (0.0, 1.0):
        shown = ground * (1 - tiles[mask][..., 3]) + tiles[mask][..., 0] * tiles[mask][..., 3]
        assert np.ptp(shown) >= 0.4


def test_the_error_is_the_largest_over_the_channels_on_a_scale_of_whole_decades() -> None:
    truth = np.zeros((3, 2, 2))
    image = truth.copy()
    image[0, 0, 0], image[2, 0, 0], image[1, 1, 1] = 3e-9, -2e-7, 4e-12
    (ax,) = axes()
    plotting.absolute_error(image, truth, ax=ax)
    (drawn,) = ax.images
    assert drawn.get_array().tolist() == [[2e-7, 1e-12], [1e-12, 4e-12]]
    assert (drawn.norm.vmin, drawn.norm.vmax) == (1e-12, 1e-6)
    assert "|error|" in ax.figure.axes[-1].get_ylabel()


@pytest.mark.parametrize("error", [0.0, 1e-30, np.nan], ids=["exact", "below rounding", "not a number"])
def test_errors_without_a_scale_still_draw(error, tmp_path) -> None:
    truth = np.full((1, 4, 4), 0.5)
    figure = Figure(layout="constrained")
    plotting.comparison(truth, truth + error, axes=list(figure.subplots(1, 3)))
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_a_comparison_returns_its_three_axes_titled() -> None:
    given = axes(3)
    drawn = plotting.comparison(np.zeros((1, 4, 4)), np.full((1, 4, 4), 0.1), axes=given)
    assert drawn is given
    assert [ax.get_title() for ax in drawn] == ["Original", "Reconstruction", "Absolute error"]


def test_a_certificate_shows_what_is_open_and_what_is_undecided() -> None:
    image = np.random.default_rng(0).random((3, 4, 5))
    fixed, ambiguous = np.zeros((3, 4, 5), dtype=bool), np.zeros((3, 4, 5), dtype=bool)
    fixed[:, 0], ambiguous[:2, 1:] = True, True  # the last channel of three rows is undecided
    five, alone = axes(5), axes(5)
    plotting.certificate(image, fixed=fixed, ambiguous=ambiguous, width=0.3 * image, twin=1 - image, axes=five)
    assert five[1].get_title() == "Fixed: 15 of 60 values\n(hatched: undecided)"
    np.testing.assert_array_equal(five[1].images[0].get_array(), fixed.mean(axis=0))
    np.testing.assert_allclose(five[2].images[0].get_array(), 0.3 * image.max(axis=0))
    np.testing.assert_allclose(five[4].images[0].get_array(), np.abs(1 - 2 * image).max(axis=0))
    # Fixed in the region only: as bright as fixed, with dots, and only there.
    dotted, in_region = axes(5), ~fixed & ~ambiguous
    plotting.certificate(
        image, fixed=fixed, in_region=in_region, ambiguous=ambiguous, width=image, twin=None, axes=dotted
    )
    assert dotted[1].get_title() == "Fixed: 15 of 60 values\n(dotted: 15 in their region)"
    grey, dots = (drawn.get_array() for drawn in dotted[1].images)
    np.testing.assert_allclose(grey, (fixed | in_region).mean(axis=0))
    rows = np.array_split(dots[..., 3], 4)
    assert not rows[0].any()
    assert all(0.2 < (part > 0).mean() < 0.7 for part in rows[1:])
    plotting.certificate(image, fixed=fixed, ambiguous=~fixed, width=image, twin=None, axes=alone)
    assert [text.get_text() for text in alone[3].texts] == ["no twin"]
    assert alone[1].get_title() == "Fixed: 15 of 60 values"
