"""Pinned operating points: what was chosen, and what it cost, kept for comparison."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.quantization.quantized import Quantized
from nbquant.widgets.results import Measurement
from nbquant.widgets.settings import Settings

MOST = 1e300  # of any number


@dataclass(frozen=True)
class Pin:
    """An operating point with the settings that it follows from.

    Attributes:
        label: What it is called.
        inputs: Its settings.
        ratio: Compression ratio of the selection.
        rate: R [bit/weight].
        levels: Number of reconstruction values.
        predicted_loss: Predicted loss increase [loss], before fine-tuning.
        bits: Of the whole file; without names and checksums until ``exact``.
        codebooks: Reconstruction values of each group.
        accuracy: Measured accuracy; None if it was not measured, or the model does not classify.
        loss: Measured loss; None if it was not measured.
        exact: Whether the numbers are of the weights themselves, or of their histograms.
        finetuned: Whether the values are fine-tuned.
        pruned: Density to which the module had been pruned; None if it had not.
    """

    label: str
    inputs: Settings
    ratio: float = 1.0
    rate: float = 0.0
    levels: int = 0
    predicted_loss: float = 0.0
    bits: int = 0
    codebooks: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    accuracy: float | None = None
    loss: float | None = None
    exact: bool = False
    finetuned: bool = False
    pruned: float | None = None

    def costing(self, costs: OperatingPoint | Quantized, bits: int) -> "Pin":
        """The same with the numbers of a point, or of what the weights gave."""
        exact = isinstance(costs, Quantized)
        return replace(
            self,
            ratio=costs.compression_ratio,
            rate=costs.rate,
            levels=costs.levels,
            predicted_loss=costs.predicted_loss_increase,
            bits=bits,
            codebooks=codebooks_of(costs),
            exact=exact,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {
            "inputs": self.inputs.to_json(),
            "codebooks": {group: list(values) for group, values in self.codebooks.items()},
        }

    @staticmethod
    def of_json(values: Any, settings: Settings) -> "Pin":
        """What :meth:`to_json` gave.

        Args:
            values: Plain values.
            settings: Any valid ones.

        Raises:
            ValueError: A value that is missing, of another type, or that no pin can have.
        """
        names = {f.name for f in fields(Pin)}
        if not isinstance(values, dict) or values.keys() != names:
            came = sorted(values) if isinstance(values, dict) else f"a {type(values).__name__}"
            raise ValueError(f"a pin must have {', '.join(sorted(names))}, but came with {came}")
        for name, check, what in _CHECKS:
            if not check(values[name]):
                raise ValueError(f"{name} of a pin must be {what}, but is {values[name]!r}"[:400])
        inputs = _settings(values["inputs"], settings)
        codebooks = {group: tuple(map(float, c)) for group, c in values["codebooks"].items()}
        return Pin(**{**values, "inputs": inputs, "codebooks": codebooks})


class Pins:
    """The pins of a state, each updated as soon as more is known of it."""

    def __init__(self, show: Callable[[tuple[Pin, ...]], None]) -> None:
        """Start with none; ``show`` gets them all after each change."""
        self._all: tuple[Pin, ...] = ()
        self._show = show

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> Pin:
        """The pin at a place.

        Raises:
            ValueError: There is none.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self._all):
            raise ValueError(f"a pin must be one of the {len(self._all)} from 0, but is {index!r}")
        return self._all[index]

    def add(self, pins: Iterable[Pin]) -> None:
        """Add pins at the end."""
        self._take((*self._all, *pins))

    def remove(self, index: int) -> None:
        """Remove one.

        Raises:
            ValueError: There is none at this place.
        """
        pin = self[index]
        self._take(tuple(p for p in self._all if p is not pin))

    def replace_all(self, pins: Iterable[Pin]) -> None:
        """Have these, and no others."""
        self._take(tuple(pins))

    def name(self) -> str:
        """A label that none has: A to Z, then numbers."""
        used = {p.label for p in self._all}
        names = [*map(chr, range(ord("A"), ord("Z") + 1)), *(str(i) for i in range(27, 28 + len(self._all)))]
        return next(n for n in names if n not in used)

    def costing(self, inputs: Settings, pruned: float | None, costs: OperatingPoint | Quantized, bits: int) -> None:
        """Update those of these settings: histograms do not replace what the weights gave."""
        better = isinstance(costs, Quantized)
        self._update(
            lambda p: _is_of(p, inputs, pruned) and not p.finetuned and (better or not p.exact),
            lambda p: p.costing(costs, bits),
        )

    def measured(self, inputs: Settings, pruned: float | None, measurement: Measurement) -> None:
        """Update those of these settings."""
        found, finetuned = measurement.evaluation, bool(measurement.quantized.finetuned)
        self._update(
            lambda p: _is_of(p, inputs, pruned) and p.finetuned == finetuned,
            lambda p: replace(p, accuracy=found.accuracy, loss=found.loss),
        )

    def _update(self, wanted: Callable[[Pin], bool], update: Callable[[Pin], Pin]) -> None:
        self._take(tuple(update(p) if wanted(p) else p for p in self._all))

    def _take(self, pins: tuple[Pin, ...]) -> None:
        if pins != self._all:
            self._all = pins
            self._show(pins)


def codebooks_of(costs: OperatingPoint | Quantized) -> dict[str, tuple[float, ...]]:
    """Reconstruction values of each group."""
    if isinstance(costs, OperatingPoint):
        return {group: tuple(map(float, c.codebook)) for group, c in costs.clusters.items()}
    return {group: tuple(map(float, book.value.tolist())) for group, book in costs.codebooks.items()}


def _is_of(pin: Pin, inputs: Settings, pruned: float | None) -> bool:
    return pin.inputs == inputs and pin.pruned == pruned


def _settings(values: Any, settings: Settings) -> Settings:
    """All settings, none of which is taken over."""
    names = {f.name for f in fields(Settings)}
    if not isinstance(values, dict) or values.keys() != names:
        raise ValueError(f"inputs of a pin must be all of {', '.join(sorted(names))}")
    return settings.updated(values)


def _finite(value: Any) -> bool:
    # Whole numbers of JSON may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST


def _number(value: Any) -> bool:
    return _finite(value) and value >= 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _books(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(book, list) and all(map(_finite, book)) for book in value.values()
    )


_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("label", lambda v: isinstance(v, str) and len(v) <= 200, "a text of at most 200 characters"),
    ("ratio", _number, "a finite number, at least 0"),
    ("rate", _number, "a finite number, at least 0"),
    ("levels", _whole, "a whole number, at least 0"),
    ("predicted_loss", _number, "a finite number, at least 0"),
    ("bits", _whole, "a whole number, at least 0"),
    ("codebooks", _books, "lists of finite numbers by group"),
    ("accuracy", lambda v: v is None or (_number(v) and v <= 1), "a number from 0 to 1, or null"),
    ("loss", lambda v: v is None or _finite(v), "a finite number, or null"),
    ("exact", lambda v: isinstance(v, bool), "true or false"),
    ("finetuned", lambda v: isinstance(v, bool), "true or false"),
    ("pruned", lambda v: v is None or (_number(v) and 0 < v <= 1), "a density in (0, 1], or null"),
)
