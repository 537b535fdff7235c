"""The command certify: verdicts by exit code, files, and refusals before the work."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.command import run, strict


def test_a_determined_image_and_one_with_twins(folder) -> None:
    fixed = run("certify", "-m", "models.py:small", "-i", "picture.png", "-o", "out/fixed")
    assert "192 fixed, 0 fixed in region, 0 ambiguous, 0 undecided" in fixed.output
    run("certify", "-m", "models.py:blind", "-i", "picture.png", "-o", "out/blind", code=1)
    came = strict(folder / "out/blind/certificate.json")
    assert came["counts"]["ambiguous"] > 0
    twin = ca.load(folder / "out/blind/certificate.npz")["twins/0"]
    assert np.abs(twin - ca.load(folder / "out/blind/certificate.npz")["input"]).max() > 1e-3


@pytest.mark.usefixtures("folder")
def test_nothing_is_overwritten_and_bad_input_is_one_line() -> None:
    command = ("certify", "-m", "models.py:small", "-i", "picture.png", "-o", "out")
    run(*command)
    assert "already holds certificate.json" in run(*command, code=2).output
    run(*command, "--force")
    assert "--loss" in run(*command, "--force", "--loss", "other", code=2).output
    assert "LPPool2d" in run("certify", "-m", "models.py:odd", "-i", "picture.png", "-o", "out/odd", code=2).output


@pytest.mark.usefixtures("folder")
def test_a_time_limit_gives_what_there_is_and_says_what_was_not_looked_at(folder) -> None:
    """The whole has the limit: the layers above the first are not reconstructed, no twin is searched, no Jacobian."""
    late = "the time limit came before the layers above the first were reconstructed"
    run("certify", "-m", "models.py:small", "-i", "picture.png", "-o", "out/pieces", "--time-limit", 0, code=1)
    came = strict(folder / "out/pieces/certificate.json")
    assert came["counts"] == {"fixed": 0, "fixed_in_region": 192, "ambiguous": 0, "undecided": 0}
    assert came["beyond_the_region"] == late
    run("certify", "-m", "models.py:logistic", "-i", "picture.png", "-o", "out/late", "--time-limit", 0, code=1)
    came = strict(folder / "out/late/certificate.json")
    assert came["counts"] == {"fixed": 0, "fixed_in_region": 0, "ambiguous": 0, "undecided": 192}
    reasons = str(came)
    assert late in reasons
    assert "the time limit came before the Jacobian was looked at" in reasons


@pytest.mark.usefixtures("folder")
def test_progress_of_the_whole_goes_to_stderr() -> None:
    found = run("certify", "-m", "models.py:small", "-i", "picture.png", "-o", "out")
    assert "layer" in found.stderr
    assert "━" not in found.stdout
