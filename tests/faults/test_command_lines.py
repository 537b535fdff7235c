"""Bad command lines: each is one message on stderr and exit code 2, never a traceback, whatever it is that is wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata
from contextlib import redirect_stderr
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.command import app as analysis_app
from constraint_algebra import storage
from constraint_algebra.commands.app import app
from constraint_algebra.commands.exits import DEBUG, FAULT, outcomes

ROOT = Path(__file__).parents[2]
HUGE = "9" * 5000
ODD = """
import sys
import torch
from torch import nn
import constraint_algebra as ca

class NotAModule:
    named_parameters = 7

class Raises:
    @property
    def named_parameters(self):
        raise RuntimeError("no parameters today")

class Odd(nn.Linear):
    def named_parameters(self, *args, **kwargs):
        return self.odd

def odd(value):
    model = Odd(192, 4)
    object.__setattr__(model, "odd", value)
    return model

def not_a_module(): return NotAModule()
def raising(): return Raises()
def number(): return odd(7)
def pairs(): return odd([(1, 2)])
def texts(): return odd(["weight"])
def nothing(): return odd(None)
def arrays(): return odd([("weight", [1.0])])
def leaves(): sys.exit(1)
def interrupts_itself(): raise MemoryError("too much")
def cast():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    model.float = None
    return model
def a_class_of_int(): return int
def module(): return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(), nn.Flatten(), nn.Linear(384, 4))
def empty(): return nn.Sequential()
def identity(): return nn.Identity()
"""
SEEDS = ("-1", str(2**64), str(2**200), HUGE, "1.5", "1e3", "0x10", "seed", "", "²", "٣x", "nan")
SHAPES = (
    *("²x4x4", "3x³x8", "0x8x8", "-3x8x8", "3x8", "3x8x8x8", "x", "", "3,,8", "3x8x8.0", "3xeightx8", "١x8x8²", " "),
    *("3x100000x100000", "100000x100000x4", f"3x{HUGE}x8", "3x1000000000000000000x8", "4x4294967296x4294967296"),
)
ODD_MODELS = (
    *("not_a_module", "raising", "number", "pairs", "texts", "nothing", "arrays", "leaves", "interrupts_itself"),
    *("cast", "a_class_of_int", "empty", "identity"),
)
NAMES = (
    ":factory:",
    "[red]",
    "[/red]",
    "[bold]x[/bold]",
    "models.py:factory:",
    "my:warning:.py:f",
    "[link=x]y",
    "\\[x]",
)
UNDECODABLE = ("x\udcff", "models.py:\udcff", "\udcff.py:small", "\udc80:1")


def told(result) -> str:
    """The message on one line, without frames."""
    return " ".join("".join(c for c in result.stderr if c not in "│╭╮╰╯─").split())


def judged(result, code: int = 2) -> str:
    """Check what holds for every refusal, and return its message."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert "a fault of this program" not in result.output
    notes = [line.startswith("note: ") for line in result.stdout.splitlines()]  # how an input was read
    assert all(notes), "an error belongs on stderr"
    for repr_of_an_enumeration in ("<Loss", "<Init", "<Dtype", "<Format", "Dtype.", "Loss.", "Init.", "Format."):
        assert repr_of_an_enumeration not in result.stderr
    assert not any(unicodedata.category(c) == "So" and ord(c) > 0x1F000 for c in result.stderr), "an emoji"
    assert len(told(result)) > 10
    return told(result)


def invoke(*words: str, application=app):
    return CliRunner().invoke(application, [*words])


def on_image(*words: str, command: str = "reconstruct") -> list[str]:
    return [command, "-m", "models.py:small", "-i", "picture.png", *words]


def out(command: str) -> list[str]:
    return ["-o", "step.npz"] if command == "capture" else []


