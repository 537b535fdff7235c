"""What a reconstruction found: the input, what of it is determined, how well, and the evidence layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, GroundArray, Progress
from constraint_algebra.display import Table, Tabular, draw, plain
from constraint_algebra.errors import ParameterError, ShapeError, UnknownNameError
from constraint_algebra.ground import Ground

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


CONTRADICTION = 8.0  # residual in units of noise beyond which an equation is wrong
CLEAR = 1e-3  # of the discrepancy that noise explains: input and gradients agree, whatever single equations lacked
# Discrepancies up to here are too small for other parameters, another loss or another mode, and far beyond rounding.
LITTLE = 1e-6
BLURRED = 0.05  # of the largest entry of a gradient: noise explains so much, and what is beyond may be noise as well
STANDS = 1e-6  # of the largest value: the error bar up to which a value stands; what is known less well moves most
FAR_OFF = 0.2  # residual of a layer, relative to its right-hand sides, at which nothing that rests on it stands
OPEN = 255  # in the place of a ground: not determined
NARROWER = 1e-6  # share of the range by which a bounded value is known better than that


class Status(Enum):
    """The outcome in one sentence."""

    DETERMINED = "every input value is determined by the gradient"
    IF_SINGLE = (
        "every input value is determined if the gradient is that of one sample, which it does not show by itself"
    )
    GIVEN_RANGE = (
        "every input value is determined, given that values lie in their range: no other input within it has these"
        " gradients"
    )
    BY_ZEROS = (
        "every input value is determined by zeros of activations that are no accident: the input is unique for generic"
        " data, which is not proven"
    )
    BY_BITS = (
        "every input value is determined by the sides of activations that fit all equations: no other input with these"
        " sides has these gradients; that other sides fit as well is not ruled out"
    )
    BY_WINNERS = (
        "every input value is determined by the winners of max-pool windows that fit all equations: no other input with"
        " these winners has these gradients; that other winners fit as well is not ruled out"
    )
    BY_BRANCHES = (
        "every input value is determined by the branches of activations that fit all equations: no other input on these"
        " branches has these gradients; that other branches fit as well is not ruled out"
    )
    LOCAL = (
        "every input value is determined in its neighbourhood: a search found an input with these gradients, and no"
        " other near it has them; that none elsewhere has is not proven"
    )
    PARTIAL = "part of the input is determined by the gradient; .determined says which"
    UNDETERMINED = "no input value follows from the gradient by back-substitution; whether another way exists is open"
    AMBIGUOUS = "several valid inputs have the same gradient; .alternatives holds the others"
    IMPRECISE = (
        "too little precision: equations differ by more than the rounding of numbers of this type explains, as where"
        " activations are saturated, terms cancel, or numbers are less exact than their type; .determined says which"
        " values stand, and .error_bar how well they are known then"
    )
    UNDECIDED = "an iteration did not converge; what is not determined in .determined may yet be"
    INCONSISTENT = (
        "the gradients recomputed from the result differ from those given, so that nothing counts as determined; check"
        " parameters, loss and model mode, and whether it is the gradient of one step"
    )

    @classmethod
    def _missing_(cls, value: object) -> Status:
        known = ", ".join(f"Status.{status.name}" for status in cls)
        raise UnknownNameError(f"value must be that of one of {known}, got {type(value).__name__}")


@checked
@dataclass(frozen=True)
class LayerSolution:
    """What was found out about the input of one layer.

    Attributes:
        name: the layer's name.
        kind: its class.
        unknowns: number of its input values.
        weight_rows: number of weight equations used.
        gradient_rows: number of gradient equations used.
        rank: numerical rank of all of them; `None` where the layer is too large to tell and not determined.
        determined: number of determined unknowns.
        condition: condition number of the directions solved for, each row in units of its noise; an estimate.
        residual: largest residual relative to the largest right-hand side, over both kinds of equations.
        settled: whether the verdict on what is determined is final; where not, an iteration did not converge.
        misfit: root mean square residual of the gradient equations of a filter in units of their noise, the largest
            over the filters; a few at most, unless an equation is wrong.
        together: names of the layers above with no activation between whose equations were put together with its own,
            and count among the rows; empty where its own sufficed.
        grounds: how many of its input values are known on which ground, by the label of the `Ground`, the strongest
            first; empty where the equations are the only one.
    """

    name: str
    kind: str
    unknowns: int
    weight_rows: int
    gradient_rows: int
    rank: int | None
    determined: int
    condition: float
    residual: float
    settled: bool = True
    misfit: float = 0.0
    together: tuple[str, ...] = ()
    grounds: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        """Keep the grounds as tuples, so that the line can be hashed."""
        object.__setattr__(self, "grounds", tuple((label, count) for label, count in self.grounds))

    @property
    def rests_on(self) -> str:
        """The grounds in words, empty where the equations are the only one."""
        return ", ".join(f"{count:,} {label}" for label, count in self.grounds)


@checked
@dataclass(frozen=True, eq=False)
class PixelBounds:
    """Bounds of each input value, in the input shape; NaN where none were asked for.

    Attributes:
        lower, upper: no input with these gradients, up to the noise, lies outside.
        fixed: determined by the gradients; the bounds are its error bars.
        valid_range: smallest and largest valid value.
        spread: how many standard deviations the bounds allow for.
    """

    lower: FloatArray
    upper: FloatArray
    fixed: BoolArray
    valid_range: tuple[float, float]
    spread: float

    @property
    def width(self) -> FloatArray:
        """Width of each interval."""
        return self.upper - self.lower

    @property
    def bounded(self) -> BoolArray:
        """Not fixed, but known better than the valid range."""
        low, high = self.valid_range
        return np.asarray(~self.fixed & (self.width < (1 - NARROWER) * (high - low)))

    @property
    def free(self) -> BoolArray:
        """Nothing but the valid range is known."""
        return np.asarray(~self.fixed & ~self.bounded & np.isfinite(self.lower))

    def __repr__(self) -> str:
        """Return the counts and the mean width of what is bounded."""
        counts = ", ".join(f"{int(getattr(self, n).sum()):,} {n}" for n in ("fixed", "bounded", "free"))
        width = f", mean width {self.width[self.bounded].mean():.3g} where bounded" if self.bounded.any() else ""
        return f"<PixelBounds at {self.spread:g} standard deviations: {counts}{width}>"


class BoundingEquations(Protocol):
    """Equations that bound what they do not determine, as `FirstLayer` does."""

    def bounds(
        self,
        values: FloatArray,
        determined: BoolArray,
        error_bar: FloatArray,
        *,
        pixels: BoolArray | None,
        time_limit: float | None,
        progress: Progress | None,
    ) -> PixelBounds:
        """Return bounds of every value asked for."""


@checked
@dataclass(frozen=True, repr=False)
class Reconstruction(Tabular):
    """The result of `reconstruct`.

    Attributes:
        input: the reconstructed input, NaN where it is not determined.
        determined: which values are unique, in the input shape; how far that reaches is told by `ground`.
        error_bar: one standard deviation of each value, infinite where not determined.
        status: the outcome.
        layers: one `LayerSolution` for each layer reached, first layer first.
        label: the label that the head's gradient betrays, `None` where it does not.
        discrepancy: for each parameter the largest difference between the gradient recomputed from `input` and the one
            given, relative to the largest entry of the latter.
        alternatives: other inputs with the same gradients, where a head without bias leaves several.
        guess: the least-squares solution, of which `input` is the determined part; NaN where nothing follows at all.
        notes: what else is to be known of the verdict, a sentence each.
        everywhere: which of the determined values are unique among all valid inputs, not only near the one found, for
            generic data or among inputs of one pattern.
        ground: on what each value rests, as a number of `Ground` in the input shape, `OPEN` (255) where it is not
            determined; see `grounds`.
    """

    input: FloatArray
    determined: BoolArray
    error_bar: FloatArray
    status: Status
    layers: tuple[LayerSolution, ...]
    label: int | None
    discrepancy: dict[str, float]
    alternatives: tuple[Reconstruction, ...] = ()
    guess: FloatArray = None  # type: ignore[assignment]  # the input as given, if none is stated
    notes: tuple[str, ...] = ()
    everywhere: BoolArray = None  # type: ignore[assignment]  # what is determined, if nothing is stated
    ground: GroundArray = None  # type: ignore[assignment]  # the equations, if nothing is stated

    def __post_init__(self) -> None:
        """Keep the whole solution as the guess, and of the input what is determined."""
        guess = self.input if self.guess is None else self.guess
        if not np.shape(guess) == np.shape(self.determined) == np.shape(self.input):
            raise ShapeError("input, determined and guess must have one shape, that of the input")
        object.__setattr__(self, "guess", guess)
        # What is determined may shrink in a copy, and with it what is determined everywhere.
        stated = self.determined if self.everywhere is None else self.everywhere & self.determined
        ground = np.zeros(np.shape(self.determined), np.uint8) if self.ground is None else self.ground
        if np.shape(ground) != np.shape(self.determined):
            raise ShapeError(f"ground must have the shape of the input, {guess.shape}, got {np.shape(ground)}")
        ground = np.asarray(ground)
        if not np.isin(ground, (*Ground, OPEN)).all():
            raise ParameterError("ground", f"ground must hold numbers of Ground, or {OPEN} where a value is open")
        ground = ground.astype(np.uint8)
        ground = np.where(self.determined & (ground == OPEN), np.uint8(Ground.EQUATIONS), ground)
        ground = np.where(stated | (ground > Ground.RANGE), ground, np.uint8(Ground.NEIGHBOURHOOD))
        object.__setattr__(self, "ground", np.where(self.determined, ground, np.uint8(OPEN)))
        object.__setattr__(self, "everywhere", stated & (ground <= Ground.RANGE))
        object.__setattr__(self, "input", np.where(self.determined, guess, np.nan))

    @property
    def grounds(self) -> dict[Ground, int]:
        """How many values rest on which ground, the strongest first."""
        return {g: count for g in Ground if (count := int(np.count_nonzero(self.ground == g)))}

    @property
    def beyond_equations(self) -> bool:
        """Whether any value rests on more than the equations."""
        return any(ground > Ground.EQUATIONS for ground in self.grounds)

    def judged(
        self, allowed: Mapping[str, float], *, at_all: Mapping[str, float] | None = None, same: float = 0.0
    ) -> Reconstruction:
        """Return the same result with the status that its own evidence supports, given the discrepancies of noise.

        Where the evidence contradicts the result nothing of it counts as determined, unless it does so by very little.

        Args:
            allowed: how far noise may put each recomputed gradient from that given, as evidence for the result.
            at_all: how far noise may put them, though nearly any input would then do; the same, if not stated.
            same: discrepancy of gradients that are the same but for a few roundings.
        """
        if not self.determined.all() and not all(layer.settled for layer in self.layers):
            return replace(self, status=Status.UNDECIDED)
        if not self.determined.any():
            return replace(self, status=Status.UNDETERMINED)
        whole = bool(self.determined.all())
        agree = whole and all(d <= max(CLEAR * allowed[name], same) for name, d in self.discrepancy.items())
        against = [] if agree else [layer for layer in self.layers if layer.misfit > CONTRADICTION]
        blurred = any(most > BLURRED for most in (at_all or {}).values())
        if against:
            return self._contradicted(max(a.residual for a in against), max(a.misfit for a in against), blurred)
        if not whole and any(layer.residual > FAR_OFF for layer in self.layers):
            return self._contradicted(np.inf, 1.0, blurred=True)
        if not whole:
            return replace(self, status=Status.PARTIAL)
        beyond = {name: d for name, d in self.discrepancy.items() if d > allowed[name]}
        if not beyond:
            return replace(self, status=COMPLETE[max(self.grounds)])
        if all(d <= (at_all or allowed)[name] for name, d in beyond.items()):
            return replace(self, status=Status.IMPRECISE)
        times = max(d / (allowed[name] or np.inf) for name, d in beyond.items())
        return self._contradicted(max(beyond.values()), times, blurred)

    def _contradicted(self, gap: float, times: float, blurred: bool) -> Reconstruction:
        """Return what is left of a result whose equations are off by a gap, so many times as much as noise explains."""
        bars = times * self.error_bar
        size = float(np.abs(self.guess[self.determined]).max())
        stands = self.determined & (bars <= STANDS * size) & (gap <= LITTLE)
        status = Status.IMPRECISE if blurred or gap <= LITTLE else Status.INCONSISTENT
        return replace(self, status=status, determined=stands, error_bar=np.where(stands, bars, np.inf))

    def intervals(
        self,
        first: BoundingEquations,
        *,
        pixels: BoolArray | None = None,
        time_limit: float | None = None,
        progress: Progress | None = None,
    ) -> PixelBounds:
        """Return what an observer knows of each value: fixed with its error bar, bounded with its interval, or free.

        Bounds hold for all inputs with these gradients, so that only what is determined everywhere is fixed.

        Args:
            first: a `FirstLayer`, the `first_layer_equations` of the same network, parameters and gradients.
            pixels: which values to look at, by default all.
            time_limit: seconds for each value; its bounds are then wider, and as sound.
            progress: called with (values done, values in all, index).
        """
        known = self.guess, self.everywhere, self.error_bar
        return first.bounds(*known, pixels=pixels, time_limit=time_limit, progress=progress)

    def plot(self, truth: FloatArray | None = None, *, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
        """Draw the result and its error bars, beside the truth and the error if that is given; for pictures only."""
        drawn: Sequence[Axes] = draw(self, truth, axes=axes)
        return drawn

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per layer, first layer first."""
        import pandas as pd

        return pd.DataFrame([vars(layer) for layer in self.layers])

    def to_dict(self) -> dict[str, Any]:
        """Return all but the arrays as values that strict JSON can hold; counts by the label of their `Ground`.

        >>> x, known = np.array([0.5, 0.25, 0.0]), np.array([True, True, False])
        >>> ground = np.array([Ground.EQUATIONS, Ground.ZEROS, OPEN], dtype=np.uint8)
        >>> found = Reconstruction(x, known, np.zeros(3), Status.PARTIAL, (), None, {}, ground=ground)
        >>> told = found.to_dict()
        >>> told["status"], told["determined"], told["grounds"]
        ('partial', 2, {'equations': 1, 'zeros': 1})
        >>> told["message"].partition("which ")[2]
        '(2 of 3 values: 1 by equations, 1 by zeros)'
        """
        told: dict[str, Any] = plain(
            {
                "status": self.status.name.lower(),
                "message": self.conclusion,
                "values": self.determined.size,
                "determined": int(self.determined.sum()),
                "everywhere": int(self.everywhere.sum()),
                "grounds": {ground.label: count for ground, count in self.grounds.items()},
                "input_shape": list(self.input.shape),
                "label": self.label,
                "largest_error_bar": self.error_bar[self.determined].max() if self.determined.any() else None,
                "discrepancy": self.discrepancy,
                "alternatives": len(self.alternatives),
                "layers": [{**vars(layer), "grounds": dict(layer.grounds)} for layer in self.layers],
                "notes": self.notes,
            }
        )
        return told

    @property
    def conclusion(self) -> str:
        """The outcome in one sentence, with the determined share, and where the recursion stopped if it did."""
        share = f"{int(self.determined.sum()):,} of {self.determined.size:,} values"
        if self.beyond_equations and (len(self.grounds) > 1 or self.status is Status.PARTIAL):
            share += ": " + ", ".join(f"{count:,} by {g.label}" for g, count in self.grounds.items())
        stop = ""
        if self.status is Status.UNDETERMINED and self.layers:
            stop = f"; nothing follows from layer {self.layers[0].name!r} on"
        return "; ".join([f"{self.status.value} ({share}){stop}", *self.notes])

    def _shown(self) -> Table:
        frame = self.to_frame()
        for column in ("together", "grounds"):
            if column in frame and not frame[column].any():
                frame = frame.drop(columns=column)
        if "grounds" in frame:
            frame["grounds"] = [layer.rests_on for layer in self.layers]
        if "rank" in frame and frame["rank"].isna().any():  # of layers that were not solved for by themselves
            frame["rank"] = ["" if line.rank is None else f"{line.rank}" for line in self.layers]
        for column in ("condition", "residual"):
            if column in frame:
                frame[column] = frame[column].map("{:.1e}".format)
        return Table(frame.drop(columns=["settled", "misfit"], errors="ignore"), f"Reconstruction: {self.conclusion}")


# The status of an input that is wholly determined, by the weakest ground of its values.
COMPLETE = {
    Ground.EQUATIONS: Status.DETERMINED,
    Ground.RANGE: Status.GIVEN_RANGE,
    Ground.ZEROS: Status.BY_ZEROS,
    Ground.BITS: Status.BY_BITS,
    Ground.WINNERS: Status.BY_WINNERS,
    Ground.BRANCHES: Status.BY_BRANCHES,
    Ground.NEIGHBOURHOOD: Status.LOCAL,
}
UNSOUND = {Status.INCONSISTENT, Status.IMPRECISE}  # by their own evidence
