"""Rows in a CSV file that grows one row at a time and survives whatever interrupts it.

A row is one line, written at once and flushed to the disk: a crash can cut off the last line and nothing else, and
the next one to open the file removes that piece. One process at a time writes. A file is read strictly: what is no
table of these columns, line by line, is refused with the number of the line, because half-read rows mislead.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pandas as pd

from constraint_algebra.errors import StorageError
from constraint_algebra.files.locks import FLAGS, locked
from constraint_algebra.files.space import make
from constraint_algebra.files.writing import cannot, write, write_through

ANOTHER = "it comes from another version of the program"
MEND = "remove the line, and what it held is computed again; or begin anew with --restart"


class RowFile:
    """A CSV file, open to append rows; made with its folder if it is new.

    Raises:
        StorageError: the file is a link, is no such table, has other columns, cannot be written, or another process
            writes to it.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, lock: bool = True) -> None:
        """Open, repair and check the file; without `lock` the caller holds the lock of `path`."""
        make(path.parent)
        refuse_link(path)
        self.path, self.columns = path, list(columns)
        self._held, new = contextlib.ExitStack(), not path.exists()
        try:
            if lock:
                self._held.enter_context(locked(path))
            self._number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | FLAGS, 0o666)
            self._held.callback(os.close, self._number)
            self._repair()
        except BaseException as error:
            if new:  # no empty file stays
                path.unlink(missing_ok=True)
            self._held.close()
            if isinstance(error, OSError):
                raise StorageError(cannot(path, error)) from error
            raise

    def append(self, row: Mapping[str, object]) -> None:
        """Append one row; what it lacks stays empty, and line breaks in texts become spaces.

        Raises:
            StorageError: the row has a value for which there is no column, or the disk refuses: the rows before it stay
                whole, and this one is `result` of the exception.
        """
        unknown = [name for name in row if name not in self.columns]
        if unknown:
            raise StorageError(f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(self.columns)}")
        try:
            self._write(_line(row.get(name) for name in self.columns))
        except StorageError as error:
            error.result = dict(row)
            raise

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    def _write(self, line: str) -> None:
        """Write a line to the end, all of it or nothing."""
        size = os.fstat(self._number).st_size
        try:
            write_through(self._number, line.encode("utf-8", "backslashreplace"))
        except BaseException as error:
            os.ftruncate(self._number, size)
            if isinstance(error, OSError):
                raise StorageError(
                    f"{cannot(self.path, error)}; the rows until now are whole, and the same command goes on after them"
                ) from error
            raise

    def _repair(self) -> None:
        """Remove what a crash cut off, once it is clear that this is such a file; write the header of a new one."""
        text = _whole_lines(self.path, self.columns)
        table = _table(self.path, text)
        if table and table[0] != self.columns:
            raise StorageError(
                f"{self.path} has the columns {', '.join(table[0])}, and the row to append {', '.join(self.columns)}:"
                f" {ANOTHER}; move it away"
            )
        size = len(text.encode())
        if size < os.fstat(self._number).st_size:
            os.ftruncate(self._number, size)
        if not table:
            self._write(_line(self.columns))


def refuse_link(path: Path) -> None:
    """Raise `StorageError` where a file that rows go into is a link: it may lead anywhere."""
    if path.is_symlink():
        raise StorageError(f"{path} is a link to {path.readlink()}, and links are not followed; name its target")


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([" ".join(v.split()) if isinstance(v, str) else v for v in values])
    return text.getvalue()


def append(path: Path, row: Mapping[str, object]) -> None:
    """Append one row to a CSV file, which gets a header if it is new.

    Raises:
        StorageError: as `RowFile`.
    """
    with RowFile(path, list(row)) as file:
        file.append(row)


