"""Writers that end at each of their steps in turn, as `kill -9` would end them; as a module it prints what they leave.

    python -m tests.faults.dying FOLDER result|file

A step is whatever Python tells an audit hook of files. The writer is a forked child that ends without any clean-up.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from constraint_algebra.files.locks import MARK
from constraint_algebra.files.result_folder import ResultFolder, write_result
from constraint_algebra.files.writing import write

NAMES = ("head.json", "arrays.npz", "picture.png")
OLD = {"head.json": b"old", "arrays.npz": b"old" * 1000, "picture.png": b"old"}
NEW = {"head.json": b"new", "arrays.npz": b"new" * 2000}  # without a picture: that of the old result must not stay
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "fcntl.flock"}


def state(folder: Path) -> str:
    """Which result is in a folder: old, new, none (nothing stands for one), or mixed."""
    there = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(MARK)}
    if there == OLD:
        return "old"
    if there == NEW:
        return "new"
    return "mixed" if NAMES[0] in there else "none"


def hidden_in(folder: Path) -> list[str]:
    """What is left of interrupted writers."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(MARK))


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Whether the work ends before it comes to that step; otherwise it ends there."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, _arguments: object) -> None:
            nonlocal count
            if event in STEPS:
                if count == step:
                    os._exit(9)
                count += 1

        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def results(root: Path) -> list[dict[str, object]]:
    """What a result that replaces another one leaves at each step, and what the next writer makes of it."""
    found: list[dict[str, object]] = []
    while True:
        folder = root / str(len(found))
        write_result(folder, NAMES, OLD, overwrite=False)
        done = dies_at(len(found), lambda: write_result(folder, NAMES, NEW, overwrite=True))  # noqa: B023 -- at once
        seen = state(folder)
        with ResultFolder(folder, NAMES, overwrite=True):
            pass
        found.append({"seen": seen, "after": state(folder), "hidden": hidden_in(folder)})
        if done:
            return found


def files(root: Path) -> list[dict[str, object]]:
    """The same of one file."""
    found: list[dict[str, object]] = []
    while True:
        path = root / str(len(found)) / "a.bin"
        path.parent.mkdir()
        write(path, b"old")
        done = dies_at(len(found), lambda: write(path, b"new"))  # noqa: B023 -- at once
        seen = path.read_bytes().decode()
        write(path, b"third")
        found.append({"seen": seen, "after": path.read_bytes().decode(), "hidden": hidden_in(path.parent)})
        if done:
            return found


if __name__ == "__main__":
    print(json.dumps({"result": results, "file": files}[sys.argv[2]](Path(sys.argv[1]))))  # noqa: T201
