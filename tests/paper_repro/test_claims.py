"""Expected values are complete, and every judge agrees, differs or declines where it should."""

from __future__ import annotations

import pandas as pd
import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from paper_repro import claims, constraints, plan
from paper_repro.claims import Evidence, Verdict
from tests.paper_repro.test_tables import runs_of

COUNTS = pd.concat([constraints.counts(name) for name in constraints.COUNTED], ignore_index=True)
INFORMED = pd.DataFrame([row for name in constraints.INFORMED for row in constraints.informed(name)])
ENTRIES = {entry["id"]: entry for entry in claims.load()}
NONE = pd.DataFrame(runs_of("nobody", 1.0))


def judged(identity: str, runs: pd.DataFrame = NONE, **changes: object) -> claims.Judgement:
    """The verdict on an entry, with some of its values changed."""
    return claims.judged(ENTRIES[identity] | changes, Evidence(runs, COUNTS, INFORMED))


def rows(method: str, *mse: float | None, **place: object) -> pd.DataFrame:
    """Runs of one method in the cell of the notebooks unless told otherwise."""
    usual = {"activation": plan.AS_PUBLISHED, "dataset": "cifar100", "init": "uniform"}
    return pd.DataFrame(runs_of(method, *mse, **(usual | place)))


def test_every_entry_is_complete_and_names_a_judge() -> None:
    assert len(ENTRIES) == len(claims.load())
    for entry in ENTRIES.values():
        assert all(entry[field] for field in claims.FIELDS), entry["id"]
        assert entry["judge"] in claims.JUDGES
        assert "tolerance" in entry or entry["judge"] == "none"
    assert {entry["judge"] for entry in ENTRIES.values()} == set(claims.JUDGES)


def test_the_figures_of_the_notebooks_are_all_there() -> None:
    stored = {e["network"]: e["value"] for e in ENTRIES.values() if e["judge"] == "notebook_mse"}
    assert stored == {
        "lenet": 1.396e-15,
        "lenet-o": 1.126e-18,
        "cnn6-o": 4.396e-18,
        "lenet-4relu": 2.290e-22,
        "lenet-all-relu": 1.167e-25,
    }


@pytest.mark.parametrize("identity", ["filters-of-the-last-layer", "rows-of-the-last-layer"])
def test_shares_of_constraints(identity) -> None:
    assert judged(identity).verdict is Verdict.AGREED
    assert "below 5 % in cnn6 layer 6 of 10 layers" in judged(identity).reason
    assert judged(identity, value=4.0).verdict is Verdict.DIFFERS


def test_facts_from_shapes() -> None:
    assert judged("parameters").verdict is Verdict.AGREED
    wrong = judged("parameters", values={"lenet": 1})
    assert (wrong.verdict, wrong.numbers) == (Verdict.DIFFERS, "lenet: 91052 and not 1")
    assert judged("psnr-convention").verdict is Verdict.AGREED
    assert judged("psnr-convention", value=48.0).verdict is Verdict.DIFFERS


def test_what_could_not_be_obtained_is_not_compared() -> None:
    verdict = judged("tables-and-timings")
    assert verdict.verdict is Verdict.NOT_COMPARED
    assert "not at hand" in verdict.reason


def test_the_two_halves_of_claim_2() -> None:
    first = judged("gradient-informs-more")
    assert first.verdict is Verdict.DIFFERS
    assert "lenet layer 1 (29% against 100%)" in first.reason
    deep = Evidence(NONE, COUNTS, INFORMED[(INFORMED["network"] == "lenet") & (INFORMED["layer"] > 1)])
    assert claims.judged(ENTRIES["gradient-informs-more"], deep).verdict is Verdict.AGREED
    depth = judged("the-more-with-depth")
    assert "lenet: -100%, +100%, +100%, +100%" in depth.numbers
    assert "cnn6: -100%, +72%, +0%, +0%, +100%, +0%" in depth.numbers
    assert depth.verdict is Verdict.DIFFERS
    assert depth.reason.startswith("the advantage is smallest in the first layer of every network, and falls again")
    lenet = Evidence(NONE, COUNTS, INFORMED[INFORMED["network"] == "lenet"])
    assert claims.judged(ENTRIES["the-more-with-depth"], lenet).verdict is Verdict.AGREED
    turned = INFORMED[INFORMED["network"] == "lenet"].iloc[::-1]
    assert claims.judged(ENTRIES["the-more-with-depth"], Evidence(NONE, COUNTS, turned)).verdict is Verdict.DIFFERS


