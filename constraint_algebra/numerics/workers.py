"""A pool of processes that never outlives the one that opened it.

Every worker watches the reading end of a pipe whose writing end only the opener holds. When the opener dies, however it
does, or leaves the pool because of an exception, the pipe closes and the workers end at once, in the middle of whatever
they do. Where the system can (Linux), the kernel itself ends them, also in a long call that never lets Python run; a
thread does it elsewhere.

Processes are always started afresh ("spawn"): a fork while threads hold locks, as those of BLAS and PyTorch do, would
hang.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import current_process, get_context, reduction
from multiprocessing.connection import Connection
from typing import Any

from constraint_algebra.errors import ConstraintAlgebraError

GONE = 3  # exit code of a worker whose opener is gone; nobody reads it


@contextmanager
def workers(
    count: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Executor]:
    """Open a pool of processes; an exception, an interruption or the end of this process ends all of them at once.

    A script that uses it needs the usual `if __name__ == "__main__":` around what it runs.

    Args:
        count: number of processes.
        initializer: called in each of them first; importable.
        initargs: what it is called with; it goes over by pickle.

    Raises:
        ConstraintAlgebraError: this process may start no others.
    """
    if current_process().daemon:
        raise ConstraintAlgebraError(
            "this process is a daemon, as those of a Dask worker and of multiprocessing.Pool are, and may start no"
            " others; compute in it alone (workers=1, processes=1)"
        )
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    aside = _Aside(initargs) if os.name == "posix" else None
    given: Any = aside or initargs
    pool = ProcessPoolExecutor(count, context, _begin, (watched, initializer, given))
    try:
        with _interruptions_blocked():  # workers inherit that: Ctrl-C is for the opener to answer
            for _ in range(count):
                pool.submit(os.getpid)  # starts one process each
        yield pool
    except BaseException:
        held.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        held.close()
        watched.close()
        if aside is not None:
            aside.file.close()


class _Aside:
    """Arguments in a file without a name, which a new process reads when it has come so far.

    Python itself writes them into a pipe. One that holds less than they are would keep this process waiting for ever,
    if the new one died before it reads: this process has the reading end open as well.
    """

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        if hasattr(os, "memfd_create"):
            self.file: Any = os.fdopen(os.memfd_create("arguments"), "w+b")
        else:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as this object
        pickle.dump(arguments, self.file, pickle.HIGHEST_PROTOCOL)
        self.file.flush()

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the arguments in the new process."""
        return _read, (reduction.DupFd(self.file.fileno()), self.file.tell())


def _read(place: Any, size: int) -> tuple[Any, ...]:
    number = place.detach()
    with mmap.mmap(number, size, access=mmap.ACCESS_READ) as content:
        os.close(number)
        arguments: tuple[Any, ...] = pickle.loads(content)
    return arguments


def _begin(watched: Connection, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    """Begin to watch the pipe, then do what else the pool wants done first."""
    _end_with_signal(watched)
    threading.Thread(target=_end_when_closed, args=(watched,), daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_signal(watched: Connection) -> None:
    """Let the kernel send SIGIO when the pipe closes, whose default action ends a process; where there is such."""
    with suppress(ImportError, AttributeError, OSError, ValueError):
        import fcntl

        # Opened anew, because all workers share what they inherited, and only one process can be told of it.
        own = os.open(f"/proc/self/fd/{watched.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)


def _end_when_closed(watched: Connection) -> None:
    with suppress(EOFError, OSError):
        watched.recv_bytes()  # nothing is ever sent
    os._exit(GONE)


@contextmanager
def _interruptions_blocked() -> Iterator[None]:
    """Keep SIGINT from processes that start meanwhile; where there are no signal masks nothing happens."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
