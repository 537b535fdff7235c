"""A file of gradients does not say how many samples it comes from; and a folder of results has one writer."""

from __future__ import annotations

import pytest

from constraint_algebra.experiments import results
from constraint_algebra.files.result_folder import ResultFolder
from constraint_algebra.proofs import certificate
from tests.command import run, strict

TWO = """

def two():
    return ca.Network((3, 8, 8), [ca.Conv2d(6, 3, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(2)])
"""


@pytest.fixture
def two(folder):
    """A model of two classes, and the file of gradients of one of its steps."""
    models = folder / "models.py"
    models.write_text(models.read_text() + TWO)
    model = ("--model", "models.py:two", "--init", "default")
    run("capture", *model, "--image", "picture.png", "--dtype", "float64", "--out", "client.npz")
    return model


def test_a_gradient_of_two_classes_is_determined_if_it_is_one_sample(folder, two) -> None:
    seen = run("reconstruct", "--gradients", "client.npz", *two, "--dtype", "float64", code=1)
    assert strict(folder / "out/result.json")["status"] == "if_single"
    assert "their mean there" in " ".join(seen.stdout.split())
    run("reconstruct", "--gradients", "client.npz", *two, "--dtype", "float64", "--batch", 1, "--force")
    assert strict(folder / "out/result.json")["status"] == "determined"


def test_who_captures_a_step_knows_that_it_was_one_sample(folder, two) -> None:
    run("reconstruct", *two, "--image", "picture.png", "--dtype", "float64")
    assert strict(folder / "out/result.json")["status"] == "determined"


def test_other_batches_are_refused(folder, two) -> None:  # noqa: ARG001 -- the folder is the working folder
    refused = run("reconstruct", "--gradients", "client.npz", *two, "--batch", 4, code=2)
    assert "only one sample can be reconstructed" in " ".join(refused.stderr.split())
    refused = run("reconstruct", *two, "--image", "picture.png", "--batch", 1, code=2)
    assert "--batch go with" in " ".join(refused.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("command", "files"), [("reconstruct", results.FILES), ("certify", certificate.FILES)])
def test_a_folder_that_another_run_writes_to_is_refused_before_the_work(folder, command, files) -> None:
    with ResultFolder(folder / "out", files, overwrite=True):
        refused = run(command, "-m", "models.py:small", "-i", "picture.png", "--force", code=2)
    assert "another" in refused.stderr
    assert not (folder / "out" / files[0]).exists()
