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
    "layers.activations": (
        "ELU",
        "SELU",
        "Hardtanh",
        "Identity",
        "LeakyReLU",
        "ReLU",
        "ReLU6",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Tanh",
    ),
    "layers.kinds": (
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "Flatten",
        "Linear",
        "PlacedLayer",
    ),
    "layers.incidence": ("Incidence",),
    "equations.systems": (
        "LinearSystem",
        "bias_equations",
        "gradient_equations",
        "stack",
        "weight_equations",
    ),
    "equations.constraint_graph": (
        "components",
        "constraint_graph",
        "maximum_matching",
        "structural_rank",
    ),
    "equations.dulmage_mendelsohn": (
        "DulmageMendelsohn",
        "dulmage_mendelsohn",
    ),
    "ranks.polyphase": (
        "PolyphaseLaw",
        "ResidueClass",
        "fewest_filters",
        "polyphase_law",
    ),
    "ranks.generic": (
        "GenericRank",
        "generic_rank",
    ),
    "ranks.knowledge": ("Knowledge",),
    "ranks.ladder": (
        "RankLadder",
        "rank_ladder",
    ),
    "ranks.determinacy": (
        "NullSpaceNorms",
        "determined",
        "null_space_norms",
    ),
    "networks.network": ("Network",),
    "pytorch.gradients": (
        "to_torch",
        "torch_gradients",
    ),
    "pytorch.tracing": ("from_torch",),
    "storage": (
        "load",
        "save",
    ),
    "experiments.metrics": (
        "mse",
        "psnr",
        "ssim",
    ),
    "recursion.result": (
        "LayerSolution",
        "Reconstruction",
        "Status",
    ),
    "recursion.backsubstitution": ("reconstruct",),
    "proofs.certificate": ("Certificate",),
    "proofs.certify": ("certify",),
    "proofs.indistinguishable": (
        "IndistinguishabilitySet",
        "indistinguishable",
    ),
    "proofs.observer": (
        "FirstLayer",
        "PixelBounds",
    ),
    "proofs.first_layer_equations": ("first_layer_equations",),
    "proofs.exact": (
        "ExactCertificate",
        "exact_certificate",
    ),
    "proofs.interval_maps": (
        "IntervalMap",
        "interval_map",
    ),
    "proofs.intervals": ("Interval",),
    "proofs.local_uniqueness": (
        "LocalUniqueness",
        "local_uniqueness",
    ),
    "proofs.twins": ("Twin",),
    "pytorch.verification": (
        "TwinVerification",
        "gradient_jacobian",
        "verify_twin",
    ),
    "theory.activity": ("activity_of",),
    "ranks.bounded": (
        "BoundedRank",
        "bounded_rank",
    ),
    "theory.minimum_filters": (
        "FilterCount",
        "MinimumFilters",
        "minimum_filters",
    ),
    "theory.feasibility": (
        "FeasibilityReport",
        "LayerFeasibility",
        "feasibility",
    ),
}
_SUBMODULES = {
    "incidence": "layers.incidence",  # its function has the module's name and lives there: ca.incidence.incidence
    "plotting": "plotting",
    "samples": "experiments.samples",
    "symbolic": "symbolic",
    "zoo": "networks.zoo",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted([*_MODULE_OF, *_SUBMODULES])  # noqa: PLE0605 -- one table serves both the lazy loading and this list


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"constraint_algebra.{_SUBMODULES[name]}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'constraint_algebra' has no attribute {name!r}")
    value = getattr(import_module(f"constraint_algebra.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