BAD = [
    *(on_image("--seed", seed, *out(c), command=c) for seed, c in product(SEEDS, ("reconstruct", "capture"))),
    *(["feasibility", "lenet-o", "--seed", seed] for seed in SEEDS),
    *(["feasibility", "odd.py:module", "--input-shape", shape] for shape in SHAPES),
    *(["reconstruct", "-m", "odd.py:module", "-i", "picture.png", "--input-shape", shape] for shape in SHAPES),
    *(["minimum-filters", "lenet-o", "--input-shape", shape] for shape in SHAPES[:13]),
    *(["reconstruct", "-m", f"odd.py:{name}", "-i", "picture.png"] for name in ODD_MODELS),
    *(["feasibility", f"odd.py:{name}", "--input-shape", "3x8x8"] for name in ODD_MODELS if name != "cast"),
    *(["certify", "-m", f"odd.py:{name}", "-i", "picture.png"] for name in ODD_MODELS[:8]),
    *(["reconstruct", "-m", name, "-i", "picture.png"] for name in (*NAMES, *UNDECODABLE)),
    *(on_image("-i", name) for name in (*NAMES, *UNDECODABLE, f"cifar10:{HUGE}", "cifar10:²", "cifar10:-1")),
    *(["feasibility", name] for name in (*NAMES, *UNDECODABLE)),
    *(["reconstruct", "--gradients", name, "-m", "models.py:small"] for name in (*NAMES, *UNDECODABLE)),
    *(on_image(f"--{option}", name) for option, name in product(("dtype", "init", "loss"), (*NAMES, "int8", "\udcff"))),
    *([word] for word in (*NAMES, *UNDECODABLE, "--verbose", "reconstrct")),
    *(on_image("--label", label) for label in ("-1", "4", HUGE, "²", "one", str(2**70), "\udcff")),
    *(["certify", *on_image()[1:], "--delta", delta] for delta in ("0", "-1", "2", "nan", "inf", "x")),
    *(["certify", *on_image()[1:], "--time-limit", limit] for limit in ("-1", "nan", "x", "\udcff")),
    *(["feasibility", "lenet-o", "--activity", activity] for activity in ("-0.1", "1.1", "nan", "x", "[red]")),
    *(["feasibility", "lenet-o", "--format", name] for name in ("xml", ":factory:", "\udcff")),
    *(on_image("-o", name) for name in ("models.py", "models.py/x", "/proc/x", "x\0y")),
    *(["capture", *on_image()[1:], "-o", name] for name in ("x.txt", "x", ".", "models.py/x.npz", "a\0b.npz")),
]


def test_there_are_at_least_a_hundred() -> None:
    assert len(BAD) >= 100


@pytest.mark.parametrize("words", BAD, ids=lambda words: ascii(" ".join(words))[:70])
def test_a_bad_command_line_is_one_message(folder, words) -> None:
    (folder / "odd.py").write_text(ODD)
    before = {path.name for path in folder.iterdir()}
    judged(invoke(*words))
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__", "out"}


@pytest.mark.parametrize("name", ["a:factory:b", "a[red]b", "a:cat:[bold]b"])
def test_names_print_as_they_are(folder, name, monkeypatch) -> None:
    """In messages, tables, progress and results: in a model file, a picture, a folder and a layer."""
    monkeypatch.setenv("COLUMNS", "120")  # so that no cell is folded
    model = (
        "from collections import OrderedDict\nfrom torch import nn\n"
        "def build():\n"
        f"    chain = [({name!r}, nn.Conv2d(3, 6, 3, padding=1)), ('slope', nn.LeakyReLU(0.2)), ('flat', nn.Flatten()),"
        " ('head', nn.Linear(384, 4))]\n"
        "    return nn.Sequential(OrderedDict(chain))\n"
    )
    (folder / f"{name}.py").write_text(model)
    (folder / f"{name}.png").write_bytes((folder / "picture.png").read_bytes())
    words = ["-m", f"{name}.py:build", "-i", f"{name}.png", "--dtype", "float64", "-o", f"{name}"]
    found = invoke("reconstruct", *words)
    assert found.exit_code == 0, found.output
    assert f"{name}/result.json" in found.stdout
    assert f"{name} " in found.stdout, "the layer in the table"
    shapes = invoke("feasibility", f"{name}.py:build", "--input-shape", "3x8x8")
    assert name in shapes.stdout
    assert f"{name} already holds" in judged(invoke("reconstruct", *words))
    assert f"{name}.py has no function" in judged(invoke("feasibility", f"{name}.py:[red]", "--input-shape", "3x8x8"))
    missing = judged(invoke("reconstruct", "-m", f"{name}.py:build", "-i", f"x{name}.png"))
    assert f"x{name}.png" in missing
    usage = judged(invoke("reconstruct", "--dtype", name, "-m", "x", "-i", "y"))
    assert name in usage


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words",
    [
        "own --model models.py:small --input-shape ²x4x4",
        "own --model models.py:small --input-shape 3x8x8 --dtype int8",
        "own --model models.py:small --input-shape 3x8x8 --dtype [red]",
        "own --model models.py:factory: --input-shape 3x8x8",
        "own --model [red]:f --input-shape 3x8x8",
        "own --model odd.py:number --input-shape 3x8x8",
        "own --model \udcff.py:f --input-shape 3x8x8",
        "own --model models.py:small --input-shape 3x8x8 --image :factory:",
        "own",
        "noise --processes 0",
        "noise --processes many",
        "noise --scheduler :factory:",
        ":factory:",
        "[red]",
    ],
)
def test_bad_command_lines_of_the_studies(words) -> None:
    Path("odd.py").write_text(ODD)
    judged(invoke(*words.split(), application=analysis_app))


