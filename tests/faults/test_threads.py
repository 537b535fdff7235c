"""Several threads at once, and forks: the same bits, the same number of BLAS threads, and nothing that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import constraint_algebra as ca
from constraint_algebra.numerics.blas_threads import VARIABLES, all_blas_threads, one_blas_thread

THREADS = 4


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def step(seed: int):
    """A network with its parameters and the gradient of one step; one layer object is shared by all threads."""
    layers = [ca.Conv2d(12, 3, padding=1), ca.LeakyReLU(0.2), ca.Conv2d(8, 3, padding=1), ca.Tanh()]
    network = ca.Network((3, 12, 12), [*layers, ca.Flatten(), ca.Linear(10)])
    rng = np.random.default_rng(seed)
    parameters = {name: rng.uniform(-0.5, 0.5, shape) for name, shape in network.parameter_shapes.items()}
    values = network.forward(parameters, rng.random((3, 12, 12)))
    k = np.exp(values[-1] - values[-1].max())
    k = k / k.sum() - np.eye(10)[seed % 10]
    return network, parameters, network.backward(parameters, values, k)


@pytest.fixture
def free(monkeypatch):
    """An environment that states no number of threads, and a process with two of them."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, user_api="blas") as limits:
        for library in limits._controller.lib_controllers:
            getattr(library, "clear_controlling_thread", bool)()  # or no other thread could set a number
        yield


def in_threads(function, arguments):
    """Call a function in four threads that begin together."""
    together = threading.Barrier(THREADS)

    def work(argument):
        together.wait(timeout=60)
        return function(argument)

    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(timeout=120) for future in [pool.submit(work, a) for a in arguments]]


@pytest.mark.usefixtures("free")
@pytest.mark.slow
def test_four_threads_give_the_bits_of_one_and_leave_the_number_of_blas_threads() -> None:
    steps = [step(seed) for seed in range(THREADS)]
    steps = [(steps[0][0], *rest) for _, *rest in steps]  # the same network object in all of them
    alone = [ca.reconstruct(*one) for one in steps]
    for _ in range(3):
        together = in_threads(lambda one: ca.reconstruct(*one), steps)
        for first, second in zip(alone, together, strict=True):
            assert first.input.tobytes() == second.input.tobytes()
            assert first.error_bar.tobytes() == second.error_bar.tobytes()
    assert blas_threads() == {2}


@pytest.mark.usefixtures("free")
def test_limits_nest_across_threads_in_any_order() -> None:
    """The first to enter leaves first: what it found is what the last one gives back."""
    inside, leave, left = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with one_blas_thread():
            inside.set()
            leave.wait(60)
        left.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with one_blas_thread():
        leave.set()
        assert left.wait(60)
        assert blas_threads() == {1}, "another thread still counts on one"
    thread.join()
    assert blas_threads() == {2}


@pytest.mark.usefixtures("free")
def test_whoever_wants_all_cores_waits_for_those_who_want_one_and_the_other_way_round() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seen: list[tuple[str, set[int]]] = []

    def work(_number: int) -> None:
        with one_blas_thread():
            seen.append(("one", blas_threads()))
            with all_blas_threads():
                seen.append(("all", blas_threads()))
                with one_blas_thread():
                    seen.append(("one", blas_threads()))
                seen.append(("all", blas_threads()))
            seen.append(("one", blas_threads()))

    in_threads(work, range(THREADS))
    assert len(seen) == 5 * THREADS
    assert all(found == ({1} if what == "one" else {cores}) for what, found in seen)
    assert blas_threads() == {2}


FORK = """
import os, sys, threading, time
from tests.faults.test_threads import step
import constraint_algebra as ca

work = step(0)
ca.reconstruct(*work)

def child():
    pid = os.fork()
    if pid == 0:
        try:
            ca.reconstruct(*work)
        except ca.ConstraintAlgebraError as error:
            os.write(1, f"refused: {error}\\n".encode())
            os._exit(2)
        os._exit(0)
    for _ in range(400):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    print("hangs", flush=True)

child()
print("quiet", flush=True)
going = True
def loop():
    while going:
        ca.reconstruct(*work)
threads = [threading.Thread(target=loop) for _ in range(3)]
for thread in threads:
    thread.start()
time.sleep(0.3)
for _ in range(5):
    child()
going = False
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_works_while_no_thread_computes_and_is_refused_while_one_does() -> None:
    """With OMP_NUM_THREADS=1 such a child hung in about every third case."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "quiet"
    assert len(lines) == 6
    assert all(line.startswith("refused: this process was forked while a thread") for line in lines[1:])
    assert 'get_context("spawn")' in lines[1]
