"""The reference as a reader sees it: what stands in a docstring stands on its page, and nothing else."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = "course,how-to,explanation,_extensions,site,index.md"  # pages that the reference does not need


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """The built pages of the reference as HTML, by name."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed (group docs)")
    pytest.importorskip("myst_nb", reason="MyST-NB is not installed (group docs)")
    out = tmp_path_factory.mktemp("reference")
    told = ("nb_execution_mode=off", f"exclude_patterns={ELSEWHERE}", "root_doc=reference/index")
    options = [word for setting in told for word in ("-D", setting)]
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", *options, ROOT / "docs", out]
    subprocess.run(command, check=True, capture_output=True, cwd=out, env=os.environ | {"PYTHONPATH": ""})
    return {page.stem: page.read_text("utf-8") for page in (out / "reference").glob("*.html")}


@pytest.fixture(scope="module")
def text(pages) -> str:
    """All of them as text, each paragraph, item and field name on a line of its own."""
    joined = "\n".join(re.search(r"<article.*</article>", page, re.DOTALL)[0] for page in pages.values())
    lines = re.sub(r"<.*?>", "", re.sub(r"<(?:p|dt|dd|li|h\d|div|pre)\b", r"\n\g<0>", joined.replace("\n", " ")))
    return re.sub(r"\n\s*", "\n", html.unescape(lines))


def test_no_sentence_is_taken_for_a_type(text) -> None:
    """A word and a colon at the beginning of a property or of `Returns:` is a sentence."""
    assert re.findall(r"^(?:Type|Return type|Yields):.*", text, re.MULTILINE) == []
    assert "The layers with a weight, in order: those that have equations." in text
    assert "What is not determined is no error: .status and .determined say so" in text


def test_no_name_is_taken_for_a_type(text) -> None:
    """`weight_rows, gradient_rows: ...` are two attributes, and not one with a type."""
    assert re.findall(r"^\w+ \([\w, ]+,\) –.*", text, re.MULTILINE) == []
    assert re.search(r"^weight_rows, gradient_rows – ", text, re.MULTILINE)


def test_no_description_is_lost(text) -> None:
    """A letter with a full stop begins no list, a sentence in `Raises:` is no exception."""
    assert re.findall(r"^.* –\s*$", text, re.MULTILINE) == []


def test_nothing_is_described_by_its_type(text) -> None:
    """A constant or an enumeration without words of its own has none of its class."""
    assert re.findall(r"Built-in|\(\*args, \*\*kwargs\)|class constraint_algebra\S*\(value\)", text) == []
    assert "DETERMINED = " in text


def test_indented_lines_are_code_and_not_a_quotation(pages) -> None:
    assert [name for name, page in pages.items() if "<blockquote" in page] == []


def test_what_is_hidden_from_napoleon_is_shown(text) -> None:
    assert re.findall(r".*[\ue000-\uf8ff].*", text) == []
