"""Studies: rows as they come, in any executor, resumed after whatever interrupts them, and failures as rows."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

import constraint_algebra as ca
from analysis.runner import arrays_path, run_study
from tests.squares import COLUMNS, Run, deadly, dies_twice, interrupted, pictured, square

SIX = [Run("a", number) for number in range(6)]


def test_an_interrupted_study_goes_on_and_repeats_nothing(tmp_path) -> None:
    path = tmp_path / "deep" / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        run_study(SIX, path, COLUMNS, interrupted)
    kept = path.read_text().splitlines()
    assert 0 < len(kept) - 1 < 6
    rows = run_study([*SIX, SIX[0]], path, COLUMNS, square)
    assert set(kept) <= set(path.read_text().splitlines())
    assert list(rows["number"]) == list(range(6))
    assert (rows["square"] == rows["number"] ** 2).all()
    before = path.read_bytes()
    assert len(run_study(SIX[:2], path, COLUMNS, square)) == 2
    assert path.read_bytes() == before
    assert len(run_study([], path, COLUMNS, square)) == 6


def test_a_failing_configuration_becomes_a_row_and_is_not_tried_again(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    wanted = [*SIX, Run("b", -1)]
    for _ in range(2):
        rows = run_study(wanted, path, COLUMNS, square)
        assert list(rows["error"].notna()) == [False] * 6 + [True]
        assert rows["error"].iloc[-1] == "ValueError: no square of -1"
        assert len(path.read_text().splitlines()) == 8


def test_rows_of_all_executors_are_the_same_and_in_the_order_of_the_plan(tmp_path) -> None:
    here = run_study(SIX, tmp_path / "here.csv", COLUMNS, square)
    with ThreadPoolExecutor(2) as executor:
        run_study(SIX, tmp_path / "threads.csv", COLUMNS, square, executor=executor)
        assert executor.submit(int, "7").result() == 7  # it is left open
    others = run_study(SIX, tmp_path / "processes.csv", COLUMNS, square, processes=2)
    assert os.getpid() not in set(others["process"])
    files = [pd.read_csv(tmp_path / f"{name}.csv").drop(columns="process") for name in ("here", "threads", "processes")]
    pd.testing.assert_frame_equal(files[0], files[1])
    pd.testing.assert_frame_equal(files[0], files[2])
    assert list(here["number"]) == list(files[0]["number"]) == list(range(6))


def test_a_configuration_that_kills_its_process_becomes_a_row_and_takes_no_other_with_it(tmp_path) -> None:
    wanted = [*(Run("a", number) for number in range(12)), Run("deadly", 0), Run("deadly", 1)]
    rows = run_study(wanted, tmp_path / "rows.csv", COLUMNS, deadly, processes=2)
    assert list(rows["error"].notna()) == [False] * 12 + [True] * 2
    assert rows["error"].iloc[-1].startswith("BrokenProcessPool: ")
    assert list(rows["square"][:12]) == [number**2 for number in range(12)]


@pytest.mark.slow
def test_a_configuration_whose_process_somebody_kills_twice_is_done_all_the_same(tmp_path) -> None:
    wanted = [Run(str(tmp_path), number) for number in range(6)]
    rows = run_study(wanted, tmp_path / "rows.csv", COLUMNS, dies_twice, processes=2)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "first", "second"}
    assert not rows["error"].notna().any()
    assert list(rows["square"]) == [number**2 for number in range(6)]


def test_keys_are_found_again_whatever_their_type(tmp_path) -> None:
    wanted = [Run("1", 1e-9), Run("nan", 0.1 + 0.2), Run("", 1.0), Run("None", 1e-9)]
    path = tmp_path / "rows.csv"
    run_study(wanted, path, COLUMNS, square)
    before = path.read_bytes()
    rows = run_study(wanted, path, COLUMNS, square)
    assert path.read_bytes() == before
    assert list(rows["number"]) == pytest.approx([run.number for run in wanted])


def test_a_row_that_a_crash_cut_off_is_computed_again(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    run_study(SIX, path, COLUMNS, square)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    rows = run_study(SIX, path, COLUMNS, square)
    assert list(rows["number"]) == list(range(6))
    assert path.read_bytes() == whole


def test_a_file_of_another_study_is_left_alone(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("name,other\na,1\n")
    with pytest.raises(ca.StorageError, match="lacks the columns number"):
        run_study([Run("a", 1)], path, COLUMNS, square)
    assert path.read_text() == "name,other\na,1\n"


def test_arrays_lie_beside_the_rows(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    rows = run_study(SIX[:2], path, COLUMNS, pictured, processes=2)
    assert "arrays" not in rows
    for run in SIX[:2]:
        np.testing.assert_array_equal(ca.load(arrays_path(path, run))["picture"], np.full((2, 2), run.number))


def test_the_file_beside_the_rows_says_where_they_come_from(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    for wanted in (SIX[:4], [*SIX, Run("b", -1)], SIX):
        run_study(wanted, path, COLUMNS, square, about={"study": "squares", "seed": 3})
    told = json.loads((tmp_path / "rows.json").read_text())
    assert (told["rows"], told["failed"]) == (7, 1)
    assert [session["new_rows"] for session in told["sessions"]] == [4, 3]
    session = told["sessions"][0]
    assert (session["study"], session["seed"]) == ("squares", 3)
    assert {"numpy", "python", "torch", "constraint_algebra"} <= set(session["versions"])
    if find_spec("sklearn"):
        assert session["versions"]["scikit-learn"] == metadata.version("scikit-learn")
    assert session["commit"]


def test_rows_of_a_session_that_was_killed_still_have_an_origin(tmp_path) -> None:
    seen: list[dict[str, object]] = []

    def look(run: Run) -> dict[str, object]:
        seen.append(json.loads((tmp_path / "rows.json").read_text()))  # what a kill at this moment would leave
        return square(run)

    run_study(SIX[:1], tmp_path / "rows.csv", COLUMNS, look, about={"study": "squares"})
    (session,) = seen[0]["sessions"]
    assert session["study"] == "squares"
    assert session["commit"]
    assert session["new_rows"] is None


def test_rows_of_another_commit_are_told(tmp_path, capsys) -> None:
    path = tmp_path / "rows.csv"
    run_study(SIX[:2], path, COLUMNS, square, about={"study": "squares"})
    run_study(SIX, path, COLUMNS, square, about={"study": "squares"})
    assert "warning" not in capsys.readouterr().out
    told = json.loads((tmp_path / "rows.json").read_text())
    told["sessions"][-1]["commit"] = "0000000"
    (tmp_path / "rows.json").write_text(json.dumps(told))
    run_study(SIX, path, COLUMNS, square, about={"study": "squares"})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: the rows in {path} come from commit 0000000, this is ")


def test_failed_rows_are_done_again_where_that_is_asked_for(tmp_path) -> None:
    path, wanted = tmp_path / "rows.csv", [*SIX, Run("b", -1)]
    assert run_study(wanted, path, COLUMNS, square, retry_failed=True)["error"].notna().sum() == 1
    kept = path.read_text().splitlines()[:7]

    def mended(run: Run) -> dict[str, object]:
        assert run.number == -1, "rows that are there are kept"
        return {"square": 1, "process": 0}

    rows = run_study(wanted, path, COLUMNS, mended, retry_failed=True)
    assert rows["error"].isna().all()
    assert rows["square"].iloc[-1] == 1
    assert path.read_text().splitlines()[:7] == kept
