"""CSV files that grow by one row at a time."""

from __future__ import annotations

import pytest

import constraint_algebra as ca
from analysis import rows


def test_text_stays_on_one_line_and_commas_are_quoted(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    with rows.RowFile(path, ["a", "b"]) as file:
        file.append({"a": "one\n two, three"})
    assert path.read_text() == 'a,b\n"one two, three",\n'


def test_a_value_without_a_column_is_refused(tmp_path) -> None:
    with rows.RowFile(tmp_path / "rows.csv", ["a"]) as file, pytest.raises(ca.StorageError, match="no column b"):
        file.append({"a": 1, "b": 2})


def test_two_writers_at_a_time_are_one_too_many(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    with rows.RowFile(path, ["a"]) as file:
        with pytest.raises(ca.StorageError, match="another process writes to"):
            rows.RowFile(path, ["a"])
        file.append({"a": 1})
    rows.append(path, {"a": 2})
    assert path.read_text() == "a\n1\n2\n"


@pytest.mark.parametrize("piece", ["", "a,", "a,b\n1,2\n3", 'a,b\n1,2\n"3'], ids=["new", "header", "row", "quoted row"])
def test_what_a_crash_cut_off_is_removed(tmp_path, piece) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(piece)
    rows.append(path, {"a": 5, "b": 6})
    assert path.read_text() == ("a,b\n1,2\n5,6\n" if "1,2" in piece else "a,b\n5,6\n")


def test_rows_come_into_the_order_of_their_keys(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('key,value\nc,3\nother,0\n"a, b",1\nb,2\n')
    rows.sort(path, ["key"], [("a, b",), ("b",), ("c",)])
    assert path.read_text() == 'key,value\n"a, b",1\nb,2\nc,3\nother,0\n'
