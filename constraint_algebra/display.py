"""How objects show themselves: as a table in a terminal and in a notebook, as a drawing, and as plain values."""

from __future__ import annotations

import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    r"""A table with words around it.

    Attributes:
        body: a frame, or lines that are set in columns already.
        title: the line above, none where empty.
        notes: paragraphs below.
        width: columns at which a terminal folds the notes, `None` for not at all.

    >>> table = Table("kind  rows\nW<2      4", title="layer 'a<b'", notes=("Four rows & no more.",), width=12)
    >>> print(table.text())
    layer 'a<b'
    kind  rows
    W<2      4
    Four rows &
    no more.
    >>> table.html()
    "<p>layer 'a&lt;b'</p><pre>kind  rows\nW&lt;2      4</pre><p>Four rows &amp; no more.</p>"
    """

    body: pd.DataFrame | str
    title: str = ""
    notes: tuple[str, ...] = ()
    width: int | None = None

    def text(self) -> str:
        """Return the table for a terminal."""
        body = self.body if isinstance(self.body, str) else self.body.to_string(index=False)
        notes = self.notes if self.width is None else [textwrap.fill(note, self.width) for note in self.notes]
        return "\n".join([*self._above(), body, *notes])

    def html(self) -> str:
        """Return the table for a notebook; what users named is text there, whatever characters it has."""
        body = f"<pre>{_escaped(self.body)}</pre>" if isinstance(self.body, str) else self.body.to_html(index=False)
        above, below = ("".join(f"<p>{_escaped(line)}</p>" for line in lines) for lines in (self._above(), self.notes))
        return f"{above}{body}{below}"

    def _above(self) -> list[str]:
        return [self.title] if self.title else []


class Tabular(ABC):
    """An object that shows itself as a table; a dataclass says `repr=False`, or its own would hide this one."""

    @abstractmethod
    def _shown(self) -> Table:
        """Return what there is to see."""

    def __repr__(self) -> str:
        """Return the table as text."""
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()


def plain(value: Any) -> Any:
    """Return a value that strict JSON can hold: Python's own types, `None` for what is not finite.

    >>> plain({"rank": np.int64(3), "condition": np.inf, "grounds": (("zeros", 2),)})
    {'rank': 3, 'condition': None, 'grounds': [['zeros', 2]]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(shown: object, *given: Any, **named: Any) -> Any:
    """Return what the drawing of an object returns, see `drawing`.

    The drawings stand above all that they draw, so that no module can name them here: they load when one is wanted.
    """
    import_module("constraint_algebra.plotting")
    return drawing(shown, *given, **named)


@singledispatch
def drawing(shown: object, *_given: Any, **_named: Any) -> Any:
    """Draw an object by its type: the register in which `plotting` enters a function for each type that it draws."""
    raise TypeError(f"no drawing is registered for {type(shown).__name__}")


def _escaped(words: str) -> str:
    return escape(words, quote=False)  # between tags a quotation mark is itself
