"""Studies and audits: a second writer, a full disk, damaged files, links and kills lose no row and no report."""

from __future__ import annotations

import json
import logging
import random
import time
from pathlib import Path

import pandas as pd
import pytest

import constraint_algebra as ca
from analysis import own
from analysis.aside import folder_of
from analysis.rows import RowFile, append
from analysis.runner import run_study
from constraint_algebra.files.result_folder import ResultFolder
from tests.analysis.test_own import audit
from tests.faults.dying import hidden_in
from tests.faults.places import LIMITED, WITHOUT_RIGHTS, fill, open_to_all, python, small_disk, started
from tests.squares import COLUMNS, Run, interrupted, pictured, square

SIX = [Run("a", number) for number in range(6)]
ABOUT = {"study": "squares", "seed": 3}
STUDY = """
import sys
from pathlib import Path
from analysis.runner import run_study
from tests.squares import COLUMNS, Run, slow
path, log, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
run_study([Run(log, number) for number in range(count)], path, COLUMNS, slow, about={"study": "squares"})
"""


def rows_in(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def wait_for_rows(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while rows_in(path) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_running_study_is_not_begun_anew_and_loses_no_row(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    first = started(STUDY, path, tmp_path / "log", 25)
    wait_for_rows(path, 4)
    for how in ({"restart": True}, {"retry_failed": True}, {}):
        with pytest.raises(ca.StorageError, match=rf"another process writes to .* \(process {first.pid} on "):
            run_study(SIX, path, COLUMNS, square, **how)
    assert rows_in(path) >= 4
    _, errors = first.communicate()
    assert first.returncode == 0, errors
    assert sorted(pd.read_csv(path)["number"]) == list(range(25))
    assert hidden_in(tmp_path) == []
    assert not folder_of(path).exists()


def test_what_was_there_before_a_restart_stays_until_the_new_rows_are_complete(tmp_path, caplog) -> None:
    path = tmp_path / "rows.csv"
    run_study(SIX, path, COLUMNS, pictured, about=ABOUT)
    before = {file.name: file.read_bytes() for file in (path, path.with_suffix(".json"))}
    for _ in range(2):  # the second one is begun anew as well, and what it had is no result
        with caplog.at_level(logging.WARNING, "constraint_algebra"), pytest.raises(KeyboardInterrupt):
            run_study(SIX, path, COLUMNS, interrupted, about=ABOUT, restart=True)
        kept = folder_of(path)
        assert {file.name: file.read_bytes() for file in kept.iterdir() if file.is_file()} == before
        assert len(list((kept / "rows").iterdir())) == 6
        assert rows_in(path) < 6
        assert not path.with_suffix("").exists()
    assert f"the rows until now are kept in {kept} until the new ones are complete" in caplog.text
    rows = run_study(SIX, path, COLUMNS, square, about=ABOUT)
    assert list(rows["number"]) == list(range(6))
    assert {file.name for file in tmp_path.iterdir()} == {"rows.csv", "rows.json"}


def test_what_was_there_before_a_restart_stays_where_rows_fail(tmp_path) -> None:
    path, wanted = tmp_path / "rows.csv", [*SIX, Run("b", -1)]
    run_study(SIX, path, COLUMNS, square)
    run_study(wanted, path, COLUMNS, square, restart=True)
    assert rows_in(folder_of(path) / "rows.csv") == 6
    run_study(wanted, path, COLUMNS, lambda _: {"square": 1, "process": 0}, retry_failed=True)
    assert not folder_of(path).exists()


def test_a_smaller_plan_does_not_end_the_restart_of_a_larger_one(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    run_study(SIX, path, COLUMNS, square)
    with pytest.raises(KeyboardInterrupt):
        run_study(SIX, path, COLUMNS, interrupted, restart=True)
    run_study(SIX[:2], path, COLUMNS, square)
    assert rows_in(folder_of(path) / "rows.csv") == 6
    run_study(SIX, path, COLUMNS, square)
    assert not folder_of(path).exists()


WHOLE = b"name,number,square,process,error\na,0,0,1,\na,1,1,1,\na,2,4,1,\n"
LINES = WHOLE.splitlines(keepends=True)
# kind → (content, words of the message)
TABLES = {
    "binary": (bytes(range(256)) * 8, "UTF-8|zero byte"),
    "binary on one line": (b"\x89PNG\r" + bytes(range(128, 256)), "is no table of rows"),
    "other columns": (b"name,other\na,1\n", "lacks the columns number"),
    "other columns of the same number": (WHOLE.replace(b"square", b"circle"), "lacks the columns square"),
    "another table": (b"name;number;square;process;error\na;0;0;1;\n", "lacks the columns"),
    "UTF-16": (WHOLE.decode().encode("utf-16"), "UTF-8"),
    "UTF-16 without a mark": (WHOLE.decode().encode("utf-16-le"), "zero byte"),
    "Latin 1": (WHOLE.replace(b"a,1", "größe,1".encode("latin-1")), "UTF-8"),
    "zero bytes after a crash": (WHOLE + bytes(100) + b"\n", "line 5, has a zero byte"),
    "a field too many in the first row": (b"".join([LINES[0], b"a,0,0,1,,7\n", *LINES[2:]]), "line 2, has 6 fields"),
    "a field too many": (b"".join([*LINES[:2], b"a,1,1,1,,7\n", LINES[3]]), "line 3, has 6 fields, and not 5"),
    "a field too few": (b"".join([*LINES[:2], b"a,1,1\n", LINES[3]]), "line 3, has 3 fields"),
    "two rows in a line": (b"".join([*LINES[:2], LINES[2].strip() + LINES[3]]), "line 3, has 9 fields"),
    "an empty line": (b"".join([*LINES[:2], b"\n", *LINES[2:]]), "line 3, has 0 fields"),
    "a quote that does not end": (WHOLE.replace(b"a,1", b'"a,1'), "line"),
    "a row twice": (WHOLE + LINES[2], "lines 3 and 5 are both of a, 1"),
    "a row twice with other values": (WHOLE + b"a,1,7,1,\n", "lines 3 and 5 are both of a, 1"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "UTF-8|zero byte"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_damaged_table_is_refused_by_name_and_line_left_alone_and_begun_anew_where_asked(tmp_path, kind) -> None:
    content, words = TABLES[kind]
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    for wanted in (SIX, SIX[:3]):  # with and without something to do
        with pytest.raises(ca.StorageError, match=words) as caught:
            run_study(wanted, path, COLUMNS, square)
        assert str(path) in str(caught.value)
        assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]
    assert list(run_study(SIX, path, COLUMNS, square, restart=True)["number"]) == list(range(6))
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("kept", range(len(WHOLE)))
def test_a_table_cut_off_anywhere_goes_on(tmp_path, kept) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(WHOLE[:kept])
    rows = run_study(SIX[:3], path, COLUMNS, lambda run: {"square": run.number**2, "process": 1})
    assert list(rows["square"]) == [0, 1, 4]
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize(
    "content", [b"", b"\xef\xbb\xbf" + WHOLE, WHOLE.replace(b"\n", b"\r\n")], ids=["empty", "a mark", "CRLF"]
)
def test_tables_that_other_programs_saved(tmp_path, content) -> None:
    """An empty file is a new one; a spreadsheet's line ends are read, and its byte order mark is refused."""
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    if content.startswith(b"\xef"):
        with pytest.raises(ca.StorageError, match="lacks the columns name"):
            run_study(SIX, path, COLUMNS, square)
        assert path.read_bytes() == content
    else:
        assert list(run_study(SIX, path, COLUMNS, square)["number"]) == list(range(6))


SIDECARS = {
    "truncated": b'{"sessions": [{"commit": "abc", ',
    "empty": b"",
    "binary": bytes(range(256)),
    "another encoding": '{"sessions": []}'.encode("utf-16"),
    "a list": b"[]",
    "a number": b"7",
    "sessions of another kind": b'{"sessions": {"a": 1}}',
    "a session without a commit": b'{"sessions": [{"started": "today"}]}',
    "sessions that are texts": b'{"sessions": ["abc"]}',
    "a commit that is none": b'{"sessions": [{"commit": 7}]}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", SIDECARS)
def test_a_damaged_sidecar_is_refused_by_name_before_any_work_and_nothing_changes(tmp_path, kind) -> None:
    path, sidecar = tmp_path / "rows.csv", tmp_path / "rows.json"
    run_study(SIX[:3], path, COLUMNS, square)
    before = path.read_bytes()
    sidecar.write_bytes(SIDECARS[kind])
    for wanted in (SIX, SIX[:3]):
        with pytest.raises(ca.StorageError, match=r"rows\.json, which says where .* is damaged \(.*move it away"):
            run_study(wanted, path, COLUMNS, never, about=ABOUT)
        assert (path.read_bytes(), sidecar.read_bytes()) == (before, SIDECARS[kind])
    run_study(SIX, path, COLUMNS, square, about=ABOUT, restart=True)
    assert json.loads(sidecar.read_text())["rows"] == 6


def never(_run: Run) -> dict[str, object]:
    raise AssertionError("computed although nothing could be kept")


def test_a_disk_that_becomes_full_costs_one_row_and_the_study_goes_on_after_it(tmp_path) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        path = disk / "deep" / "rows.csv"
        fillings: list[Path] = []

        def filling(run: Run) -> dict[str, object]:
            if run.number == 3 and not fillings:
                fillings.append(fill(disk))
            return square(run) | {"square": "9" * 5000}  # more than what is left of a page

        with pytest.raises(ca.StorageError, match=r"rows\.csv cannot be written \(No space left on device\)") as caught:
            run_study(SIX, path, COLUMNS, filling, about=ABOUT)
        assert caught.value.result["number"] in range(6)
        kept = path.read_bytes()
        assert kept.endswith(b"\n")
        with pytest.raises(ca.StorageError, match=r"cannot take [0-9,]+ bytes \(No space left on device\)"):
            run_study(SIX, path, COLUMNS, never, about=ABOUT)
        assert path.read_bytes() == kept
        fillings[0].unlink()
        rows = run_study(SIX, path, COLUMNS, square, about=ABOUT)
        assert list(rows["number"]) == list(range(6))
        assert set(kept.splitlines()) <= set(path.read_bytes().splitlines())


APPENDING = """
from pathlib import Path
from analysis.rows import append
from constraint_algebra.errors import StorageError
for number in range(1000):
    try:
        append(Path(sys.argv[1]), {"number": number, "text": "x" * 90})
    except StorageError as error:
        print(number, error)
        break
"""


def test_a_row_is_there_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    number, told = python(LIMITED.format(size=1000) + APPENDING, path).stdout.split(" ", 1)
    assert str(path) in told
    assert "File too large" in told
    assert rows_in(path) == int(number) == 10
    assert path.read_bytes().endswith(b"x\n")


def test_a_new_table_that_cannot_have_its_header_leaves_no_empty_file(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    assert "0 " in python(LIMITED.format(size=3) + APPENDING, path).stdout
    assert list(tmp_path.iterdir()) == []


RIGHTS = f"""
import sys
from pathlib import Path
from analysis.runner import run_study
from constraint_algebra.errors import StorageError
from tests.faults.test_studies import SIX, never
from tests.squares import COLUMNS
{WITHOUT_RIGHTS}
for path in (Path(sys.argv[1]) / "rows.csv", Path(sys.argv[1]) / "deep" / "rows.csv"):
    try:
        run_study(SIX, path, COLUMNS, never, about={{}})
    except StorageError as error:
        print(error)
"""


def test_a_study_in_a_folder_without_rights_is_refused_before_any_work() -> None:
    with open_to_all() as folder:
        folder.chmod(0o555)
        first, second = python(RIGHTS, folder).stdout.splitlines()
        assert list(folder.iterdir()) == []
    assert str(folder) in first
    assert "Permission denied" in first
    assert str(folder / "deep") in second
    assert "Permission denied" in second


def test_rows_and_arrays_are_written_through_no_link(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "rows.csv").symlink_to(outside / "rows.csv")
    for work in (
        lambda: run_study(SIX, tmp_path / "rows.csv", COLUMNS, never),
        lambda: append(tmp_path / "rows.csv", {"a": 1}),
    ):
        with pytest.raises(ca.StorageError, match=r"rows\.csv is a link to .*outside/rows\.csv, and links are not"):
            work()
    (tmp_path / "other").symlink_to(outside)
    with pytest.raises(ca.StorageError, match=r"other is a link to .*outside, and links are not followed"):
        run_study(SIX, tmp_path / "other.csv", COLUMNS, pictured)
    assert list(outside.iterdir()) == []


def test_a_restart_removes_links_and_nothing_behind_them(tmp_path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "in" / "rows.csv"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    path.parent.mkdir()
    path.with_suffix("").symlink_to(outside)
    run_study(SIX, path, COLUMNS, pictured, restart=True)
    assert (outside / "mine").read_text() == "mine"
    assert len(list(outside.iterdir())) == 1
    assert len(list(path.with_suffix("").iterdir())) == 6


def killed(tmp_path: Path, seed: int, count: int) -> None:
    """Kill a study at a random moment, again and again, until it is done; then compare with one that was left alone."""
    chance, path = random.Random(seed), tmp_path / "rows.csv"
    for _ in range(100):
        process = started(STUDY, path, tmp_path / "log", count)
        there = rows_in(path) + chance.randint(1, 6)
        while process.poll() is None and rows_in(path) < there:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -9, errors
        assert "Traceback" not in errors
    else:
        raise AssertionError("never done")
    rows = pd.read_csv(path)
    assert list(rows["number"]) == list(range(count))
    assert list(rows["square"]) == [number**2 for number in range(count)]
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["rows"] == count
    assert hidden_in(tmp_path) == []


@pytest.mark.slow
def test_a_study_killed_at_random_moments_comes_to_its_end(tmp_path) -> None:
    print("seed 0")  # noqa: T201 -- of a failure
    killed(tmp_path, seed=0, count=20)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_studies_killed_at_many_random_moments(tmp_path, number) -> None:
    seed = random.SystemRandom().randrange(10**6) + number
    print(f"seed {seed}")  # noqa: T201 -- of a failure
    killed(tmp_path, seed, count=60)


def test_a_study_killed_after_its_last_row_is_put_in_order_and_counted(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    whole = run_study(SIX, path, COLUMNS, square, about=ABOUT)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + b"".join(reversed(lines)))
    told = json.loads(path.with_suffix(".json").read_text()) | {"rows": 3}
    path.with_suffix(".json").write_text(json.dumps(told))
    (tmp_path / ".constraint-algebra-lock-rows.csv").write_text("process 1 on elsewhere")
    pd.testing.assert_frame_equal(run_study(SIX, path, COLUMNS, never, about=ABOUT), whole)
    assert path.read_bytes() == header + b"".join(lines)
    assert json.loads(path.with_suffix(".json").read_text())["rows"] == 6
    assert {file.name for file in tmp_path.iterdir()} == {"rows.csv", "rows.json"}


def test_the_run_after_a_killed_study_says_that_it_was_incomplete(tmp_path, caplog) -> None:
    path = tmp_path / "rows.csv"
    first = started(STUDY, path, tmp_path / "log", 25)
    wait_for_rows(path, 2)
    first.kill()
    first.communicate()
    with caplog.at_level(logging.WARNING, "constraint_algebra"):
        run_study(SIX, path, COLUMNS, square)
    assert (
        f"an earlier run that wrote to {path} was interrupted, and is incomplete (process {first.pid} on" in caplog.text
    )


def test_a_file_of_rows_says_who_has_it(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    with (
        RowFile(path, ["a"]),
        pytest.raises(ca.StorageError, match=r"another process writes to .*\(process \d+ on .*since"),
    ):
        append(path, {"a": 1})


@pytest.mark.parametrize("leads_to", ["outside", "missing"])
def test_an_audit_writes_through_no_link(tmp_path, leads_to) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.write_text("mine")
    (out / "report.html").symlink_to(tmp_path / leads_to)
    refused = audit(tmp_path, factory="vector", shape="20")
    assert isinstance(refused.exception, ca.OutputExistsError) or "already holds report.html" in refused.output
    assert audit(tmp_path, "--force", factory="vector", shape="20").exit_code == 0
    assert outside.read_text() == "mine"
    assert not (tmp_path / "missing").exists()
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")


def message(found) -> str:
    return f"{found.exception} {found.output}"


def test_an_audit_beside_another_one_in_the_same_folder_is_refused_before_the_work(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(own, "take_steps", never)
    with ResultFolder(tmp_path / "out", own.FILES):
        assert "another process writes to" in message(audit(tmp_path, factory="vector", shape="20"))


def test_an_audit_whose_report_cannot_be_written_keeps_it_and_the_old_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with small_disk(tmp_path / "out", "8m") as disk:
        for name in own.FILES:
            (disk / name).write_text("old")
        computed = own.Audit.defend

        def filling(self: own.Audit) -> None:
            computed(self)
            fill(disk)

        monkeypatch.setattr(own.Audit, "defend", filling)
        told = message(audit(tmp_path, "--force", factory="vector", shape="20"))
        assert {name: (disk / name).read_text() for name in own.FILES} == dict.fromkeys(own.FILES, "old")
        assert hidden_in(disk) == []
    (kept,) = tmp_path.glob("constraint-algebra-kept-*")
    assert "No space left on device" in told
    assert f"the result is kept in {kept}" in told
    assert json.loads((kept / "report.json").read_text())["conclusion"] in (kept / "report.html").read_text()
