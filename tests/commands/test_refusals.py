"""What the command line refuses: bad input, in one message, and output that is already there."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from constraint_algebra import storage
from tests.command import run


def test_existing_output_stays_unless_forced_and_is_found_before_the_work(folder) -> None:
    (folder / "out").mkdir()
    (folder / "out/comparison.png").write_text("mine")
    start = ["-m", "models.py:small", "-i", "picture.png", "--dtype", "float64"]
    # The model does not exist, and yet the complaint is about the output: it comes first.
    refused = run("reconstruct", "-m", "missing.py:f", "-i", "picture.png", code=2)
    assert "out already holds comparison.png; pass --force" in refused.stderr
    assert (folder / "out/comparison.png").read_text() == "mine"
    (folder / "out/notes.txt").write_text("mine too")
    run("reconstruct", *start, "--force")
    assert (folder / "out/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out/notes.txt").read_text() == "mine too"
    run("capture", *start, "-o", "step.npz")
    before = (folder / "step.npz").read_bytes()
    refused = run("capture", *start, "-o", "step.npz", "--seed", 1, code=2)
    assert "step.npz is already there; pass overwrite=True (--force)" in refused.stderr
    assert (folder / "step.npz").read_bytes() == before
    run("capture", *start, "-o", "step.npz", "--seed", 1, "--force")
    assert (folder / "step.npz").read_bytes() != before


def test_a_forced_result_leaves_no_picture_of_an_earlier_one(folder) -> None:
    run("reconstruct", "-m", "models.py:small", "-i", "picture.png", "--dtype", "float64")
    run("capture", "-m", "models.py:small", "-i", "picture.png", "-o", "step.npz", "--dtype", "float64")
    run("reconstruct", "--gradients", "step.npz", "-m", "models.py:small", "--force")
    assert not (folder / "out/comparison.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-m lenets -i picture.png", "lenets"),
        ("-m models.py -i picture.png", "write FILE.py:FACTORY"),
        ("-m missing.py:small -i picture.png", "model file missing.py does not exist"),
        ("-m models.py:smal -i picture.png", "models.py has no function 'smal'; it has small, module, blind"),
        ("-m models.py:number -i picture.png", "models.py:number must return an nn.Module or a Network, got int"),
        ("-m models.py:broken -i picture.png", "models.py:broken failed with RuntimeError: no such luck"),
        ("-m faulty.py:f -i picture.png", "faulty.py failed with ModuleNotFoundError: No module named 'nothing_of"),
        ("-m models.py:odd -i picture.png", "1 layer of the model cannot be turned into equations: 2: LPPool2d"),
        ("-m models.py:small -i missing.png", "missing.png"),
        ("-m models.py:small -i models.py", "models.py"),
        ("-m models.py:small -i cifar10:99", "19"),
        (
            "-m models.py:small -i picture.png --label 4",
            "label 4 does not exist among 4 classes; choose --label from 0",
        ),
        ("-m models.py:small -i picture.png --label -1", "label -1 does not exist"),
        ("-m models.py:logistic -i picture.png --label 2", "label 2 does not exist among 2 classes"),
        ("-m models.py:small -i picture.png --input-shape 3x9x9", "is a network for inputs of 3×8×8, and 3×9×9"),
        ("-m models.py:module -i picture.png --input-shape 3by8", "whole numbers such as 3x32x32, got '3by8'"),
        ("-m models.py:module -i picture.png --input-shape 3x9x9", "head"),
        ("-m models.py:small -i picture.png -o models.py", "models.py is a file; name a folder"),
        ("--gradients missing.npz -m models.py:small", "missing.npz"),
        ("--gradients picture.png -m models.py:small", "picture.png"),
        ("-m models.py:small", "give --model and --image"),
        ("-i picture.png", "give --model and --image"),
        ("-m models.py:small -i picture.png --loss other", "go with --gradients"),
        ("-m models.py:small -i picture.png --dtype float8", "float8"),
        ("-m models.py:small -i picture.png --seed -3", "greater than or equal to 0"),
    ],
)
def test_bad_input_is_one_message_on_stderr_and_exit_code_2(folder, words, message) -> None:
    refused = run("reconstruct", *words.split(), code=2)
    told = " ".join(refused.stderr.replace("│", " ").split())
    assert message in told
    assert "Traceback" not in refused.output
    assert not (folder / "out").exists()


def test_bad_gradient_files_are_refused_with_the_name_of_what_is_wrong(folder) -> None:
    run("capture", "-m", "models.py:small", "-i", "picture.png", "-o", "good.npz")
    arrays = storage.load(folder / "good.npz")
    start = ["reconstruct", "-m", "models.py:small", "--gradients", "bad.npz"]

    def refused(changed: dict, *words: str) -> str:
        storage.save(folder / "bad.npz", {k: v for k, v in changed.items() if v is not None}, overwrite=True)
        return run(*(words or start), code=2).stderr

    nan = arrays["gradients/3.weight"].copy()
    nan[1, 7] = np.nan
    assert "'3.weight' has nan at (1, 7)" in refused({**arrays, "gradients/3.weight": nan})
    assert "'0.bias' of shape (6,) is missing" in refused({**arrays, "gradients/0.bias": None})
    assert "'extra' is no parameter" in refused({**arrays, "gradients/extra": np.ones(2)})
    assert "gradients: '0.bias' has shape (5,)" in refused({**arrays, "gradients/0.bias": np.ones(5)})
    assert "holds parameters alone" in refused({k: v for k, v in arrays.items() if k.startswith("parameters")})
    zeros = {k: np.zeros_like(v) if k.startswith("gradients") else v for k, v in arrays.items()}
    assert "zero" in refused(zeros)
    # Without --model the file would have to name one, and may only name one of the zoo.
    assert "does not say which model" in refused(arrays, "reconstruct", "--gradients", "bad.npz")
    assert "never executed on its own word" in run("reconstruct", "--gradients", "good.npz", code=2).stderr


def test_a_module_needs_an_input_shape_where_nothing_else_tells_it(folder) -> None:
    run("capture", "-m", "models.py:module", "-i", "picture.png", "-o", "step.npz", "--dtype", "float64")
    storage.save(folder / "bare.npz", storage.load(folder / "step.npz"))
    start = ["reconstruct", "--gradients", "bare.npz", "-m", "models.py:module"]
    assert "pass --input-shape, such as 3x32x32" in run(*start, code=2).stderr
    run(*start, "--input-shape", "3,8,8")


@pytest.mark.usefixtures("folder")
def test_the_module_is_the_command() -> None:
    """In a process of its own: exit code, no traceback, nothing but the message on stderr."""
    words = ["reconstruct", "-m", "models.py:number", "-i", "picture.png"]
    done = subprocess.run(
        [sys.executable, "-m", "constraint_algebra", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: models.py:number must return an nn.Module or a Network, got int"
    assert done.stdout == ""
