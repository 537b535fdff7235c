"""What the library assumed is said once, at the line of the user, and can be silenced or collected."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings

import pytest

import constraint_algebra as ca
from constraint_algebra.notes import AssumptionWarning, collected, note

SCRIPT = """
import numpy as np, torch, constraint_algebra as ca
{silence}
network = ca.Network((3,), [ca.Linear(4), ca.LeakyReLU(), ca.Linear(2)])
model = ca.to_torch(network)
gradients = {{f"module.{{name}}": g for name, g in ca.torch_gradients(model, [0.1, 0.2, 0.3], 1).items()}}
for _ in range(3):
    ca.reconstruct(network, model, gradients)  # here
"""
SILENCE = "import warnings; warnings.filterwarnings('ignore', category=ca.AssumptionWarning)"


def stderr_of(tmp_path, silence: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(silence=silence), encoding="utf-8")
    return subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stderr


def test_a_user_sees_it_once_at_a_line_of_their_own(tmp_path) -> None:
    lines = [line for line in stderr_of(tmp_path, "").splitlines() if "AssumptionWarning" in line]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"{tmp_path / 'script.py'}:8: AssumptionWarning: gradients: 'module.0.weight' is read as"
    )


def test_the_documented_filter_silences_it(tmp_path) -> None:
    assert stderr_of(tmp_path, SILENCE) == ""
    assert SILENCE.partition("; ")[2].replace("'", '"') in sys.modules["constraint_algebra.notes"].__doc__


def test_the_class_is_public_and_no_error_by_itself() -> None:
    assert ca.AssumptionWarning is AssumptionWarning
    assert issubclass(AssumptionWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AssumptionWarning, match="read as"):
            note("read as")


def test_collected_notes_are_no_warnings_each_once_and_of_one_thread() -> None:
    with collected() as outer:
        note("a")
        with collected() as inner:
            note("b")
        note("a")
        seen: list[str] = []

        def elsewhere() -> None:
            with collected() as mine:
                note("c")
            seen.extend(mine)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert (outer, inner, seen) == (["a"], ["b"], ["c"])
    with pytest.warns(AssumptionWarning, match="d"):
        note("d")
