"""From results to picture files, so that the same results make the same bytes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

DPI = 150


def save(figure: Figure, out: Path) -> None:
    """Write `out` as PNG and PDF, without dates and versions in them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out.with_suffix(".png"), dpi=DPI, metadata={"Software": None})
    figure.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None})
