"""What a restarted study had before: kept beside it until the new rows are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from constraint_algebra.errors import StorageError
from constraint_algebra.files.locks import hidden, log


def folder_of(path: Path) -> Path:
    """Return where the rows of a study are kept that is begun anew.

    >>> folder_of(Path("results/noise.csv")).as_posix()
    'results/noise.before-restart'
    """
    return path.with_name(f"{path.stem}.before-restart")


@contextmanager
def kept_aside(path: Path, also: Sequence[Path] = (), *, begin: bool) -> Iterator[Callable[[int], None]]:
    """Move what a study has out of its way, if it begins anew; the caller holds its lock.

    Where an earlier restart has not come to its end, what was there before it is what is kept, and not its rows.

    Args:
        path: the CSV file; the JSON file and the folder of arrays belong to it.
        also: what else does.
        begin: whether to begin anew.

    Yields:
        A function to call with the number of failed rows once all are there: without any, what was kept is removed,
        unless this is a later run of a smaller plan.
    """
    kept, moving = folder_of(path), hidden(path, "aside")
    parts = [path, path.with_suffix(".json"), path.with_suffix(""), *also]
    try:
        _put_back(parts, moving)
        if begin and os.path.lexists(kept):
            _remove(parts)
        elif begin and any(map(os.path.lexists, parts)):
            _set_aside(parts, moving)
            moving.rename(kept)
            log.warning("note: the rows until now are kept in %s until the new ones are complete", kept)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be begun anew ({error.strerror}); check the folder, its rights and the space"
        ) from error

    def finished(failed: int) -> None:
        if kept.is_dir() and not kept.is_symlink():
            if failed:
                log.warning("note: the earlier rows stay in %s, because %d of the new ones failed", kept, failed)
            elif not begin and _lines(kept / path.name) > _lines(path):
                log.warning("note: the earlier rows stay in %s, because they are more than the new ones", kept)
            else:
                shutil.rmtree(kept, ignore_errors=True)

    yield finished


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _remove(parts: Sequence[Path]) -> None:
    for part in parts:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)  # a link goes, what it leads to stays


def _set_aside(parts: Sequence[Path], moving: Path) -> None:
    moving.mkdir()
    for part in parts:
        if os.path.lexists(part):
            part.rename(moving / part.name)


def _put_back(parts: Sequence[Path], moving: Path) -> None:
    """Undo a move that was interrupted."""
    for part in parts:
        if os.path.lexists(moving / part.name) and not os.path.lexists(part):
            (moving / part.name).rename(part)
    with suppress(FileNotFoundError):
        moving.rmdir()
