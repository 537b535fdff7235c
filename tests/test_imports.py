"""What an import loads, that modules import each other in one direction only, and that none grows without end."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import constraint_algebra as ca

HEAVY = ("torch", "matplotlib", "skimage", "foolbox", "PIL", "typer", "dask")
ROOT = Path(ca.__file__).parent
LONGEST_FUNCTION, LONGEST_FILE = 60, 400  # lines, docstrings included


def module_name(path: Path) -> str:
    """The name under which a file of the library is imported."""
    parts = (ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_by(name: str) -> Iterator[str]:
    """Modules of the library that a module names in an import, wherever it stands: in a function, for types alone."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        if isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            members = (f"{source}.{alias.name}" for alias in node.names)
            yield from (found for found in (m if m in FILES else source for m in members) if found in FILES)


def graph() -> dict[str, set[str]]:
    """What each module of the library imports; that a package is loaded before its modules does not count."""
    return {name: set(imported_by(name)) for name in FILES}


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after running the code."""
    report = "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    # -W error: an import that warns would break users who run with warnings as errors.
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


THEORY = """
import constraint_algebra as ca
net = ca.Network((3, 8, 8), [ca.Conv2d(4, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(10)])
repr(net), repr(ca.weight_equations(net[0])), ca.gradient_equations(net[0]).pattern
"""


@pytest.mark.parametrize(
    "code",
    ["import constraint_algebra", "from constraint_algebra import *", THEORY],
    ids=["the package", "every public name", "network and equations"],
)
def test_theory_loads_no_heavy_package(code) -> None:
    heavy = set(HEAVY) & loaded_by(code)
    if "*" in code:
        heavy -= {"torch"}  # some public names are PyTorch's business
    assert not heavy


def test_the_bare_import_loads_not_even_numpy() -> None:
    assert "numpy" not in loaded_by("import constraint_algebra")


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in ca.__all__:
        assert getattr(ca, name).__name__.rpartition(".")[-1] == name
        assert name in dir(ca)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        _ = ca.reconstuct


def test_the_graph_sees_imports_in_functions_and_those_for_types_alone() -> None:
    found = graph()
    assert len(found) > 80
    assert "constraint_algebra.proofs.certify" in found["constraint_algebra.commands.app"]  # in a function
    assert "constraint_algebra.theory.report" in found["constraint_algebra.plotting.ranks"]  # for types alone
    assert "constraint_algebra.plotting" in found["constraint_algebra.proofs.certificate"]  # a package
    assert (
        "constraint_algebra.symbolic.polynomials" in found["constraint_algebra.symbolic.formulas"]
    )  # a module from one


def test_no_module_imports_itself_on_a_detour() -> None:
    TopologicalSorter(graph()).prepare()  # CycleError names the circle


def test_functions_and_files_stay_short() -> None:
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
    files = {name: len(text.splitlines()) for name, text in texts.items()}
    functions = {
        f"{name}.{node.name}, line {node.lineno}": (node.end_lineno or 0) - node.lineno + 1
        for name, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in files.items() if lines > LONGEST_FILE}
    assert not {name: lines for name, lines in functions.items() if lines > LONGEST_FUNCTION}
