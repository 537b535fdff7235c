"""Figures: drawn from the committed results, the same bytes each time, and what they show is what the rows say."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import typer
from matplotlib.figure import Figure
from typer.testing import CliRunner

import constraint_algebra as ca
from analysis.studies import COMMITTED
from figures import __main__ as command_line
from figures import rank_vs_filters
from figures.command import NAMES, OUT, draw_all, drawn
from figures.save import save

mpl.use("Agg")
QUICK = ("counting_error", "noise", "reconstruction")


def words(figure: Figure) -> str:
    """All texts of a figure."""
    return "\n".join(t.get_text() for t in figure.findobj(mpl.text.Text))


def same_twice(name: str, folder) -> None:
    for part in ("a", "b"):
        draw_all((name,), COMMITTED, folder / part)
    for suffix in (".png", ".pdf"):
        assert (folder / "a" / f"{name}{suffix}").read_bytes() == (folder / "b" / f"{name}{suffix}").read_bytes()


@pytest.mark.parametrize("name", QUICK)
def test_the_same_results_draw_the_same_files(name, tmp_path) -> None:
    same_twice(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_the_same_results_draw_the_same_files_for_the_others_too(name, tmp_path) -> None:
    same_twice(name, tmp_path)


def test_the_users_own_settings_change_nothing(tmp_path) -> None:
    draw_all(("noise",), COMMITTED, tmp_path / "a")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.dpi": 30, "axes.facecolor": "red"}):
        draw_all(("noise",), COMMITTED, tmp_path / "b")
        assert mpl.rcParams["font.size"] == 20
    assert (tmp_path / "a" / "noise.png").read_bytes() == (tmp_path / "b" / "noise.png").read_bytes()


def test_pictures_hold_no_date_and_no_version(tmp_path) -> None:
    figure = Figure(figsize=(1, 1))
    save(figure, tmp_path / "deep" / "x")
    assert b"Software" not in (tmp_path / "deep" / "x.png").read_bytes()
    assert b"CreationDate" not in (tmp_path / "deep" / "x.pdf").read_bytes()


def test_every_committed_picture_has_its_module_and_the_other_way_round() -> None:
    for suffix in (".png", ".pdf"):
        assert {path.stem for path in OUT.glob(f"*{suffix}")} == set(NAMES)


def test_ranks_are_those_of_the_rows() -> None:
    figure = drawn("rank_vs_filters", COMMITTED)
    data = pd.read_csv(COMMITTED / "rank_vs_filters.csv")
    at = (data.equations == "gradient") & (data.kernel == 5) & (data.stride == 2) & (data["size"] == 16)
    rows = data[
        at & (data.channels == rank_vs_filters.CHANNELS) & (data.padding == "half") & (data.filters <= 27)
    ].sort_values("filters")
    ax = figure.axes[1]
    drawn_lines = [tuple(np.asarray(line.get_ydata(), dtype=float)) for line in ax.lines]
    for column in ("counted", "structural_rank", "rank"):
        assert tuple(rows[column].astype(float)) in drawn_lines
    assert "kernel 5, stride 2" in ax.get_title()


def test_fewest_filters_are_written_into_their_places() -> None:
    figure = drawn("minimum_filters", COMMITTED)
    texts = [[t.get_text() for t in ax.texts] for ax in figure.axes[:3]]
    assert "41" in texts[0]
    assert {"64", "256 / 4"} <= set(texts[1])  # kernel 5, stride 2
    assert "10" in texts[2]
    assert "–" in texts[1]


def test_noise_shows_measured_beside_promised() -> None:
    figure = drawn("noise", COMMITTED)
    data = pd.read_csv(COMMITTED / "noise.csv")
    d = data[(data.activation == "ReLU") & (data.dtype == "float64") & (data.determined_share == 1)]
    shown = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(shown["float64: measured, every value determined"].get_ydata(), d.determined_psnr_db)
    promised = shown["float64: promised by the error bars"].get_ydata()
    assert sorted(promised) == pytest.approx(sorted(d.groupby("noise").promised_psnr_db.mean()))


def test_every_defence_has_a_bar_and_a_picture() -> None:
    figure = drawn("defences", COMMITTED)
    data = pd.read_csv(COMMITTED / "defences.csv")
    count = len(data.groupby(["kind", "strength"], dropna=False))
    assert len(figure.axes) == 3 * count
    assert sum(bool(ax.images) for ax in figure.axes) == count
    assert "quantisation, 8 bits" in words(figure)


def test_axes_have_words_and_units() -> None:
    for name in ("relu_activity", "depth", "batch_size", "training", "open_values"):
        figure = drawn(name, COMMITTED)
        assert figure.get_suptitle()
        for ax in figure.axes:
            left = ax.get_subplotspec().is_first_col() or not ax.get_shared_y_axes().get_siblings(ax)[1:]
            assert ax.get_ylabel() or not left, (name, ax.get_title())
    assert "PSNR, dB" in words(figure) or "width" in words(figure)


def test_a_figure_without_its_study_says_so(tmp_path) -> None:
    with pytest.raises(ca.StorageError, match=r"figure 'noise' needs .*noise\.csv, which is not there; run the study"):
        drawn("noise", tmp_path)
    with pytest.raises(ca.UnknownNameError, match="no figure is called 'x'"):
        drawn("x", COMMITTED)


def test_the_command_line_draws_one(tmp_path) -> None:
    app = typer.Typer()
    app.command()(command_line.main)
    found = CliRunner().invoke(app, ["counting_error", "--out-dir", str(tmp_path)], catch_exceptions=False)
    assert found.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"counting_error.png", "counting_error.pdf"}
    assert CliRunner().invoke(app, ["x"]).exit_code == 2
