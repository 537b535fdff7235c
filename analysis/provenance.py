"""Where results come from: commit, versions, seed, arguments, kept in a JSON file beside the rows."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from constraint_algebra.errors import StorageError
from constraint_algebra.experiments.results import versions
from constraint_algebra.files.space import make
from constraint_algebra.files.writing import write


@cache
def commit() -> str:
    """Return the commit of the repository, "-dirty" added where files differ from it; "unknown" outside of one."""
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


@cache
def provenance() -> dict[str, str]:
    """Return when and where a row was measured: date, commit, versions, processor type."""
    import numpy as np
    import scipy

    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def packages() -> dict[str, str]:
    """Return the versions of what rows may hang on: those of a reconstruction, and scikit-learn's where it is there."""
    try:
        return versions() | {"scikit-learn": metadata.version("scikit-learn")}
    except metadata.PackageNotFoundError:
        return versions()


class Sidecar:
    """The JSON file beside the rows of a study: an entry for every time that it was started with something to do."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            path: the JSON file.
            about: study, arguments, seed.

        Raises:
            StorageError: it is damaged, or something else.
        """
        self.path, self.about = path, dict(about)
        self.content: dict[str, Any] = _read(path) if path.exists() else {}
        self.content.setdefault("sessions", [])

    def begin(self) -> None:
        """Add an entry for this session, before the work: if that is killed, the rows still have an origin."""
        self.started = time.time()
        self.session: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "commit": commit(),
            "versions": packages(),
            "machine": f"{platform.system()} {platform.machine()}",
            **self.about,
            "new_rows": None,
        }
        self.content["sessions"].append(self.session)
        self._write()

    def other_commit(self) -> str | None:
        """Return the commit of the last session where that is not the present one."""
        last = self.content["sessions"][-1]["commit"] if self.content["sessions"] else commit()
        return None if last == commit() else str(last)

    def end(self, *, new_rows: int | None, rows: int, failed: int) -> None:
        """Say what came of the session; without `new_rows` there was none, and only the totals are put right."""
        if new_rows is not None:
            self.session |= {"new_rows": new_rows, "wall_s": round(time.time() - self.started, 1)}
        self.content |= {"rows": rows, "failed": failed}
        self._write()

    def _write(self) -> None:
        make(self.path.parent)
        text = json.dumps(self.content, indent=2, ensure_ascii=False) + "\n"
        write(self.path, text.encode("utf-8", "backslashreplace"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}); check its rights") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, " ".join(str(error).split())) from error
    sessions = content.get("sessions", []) if isinstance(content, dict) else None
    if not isinstance(sessions, list) or not all(_has_commit(session) for session in sessions):
        raise _damaged(path, "it does not list sessions with their commits")
    found: dict[str, Any] = content
    return found


def _has_commit(session: object) -> bool:
    return isinstance(session, dict) and isinstance(session.get("commit"), str)


def _damaged(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path}, which says where the rows beside it come from, is damaged ({reason}); restore it, move it away"
        " (the rows stay, and nobody knows their origin), or begin anew with --restart"
    )
