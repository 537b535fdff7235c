"""`kill -9` of a study, an audit, a certificate with intervals, a hunt and the paper, at twenty random moments each.

Afterwards the same command comes to its end, and what is there then is what a run makes that nobody disturbs, but for
times: nothing is lost, nothing is there twice, nothing is left over. The same if it loses workers and goes on itself.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults import killed
from tests.faults.killing import Command
from tests.hunt.running import Share

KILLS = 20
COMMANDS = {name: getattr(killed, name) for name in ("study", "audit", "certificate", "hunt", "paper")}
WORKERS = {"study": 10, "certificate": 5, "hunt": 4, "paper": 3}  # how many of them are killed, at most
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc"),
]
_undisturbed: dict[str, tuple[Command, Any, float]] = {}


@pytest.fixture
def command(request, tmp_path_factory) -> tuple[Command, Any, float]:
    """A command, what it makes when nobody disturbs it, and how long that takes."""
    name = request.param
    if name not in _undisturbed:
        folder = tmp_path_factory.mktemp(name)
        made = COMMANDS[name](folder)
        _undisturbed[name] = (made, *made.undisturbed(folder / "undisturbed"))
    return _undisturbed[name]


def drawn(name: str) -> random.Random:
    seed = random.SystemRandom().randrange(10**6)
    print(f"{name}, seed {seed}")  # noqa: T201 -- of a failure
    return random.Random(seed)


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_killed_at_twenty_random_moments_it_comes_to_its_end(tmp_path, command, request) -> None:
    command, standard, span = command
    command.killed(drawn(request.node.name), KILLS, tmp_path, standard, span)
    print(dict(command.counts))  # noqa: T201 -- with -rP


@pytest.mark.parametrize("command", WORKERS, indirect=True)
def test_killed_workers_cost_it_nothing(tmp_path, command, request) -> None:
    name = request.node.callspec.params["command"]
    command, standard, _ = command
    # What may have been at work: of a hunt, the first that is missing of each process. Others do it again at once.
    first = lambda done, place: next(seed for seed in Share(range(10**6), place, jobs=2) if seed not in done)  # noqa: E731
    at_work = lambda done: {first(done, 0), first(done, 1)} if name == "hunt" else set()  # noqa: E731
    command.loses_workers(drawn(request.node.name), WORKERS[name], tmp_path / "place", standard, at_work)
    print(dict(command.counts))  # noqa: T201 -- with -rP
    assert command.counts["lost a worker"] >= 1  # a quick machine comes to the end before the others
