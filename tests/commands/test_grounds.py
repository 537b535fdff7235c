"""What a result rests on, as the command line tells it: words, arrays, pictures and exit codes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from constraint_algebra import plotting, storage
from constraint_algebra.ground import Ground
from constraint_algebra.recursion import backsubstitution
from constraint_algebra.recursion.result import OPEN, Reconstruction, Status
from tests.command import pixels, run, strict

DARK = '''
import constraint_algebra as ca

def dark():
    """Too few filters for the rank: what the equations leave open, the black pixels decide."""
    return ca.Network((1, 12, 12), [ca.Conv2d(3, 5, stride=2, padding=2), ca.ReLU(), ca.Flatten(), ca.Linear(10)])
'''


@pytest.fixture
def dark(folder):
    """The user's folder with that network and a picture of 16 grey pixels on black."""
    (folder / "dark.py").write_text(DARK)
    picture = np.zeros((12, 12), dtype=np.uint8)
    picture[4:8, 4:8] = np.random.default_rng(0).integers(60, 200, (4, 4))
    Image.fromarray(picture).save(folder / "dark.png")
    return folder


WORDS = [
    "reconstruct",
    "--init",
    "default",
    "-m",
    "dark.py:dark",
    "-i",
    "dark.png",
    "--dtype",
    "float64",
    "--label",
    3,
    "--seed",
    1,
]


def test_what_rests_on_the_range_is_said_kept_and_drawn(dark) -> None:
    output = " ".join(run(*WORDS).stdout.split())
    result, values = strict(dark / "out/result.json"), storage.load(dark / "out/reconstruction.npz")
    assert (result["status"], result["determined"]) == ("given_range", 1.0)
    counts = {ground.label: int((values["ground"] == ground).sum()) for ground in Ground}
    assert result["grounds"] == {label: count for label, count in counts.items() if count}
    assert counts["range"] > 0
    assert result["mse"] < 1e-20
    assert result["layers"][0]["grounds"] == result["grounds"]
    assert "rests on" in output
    assert f"{counts['range']} range" in output
    assert "given that values lie in their range" in output
    assert "proven for all inputs whose values lie in their range" in output
    # Four panels: 13.3 inches at 150 dots an inch; a result of equations has three, 10 inches.
    assert pixels(dark / "out/comparison.png").shape[1] == pytest.approx(2000, abs=2)


@pytest.mark.parametrize(
    ("ground", "code"), [(Ground.EQUATIONS, 0), (Ground.RANGE, 0), (Ground.ZEROS, 1), (Ground.BITS, 1)]
)
def test_only_what_is_proven_for_all_valid_inputs_counts_as_done(dark, monkeypatch, ground, code) -> None:
    shape = (1, 12, 12)
    all_of_it = np.ones(shape, dtype=bool)
    grounds = np.full(shape, ground, dtype=np.uint8)
    found = Reconstruction(
        np.zeros(shape), all_of_it, np.zeros(shape), Status.PARTIAL, (), None, {}, ground=grounds
    ).judged({})
    monkeypatch.setattr(plotting, "is_picture", lambda _: False)  # which takes most of the time
    monkeypatch.setattr(backsubstitution, "reconstruct", lambda *_, **__: found)
    assert found.status.value in run(*WORDS, code=code).stdout
    assert strict(dark / "out/result.json")["grounds"] == {ground.label: 144}


def test_open_values_have_no_ground_and_an_older_file_is_read_as_it_is(dark) -> None:
    run("reconstruct", "-m", "models.py:blind", "-i", "picture.png", "--dtype", "float64", code=1)
    values = storage.load(dark / "out/reconstruction.npz")
    np.testing.assert_array_equal(values["ground"] == OPEN, ~values["determined"])
    assert pixels(dark / "out/comparison.png").shape[1] == pytest.approx(1500, abs=2)
    older = {name: array for name, array in values.items() if name != "ground"}
    storage.save(dark / "older.npz", older)
    again = storage.load(dark / "older.npz")
    found = Reconstruction(again["guess"], again["determined"], again["error_bar"], Status.PARTIAL, (), None, {})
    assert found.grounds == {Ground.EQUATIONS: int(again["determined"].sum())}
