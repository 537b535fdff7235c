"""One BLAS thread for many products of small matrices, between which several only wait for each other.

The number of BLAS threads belongs to the process, not to the Python thread that asks for it. So the limits of several
threads are counted: the first sets the number, the last gives back the one that was there before. A thread that wants
all cores waits until no other one computes with one, and others wait for it in turn: how many threads a product has,
and with it the last bits of the result, does not depend on who else is at work.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from constraint_algebra.errors import ConstraintAlgebraError

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
PATIENCE = 60.0  # seconds to wait for other threads, which may be waiting for this one outside of this module


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread for a while, unless the environment states a number of threads: the user knows better.

    On two cores a reconstruction from CIFAR-10 gradients takes 1.4 s with two threads and 0.4 s with one; at 128
    pixels it is 22 s and 17 s. Several cores serve several reconstructions, also in threads of one process.

    Raises:
        ConstraintAlgebraError: this process was forked while another thread computed, which would hang.

    >>> with one_blas_thread():
    ...     pass
    """
    with _turn(_LIMITS.enter, _LIMITS.leave):
        yield


@contextmanager
def all_blas_threads() -> Iterator[None]:
    """Let BLAS use every core for a while, unless the environment states a number: for one large factorisation.

    Threads take turns; one that waits for more than a minute goes on with what there is.
    """
    with _turn(_LIMITS.widen, _LIMITS.narrow):
        yield


@contextmanager
def _turn(begin: Callable[[], bool], end: Callable[[], None]) -> Iterator[None]:
    _LIMITS.refuse_after_fork()
    me = threading.get_ident()
    _LIMITS.computing[me] += 1
    began = False
    try:
        began = not any(os.environ.get(name) for name in VARIABLES) and begin()
        yield
    finally:
        _LIMITS.computing[me] -= 1
        if not _LIMITS.computing[me]:
            del _LIMITS.computing[me]
        if began:
            end()


class _Limits:
    """Who computes with one BLAS thread, and who, if anybody, with all of them.

    Attributes:
        computing: how many contexts each Python thread is in, by its identity, with a limit or without.
        depth: how many limits it is in.
        waiting: the threads that wait for all cores; they compute nothing meanwhile.
        wide: the thread that has them.
        ambient: gives back the number from before the first limit.
        inner: give back the numbers from before the limits that the thread with all cores entered since; from before
            it got them at the bottom.
        forked: whether this process began as a fork of one that was computing.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.computing: Counter[int] = Counter()
        self.depth: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.wide: int | None = None
        self.ambient: Any = None
        self.inner: list[Any] = []
        self.forked = False

    def after_fork(self) -> None:
        """Forget, in a child, the other threads of the parent: they do not exist here."""
        me = threading.get_ident()  # a forked thread keeps its identity
        self.forked = self.forked or bool(set(self.computing) - {me})
        self.changed, self.waiting = threading.Condition(), set()
        self.computing = Counter({me: self.computing[me]} if me in self.computing else {})
        self.depth = {me: self.depth[me]} if me in self.depth else {}
        self.wide = me if self.wide == me else None

    def refuse_after_fork(self) -> None:
        if self.forked:
            raise ConstraintAlgebraError(
                "this process was forked while a thread of its parent computed; locks of BLAS may be held here for"
                ' ever. Start processes afresh: multiprocessing.get_context("spawn"), or fork before the threads start'
            )

    def enter(self) -> bool:
        me = threading.get_ident()
        with self.changed:
            if self.wide == me:
                self.inner.append(_limit(1))
                return True
            if me not in self.depth:
                self.changed.wait_for(lambda: self.wide is None, PATIENCE)
            if self.ambient is None and self.wide is None:
                self.ambient = _limit(1)
            self.depth[me] = self.depth.get(me, 0) + 1
            return True

    def leave(self) -> None:
        me = threading.get_ident()
        with self.changed:
            if self.wide == me:
                _restore(self.inner.pop())
                return
            self.depth[me] -= 1
            if not self.depth[me]:
                del self.depth[me]
            if not self.depth and self.ambient is not None:
                _restore(self.ambient)
                self.ambient = None
            self.changed.notify_all()

    def widen(self) -> bool:
        """Give the calling thread all cores; whether it got them."""
        me = threading.get_ident()
        with self.changed:
            if self.wide != me:
                self.waiting.add(me)
                self.changed.notify_all()
                alone = self.changed.wait_for(lambda: self.wide is None and set(self.depth) <= self.waiting, PATIENCE)
                self.waiting.discard(me)
                if not alone:
                    return False
            self.wide = me
            self.inner.append(_limit(_cores()))
            return True

    def narrow(self) -> None:
        with self.changed:
            _restore(self.inner.pop())
            if not self.inner:
                self.wide = None
                if self.depth and self.ambient is None:  # one that lost patience in between
                    self.ambient = _limit(1)
                self.changed.notify_all()


_LIMITS = _Limits()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LIMITS.after_fork)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit(threads: int) -> Any:
    """Set the number, and return what `_restore` needs to give the one before back, from any thread."""
    before = _controller().limit(limits=threads, user_api="blas")
    _release()
    return before


def _restore(before: Any) -> None:
    before.restore_original_limits()
    _release()


def _release() -> None:
    """Let other threads set the number next; threadpoolctl from 3.7 on would ignore all but the first that did."""
    for library in _controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread()


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 -- loads SciPy's BLAS, so that the controller finds it

    return ThreadpoolController()  # looks through all libraries that the process has loaded
