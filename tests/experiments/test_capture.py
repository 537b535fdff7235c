"""Captured steps: what was done to the picture and how the model was read is said, and nothing of it is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import constraint_algebra as ca
from constraint_algebra import samples, storage
from constraint_algebra.commands.app import app
from constraint_algebra.experiments.capture import from_file, from_image
from constraint_algebra.experiments.recipe import Recipe

RNG = np.random.default_rng(3)
MODELS = """
import torch
from torch import nn

class Both(nn.Sequential):
    def forward(self, x):
        logits = super().forward(x)
        return logits, x.mean()

def plain(shape=(3, 8, 8)):
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 64, 10))

def grey():
    return plain((1, 8, 8))

def parallel():
    return nn.DataParallel(plain())

def both():
    return Both(*plain())

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12 * 64, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        return self.head(torch.relu(self.conv2(x) + x).flatten(1))

def residual():
    model = Residual().eval()
    model.norm.running_mean += torch.linspace(-0.2, 0.2, 12)
    model.norm.running_var += torch.linspace(0, 1, 12)
    return model

def training():
    layers = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(768, 10)
    return nn.Sequential(*layers)

def image_to_image():
    return nn.Sequential(nn.Conv2d(3, 3, 3))
"""


@pytest.fixture
def models(tmp_path) -> Path:
    path = tmp_path / "models.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


def picture(path: Path, height: int, width: int, mode: str = "RGB") -> str:
    bands = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    values = RNG.integers(0, 256, (height, width, bands), dtype=np.uint8)
    Image.fromarray(values[..., 0] if bands == 1 else values).save(path)
    return str(path)


# (height, width, mode, factory, words of the notes)
PICTURES = {
    "smaller": (8, 8, "RGB", "plain", ["a.png: 8-bit values are divided by 255"]),
    "larger": (
        20,
        20,
        "RGB",
        "plain",
        ["8-bit values", "a.png: 3×20×20 brought to 3×8×8: resized to 8×8"],
    ),
    "of another aspect": (
        20,
        30,
        "RGB",
        "plain",
        ["8-bit", "3×20×30 brought to 3×8×8: cropped around the centre to 20×20, resized to 8×8"],
    ),
    "grey for colours": (8, 8, "L", "plain", ["8-bit", "1×8×8 brought to 3×8×8: grey repeated in three channels"]),
    "colours for grey": (8, 8, "RGB", "grey", ["8-bit", "3×8×8 brought to 1×8×8: colours made grey"]),
    "transparent": (8, 8, "RGBA", "plain", ["divided by 255, what is transparent is white"]),
}


@pytest.mark.parametrize("case", PICTURES)
def test_what_is_done_to_a_picture_is_noted(case, tmp_path, models) -> None:
    height, width, mode, factory, words = PICTURES[case]
    image = picture(tmp_path / "a.png", height, width, mode)
    channels = 1 if factory == "grey" else 3
    recipe = Recipe(f"{models}:{factory}", input_shape=(channels, 8, 8))
    notes = from_image(recipe, image).notes
    assert len(notes) == len(words)
    for note, expected in zip(notes, words, strict=True):
        assert expected in note


def test_samples_of_the_right_shape_leave_nothing_to_say() -> None:
    assert from_image(Recipe("lenet"), "cifar10:7").notes == ()


def test_how_a_model_was_read_is_noted(models) -> None:
    taken = from_image(Recipe(f"{models}:both", input_shape=(3, 8, 8)), "cifar10:1").notes
    assert any("2 outputs, and its first entry is taken for the logits" in note for note in taken)
    inside = from_image(Recipe(f"{models}:parallel", input_shape=(3, 8, 8)), "cifar10:1").notes
    assert any("the model inside DataParallel is read" in note for note in inside)


def test_files_of_wrapped_models_get_the_names_of_the_network_and_keep_their_type(tmp_path, models) -> None:
    recipe = Recipe(f"{models}:plain", input_shape=(3, 8, 8))
    step = from_image(recipe, "cifar10:2")
    path = tmp_path / "gradients.pt"
    torch.save({f"module.{name}": torch.from_numpy(a) for name, a in step.gradients.items()}, path)
    found = from_file(path, recipe, image="cifar10:2")
    assert any("'module.0.weight' is read as the network's '0.weight'" in note for note in found.notes)
    assert any("cifar10:2: 3×32×32 brought to 3×8×8: resized" in note for note in found.notes)
    assert list(found.gradients) == list(step.gradients)
    assert {a.dtype for a in found.gradients.values()} == {np.dtype("float32")}
    assert all(np.array_equal(found.gradients[name], step.gradients[name]) for name in step.gradients)


BAD_FILES = {
    "a frozen parameter": (
        lambda g: {**{n: torch.from_numpy(a) for n, a in g.items()}, "0.bias": None},
        r"gradients.pt: '0.bias' is None.*requires_grad_\(True\)",
    ),
    "a tuple": (lambda g: tuple(torch.from_numpy(a) for a in g.values()), "got a tuple of 4, which bears no names"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_of_gradients_that_lack_something_say_what(case, tmp_path, models) -> None:
    make, words = BAD_FILES[case]
    recipe = Recipe(f"{models}:plain", input_shape=(3, 8, 8))
    torch.save(make(from_image(recipe, "cifar10:2").gradients), tmp_path / "gradients.pt")
    with pytest.raises(ca.StorageError, match=words):
        from_file(tmp_path / "gradients.pt", recipe)


def test_a_model_without_a_vector_of_outputs_is_shown_the_way_by_files(models) -> None:
    with pytest.raises(ca.ShapeError, match=r"torch_gradients with a loss of its own.*--gradients and --loss other"):
        from_image(Recipe(f"{models}:image_to_image", input_shape=(3, 8, 8)), "cifar10:1")


def test_the_command_line_and_the_result_say_it(tmp_path, models) -> None:
    image = picture(tmp_path / "photo.png", 20, 30, "L")
    words = ["reconstruct", "--model", f"{models}:parallel", "--image", image, "--input-shape", "3x8x8"]
    run = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    sentences = [
        "photo.png: 8-bit values are divided by 255",
        (
            "photo.png: 1×20×30 brought to 3×8×8: grey repeated in three channels, cropped around the centre to 20×20,"
            " resized to 8×8"
        ),
        "the model inside DataParallel is read, whose parameters bear no prefix",
    ]
    for sentence in sentences:
        assert run.output.count(f"note: {sentence}\n") == 1
    assert set(sentences) <= set(json.loads((tmp_path / "out/result.json").read_text("utf-8"))["notes"])


def test_capture_certify_and_theory_say_it_as_well(tmp_path, models) -> None:
    image = picture(tmp_path / "photo.png", 9, 9)
    sentence = "note: photo.png: 3×9×9 brought to 3×8×8: resized to 8×8"
    shape, model = ["--input-shape", "3x8x8"], ["--model", f"{models}:both"]
    calls = {
        "capture": ["--image", image, "--out", str(tmp_path / "a.npz")],
        "certify": ["--image", image, "--out", str(tmp_path / "b"), "--time-limit", "1"],
        "feasibility": [],
    }
    for command, words in calls.items():
        positional = [model[1]] if command == "feasibility" else model
        run = CliRunner().invoke(app, [command, *positional, *shape, *words])
        assert run.exit_code in {0, 1}, run.output
        assert run.output.count("2 outputs, and its first entry is taken for the logits") == 1
        assert run.output.count(sentence) == bool(words)
    assert "photo" not in str(storage.load_metadata(tmp_path / "a.npz"))  # the picture stays private


sizes = st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40))


@given(sizes, sizes)
def test_the_words_of_fitting_are_empty_exactly_where_nothing_happens(came, shape) -> None:
    words = samples.fitting(came, shape)
    assert (words == "") == (came == shape)
    assert ("cropped" in words or "padded" in words or "resized" in words) == (came[1:] != shape[1:])
    assert samples.fit(np.zeros(came), shape).shape == shape


def test_an_image_of_eight_bits_is_refused_by_fit() -> None:
    for image in (np.zeros((3, 8, 8), np.uint8), np.full((3, 16, 16), 255, np.uint8)):
        with pytest.raises(ca.ShapeError, match=r"8-bit integers.*image / 255.0"):
            samples.fit(image, (3, 8, 8))


def test_the_statistics_of_batch_norm_go_through_the_file(tmp_path, models) -> None:
    recipe = Recipe(f"{models}:residual", dtype="float64", input_shape=(3, 8, 8))
    captured = from_image(recipe, "cifar10:4")
    path = tmp_path / "step.npz"
    captured.save(path)
    again = from_file(path, recipe)
    assert again.network == captured.network
    for name, change in (("running_mean", np.linspace(-0.2, 0.2, 12)), ("running_var", 1 + np.linspace(0, 1, 12))):
        np.testing.assert_allclose(again.parameters[f"norm.{name}"], change, rtol=0, atol=1e-7)
    assert f"gradients/norm.{name}" not in storage.load(path)
    result = ca.reconstruct(again.network, again.parameters, again.gradients)
    np.testing.assert_allclose(result.input, captured.truth, rtol=0, atol=1e-10)
    # The file's statistics count, not those that the model is built with: others make another network.
    arrays = storage.load(path)
    arrays["parameters/norm.running_var"] = arrays["parameters/norm.running_var"] + 1
    storage.save(path, arrays, overwrite=True)
    assert from_file(path, recipe).parameters["norm.running_var"][0] == 2
    del arrays["parameters/norm.running_var"]
    storage.save(path, arrays, overwrite=True)
    with pytest.raises(ca.ParameterError, match=r"'norm\.running_var'"):
        from_file(path, recipe)


def test_a_step_in_training_mode_is_captured_with_the_buffers_that_it_moved(tmp_path, models) -> None:
    recipe, path = Recipe(f"{models}:training", dtype="float64", input_shape=(3, 8, 8)), tmp_path / "step.npz"
    assert from_image(recipe, "cifar10:4").buffers is None  # they stay with the client
    captured = from_image(recipe, "cifar10:4", shares_buffers=True)
    assert captured.buffers is not None
    captured.save(path)
    again = from_file(path, recipe)
    assert again.network == captured.network
    assert again.network.named("1.normalised").kind == "OwnStatistics"
    statistics = {"1.running_mean", "1.running_var"}
    assert again.buffers is not None
    assert set(again.buffers) == statistics == set(again.parameters) - set(again.gradients)
    for name in statistics:
        assert np.array_equal(again.buffers[name], captured.buffers[name])
        assert not np.array_equal(again.buffers[name], again.parameters[name])
    # A file of its own, such as a state dict, counts more.
    storage.save(tmp_path / "after.npz", {name: array + 1 for name, array in captured.buffers.items()})
    other = from_file(path, recipe, buffers=tmp_path / "after.npz").buffers
    assert other is not None
    assert all(np.array_equal(other[name], captured.buffers[name] + 1) for name in statistics)
    plain = Recipe(f"{models}:residual", dtype="float64", input_shape=(3, 8, 8))
    with pytest.raises(ca.ParameterError, match=r"no step of .* moves running statistics.*--share-buffers"):
        from_image(plain, "cifar10:4", shares_buffers=True)


def test_the_command_line_takes_buffers_from_its_own_step_and_from_files(tmp_path, models, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--model", f"{models}:training", "--input-shape", "3x8x8", "--image", "cifar10:4"]
    runner = CliRunner()
    capture = ["capture", *common, "--dtype", "float64", "--out"]
    for extra in ([], ["--share-buffers"]):
        done = runner.invoke(app, [*capture, f"step{len(extra)}.npz", *extra])
        assert done.exit_code == 0, done.output
    plain, told = storage.load("step0.npz"), storage.load("step1.npz")
    assert set(told) - set(plain) == {"buffers/1.running_mean", "buffers/1.running_var"}
    storage.save("after.npz", {name.removeprefix("buffers/"): told[name] for name in set(told) - set(plain)})
    files = ["reconstruct", "--gradients", "step0.npz", *common]
    done = runner.invoke(app, [*files, "--buffers", "after.npz", "--out", "both"])
    assert done.exit_code == 0, done.output
    assert json.loads(Path("both/result.json").read_text())["mse"] < 1e-20
    done = runner.invoke(app, [*files, "--share-buffers", "--out", "neither"])
    assert done.exit_code == 2
    assert "--buffers FILE" in " ".join(done.output.split())
    done = runner.invoke(app, ["reconstruct", *common, "--buffers", "after.npz"])
    assert done.exit_code == 2


@pytest.mark.slow
def test_the_command_line_reconstructs_its_own_step_in_training_mode(tmp_path, models, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["reconstruct", "--model", f"{models}:training", "--input-shape", "3x8x8", "--image", "cifar10:4"]
    done = CliRunner().invoke(app, [*words, "--dtype", "float64", "--share-buffers", "--out", "own"])
    assert done.exit_code == 0, done.output
    assert json.loads(Path("own/result.json").read_text())["mse"] < 1e-20


def test_a_zoo_network_with_shortcuts_is_captured_and_read_again_from_its_name_alone(tmp_path) -> None:
    captured = from_image(Recipe("resnet-small-flatten", dtype="float32"), "cifar10:4", loss="cross_entropy")
    captured.save(tmp_path / "step.safetensors")
    again = from_file(tmp_path / "step.safetensors")
    assert again.network == captured.network
    assert set(again.parameters) == {*again.network.parameter_shapes, *again.network.buffer_shapes}
    assert again.loss == "cross_entropy"


def test_a_network_with_a_loss_of_its_own_says_how_to_go_on() -> None:
    with pytest.raises(ca.ParameterError, match=r"loss of its own.*--loss cross_entropy.*--gradients"):
        from_image(Recipe("fl-vae-encoder"), "mnist:4")
