"""Several writers, and writers that die: nothing is lost, nothing is mixed, and what is left over goes."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import constraint_algebra as ca
from constraint_algebra.files.locks import locked
from constraint_algebra.files.result_folder import ResultFolder, write_result
from constraint_algebra.files.writing import write
from tests.faults.dying import NAMES, NEW, OLD, hidden_in, state
from tests.faults.places import ROOT, started
from tests.hunt.pretended import quick
from tests.hunt.records import append, resumed

RESULTS = """
import sys
from pathlib import Path
from constraint_algebra.files.result_folder import write_result
from tests.faults.dying import NAMES, NEW, OLD
folder, which, times = Path(sys.argv[1]), {"old": OLD, "new": NEW}[sys.argv[2]], int(sys.argv[3])
for _ in range(times):
    write_result(folder, NAMES, which, overwrite=True)
"""
HOLDING = """
import sys, time
from pathlib import Path
from constraint_algebra.files.result_folder import ResultFolder
from tests.faults.dying import NAMES
with ResultFolder(Path(sys.argv[1]), NAMES):
    print("held", flush=True)
    time.sleep(60)
"""


def died(folder: Path, what: str) -> list[dict[str, object]]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.dying", str(folder), what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_result_that_dies_at_any_step_is_the_old_or_the_new_one_and_the_next_run_removes_what_is_left(tmp_path):
    found = died(tmp_path / "steps", "result")
    assert len(found) > 25
    assert {row["seen"] for row in found} == {"old", "new", "none"}  # never mixed
    assert {row["after"] for row in found} == {"old", "new"}  # never lost
    assert [row["after"] for row in found] == sorted((row["after"] for row in found), reverse=True)  # old, then new
    assert all(row["hidden"] == [] for row in found)


def test_a_file_that_dies_at_any_step_is_the_old_or_the_new_one(tmp_path):
    found = died(tmp_path / "steps", "file")
    assert len(found) > 5
    assert {row["seen"] for row in found} == {"old", "new"}
    assert {row["after"] for row in found} == {"third"}
    assert all(row["hidden"] == [] for row in found)


def test_half_a_line_of_a_hunt_goes_before_the_next_one_and_nothing_is_written_that_is_not_wanted(tmp_path) -> None:
    """Another process may append when one was killed in the middle of its line, or when its parent was."""
    path = tmp_path / "hunt.jsonl"
    append(path, quick(0))
    append(path, quick(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    append(path, quick(2))
    append(path, quick(3), wanted=lambda: False)
    assert list(resumed(path)) == [2, 0]
    append(path, quick(1))
    assert sorted(path.read_bytes().splitlines()[:1] + path.read_bytes().splitlines()[2:]) == sorted(whole.splitlines())


def seen_now(folder: Path) -> str:
    """What a reader without a lock sees; it looks at the file that stands for the result first and last."""
    head = folder / NAMES[0]
    try:
        before = head.stat()
        found = state(folder)
        after = head.stat()
    except FileNotFoundError:
        return "moved"  # while this looked
    same = (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    return found if same else "moved"


def killed_at_random(folder: Path, seed: int) -> str:
    """Kill a process that writes results without an end, and return what is there, after the next run as well."""
    write_result(folder, NAMES, OLD, overwrite=True)
    process = started(RESULTS, folder, "new", 1000)
    try:
        while seen_now(folder) != "new":
            assert process.poll() is None, process.stderr.read()
        time.sleep(random.Random(seed).uniform(0, 0.05))
    finally:
        process.kill()
        process.communicate()
    seen = state(folder)
    with ResultFolder(folder, NAMES, overwrite=True):
        pass
    return f"{seen}, then {state(folder)}{hidden_in(folder)}"


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment(tmp_path, seed) -> None:
    print(f"seed {seed}")  # noqa: T201 -- of a failure
    assert killed_at_random(tmp_path / "out", seed) in {"new, then new[]", "none, then new[]"}


@pytest.mark.slow
def test_killed_at_many_random_moments(tmp_path) -> None:
    start = random.SystemRandom().randrange(10**6)
    print(f"seeds {start} to {start + 59}")  # noqa: T201 -- of a failure
    found = {killed_at_random(tmp_path / "out", start + number) for number in range(60)}
    assert found <= {"new, then new[]", "none, then new[]"}


def failing_at(step: int, monkeypatch) -> list[str]:
    """Let the call of that number to the system fail, once; the calls are listed as they come."""
    calls: list[str] = []

    def patched(name: str):
        plain = getattr(os, name)

        def call(*args, **kwargs):
            if name == "open" and not (args[1] & os.O_CREAT):
                return plain(*args, **kwargs)
            calls.append(name)
            if len(calls) == step + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*args, **kwargs)

        return call

    for name in ("open", "write", "fsync", "rename", "replace", "mkdir", "link"):
        monkeypatch.setattr(os, name, patched(name))
    return calls


def refused(work) -> ca.StorageError | None:
    try:
        work()
    except ca.StorageError as error:
        return error
    return None


@pytest.mark.parametrize("step", range(32))
def test_a_disk_that_refuses_any_step_leaves_the_old_result_whole_and_the_new_one_elsewhere(
    tmp_path, monkeypatch, step
) -> None:
    folder = tmp_path / "out"
    write_result(folder, NAMES, OLD, overwrite=False)
    result = object()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        calls = failing_at(step, patch)
        refusal = refused(lambda: write_result(folder, NAMES, NEW, overwrite=True, result=result))
    if refusal is None:
        assert state(folder) == "new"
        assert len(calls) <= step or calls[step] in {"open", "write", "fsync"}  # the name in a lock, or of a folder
    else:
        assert state(folder) == "old"
        assert refusal.result is result
        assert str(refusal.kept) in str(refusal)
        assert {path.name: path.read_bytes() for path in refusal.kept.iterdir()} == NEW
    assert hidden_in(folder) == []


def test_a_result_goes_into_no_folder_that_did_not_come(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "deep" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        failing_at(8, patch)
        with pytest.raises(ca.StorageError, match="No space left on device"):
            write_result(folder, NAMES, NEW, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_write_results_into_one_folder_never_mix_them(tmp_path) -> None:
    folder = tmp_path / "out"
    write_result(folder, NAMES, OLD, overwrite=False)
    processes = [started(RESULTS, folder, which, 40) for which in ("old", "new")]
    seen = set()
    while any(process.poll() is None for process in processes):
        seen.add(seen_now(folder))
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert {"old", "new"} <= seen <= {"old", "new", "none", "moved"}
    assert state(folder) in {"old", "new"}
    assert hidden_in(folder) == []


def test_the_second_of_two_is_refused_at_once_and_told_who_is_there(tmp_path) -> None:
    folder = tmp_path / "out"
    first = started(HOLDING, folder)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ca.StorageError, match=rf"another process writes to .*\(process {first.pid} on .*, since "):
            ResultFolder(folder, NAMES).__enter__()
    finally:
        first.kill()
        first.communicate()


def test_the_run_after_a_killed_one_says_so_and_has_the_folder(tmp_path, caplog) -> None:
    folder = tmp_path / "out"
    first = started(HOLDING, folder)
    assert first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with caplog.at_level(logging.WARNING, "constraint_algebra"):
        write_result(folder, NAMES, NEW, overwrite=False)
    assert f"was interrupted, and is incomplete (process {first.pid} on" in caplog.text
    assert state(folder) == "new"
    assert hidden_in(folder) == []


def test_an_incomplete_result_is_called_so(tmp_path) -> None:
    (tmp_path / "arrays.npz").write_bytes(b"half")
    with pytest.raises(ca.OutputExistsError, match=r"head\.json, which comes last, is missing: .* is incomplete"):
        ResultFolder(tmp_path, NAMES).__enter__()


def test_of_two_threads_one_waits_for_the_other(tmp_path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "a", wait=10):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "a"):
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert hidden_in(tmp_path) == []


ONCE = """
import sys
from pathlib import Path
import constraint_algebra as ca
from constraint_algebra.files.writing import write
while not Path(sys.argv[2]).exists():
    pass
