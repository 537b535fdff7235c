"""The command line on networks with shortcuts, batch norm and pooling."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from constraint_algebra import storage, zoo
from tests.command import pixels, run, strict, truth

MODELS = """
import torch
from torch import nn
import constraint_algebra as ca

def graph():
    layers = {"stem": ca.Conv2d(12, 3, padding=1), "norm": ca.BatchNorm(), "relu": ca.ReLU()}
    layers |= {"conv": ca.Conv2d(12, 3, padding=1), "sum": (ca.Add(), "conv", "relu"), "out": ca.ReLU()}
    return ca.Network((3, 8, 8), layers | {"flat": ca.Flatten(), "head": ca.Linear(4)})

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12 * 64, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.conv(x) + x).flatten(1))

def evaluating():
    return Residual().eval()
"""


@pytest.fixture(autouse=True)
def _graph_models(folder, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # whatever the terminal is, no word is cut
    (folder / "graphs.py").write_text(MODELS, encoding="utf-8")


@pytest.mark.parametrize("factory", [pytest.param("graph", marks=pytest.mark.slow), "evaluating"])
def test_reconstruct_brings_the_picture_back(folder, factory) -> None:
    start = ["-m", f"graphs.py:{factory}", "-i", "picture.png", "--dtype", "float64"]
    output = run("reconstruct", *start, "--input-shape", "3x8x8")
    assert strict(folder / "out/result.json")["mse"] < 1e-20
    assert "ChannelScale" in output.stdout
    values = storage.load(folder / "out/reconstruction.npz")
    np.testing.assert_allclose(values["input"], truth(folder), rtol=0, atol=1e-10)
    assert np.array_equal(pixels(folder / "out/reconstruction.png"), pixels(folder / "picture.png"))


def test_feasibility_says_what_each_layer_reads() -> None:
    output = run("feasibility", "graphs.py:graph", "-f", "csv").stdout
    rows = {row["layer"]: row for row in csv.DictReader(io.StringIO(output))}
    assert {name: row["inputs"] for name, row in rows.items()} == {
        "stem": "input",
        "norm": "norm.normalised",
        "conv": "relu",
        "head": "flat",
    }
    told = json.loads(run("feasibility", "graphs.py:graph", "-f", "json").stdout)
    assert told["verdict"] == "determined"
    assert list(told["layers"][0])[:3] == ["layer", "inputs", "kind"]
    chain = run("feasibility", "lenet-o", "-f", "csv").stdout
    assert "inputs" not in chain.splitlines()[0]


@pytest.mark.slow
def test_certify_takes_a_graph(folder) -> None:
    output = run("certify", "-m", "graphs.py:graph", "-i", "picture.png", "--time-limit", 10, code=None)
    assert "Certificate for 192 values" in output.stdout
    assert (folder / "out/certificate.npz").exists()


def test_what_has_no_answer_on_a_graph_says_what_has() -> None:
    refused = run("minimum-filters", "graphs.py:graph", code=2).stderr
    assert "chain" in refused
    assert "feasibility" in refused
    refused = run("reconstruct", "-m", "fl-vae-encoder", "-i", "picture.png", code=2).stderr
    assert "loss of its own" in refused


def test_the_zoo_is_listed_in_groups() -> None:
    output = run("zoo").stdout
    places = [output.index(f"{family}: {words}") for family, words in zoo.FAMILIES.items()]
    assert places == sorted(places)
    assert places[2] < output.index("11,689,512") < places[3]
    assert all(f" {name} " in output for name in zoo.names())
