"""The benchmarks on a network of the size of a stamp: what their columns say is true, and no run is done twice."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.experiments.capture import from_image
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.ground import Ground
from paper_repro.baselines import rconv_published as published
from paper_repro.benchmarks import accuracy, large, layer_steps, measure, speed, verdicts
from paper_repro.benchmarks.accuracy import Run

TINY = zoo.ZooEntry(
    "rconv2024",
    ((12, "5/2/2", zoo.LEAKY), (6, "5/1/2", zoo.RELU)),
    classes=10,
    input_shape=(3, 12, 12),
)
POOR = zoo.ZooEntry("rconv2024", ((12, "3/2/1", zoo.RELU), (6, "5/1/2", zoo.RELU)), classes=10, input_shape=(3, 12, 12))
EXAMPLE = {
    "network": "tiny",
    "dtype": "float32",
    "noise": 0.0,
    "seed": 0,
    "status": "DETERMINED",
    "values": 4,
    "determined": 4,
}


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch) -> None:
    monkeypatch.setitem(zoo.NETWORKS, "tiny", TINY)
    monkeypatch.setitem(zoo.NETWORKS, "poor", POOR)


def invoke(main, *arguments: str) -> str:
    """What a benchmark prints."""
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_accuracy_writes_a_row_a_run_and_resumes(tmp_path) -> None:
    path = tmp_path / "deep" / "accuracy.csv"
    given = ["--network", "tiny", "--quick", "--processes", "1", "--out", str(path)]
    output = invoke(accuracy.main, *given)
    assert "tiny" in output
    assert "8 runs in" in output
    rows = pd.read_csv(path)
    assert (rows["status"] == "DETERMINED").all()
    assert (rows["exact"] == 432).all()
    assert (rows.loc[rows["dtype"] == "float32", "psnr"] > 80).all()
    assert (rows.loc[rows["dtype"] == "float64", "psnr"] > 200).all()
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]) + "\n")
    invoke(accuracy.main, *given)
    assert path.read_text().splitlines()[:-2] == lines[:-2]
    assert len(pd.read_csv(path)) == 8


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path) -> None:
    wanted = [Run("rconv-relu", "float32", 0.0, 1, image) for image in range(2)]
    rows = accuracy.run(wanted, tmp_path / "accuracy.csv", processes=2)
    alone = pd.DataFrame([accuracy.judge(wanted[0])])
    both = rows[rows["image"] == 0].iloc[0]
    np.testing.assert_allclose(both[["psnr", "within1"]].astype(float), alone.loc[0, ["psnr", "within1"]].astype(float))


def test_columns_of_a_run() -> None:
    x, truth = np.array([0.5, 0.5, 0.5, np.nan, 0.75]), np.array([0.5, 0.501, 0.4, 0.5, 0.5])
    determined = np.array([True, True, True, False, True])
    bar = np.array([1e-3, 5e-4, 1e-5, np.inf, 1.0])
    exact = np.array([True, True, True, True, False])
    row = accuracy.compared(x, determined, bar, truth, exact)
    assert (row["determined"], row["overclaimed"], row["missed"], row["wrong"]) == (4, 1, 1, 1)
    assert row["mse"] == pytest.approx((1e-6 + 1e-2) / 3)
    assert row["psnr"] == pytest.approx(-10 * np.log10(row["mse"]))
    assert row["worst"] == pytest.approx(0.1)
    assert (row["within1"], row["within4"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_nothing_determined_has_no_quality() -> None:
    nothing = np.zeros(3, dtype=bool)
    row = accuracy.compared(np.full(3, np.nan), nothing, np.full(3, np.inf), np.ones(3), nothing)
    assert row == {"determined": 0, "overclaimed": 0, "missed": 0, "wrong": 0}


def test_a_gradient_of_zeros_is_no_exception_of_the_library(monkeypatch) -> None:
    usual = accuracy.noisy

    def nothing(gradients, run):
        return usual({name: 0 * gradient for name, gradient in gradients.items()}, run)

    monkeypatch.setattr(accuracy, "noisy", nothing)
    row = accuracy.judge(Run("tiny", "float32", 0.0, 0, 0))
    assert row["status"] == "ZERO GRADIENT"
    assert (row["exact"], row["determined"], row["missed"]) == (0, 0, 0)


def test_a_gradient_refused_as_zeros_that_is_none_is_an_exception(monkeypatch) -> None:
    def refuse(*_, **__):
        raise ca.ZeroGradientError("0")

    monkeypatch.setattr(ca, "reconstruct", refuse)
    assert accuracy.judge(Run("tiny", "float32", 0.0, 0, 0))["status"] == "EXCEPTION"


def test_what_rests_on_more_than_equations_is_no_claim_of_theirs(monkeypatch) -> None:
    step = from_image(Recipe("poor", 2, dtype="float64"), "cifar10:3")  # 24 of 432 values by equations
    exact = verdicts.determined(step.network, step.parameters, step.truth)
    whole = np.ones(step.truth.shape, dtype=bool)
    for ground, count in ((Ground.ZEROS, 0), (Ground.EQUATIONS, 432 - 24)):
        grounds = np.where(exact, np.uint8(Ground.EQUATIONS), np.uint8(ground))
        given = step.truth, whole, np.full(step.truth.shape, 1e-12), ca.Status.BY_ZEROS, (), None, {}
        found = ca.Reconstruction(*given, ground=grounds)
        monkeypatch.setattr(ca, "reconstruct", lambda *_, found=found, **__: found)
        row = accuracy.judge(Run("poor", "float64", 0.0, 2, 3))
        assert (row["exact"], row["determined"], row["overclaimed"]) == (24, 432, count)


FAILURES = [
    ({}, None),
    ({"psnr": 50.0, "missed": 1, "noise": 1e-3}, None),  # noise may well hide what is determined
    ({"psnr": 50.0}, "PSNR 50.0, and the error bars promise 110.0"),
    ({"wrong": 2}, "2 values claimed determined are wrong"),
    ({"overclaimed": 1}, "1 values claimed determined are not"),
    ({"missed": 3}, "3 determined values missed"),
    ({"within4": 0.5}, "50.0% of errors within 4 bars"),
    ({"status": "INCONSISTENT"}, "INCONSISTENT"),
    ({"status": "EXCEPTION", "error": "ValueError: no"}, "ValueError: no"),
]


def rows_of(*changes: dict[str, object]) -> pd.DataFrame:
    """Rows of a good run each, but for the changes."""
    good = {"exact": 4, "overclaimed": 0, "missed": 0, "wrong": 0, "psnr": 100.0, "promised": 110.0, "cpu": 1.0}
    usual = EXAMPLE | good | {"within1": 0.7, "within4": 1.0, "error": ""}
    return pd.DataFrame([usual | {"image": number} | change for number, change in enumerate(changes)])


@pytest.mark.parametrize(("change", "sentence"), FAILURES, ids=str)
def test_failures_are_told(change, sentence) -> None:
    expected = [] if sentence is None else [f"tiny, float32, seed 0, cifar10:0: {sentence}"]
    assert list(accuracy.failures(rows_of(change))) == expected


def test_summary_counts_runs() -> None:
    less = {"exact": 3, "determined": 3, "psnr": 20.0}
    unknown = {"exact": -1, "psnr": 90.0}
    rows = rows_of({}, {"psnr": 70.0}, {"status": "INCONSISTENT", "wrong": 4}, {"overclaimed": 1}, less, unknown)
    (line,) = accuracy.summary(rows).to_dict("records")
    counts = {name: line[name] for name in ("runs", "exceptions", "determined", "reconstructed", "false claims")}
    assert counts == {"runs": 6, "exceptions": 0, "determined": 5, "reconstructed": 3, "false claims": 1}
    assert (line["median PSNR"], line["worst PSNR"]) == (100.0, 70.0)
    assert line["within 1 bar"] == pytest.approx(0.7)


# With the poor one everything, nothing and a part.
@pytest.mark.parametrize(
    ("network", "seed", "count"), [("tiny", 0, 432), ("poor", 0, 432), ("poor", 1, 0), ("poor", 2, 24)]
)
def test_the_exact_answer_is_that_of_least_squares_in_float64(network, seed, count) -> None:
    step = from_image(Recipe(network, seed, dtype="float64"), "cifar10:3")
    exact = verdicts.determined(step.network, step.parameters, step.truth)
    found = ca.reconstruct(step.network, step.parameters, step.gradients)
    assert exact.sum() == count
    np.testing.assert_array_equal(exact, found.determined)


def test_noise_has_the_size_that_was_asked_for_and_is_told_to_the_solver() -> None:
    run = Run("tiny", "float32", 1e-4, 0, 3)
    gradients = {"a": np.linspace(-3, 3, 40_000, dtype=np.float32), "b": np.full(3, 2.0, dtype=np.float32)}
    noisy, deviations = accuracy.noisy(gradients, run)
    assert noisy["a"].dtype == np.float32
    assert deviations["b"] == pytest.approx(2e-4)
    assert np.std(noisy["a"] - gradients["a"]) == pytest.approx(deviations["a"], rel=0.05)
    assert accuracy.noisy(gradients, run._replace(noise=0.0))[0] is gradients
    row = accuracy.judge(run)
    assert row["status"] == "DETERMINED"
    assert 20 < row["psnr"] < 90
    assert abs(row["psnr"] - row["promised"]) < 10


def test_the_exact_answer_is_none_beyond_the_limit() -> None:
    step = from_image(Recipe("poor", 1, dtype="float64"), "cifar10:3")
    assert verdicts.determined(step.network, step.parameters, step.truth, limit=1) is None


def test_speed_prints_and_keeps_both_tables(tmp_path) -> None:
    given = ["--network", "tiny", "--layers", "tiny", "--repetitions", "1", "--out", str(tmp_path)]
    output = invoke(speed.main, *given)
    assert "CPU seconds: reconstruction" in output
    rows = pd.read_csv(tmp_path / "speed_reconstruction.csv")
    assert list(rows["dtype"]) == ["float32", "float64"]
    np.testing.assert_allclose(rows["ratio"], rows["published"] / rows["library"])
    assert (rows["library PSNR"] > 80).all()
    assert not rows["at least"].any()
    steps = pd.read_csv(tmp_path / "speed_layers.csv")
    assert len(steps) == 8
    assert list(steps["layer"].unique()) == [2, 0]
    invoke(speed.main, *given)
    assert len(pd.read_csv(tmp_path / "speed_layers.csv")) == 16


def test_a_run_cut_short_bounds_the_ratio_from_below() -> None:
    row = speed.reconstruction("tiny", "float64", repetitions=1, limit=0.0)
    assert row["at least"]
    assert "time limit" in row["published says"]
    assert np.isnan(row["published PSNR"])
    assert speed.readable(pd.DataFrame([row]))["ratio"][0].startswith("> ")


def test_values_of_the_layers_fit_the_weight_gradients() -> None:
    step = from_image(Recipe("poor", dtype="float64"), "cifar10:3")
    layers = list(layer_steps.values_of(step))
    assert [v.layer.name for v in layers] == ["2", "0"]
    for v in layers:
        pixels = v.x.reshape(v.layer.channels, -1)
        for f, i, j, row in published.gradient_rows(v.layer, v.k):
            np.testing.assert_allclose(pixels @ row, v.weight_gradient[f, :, i, j], rtol=1e-9, atol=1e-12)
        z = np.array([row @ v.x.ravel() for row in published.weight_rows(v.layer, v.W)]).reshape(v.output.shape)
        known = np.isfinite(v.output)
        assert 0 < known.sum() < known.size
        np.testing.assert_allclose(z[known], v.output[known], atol=1e-12)
    np.testing.assert_allclose(layers[-1].x, step.truth)


def test_steps_of_a_layer_are_right_before_they_are_timed() -> None:
    step = from_image(Recipe("tiny", dtype="float64"), "cifar10:3")
    for v in layer_steps.values_of(step):
        for x in (layer_steps.solution(v), layer_steps.published_solution(v, 60.0)):
            np.testing.assert_allclose(x, v.x, atol=1e-8)
        weight, gradient = layer_steps.assemble(v)
        dense = layer_steps.published_assembly(v)
        np.testing.assert_allclose(weight.toarray(), dense[0])
        pixels = v.x[0].size
        np.testing.assert_allclose(gradient.toarray()[: len(dense[1]), :pixels], dense[1])
        assert layer_steps.published_rank(v, 60.0) == np.linalg.matrix_rank(dense[1])
        assert layer_steps.numerical_verdict(v).determined.all()
        assert layer_steps.published_rank(v, 0.0) is None
        if v.layer.index:
            assert layer_steps.published_solution(v, 0.0) is None


def test_repetitions_end_with_the_budget() -> None:
    timing = measure.timed(lambda: sum(range(200_000)), repetitions=50, budget=0.01)
    assert 1 <= len(timing.seconds) < 50
    assert timing.value == sum(range(200_000))


def test_a_file_of_other_columns_is_left_alone(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    measure.append(path, {"a": 1, "b": 2})
    with pytest.raises(ca.StorageError, match="columns a, b"):
        measure.append(path, {"a": 1, "c": 2})
    with pytest.raises(ca.StorageError, match="lacks the columns c"):
        measure.read(path, ["a", "c"])
    assert path.read_text().splitlines() == ["a,b", "1,2"]


def test_the_library_does_not_know_its_users() -> None:
    users = {"paper_repro", "analysis", "figures", "tests"}
    for path in Path(ca.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert users.isdisjoint(name.split(".")[0] for name in names), path


def test_a_row_of_the_scaling_benchmark() -> None:
    from paper_repro.benchmarks import scaling

    row = scaling.run(32)
    assert row["status"] == "DETERMINED"
    assert row["unknowns"] == row["determined"] == 3072
    assert row["psnr_dB"] > 250
    assert row["within_4_bars"] > 0.99
    assert scaling.picture(64).shape == (3, 64, 64)


def test_a_row_of_the_benchmark_of_large_layers(tmp_path, monkeypatch) -> None:
    small = {"small": partial(large.layer, filters=12, stride=1, size=6, active=0.9, channels=3)}
    monkeypatch.setattr(large, "CASES", small)
    path = tmp_path / "large.csv"
    assert "small" in invoke(large.main, "--out", str(path))
    row = pd.read_csv(path).iloc[0]
    assert (row["unknowns"], row["determined"], row["status"]) == (108, 108, "settled")
    assert 0 < row["largest_error"] < 1e-12
    assert row["gap_low"] < 1e-5
    with pytest.raises(typer.BadParameter, match="no case 'huge'"):
        large.main(["huge"], path)


def test_few_active_outputs_leave_a_large_layer_open() -> None:
    row = large.layer(filters=4, stride=2, size=8, active=0.3, channels=3)
    assert row["determined"] < row["unknowns"]
    assert row["gap_high"] > 1e-5


def test_the_chain_has_the_convolutions_of_a_cifar_resnet18() -> None:
    chain = large.chain_of(17)
    *convolutions, head = chain.bilinear
    assert [layer.filters for layer in convolutions] == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    assert [layer.output_shape[1:] for layer in convolutions[4::4]] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert head.output_shape == (10,)