def test_a_file_with_a_seed_of_5000_digits_or_a_huge_shape_is_no_traceback(folder) -> None:
    assert invoke("capture", *on_image()[1:], "-o", "step.npz").exit_code == 0
    arrays, about = storage.load(folder / "step.npz"), storage.load_metadata(folder / "step.npz")
    storage.save(folder / "seed.npz", arrays, metadata={**about, "seed": HUGE})
    assert invoke("reconstruct", "--gradients", "seed.npz", "-m", "models.py:small").exit_code in {0, 1}
    for shape in ("3x100000x100000", f"3x{HUGE}x8", "²x8x8"):
        storage.save(folder / "shape.npz", arrays, metadata={**about, "input_shape": shape}, overwrite=True)
        judged(invoke("reconstruct", "--gradients", "shape.npz", "-m", "odd.py:module", "-o", "b"), 2)


# ---- what ends a command, whatever the command is


def ends(error: BaseException) -> tuple[int, str]:
    """Exit code and message where a command raises this."""
    text = io.StringIO()
    with redirect_stderr(text), pytest.raises(SystemExit) as end, outcomes():
        raise error
    return int(end.value.code or 0), text.getvalue()


def test_a_mistake_of_the_program_has_a_code_of_its_own_and_says_where_to_look(monkeypatch) -> None:
    monkeypatch.delenv(DEBUG, raising=False)
    code, text = ends(ZeroDivisionError("division\nby zero"))
    assert code == FAULT == 70
    assert text.count("\n") == 1
    assert "ZeroDivisionError: division by zero" in text
    assert f"{DEBUG}=1" in text
    assert "report it" in text
    monkeypatch.setenv(DEBUG, "1")
    assert "Traceback" in ends(ZeroDivisionError("division by zero"))[1]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("Unable to allocate 37.3 GiB"), 2, "37.3 GiB"),
        (FileNotFoundError(2, "No such file", "a:factory:b"), 2, "a:factory:b"),
        (RecursionError("too deep"), FAULT, "RecursionError"),
        (BrokenPipeError(32, "a worker's pipe, not stdout"), FAULT, "worker"),
    ],
)
def test_each_way_to_end_has_its_code(error, code, words) -> None:
    assert ends(error)[0] == code
    assert words in ends(error)[1]


def test_a_fault_inside_a_command_is_70_and_never_a_verdict(folder, monkeypatch) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("constraint_algebra.recursion.backsubstitution.reconstruct", broken)
    found = invoke(*on_image())
    assert found.exit_code == FAULT
    assert "RuntimeError: on purpose" in found.stderr
    assert not (folder / "out/result.json").exists()


def process(words: list[str], *, before: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    shell = f"{before} {sys.executable} -m constraint_algebra {' '.join(words)}"
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", shell], capture_output=True, timeout=120, check=False, env=settings)


@pytest.mark.usefixtures("folder")
@pytest.mark.slow
def test_ascii_terminals_get_ascii() -> None:
    done = process(["feasibility", "lenet-o"], PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"input 3x32x32" in done.stdout
    done.stdout.decode("ascii")
    refused = process(["zoo"], PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert refused.returncode == 0
    refused.stdout.decode("ascii")
    refused = process(
        ["reconstruct", "-m", "models.py:small", "-i", "picture.png", "--input-shape", "3x9x9"], LC_ALL="C"
    )
    assert refused.returncode == 2
    assert b"Traceback" not in refused.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("words", ["samples", "zoo", "feasibility lenet-o"])
def test_a_closed_pipe_is_no_failure(words) -> None:
    shell = f"set -o pipefail; {sys.executable} -m constraint_algebra {words} | true; echo ${{PIPESTATUS[0]}}"
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, check=False, env=settings)
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_an_interruption_while_packages_load_is_one_line_and_130(tmp_path) -> None:
    """A package that is interrupted while it loads stands in the place of Typer."""
    (tmp_path / "typer").mkdir()
    (tmp_path / "typer/__init__.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)\n"
    )
    for module in ("constraint_algebra", "analysis", "figures"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert done.returncode == 130, done.stderr
        assert done.stderr == "interrupted; what was written until now stays\n"


def test_a_name_that_is_no_utf8_reconstructs_and_is_written_as_text(folder) -> None:
    odd = os.fsdecode(b"pict\xffure.png")
    (folder / odd).write_bytes((folder / "picture.png").read_bytes())
    os.rename(folder / "models.py", folder / os.fsdecode(b"mod\xff.py"))  # noqa: PTH104 -- bytes that are no text
    words = ["-m", os.fsdecode(b"mod\xff.py:small"), "-i", odd, "--dtype", "float64"]
    found = invoke("reconstruct", *words, "-o", os.fsdecode(b"out\xff"))
    assert found.exit_code == 0, found.output
    assert r"\udcff" in (folder / os.fsdecode(b"out\xff") / "result.json").read_text()
    assert invoke("capture", *words, "-o", "step.npz").exit_code == 0
    assert invoke("capture", *words, "-o", "step.safetensors").exit_code == 0
    assert np.isfinite(storage.load(folder / "step.npz")["gradients/0.weight"]).all()
