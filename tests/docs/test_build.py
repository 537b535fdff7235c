"""A build of the documentation says nothing, so that a warning is seen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

```{code-cell} ipython3
import numpy as np

print("to copy")
```
"""


def test_a_page_is_executed_without_a_word(tmp_path) -> None:
    """Neither the kernel, nor Jupyter, nor the theme's packages log anything; the output is on the page."""
    for package in ("sphinx", "myst_nb", "furo", "sphinx_copybutton", "latex2mathml"):
        pytest.importorskip(package, reason=f"{package} is not installed (group docs)")
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    for folder in ("_extensions", "_static", "site"):
        shutil.copytree(DOCS / folder, source / folder)
    (source / "index.md").write_text(PAGE, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html", source, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = (tmp_path / "out/index.html").read_text("utf-8")
    assert page.count("to copy") == 2
