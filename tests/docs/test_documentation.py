"""The documentation: every public name has its place, every picture its words, every link its form."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlparse

import pytest

import constraint_algebra as ca
from constraint_algebra import plotting

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "site" not in page.parts)


def documented() -> set[str]:
    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    names = set(re.findall(r"\.\. auto\w+:: constraint_algebra\.([\w.]+)", text))
    modules = ca._SUBMODULES.items()
    return names | {public for public, module in modules if any(f"{name}.".startswith(f"{module}.") for name in names)}


def test_every_public_name_is_in_the_reference() -> None:
    assert set(ca.__all__) - documented() == set()
    assert plotting.__all__  # all of it by automodule


def test_the_reference_names_nothing_that_is_not_there() -> None:
    for name in documented():
        module, _, last = name.rpartition(".")
        owner = __import__(f"constraint_algebra.{module}" if module else "constraint_algebra", fromlist=[last])
        assert hasattr(owner, last), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_has_a_title_alt_texts_and_well_formed_links(page) -> None:
    text = page.read_text("utf-8")
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    assert body.lstrip().startswith("# ")
    assert not re.findall(r"!\[\]\(", text), "a picture without alt text"
    for cell in re.findall(r"```\{code-cell\} ipython3\n(.*?)```", text, re.DOTALL):
        if "subplots" in cell or ".plot(" in cell:
            assert "alt:" in cell
    for link in re.findall(r"\]\((https?:[^)]+)\)", text):
        parts = urlparse(link)
        assert parts.scheme == "https"
        assert "." in parts.netloc
    for target in re.findall(r'href="([^"#]+)', text):
        place = target.replace("../explorer", "site/explorer").replace("explorer/", "site/explorer/", 1)
        place = place.replace("site/site/", "site/")
        assert (DOCS / place).exists() or (page.parent / target).exists(), target


def test_the_explorer_loads_nothing_from_elsewhere() -> None:
    for file in (DOCS / "site/explorer").iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file.name
        assert "https://" not in text, file.name
