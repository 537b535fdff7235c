"""The docstring of a package as Markdown: its table of modules stands in the code alone."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Room(SphinxDirective):
    """`{room} package.name`: what the package says of itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the docstring where the directive stands."""
        name = self.arguments[0]
        text = inspect.getdoc(import_module(name)) or ""
        container = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), source=name), self.content_offset, container)
        return list(container.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Name the directive."""
    app.add_directive("room", Room)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
