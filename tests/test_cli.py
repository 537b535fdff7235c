"""The command line from end to end, on networks small enough to take no time."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import constraint_algebra as ca
from constraint_algebra import storage
from constraint_algebra.cli import app

MODELS = '''
import torch
from torch import nn
import constraint_algebra as ca
from neighbour import SLOPE

def small():
    """A network that determines its input."""
    return ca.Network((3, 8, 8), [ca.Conv2d(6, 3, padding=1), ca.LeakyReLU(SLOPE), ca.Flatten(), ca.Linear(4)])

def module():
    """A model with weights of its own, a plain chain with a functional activation."""
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.head = nn.Linear(384, 4)
        def forward(self, x):
            return self.head(nn.functional.leaky_relu(self.conv(x), SLOPE).flatten(1))
    return Plain()

def blind():
    """A stride longer than the kernel: some pixels are never looked at."""
    return ca.Network((3, 8, 8), [ca.Conv2d(9, 2, stride=3), ca.LeakyReLU(SLOPE), ca.Flatten(), ca.Linear(4)])

def logistic():
    return ca.Network((3, 8, 8), [ca.Conv2d(6, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(1)])

def line():
    return ca.Network((2, 8), [ca.Conv1d(6, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(3)])

def gelu():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4))

def number():
    return 7

def broken():
    raise RuntimeError("no such luck")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: models.py with the module that it imports, and a picture of 8×8 pixels."""
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "neighbour.py").write_text("SLOPE = 0.2\n")
    (tmp_path / "faulty.py").write_text("import nothing_of_that_name\n")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    return tmp_path


def run(*words: object, code: int | None = 0):
    """Run the command and check its exit code (`None`: whether determined or not); a traceback is never an answer."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code in ({0, 1} if code is None else {code}), result.output
    return result


def strict(path) -> dict:
    """Read JSON and refuse NaN and Infinity, which are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def pixels(path) -> np.ndarray:
    """The bytes of a picture."""
    with Image.open(path) as image:
        return np.asarray(image)


def truth(folder) -> np.ndarray:
    """The picture as the network sees it."""
    return np.moveaxis(pixels(folder / "picture.png") / 255, -1, 0)


@pytest.mark.parametrize("factory", ["small", "module"])
def test_reconstruct_brings_the_picture_back(folder, factory) -> None:
    output = run("reconstruct", "-m", f"models.py:{factory}", "-i", "picture.png", "--dtype", "float64", "--label", 2)
    result = strict(folder / "out/result.json")
    assert result["status"] == "determined"
    assert result["determined"] == 1.0
    assert result["label"] == 2
    assert result["mse"] < 1e-20
    assert result["psnr"] > 200
    assert result["ssim"] == pytest.approx(1, abs=1e-9)
    assert result["seed"] == 0
    assert result["cpu_seconds"] >= 0
    assert set(result["versions"]) >= {"constraint_algebra", "python", "numpy", "scipy", "torch"}
    assert [layer["kind"] for layer in result["layers"]] == ["Conv2d", "Linear"]
    assert result["captured"]["image"] == "picture.png"
    assert np.array_equal(pixels(folder / "out/reconstruction.png"), pixels(folder / "picture.png"))
    values = storage.load(folder / "out/reconstruction.npz")
    assert np.mean((values["input"] - truth(folder)) ** 2) == pytest.approx(result["mse"], rel=1e-6)
    assert values["determined"].all()
    assert pixels(folder / "out/comparison.png").shape[1] > 900
    for words in ("Conv2d", "every input value is determined", "label 2", "result.json"):
        assert words in output.stdout
    assert output.stdout.splitlines()[-1] == "out/comparison.png"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_precision_gives_an_answer_of_its_own_accuracy(folder, dtype) -> None:
    run("reconstruct", "-m", "models.py:small", "-i", "picture.png", "--dtype", dtype, code=None)
    mse = strict(folder / "out/result.json")["mse"]
    assert mse < {"float32": 1e-9, "bfloat16": 0.3, "float16": 1e-2}[dtype]
    assert mse > 1e-20, "a gradient of low precision cannot give an exact image"


