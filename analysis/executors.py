"""Where the configurations of a study are computed: in this process, in others, or on a cluster.

Any `concurrent.futures.Executor` will do. A worker that dies takes only what it was computing with it: a cluster
gives that to another worker by itself, and the pool of processes here is opened again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from analysis.threads import keep_one_thread
from constraint_algebra.errors import MissingPackageError, StorageError
from constraint_algebra.numerics.workers import workers

Row = dict[str, Any]
Judge = Callable[[Any], Row]
IN_FLIGHT = 256  # configurations that are submitted at a time to an executor of unknown size
ALONE = 2  # deaths of processes that a configuration had for itself, after which it has killed them
CONNECT = 10  # seconds to find a scheduler


def attempt(judge: Judge, run: Any) -> Row:
    """Return the row of a configuration; an exception becomes a row as well, with its text in `error`."""
    keep_one_thread()
    try:
        return run._asdict() | judge(run)
    except Exception as error:  # one bad configuration must not stop the others
        return failed(run, error)


def failed(run: Any, error: BaseException) -> Row:
    """Return the row of a configuration that ended in an exception."""
    row: Row = run._asdict() | {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    return row


def rows_of(
    todo: Iterable[Any], judge: Judge, *, processes: int = 1, executor: Executor | None = None
) -> Iterator[Row]:
    """Yield the row of every configuration as it is done.

    Args:
        todo: `NamedTuple`s.
        judge: does one and returns its row; importable, because other processes call it.
        processes: how many; with 1 everything happens in this one.
        executor: instead of a pool of processes; it is left open.
    """
    if executor is not None:
        yield from _through(lambda _: nullcontext(executor), todo, judge, IN_FLIGHT, reopen=False)
    elif processes == 1:
        yield from (attempt(judge, run) for run in todo)
    else:
        open_one = lambda alone: workers(1 if alone else processes, keep_one_thread)  # noqa: E731
        yield from _through(open_one, todo, judge, 2 * processes, reopen=True)


def _through(
    open_one: Callable[[bool], AbstractContextManager[Executor]],
    todo: Iterable[Any],
    judge: Judge,
    in_flight: int,
    *,
    reopen: bool,
) -> Iterator[Row]:
    """Yield rows from an executor, opened again when it breaks.

    Whichever configuration broke it was in flight then. Those are done again one at a time, so that one which breaks
    two more executors alone is known, and becomes a row: once may be anybody's kill.
    """
    waiting, suspects, deaths = deque(todo), deque[Any](), Counter[Any]()
    while waiting or suspects:
        alone = bool(suspects)
        flying: dict[Future[Row], Any] = {}
        try:
            with open_one(alone) as executor:
                yield from _drained(suspects if alone else waiting, executor, judge, flying, 1 if alone else in_flight)
        except BrokenExecutor as error:
            if not reopen:
                raise
            deaths.update(flying.values())
            yield from (failed(run, error) for run in flying.values() if deaths[run] > ALONE)
            suspects.extendleft(run for run in flying.values() if deaths[run] <= ALONE)


def _drained(
    queue: deque[Any], executor: Executor, judge: Judge, flying: dict[Future[Row], Any], most: int
) -> Iterator[Row]:
    """Yield the rows of a queue, with at most so many in flight; those are left in `flying` if the executor breaks."""
    while queue or flying:
        while queue and len(flying) < most:
            future = executor.submit(attempt, judge, queue[0])
            flying[future] = queue.popleft()
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        errors = {future: future.exception() for future in done}
        for future, error in errors.items():
            if not isinstance(error, BrokenExecutor):
                run = flying.pop(future)
                yield future.result() if error is None else failed(run, error)
        for error in errors.values():
            if isinstance(error, BrokenExecutor):
                raise error


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """Open the executor of a `dask.distributed` cluster.

    Its workers must be able to import this repository, at the same commit: start them from its root.

    Raises:
        MissingPackageError: dask is not installed.
        StorageError: no scheduler answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError(
            'a cluster needs dask.distributed, which is not installed; pip install "constraint-algebra[cluster]"'
        ) from error
    try:
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"no scheduler answers at {address} ({error}); start one with `dask scheduler`, and workers with"
            f" `dask worker {address}` from the root of this repository"
        ) from error
    with client:
        yield client.get_executor(pure=False)
