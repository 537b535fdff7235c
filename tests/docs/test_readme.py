"""The README's Python runs as it stands, and says what comes out."""

from __future__ import annotations

import re
from pathlib import Path

import constraint_algebra as ca
from constraint_algebra.theory.feasibility import filters_by_counting

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block(words: str) -> str:
    """The block that contains some words."""
    return next(code for code in BLOCKS if words in code)


def test_a_residual_network_comes_back() -> None:
    names = {"ca": ca, "sample": ca.samples.load("cifar10:7")}
    exec(block('"sum": (ca.Add()'), names)  # it asserts by itself
    assert names["result"].status is ca.Status.DETERMINED


def test_the_ten_lines_reconstruct_the_photograph(capsys) -> None:
    names: dict[str, object] = {}
    exec(block("# theory: what the shapes alone"), names)
    result, sample = names["result"], names["sample"]
    assert result.status is ca.Status.DETERMINED
    assert abs(result.input - sample.image).max() < 1e-11
    printed = capsys.readouterr().out
    assert "Determined: the gradient determines every value" in printed
    # The table shown is the table printed, but for figures that rounding decides.
    shown = re.search(r"```\n(Reconstruction: .*?)```", README, re.DOTALL)[1].splitlines()
    found = printed[printed.index("Reconstruction: ") :].splitlines()
    columns = [[line.split()[:-2] for line in lines] for lines in (shown[2:], found[2:])]
    assert shown[:2] == found[:2]
    assert columns[0] == columns[1]


def test_the_proofs_are_those_shown(capsys) -> None:
    exec(block("ca.certify(model, image"), {"ca": ca, "sample": ca.samples.load("cifar10:7")})
    shown = re.search(r"```\n({'fixed'.*?)```", README, re.DOTALL)[1]

    def without_rounding(text: str) -> str:
        return re.sub(r"\([0-9.e-]+ of the largest", "(of the largest", text)

    assert without_rounding(capsys.readouterr().out) == without_rounding(shown)


def test_the_names_of_rows_and_unknowns_are_those_shown() -> None:
    names = {"ca": ca}
    names_of_rows = block("system.rows[7]")
    exec(names_of_rows, names)
    system = names["system"]
    shown = re.search(r"# ('dL/dW.*)", names_of_rows)[1]
    assert repr((system.rows[7], system.unknowns[39])) == f"({shown})"


def test_the_picture_of_lesson_3_has_the_numbers_of_its_layer() -> None:
    lesson = (ROOT / "docs/course/03-counting-is-not-rank.md").read_text()
    names = {"ca": ca, "filters": 1}
    exec(re.search(r"^ +(small = ca\.Conv2d\(.*)$", lesson, re.MULTILINE)[1], names)
    layer = names["small"]
    counted, fewest = filters_by_counting(layer), ca.fewest_filters(layer)[0]
    words, caption = re.search(r"!\[(.*)\]\(figures/gallery/rank_against_filters\.png\)\n\n\*(.*)\*", README).groups()
    height, width = layer.positions
    (kernel, _), (stride, _) = layer.layer.kernel, layer.layer.strides
    assert f"{kernel}×{kernel} convolution with stride {stride} on {height}×{width} pixels" in words
    assert f"reaches the number of pixels at {counted} filters, the rank at {fewest}" in words
    assert f"counting says {counted} filters are enough, the exact rank needs {fewest}" in caption
    assert f"reach {layer.unknowns} at {counted} and at {fewest} filters" in lesson
