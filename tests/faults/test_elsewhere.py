"""The same call in other threads and processes: the same bits; and what crosses over to them and back is the same."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import constraint_algebra as ca
from tests.faults.test_threads import step
from tests.graph_cases import random_graph
from tests.twin_cases import case

SEEDS = range(6)


def observed(seed: int) -> tuple[Any, ...]:
    """A network, its parameters and a gradient: of a chain, or of a graph for odd seeds."""
    if seed % 2 == 0:
        return step(seed)
    network, parameters, _ = random_graph(seed)
    x = np.random.default_rng(seed).random(network.input_shape)
    values = network.forward(parameters, x)
    k = np.exp(values[-1] - values[-1].max())
    gradients = network.backward(parameters, values, k / k.sum() - np.eye(k.size)[1])
    return network, parameters, {name: gradients[name].reshape(s) for name, s in network.parameter_shapes.items()}


def bits(network: ca.Network, parameters: Mapping[str, Any], gradients: Mapping[str, Any]) -> tuple[Any, ...]:
    """All that a reconstruction says, as bytes."""
    found = ca.reconstruct(network, parameters, gradients)
    arrays = (found.input, found.guess, found.error_bar, found.determined, found.ground)
    return found.status.name, found.conclusion, *(array.tobytes() for array in arrays)


@cache
def here() -> list[tuple[Any, ...]]:
    return [bits(*observed(seed)) for seed in SEEDS]


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_started_in_any_way_give_the_same_bits(method) -> None:
    """Arguments go over and results come back by pickle; one process after the other, and two at a time."""
    expected = here()
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        there = [pool.submit(bits, *observed(seed)) for seed in SEEDS]
        assert [future.result(timeout=200) for future in there] == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_dask_worker_gives_the_same_bits_in_two_threads_at_once() -> None:
    distributed = pytest.importorskip("distributed")
    expected, given = here(), [observed(seed) for seed in SEEDS]
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0")
    with cluster, distributed.Client(cluster) as client:
        there = client.gather([client.submit(bits, *one, pure=False) for one in given * 3])
        assert there == expected * 3
        refused = client.submit(widths, pure=False)
        with pytest.raises(ca.ConstraintAlgebraError, match=r"may start no others.*workers=1"):
            refused.result()


def widths() -> Any:
    """Intervals, in processes of their own."""
    return ca.interval_map(small().set(), workers=2).width


def small():
    """Few filters on a small image: two values are open."""
    network = ca.Network((1, 3, 3), [ca.Conv2d(1, 2, stride=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(3)])
    return case(network, np.random.default_rng(0).random((1, 3, 3)))


def test_a_process_that_may_start_no_others_says_so(monkeypatch) -> None:
    """Those of a Dask worker and of `multiprocessing.Pool` are daemons."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(ca.ConstraintAlgebraError, match=r"daemon.*may start no others.*workers=1"):
        widths()


def same(one: Any, other: Any) -> bool:
    """Whether two objects hold the same, to the bit."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if scipy.sparse.issparse(one):
        return same(one.toarray(), other.toarray())
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, partial):
        return same((one.func, one.args, one.keywords), (other.func, other.args, other.keywords))
    if type(one).__eq__ is object.__eq__ and hasattr(one, "__dict__") and not callable(one):
        return same(vars(one), vars(other))
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 -- NaN


@pytest.mark.parametrize("how", ["pickle", "cloudpickle"])
def test_networks_and_all_results_come_back_as_they_went(how) -> None:
    dumps = pickle.dumps if how == "pickle" else pytest.importorskip("cloudpickle").dumps
    seen = small()
    found = seen.set()
    things = [
        *(seen.network, seen.parameters, random_graph(1).network),
        *(ca.reconstruct(seen.network, seen.parameters, seen.gradients()), ca.feasibility(seen.network)),
        *(ca.certify(seen.model, seen.image, seen.label), found, ca.interval_map(found)),
        *(seen.verify(seen.image), ca.samples.load("mnist:1")),
    ]
    for thing in things:
        again = pickle.loads(dumps(thing))
        assert same(thing, again), type(thing)
    again = pickle.loads(dumps(found))
    assert again.interval((0, 0, 0)) == found.interval((0, 0, 0))
