"""Sizes are estimated before anything is allocated; layers of 100 million unknowns are answered from closed forms."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import memory
from tests.command import run

SIDE = 1250  # 64 channels of it are 100 million values

FEASIBILITY = """
import resource, sys, time
import constraint_algebra as ca
from constraint_algebra import *

start = time.process_time()
report = ca.feasibility(ca.Network({shape}, [{layers}]), activity={activity})
row = report.layers[0]
print(report.verdict, row.generic_low, row.generic_high, row.unknowns)
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def feasible(shape: str, layers: str, activity: str = "1.0") -> tuple[str, tuple[int, ...], float, float]:
    """Verdict, bounds and unknowns of the first layer, CPU seconds, and peak memory in MB of a process of its own."""
    code = FEASIBILITY.format(shape=shape, layers=f"{layers}, ca.Flatten(), ca.Linear(4)", activity=activity)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    first, second = done.stdout.splitlines()
    verdict, *counts = first.split()
    seconds, megabytes = map(float, second.split())
    return verdict, tuple(map(int, counts)), seconds, megabytes


@pytest.mark.parametrize(
    ("shape", "layers", "activity", "verdict"),
    [
        pytest.param(
            "(64, 1250, 1250)", "ca.Conv2d(64, 3, padding=1), ca.ReLU()", "1.0", "determined", marks=pytest.mark.slow
        ),
        pytest.param(
            "(64, 1250, 1250)", "ca.Conv2d(64, 3, padding=1), ca.ReLU()", "0.5", "undecided", marks=pytest.mark.slow
        ),
        pytest.param(
            "(64, 1250, 1250)", "ca.Conv2d(16, 3, padding=1), ca.Tanh()", "1.0", "undecided", marks=pytest.mark.slow
        ),
        pytest.param(
            "(1, 100_000_000)", "ca.Conv1d(1, 3, padding=1), ca.Tanh()", "1.0", "determined", marks=pytest.mark.slow
        ),
    ],
)
def test_feasibility_of_100_million_unknowns(shape, layers, activity, verdict) -> None:
    """The incidence alone would take 0.9 GB here, the gradient equations 58 GB."""
    found, (low, high, unknowns), seconds, megabytes = feasible(shape, layers, activity)
    assert found == verdict
    assert unknowns == 100_000_000
    assert low <= high <= unknowns
    assert (low == unknowns) == (verdict == "determined")
    assert megabytes < 1500
    assert seconds < 60  # about 4 s on a quiet machine


def test_the_closed_form_gives_the_bounds_of_the_long_way(monkeypatch) -> None:
    network = ca.Network((6, 20, 20), [ca.Conv2d(6, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(4)])
    long_way = ca.feasibility(network)
    monkeypatch.setattr("constraint_algebra.ranks.closed_form.LARGE", 100)
    short = ca.feasibility(network)
    for one, other in zip(long_way.layers, short.layers, strict=True):
        assert one == other or (one.generic, one.verdict) == (other.generic, other.verdict)
    assert short.verdict == "determined"


@pytest.mark.parametrize("function", [ca.weight_equations, ca.gradient_equations, ca.incidence])
def test_what_does_not_fit_is_refused_with_both_figures_before_it_is_allocated(function, monkeypatch) -> None:
    layer = ca.Conv2d(64, 3, padding=1).place((64, 300, 300))
    monkeypatch.setenv(memory.VARIABLE, "30M")
    tracemalloc.start()
    try:
        with pytest.raises(ca.MemoryLimitError) as caught:
            function(layer)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert "at most 30.0 MiB" in str(caught.value)
    assert f"{memory.VARIABLE}=" in str(caught.value)
    assert isinstance(caught.value, ca.ShapeError)


def test_the_limit_is_what_the_user_says_or_most_of_what_is_there(monkeypatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "1.5G")
    assert memory.limit() == 3 * 2**29
    monkeypatch.setenv(memory.VARIABLE, "2048")
    assert memory.limit() == 2048
    for wrong in ("much", "-1G", "1e9", "²G", "9" * 5000):
        monkeypatch.setenv(memory.VARIABLE, wrong)
        with pytest.raises(ca.ParameterError, match="is a size such as 8G"):
            memory.limit()
    monkeypatch.delenv(memory.VARIABLE)
    monkeypatch.setattr(memory, "_of_system", lambda: 2**30)
    monkeypatch.setattr(memory, "_of_group", lambda: None)
    assert memory.limit() == int(0.8 * 2**30)
    monkeypatch.setattr(memory, "_of_group", lambda: 2**20)
    assert memory.limit() == int(0.8 * 2**20)


@pytest.fixture
def step():
    network = ca.Network((3, 16, 16), [ca.Conv2d(12, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(4)])
    parameters = {n: np.full(s, 0.1) for n, s in network.parameter_shapes.items()}
    return network, parameters


def test_reconstruct_and_certify_are_refused_before_the_work(step, monkeypatch) -> None:
    network, parameters = step
    monkeypatch.setenv(memory.VARIABLE, "100k")
    with pytest.raises(ca.MemoryLimitError, match="reconstruct"):
        ca.reconstruct(network, parameters, parameters)
    model = ca.to_torch(network)
    with pytest.raises(ca.MemoryLimitError, match="certif"):
        ca.certify(model, np.zeros((3, 16, 16)), 0)
    with pytest.raises(ca.MemoryLimitError, match="Jacobian"):
        ca.gradient_jacobian(model, np.zeros((3, 16, 16)), 0)


def test_certify_counts_what_the_first_layer_leaves_open(monkeypatch) -> None:
    """Few filters leave 714 of 768 directions open, each carried up to the widest layer: 20 MB, and not 5."""
    network = ca.Network((3, 16, 16), [ca.Conv2d(2, 3), ca.ReLU(), ca.Flatten(), ca.Linear(4)])
    monkeypatch.setenv(memory.VARIABLE, "12M")
    with pytest.raises(ca.MemoryLimitError, match="to certify an input of 768 values"):
        ca.certify(ca.to_torch(network), np.full((3, 16, 16), 0.5), 0)


@pytest.mark.parametrize(
    ("model", "shape"),
    [("free", "3x100000x100000"), ("wide", "3x100000x100000"), ("wide", "40000000000")],
)
def test_an_input_of_40_gigabytes_is_refused_by_its_figure(folder, model, shape) -> None:
    (folder / "free.py").write_text("from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 4, 3))\n")
    (folder / "wide.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.ReLU(), nn.Flatten())\n"
    )
    found = run("feasibility", f"{model}.py:build", "--input-shape", shape, code=2)
    assert "GiB of memory" in found.stderr
    assert memory.VARIABLE in found.stderr
