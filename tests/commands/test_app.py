"""The command line from end to end, on networks small enough to take no time."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import storage
from constraint_algebra.pytorch.gradients import load_parameters, to_torch, torch_gradients
from tests.command import pixels, run, strict, truth


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


def test_inputs_with_the_same_gradient_are_all_kept(folder) -> None:
    start = ["-m", "models.py:scaled", "-i", "picture.png", "--dtype", "float64", "--label", 1]
    output = run("reconstruct", *start, code=1)
    run("capture", *start, "-o", "step.npz")
    result, values = strict(folder / "out/result.json"), storage.load(folder / "out/reconstruction.npz")
    assert (result["status"], result["alternatives"]) == ("ambiguous", 1)
    assert "several valid inputs have the same gradient" in output.stdout
    found = [values["guess"], values["alternatives/0"]]
    assert np.abs(found[0] - found[1]).max() > 0.01
    assert min(np.abs(x - truth(folder)).max() for x in found) < 1e-10
    # PyTorch agrees: each of them, with one label or the other, has the gradient that was captured.
    arrays = storage.load(folder / "step.npz")
    layers = [ca.Conv2d(6, 3, padding=1, bias=False), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(1, bias=False)]
    model = to_torch(ca.Network((3, 8, 8), layers))
    load_parameters(model, {n.removeprefix("parameters/"): a for n, a in arrays.items() if "param" in n})
    for x in found:
        gaps = []
        for label in (0, 1):
            gradient = torch_gradients(model, x, label, loss="logistic")
            gaps.append(max(np.abs(g - arrays[f"gradients/{name}"]).max() for name, g in gradient.items()))
        assert min(gaps) < 1e-9


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
