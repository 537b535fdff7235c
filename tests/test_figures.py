"""The results that the figures are drawn from: twins judged again by real gradients, rows computed again."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import constraint_algebra as ca
from analysis import open_values, twin_gallery
from figures import open_values as open_figure
from figures import twin_gallery as gallery_figure

mpl.use("Agg")


def test_every_twin_in_the_gallery_has_the_gradients_of_its_photograph() -> None:
    data, model = ca.load(twin_gallery.RESULT), ca.to_torch(twin_gallery.network(), seed=0, init="default")
    assert len(data["twin"]) == len(twin_gallery.PAIRS)
    for (one, other), original, target, twin in zip(
        twin_gallery.PAIRS, data["original"], data["target"], data["twin"], strict=True
    ):
        sample = ca.samples.load(f"cifar10:{one}")
        np.testing.assert_array_equal(original, sample.image)
        np.testing.assert_array_equal(target, ca.samples.load(f"cifar10:{other}").image)
        check = ca.verify_twin(model, original, twin, sample.label)
        assert check.equal
        assert check.change > 0.5
        assert np.linalg.norm(twin - target) < np.linalg.norm(original - target)
        assert 0 <= twin.min() <= twin.max() <= 1


def test_a_row_of_the_study_comes_out_again() -> None:
    kept = pd.read_csv(open_values.RESULT)
    assert len(kept) == len(open_values.ACTIVATIONS) * len(open_values.FILTERS) * len(open_values.IMAGES)
    assert (kept.outer_width - kept.width).max() < 1e-6
    for activation, filters in (("ReLU", 7), ("LeakyReLU(0.2)", 6)):
        again = open_values.row(activation, filters, 3)
        before = kept[(kept.activation == activation) & (kept.filters == filters) & (kept.image == "cifar10:3")].iloc[0]
        assert again["nullity"] == before.nullity
        assert again["fixed"] == pytest.approx(before.fixed)
        assert again["width"] == pytest.approx(before.width, abs=1e-6)


@pytest.mark.parametrize("figure", [gallery_figure, open_figure], ids=["twin_gallery", "open_values"])
def test_the_same_results_draw_the_same_files(figure, tmp_path) -> None:
    for name in ("a", "b"):
        gallery_figure.save(figure.draw(), tmp_path / name)
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
