"""Rows in a CSV file that grows one row at a time and survives whatever interrupts it.

A row is one line, written at once and flushed to the disk: a crash can cut off the last line and nothing else, and
the next one to open the file removes that piece. One process at a time writes.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import pandas as pd

from constraint_algebra.errors import StorageError

ANOTHER = "it comes from another version of the program"


class RowFile:
    """A CSV file, open to append rows; made with its folder if it is new.

    Raises:
        StorageError: the file has other columns, or another process writes to it.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Open, repair and check the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.columns = path, list(columns)
        self._file: IO[str] = path.open("a+", newline="", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove_piece()
            self._check_header()
        except BlockingIOError as error:
            self._file.close()
            raise StorageError(f"another process writes to {path}; wait for it, or choose another folder") from error
        except BaseException:
            self._file.close()
            raise

    def append(self, row: Mapping[str, object]) -> None:
        """Append one row; what it lacks stays empty, and line breaks in texts become spaces.

        Raises:
            StorageError: the row has a value for which there is no column.
        """
        unknown = [name for name in row if name not in self.columns]
        if unknown:
            raise StorageError(f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(self.columns)}")
        self._write(_line(row.get(name) for name in self.columns))

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()  # which also gives the lock back

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _remove_piece(self) -> None:
        size = len(_whole_lines(self.path).encode())
        if size < self.path.stat().st_size:
            os.truncate(self.path, size)

    def _check_header(self) -> None:
        self._file.seek(0)
        header = next(csv.reader(self._file), None)
        self._file.seek(0, os.SEEK_END)
        if header is None:
            self._write(_line(self.columns))
        elif header != self.columns:
            raise StorageError(
                f"{self.path} has the columns {', '.join(header)}, and the row to append {', '.join(self.columns)}:"
                f" {ANOTHER}; move it away"
            )


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([" ".join(v.split()) if isinstance(v, str) else v for v in values])
    return text.getvalue()


def append(path: Path, row: Mapping[str, object]) -> None:
    """Append one row to a CSV file, which gets a header if it is new.

    Raises:
        StorageError: the file has other columns, or another process writes to it.
    """
    with RowFile(path, list(row)) as file:
        file.append(row)


def read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a CSV file that has these columns, no rows where there is no file.

    Raises:
        StorageError: the file lacks a column.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    text = _whole_lines(path)
    rows = pd.read_csv(io.StringIO(text)) if text else pd.DataFrame(columns=list(columns))
    missing = [name for name in columns if name not in rows]
    if missing:
        raise StorageError(
            f"{path} lacks the columns {', '.join(missing)}: {ANOTHER}; move it away, or begin anew with --restart"
        )
    return rows


def keys(path: Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of some columns as the texts that stand in the file, one tuple a row.

    Texts, because 1e-9, "1" and "none" come back from a parsed table as something else.
    """
    text = _whole_lines(path) if path.exists() else ""
    if not text:
        return []
    table = pd.read_csv(io.StringIO(text), usecols=list(fields), dtype=str, keep_default_na=False)[list(fields)]
    return [tuple(key) for key in table.itertuples(index=False)]


def sort(path: Path, fields: Sequence[str], order: Sequence[tuple[str, ...]]) -> None:
    """Bring the rows of a file into an order of keys; rows of other keys follow. The file is replaced at once."""
    lines = _whole_lines(path).splitlines(keepends=True)
    place = {key: number for number, key in enumerate(order)}
    found = [place.get(key, len(order)) for key in keys(path, fields)]
    ordered = [line for _, line in sorted(zip(found, lines[1:], strict=True), key=lambda pair: pair[0])]
    part = path.with_suffix(".part")
    part.write_text("".join([lines[0], *ordered]), encoding="utf-8")
    part.replace(path)


def drop_failed(path: Path) -> int:
    """Remove the rows that have an `error`, so that they are computed again; return their number.

    Raises:
        StorageError: another process writes to the file.
    """
    if not path.exists() or not _whole_lines(path):
        return 0
    lines = _whole_lines(path).splitlines(keepends=True)
    with RowFile(path, next(csv.reader(lines[:1]))):  # nobody writes meanwhile
        failed = [bool(error) for (error,) in keys(path, ["error"])]
        if any(failed):
            kept = [line for line, wrong in zip(lines[1:], failed, strict=True) if not wrong]
            part = path.with_suffix(".part")
            part.write_text("".join([lines[0], *kept]), encoding="utf-8")
            part.replace(path)
    return sum(failed)


def _whole_lines(path: Path) -> str:
    """Return what is in the file up to the last line break: what follows is a row that a crash cut off."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].decode("utf-8")
