"""Counts of constraints and what each kind tells, against the measured ranks of the literature's layers."""

from __future__ import annotations

import pandas as pd
import pytest

from paper_repro import constraints

# Unknowns, weight rows, gradient rows, as measured by an independent program.
ROWS = {
    "cnn6": [
        (3072, 3468, 576),
        (3468, 2916, 3888),
        (2916, 2916, 11664),
        (2916, 2916, 11664),
        (2916, 1600, 20736),
        (1600, 3200, 73728),
    ],
    "lenet": [(3072, 3072, 900), (3072, 1024, 4800), (1024, 768, 4800), (768, 768, 3600)],
}
# Fewest filters for the gradient equations alone.
FILTERS = {"cnn6": [64, 81, 9, 9, 25, 3], "lenet": [64, 16, 3, 3]}
# Ranks of gradient equations per channel, and the pixels of one.
GRADIENT_RANKS = {
    "lenet": [(300, 1024), (256, 256), (64, 64), (64, 64)],
    "lenet-dlg": [(300, 1024), (240, 256), (64, 64)],
    "cnn6": [(192, 1024), (244, 289), (81, 81), (81, 81), (81, 81), (25, 25)],
}


@pytest.mark.parametrize("network", constraints.COUNTED)
def test_rows_and_filters_are_those_measured(network) -> None:
    table = constraints.counts(network)
    rows = list(table[["unknowns", "weight rows", "gradient rows"]].itertuples(index=False, name=None))
    assert rows == ROWS[network]
    assert table["needed by gradient"].tolist() == FILTERS[network]
    assert (table["needed by both"] <= table["needed by gradient"]).all()
    assert (table["reported"] == table["weight rows"] + table["gradient rows"]).all()


def test_the_shares_of_the_last_layer_of_cnn6() -> None:
    last = constraints.counts("cnn6").iloc[-1]
    assert (last["filter share %"], last["row share %"]) == (2.3, 2.1)


@pytest.mark.parametrize("network", GRADIENT_RANKS)
def test_what_each_kind_of_equations_tells(network) -> None:
    table = pd.DataFrame(constraints.informed(network))
    expected = [rank / pixels for rank, pixels in GRADIENT_RANKS[network]]
    assert table["gradient rank"].tolist() == pytest.approx(expected)
    assert (table["both determined"] == 1).all()
    for kind in constraints.KINDS:
        assert (table[f"{kind} determined"] <= table[f"{kind} rank"] + 1e-12).all()
    full = table["gradient rank"] == 1
    assert (table.loc[full, "gradient determined"] == 1).all()


def test_relu_hides_weight_equations() -> None:
    table = pd.DataFrame(constraints.informed("lenet"))
    assert table["active"].iloc[:2].tolist() == [1.0, 1.0]
    assert (table["active"].iloc[2:] < 1).all()
    assert table["weight rank"].iloc[3] == pytest.approx(table["active"].iloc[3])  # 768 rows, 768 unknowns
