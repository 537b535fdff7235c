"""Pictures: Axes in, Axes out. Nothing here shows or saves.

Every function takes the Axes to draw on, makes new ones where it gets none, and returns them. `style()` sets the
project's look. Nothing here is loaded before it is asked for, matplotlib last of all.
"""

from __future__ import annotations

from constraint_algebra.plotting.certificates import certificate
from constraint_algebra.plotting.flow import knowledge_flow
from constraint_algebra.plotting.graphs import constraint_graph, decomposition
from constraint_algebra.plotting.look import PALETTE, style
from constraint_algebra.plotting.maps import determinacy_classes, determinacy_map, residue_classes
from constraint_algebra.plotting.pictures import (
    absolute_error,
    comparison,
    decades,
    difference,
    hatching,
    is_picture,
    picture,
    pixels,
)
from constraint_algebra.plotting.ranks import layer_ranks, rank_against_filters, rank_ladder
from constraint_algebra.plotting.reconstructions import reconstruction
from constraint_algebra.plotting.spectra import singular_values

__all__ = [
    "PALETTE",
    "absolute_error",
    "certificate",
    "comparison",
    "constraint_graph",
    "decades",
    "decomposition",
    "determinacy_classes",
    "determinacy_map",
    "difference",
    "hatching",
    "is_picture",
    "knowledge_flow",
    "layer_ranks",
    "picture",
    "pixels",
    "rank_against_filters",
    "rank_ladder",
    "reconstruction",
    "residue_classes",
    "singular_values",
    "style",
]
