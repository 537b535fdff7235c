"""The plan of the study and a run of it, on real steps."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.experiments.samples import read_image
from constraint_algebra.plotting import pixels
from paper_repro import plan, study
from paper_repro.baselines.ambiguity import likeliest
from paper_repro.plan import Run

LENET_O = Run("lenet-o", plan.AS_PUBLISHED, "uniform", "mnist", 1, "float64", plan.OURS, 2)


def test_every_run_of_the_plan_exists_once_and_the_quick_ones_are_among_them() -> None:
    runs = plan.runs()
    assert len(set(runs)) == len(runs)
    quick = plan.runs(quick=True)
    assert set(quick) < set(runs)
    assert {run.image for run in quick} == {run.seed for run in quick} == {0}
    cells = [tuple(getattr(run, name) for name in (*plan.CELL, "method")) for run in quick]
    assert len(set(cells)) == len(cells)
    assert {run.method for run in runs} == {run.method for run in quick} == set(plan.METHODS)
    for run in runs:
        zoo.entry(run.network)
        assert run.activation in {plan.AS_PUBLISHED, *zoo.ACTIVATIONS}
        assert run.dataset in plan.CLASSES


def test_every_cell_of_a_baseline_has_three_seeds() -> None:
    seeds: dict[tuple[str, ...], set[int]] = {}
    for run in plan.runs():
        seeds.setdefault((run.network, run.activation, run.init, run.dataset, run.dtype, run.method), set()).add(
            run.seed
        )
    assert all(len(found) >= 3 for found in seeds.values())


def test_what_the_figures_show_is_run() -> None:
    runs = set(plan.runs())
    for places, datasets in ((plan.FIGURE_2, ("cifar100", "mnist")), (plan.FIGURE_3, ("cifar10",))):
        for place in places:
            for dataset in datasets:
                network, activation, init, dtype, method, _ = place
                wanted = {
                    Run(network, activation, init, dataset, i, dtype, method, s) for i in range(4) for s in range(3)
                }
                assert wanted <= runs, place
                assert all(plan.is_pictured(run) for run in wanted)
    assert not plan.is_pictured(LENET_O._replace(dtype="float32"))


def test_a_step_is_that_of_the_image_in_its_precision() -> None:
    step = study.step_of(LENET_O._replace(dtype="float32"))
    assert step.network.input_shape == (1, 32, 32)
    assert step.network.output_shape == (10,)
    sample = ca.samples.load("mnist:1").image
    np.testing.assert_array_equal(step.truth[:, 2:30, 2:30], sample.astype(np.float32))
    assert int(np.argmin(step.gradients["9.bias"])) == ca.samples.load("mnist:1").label


@pytest.mark.parametrize("seed", range(3))
def test_a_logistic_step_never_has_a_gradient_of_zeros(seed) -> None:
    step = study.step_of(Run("cnn6", "leakyrelu", "uniform", "cifar10", 0, "float64", plan.RGAP, seed))
    assert all(g.any() for g in step.gradients.values())
    assert step.loss == "logistic"


def test_a_run_of_the_library(tmp_path) -> None:
    run = LENET_O._replace(network="lenet-all-relu", seed=0)
    row = study.judge(run, limit=60.0, pictures=tmp_path)
    assert set(row) <= set(study.COLUMNS)
    assert (row["outcome"], row["reason"], row["determined"], row["values"]) == ("DETERMINED", "", 1024, 1024)
    assert row["recognised"]
    assert row["exact"]
    assert row["psnr"] == pytest.approx(-10 * np.log10(row["mse"]))
    assert row["memory_mb"] > 50
    (path,) = tmp_path.iterdir()
    assert path == study.picture_path(tmp_path, run)
    np.testing.assert_array_equal(pixels(read_image(path)), pixels(study.step_of(run).truth))


def test_a_run_that_a_baseline_refuses_and_one_that_takes_too_long() -> None:
    refused = study.judge(LENET_O._replace(method=plan.RGAP), limit=60.0)
    assert refused["outcome"] == study.IMPOSSIBLE
    assert refused["reason"].startswith("R-GAP is not made for this network: it has no place for biases (layer 0, 2,")
    assert not refused["recognised"]
    assert "mse" not in refused
    late = study.judge(LENET_O._replace(method=plan.RCONV), limit=0.0)
    assert late["outcome"] == "OUT_OF_TIME"
    assert late["reason"].startswith("time limit of 0 s of processor time reached in layer")
    matched = study.judge(LENET_O._replace(method=plan.DLG), limit=0.0)
    assert matched["outcome"] == "OUT_OF_TIME"


def test_quality_of_images_that_are_no_images() -> None:
    step = study.step_of(LENET_O)
    for image in (None, np.full((1, 32, 32), np.nan)):
        assert study.quality(image, step) == {"values": 1024, "recognised": False, "exact": False}
    row = study.quality(np.full((1, 32, 32), 1e200), step)
    assert (row["mse"], row["recognised"]) == (np.inf, False)
    off = study.quality(step.truth + 1e-2, step)
    assert off["mse"] == pytest.approx(1e-4)
    assert (off["recognised"], off["exact"]) == (True, False)
    assert not study.quality(step.truth + 0.11, step)["recognised"]
    assert off["psnr"] == pytest.approx(40)


def test_the_likeliest_of_scaled_images_is_the_one_in_the_range() -> None:
    image = np.linspace(0.02, 0.97, 12)
    assert likeliest([0.01 * image, image, -image, 30 * image]) == 1
    assert likeliest([0.5 * image, np.full(12, np.nan)]) == 0  # NaN compares as smallest nowhere


def test_an_input_is_not_given_up_for_an_alternative_without_values() -> None:
    # Of the candidates for the logistic head's output gradient, all but one leave nothing to solve for.
    row = study.judge(Run("cnn6", "leakyrelu", "uniform", "cifar10", 3, "float64", plan.OURS, 0), limit=60.0)
    assert (row["outcome"], row["determined"], row["reason"], row["exact"]) == ("AMBIGUOUS", 3072, "", True)


@pytest.mark.slow
def test_what_is_not_recognised_has_a_reason() -> None:
    dead = study.judge(Run("cnn6", "relu", "default", "cifar10", 0, "float64", plan.OURS, 2), limit=60.0)
    assert (dead["outcome"], dead["determined"], dead["recognised"]) == ("PARTIAL", 12, False)
    assert "(12 of 3,072 values)" in dead["reason"]
    lost = study.judge(Run("lenet-dlg", "relu", "uniform", "cifar100", 0, "float32", plan.DLG, 0), limit=60.0)
    assert (lost["outcome"], lost["recognised"]) == ("FINISHED", False)
    assert lost["reason"].startswith("iteration ")