def read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a CSV file that has these columns, no rows where there is no file.

    Raises:
        StorageError: the file is damaged, no table, or lacks a column.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    text = _whole_lines(path, columns)
    table = _table(path, text)
    rows = pd.read_csv(io.StringIO(text)) if table else pd.DataFrame(columns=list(columns))
    missing = [name for name in columns if name not in rows]
    if missing:
        raise StorageError(
            f"{path} lacks the columns {', '.join(missing)}: {ANOTHER}; move it away, or begin anew with --restart"
        )
    return rows


def keys(path: Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of some columns as the texts that stand in the file, one tuple a row, each once.

    Texts, because 1e-9, "1" and "none" come back from a parsed table as something else.

    Raises:
        StorageError: the file is damaged, lacks a column, or two rows have the same key.
    """
    found = _values(path, fields)
    if len(set(found)) < len(found):
        first: dict[tuple[str, ...], int] = {}
        for number, key in enumerate(found, 2):
            if key in first:
                raise StorageError(
                    f"{path}: lines {first[key]} and {number} are both of {', '.join(key)}, which would count twice;"
                    " remove one of them, or begin anew with --restart"
                )
            first[key] = number
    return found


def sort(path: Path, fields: Sequence[str], order: Sequence[tuple[str, ...]]) -> None:
    """Bring the rows of a file into an order of keys; rows of other keys follow. The file is replaced at once.

    The caller holds the lock of `path`.
    """
    header, *lines = _lines(_whole_lines(path, fields))
    place = {key: number for number, key in enumerate(order)}
    found = [place.get(key, len(order)) for key in keys(path, fields)]
    ordered = [line for _, line in sorted(zip(found, lines, strict=True), key=lambda pair: pair[0])]
    if ordered != lines:
        write(path, "".join([header, *ordered]).encode())


def drop_failed(path: Path) -> int:
    """Remove the rows that have an `error`, so that they are computed again; return their number.

    The caller holds the lock of `path`.
    """
    failed = [bool(error) for (error,) in _values(path, ["error"])]
    if any(failed):
        refuse_link(path)
        header, *lines = _lines(_whole_lines(path, ["error"]))
        kept = [line for line, wrong in zip(lines, failed, strict=True) if not wrong]
        write(path, "".join([header, *kept]).encode())
    return sum(failed)


def failures(path: Path) -> int:
    """Return how many rows have an `error`."""
    return sum(bool(error) for (error,) in _values(path, ["error"]))


def _values(path: Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    table = _table(path, _whole_lines(path, fields)) if path.exists() else []
    if not table:
        return []
    header, *rows = table
    missing = [name for name in fields if name not in header]
    if missing:
        raise StorageError(f"{path} lacks the columns {', '.join(missing)}: {ANOTHER}; move it away")
    places = [header.index(name) for name in fields]
    return [tuple(row[place] for place in places) for row in rows]


def _whole_lines(path: Path, columns: Sequence[str]) -> str:
    """Return what is in the file up to the last line break: what follows is a row that a crash cut off.

    Raises:
        StorageError: it is no text in UTF-8, or there is no line break at all and this is not the piece of a header.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}); check the name and its rights") from error
    whole = content[: content.rfind(b"\n") + 1]
    header = _line(columns).rstrip().encode()
    if content and not whole and not header.startswith(content) and not content.startswith(header):
        raise StorageError(f"{path} is no table of rows; move it away, or begin anew with --restart")
    try:
        text = whole.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}), so somebody else has written it;"
            " move it away, or begin anew with --restart"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise StorageError(f"{path}, line {line}, has a zero byte: it is damaged, or no text; {MEND}")
    return text


def _lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def _table(path: Path, text: str) -> list[list[str]]:
    """Return header and rows, each as long as the header; nothing of an empty file."""
    reader = csv.reader(_lines(text), strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            width = len(rows[0] if rows else row)
            if len(row) != width or reader.line_num != len(rows) + 1:
                raise StorageError(f"{path}, line {len(rows) + 1}, has {len(row)} fields, and not {width}; {MEND}")
            rows.append(row)
    except csv.Error as error:
        raise StorageError(f"{path}, line {reader.line_num}, is damaged ({error}); {MEND}") from error
    return rows
