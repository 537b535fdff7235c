"""Commands that are killed at random moments until they come to their end, and commands that lose their workers.

A moment is drawn from the time that the work takes when nobody disturbs it, which begins when a file, such as a lock,
names the process; what comes before that, the loading of packages, writes nothing.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from constraint_algebra.files.locks import MARK, hidden
from tests.faults.test_processes import all_ended, children, started

PATIENCE = 200.0  # seconds for anything
LOOK = 0.005  # seconds between two looks
PART = 0.6  # of the time that all of the work takes, within which one that is resumed is killed again
MOMENT = 0.02  # seconds in which the files of a result are moved into place


@dataclass
class Command:
    """A command that works in the folder where it is started.

    Attributes:
        words: of its command line, after the name of Python.
        sign: the file that names the process once the work has begun; a name in the folder.
        result: what is there, without times, as something to compare.
        done: parts of the work that are done, as a growing set.
        check: what must hold whenever the command was killed.
        prepare: a folder before the command is started there for the first time.
        codes: it may end with.
        writes: what is there only while a result is written, to aim at every second time.
        resumes: whether it goes on where it was killed.
        counts: how often it came to its end, was killed, and lost a worker.
    """

    words: list[str]
    sign: Path
    result: Callable[[Path], Any]
    done: Callable[[Path], set[Any]]
    check: Callable[[Path], object] = lambda _: None
    prepare: Callable[[Path], object] = lambda _: None
    codes: tuple[int, ...] = (0,)
    writes: Path | None = None
    resumes: bool = True
    counts: Counter[str] = field(default_factory=Counter)

    def undisturbed(self, place: Path) -> tuple[Any, float]:
        """Return the result of a run that nobody disturbs, and the seconds from its beginning to its end."""
        self._made(place)
        with started(self.words, place) as process:
            self._begun(process, place)
            since = time.monotonic()
            self._ends(process)
        return self.result(place), time.monotonic() - since

    def killed(self, chance: random.Random, times: int, folder: Path, standard: Any, span: float) -> None:
        """Kill it at so many random moments; whenever it comes to its end before, compare, and begin anew elsewhere."""
        place = self._made(folder / "0")
        while self.counts["killed"] < times:
            if self._killed_once(chance, place, span):
                self.counts["killed"] += 1
                self.check(place)
            else:
                self.counts["at its end before"] += 1
                self._compare(place, standard)
                place = self._made(folder / str(self.counts["at its end before"]))
        with started(self.words, place) as process:
            self._ends(process)
        self._compare(place, standard)

    def loses_workers(
        self, chance: random.Random, times: int, place: Path, standard: Any, at_work: Callable[[set[Any]], set[Any]]
    ) -> None:
        """Kill a worker so many times, each time once that is done which the last one may have been at."""
        self._made(place)
        with started(self.words, place) as process:
            assert self._begun(process, place)
            while self.counts["lost a worker"] < times and process.poll() is None:
                time.sleep(chance.uniform(0, 0.5))
                workers, before = workers_of(process), self.done(place)
                if workers:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(workers), signal.SIGKILL)
                    self.counts["lost a worker"] += 1
                    wait_until(lambda b=before: self.done(place) > b | at_work(b), process)
            self._ends(process)
        self._compare(place, standard)

    def _made(self, place: Path) -> Path:
        place.mkdir(parents=True)
        self.prepare(place)
        return place

    def _begun(self, process: Popen[str], place: Path) -> bool:
        """Wait for the work to begin; false where it ended before that was seen."""
        sign = place / self.sign

        def named() -> bool:
            try:
                return f"process {process.pid} " in sign.read_text()
            except FileNotFoundError:
                return False

        return wait_until(named, process)

    def _killed_once(self, chance: random.Random, place: Path, span: float) -> bool:
        """Start it, and kill it unless it ends before; its workers end with it."""
        with started(self.words, place) as process:
            if self._begun(process, place):
                moment = chance.uniform(0, span * (PART if self.resumes else 1))
                if self.writes is not None and self.counts["killed"] % 2:
                    wait_until((place / self.writes).exists, process, 0.0)
                    moment = chance.uniform(0, MOMENT)
                try:
                    process.wait(moment)
                except TimeoutExpired:
                    workers = workers_of(process)
                    process.kill()
                    process.communicate(timeout=PATIENCE)  # its workers hold the pipe; some only just begin
                    assert all_ended(workers)
                    return True
            self._ends(process)
            return False

    def _ends(self, process: Popen[str]) -> None:
        """Wait for the end, which must be a good one."""
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode in self.codes, (output, errors)
        assert "Traceback" not in errors, errors

    def _compare(self, place: Path, standard: Any) -> None:
        assert self.result(place) == standard
        assert [str(path) for path in place.rglob(f"{MARK}*")] == []


def lock_of(name: str) -> Path:
    """The lock of a file, or of the first file of a result."""
    return hidden(Path(name), "lock")


def wait_until(what: Callable[[], bool], process: Popen[str], pause: float = LOOK) -> bool:
    """Wait until something holds; false where the process ended before."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(pause)
    return True


def workers_of(process: Popen[str]) -> list[int]:
    """The processes that compute for another one; Python has one more, to clean up after them."""
    return [pid for pid in children(process.pid) if b"spawn_main" in _command_line(pid)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
