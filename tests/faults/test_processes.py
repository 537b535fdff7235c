"""Workers never outlive the process that opened them, however it ends; what was computed is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, spawn
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import constraint_algebra as ca
from constraint_algebra.numerics.workers import workers
from tests.faults.dying import hidden_in
from tests.twin_cases import random_case

ROOT = Path(__file__).parents[2]
SOON = 10.0  # seconds; workers end in well under one
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")

# A worker that sleeps, one that computes in Python, one that never lets Python run.
POOL = """
import ctypes, os, sys, time
from constraint_algebra.numerics.workers import workers

def pid(_): return os.getpid()
def sleeps(_): time.sleep(60)
def computes(_):
    while True: pass
def holds(_): ctypes.PyDLL(None).sleep(60)

if __name__ == "__main__":
    what, how = sys.argv[1:]
    with workers(2) as pool:
        list(pool.map(pid, range(8)))
        for number in range(2):
            pool.submit(globals()[what], number)
        time.sleep(0.5)
        print(*pool._processes, flush=True)
        if how == "raises":
            raise RuntimeError("on purpose")
        time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked about since does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + SOON
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own; whatever is left of it is killed at the end."""
    environment, pipe = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.PIPE
    command = [sys.executable, *words]
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("what", "how"),
    [("sleeps", "kill"), ("holds", "kill"), ("computes", "terminate"), ("holds", "raises"), ("computes", "raises")],
)
def test_workers_end_with_the_process_that_opened_them(tmp_path, what, how) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    with started(["pool.py", what, how], tmp_path) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        if how != "raises":
            assert all(map(alive, pids))
            getattr(process, how)()
        process.wait(SOON)
        assert all_ended(pids)


@pytest.mark.timeout(30)
def test_nobody_waits_for_a_worker_that_dies_before_it_has_read_what_it_is_given(monkeypatch) -> None:
    """It is given more than a pipe holds, of which this process has the reading end open as well."""
    resource_tracker.ensure_running()
    monkeypatch.setattr(spawn, "_python_exe", b"/bin/false")
    with pytest.raises(BrokenExecutor), workers(1, bytes, (bytes(2**20),)) as pool:
        pool.submit(os.getpid).result()


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, "", marks=pytest.mark.slow),
    ],
    ids=["SIGTERM", "Ctrl-C", "SIGKILL"],
)
def test_a_study_that_is_stopped_keeps_its_rows_and_leaves_no_worker(tmp_path, number, code, words) -> None:
    """Ctrl-C reaches the whole group, as in a terminal; the workers leave the answer to the study."""
    words_given = ["-m", "analysis", "noise", "--processes", "2", "--results-dir", str(tmp_path / "results")]
    path, deadline = tmp_path / "results/noise.csv", time.monotonic() + 100
    with started(words_given, ROOT) as process:
        while (not path.exists() or path.read_text().count("\n") < 3) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        workers = children(process.pid)
        assert len(workers) >= 2
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=SOON)
        assert process.returncode == code
        assert all_ended(workers)
        assert words in errors
        assert "Traceback" not in errors
        assert len(pd.read_csv(path)) >= 2


PIXELS = """
import sys
import numpy as np
import constraint_algebra as ca
from tests.twin_cases import *

def found():
    network = ca.Network((3, 12, 12), [ca.Conv2d(4, 3, stride=2), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(4)])
    rng = np.random.default_rng(0)
    parameters = {name: rng.uniform(-0.5, 0.5, shape) for name, shape in network.parameter_shapes.items()}
    return ca.indistinguishable(network, parameters, rng.random((3, 12, 12)), 1)

if __name__ == "__main__":
    ca.interval_map(found(), path="map.npz", workers=2, progress=lambda *_: print("row", flush=True))
"""


@pytest.mark.slow  # the pool is that of the studies, whose test stands above
def test_workers_of_interval_maps_end_as_well(tmp_path) -> None:
    (tmp_path / "pixels.py").write_text(PIXELS)
    with started(["pixels.py"], tmp_path) as process:
        assert process.stdout.readline() == "row\n", process.communicate()
        workers = children(process.pid)
        assert len(workers) >= 2
        process.kill()
        process.wait(SOON)
        assert all_ended(workers)


def pools_that_break(monkeypatch, lives: list[int]) -> None:
    """Pools of this process alone: each breaks after so many results; the last one does not."""
    computed = iter([*lives, 10**9])

    @contextmanager
    def pool_of(_count, initializer, initargs) -> Iterator[Executor]:
        left = next(computed)
        initializer(*initargs)

        class Pool(Executor):
            def submit(self, work, *given) -> Future:
                nonlocal left
                left, future = left - 1, Future()
                future.set_result(work(*given)) if left >= 0 else future.set_exception(BrokenProcessPool("died"))
                return future

        yield Pool()

    monkeypatch.setattr("constraint_algebra.proofs.intervals.pool_of", pool_of)


def test_intervals_outlive_the_processes_that_compute_them(tmp_path, monkeypatch) -> None:
    found, seen = random_case(8).set(), []
    few = np.zeros(found.input.shape, dtype=bool)
    few[0, 0, :3], few[0, 1, :3] = True, True
    expected = ca.interval_map(found, few)
    pools_that_break(monkeypatch, [2, 0, 0, 3])
    path = tmp_path / "intervals.npz"
    again = ca.interval_map(found, few, path=path, workers=2, progress=lambda done, *_: seen.append(done))
    np.testing.assert_array_equal(again.width, expected.width)
    assert seen == list(range(1, 7))  # each once
    assert not hidden_in(tmp_path)


def test_intervals_that_no_process_lives_to_see_are_ours_to_report_and_the_others_are_kept(
    tmp_path, monkeypatch
) -> None:
    found = random_case(8).set()
    pools_that_break(monkeypatch, [2, 0, 0, 0])
    with pytest.raises(
        ca.ConstraintAlgebraError, match=r"a process died 3 times before any of the .* workers=1"
    ) as error:
        ca.interval_map(found, path=tmp_path / "intervals.npz", workers=2)
    kept = ca.load(tmp_path / "intervals.npz")
    assert np.isfinite(kept["lower_outer"]).sum() == 2
    np.testing.assert_array_equal(error.value.result.lower_outer, kept["lower_outer"])
