"""The paper's figures: what is drawn is what the networks, rows and pictures say."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from constraint_algebra import samples, zoo
from paper_repro import constraints, plan, study
from paper_repro.figures import architectures, constraint_kinds, reconstructions
from tests.paper_repro.test_tables import runs_of

mpl.use("Agg")
OURS = plan.METHODS[plan.OURS]
PLACE = plan.Place("lenet", "relu", "uniform", "float64", plan.DLG, "DLG")


def words(figure: Figure) -> list[str]:
    """All texts in the Axes of a figure."""
    return [t.get_text() for ax in figure.axes for t in ax.texts]


def test_architectures_are_those_of_the_networks() -> None:
    shapes = [(shape, text) for shape, text in architectures.tensors(zoo.network("cnn6"))]
    assert shapes[0] == ((3, 32, 32), "")
    assert shapes[2] == ((36, 9, 9), "3/2/1\nL")
    assert shapes[-1] == ((1,), "linear\n3,200→1")
    figure = architectures.draw()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[1] == "LeNet-O (R-CONV): 26,459 parameters"
    assert len(figure.axes[2].patches) == 8
    assert {"64\n5×5", "128\n5×5", "5/1/2\nR", "linear\n192→10"} <= set(words(figure))


def cell(rows: list[dict[str, object]], pictures) -> reconstructions.Cell:
    return reconstructions.cell(pd.DataFrame(rows), PLACE, "mnist", 0, pictures)


def keep(rows: list[dict[str, object]], pictures, value: float) -> None:
    """Pictures of rows, of one grey value."""
    for row in rows:
        run = plan.Run(*(row[name] for name in plan.Run._fields))
        study.save_picture(np.full((1, 32, 32), value + 0.1 * row["seed"]), study.picture_path(pictures, run))


def test_a_baseline_is_shown_at_its_best_seed_and_the_library_at_its_first(tmp_path) -> None:
    rows = runs_of(plan.DLG, 1.0, 1e-4, None)
    keep(rows, tmp_path, 0.2)
    shown = cell(rows, tmp_path)
    assert shown.words == "40.0 dB"
    assert shown.image.mean() == pytest.approx(0.3, abs=0.01)
    ours = PLACE._replace(method=plan.OURS)
    rows = runs_of(plan.OURS, 1e-4, 1e-8)
    keep(rows, tmp_path, 0.6)
    assert reconstructions.cell(pd.DataFrame(rows), ours, "mnist", 0, tmp_path).words == "40.0 dB"


def test_failures_are_shown_with_their_reason(tmp_path) -> None:
    rows = runs_of(plan.DLG, 1.0, 10.0, 2.0)
    keep(rows, tmp_path, 0.5)
    assert cell(rows, tmp_path).words == "-0.0 dB, failed\n(3 of 3 seeds)"
    stuck = runs_of(plan.DLG, 1.0, 10.0, 2.0, reason="iteration 37: D = 0.5, at rest")
    assert cell(stuck, tmp_path).words.splitlines()[2:] == ["iteration 37: D =", "0.5, at rest"]
    refused = runs_of(
        plan.DLG, None, outcome=study.IMPOSSIBLE, reason="not made: no inverse of ReLU; use another", seed=7
    )
    assert cell(refused, tmp_path) == reconstructions.Cell(None, "impossible: no inverse of ReLU")
    late = runs_of(plan.DLG, None, outcome="OUT_OF_TIME", reason="time limit of 3 s reached", seed=7)
    assert cell(late, tmp_path).words == "failed: time limit of 3 s reached"
    assert reconstructions.cell(pd.DataFrame(late), PLACE, "mnist", 1, tmp_path).words == "not run"


def test_rows_and_columns_are_those_of_the_caption(tmp_path) -> None:
    rows = pd.DataFrame(runs_of(plan.DLG, 1e-4))
    figure = reconstructions.figure_2(rows, tmp_path)
    grid = np.array(figure.axes).reshape(5, 2)
    labels = [ax.get_ylabel().split("\n")[:2] for ax in grid[:, 0]]
    assert labels == [
        ["original"],
        ["constraint-algebra", "LeNet-O"],
        ["DLG", "LeNet, sigmoid"],
        ["constraint-algebra", "LeNet, all ReLU"],
        ["DLG", "LeNet, ReLU"],
    ]
    assert [ax.get_xlabel() for ax in grid[0]] == ["cifar100:0", "mnist:0"]
    np.testing.assert_allclose(grid[0, 1].images[0].get_array()[2:30, 2:30] / 255, samples.load("mnist:0").image[0])
    third = reconstructions.figure_3(rows, tmp_path)
    assert [ax.get_ylabel().split("\n")[0] for ax in third.axes] == ["original", OURS, "R-GAP", OURS, "R-GAP"]


def test_bars_are_shares_of_determined_unknowns() -> None:
    table = pd.DataFrame(constraints.informed("lenet-dlg"))
    ax = constraint_kinds.shares(table, title="LeNet", ax=Figure().subplots())
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert heights == [[100, 0, 100], [0, 75, 100], [100, 100, 100]]
    ranks = [list(line.get_ydata()) for line in ax.lines]
    assert ranks[1] == pytest.approx([100 * 300 / 1024, 100 * 240 / 256, 100])
    assert [t.get_text() for t in ax.texts] == ["0", "0"]
    figure = constraint_kinds.draw(table)
    assert figure.axes[0].get_title() == "LeNet (DLG)"
