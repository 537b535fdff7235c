"""The commands that need shapes alone, from end to end."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from constraint_algebra.commands.app import app

MODELS = """
import constraint_algebra as ca
from torch import nn

def network():
    return ca.Network((1, 6, 6), [ca.Conv2d(2, 3, stride=2, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)])

def module():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
"""


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_a_determined_network_is_a_table_and_exit_code_0() -> None:
    result = run("feasibility", "lenet-o")
    assert result.exit_code == 0
    assert result.output.startswith("Feasibility from shapes alone: input 3×32×32")
    told = " ".join(result.output.split())
    assert (
        "Determined: the gradient determines every value of the 3×32×32 input, with every output of ReLU active."
        in told
    )
    assert "activity_of(network, parameters, x)" in result.output
    assert max(map(len, result.output.splitlines())) <= 120


def test_json_says_all_and_exit_code_1_that_the_recursion_does_not_determine_it() -> None:
    result = run("feasibility", "cnn6-d", "--format", "json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert (told["verdict"], told["security_index"]) == ("determined, but not by the recursion", -233)
    limit = {"rank": 3072, "unknowns": 3072, "determined": 3072, "holds": "in the activation region"}
    assert told["limit"] == limit
    assert told["layers"][1]["generic"] == 3188
    assert told["layers"][1]["input_shape"] == "12x17x17"
    assert "observer" in told["threat_model"]


def test_csv_has_a_row_for_each_layer_and_activity_counts() -> None:
    rows = list(csv.DictReader(io.StringIO(run("feasibility", "lenet-o", "--activity", "0.5", "-f", "csv").output)))
    assert [row["layer"] for row in rows] == ["0", "2", "4", "6", "9"]
    assert 0 < int(rows[2]["weight_rows"]) < 192
    other = run("feasibility", "lenet-o", "--activity", "0.5", "--seed", "1", "-f", "csv").output
    assert other.splitlines()[3] != ",".join(rows[2].values())


def test_trials_say_what_is_expected_beyond_rank(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODELS)
    asked = ("feasibility", f"{path}:network", "--at-bound", "0.9", "--trials", "2")
    assert "Expected beyond rank, all above the layer known: equations and the range determine" in " ".join(
        run(*asked).output.split()
    )
    told = json.loads(run(*asked, "-f", "json").output)
    assert [(one["layer"], one["ground"], one["trials"], one["wrong"]) for one in told["beyond"]] == [
        ("0", "range", 2, 0)
    ]
    assert json.loads(run("feasibility", f"{path}:network", "-f", "json").output)["beyond"] == []


@pytest.mark.parametrize("form", ["csv", "latex"])
def test_trials_in_a_format_without_room_for_them_are_a_note(form) -> None:
    told = run("feasibility", "lenet-o", "--trials", "2", "-f", form)
    assert f"note: --trials adds nothing to {form}, nothing is simulated; use table or json" in told.stderr
    assert "note" not in told.stdout
    assert told.stdout == run("feasibility", "lenet-o", "-f", form).stdout


def test_latex_is_a_tabular_with_as_many_cells_in_each_row() -> None:
    lines = run("minimum-filters", "lenet-o", "--format", "latex").output.strip().splitlines()
    assert lines[0] == r"\begin{tabular}{lllrrrrrr}"
    cells = [line.count("&") for line in lines if line.endswith(r"\\")]
    assert cells == [8] * 6
    assert lines[-1] == r"\end{tabular}"


def test_minimum_filters() -> None:
    told = json.loads(run("minimum-filters", "lenet-o", "--format", "json").output)
    assert [row["by_gradient"] for row in told["layers"]] == [64, 16, 3, 3, 1]
    assert told["conclusion"].startswith("Every layer has enough filters")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["network"], 1), (["module", "--input-shape", "1x6x6"], 0)], ids=["Network", "nn.Module"]
)
def test_a_model_of_the_users_own(tmp_path, arguments, code) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODELS)
    result = run("feasibility", f"{path}:{arguments[0]}", *arguments[1:])
    assert result.exit_code == code, result.output
    assert "input 1×6×6" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet-x"], "did you mean"),
        (["lenet", "--input-shape", "3x"], "error"),
        (["lenet", "--activity", "1.5"], "less than or"),
        (["lenet", "--at-bound", "0.5"], "give trials"),
        (["{}:module"], "pass --input-shape"),
        (["{}:network", "--input-shape", "3x6x6"], "leave the input shape out"),
        (["missing.py:network"], "does not exist"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, arguments, message) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MODELS)
    result = run("feasibility", *(argument.format(path) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
