"""The linear algebra of gradient leakage: what shared gradients determine, what they are, and what they cannot tell.

    import constraint_algebra as ca

Names load on first use, so that theory from shapes alone loads neither PyTorch nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "errors": (
        "BatchError",
        "ConstraintAlgebraError",
        "MissingBiasError",
        "MissingPackageError",
        "NonFiniteError",
        "OutputExistsError",
        "ParameterError",
        "ShapeError",
        "StorageError",
        "UnknownNameError",
        "UnsupportedLayerError",
        "ZeroGradientError",
    ),
    "layers": (
        "ELU",
        "SELU",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "Flatten",
        "Hardtanh",
        "Identity",
        "LeakyReLU",
        "Linear",
        "PlacedLayer",
        "ReLU",
        "ReLU6",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Tanh",
    ),
    "incidence": ("Incidence",),  # its function has the module's name and lives there: ca.incidence.incidence
    "equations": (
        "LinearSystem",
        "bias_equations",
        "gradient_equations",
        "stack",
        "weight_equations",
    ),
    "graph": ("components", "constraint_graph", "maximum_matching", "structural_rank"),
    "decomposition": ("DulmageMendelsohn", "dulmage_mendelsohn"),
    "polyphase": ("PolyphaseLaw", "ResidueClass", "fewest_filters", "polyphase_law"),
    "generic": ("GenericRank", "Knowledge", "generic_rank"),
    "rank": ("RankLadder", "rank_ladder"),
    "determinacy": ("NullSpaceNorms", "determined", "null_space_norms"),
    "network": ("Network",),
    "gradients": ("to_torch", "torch_gradients"),
    "tracing": ("from_torch",),
    "storage": ("load", "save"),
    "metrics": ("mse", "psnr", "ssim"),
    "reconstruction": ("LayerSolution", "Reconstruction", "Status"),
    "backsubstitution": ("reconstruct",),
    "certificate": ("Certificate",),
    "certification": ("certify",),
    "certificates": ("IndistinguishabilitySet", "indistinguishable"),
    "attacker_view": ("FirstLayer", "PixelBounds"),
    "first_layer": ("first_layer_equations",),
    "exact_certificates": ("ExactCertificate", "exact_certificate"),
    "interval_maps": ("IntervalMap", "interval_map"),
    "intervals": ("Interval",),
    "neighbourhood": ("LocalUniqueness", "local_uniqueness"),
    "twins": ("Twin",),
    "verification": ("TwinVerification", "gradient_jacobian", "verify_twin"),
    "activity": ("activity_of",),
    "bounds": ("BoundedRank", "bounded_rank"),
    "filter_counts": ("FilterCount", "MinimumFilters", "minimum_filters"),
    "feasibility_report": ("FeasibilityReport", "LayerFeasibility", "feasibility"),
}
_SUBMODULES = ("incidence", "plotting", "samples", "symbolic", "zoo")
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted([*_MODULE_OF, *_SUBMODULES])  # noqa: PLE0605 -- one table serves both the lazy loading and this list


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"constraint_algebra.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'constraint_algebra' has no attribute {name!r}")
    value = getattr(import_module(f"constraint_algebra.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
