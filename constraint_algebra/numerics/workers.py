"""A pool of processes that never outlives the one that opened it.

Every worker watches the reading end of a pipe whose writing end only the opener holds. When the opener dies, however it
does, or leaves the pool because of an exception, the pipe closes and the workers end at once, in the middle of whatever
they do. Where the system can (Linux), the kernel itself ends them, also in a long call that never lets Python run; a
thread does it elsewhere.

Processes are always started afresh ("spawn"): a fork while threads hold locks, as those of BLAS and PyTorch do, would
hang.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

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
        initargs: what it is called with.
    """
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, context, _begin, (watched, initializer, initargs))
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
