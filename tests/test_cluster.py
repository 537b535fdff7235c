"""Studies on a real `dask.distributed` cluster: a scheduler and two worker processes on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

import constraint_algebra as ca
from analysis.executors import cluster
from analysis.runner import run_study
from tests.squares import COLUMNS, Run, deadly, slow

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[1]


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


@pytest.fixture
def scheduler():
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


def carry_out(wanted, path, judge, address) -> pd.DataFrame:
    """The study on the cluster, once both workers are there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with cluster(address) as executor:
                executor._client.wait_for_workers(2, timeout=30)
                return run_study(wanted, path, COLUMNS, judge, executor=executor)
        except ca.StorageError as error:
            if "no scheduler answers" not in str(error) or time.monotonic() > deadline:
                raise


@pytest.mark.filterwarnings("default")
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
def test_the_client_killed_in_the_middle_goes_on_where_it_stopped(tmp_path, scheduler) -> None:
    address, _ = scheduler
    path, log = tmp_path / "rows.csv", tmp_path / "log"
    wanted = [Run(str(log), number) for number in range(60)]
    carry_out(wanted[:2], tmp_path / "other.csv", slow, address)  # the cluster is up
    program = (
        "from pathlib import Path\n"
        "from analysis.executors import cluster\n"
        "from analysis.runner import run_study\n"
        "from tests.squares import COLUMNS, Run, slow\n"
        f"with cluster({address!r}) as executor:\n"
        f"    wanted = [Run({str(log)!r}, number) for number in range(60)]\n"
        f"    run_study(wanted, Path({str(path)!r}), COLUMNS, slow, executor=executor)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not path.exists() or len(path.read_text().splitlines()) < 15:
        time.sleep(0.01)
    client.kill()
    client.wait()
    kept = path.read_text().splitlines()
    rows = carry_out(wanted, path, slow, address)
    assert list(rows["number"]) == list(range(60))
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
