"""Docstrings are plain text with `code` in single backticks: what others would read into them is kept from them.

reStructuredText reads stars, bars, trailing underscores and single letters with a full stop as markup; what stands
there is escaped. Napoleon, which reads sections, takes what stands before a colon for a type: in the first line of a
property, in `Returns:`, and in sentences of `Raises:`. No docstring here names a type, types stand in the signature. So
a colon there is hidden from it (`HIDDEN`) and shown again when it is done. Sphinx, at last, takes `a, b` in
`Attributes:` for a name with a type: attributes are a field without types here.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.docfields import GroupedField

CODE = re.compile(r"(?<![`\w])`([^`]+)`(?!`)")
HIDDEN = "\ue03a"  # of the private use area: a colon that napoleon is not to see
# What stays as it is: examples, and in a module, whose docstring has no sections, what is indented.
EXAMPLE, INDENTED = r">>> .*?(?=\n\s*\n|\Z)", r"(?<=\n\n)    \S.*?(?=\n\s*\n|\Z)"
VERBATIM = {"": re.compile(f"({EXAMPLE})", re.DOTALL), "module": re.compile(f"({EXAMPLE}|{INDENTED})", re.DOTALL)}
VALUES = {"property", "attribute", "data"}


def escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Turn code into literals, escape markup elsewhere, and hide the colons that napoleon would misread."""
    if what == "data" and lines[:1] == (inspect.getdoc(type(thing)) or "").splitlines()[:1]:
        lines[:] = []  # a value without a docstring would be described by that of its type
    text = "\n".join(lines)
    pieces = re.split(VERBATIM["module" if what == "module" else ""], text)
    pieces[1::2] = [piece if piece.startswith(">>>") else f"::\n\n{piece}" for piece in pieces[1::2]]
    for number in range(0, len(pieces), 2):
        parts = CODE.split(pieces[number])
        for place, part in enumerate(parts):
            if place % 2:
                close = "\\ " if re.match(r"[^\s\]).,;:!?'\"-]", parts[place + 1]) else ""  # a literal ends at a space
                parts[place] = "``" + " ".join(part.split()) + "``" + close
            else:
                parts[place] = _without_markup(part)
        pieces[number] = "".join(parts)
    lines[:] = _hide_colons("".join(pieces).split("\n"), every=what in VALUES)


def _without_markup(text: str) -> str:
    """Escape stars, bars, trailing underscores, and a letter with a full stop (the beginning of a list)."""
    text = re.sub(r"([*|])", r"\\\1", re.sub(r"(\w)_(?=\W|$)", r"\1\\_", text))
    return re.sub(r"((?:^|:)[ ]+)(?=\w\.$)", r"\1\\", text, flags=re.MULTILINE)


def _hide_colons(lines: list[str], *, every: bool) -> list[str]:
    """Hide all colons, as of a value, whose docstring has no sections, or those of `Returns:`, which names nothing."""
    found, section = [], ""
    for line in lines:
        if heading := re.fullmatch(r"([A-Z]\w+):", line):
            section = heading[1]
        elif every or section == "Returns":
            line = line.replace(":", HIDDEN)  # noqa: PLW2901
        found.append(line)
    return found


def show(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Show the colons again, and give sentences of `Raises:` a field of their own."""
    lines[:] = [re.sub(r"^:raises (\S+ .*\s\S.*):\s*$", r":Raises: \1", line).replace(HIDDEN, ":") for line in lines]


def no_signature(app: Sphinx, what: str, name: str, thing: Any, *_: Any) -> tuple[str, None] | None:  # noqa: ARG001
    """Leave out the signature of what nobody calls: enumerations and protocols."""
    uncalled = inspect.isclass(thing) and (issubclass(thing, Enum) or getattr(thing, "_is_protocol", False))
    return ("", None) if uncalled else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon and after it, and give attributes their field."""
    app.connect("autodoc-process-docstring", escape, priority=100)
    app.connect("autodoc-process-docstring", show, priority=900)
    app.connect("autodoc-process-signature", no_signature)
    attributes = GroupedField("variable", label="Attributes", names=("ivar",), can_collapse=True)
    PyObject.doc_field_types = [attributes, *(kind for kind in PyObject.doc_field_types if kind.name != "variable")]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
