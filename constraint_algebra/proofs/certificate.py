"""What `certify` found: verdicts, the twins that prove them, and both on paper."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from constraint_algebra import __version__, plotting, storage
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.files import result_folder
from constraint_algebra.proofs.intervals import flat_index
from constraint_algebra.proofs.local_uniqueness import LocalUniqueness
from constraint_algebra.proofs.twins import Twin
from constraint_algebra.pytorch.verification import TwinVerification

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# certificate.json comes last and leaves first: where it stands, the others are complete.
FILES = ("certificate.json", "certificate.npz", "certificate.png")
ROOM = 2**20  # bytes to ask for before the work: a certificate of a photograph of 3×32×32 takes some 0.5 MB
ARRAYS = ("input", "fixed", "fixed_in_region", "ambiguous", "by_range", "bound", "moved", "seen")
LETTERS = {"fixed": "F", "fixed_in_region": "R", "ambiguous": "A", "undecided": "U"}
WORDS = {"fixed_in_region": "fixed in region"}  # in running text


@dataclass(frozen=True)
class Witness:
    """A twin with the proof that its gradients are equal."""

    twin: Twin
    check: TwinVerification


@checked
@dataclass(frozen=True, eq=False)
class Certificate:
    """The verdict for every input value, with its evidence.

    Attributes:
        input, target, loss: the sample.
        fixed: values on which all valid inputs with the same gradients agree, to within `bound`.
        fixed_in_region: of the others, values on which all those agree on which, besides, every activation works on
            the same side as for this input (with `kept`, every activation below that layer).
        ambiguous: values that a verified twin changes by at least `delta`.
        by_range: of the values fixed, for all inputs or in the region, those that the equations alone leave open: that
            they have no room rests on the valid range, or on inequalities that keep activations on their sides.
        bound: for values fixed, for all inputs or in the region, the largest possible difference, NaN for the others.
        moved: the largest change of each value over all verified twins.
        seen: smallest and largest value over all verified twins, `(2, *input_shape)`.
        witnesses: the twins that prove ambiguity, each with its verification.
        reasons: for undecided values the reason, and which values it holds for.
        obstacle: why values fixed in the region are not shown to be fixed for all inputs, `None` where they are.
        kept: the layer whose output all twins keep, as a smooth activation follows or nothing more is known of the
            model; `None` where they keep nothing but the pattern.
        local: what the Jacobian of the gradients says nearby, where anything is undecided.
        nullity, gap: of the equations of the set that the twins are taken from.
        delta, tolerance, fixed_tolerance, valid_range: size of a change, equality of gradients, share of a null vector
            up to which a value counts as fixed, range of valid values.
        status: that of the reconstruction from the gradients, layer by layer; `None` where none could start.
        digests: SHA-256 of every parameter.
        architecture: the network in words, or the part of the model that was looked into.
        ground: what the twins rest on, as a sentence.
        pattern: what inputs of one region share, as a clause.
    """

    input: FloatArray
    target: int
    loss: str
    fixed: BoolArray
    fixed_in_region: BoolArray
    ambiguous: BoolArray
    by_range: BoolArray
    bound: FloatArray
    moved: FloatArray
    seen: FloatArray
    witnesses: tuple[Witness, ...]
    reasons: tuple[tuple[str, BoolArray], ...]
    obstacle: str | None
    kept: str | None
    local: LocalUniqueness | None
    nullity: int
    gap: tuple[float, float]
    delta: float
    tolerance: float
    fixed_tolerance: float
    valid_range: tuple[float, float]
    status: str | None
    digests: dict[str, str]
    architecture: str
    ground: str = ""
    pattern: str = "every activation works on the same side"

    @property
    def undecided(self) -> BoolArray:
        """Values that are neither shown to be fixed, nor fixed in the region, nor ambiguous."""
        return ~self.fixed & ~self.fixed_in_region & ~self.ambiguous

    @property
    def sides(self) -> str:
        """What the inputs of the region share, as a clause."""
        where = "" if self.kept is None else f" below the output of layer {self.kept!r}"
        return "on which " + self.pattern.replace(" works", f"{where} works", 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of values of each verdict."""
        return {name: int(getattr(self, name).sum()) for name in LETTERS}

    @property
    def strongest(self) -> Witness | None:
        """The twin with the largest change, `None` where there is no twin."""
        return max(self.witnesses, key=lambda witness: witness.twin.change, default=None)

    def verdict(self, pixel: tuple[int, ...]) -> str:
        """Return the verdict of one value with its evidence, in words.

        Raises:
            ShapeError: no such value.
        """
        flat_index(self.input.shape, pixel)
        given = ", given the valid range and the sides of activations" if self.by_range[pixel] else ""
        if self.fixed[pixel]:
            return f"fixed: unique to within {self.bound[pixel]:.1e}{given}"
        if self.fixed_in_region[pixel]:
            return (
                f"fixed in its region: unique to within {self.bound[pixel]:.1e}{given} among inputs {self.sides}; of"
                f" others nothing is said: {self.obstacle}"
            )
        if self.ambiguous[pixel]:
            return f"ambiguous: a verified twin changes it by {self.moved[pixel]:.3g}"
        return "undecided: " + next(text for text, mask in self.reasons if mask[pixel])

    def __repr__(self) -> str:
        """Return counts and strongest evidence."""
        counts = ", ".join(f"{number:,} {WORDS.get(name, name)}" for name, number in self.counts.items())
        lines = [f"Certificate for {self.input.size:,} values: {counts}"]
        for mask, words in ((self.fixed, "fixed"), (self.fixed_in_region, "fixed in region")):
            if mask.any():
                lines.append(f"  {words} to within {self.bound[mask].max():.1e}")
        if self.by_range.any():
            lines.append(f"  {int(self.by_range.sum()):,} of these given the valid range, not by equations alone")
        if self.fixed_in_region.any():
            lines.append(f"  beyond the region: {self.obstacle}")
        if self.strongest is not None:
            lines.append(f"  strongest twin: {self.strongest.check!r}")
        lines += [f"  {int(mask.sum()):,} undecided: {text}" for text, mask in self.reasons]
        lines += [f"  rests on: {text}" for text in self.assumptions]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the arrays as plain values; verdicts as one string of F, R, A and U a row of the input."""
        letters = np.full(self.input.shape, LETTERS["undecided"])
        for name, letter in LETTERS.items():
            letters[getattr(self, name)] = letter
        rows = letters.reshape(-1, self.input.shape[-1])
        return {
            "library": {"name": "constraint-algebra", "version": __version__},
            "counts": self.counts,
            "verdicts": ["".join(row) for row in rows],
            "fixed_given_the_range": int(self.by_range.sum()),
            "largest_bound": _largest(self.bound[self.fixed]),
            "largest_bound_in_region": _largest(self.bound[self.fixed_in_region]),
            "beyond_the_region": self.obstacle,
            "undecided": [{"reason": text, "values": int(mask.sum())} for text, mask in self.reasons],
            "twins": [
                {
                    "objective": w.twin.objective,
                    "largest_change": w.twin.change,
                    "gradient_difference": w.check.difference,
                    "absolute": w.check.absolute,
                    "relative": w.check.relative,
                    "float32_identical": w.check.bit_identical_float32,
                    "sha256": digest(w.twin.image),
                }
                for w in self.witnesses
            ],
            "local": None
            if self.local is None
            else {"rank": self.local.rank, "unique": self.local.unique, "rtol": self.local.rtol},
            "equations": {"nullity": self.nullity, "last_singular_value": self.gap[0], "first_zero": self.gap[1]},
            "tolerances": {
                "delta": self.delta,
                "gradients_relative_to_largest": self.tolerance,
                "fixed_share_of_null_vector": self.fixed_tolerance,
                "valid_range": list(self.valid_range),
            },
            "reconstruction": self.status,
            "sample": {
                "shape": list(self.input.shape),
                "sha256": digest(self.input),
                "target": self.target,
                "loss": self.loss,
            },
            "parameters_sha256": self.digests,
            "network": self.architecture.splitlines(),
            "assumptions": self.assumptions,
        }

    @property
    def assumptions(self) -> list[str]:
        """What the verdicts rest on, in sentences."""
        told = ["one sample; exact, noise-free equality of gradients in real arithmetic, verified in float64"]
        if self.ground:
            told.append(self.ground)
        if self.fixed.any() and self.obstacle is None:
            told.append(
                "F holds for all valid inputs: the gradients show the sides of all activations, or there are none"
            )
        elif self.fixed.any():
            told.append("F holds for all valid inputs: the gradients determine these values whatever the sides are")
        if self.by_range.any():
            told.append(
                f"{int(self.by_range.sum()):,} of these values are fixed given the valid range from"
                f" {self.valid_range[0]:g} to {self.valid_range[1]:g} and the inequalities of activations: equations"
                " alone leave them open"
            )
        if self.fixed_in_region.any():
            told.append(f"R holds for the valid inputs {self.sides} as for the sample; of others nothing is said")
        return told

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write certificate.json, certificate.npz (arrays and twins) and, for pictures, certificate.png.

        Args:
            folder: the folder, made where it is missing.
            overwrite: whether those of an earlier certificate may be replaced, all at once.

        Raises:
            OutputExistsError: one of them is there and `overwrite` is false.
            StorageError: the folder or the disk refuses; what was there is as it was, and this certificate is in the
                temporary folder `kept` of the exception.
        """
        out = Path(folder)
        refuse_existing(out, overwrite=overwrite)
        return result_folder.write_result(out, FILES, self.contents(), overwrite=overwrite, result=self)

    def contents(self) -> dict[str, bytes]:
        """Return the files that `save` writes, by name."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        arrays |= {f"twins/{i}": w.twin.image for i, w in enumerate(self.witnesses)}
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        contents = {
            "certificate.json": (text + "\n").encode("utf-8", "backslashreplace"),
            "certificate.npz": storage.to_bytes(Path("certificate.npz"), arrays),
        }
        if plotting.is_picture(self.input.shape):
            from matplotlib.figure import Figure

            figure, stream = Figure(figsize=(15, 3.6), layout="constrained"), io.BytesIO()
            self.plot(list(figure.subplots(1, 5)))
            figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
            contents["certificate.png"] = stream.getvalue()
        return contents

    def plot(self, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
        """Draw image, verdicts, width of what twins show, strongest twin and its difference on five Axes.

        Raises:
            ShapeError: the input is no picture.
        """
        if not plotting.is_picture(self.input.shape):
            raise ShapeError(f"only inputs of one or three channels can be drawn, got shape {self.input.shape}")
        if axes is None:
            import matplotlib.pyplot as plt

            axes = list(plt.subplots(1, 5, figsize=(15, 3.6), layout="constrained")[1])
        return plotting.certificate(
            self.input,
            fixed=self.fixed,
            in_region=self.fixed_in_region,
            ambiguous=self.ambiguous,
            by_range=self.by_range,
            width=self.seen[1] - self.seen[0],
            twin=None if self.strongest is None else self.strongest.twin.image,
            axes=axes,
        )


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder whose certificate would be overwritten, or that takes none; call it before the work as well.

    Raises:
        OutputExistsError: one is there and `overwrite` is false.
        StorageError: the folder cannot be written to.
    """
    result_folder.refuse_existing(out, FILES, overwrite=overwrite, needed=ROOM)


def _largest(values: FloatArray) -> float | None:
    return float(values.max()) if values.size else None


def digest(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array: of its type, shape and little-endian bytes.

    >>> digest(np.zeros(2))[:8] != digest(np.zeros((2, 1)))[:8]
    True
    """
    array = np.ascontiguousarray(values)
    head = f"{array.dtype.name}{array.shape}".encode()
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
    return hashlib.sha256(head + little.tobytes()).hexdigest()
