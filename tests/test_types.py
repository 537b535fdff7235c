"""What type checkers, editors and `dir` see of the public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import constraint_algebra as ca

PACKAGE = Path(ca.__file__).parent
# Kept between runs: a first run takes some 15 s. Packages whose own types no line below depends on are not followed.
CACHE = PACKAGE.parent / ".mypy_cache" / "user_script"
CONFIG = "[mypy]\nstrict = true\n" + "".join(
    f"[mypy-{name}.*]\nfollow_imports = skip\n"
    for name in ("torch", "scipy", "pandas", "matplotlib", "networkx", "sympy", "rich", "typer", "flint")
)

# A line is refused with the words in its comment, and accepted without one.
SCRIPT = """
import numpy as np

import constraint_algebra as ca

network = ca.Network((1, 4, 4), [ca.Conv2d(4, 3, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(3, bias=True)])
values = {name: np.ones(shape) for name, shape in network.parameter_shapes.items()}
result = ca.reconstruct(network, values, values)
print(result.input.shape, result.status.value, ca.feasibility("lenet-o").layers[0].verdict)
print(ca.incidence(network[0]).taps, ca.zoo.names(), ca.mse([1.0], [2.0]) + 1)
print(ca.gradient_equations(network[0]).rows[2:4][0].upper())
result.inptu  # "Reconstruction" has no attribute "inptu"
ca.reconstrct  # Module has no attribute "reconstrct"
ca.LocalResponseNorm  # Module has no attribute "LocalResponseNorm"
ca.makers  # Module has no attribute "makers"
ca.feasibility(3)  # Argument 1 to "feasibility" has incompatible type "int"
ca.feasibility(network, sed=3)  # Unexpected keyword argument "sed" for "feasibility"
ca.Conv2d(3, 12, 3)  # Too many positional arguments for "Conv2d"
ca.Conv2d(3, kernel_size=3)  # Unexpected keyword argument "kernel_size" for "Conv2d"
ca.Linear(20, 10)  # Too many positional arguments for "Linear"
ca.gradient_equations(ca.Conv2d(3, 3))  # incompatible type "Conv2d"; expected "PlacedLayer"
ca.weight_equations(network)  # incompatible type "Network"; expected "PlacedLayer"
"""


def test_the_stub_names_what_the_package_loads() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    named = {
        alias.asname: f"{node.module or ''}.{alias.name}".strip(".") if alias.name in ca._SUBMODULES else node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == {**ca._MODULE_OF, **ca._SUBMODULES}


@pytest.mark.slow  # part of `make lint`
def test_a_users_script_is_checked(tmp_path) -> None:
    script, config = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(SCRIPT, encoding="utf-8")
    config.write_text(CONFIG, encoding="utf-8")
    CACHE.mkdir(parents=True, exist_ok=True)
    options = ["--config-file", config, "--cache-dir", CACHE, "--no-error-summary"]
    # Run elsewhere: mypy finds the library as an installed one, as for a user.
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    found: dict[int, str] = {}
    for line, words in re.findall(r"script\.py:(\d+): error: (.*)", run.stdout):
        found[int(line)] = f"{found.get(int(line), '')}{words}\n"
    for number, line in enumerate(SCRIPT.splitlines(), start=1):
        _, commented, expected = line.partition("  # ")
        assert expected in found.get(number, ""), run.stdout + run.stderr
        assert bool(commented) == (number in found), run.stdout + run.stderr


def test_dir_holds_public_names_only() -> None:
    assert ca.reconstruct  # loads rooms, whose names Python then enters in the package
    assert {name for name in dir(ca) if not name.startswith("__")} == set(ca.__all__)


def completions(code: str) -> dict[str, str]:
    """What an editor offers at the end of the code, by kind."""
    lines = code.splitlines()
    script = jedi.Script(code, path=str(PACKAGE.parent / "script.py"), project=jedi.Project(PACKAGE.parent))
    return {found.name: found.type for found in script.complete(len(lines), len(lines[-1]))}


def test_an_editor_offers_the_public_names() -> None:
    offered = completions("import constraint_algebra as ca\nca.")
    assert set(ca.__all__) <= set(offered)
    assert {"module"} == {offered[name] for name in ca._SUBMODULES}
    assert {offered[name] for name in ("reconstruct", "feasibility", "incidence")} == {"function"}
    assert {offered[name] for name in ("Conv2d", "Network", "Status", "ShapeError")} == {"class"}
    # The engine also lists what lies in the package's folder, as it does for every package; nothing else is left.
    on_disk = {path.stem for path in PACKAGE.iterdir()}
    left = {name for name in offered if not name.startswith("_")} - set(ca.__all__) - on_disk
    assert left <= {"annotations", "Any", "import_module"}  # imports of the file itself


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("ca.feasibility(", "feasibility(network: NetworkLike, *, activity: Activity=1.0, seed: int=0"),
        ("ca.incidence(", "incidence(layer: PlacedLayer) -> Incidence"),
        ("ca.Network(", "Network(input_shape: Sequence[int], layers: Sequence[Layer | PlacedLayer]"),
        ("ca.Conv2d(", "Conv2d(filters: int, kernel: int | Sequence[int]"),
        ("ca.mse(", "mse(a: ArrayLike, b: ArrayLike) -> float"),
    ],
)
def test_an_editor_shows_signatures(call, words) -> None:
    code = f"import constraint_algebra as ca\n{call}"
    script = jedi.Script(code, path=str(PACKAGE.parent / "script.py"), project=jedi.Project(PACKAGE.parent))
    (signature,) = script.get_signatures(2, len(call))
    assert signature.to_string().startswith(words)


def test_an_editor_knows_the_attributes_of_a_result() -> None:
    offered = completions("import constraint_algebra as ca\nresult = ca.feasibility('lenet-o')\nresult.")
    assert {"layers", "network", "determined", "to_frame"} <= set(offered)
