"""The hunt itself: judges that see faults, records that a kill leaves whole, cases made smaller; and a short run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import constraint_algebra as ca
from tests.hunt import oracle, statements, verdicts
from tests.hunt.__main__ import main
from tests.hunt.drawing import drawn
from tests.hunt.judging import judged, judged_seed
from tests.hunt.kinds import KINDS
from tests.hunt.pretended import dies_at_three, quick, slowly
from tests.hunt.recipes import Recipe, Stage
from tests.hunt.records import Record, append, resumed
from tests.hunt.running import hunt
from tests.hunt.shrinking import shrunk
from tests.hunt.subjects import subject
from tests.hunt.tables import FAULTS, failures, holds, table

ROOT = Path(__file__).parents[2]
WHOLE = Recipe(seed=1, shape=(1, 5, 5), stages=(Stage(filters=6, activation="LeakyReLU"),), search=0.0)
OPEN = replace(WHOLE, stages=(Stage(filters=1, stride=2),))
EVERY = ("moves", "foretold", "certified", "over_rationals")
SEEDS = (4, 13, 17, 37, 46, 58, 84)  # among them one for each judge, and kinds of faults made on purpose


def kinds(record: Record) -> set[str]:
    return {kind for kind, _ in record.faults}


@pytest.fixture(scope="module")
def case():
    return subject(WHOLE)


@pytest.fixture(scope="module")
def result(case):
    return case.reconstruct()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_hunt(seed) -> None:
    record = judged_seed(seed)
    assert not record.faults, f"python -m tests.hunt --case {seed}"


@pytest.mark.parametrize("recipe", [WHOLE, OPEN], ids=["determined", "open"])
def test_nothing_is_wrong_where_nothing_is(recipe) -> None:
    record = judged(recipe, EVERY)
    assert record.faults == []
    assert record.checks == list(EVERY)
    assert record.known == record.below + record.within_four == (25 if recipe is WHOLE else 4)


def shifted(result, bars):
    value = result.input.copy()
    value[0, 2, 2] += bars * result.error_bar[0, 2, 2]
    return replace(result, guess=value, input=value)


def test_a_value_twenty_bars_off_is_wrong() -> None:
    wider = lambda result: replace(result, error_bar=result.error_bar + 1e-9)  # noqa: E731
    assert kinds(judged(WHOLE, alter=lambda r: shifted(wider(r), 20))) == {"wrong"}
    assert kinds(judged(WHOLE, alter=lambda r: shifted(wider(r), 4))) == set()


def test_an_error_of_few_roundings_is_none_even_without_bars(case, result) -> None:
    bare = replace(result, error_bar=np.zeros(result.input.shape))
    value = bare.input + 8 * 2.0**-52 * np.abs(case.x).max()
    assert not list(verdicts.wrong(case, replace(bare, input=value, guess=value)))
    value = bare.input + 64 * 2.0**-52 * np.abs(case.x).max()
    assert [f.kind for f in verdicts.wrong(case, replace(bare, input=value, guess=value))] == ["wrong"]


def test_blame_of_honest_gradients_is_a_fault() -> None:
    contradicted = lambda r: replace(r, status=ca.Status.INCONSISTENT, determined=r.determined & False)  # noqa: E731
    assert kinds(judged(WHOLE, alter=contradicted)) == {"inconsistent"}


def test_an_exception_that_is_not_ours_is_a_fault_and_one_of_ours_is_not() -> None:
    def raises(error):
        def alter(_):
            raise error

        return alter

    record = judged(WHOLE, alter=raises(ValueError("array must not contain infs or NaNs")))
    assert record.faults == [["exception", "ValueError at not in the library: array must not contain infs or NaNs"]]
    assert judged(WHOLE, alter=raises(ca.ZeroGradientError("0.weight", "zero"))).faults == []
    blames = ca.MissingBiasError("0.weight", "no input and label explain the gradient of '0.weight'")
    assert kinds(judged(WHOLE, alter=raises(blames))) == {"refused"}
    assert kinds(judged(WHOLE, alter=raises(ca.ParameterError("0.weight", "wrong")))) == {"refused"}


def test_results_of_another_type_or_without_numbers_are_faults(result) -> None:
    single = replace(result, error_bar=result.error_bar.astype(np.float32))
    assert [f.kind for f in verdicts.strange(single)] == ["strange"]
    endless = replace(result, error_bar=np.full(result.input.shape, np.nan))
    assert [f.kind for f in verdicts.strange(endless)] == ["strange"]


def test_a_result_that_does_not_compare_with_a_tensor_is_a_fault(case, result) -> None:
    handed = replace(case, recipe=replace(case.recipe, handed="torch"))
    assert not list(verdicts.compares(handed, result))
    words = SimpleNamespace(guess=result.guess.astype(object))
    assert [f.kind for f in verdicts.compares(handed, words)] == ["strange"]
    assert not list(verdicts.compares(case, words))  # which nobody asked to


def test_a_complete_result_with_other_gradients_contradicts_itself(case, result) -> None:
    value = result.input + 0.05
    found = list(verdicts.contradicts(case, replace(result, input=value, guess=value)))
    assert [f.kind for f in found] == ["contradicts"]
    honest = np.full(value.shape, 0.05)
    assert not list(verdicts.contradicts(case, replace(result, input=value, guess=value, error_bar=honest)))


def test_a_value_called_determined_that_moves_with_no_gradient_is_seen() -> None:
    x = subject(OPEN).x
    every, grounds, bars = np.ones(x.shape, dtype=bool), np.zeros(x.shape, dtype=np.uint8), np.zeros(x.shape)

    def claims(result):
        return replace(result, determined=every, everywhere=every, ground=grounds, input=x, guess=x, error_bar=bars)

    assert judged(OPEN, ("moves",), alter=claims).faults == [
        ["moves", "21 of 25 values called determined move with no gradient"]
    ]


def test_a_limit_that_the_jacobian_does_not_have_is_seen_and_so_is_what_is_missed(monkeypatch) -> None:
    case = subject(OPEN)
    result = case.reconstruct()
    assert not list(statements.foretold(case, result))
    less = replace(result, determined=np.zeros_like(result.determined), everywhere=np.zeros_like(result.determined))
    assert [f.words for f in statements.foretold(case, less)] == ["4 of 4 values that the equations determine"]
    other = np.ones((1, 5, 5), dtype=bool)
    monkeypatch.setattr(oracle, "determined", lambda _: (other, True))
    assert [f.kind for f in statements.foretold(case, result)] == ["foretold"]


def test_twins_that_are_none_and_fixed_values_that_move_are_seen(monkeypatch) -> None:
    case = subject(OPEN)
    assert not list(statements.certified(case))
    found = ca.certify(case.model, case.x, case.target)
    assert found.witnesses
    fixed = replace(found, fixed=np.ones_like(found.fixed), bound=np.zeros(case.x.shape), by_range=found.fixed & False)
    monkeypatch.setattr(ca, "certify", lambda *_, **__: fixed)
    assert {f.kind for f in statements.certified(case)} == {"twin", "fixed"}
    monkeypatch.setattr(statements, "EQUAL", -1.0)
    assert {"gradients" in f.words for f in statements.certified(case)} >= {True}


def test_kinds_of_faults_are_made_on_purpose() -> None:
    recipes = [drawn(seed) for seed in range(256)]
    made = Counter(recipe.kind for recipe in recipes)
    assert {made[kind] for kind in KINDS} == {8}
    assert (made["rational"], made["twins"], made[""]) == (16, 32, 144)
    tiny = next(recipe for recipe in recipes if recipe.kind == "tiny beside biases")
    assert (tiny.picture, tiny.defect) == ("tiny", "large biases")
    assert all(s.activation == "Hardtanh" for r in recipes if r.kind == "cut off throughout" for s in r.stages)
    assert {r.head for r in recipes if r.kind == "several roots"} <= {"none", "zero"}


def test_drawing_is_reproducible_and_half_of_it_graphs() -> None:
    assert drawn(7) == drawn(7) != drawn(8)
    assert [drawn(seed).is_graph for seed in range(100)] == [False, True] * 50
    one, again = judged_seed(46), judged_seed(46)
    assert replace(one, seconds=0.0) == replace(again, seconds=0.0)


def test_a_hunt_goes_on_after_a_half_written_line(tmp_path) -> None:
    path = tmp_path / "hunt.jsonl"
    for seed in (0, 1):
        append(path, quick(seed))
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(quick(2).to_dict()).encode()[:30])
    assert set(resumed(path)) == {0, 1}
    assert path.read_bytes() == whole
    assert set(hunt(path, range(5), quick)) == set(range(5))
    lines = path.read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == list(range(5))
    path.write_bytes(b"not a record\n" + whole)
    with pytest.raises(ValueError, match=r"line 1 of .* is no record of a hunt"):
        resumed(path)


def test_a_process_that_dies_loses_no_case_but_its_own(tmp_path) -> None:
    found = hunt(tmp_path / "hunt.jsonl", range(6), dies_at_three, jobs=2)
    assert set(found) == set(range(6))
    assert kinds(found[3]) == {"died"}
    assert not any(record.faults for seed, record in found.items() if seed != 3)


PROGRAM = """
from pathlib import Path
from tests.hunt.pretended import slowly
from tests.hunt.running import hunt
if __name__ == "__main__":
    hunt(Path("PATH"), range(100), slowly, jobs=2)