try:
    write(Path(sys.argv[1]), sys.argv[3].encode() * 100_000, overwrite=False)
    print("written")
except ca.OutputExistsError:
    print("refused")
"""


def test_of_two_that_may_not_overwrite_one_is_refused(tmp_path) -> None:
    for number in range(3):
        path, go = tmp_path / f"{number}.bin", tmp_path / f"go{number}"
        processes = [started(ONCE, path, go, letter) for letter in "ab"]
        time.sleep(0.3)
        go.touch()
        told = {letter: process.communicate()[0].strip() for letter, process in zip("ab", processes, strict=True)}
        (winner,) = [letter for letter, said in told.items() if said == "written"]
        assert sorted(told.values()) == ["refused", "written"]
        assert path.read_bytes() == winner.encode() * 100_000


def test_what_an_interrupted_writer_left_goes_and_a_link_in_its_place_is_not_followed(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    place = tmp_path / "place"
    place.mkdir()
    left = place / ".constraint-algebra-new-a.bin"
    left.write_bytes(b"half")
    write(place / "a.bin", b"whole")
    left.symlink_to(outside)
    write(place / "a.bin", b"again")
    (place / ".constraint-algebra-lock-a.bin").symlink_to(outside)
    with locked(place / "a.bin"):
        pass
    assert outside.read_bytes() == b"mine"
    assert [path.name for path in place.iterdir()] == ["a.bin"]
    assert (place / "a.bin").read_bytes() == b"again"
