"""The files of one result: all of them or none, never those of two results, and the old one kept until then.

Everything goes into a hidden folder first. Then the old files move out of the way, the new ones in: the file that
stands for the result leaves first and comes last, so that where it is, the others belong to it. A run that was
interrupted before the move has left the old result as it was; during the move, the next run ends it.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from constraint_algebra.errors import ConstraintAlgebraError, OutputExistsError, StorageError
from constraint_algebra.files.locks import hidden, locked
from constraint_algebra.files.names import is_folder, is_link, is_there, leads_somewhere
from constraint_algebra.files.space import check_folder, make
from constraint_algebra.files.writing import bring_to_disk, write

WAIT = 30.0  # seconds for another writer at the moment of writing, which takes it far less
log = logging.getLogger("constraint_algebra")


def refuse_existing(folder: Path, names: Sequence[str], *, overwrite: bool, needed: int = 0) -> None:
    """Refuse, before any work, what could not be written after it.

    Args:
        folder: where the result is to be; it need not exist.
        names: all files that such a result can have; where the first one is, the others are complete.
        overwrite: whether a result that is there may be replaced.
        needed: bytes that it is expected to take.

    Raises:
        OutputExistsError: a result is there, or the folder is none.
        StorageError: the folder takes no new files, or has no room.
    """
    if leads_somewhere(folder) and not is_folder(folder):
        raise OutputExistsError(f"{folder} is a file; name a folder with --out")
    check_folder(folder, needed)
    blocked = [name for name in names if is_folder(folder / name) and not is_link(folder / name)]
    if blocked:
        raise OutputExistsError(f"{folder / blocked[0]} is a folder; remove it, or name another folder with --out")
    there = [name for name in names if is_there(folder / name)]
    if there and not overwrite:
        whole = names[0] in there
        part = "" if whole else f" ({names[0]}, which comes last, is missing: what is there is incomplete)"
        raise OutputExistsError(
            f"{folder} already holds {', '.join(there)}; pass --force (overwrite=True) to replace them, or name another"
            f" folder with --out{part}"
        )


class ResultFolder:
    """A folder that one writer has for itself while the work lasts; a context manager.

    Raises:
        OutputExistsError: a result is there and `overwrite` is false.
        StorageError: another process has the folder, or it takes no new files, or has no room.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], *, overwrite: bool = False, needed: int = 0, wait: float = 0.0
    ) -> None:
        """Remember what is to be written; for the arguments see `refuse_existing` and `locked`."""
        self.folder, self.names, self._overwrite = folder, tuple(names), overwrite
        self._needed, self._wait = needed, wait
        self._lock: AbstractContextManager[None] | None = None
        self._made: list[Path] = []

    def __enter__(self) -> ResultFolder:
        refuse_existing(self.folder, self.names, overwrite=self._overwrite, needed=self._needed)
        self._made = make(self.folder)
        self._lock = locked(self.folder / self.names[0], wait=self._wait)
        try:
            self._lock.__enter__()
        except BaseException:
            self._lock = None
            self._remove_empty()
            raise
        try:
            self._recover()
            refuse_existing(self.folder, self.names, overwrite=self._overwrite)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.__exit__(None, None, None)
            self._lock = None
        self._remove_empty()

    def write(self, contents: Mapping[str, bytes], *, result: Any = None) -> list[Path]:
        """Write the files of a result, in the place of those of an earlier one; return their paths.

        Args:
            contents: the files by name, among them the first of `names`.
            result: what they come from, to go along with the exception.

        Raises:
            StorageError: the disk refuses. The old result is still whole; the new one is in a temporary folder that
                the message names (`kept`), where that was possible, and `result` is an attribute.
        """
        try:
            return self.put(contents)
        except (ConstraintAlgebraError, OSError) as error:
            raise with_result_kept(error, self.folder, contents, result) from error

    def put(self, contents: Mapping[str, bytes]) -> list[Path]:
        """Write as `write` does, and leave it to the caller to keep the result where that fails."""
        self._stage(contents)
        self._move_out()
        self._move_in()
        return [self.folder / name for name in self.names if name in contents]

    def _hidden(self, state: str) -> Path:
        return hidden(self.folder / self.names[0], state)

    def _stage(self, contents: Mapping[str, bytes]) -> None:
        """Bring all files to the disk in a hidden folder, which is called `ready` once they are there."""
        stage = self._hidden("begun")
        try:
            stage.mkdir()
            for name in self.names:
                if name in contents:
                    write(stage / name, contents[name])
            stage.rename(self._hidden("ready"))
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        bring_to_disk(self.folder)

    def _move_out(self) -> None:
        """Move the old result away, to come back if the move fails; then the new one is called `moving`."""
        ready, old = self._hidden("ready"), self._hidden("old")
        try:
            old.mkdir(exist_ok=True)
            for name in self.names:
                if is_there(self.folder / name):
                    (self.folder / name).replace(old / name)
            ready.rename(self._hidden("moving"))
        except BaseException:
            self._bring_back()
            shutil.rmtree(ready, ignore_errors=True)
            raise

    def _move_in(self) -> None:
        """Move the new files in, the one that stands for all at last, and let the old ones go."""
        moving, old = self._hidden("moving"), self._hidden("old")
        there = [name for name in reversed(self.names) if is_there(moving / name)]
        try:
            for name in there:
                (moving / name).replace(self.folder / name)
        except BaseException:
            for name in reversed(there):
                if not is_there(moving / name):
                    (self.folder / name).replace(moving / name)
            moving.rename(self._hidden("begun"))
            self._bring_back()
            shutil.rmtree(self._hidden("begun"), ignore_errors=True)
            raise
        bring_to_disk(self.folder)
        shutil.rmtree(old, ignore_errors=True)  # first, because old files without `moving` are those to bring back
        shutil.rmtree(moving, ignore_errors=True)

    def _bring_back(self) -> None:
        old = self._hidden("old")
        for name in reversed(self.names):
            if is_there(old / name):
                (old / name).replace(self.folder / name)
        shutil.rmtree(old, ignore_errors=True)

    def _recover(self) -> None:
        """Put in order what an interrupted run left: end a move that had begun, and remove what was not ready."""
        if self._hidden("ready").is_dir():
            self._move_out()
        if self._hidden("moving").is_dir():
            self._move_in()
            log.warning("note: %s holds the result of an earlier run, which was interrupted at its end", self.folder)
        self._bring_back()
        shutil.rmtree(self._hidden("begun"), ignore_errors=True)

    def _remove_empty(self) -> None:
        """Remove the folders that were made for a result that did not come."""
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                break
        self._made = []