def test_a_part_that_is_not_determined_is_said_and_not_guessed(folder) -> None:
    output = run("reconstruct", "-m", "models.py:blind", "-i", "picture.png", "--dtype", "float64", code=1)
    result = strict(folder / "out/result.json")
    # The kernel of 2 with stride 3 sees rows and columns 0 1 3 4 6 7 of 8: 36 of 64 pixels.
    assert result["status"] == "partial"
    assert result["determined"] == pytest.approx(36 / 64)
    assert result["mse_determined"] < 1e-20
    assert result["mse"] > 1e-3
    values = storage.load(folder / "out/reconstruction.npz")
    seen = np.isin(np.arange(8), [0, 1, 3, 4, 6, 7])
    assert np.array_equal(values["determined"], np.broadcast_to(np.outer(seen, seen), (3, 8, 8)))
    assert "108 of 192 values" in output.stdout


def test_a_logistic_head_takes_its_loss_and_a_label_of_two(folder) -> None:
    run("reconstruct", "-m", "models.py:logistic", "-i", "picture.png", "--dtype", "float64", "--label", 0)
    result = strict(folder / "out/result.json")
    assert (result["loss"], result["label"], result["captured"]["label"]) == ("logistic", 0, "0")
    assert result["mse"] < 1e-16


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_capture_then_reconstruct_is_reconstruct(folder, suffix, dtype) -> None:
    common = ["-m", "models.py:small", "--dtype", dtype, "--seed", 3]
    output = run("capture", *common, "-i", "picture.png", "--label", 1, "-o", f"new/step.{suffix}")
    assert f"new/step.{suffix}" in output.stdout
    direct = run("reconstruct", *common, "-i", "picture.png", "--label", 1, "-o", "a", code=None)
    # No seed here: the weights in the file count.
    words = ["--gradients", f"new/step.{suffix}", "-m", "models.py:small", "-i", "picture.png", "-o", "b"]
    stored = run("reconstruct", *words, code=None)
    assert direct.exit_code == stored.exit_code
    first, second = (storage.load(folder / f"{name}/reconstruction.npz")["input"] for name in "ab")
    assert np.allclose(first, second, atol=1e-12, rtol=0, equal_nan=True)
    assert strict(folder / "b/result.json")["captured"]["dtype"] == dtype


def test_a_gradient_file_tells_what_an_observer_sees_and_no_more(folder) -> None:
    run("capture", "-m", "models.py:small", "-i", "picture.png", "--label", 3, "-o", "step.npz", "--dtype", "bfloat16")
    arrays, told = storage.load(folder / "step.npz"), storage.load_metadata(folder / "step.npz")
    names = ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert set(arrays) == {f"{kind}/{name}" for kind in ("parameters", "gradients") for name in names}
    assert {str(a.dtype) for a in arrays.values()} == {"bfloat16"}
    assert told["input_shape"] == "3×8×8"
    assert told["loss"] == "cross_entropy"
    assert not {"image", "label"} & set(told)


def test_without_the_true_image_there_is_a_picture_but_no_figure_of_merit(folder) -> None:
    run("capture", "-m", "models.py:small", "-i", "picture.png", "-o", "step.npz", "--dtype", "float64")
    run("reconstruct", "--gradients", "step.npz", "-m", "models.py:small")
    result = strict(folder / "out/result.json")
    assert {result[name] for name in ("mse", "psnr", "ssim", "mse_determined")} == {None}
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "reconstruction.npz",
        "reconstruction.png",
        "result.json",
    ]


