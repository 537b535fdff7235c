"""One file, whole or not at all: written beside its place, brought to the disk, and moved into place in one step.

The temporary file has a fixed name, and is locked while somebody writes it. So it is its own lock: a second writer
waits, and one that nobody holds is what an interrupted run left, which the next writer of the same file removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from constraint_algebra.errors import StorageError
from constraint_algebra.files.locks import PAUSE, alone, hidden, let_go, opened
from constraint_algebra.files.names import is_folder, is_there
from constraint_algebra.files.space import refuse_file

WAIT = 30.0  # seconds for another writer of the same file, who needs as long as the disk does
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a file so that an interruption or a full disk leaves either the old one or the new one, whole.

    A link in its place is replaced and never followed; its target stays as it is.

    Args:
        path: the file; its folder must exist.
        content: all of it.
        overwrite: whether what is there may be replaced; if not, of two writers at once one is refused.

    Raises:
        OutputExistsError: something is there and `overwrite` is false.
        StorageError: the folder is missing, or the disk refuses.
    """
    refuse_file(path, overwrite=overwrite)
    try:
        _write(path, content, overwrite=overwrite)
    except FileExistsError:
        refuse_file(path, overwrite=False)
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise StorageError(cannot(path, error)) from error


def cannot(path: Path, error: Exception) -> str:
    """Return the sentence that a file cannot be written, and why."""
    if not is_folder(path.parent):
        return f"{path}: folder {path.parent} does not exist; create it first"
    reason = getattr(error, "strerror", None) or error
    return f"{path} cannot be written ({reason}); check the folder, its rights and the space"


def bring_to_disk(folder: Path) -> None:
    """Ask the system to keep the names in a folder over a loss of power, where it can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_through(number: int, content: bytes) -> None:
    """Write all bytes to an open file, and bring them to the disk."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(number, rest) :]
    os.fsync(number)


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    temporary = hidden(path, "new")
    number = _new(temporary, path)
    try:
        write_through(number, content)
        if overwrite:
            temporary.replace(path)
        else:
            _place(temporary, path)
        bring_to_disk(path.parent)
    finally:
        if alone(number, temporary):  # not moved: still ours
            temporary.unlink(missing_ok=True)
        let_go(number)


def _new(temporary: Path, path: Path) -> int:
    """Return a temporary file that is new and locked; one that nobody holds is removed first."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            number = opened(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            if number is not None and alone(number, temporary):
                return number
        except FileExistsError:
            number = opened(temporary, os.O_RDONLY)
            if number is not None and alone(number, temporary):
                temporary.unlink()
        if number is not None:
            let_go(number)
        if time.monotonic() > deadline:
            raise StorageError(f"another process writes to {path}; wait for it, or choose another name")
        time.sleep(PAUSE)


def _place(temporary: Path, path: Path) -> None:
    """Give the file its name unless something has it, in one step where the file system has hard links."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if is_there(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)
    else:
        temporary.unlink()
