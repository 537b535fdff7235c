"""The benchmark of networks that end short of rank: its networks, its columns, its counts; no run is done twice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.ground import Ground
from constraint_algebra.recursion.result import LayerSolution
from paper_repro.benchmarks import short_of_rank
from paper_repro.benchmarks.short_of_rank import Run


def test_the_second_network_has_relu_from_its_second_activation_on() -> None:
    net, published = short_of_rank.network("cnn6-o-relu"), zoo.network("cnn6-o")
    assert net.parameter_count == published.parameter_count
    found = [layer.activation for layer in net.layers if layer.is_activation]
    assert found == [ca.LeakyReLU(0.2), *[ca.ReLU()] * 5]
    assert [layer.layer for layer in net.bilinear] == [layer.layer for layer in published.bilinear]


def short() -> ca.Network:
    """Too few filters for a dark picture: by equations nothing, by the range all."""
    return ca.Network((1, 12, 12), [ca.Conv2d(3, 5, stride=2, padding=2), ca.ReLU(), ca.Flatten(), ca.Linear(10)])


@pytest.fixture
def dark(monkeypatch):
    """That network, on a picture of 16 grey pixels on black."""
    from analysis.subjects import step

    picture = np.zeros((1, 12, 12))
    picture[0, 4:8, 4:8] = np.random.default_rng(0).integers(60, 200, (4, 4)) / 255

    def training_step(run: Run):
        model = ca.to_torch(short(), seed=run.seed, init="default", dtype=run.dtype)
        return step(model, short(), picture, 3)

    monkeypatch.setattr(short_of_rank, "step_of", training_step)


@pytest.mark.usefixtures("dark")
def test_a_row_a_run_is_written_once_and_told_in_a_line(tmp_path) -> None:
    path = tmp_path / "deep" / "rows.csv"
    given = ["--network", "dark", "--first-seed", "1", "--seeds", "1", "--processes", "1", "--out", str(path)]
    app = typer.Typer()
    app.command()(short_of_rank.main)
    output = CliRunner().invoke(app, given, catch_exceptions=False).output
    rows = pd.read_csv(path)
    assert list(rows["dtype"]) == ["float64", "float32"]
    assert (rows["alone_determined"] == 0).all()
    assert (rows[["determined", "range"]] == 144).all(axis=None)
    assert (rows["wrong"] == 0).all()
    assert rows["error_largest"][0] < 1e-12 < rows["error_largest"][1] < 1e-4
    assert (rows["published_outcome"] == "FAILED").all()
    assert "dark, float64, seed 1, cifar10:1: UNDETERMINED by equations" in output
    assert "GIVEN_RANGE (144 range, error" in output
    assert "2 runs in" in output
    before = path.read_bytes()
    CliRunner().invoke(app, given, catch_exceptions=False)
    assert path.read_bytes() == before


def test_columns_of_a_result() -> None:
    known = np.array([True, True, True, False])
    x, truth = np.array([0.5, 0.5, 0.2, 0.0]), np.array([0.5, 0.5 + 1e-6, 0.1, 0.0])
    ground = np.array([0, 2, 3, 255], dtype=np.uint8)
    bars = np.array([1e-12, 1e-5, 1e-9, np.inf])
    layers = tuple(LayerSolution(name, "Conv2d", 4, 2, 2, 3, count, 1.0, 0.0) for name, count in (("0", 3), ("2", 4)))
    result = ca.Reconstruction(x, known, bars, ca.Status.PARTIAL, layers, None, {}, ground=ground)
    row = short_of_rank.told(result, truth, "float64")
    assert {g for g in Ground if row[g.label]} == {Ground.EQUATIONS, Ground.ZEROS, Ground.BITS}
    assert {row[g.label] for g in Ground} == {0, 1}
    assert (row["determined"], row["wrong"], row["stopped_at"]) == (3, 1, "layer 0")
    assert row["error_largest"] == pytest.approx(0.1)
    assert row["within4"] == pytest.approx(2 / 3)
    assert short_of_rank.told(result, np.where(known, x + 5e-5, x), "float32")["wrong"] == 0
    assert short_of_rank.told(result, np.where(known, x + 5e-5, x), "float64")["wrong"] == 2


def test_the_summary_counts_what_comes_back_by_its_weakest_ground() -> None:
    good = {"network": "n", "dtype": "float64", "values": 4, "determined": 4, "error_largest": 1e-12, "wrong": 0}
    good |= {"alone_determined": 4, "alone_error": 1e-12, "status": "DETERMINED", "published_error": 1e-8}
    good |= {"alone_cpu": 1.0, "cpu": 2.0, "published_cpu": 3.0}
    was_open = {"alone_determined": 0, "alone_error": np.nan, "published_error": np.nan}
    changes = [
        {},
        was_open | {"status": "GIVEN_RANGE"},
        was_open | {"status": "BY_ZEROS", "error_largest": 1e-7},
        was_open | {"status": "BY_BITS", "error_largest": 0.2, "wrong": 3},
        was_open | {"status": "UNDETERMINED", "determined": 0, "error_largest": np.nan},
    ]
    (line,) = short_of_rank.summary(pd.DataFrame([good | change for change in changes])).to_dict("records")
    counts = ("runs", "alone", "all", "open", "come back", "exactly", "by range", "by zeros", "by bits", "wrong")
    assert [line[name] for name in counts] == [5, 1, 3, 4, 2, 1, 1, 1, 0, 1]
    assert (line["published"], line["s"]) == (1, 2.0)
