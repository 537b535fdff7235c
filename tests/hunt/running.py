"""Many cases in processes of their own, each of which loses at most the case that it is at."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from constraint_algebra.files.locks import locked
from tests.hunt.drawing import drawn
from tests.hunt.records import Record, append, resumed

STUCK = 300.0  # seconds after which a case is given up, with its process
STARTS = 3  # deaths of a process that has begun no case since, after which it will not come to one
WAIT = 0.2  # seconds between two looks at the processes

Judge = Callable[[int], Record]


@dataclass(frozen=True)
class Share:
    """What one of several processes does: every so many pairs of seeds, as chains and graphs take turns."""

    seeds: range
    place: int
    jobs: int

    def __iter__(self) -> Iterator[int]:
        """One seed after the other, however many there are."""
        return (seed for seed in self.seeds if seed // 2 % self.jobs == self.place)


@dataclass
class Worker:
    """A process, which of the seeds are its own, and the one that it is at, with the time when it began."""

    seeds: Share
    at: Any
    since: Any
    process: BaseProcess | None = None
    deaths: dict[int, int] = field(default_factory=dict)


def hunt(
    path: Path,
    seeds: range,
    judge: Judge,
    *,
    jobs: int = 1,
    seconds: float = float("inf"),
    stuck: float = STUCK,
) -> dict[int, Record]:
    """Judge the cases of all seeds that are not in the file yet, and return all that is in it, by seed.

    Args:
        path: of the file; one line is added for each case.
        seeds: of the cases.
        judge: what makes a record of a seed; a function of a module, which processes import.
        jobs: number of processes.
        seconds: after which no case is begun.
        stuck: seconds after which a case is given up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        resumed(path)
        context = multiprocessing.get_context("spawn")
        deadline = time.time() + seconds
        # Without locks, which a process that is killed would take with it.
        numbers = [(context.Value("q", -1, lock=False), context.Value("d", 0.0, lock=False)) for _ in range(jobs)]
        workers = [Worker(Share(seeds, n, jobs), *numbers[n]) for n in range(jobs)]
        try:
            while workers:
                workers = [w for w in workers if _tended(w, path, context, deadline, judge, stuck)]
                time.sleep(WAIT)
        finally:
            for w in workers:
                if w.process is not None and w.process.is_alive():
                    w.process.kill()
                    w.process.join()
        return resumed(path)


def _tended(worker: Worker, path: Path, context: Any, deadline: float, judge: Judge, stuck: float) -> bool:
    """Start the process, give its case up or start it again after its death; whether it has more to do."""
    process = worker.process
    if process is not None and process.is_alive():
        if worker.at.value >= 0 and time.time() - worker.since.value > stuck:
            process.kill()
            process.join()
            _given_up(worker, path, f"no result after {stuck:.0f} s")
        else:
            if worker.at.value >= 0:
                worker.deaths.pop(-1, None)
            return True
    elif process is not None and process.exitcode == 0:
        return False
    elif process is not None:
        seed = worker.at.value
        worker.deaths[seed] = worker.deaths.get(seed, 0) + 1
        if worker.deaths.get(-1, 0) > STARTS:
            raise RuntimeError(f"a process of the hunt cannot start: it ended with exit code {process.exitcode}")
        if seed >= 0:
            worker.deaths.pop(-1, None)
            if worker.deaths[seed] > 1:  # once may be anybody's kill
                _given_up(worker, path, f"the process died twice, at last with exit code {process.exitcode}")
    worker.at.value = -1
    done = frozenset(resumed(path))
    given = (str(path), worker.seeds, done, deadline, worker.at, worker.since, judge, os.getpid())
    worker.process = context.Process(target=_work, args=given, daemon=True)
    worker.process.start()
    return True


def _given_up(worker: Worker, path: Path, words: str) -> None:
    seed = worker.at.value
    if seed in resumed(path):  # its last act
        return
    recipe = drawn(seed)
    kind = "stuck" if words.startswith("no result") else "died"
    append(path, Record(seed, "unknown", recipe.precision, recipe.is_graph, kind, [[kind, words]]))


def _work(
    path: str, seeds: Share, done: frozenset[int], deadline: float, at: Any, since: Any, judge: Judge, parent: int
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for seed in seeds:
        if seed in done:
            continue
        if time.time() > deadline or os.getppid() != parent:
            return
        since.value, at.value = time.time(), seed
        # Once the parent is gone, another run may have begun, and judges this case itself.
        append(Path(path), judge(seed), wanted=lambda: os.getppid() == parent)
        at.value = -1


def _end_with(parent: int) -> None:
    """End once the parent is gone, in the middle of a case as well."""
    while os.getppid() == parent:
        time.sleep(WAIT)
    os._exit(0)
