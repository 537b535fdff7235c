"""Studies: what a module owes, committed rows complete and computed again, and the command line."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import constraint_algebra as ca
from analysis import (
    beyond_rank,
    defences,
    depth,
    measured,
    minimum_filters,
    open_values,
    pooling,
    range_vs_filters,
    rank_vs_filters,
    relu_activity,
    sharing,
    studies,
    twin_gallery,
)
from analysis.command import app
from analysis.rows import keys
from analysis.runner import arrays_path, key_of
from analysis.subjects import sample_step, small_network
from constraint_algebra.recursion.result import Reconstruction, Status

TIMES = {"cpu_s", "rank_cpu_s", "structural_cpu_s"}


@pytest.fixture(params=studies.NAMES)
def name(request) -> str:
    """Each study."""
    return request.param


def test_a_study_states_question_hypothesis_and_finding(name) -> None:
    parts = studies.parts_of(name)
    assert parts["Question"].endswith("?")
    assert parts["Hypothesis"].endswith(".")
    assert any(letter.isdigit() for letter in parts["Finding"]), "a finding has figures"


def test_configurations_are_different_and_quick_ones_are_among_them(name) -> None:
    module = studies.study(name)
    full, quick = ([key_of(run) for run in module.runs(quick=quick)] for quick in (False, True))
    assert len(set(full)) == len(full)
    assert 0 < len(set(quick)) == len(quick) < len(full)
    assert set(quick) <= set(full)
    assert tuple(module.COLUMNS[: len(module.Run._fields)]) == module.Run._fields


def test_committed_rows_are_complete_and_say_where_they_come_from(name) -> None:
    module, path = studies.study(name), studies.path_of(name, studies.COMMITTED)
    rows = pd.read_csv(path)
    assert list(rows.columns) == [*module.COLUMNS, "error"]
    assert rows["error"].isna().all()
    assert keys(path, module.Run._fields) == [key_of(run) for run in module.runs()]
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["rows"] == len(rows)
    assert sum(session["new_rows"] for session in told["sessions"]) == len(rows)
    assert all("dirty" not in session["commit"] for session in told["sessions"])


# One cheap configuration of each study whose results do not hang on the build of PyTorch or BLAS.
AGAIN = {
    "rank_vs_filters": rank_vs_filters.Run("both", 3, 16, 3, 2, "half", 6),
    "range_vs_filters": range_vs_filters.Run(5, 2, 33, "mnist:0"),
    "minimum_filters": minimum_filters.Run(1, 5, 2),
    "relu_activity": relu_activity.Run(0, 2, 1501, -0.15),
    "depth": depth.Run("narrow (R-CONV)", 4, 3, 0.5),
    "defences": defences.Run("top-k pruning", "50% kept", "LeakyReLU(0.2)", 3),
    "open_values": open_values.Run("LeakyReLU(0.2)", 14, "cifar10:3"),
    "beyond_rank": beyond_rank.Run("digit", "none", 0.0, 5, 2, 4, 0),
    "pooling": pooling.Run("digit", "mnist:0", 28, 4, 3, 0),
}


@pytest.mark.parametrize("again", AGAIN.items(), ids=list(AGAIN))
def test_a_committed_row_comes_out_again(again) -> None:
    name, run = again
    module = studies.study(name)
    row = module.judge(run)
    row.pop("arrays", None)
    path = studies.path_of(name, studies.COMMITTED)
    before = pd.read_csv(path).iloc[keys(path, run._fields).index(key_of(run))]
    assert set(row) <= set(module.COLUMNS)
    for column in set(row) - TIMES:
        if isinstance(row[column], int) and not isinstance(row[column], bool):
            assert row[column] == before[column], column
        elif isinstance(row[column], float):
            # Decibels of an exact reconstruction are rounding, which another BLAS does otherwise.
            # So is the width of what is fixed.
            loose = {"abs": 40} if column.endswith("_db") and row[column] > 200 else {"rel": 1e-3, "abs": 1e-9}
            assert row[column] == pytest.approx(before[column], nan_ok=True, **loose), column


@pytest.mark.slow
def test_the_rank_of_what_is_sent_shows_where_the_recursion_breaks() -> None:
    """Layer 2 has 16 × 4 × 4 weight equations for 12 × 8 × 8 unknowns, the head nothing but its gradient."""
    network = small_network()
    seen = sample_step(network, "cifar10:3", seed=3, init="uniform")
    rules = {rule.name: rule for rule in sharing.defences(network)}
    second = rules["withheld, layer 2 of 4"].share(seen.gradients, np.random.default_rng(0))
    assert defences.rank_shares(seen, second) == {"7": 1.0, "4": 1.0, "2": 256 / 768, "0": 1.0}
    found = {
        (name, activation): defences.judge(
            defences.Run(*(name.split(", ") if "," in name else (name, "")), activation, 3)
        )["exact_rank_share"]
        for name in ("none", "withheld, layer 2 of 4", "only shared, biases", "top-k pruning, 90% kept")
        for activation in defences.ACTIVATIONS
    }
    assert found["none", "ReLU"] == found["none", "LeakyReLU(0.2)"] == 1
    assert found["withheld, layer 2 of 4", "LeakyReLU(0.2)"] == pytest.approx(1 / 3)
    assert found["only shared, biases", "LeakyReLU(0.2)"] == 0
    assert found["top-k pruning, 90% kept", "LeakyReLU(0.2)"] == 1
    assert found["top-k pruning, 90% kept", "ReLU"] < 1  # true zeros pass for pruned ones
    assert len(set(found.values())) > 3


def test_every_twin_in_the_gallery_has_the_gradients_of_its_photograph() -> None:
    model = ca.to_torch(twin_gallery.network(), seed=twin_gallery.SEED, init="default")
    for run in twin_gallery.runs():
        images = ca.load(arrays_path(studies.path_of("twin_gallery", studies.COMMITTED), run))
        sample = ca.samples.load(run.original)
        np.testing.assert_array_equal(images["original"], sample.image)
        np.testing.assert_array_equal(images["target"], ca.samples.load(run.target).image)
        check = ca.verify_twin(model, images["original"], images["twin"], sample.label)
        assert check.equal
        assert check.change > 0.5
        assert np.linalg.norm(images["twin"] - images["target"]) < np.linalg.norm(images["original"] - images["target"])
        assert 0 <= images["twin"].min() <= images["twin"].max() <= 1


def test_what_counting_says_and_what_holds() -> None:
    """The layers of which independent programs computed the ranks (lenet-dlg's second, LeNet's first)."""
    rows = rank_vs_filters.judge(rank_vs_filters.Run("gradient", 12, 16, 5, 2, "half", 12))
    assert (rows["rank"], rows["counted"], rows["unknowns"]) == (12 * 240, 3072, 3072)
    assert rows["determined"] < 3072
    rows = rank_vs_filters.judge(rank_vs_filters.Run("gradient", 3, 32, 5, 2, "half", 12))
    assert (rows["rank"], rows["gradient_rows"], rows["weight_rows"]) == (900, 900, 0)
    assert minimum_filters.judge(minimum_filters.Run(3, 5, 2))["by_gradient_low"] == 64


@pytest.mark.parametrize("equations", ["gradient", "both"])
@pytest.mark.parametrize("padding", ["none", "half"])
def test_full_rank_by_the_closed_form_is_what_elimination_says(equations, padding, monkeypatch) -> None:
    proved = 0
    for kernel, stride, filters in itertools.product((2, 3, 5), (1, 2, 3), (1, 4, 12, 40)):
        run = rank_vs_filters.Run(equations, 2, 9, kernel, stride, padding, filters)
        quick = rank_vs_filters.judge(run)
        with monkeypatch.context() as patch:
            patch.setattr(rank_vs_filters, "proved_full", lambda *_: None)
            slow = rank_vs_filters.judge(run)
        proved += quick["error_probability"] == 0 < slow["error_probability"]
        assert {k: v for k, v in quick.items() if k not in TIMES | {"error_probability"}} == {
            k: v for k, v in slow.items() if k not in TIMES | {"error_probability"}
        }
    assert proved > 3


def result(known: np.ndarray, bar: float) -> Reconstruction:
    values = np.where(known, 0.3, np.nan)
    bars = np.where(known, bar, np.inf)
    return Reconstruction(values, known, bars, Status.PARTIAL, (), None, {})


def test_quality_is_that_of_the_guess_and_of_what_is_determined() -> None:
    network = ca.Network((4,), [ca.Linear(2)])
    known = np.array([True, True, False, False])
    row = measured.measured(result(known, 0.1), np.array([0.2, 0.4, 0.5, 1.0]), network)
    assert row["determined_share"] == 0.5
    assert row["determined_psnr_db"] == pytest.approx(20)
    assert row["promised_psnr_db"] == pytest.approx(20)
    assert row["psnr_db"] == pytest.approx(-10 * np.log10((0.01 + 0.01 + 0.25) / 4))
    assert row["grey_psnr_db"] == pytest.approx(-10 * np.log10((0.09 + 0.01 + 0.25) / 4))
    assert (row["rank_share"], row["solved_layers"], row["layers"]) == (0.0, 0, 1)
    row = measured.measured(result(known, np.nan), np.zeros(4), network)
    assert "promised_psnr_db" not in row
    assert set(row) <= set(measured.MEASURED)


@pytest.mark.slow
def test_the_command_runs_a_study_resumes_it_and_begins_it_anew(tmp_path) -> None:
    def run(*more: str) -> str:
        given = ["minimum_filters", "--quick", "--processes", "1", "--results-dir", str(tmp_path), *more]
        found = CliRunner().invoke(app, given, catch_exceptions=False)
        assert found.exit_code == 0
        return found.output

    assert "minimum_filters: 9 rows in" in run()
    before = (tmp_path / "minimum_filters.csv").read_bytes()
    run()
    assert (tmp_path / "minimum_filters.csv").read_bytes() == before
    run("--restart")
    told = json.loads((tmp_path / "minimum_filters.json").read_text())
    assert [session["arguments"] for session in told["sessions"]] == [{"quick": True, "processes": 1}]
    assert told["sessions"][0]["new_rows"] == 9


def test_the_command_says_which_configurations_failed(tmp_path, monkeypatch) -> None:
    def fails(run):
        raise RuntimeError(f"kernel {run.kernel} is too much")

    monkeypatch.setattr(minimum_filters, "judge", fails)
    given = ["minimum_filters", "--quick", "--processes", "1", "--results-dir", str(tmp_path)]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 1
    assert "9 of them failed" in found.output
    assert "RuntimeError: kernel 1 is too much" in found.output


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(ca.UnknownNameError, match="no study is called 'x'; there are rank_vs_filters"):
        studies.study("x")


@pytest.mark.slow
def test_all_quick_studies_run(tmp_path) -> None:
    given = ["all", "--quick", "--processes", "2", "--results-dir", str(tmp_path)]
    found = CliRunner().invoke(app, given, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert {path.stem for path in tmp_path.glob("*.csv")} == set(studies.NAMES)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (16, 20)])
def test_channels_have_the_deficit_of_their_span_and_lie_in_their_family(low, high) -> None:
    rng = np.random.default_rng(3)
    for A in itertools.islice(beyond_rank._layers(rng, low, high), 4):
        truth = rng.random(A.shape[1])
        family = beyond_rank._family(A, truth)
        assert low <= family.dimension == A.shape[1] - np.linalg.matrix_rank(A, tol=1e-9 * np.linalg.norm(A, 2)) <= high
        np.testing.assert_allclose(A @ family.V, 0, atol=1e-12)
        nearest = family.at(family.V.T @ (truth - family.p))
        assert (np.abs(nearest - truth) <= 6 * family.noise + 1e-14).all()


def test_what_is_said_of_a_channel_is_counted_as_right_or_wrong(monkeypatch) -> None:
    run = beyond_rank.Run("channel", "1-5", 0.8, 0, 0, 0, 0)
    monkeypatch.setattr(beyond_rank, "CHANNELS", 6)
    usual, row = beyond_rank.sparsest, beyond_rank.judge(run)
    assert 1 <= row["mean_deficit"] <= 5
    assert 4 <= row["by_zeros"] <= 6
    assert 4 <= row["by_range"] + row["part_by_range"] <= 6
    assert (row["by_zeros_wrong"], row["by_range_wrong"]) == (0, 0)

    def shifted(family, *, rng):
        point = usual(family, rng=rng)
        return None if point is None else replace(point, x=point.x + 1e-5)

    monkeypatch.setattr(beyond_rank, "sparsest", shifted)
    worse = beyond_rank.judge(run)
    assert (worse["by_zeros"], worse["by_zeros_wrong"]) == (0, row["by_zeros"])
