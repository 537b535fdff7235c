"""Docstrings are plain text with `code` in single backticks: what reStructuredText would read into them is escaped."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(?<![`\w])`([^`]+)`(?!`)")


def escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Turn code into literals; escape stars, bars and trailing underscores elsewhere."""
    text = "\n".join(lines)
    pieces = re.split(r"(>>> .*?(?=\n\s*\n|\Z))", text, flags=re.DOTALL)  # examples stay as they are
    for number in range(0, len(pieces), 2):
        parts = CODE.split(pieces[number])
        for place, part in enumerate(parts):
            if place % 2:
                close = "\\ " if re.match(r"[^\s\]).,;:!?'\"-]", parts[place + 1]) else ""  # a literal ends at a space
                parts[place] = "``" + " ".join(part.split()) + "``" + close
            else:
                parts[place] = re.sub(r"([*|])", r"\\\1", re.sub(r"(\w)_(?=\W|$)", r"\1\\_", part))
        pieces[number] = "".join(parts)
    lines[:] = "".join(pieces).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", escape, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
