"""Figures: drawn from the committed results, the same bytes each time, and what they show is what the rows say."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import typer
from matplotlib.figure import Figure
from scipy.stats import beta
from typer.testing import CliRunner

import constraint_algebra as ca
from analysis import defences, photograph, twin_gallery
from analysis.runner import arrays_path
from analysis.studies import COMMITTED
from constraint_algebra import plotting
from constraint_algebra.commands.terminal import Command
from figures import command as command_line
from figures import gallery, rank_vs_filters
from figures.command import NAMES, OUT, draw_all, drawn
from figures.save import save

mpl.use("Agg")
QUICK = ("noise",)


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


def test_the_range_of_a_digit_is_that_of_the_rows_and_needs_fewer_filters() -> None:
    figure = drawn("rank_vs_filters", COMMITTED)
    data = pd.read_csv(COMMITTED / "range_vs_filters.csv")
    assert (data["ranged"] >= data["rank"]).all()
    for ax, (kernel, stride) in zip(figure.axes[6:], rank_vs_filters.LAYERS, strict=True):
        rows = data[(data.kernel == kernel) & (data.stride == stride) & (data.image == rank_vs_filters.DIGIT)]
        lines = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
        assert lines["rank with the range"] == rows["ranged"].tolist()
        assert lines["exact rank"] == rows["rank"].tolist()
        enough = rows.loc[rows["ranged"] == 784, "filters"].min()
        assert enough < rows.loc[rows["rank"] == 784, "filters"].min()
        assert any(text.get_text() == f"with the range:\n{enough} filters" for text in ax.texts)
        assert f"kernel {kernel}, stride {stride}: a digit" in ax.get_title()
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == ["counted", "structural rank", "exact rank", "rank with the range", "unknowns"]


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
    guesses = {words: line for words, line in shown.items() if words.endswith("guess, not determined")}
    assert len({(line.get_marker(), line.get_markersize()) for line in guesses.values()}) == len(guesses) == 3
    promised = shown["float64: promised by the error bars"].get_ydata()
    assert sorted(promised) == pytest.approx(sorted(d.groupby("noise").promised_psnr_db.mean()))


def rows_of(name: str) -> pd.DataFrame:
    """The committed rows of a study, from which each test takes its own means."""
    return pd.read_csv(COMMITTED / f"{name}.csv", keep_default_na=False, na_values=[""])


def curves(ax) -> dict[str, np.ndarray]:
    """The lines of an Axes that have a label, as pairs (x, y)."""
    return {
        line.get_label(): np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
        for line in ax.lines
        if not line.get_label().startswith("_")
    }


def band(collection) -> np.ndarray:
    """The least and the largest height of a shaded band at each x, with that x."""
    corners = pd.DataFrame(collection.get_paths()[0].vertices[:-1], columns=["x", "y"])
    return corners.groupby("x").y.agg(["min", "max"]).reset_index().to_numpy()


def over(data: pd.DataFrame, x: str, y: str, *how: str) -> np.ndarray:
    """A column's mean, median, ... over the rows at each x, with that x."""
    return np.array([[at, *(getattr(data[data[x] == at][y], h)() for h in how)] for at in sorted(set(data[x]))])


def test_every_defence_has_its_figures_its_bars_and_its_picture() -> None:
    figure, data = drawn("defences", COMMITTED), pd.read_csv(COMMITTED / "defences.csv").fillna({"strength": ""})
    kinds = list(dict.fromkeys(zip(data.kind, data.strength, strict=True)))
    assert len(figure.axes) == 3 * len(kinds)
    for number, (kind, strength) in enumerate(kinds):
        text, bars, picture = figure.axes[3 * number : 3 * number + 3]
        told = [t.get_text() for t in text.texts[:7]]
        assert told[0] == (f"{kind}, {strength}" if strength else kind)
        of_kind = data[(data.kind == kind) & (data.strength == strength)]
        widths = []
        for half, activation in enumerate(("LeakyReLU(0.2)", "ReLU")):
            rows = of_kind[of_kind.activation == activation]
            shares = [f"{int(100 * rows[c].mean())} %" for c in ("exact_rank_share", "determined_share")]
            assert told[1 + 3 * half : 4 + 3 * half] == [f"{np.median(rows.solved_layers):.0f} of 4", *shares]
            widths.append(np.minimum(rows.psnr_db, 150).mean())
            assert bool(bars.patches[half].get_hatch()) == (rows.determined_share.min() < 1)
        assert [bar.get_width() for bar in bars.patches] == pytest.approx(widths)
        assert bars.patches[0].get_height() > bars.patches[1].get_height()
        kept = ca.load(arrays_path(COMMITTED / "defences.csv", defences.Run(kind, strength, "LeakyReLU(0.2)", 7)))
        np.testing.assert_array_equal(picture.images[0].get_array(), kept["guess"])