def test_claim_1_counts_exact_runs() -> None:
    assert judged("relu").verdict is Verdict.NOT_COMPARED
    good = rows(plan.OURS, *[1e-20] * 20, network="lenet-o")
    assert judged("relu", good).verdict is Verdict.AGREED
    bad = pd.concat([good, rows(plan.OURS, 1e-2, 1.0, network="lenet", outcome="PARTIAL")])
    verdict = judged("relu", bad)
    assert verdict.verdict is Verdict.DIFFERS
    assert verdict.numbers.startswith("library: 20 of 22 runs exact (lenet-o 20 of 20, lenet 0 of 2)")
    assert "lenet cifar100:0 seed 1 (PARTIAL)" in verdict.reason


def test_stored_errors_are_held_against_the_published_algorithm() -> None:
    place = {"network": "lenet"}
    library = rows(plan.OURS, 1e-28, 1e-29, **place)
    assert judged("mse-lenet").verdict is Verdict.NOT_COMPARED
    alone = judged("mse-lenet", pd.concat([library, rows(plan.RCONV, None, reason="too slow", **place)]))
    assert (alone.verdict, "too slow" in alone.reason) == (Verdict.NOT_COMPARED, True)
    within = judged("mse-lenet", pd.concat([library, rows(plan.RCONV, 1e-19, 1e-16, **place)]))
    assert within.verdict is Verdict.AGREED
    assert "the library's median is at or below the stored figure" in within.reason
    beyond = judged("mse-lenet", pd.concat([library, rows(plan.RCONV, 1e-19, 1e-18, **place)]))
    assert beyond.verdict is Verdict.DIFFERS


def test_the_published_codes_are_held_against_ours() -> None:
    place = {"network": "lenet-dlg", "activation": "sigmoid", "dtype": "float32"}
    assert judged("dlg-sigmoid").verdict is Verdict.NOT_COMPARED
    assert judged("dlg-sigmoid", rows(plan.DLG, 1e-5, 1e-4, 1.0, **place)).verdict is Verdict.AGREED
    assert judged("dlg-sigmoid", rows(plan.DLG, 0.1, 1.0, 1e-4, 1.0, **place)).verdict is Verdict.DIFFERS
    place = {"network": "cnn6", "activation": "leakyrelu", "init": "default", "dataset": "cifar10", "dtype": "float32"}
    assert judged("rgap-cnn6").verdict is Verdict.NOT_COMPARED
    assert judged("rgap-cnn6", rows(plan.RGAP, 1e-3, 2e-3, **place)).verdict is Verdict.AGREED
    assert judged("rgap-cnn6", rows(plan.RGAP, 1e-6, 2e-6, **place)).verdict is Verdict.DIFFERS
    some = judged("rgap-cnn6", rows(plan.RGAP, 1e-3, 2e-3, 1.0, 1.0, 1.0, **place))
    assert (some.verdict, "in 2 of 5 runs" in some.numbers) == (Verdict.AGREED, True)
    assert judged("rgap-cnn6", rows(plan.RGAP, 1.0, 2.0, **place)).verdict is Verdict.DIFFERS


def test_claim_1_rests_on_every_run_with_relu() -> None:
    """An entry that left out a network would choose its own verdict."""
    listed = {tuple(pair) for pair in ENTRIES["relu"]["networks"]}
    run = {(r.network, r.activation) for r in plan.runs() if r.method == plan.OURS and r.dtype == "float64"}

    def has_relu(network: str, activation: str) -> bool:
        usual = None if activation == plan.AS_PUBLISHED else activation
        return any(isinstance(placed.layer, ca.ReLU) for placed in zoo.network(network, activation=usual))

    assert listed == {pair for pair in run if has_relu(*pair)}
