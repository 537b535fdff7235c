"""Pictures: Axes in, Axes out. Nothing here shows or saves.

Every function takes the Axes to draw on, makes new ones where it gets none, and returns them. `style()` sets the
project's look. Nothing here is loaded before it is asked for, matplotlib last of all. What `.plot()` of an object draws
is entered below, by its type.
"""

from __future__ import annotations

from constraint_algebra.display import drawing
from constraint_algebra.equations.systems import LinearSystem
from constraint_algebra.networks.network import Network
from constraint_algebra.plotting.certificates import certificate
from constraint_algebra.plotting.flow import knowledge_flow
from constraint_algebra.plotting.graphs import constraint_graph, decomposition
from constraint_algebra.plotting.look import PALETTE, style
from constraint_algebra.plotting.maps import determinacy_classes, determinacy_map, ground_map, residue_classes
from constraint_algebra.plotting.networks import architecture
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
from constraint_algebra.ranks.ladder import RankLadder
from constraint_algebra.recursion.result import Reconstruction
from constraint_algebra.theory.report import FeasibilityReport

__all__ = [
    "PALETTE",
    "absolute_error",
    "architecture",
    "certificate",
    "comparison",
    "constraint_graph",
    "decades",
    "decomposition",
    "determinacy_classes",
    "determinacy_map",
    "difference",
    "ground_map",
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

drawing.register(LinearSystem, decomposition)
drawing.register(Network, architecture)
drawing.register(RankLadder, rank_ladder)
drawing.register(FeasibilityReport, layer_ranks)
drawing.register(Reconstruction, reconstruction)
