"""What hunts have found, each in the smallest case that showed it: the fault is gone."""

from __future__ import annotations

import pytest

from tests.hunt.judging import judged
from tests.hunt.recipes import Recipe, Stage

DENSE = Stage(filters=6, activation="")
WIDE = Stage(filters=1, kernel=5, padding=0, activation="")
SELU_8 = Stage(block="joined", filters=8, padding=0, activation="SELU")
ELU = Stage(filters=3, kernel=5, padding=1, bias=False, activation="ELU")
HARDTANH = (Stage(filters=8, activation="Hardtanh"), Stage(filters=8, kernel=1, padding=0, activation=""))

FOUND = {
    "error bars behind a head without bias, its label nearly certain": Recipe(
        seed=17, shape=(1, 2, 5), stages=(DENSE,), classes=2, head="none", scale=10.0, search=0.0
    ),
    "the same in single precision, trained": Recipe(
        seed=61, shape=(2, 5, 4), stages=(WIDE,), classes=2, head="none", scale=100.0, steps=3, precision="float32",
        search=0.0,
    ),
    "the same through a cut-off, which blamed the client": Recipe(
        seed=44, shape=(3, 4, 4), stages=HARDTANH, classes=3, head="none", scale=10.0, search=0.0
    ),
    "a saturated exponential blamed the client": Recipe(
        seed=37, shape=(2, 6, 6), stages=(SELU_8,), classes=2, scale=100.0, search=0.0
    ),
    "a wrong root of a head without bias, in part": Recipe(
        seed=3079, shape=(3, 6, 5), stages=(Stage(filters=12, kernel=2, stride=2, padding=0),), classes=1,
        loss="logistic", head="none", scale=100.0, defect="no bias", search=0.0,
    ),
    "gradients of 1e-294": Recipe(seed=3001, shape=(1, 4, 5), stages=(ELU,), classes=2, scale=100.0, search=0.0),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_it_is_gone(what: str) -> None:
    assert judged(FOUND[what]).faults == []