def test_errors_of_counting_are_written_into_their_places() -> None:
    figure, data = drawn("counting_error", COMMITTED), rows_of("rank_vs_filters")
    data = data[(data.equations == "gradient") & (data["size"] == 32) & (data.channels == 3) & (data.padding == "half")]
    kernels, strides = sorted(set(data.kernel)), sorted(set(data.stride))
    for ax, colour in zip(figure.axes[:2], ("over", "false"), strict=True):
        wanted = np.zeros((len(strides), len(kernels)))
        for (row, stride), (column, kernel) in itertools.product(enumerate(strides), enumerate(kernels)):
            d = data[(data.kernel == kernel) & (data.stride == stride)]
            error = 100 * (d.counted - d["rank"]) / d.unknowns
            false = ((d.counted == d.unknowns) & (d.determined < d.unknowns)).sum()
            wanted[row, column] = error.max() if colour == "over" else false
        np.testing.assert_allclose(ax.images[0].get_array(), wanted)
        assert [t.get_text() for t in ax.texts] == [f"{value:.0f}" for value in wanted.ravel()]


def test_masks_of_networks_stand_beside_random_ones() -> None:
    figure, data = drawn("relu_activity", COMMITTED), rows_of("relu_activity")
    panels = itertools.product(sorted(set(data.epochs)), (1, 2))
    for ax, (epochs, layer) in zip(figure.axes, panels, strict=True):
        d, lines = data[(data.epochs == epochs) & (data.layer == layer)], curves(ax)
        share = 100 * d.active / d.outputs
        np.testing.assert_allclose(lines["true mask"], np.column_stack([share, 100 * d["rank"] / d.unknowns]))
        np.testing.assert_allclose(
            lines["as many in random places"], np.column_stack([share, 100 * d.random_rank / d.unknowns])
        )
        (as_is,) = (line.get_xdata()[0] for line in ax.lines if line.get_label().startswith("_"))
        assert as_is == pytest.approx(share[d["shift"] == 0].mean())


def test_ranks_and_conditions_of_the_deepest_networks_are_drawn() -> None:
    figure, data = drawn("depth", COMMITTED), rows_of("depth")
    data = data[data.depth == data.depth.max()]
    families = list(dict.fromkeys(data.family))
    for number, ax in enumerate(figure.axes):
        part, family = divmod(number, len(families))
        d = data[(data.family == families[family]) & (data.active == (1.0, 0.5, 1.0)[part])].sort_values("layer")
        lines = curves(ax)
        assert set(lines) == {"weight equations", "gradient equations", "both"}
        for kind, words in (("weight", "weight equations"), ("gradient", "gradient equations"), ("both", "both")):
            y = d[f"{kind}_condition"] if part == 2 else 100 * d[f"{kind}_rank"] / d.unknowns
            np.testing.assert_allclose(lines[words], np.column_stack([d.layer, y]))
    assert [ax.get_title() for ax in figure.axes[: len(families)]] == families


def test_batches_show_the_median_rank_of_the_head_and_its_range() -> None:
    figure, data = drawn("batch_size", COMMITTED), rows_of("batch_size")
    for ax, dtype in zip(figure.axes[:2], ("float32", "bfloat16"), strict=True):
        classes, lines = sorted(set(data.classes)), curves(ax)
        assert set(lines) == {f"{count} classes" for count in classes}
        for count, shaded in zip(classes, ax.collections, strict=True):
            d = data[(data.dtype == dtype) & (data.classes == count)]
            np.testing.assert_array_equal(lines[f"{count} classes"], over(d, "batch", "head_rank", "median"))
            np.testing.assert_array_equal(band(shaded), over(d, "batch", "head_rank", "min", "max"))
    d, lines = data[data.classes == 10], curves(figure.axes[2])
    for column, words in (
        ("unknowns", "unknowns: values of all inputs"),
        ("gradient_rows", "numbers in the whole gradient"),
    ):
        np.testing.assert_array_equal(lines[words], over(d, "batch", column, "max"))


