"""Tables of the study: what their cells say is what the rows say."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from paper_repro import tables
from paper_repro.plan import CELL, DLG, OURS, RCONV, RGAP

USUAL = {"network": "lenet", "activation": "relu", "init": "uniform", "dataset": "mnist", "dtype": "float64"}


def runs_of(method: str, *mse: float | None, **changes: object) -> list[dict[str, object]]:
    """Rows of one method, one for each error; `None` for a run without an image."""
    rows = []
    for seed, error in enumerate(mse):
        row = USUAL | {"method": method, "seed": seed, "image": 0, "outcome": "FINISHED", "reason": "", "mse": error}
        row |= {"psnr": None if error is None else -10 * math.log10(error), "ssim": 0.5, "cpu": 2.0, "memory_mb": 300.0}
        row |= {"recognised": error is not None and error < 1e-2, "exact": error is not None and error < 1e-6}
        rows.append(row | {"values": 100, "determined": None} | changes)
    return rows


def test_quality_counts_and_takes_medians() -> None:
    rows = runs_of(RCONV, 1e-9, 1e-5, 1e-1) + runs_of(DLG, None, None, 1e-4, outcome="OUT_OF_TIME")
    rows += runs_of(RGAP, None, outcome="IMPOSSIBLE") + runs_of(OURS, 1e-12, 1e-14, determined=50)
    cells = tables.quality(pd.DataFrame(rows)).set_index("method")
    assert list(cells["runs"]) == [3, 3, 1, 2]
    assert list(cells["recognised"]) == [2, 1, 0, 2]
    assert list(cells["exact"]) == [1, 0, 0, 2]
    assert cells.loc[RCONV, "mse"] == 1e-5
    assert math.isinf(cells.loc[DLG, "mse"])
    assert cells.loc[DLG, "psnr"] == -math.inf  # two of three gave no image, and they count
    assert cells.loc[RCONV, "psnr"] == pytest.approx(50)
    assert list(cells["ended"]) == [3, 0, 0, 2]
    assert (cells.loc[RGAP, "impossible"], cells.loc[DLG, "out of time"]) == (1, 3)
    assert cells.loc[OURS, "determined"] == 0.5


def test_side_by_side_has_a_line_a_cell() -> None:
    rows = runs_of(OURS, 1e-10, cpu=0.123) + runs_of(RCONV, None, outcome="OUT_OF_TIME", cpu=120.0)
    rows += runs_of(RGAP, None, outcome="IMPOSSIBLE") + runs_of(OURS, 1e-5, dtype="float32")
    cells = tables.quality(pd.DataFrame(rows))
    quality = tables.side_by_side(cells, tables.quality_text)
    assert list(quality.columns) == [*CELL, "constraint-algebra", "R-CONV as published", "R-GAP"]
    assert quality.iloc[0, 5:].tolist() == ["100.0 dB, 1 of 1", "out of time, 0 of 1", "impossible"]
    assert quality.iloc[1, 5:].tolist() == ["50.0 dB, 1 of 1", "", ""]
    times = tables.side_by_side(cells, tables.time_text)
    assert times.iloc[0, 5:].tolist() == ["0.12 s", "≥ 120 s", "impossible"]


def test_time_is_that_of_the_runs_that_came_to_an_end() -> None:
    rows = runs_of(RCONV, 1e-5, cpu=2.0) + runs_of(RCONV, None, outcome="FAILED", cpu=0.1)
    rows += runs_of(RCONV, None, outcome="OUT_OF_TIME", cpu=300.0)
    (cell,) = (row for _, row in tables.quality(pd.DataFrame(rows)).iterrows())
    assert tables.time_text(cell) == "2 s"
    assert tables.quality_text(cell) == "no image, 1 of 3"  # two of three have none
    (late,) = (row for _, row in tables.quality(pd.DataFrame(rows[1:])).iterrows())
    assert tables.time_text(late).startswith("≥ ")


@pytest.mark.parametrize(
    ("ours", "theirs", "good", "fast"),
    [
        ({"mse": (1e-9, 1e-9), "cpu": 1.0}, {"mse": (1e-5, 1e-5)}, True, True),
        ({"mse": (1e-9, 1e-9), "cpu": 3.0}, {"mse": (1e-5, 1e-5)}, True, False),
        ({"mse": (1e-5, 1e-5), "cpu": 1.0}, {"mse": (1e-9, 1e-9)}, False, True),
        # Better where it succeeds, and succeeds less often.
        ({"mse": (1e-9, 1e-9, 1.0), "cpu": 1.0}, {"mse": (1e-5, 1e-5, 1e-5)}, False, True),
        # The baseline recognises nothing, however small its error, and the library does.
        ({"mse": (1e-9, 1.0, 1.0), "cpu": 1.0}, {"mse": (0.2, 0.2, 0.2)}, True, None),
        ({"mse": (0.5, 0.5), "cpu": 1.0}, {"mse": (1e-5, 0.2)}, False, None),
        # Neither recognises anything: two kinds of noise are not compared, nor are their times.
        ({"mse": (0.5, 0.5), "cpu": 9.0}, {"mse": (0.2, 0.2)}, None, None),
    ],
)
def test_rivals(ours, theirs, good, fast) -> None:
    rows = runs_of(OURS, *ours["mse"], cpu=ours["cpu"], determined=100) + runs_of(RCONV, *theirs["mse"])
    rows += runs_of(RGAP, None, outcome="IMPOSSIBLE", cpu=0.0)
    (line,) = tables.rivals(tables.quality(pd.DataFrame(rows))).to_dict("records")
    assert line["best baseline"] == RCONV
    assert line["at least as good"] is good
    assert line["faster"] is fast


def test_a_baseline_that_gives_up_quickly_is_not_fast() -> None:
    rows = runs_of(OURS, 1e-9, cpu=1.0, determined=100) + runs_of(DLG, 1.0, 1.0, cpu=0.5) + runs_of(DLG, 1e-4, cpu=30.0)
    (line,) = tables.rivals(tables.quality(pd.DataFrame(rows))).to_dict("records")
    assert (line["baseline CPU s"], line["faster"]) == (30.0, True)


def test_cells_without_a_rival_are_no_comparison() -> None:
    rows = runs_of(OURS, 1e-9) + runs_of(RGAP, None, outcome="IMPOSSIBLE")
    assert tables.rivals(tables.quality(pd.DataFrame(rows))).empty


def test_tables_are_written_in_three_forms(tmp_path) -> None:
    table = pd.DataFrame({"share %": [1.25, math.nan], "layer": ["3→12 5/2/2", "a_b"]})
    tables.write(table, tmp_path / "tables", "name", "Shares in %.")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables" / "name.csv"), table)
    lines = (tmp_path / "tables" / "name.md").read_text().splitlines()
    assert lines[0] == "Shares in %."
    assert lines[4:] == ["| 1.25 | 3→12 5/2/2 |", "|  | a_b |"]
    tex = (tmp_path / "tables" / "name.tex").read_text()
    assert r"share \% & layer \\" in tex
    assert r"\caption{Shares in \%.}" in tex
    assert r"1.25 & 3$\to$12 5/2/2 \\" in tex
    assert r" & a\_b \\" in tex
    tables.write(table, tmp_path, "other", "", shown=table[["layer"]])
    assert "share" not in (tmp_path / "other.md").read_text()
    assert "share" in (tmp_path / "other.csv").read_text()
