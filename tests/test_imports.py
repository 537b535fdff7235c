"""What an import loads: theory from shapes alone needs neither PyTorch nor matplotlib."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import constraint_algebra as ca

HEAVY = ("torch", "matplotlib", "skimage", "foolbox", "PIL", "typer", "dask")


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after running the code."""
    report = "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    # -W error: an import that warns would break users who run with warnings as errors.
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


THEORY = """
import constraint_algebra as ca
net = ca.Network((3, 8, 8), [ca.Conv2d(4, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(10)])
repr(net), repr(ca.weight_equations(net[0])), ca.gradient_equations(net[0]).matrix
"""


@pytest.mark.parametrize(
    "code",
    ["import constraint_algebra", "from constraint_algebra import *", THEORY],
    ids=["the package", "every public name", "network and equations"],
)
def test_theory_loads_no_heavy_package(code) -> None:
    heavy = set(HEAVY) & loaded_by(code)
    if "*" in code:
        heavy -= {"torch"}  # some public names are PyTorch's business
    assert not heavy


def test_the_bare_import_loads_not_even_numpy() -> None:
    assert "numpy" not in loaded_by("import constraint_algebra")


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in ca.__all__:
        assert getattr(ca, name).__name__.rpartition(".")[-1] == name
        assert name in dir(ca)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        _ = ca.reconstuct