def test_training_shows_medians_and_ranges_over_the_digits() -> None:
    figure, data = drawn("training", COMMITTED), rows_of("training")
    clean, noisy = data[data.noise == 0], data[data.noise == data.noise.max()]
    panels = (
        *((clean, "accuracy"), (clean, "gradient_norm"), (clean, "rank_share")),
        *((clean, "psnr_db"), (noisy, "psnr_db"), (clean, "first_layer_condition")),
    )
    for ax, (rows, column) in zip(figure.axes, panels, strict=True):
        for (activation, line), shaded in zip(sorted(curves(ax).items()), ax.collections, strict=True):
            d = rows[rows.activation == activation]
            np.testing.assert_allclose(line, over(d, "epochs", column, "median"))
            np.testing.assert_allclose(band(shaded), over(d, "epochs", column, "min", "max"))
        assert set(curves(ax)) == {"ReLU", "LeakyReLU(0.2)"}


def test_open_values_are_means_and_ranges_over_the_photographs() -> None:
    figure, data = drawn("open_values", COMMITTED), rows_of("open_values")
    activations = list(dict.fromkeys(data.activation))
    for ax, column in zip(figure.axes, ("fixed", "width"), strict=True):
        lines = curves(ax)
        assert list(lines) == activations
        for activation, shaded in zip(activations, ax.collections, strict=True):
            d = data[data.activation == activation]
            np.testing.assert_allclose(lines[activation], over(d, "filters", column, "mean"))
            wanted = over(d, "filters", column, "min", "max")
            np.testing.assert_allclose(band(shaded), wanted)


def test_what_lies_beyond_rank_has_its_shares_and_their_confidence() -> None:
    figure, data = drawn("beyond_rank", COMMITTED), rows_of("beyond_rank")
    channels, digits = data[data.kind == "channel"], data[data.kind == "digit"]
    for ax, column in zip(figure.axes[:2], ("by_zeros", "by_range"), strict=True):
        lines = curves(ax)
        assert list(lines) == list(dict.fromkeys(channels.deficit))
        for deficit, shaded in zip(lines, ax.collections, strict=True):
            d = channels[channels.deficit == deficit]
            np.testing.assert_allclose(lines[deficit], 100 * d[["zeros", column]].to_numpy() / [1, d.channels.iloc[0]])
            k, n = d[column].to_numpy(), d.channels.to_numpy()
            low = np.where(k == 0, 0.0, beta.ppf(0.025, k, n - k + 1))  # Clopper and Pearson (1934)
            high = np.where(k == n, 1.0, beta.ppf(0.975, k + 1, n - k))
            np.testing.assert_allclose(band(shaded)[:, 1:], 100 * np.column_stack([low, high]), atol=1e-6)
    layers = itertools.product((3, 5), (1, 2))
    for ax, (kernel, stride) in zip(figure.axes[2:], layers, strict=True):
        d = digits[(digits.kernel == kernel) & (digits.stride == stride)]
        assert ax.get_title() == f"kernel {kernel}, stride {stride}"
        for (label, line), column in zip(curves(ax).items(), ("by_equations", "given_range"), strict=True):
            np.testing.assert_allclose(line, over(d, "filters", column, "mean") * [1, 100], err_msg=label)
    assert "decided wrongly: 0" in figure.get_suptitle()
    assert "determined wrongly: 0" in figure.get_suptitle()


def test_twins_are_those_that_were_kept_and_their_distance_is_written() -> None:
    figure, data = drawn("twin_gallery", COMMITTED), rows_of("twin_gallery")
    apart = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel().startswith("gradients: ")]
    assert apart == [f"gradients: {value:.0e} apart" for value in data.relative]
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    for number, row in enumerate(data.itertuples()):
        run = twin_gallery.Run(row.original, row.target)
        kept = ca.load(arrays_path(COMMITTED / "twin_gallery.csv", run))
        for picture, name in zip(shown[4 * number :], ("original", "target", "twin"), strict=False):
            np.testing.assert_array_equal(picture, plotting.pixels(kept[name]))
        gap = np.abs(kept["twin"] - kept["original"])
        assert np.asarray(shown[4 * number + 3], dtype=float).shape[:2] == gap.shape[1:]


def test_the_reconstruction_is_the_one_that_was_kept() -> None:
    figure = drawn("reconstruction", COMMITTED)
    kept = ca.load(arrays_path(COMMITTED / "photograph.csv", photograph.Run("float64")))
    before, after, error = (ax.images[0].get_array() for ax in figure.axes[:3])
    np.testing.assert_array_equal(before, plotting.pixels(kept["truth"]))
    np.testing.assert_array_equal(after, plotting.pixels(kept["reconstruction"]))
    gap = np.abs(kept["reconstruction"] - kept["truth"]).max(axis=0)
    least = figure.axes[2].images[0].norm.vmin
    np.testing.assert_allclose(error, np.maximum(gap, least))
    assert gap.max() < 1e-12
    row = rows_of("photograph").set_index("dtype").loc["float64"]
    assert row.psnr_db == pytest.approx(-10 * np.log10(np.mean((kept["reconstruction"] - kept["truth"]) ** 2)), abs=1)