"""


@pytest.mark.slow
def test_kills_of_the_main_process_lose_and_double_nothing(tmp_path) -> None:
    path, program = tmp_path / "hunt.jsonl", tmp_path / "program.py"
    program.write_text(PROGRAM.replace("PATH", str(path)))
    moments = np.random.default_rng(0).uniform(0.1, 0.6, 4)
    for moment in moments:
        here = len(path.read_bytes()) if path.exists() else 0
        process = subprocess.Popen([sys.executable, program], env={**os.environ, "PYTHONPATH": str(ROOT)})
        while process.poll() is None and not (path.exists() and len(path.read_bytes()) > here):
            time.sleep(0.01)
        time.sleep(moment)
        process.kill()
        process.wait()
    time.sleep(0.5)  # what it started sees that it is alone
    assert 10 < len(resumed(path)) < 100
    assert set(hunt(path, range(100), slowly, jobs=2)) == set(range(100))
    seeds = [json.loads(line)["seed"] for line in path.read_text().splitlines()]
    assert sorted(seeds) == list(range(100))


def test_a_fault_is_made_smaller_until_nothing_can_go() -> None:
    large = replace(
        drawn(1), source="stages", stages=(Stage(filters=16), Stage("residual", filters=8), Stage()), hidden=9
    )
    least = shrunk(large, lambda r: any(s.block == "residual" and s.filters >= 3 for s in r.stages) and r.shape[1] > 2)
    assert [(s.block, s.filters, s.kernel) for s in least.stages] == [("residual", 3, 1)]
    assert least.shape == (1, 3, 1)
    assert (least.hidden, least.steps, least.precision, least.picture) == (0, 0, "float64", "ordinary")


def test_tables_say_first_what_must_hold() -> None:
    records = [quick(0), replace(quick(1), precision="float32"), replace(quick(2), faults=[["wrong", "by much"]])]
    text = table([*records, Record(3, "none", "float64", graph=True, status="no case")])
    assert text.startswith("3 cases, 0 of them graphs; 1 draws have no gradient.")
    assert "| determined, and wrong | 1 | **no** |" in text
    assert "| twins that do not verify | 0 | yes |" in text
    assert "| float32 | 1 | 2 | 0 | 50.0 % | 100.00 % | too few |" in text
    assert failures(records).split() == ["2", "wrong", "float64,", "none:", "by", "much"]


@pytest.mark.parametrize(
    ("one", "four", "below", "held"),
    [
        (800, 1000, 0, True),
        (590, 1000, 0, False),
        (960, 1000, 0, False),
        (800, 994, 0, False),
        (80, 100, 900, True),
        (8, 8, 992, True),
    ],
)
def test_bars_must_say_how_large_errors_are(one, four, below, held) -> None:
    """What has bars below one rounding does not count, and few values say nothing."""
    record = replace(quick(0), values=1000, known=1000, within_one=one, within_four=four, below=below)
    assert holds([record]) is held
    assert not holds([replace(record, faults=[["slow", "31 s"]])])
    assert ("**no**" in table([record])) is not held


def test_values_with_bars_below_one_rounding_are_counted_apart(case, result) -> None:
    bars = np.full(case.x.shape, 1e-3)
    bars[0, 0] = 1e-20
    value = case.x + 2e-3
    value[0, 4] = case.x[0, 4] + 5e-3
    known = verdicts.calibration(case, replace(result, input=value, guess=value, error_bar=bars))
    assert known == (25, 5, 0, 15, pytest.approx(np.sqrt((15 * 2**2 + 5 * 5**2) / 20), abs=1e-4))
    black = replace(case, x=np.zeros(case.x.shape))  # in which nothing is rounded
    assert verdicts.calibration(black, result)[:4] == (25, 25, 0, 0)


def test_one_case_in_one_line(capsys) -> None:
    assert main(["--case", "46"]) == 0
    assert "no fault" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([])


def test_a_case_with_a_fault_is_printed_as_a_script_that_runs(capsys, monkeypatch) -> None:
    monkeypatch.setattr(verdicts, "BARS", 1e-3)
    monkeypatch.setattr(verdicts, "ROUNDINGS", 1e-3)
    assert main(["--case", "58", "--shrink", "0.2"]) == 1
    script = capsys.readouterr().out.partition("as a script:")[2]
    exec(compile(script, "script", "exec"), {})
    assert "wrong" in capsys.readouterr().out.splitlines()[-1]


def test_a_table_says_which_command_makes_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.hunt.__main__.hunt", lambda *_, **__: {9: quick(9), 3: quick(3)})
    path = tmp_path / "table.md"
    assert main(["--cases", "5", "--table", str(path)]) == 0
    assert path.read_text().startswith(f"Written by `python -m tests.hunt --cases 5 --table {path}`.\n\n1 cases")
    assert main(["--cases", "5", "--first", "3", "--table", str(path)]) == 0
    assert "--cases 5 --first 3" in path.read_text()


def test_the_committed_table_is_whole() -> None:
    text = (ROOT / "tests/hunt/results/table.md").read_text("utf-8")
    asked = int(re.match(r"Written by `python -m tests\.hunt --cases (\d+) ", text)[1])
    cases, graphs, none = (
        int(n.replace(",", "")) for n in re.findall(r"^([\d,]+) cases, ([\d,]+) .*; ([\d,]+)", text, re.M)[0]
    )
    assert cases + none == asked
    assert 0.45 * cases < graphs < 0.55 * cases
    assert all(f"| {words} | " in text for words in FAULTS.values())
