"""Whether a folder can be written to and has room: asked before the work, so that no result is lost at its end."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from constraint_algebra.errors import OutputExistsError, StorageError
from constraint_algebra.files.locks import FLAGS, MARK
from constraint_algebra.files.names import is_folder, is_link, is_there, leads_somewhere

RESERVED = 2**26  # bytes that are tried for real; more are compared with what the file system says is free
REFUSED = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def check_folder(folder: Path, needed: int = 0) -> None:
    """Check that a folder, or the first one above it that exists, takes a new file of so many bytes.

    Args:
        folder: the folder, which need not exist yet.
        needed: bytes that the result is expected to take.

    Raises:
        StorageError: it is no folder, refuses new files, or has no room.
    """
    place = _first_existing(folder)
    try:
        number = _unnamed(place / f"{MARK}probe")
        try:
            _reserve(number, needed)
        finally:
            os.close(number)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        some = f" {needed:,} bytes" if needed else ""
        raise StorageError(
            f"{folder} cannot take{some or ' a new file'} ({reason}); free some space, set the folder's rights,"
            " or name another folder"
        ) from error


def check_file(path: Path, *, overwrite: bool, needed: int = 0) -> None:
    """Check that a file can be written: that nothing is lost by it, and its folder as `check_folder`.

    Raises:
        OutputExistsError: something is there and `overwrite` is false, or it is a folder.
        StorageError: as `check_folder`.
    """
    refuse_file(path, overwrite=overwrite)
    check_folder(path.parent, needed)


def refuse_file(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputExistsError` where something of that name, be it a link that leads nowhere, would be overwritten."""
    if is_folder(path) and not is_link(path):
        raise OutputExistsError(f"{path} is a folder; name a file")
    if is_there(path) and not overwrite:
        link = f" (a link to {path.readlink()})" if is_link(path) else ""
        raise OutputExistsError(
            f"{path} is already there{link}; pass overwrite=True (--force) to replace it, or choose another name"
        )


def folder_within(root: Path, name: str) -> Path:
    """Return a folder below another one, made where it is missing; a link is refused, as it may lead elsewhere.

    Raises:
        StorageError: it is a link or a file, or cannot be made.
    """
    folder = root / name
    if folder.is_symlink():
        raise StorageError(f"{folder} is a link to {folder.readlink()}, and links are not followed; remove it")
    make(folder)
    return folder


def make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that were missing, the innermost first.

    Raises:
        StorageError: that is not possible.
    """
    new = []
    _first_existing(folder)
    for each in (folder, *folder.parents):
        if leads_somewhere(each):
            break
        new.append(each)
    try:
        if new:
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"folder {folder} cannot be made ({reason}); name another one, or set the rights") from error
    return new


def _first_existing(folder: Path) -> Path:
    for each in (folder, *folder.parents):
        if is_folder(each):
            return each
        if is_there(each):
            what = "is a file" if leads_somewhere(each) else f"is a link to {each.readlink()}, which does not exist"
            raise StorageError(f"{each} {what}; name a folder")
    return Path()


def _unnamed(path: Path) -> int:
    """Open a new file whose name goes at once, so that nothing stays if this process is killed."""
    while True:
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, 0o600)
        except FileExistsError:  # another one that asks just now, or was killed between these two lines
            path.unlink(missing_ok=True)
            continue
        path.unlink(missing_ok=True)
        return number


def _reserve(number: int, needed: int) -> None:
    """Take the space for a moment; raise `OSError` where there is less."""
    if needed > RESERVED and shutil.disk_usage(number).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not needed or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(number, 0, min(needed, RESERVED))
    except OSError as error:
        if error.errno in REFUSED:
            raise
