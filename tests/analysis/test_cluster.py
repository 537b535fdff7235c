"""Studies on a real `dask.distributed` cluster: a scheduler and two worker processes on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

import constraint_algebra as ca
from analysis import studies
from analysis.executors import cluster
from analysis.runner import run_study
from tests.squares import COLUMNS, Run, deadly, slow

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


def started(*arguments: str) -> subprocess.Popen[bytes]:
    """A process of dask's command line, from the root of the repository."""
    quiet = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error"}
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def worker(address: str) -> subprocess.Popen[bytes]:
    """A worker process that nobody starts again."""
    return started("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")


@contextmanager
def two_workers() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler with two workers, and those workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    processes = [started("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")]
    processes += [worker(address), worker(address)]
    try:
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.fixture
def scheduler():
    """A cluster whose workers may be killed."""
    with two_workers() as found:
        yield found


@pytest.fixture(scope="module")
def address():
    """The address of a cluster whose workers live."""
    with two_workers() as (found, _):
        wait_for_two_workers(found)
        yield found


def wait_for_two_workers(address: str) -> None:
    """Return once the scheduler answers and has both workers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with cluster(address) as executor:
                executor._client.wait_for_workers(2, timeout=30)
                return
        except ca.StorageError as error:
            if "no scheduler answers" not in str(error) or time.monotonic() > deadline:
                raise


def carry_out(wanted, path, judge, address) -> pd.DataFrame:
    """The study on the cluster, once both workers are there."""
    wait_for_two_workers(address)
    with cluster(address) as executor:
        return run_study(wanted, path, COLUMNS, judge, executor=executor)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_command_computes_a_study_on_the_cluster_as_it_does_locally(tmp_path, address) -> None:
    name, there = "rank_vs_filters", tmp_path / "there"
    command = [sys.executable, "-m", "analysis", name, "--quick", "--scheduler", address, "--results-dir", str(there)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    path = studies.path_of(name, there)
    (session,) = json.loads(path.with_suffix(".json").read_text())["sessions"]
    assert session["arguments"]["scheduler"] is True
    kept = path.read_bytes()
    rows = studies.carry_out(name, there, quick=True, scheduler=address)
    assert path.read_bytes() == kept  # all rows were there
    expected = studies.carry_out(name, tmp_path / "here", quick=True)
    assert expected["error"].isna().all()
    times = ["rank_cpu_s", "structural_cpu_s"]
    pd.testing.assert_frame_equal(rows.drop(columns=times), expected.drop(columns=times))


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_no_row_and_a_second_start_repeats_nothing(tmp_path, scheduler) -> None:
    address, workers = scheduler
    path, log = tmp_path / "rows.csv", tmp_path / "log"
    wanted = [Run(str(log), number) for number in range(60)]
    seen: list[int] = []

    def kill_one() -> None:
        while not path.exists() or len(path.read_text().splitlines()) < 15:
            time.sleep(0.01)
        seen.append(len(path.read_text().splitlines()))
        workers[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    rows = carry_out(wanted, path, slow, address)
    killer.join()
    assert workers[0].wait() == -signal.SIGKILL
    assert 15 <= seen[0] < 40
    assert list(rows["number"]) == list(range(60))
    assert (rows["square"] == rows["number"] ** 2).all()
    assert rows["error"].isna().all()
    assert rows["process"].nunique() == 2  # both worked
    assert len(path.read_text().splitlines()) == 61
    computed, before = len(log.read_text().splitlines()), path.read_bytes()
    run_study(wanted, path, COLUMNS, slow)
    assert len(log.read_text().splitlines()) == computed
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_client_killed_in_the_middle_goes_on_where_it_stopped(tmp_path, address) -> None:
    path, log = tmp_path / "rows.csv", tmp_path / "log"
    wanted = [Run(str(log), number) for number in range(40)]
    program = (
        "from pathlib import Path\n"
        "from analysis.executors import cluster\n"
        "from analysis.runner import run_study\n"
        "from tests.squares import COLUMNS, Run, slow\n"
        f"with cluster({address!r}) as executor:\n"
        f"    wanted = [Run({str(log)!r}, number) for number in range(40)]\n"
        f"    run_study(wanted, Path({str(path)!r}), COLUMNS, slow, executor=executor)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not path.exists() or len(path.read_text().splitlines()) < 10:
        time.sleep(0.01)
    client.kill()
    client.wait()
    kept = path.read_text().splitlines()
    rows = carry_out(wanted, path, slow, address)
    assert list(rows["number"]) == list(range(40))
    assert set(kept[:-1]) <= set(path.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_configuration_that_kills_every_worker_becomes_a_row(tmp_path, scheduler) -> None:
    address, workers = scheduler
    more = [worker(address) for _ in range(4)]  # dask gives up on it at the fourth worker lost
    try:
        wanted = [*(Run("a", number) for number in range(12)), Run("deadly", 0)]
        rows = carry_out(wanted, tmp_path / "rows.csv", deadly, address)
        lost = sum(process.poll() is not None for process in [*workers, *more])
    finally:
        for process in more:
            process.kill()
            process.wait()
    assert list(rows["error"].notna()) == [False] * 12 + [True]
    assert rows["error"].iloc[-1].startswith("KilledWorker: ")
    assert lost == 4


def test_a_scheduler_that_is_not_there_is_said_to_be_missing(monkeypatch) -> None:
    monkeypatch.setattr("analysis.executors.CONNECT", 0.2)
    with (
        pytest.raises(ca.StorageError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 .*dask scheduler"),
        cluster("tcp://127.0.0.1:9"),
    ):
        pass
