"""From results to picture files, so that the same results make the same bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from constraint_algebra.files.space import make
from constraint_algebra.files.writing import write

DPI = 150


def save(figure: Figure, out: Path) -> None:
    """Write `out` as PNG and PDF, without dates and versions in them; both are drawn before one is written.

    Raises:
        StorageError: the folder or the disk refuses; pictures that were there are whole.
    """
    pictures = {
        ".png": drawn(figure, "png", dpi=DPI, metadata={"Software": None}),
        ".pdf": drawn(figure, "pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None}),
    }
    make(out.parent)
    for suffix, content in pictures.items():
        write(out.with_suffix(suffix), content)


def drawn(figure: Figure, kind: str, **options: Any) -> bytes:
    """Return the bytes of a picture; for the options see matplotlib's `savefig`."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()