def test_a_clients_own_file_of_gradients_works_with_the_models_or_a_files_weights(folder) -> None:
    """Arrays under bare names, as a federated client would send them; weights from the model, or from a checkpoint."""
    run("capture", "-m", "models.py:module", "-i", "picture.png", "-o", "step.npz", "--dtype", "float64")
    arrays = storage.load(folder / "step.npz")
    for kind in ("parameters", "gradients"):
        chosen = {n.removeprefix(f"{kind}/"): a for n, a in arrays.items() if n.startswith(kind)}
        storage.save(folder / f"{kind}.safetensors", chosen)
    start = ["reconstruct", "--gradients", "gradients.safetensors", "-m", "models.py:module", "-i", "picture.png"]
    # Same seed: the factory makes the same weights again.
    run(*start, "--dtype", "float64", "-o", "a")
    # Another seed: only the checkpoint has the right ones.
    run(*start, "--seed", 5, "--parameters", "parameters.safetensors", "-o", "b")
    assert strict(folder / "a/result.json")["mse"] < 1e-20
    assert strict(folder / "b/result.json")["mse"] < 1e-20
    run(*start, "--seed", 5, "--dtype", "float64", "-o", "c", code=1)


def test_a_one_dimensional_sample_leaves_arrays_and_no_pictures(folder) -> None:
    network = ca.Network((2, 8), [ca.Conv1d(6, 3, padding=1), ca.Tanh(), ca.Flatten(), ca.Linear(3)])
    rng = np.random.default_rng(1)
    x = rng.random((2, 8))
    weights = {name: rng.uniform(-0.5, 0.5, shape) for name, shape in network.parameter_shapes.items()}
    values = network.forward(weights, x)
    k = np.exp(values[-1]) / np.exp(values[-1]).sum() - np.eye(3)[1]
    gradients = network.backward(weights, values, k)
    arrays = {f"parameters/{n}": a for n, a in weights.items()} | {f"gradients/{n}": a for n, a in gradients.items()}
    storage.save(folder / "line.npz", arrays)
    run("reconstruct", "--gradients", "line.npz", "-m", "models.py:line")
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["reconstruction.npz", "result.json"]
    assert np.allclose(storage.load(folder / "out/reconstruction.npz")["input"], x, atol=1e-10)


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
    assert "step.npz exists; pass --force" in run("capture", *start, "-o", "step.npz", "--seed", 1, code=2).stderr
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
        ("-m models.py:gelu -i picture.png", "2 layers of the model cannot be turned into equations"),
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


def test_the_seed_makes_the_weights(folder) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        for factory in ("small", "module"):
            run(
                "capture",
                "-m",
                f"models.py:{factory}",
                "-i",
                "picture.png",
                "--seed",
                seed,
                "-o",
                f"{factory}{name}.npz",
            )
    for factory, name in (("small", "0.weight"), ("module", "conv.weight")):
        a, b, c = (storage.load(folder / f"{factory}{x}.npz")[f"parameters/{name}"] for x in "abc")
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)


def test_init_chooses_the_distribution(folder) -> None:
    for init in ("uniform", "default"):
        run("capture", "-m", "models.py:small", "-i", "picture.png", "--init", init, "-o", f"{init}.npz")
    wide, narrow = (storage.load(folder / f"{n}.npz")["parameters/3.weight"] for n in ("uniform", "default"))
    assert 0.45 < np.abs(wide).max() <= 0.5
    assert np.abs(narrow).max() <= 1 / np.sqrt(384) + 1e-6  # PyTorch's bound for 384 inputs


def test_listings_and_version() -> None:
    networks = run("zoo").stdout
    for words in ("lenet-o", "26,459", "3×32×32", "logistic"):
        assert words in networks
    assert "cifar10" in run("samples").stdout
    assert run("--version").stdout.strip() == f"constraint-algebra {ca.__version__}"


@pytest.mark.parametrize("words", [[], ["reconstruct"], ["capture"], ["zoo"], ["samples"]])
def test_help_explains(words) -> None:
    told = run(*words, "--help").stdout
    assert "Usage" in told
    assert len(told) > 200


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