@pytest.mark.parametrize(
    ("name", "panel", "of"),
    [
        ("pooling", "Digits of 28×28, kernel 5", lambda rows: rows[(rows.kind == "digit") & (rows.kernel == 5)]),
        ("normalisation", "ReLU, with a bias below", lambda rows: rows[rows.bias & (rows.activation == "ReLU")]),
    ],
)
def test_bars_add_up_to_what_is_determined(name, panel, of) -> None:
    ax = next(ax for ax in drawn(name, COMMITTED).axes if ax.get_title() == panel)
    rows = of(rows_of(name))
    rows = rows[rows.dtype == "float64"] if name == "normalisation" else rows
    keys = ["filters"] if name == "pooling" else ["norm", "buffers"]
    heights = pd.Series({round(bar.get_x(), 3): 0.0 for bar in ax.patches})
    for bar in ax.patches:
        heights[round(bar.get_x(), 3)] += bar.get_height()
    assert sorted(heights) == pytest.approx(sorted(100 * rows.groupby(keys).determined_share.mean()))


WORDS = {
    "relu_activity": ("exact rank,\n% of the unknowns", "active outputs, %"),
    "depth": ("condition number\nall outputs active", "layer, counted from the input"),
    "batch_size": ("rank of the head's weight gradient", "samples in the batch"),
    "training": ("PSNR, dB,\nfloat32 gradients without noise", "epochs"),
    "beyond_rank": ("channels decided, %", "exact zeros among the channel's values, %"),
    "pooling": ("pixels determined, %", "filters of the first convolution"),
    "normalisation": ("pixels determined, %\n(float64)", "normalisation"),
    "open_values": ("share of values that are fixed", "filters of the first layer (5/2/2 on 3×16×16)"),
}


@pytest.mark.parametrize("name", WORDS)
def test_axes_have_words_and_units(name) -> None:
    figure = drawn(name, COMMITTED)
    assert figure.get_suptitle()
    for ax in figure.axes:
        left = ax.get_subplotspec().is_first_col() or not ax.get_shared_y_axes().get_siblings(ax)[1:]
        assert ax.get_ylabel() or not left, ax.get_title()
    y, x = WORDS[name]
    assert y in {ax.get_ylabel() for ax in figure.axes}
    assert x in {ax.get_xlabel() for ax in figure.axes}


def test_a_figure_without_its_study_says_so(tmp_path) -> None:
    with pytest.raises(ca.StorageError, match=r"figure 'noise' needs .*noise\.csv, which is not there; run the study"):
        drawn("noise", tmp_path)
    with pytest.raises(ca.UnknownNameError, match="no figure is called 'x'"):
        drawn("x", COMMITTED)


def test_the_command_line_draws_one_or_the_gallery_or_all(tmp_path, monkeypatch) -> None:
    app = typer.Typer()
    app.command(cls=Command)(command_line.main)
    found = CliRunner().invoke(app, ["counting_error", "--out-dir", str(tmp_path / "one")], catch_exceptions=False)
    assert found.exit_code == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"counting_error.png", "counting_error.pdf"}
    assert CliRunner().invoke(app, ["x"]).exit_code == 2
    monkeypatch.setattr(command_line, "NAMES", ("counting_error",))
    monkeypatch.setattr(gallery, "DRAWINGS", {"rank_ladder": gallery.rank_ladder})
    for name, more in (("gallery", set()), ("all", {"counting_error.png", "counting_error.pdf"})):
        given = [name, "--out-dir", str(tmp_path / name)]
        assert CliRunner().invoke(app, given, catch_exceptions=False).exit_code == 0
        assert {path.name for path in (tmp_path / name).iterdir()} == {"gallery", *more}
        assert [path.name for path in (tmp_path / name / "gallery").iterdir()] == ["rank_ladder.png"]


def test_the_gallery_shows_what_its_docstrings_say() -> None:
    heights = [bar.get_height() for bar in gallery.rank_ladder().axes[0].patches]
    counted, structural, generic, numerical, usable = heights
    assert counted == structural > generic == numerical > usable
    notes = "\n".join(t.get_text() for t in gallery.rank_against_filters().axes[0].texts)
    assert "enough\nby counting:\n8 filters" in notes  # as in lesson 3
    assert "determined:\n16 filters" in notes
