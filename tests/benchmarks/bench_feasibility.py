"""How long theory takes, one core: python -m pytest tests/benchmarks/bench_feasibility.py (needs pytest-benchmark).

Goals: each network of the literature under 3 s, the convolutions of ResNet-18 under 20 s, those of VGG-16 at 224×224
under 60 s.
"""

import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.theory import feasibility
from tests.benchmarks import networks

LARGE = {
    "resnet18": networks.resnet18,
    "vgg16": networks.vgg16,
    "vgg16-merged": networks.vgg16_merged,
}


def timed(benchmark, function):
    """Run once, from an empty cache."""
    return benchmark.pedantic(function, setup=feasibility._fewest.cache_clear, rounds=1)


@pytest.mark.parametrize("activity", [1.0, 0.5])
@pytest.mark.parametrize("name", zoo.names("leakage"))
def test_networks_of_the_literature(benchmark, name, activity) -> None:
    network = zoo.network(name)
    timed(benchmark, lambda: ca.feasibility(network, activity=activity))


@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_large_chains(benchmark, build) -> None:
    report = timed(benchmark, lambda: ca.feasibility(build()))
    assert all(row.verdict != "undecided" for row in report.layers)


@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_every_layer_of_large_chains_by_itself(benchmark, build) -> None:
    index = timed(benchmark, lambda: ca.feasibility(build()).security_index)
    assert index is not None
