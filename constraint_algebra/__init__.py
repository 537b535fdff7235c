"""The linear algebra of gradient leakage: what shared gradients determine, what they are, and what they cannot tell.

    import constraint_algebra as ca

Names load on first use, so that theory from shapes alone loads neither PyTorch nor matplotlib. Type checkers and
editors read the same names in `__init__.pyi`; a test holds the two together.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "errors": (
        "ArgumentError",
        "ArgumentRangeError",
        "BatchError",
        "ConstraintAlgebraError",
        "MemoryLimitError",
        "MissingBiasError",
        "MissingPackageError",
        "NonFiniteError",
        "OutputExistsError",
        "ParameterError",
        "ShapeError",
        "StorageError",
        "UnknownAttributeError",
        "UnknownNameError",
        "UnsupportedLayerError",
        "ZeroGradientError",
    ),
    "ground": ("Ground",),
    "notes": ("AssumptionWarning",),
    "layers.activations": (
        "ELU",
        "GELU",
        "SELU",
        "Hardswish",
        "Hardtanh",
        "Identity",
        "LeakyReLU",
        "Mish",
        "PReLU",
        "ReLU",
        "ReLU6",
        "Sigmoid",
        "SiLU",
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
    "layers.convolutions": ("ChannelScale",),
    "layers.dropout": ("Dropout",),
    "layers.joins": (
        "Add",
        "Concatenate",
        "Subtract",
    ),
    "layers.normalisation": (
        "BatchNorm",
        "GroupNorm",
        "InstanceNorm",
        "LayerNorm",
        "RMSNorm",
        "Standardise",
    ),
    "layers.own_statistics": ("OwnStatistics",),
    "layers.pooling": (
        "AdaptiveAvgPool1d",
        "AdaptiveAvgPool2d",
        "AdaptiveAvgPool3d",
        "AdaptiveMaxPool1d",
        "AdaptiveMaxPool2d",
        "AdaptiveMaxPool3d",
        "AvgPool1d",
        "AvgPool2d",
        "AvgPool3d",
        "MaxPool1d",
        "MaxPool2d",
        "MaxPool3d",
        "Maxout",
        "Mean",
    ),
    "layers.rearranging": (
        "Pad",
        "Permute",
        "PixelShuffle",
        "PixelUnshuffle",
        "Reshape",
        "Slice",
        "Upsample",
    ),
    "layers.scaling": (
        "Normalise",
        "Scale",
    ),
    "layers.transposed": (
        "ConvTranspose1d",
        "ConvTranspose2d",
        "ConvTranspose3d",
    ),
    "layers.incidence": (
        "Incidence",
        "incidence",
    ),
    "equations.stacking": ("stack",),
    "equations.systems": (
        "LinearSystem",
        "bias_equations",
        "gradient_equations",
        "weight_equations",
    ),
    "numerics.null_space": ("NullSpace",),
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
    "ranks.whole_map": ("WholeMap",),
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
    "pytorch.polish": ("polish",),
    "pytorch.tracing": ("from_torch",),
    "storage": (
        "load",
        "load_network",
        "save",
    ),
    "experiments.metrics": (
        "mse",
        "psnr",
        "ssim",
    ),
    "recursion.result": (
        "LayerSolution",
        "PixelBounds",
        "Reconstruction",
        "Status",
    ),
    "recursion.backsubstitution": ("reconstruct",),
    "recursion.blind_start": (
        "BlindStart",
        "blind_start",
    ),
    "proofs.any_model": ("indistinguishable",),
    "proofs.certificate": ("Certificate",),
    "proofs.certify": ("certify",),
    "proofs.indistinguishable": ("IndistinguishabilitySet",),
    "proofs.opaque": ("FirstLayerSet",),
    "proofs.observer": ("FirstLayer",),
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
    "pytorch.whole_map": ("torch_whole_map",),
    "regions.whole_map": ("whole_map",),
    "theory.activity": ("activity_of",),
    "theory.beyond": ("BeyondRank",),
    "ranks.bounded": (
        "BoundedRank",
        "bounded_rank",
    ),
    "theory.rank_against_filters": ("rank_against_filters",),
    "theory.minimum_filters": (
        "FilterCount",
        "MinimumFilters",
        "minimum_filters",
    ),
    "theory.report": (
        "FeasibilityReport",
        "LayerFeasibility",
    ),
    "theory.feasibility": ("feasibility",),
}
_SUBMODULES = {
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
    if name in _MODULE_OF:
        value = getattr(import_module(f"constraint_algebra.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    message = f"module 'constraint_algebra' has no attribute {name!r}"
    if name.startswith("_"):  # Python's own questions, such as for __path__
        raise AttributeError(message)
    from constraint_algebra.arguments import nearest
    from constraint_algebra.errors import UnknownAttributeError
    from constraint_algebra.pytorch_names import layer_advice

    advice = layer_advice(name)
    hint = f"; {advice}" if advice else f"; {near}" if (near := nearest(name, __all__)) else ""
    raise UnknownAttributeError(f"{message}{hint}")


def __dir__() -> list[str]:
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
