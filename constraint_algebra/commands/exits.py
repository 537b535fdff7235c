"""How a command ends: exit codes, one sentence on stderr, and characters that the terminal can show.

Loads nothing but the exceptions, so that an interruption while everything else is imported ends as it should.
"""

from __future__ import annotations

import codecs
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from constraint_algebra.errors import ConstraintAlgebraError

DONE, NOT_ALL, BAD_INPUT = 0, 1, 2
FAULT = 70  # EX_SOFTWARE of sysexits.h: a mistake of this program, never a verdict
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
DEBUG = "CONSTRAINT_ALGEBRA_DEBUG"

MEANING = (
    f"Exit codes: {DONE} done, {NOT_ALL} not all determined, or not proven for all valid inputs (of a study: a"
    f" configuration failed), {BAD_INPUT} bad input, {FAULT} a fault of this program, {INTERRUPTED} interrupted,"
    f" {TERMINATED} terminated. {DEBUG}=1 in the environment shows tracebacks."
)
# What stands for the characters of our own output where the terminal knows ASCII alone.
PLAIN = {
    "×": "x",
    "→": "->",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "σ": "sigma",
    "µ": "u",
    "±": "+-",
    "·": ".",
    "²": "^2",
    "’": "'",
    "–": "-",
    "—": "-",
    "−": "-",
}


def plainly(error: UnicodeError) -> tuple[str, int]:
    r"""Replace what an encoding cannot hold: an error handler of `codecs`.

    >>> "3×32 → \udcff".encode("ascii", "constraint_algebra_plain")
    b'3x32 -> \\udcff'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


codecs.register_error("constraint_algebra_plain", plainly)


def printable(text: str) -> str:
    r"""Return a text that any file can hold: bytes of a name that are no UTF-8 as escapes.

    >>> printable("model\udcff.py")
    'model\\udcff.py'
    """
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def outcomes() -> Iterator[None]:
    """Turn whatever ends a command into one sentence on stderr and its exit code; Typer's own exceptions pass.

    A closed pipe behind stdout, as `| head` leaves it, is no failure.
    """
    _show_anything()
    try:
        yield
        _nobody_reads()
    except SystemExit:
        _nobody_reads()
        raise
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; what was written until now stays")
    except ConstraintAlgebraError as error:
        _end(BAD_INPUT, f"error: {error}")
    except MemoryError as error:
        _end(BAD_INPUT, f"error: the memory does not suffice ({_line(error) or 'no figure'}); take something smaller")
    except BrokenPipeError as error:
        if _nobody_reads():
            raise SystemExit(DONE) from None
        _fault(error)
    except OSError as error:
        _end(BAD_INPUT, f"error: {_line(error)}; check the path, its rights and the space")
    except Exception as error:
        if type(error).__module__.partition(".")[0] in {"typer", "click"}:
            raise
        _fault(error)


def end_on_termination() -> None:
    """Let SIGTERM end the process as an exception would: files are closed, workers end, the exit code is 143."""

    def end(_number: int, _frame: object) -> NoReturn:
        complain("terminated; what was written until now stays")
        raise SystemExit(TERMINATED)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def complain(text: str) -> None:
    """Print on stderr, if anybody reads it."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _end(code: int, sentence: str) -> NoReturn:
    if os.environ.get(DEBUG):
        complain(traceback.format_exc())
    complain(sentence)
    raise SystemExit(code) from None


def _fault(error: Exception) -> NoReturn:
    _end(
        FAULT,
        f"error: a fault of this program, not of what it was given: {type(error).__name__}: {_line(error)};"
        f" please report it to its authors, with the traceback that {DEBUG}=1 in the environment shows",
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _show_anything() -> None:
    """Let both streams replace what their encoding cannot hold."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="constraint_algebra_plain")


def _nobody_reads() -> bool:
    """Write out what is left, and return whether the pipe behind stdout is closed; the rest then goes nowhere."""
    closed = _is_broken()
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BrokenPipeError:
        closed = True
    if closed:
        with suppress(OSError, ValueError):  # Python flushes again when it ends, and would fail
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
    return closed


def _is_broken() -> bool:
    """Return whether the system knows of a closed pipe behind stdout; where it cannot be asked, a write will tell."""
    with suppress(OSError, ValueError, AttributeError):
        asked = select.poll()
        asked.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in asked.poll(0))
    return False
