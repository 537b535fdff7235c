"""One writer at a time, across processes: a lock file that says who holds it, and goes when its holder is done.

The operating system gives the lock back when a process ends, however it ends. A lock file that nobody holds is
therefore what a run left that was interrupted, and the next one says so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from constraint_algebra.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows: files are still whole, and two writers at a time are not noticed
    fcntl = None  # type: ignore[assignment]

MARK = ".constraint-algebra-"  # how every hidden file of this library begins
LONGEST = 160  # bytes of a name that a hidden name repeats: file systems allow 255 for all of it
GRACE = 0.1  # seconds in which a lock that is let go just now, or a link in its place, is tried again
PAUSE = 0.02  # seconds between two looks at a lock that somebody holds
log = logging.getLogger("constraint_algebra")
# A link in the place of a hidden file is never followed; a lock is not inherited by programs that are started.
FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def hidden(target: Path, purpose: str) -> Path:
    """Return the hidden name beside a file that serves a purpose.

    >>> hidden(Path("out/a.npz"), "lock").as_posix()
    'out/.constraint-algebra-lock-a.npz'
    """
    name = target.name
    if len(os.fsencode(name)) > LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.with_name(f"{MARK}{purpose}-{name}")


@contextlib.contextmanager
def locked(target: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file or of a result, whose folder exists.

    Args:
        target: the file, or the file that stands for the result.
        wait: seconds to wait for another holder.

    Raises:
        StorageError: another process, or another thread of this one, holds it still; or the folder refuses.
    """
    path, deadline = hidden(target, "lock"), time.monotonic() + max(wait, GRACE)
    while (number := _taken(path, target)) is None:
        if time.monotonic() >= deadline:
            raise StorageError(f"another process writes to {target}{_told(path)}; wait for it, or choose another place")
        time.sleep(PAUSE)
    try:
        _sign(number, target)
        yield
    finally:
        # Removed while it is still held: whoever opened it meanwhile sees that it is no longer the file of that name.
        with contextlib.suppress(OSError):
            path.unlink()
        let_go(number)


def opened(path: Path, flags: int) -> int | None:
    """Open a hidden file; `None` where it vanished or was a link, which is removed: try again."""
    try:
        return os.open(path, flags | FLAGS, 0o666)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        path.unlink(missing_ok=True)
        return None


def alone(number: int, path: Path) -> bool:
    """Lock an open file; whether that worked and it is still the one of that name."""
    if fcntl is not None:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: go on without
    try:
        there, mine = path.lstat(), os.fstat(number)
    except OSError:
        return False
    return os.path.samestat(there, mine)


def let_go(number: int) -> None:
    """Unlock and close; forked children may hold the same open file, and must not keep it locked."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_UN)
    os.close(number)


def _taken(path: Path, target: Path) -> int | None:
    try:
        number = opened(path, os.O_RDWR | os.O_CREAT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{target} cannot be written ({reason}); check the folder, its rights and space") from error
    if number is not None and not alone(number, path):
        os.close(number)
        return None
    return number


def _sign(number: int, target: Path) -> None:
    """Say of an interrupted run that it was, and write who holds the lock now."""
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
        before = os.read(number, 1000).decode("utf-8", "replace").strip()
        if before:
            log.warning("note: an earlier run that wrote to %s was interrupted, and is incomplete (%s)", target, before)
        command = " ".join(Path(word).name if n == 0 else word for n, word in enumerate(sys.argv))[:200]
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()}, since {since}: {command}\n"
        os.ftruncate(number, 0)
        os.pwrite(number, text.encode("utf-8", "backslashreplace"), 0)


def _told(path: Path) -> str:
    try:
        text = path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return f" ({text})" if text else ""