def write_result(
    folder: Path, names: Sequence[str], contents: Mapping[str, bytes], *, overwrite: bool, result: Any = None
) -> list[Path]:
    """Write the files of one result into a folder, which is made where it is missing; return their paths.

    For the arguments see `refuse_existing` and `ResultFolder.write`. Another writer is waited for.

    Raises:
        OutputExistsError: a result is there and `overwrite` is false.
        StorageError: the folder or the disk refuses; see `ResultFolder.write` for where the result is then.
    """
    needed = sum(map(len, contents.values()))
    try:
        with ResultFolder(folder, names, overwrite=overwrite, needed=needed, wait=WAIT) as place:
            return place.put(contents)
    except (ConstraintAlgebraError, OSError) as error:
        raise with_result_kept(error, folder, contents, result) from error


def with_result_kept(
    error: Exception, place: Path, contents: Mapping[str, bytes], result: Any = None
) -> ConstraintAlgebraError:
    """Return an error that tells where a result is that could not be written: in a temporary folder, and in `result`.

    Args:
        error: what went wrong.
        place: where the result should have been.
        contents: its files by name.
        result: the object behind them.
    """
    if not isinstance(error, ConstraintAlgebraError):
        reason = getattr(error, "strerror", None) or error
        error = StorageError(f"{place} cannot be written ({reason}); free some space, or set its rights")
    kept = _keep(contents)
    where = "no temporary folder could take the result either" if kept is None else f"the result is kept in {kept}"
    told = type(error)(f"{error}. What was there is as it was; {where}")
    told.kept, told.result = kept, result
    return told


def _keep(contents: Mapping[str, bytes]) -> Path | None:
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="constraint-algebra-kept-"))
        for name, content in contents.items():
            write(folder / name, content)
    except (OSError, ConstraintAlgebraError):
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder
