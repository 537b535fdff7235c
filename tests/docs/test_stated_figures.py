"""Figures that README and documentation state are those of the code, of its results, or of a calculation done here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

import constraint_algebra as ca
from analysis.sharing import defences

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text("utf-8").split())
DOCS = ROOT / "docs"
COMPARISON = (DOCS / "explanation/comparison.md").read_text("utf-8")
INSTALLATION = (DOCS / "how-to/installation.md").read_text("utf-8")


@pytest.mark.parametrize("network", ["lenet-o", "lenet-dlg", "cnn6"])
def test_the_settings_of_defences_are_as_many_as_the_readme_says(network) -> None:
    net = ca.zoo.network(network)
    rules = [rule for rule in defences(net) if rule.kind != "none"]
    always = int(re.search(r"(\d+) settings for every network", README)[1])
    assert len(rules) == always + len(net.bilinear)
    assert "one more for each layer with a weight: the layer withheld" in README
    assert sum(rule.kind == "withheld" for rule in rules) == len(net.bilinear)
    assert sum(rule.kind == "DP-SGD" for rule in rules) == 9
    assert "noise of nine sizes" in README
    assert f"{always} settings for every network" in " ".join(defences.__doc__.split())


def test_settings_that_could_not_be_computed_are_counted_apart() -> None:
    """An audit names how many it tried; the others are not left out of the count."""
    from analysis.audit import Audit

    audit = Audit.__new__(Audit)
    figures = {"determined_share": 1.0, "psnr_db": 90.0, "grey_psnr_db": 13.0}
    rows = [{"defence": "none", "strength": ""} | figures, {"defence": "clipping", "strength": "norm 1"} | figures]
    audit.json = {"defences": {"rows": [*rows, {"defence": "top-k pruning", "strength": "90% kept", "status": "x"}]}}
    (told,) = audit._of_defences()
    assert told == "Of 2 settings of defences, 1 leave every value determined; 1 could not be computed."


def test_what_differs_by_machine_is_marked() -> None:
    """The columns that the test of the ten lines does not compare are those that the README names."""
    after = README.partition("Reconstruction: every input value")[2].partition("The equations themselves")[0]
    assert "Condition and residual are rounding's: their digits differ from machine to machine" in after
    course = " ".join((DOCS / "course/index.md").read_text("utf-8").split())
    assert "condition numbers come out of floating-point sums: their digits differ a little from machine" in course


def test_counts_of_the_baselines_are_those_of_the_committed_runs() -> None:
    runs = pd.read_csv(ROOT / "paper_repro/results/runs.csv").query("init == 'uniform'")
    rows = re.findall(r"^\| `([\w-]+)`, ([\w ]+) \| (.*) \|$", COMPARISON, re.MULTILINE)
    assert len(rows) == 8
    for network, activation, counts in rows:
        own = runs[(runs.network == network) & (runs.activation == activation)]
        for stated, (method, dtype) in zip(
            counts.split(" | "),
            [(method, dtype) for method in ("rconv2024", "library") for dtype in ("float64", "float32")],
            strict=True,
        ):
            found = own[(own.method == method) & (own["dtype"] == dtype)]
            assert stated == f"{found.exact.sum()} of {len(found)}", (network, activation, method, dtype)
    failed = runs[(runs.network == "cnn6-o") & (runs.activation == "as published") & (runs.method == "rconv2024")]
    reasons = failed[(failed["dtype"] == "float64") & ~failed.exact.astype(bool)].reason
    assert "rank 50 of 64 in all four failures" in " ".join(COMPARISON.split())
    assert len(reasons) == 4
    assert reasons.str.contains("rank 50 for 64 unknowns").all()


def test_the_condition_of_weight_equations_alone_is_as_stated() -> None:
    """The largest singular value by Lanczos' process, the smallest by that of the inverse."""
    text = " ".join(COMPARISON.split())
    low, high = (
        float(figure) for figure in re.search(r"condition number of (\de\d) to (\de\d) \(weights", text).groups()
    )
    assert f"{low:.0e} to {high:.0e}".replace("e+0", "e") in (DOCS / "course/06-floats.md").read_text("utf-8")
    found = []
    for seed in (1, 3):
        net = ca.zoo.network("lenet-o")
        _, parameters = ca.from_torch(ca.to_torch(net, seed=seed), net.input_shape)
        B = sp.csc_matrix(ca.weight_equations(net.bilinear[0], weight=parameters["0.weight"]).matrix)
        factor = sla.splu(B)
        inverse = sla.LinearOperator(B.shape, matvec=lambda v, f=factor: f.solve(f.solve(v, "T")), dtype=float)
        smallest = sla.eigsh(inverse, k=1, return_eigenvectors=False, v0=np.ones(B.shape[1]))[0] ** -0.5
        found.append(float(sla.svds(B, k=1, return_singular_vectors=False, random_state=0)[0] / smallest))
    assert 0.9 * low < min(found) < 2 * low
    assert 0.5 * high < max(found) < 1.1 * high


def test_every_target_of_make_and_every_extra_is_in_the_installation_page() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)) - {"help"}
    assert set(re.findall(r"^\| `make ([a-z-]+)` \|", INSTALLATION, re.MULTILINE)) == targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(re.findall(r'^\| `"\.\[(\w+)\]"` \|', INSTALLATION, re.MULTILINE)) == set(
        project["optional-dependencies"]
    )
    assert f"constraint_algebra-{ca.__version__}-py3-none-any.whl" in INSTALLATION
    index = "https://download.pytorch.org/whl/cpu"
    assert f"--index-url {index}" in INSTALLATION
    assert f"--index-url {index}" in README
    assert f"PIP_EXTRA_INDEX_URL={index}" in INSTALLATION
    assert f"PIP_EXTRA_INDEX_URL={index}" in README
    assert "out/docs/index.html" in INSTALLATION


def test_columns_of_the_feasibility_table_are_explained() -> None:
    report = ca.feasibility(ca.zoo.network("lenet-dlg"))
    page = (DOCS / "how-to/feasibility.md").read_text("utf-8")
    explained = [
        name for cell in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    ]
    assert explained == list(report._short().columns)
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| `.*\| (.*) \|$", page, re.MULTILINE)))
    assert set(named) - {"reason"} <= set(report.to_frame().columns)
    for column in ("filters", "by count"):
        assert f"`{column}`" in ca.feasibility.__doc__
        assert f"column `{column}`" in ca.LayerFeasibility.__doc__
