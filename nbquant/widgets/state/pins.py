"""Pin operating points with their settings and costs, for comparison."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.quantization.quantized import Quantized
from nbquant.widgets.jobs.measure import Measurement
from nbquant.widgets.jobs.weights import Weights
from nbquant.widgets.kinds import AMOUNT, COUNT, FLAG, NUMBER, Kind, check, is_finite, is_text
from nbquant.widgets.settings import Settings
from nbquant.widgets.state.estimates import Estimates

MOST_RESULTS = 4  # of pins that are kept; others are computed again where they are needed
KINDS = {
    "label": Kind("a text of at most 200 characters", lambda value: is_text(value) and len(value) <= 200),
    "ratio": AMOUNT,
    "rate": AMOUNT,
    "levels": COUNT,
    "predicted_loss": AMOUNT,
    "bits": COUNT,
    "codebooks": Kind("lists of finite numbers by group", lambda value: _are_codebooks(value)),
    "accuracy": Kind("a number from 0 to 1", lambda value: AMOUNT.fits(value) and value <= 1).or_null(),
    "loss": NUMBER.or_null(),
    "exact": FLAG,
    "finetuned": FLAG,
    "pruned": Kind("a density in (0, 1]", lambda value: AMOUNT.fits(value) and 0 < value <= 1).or_null(),
}
"""Kinds of the values of a pin in a session, beside its inputs."""


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
        _check_names(values, Pin, "a pin")
        check(values, KINDS, " of a pin")
        _check_names(values["inputs"], Settings, "inputs of a pin")
        codebooks = {group: tuple(map(float, c)) for group, c in values["codebooks"].items()}
        return Pin(**{**values, "inputs": settings.updated(values["inputs"]), "codebooks": codebooks})


class Pins:
    """The pins of a state, each updated as soon as more is known of it."""

    def __init__(self, show: Callable[[tuple[Pin, ...]], None]) -> None:
        """Start with none; ``show`` gets them all after each change."""
        self._all: tuple[Pin, ...] = ()
        self._show = show
        self._results: dict[Any, Quantized] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> Pin:
        """The pin at a place.

        Raises:
            ValueError: There is none.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self._all):
            places = f"be from 0 to {len(self._all) - 1}" if self._all else "exist, and there are none"
            raise ValueError(f"the place of a pin must {places}, but is {index!r}")
        return self._all[index]

    def add(self, pins: Iterable[Pin]) -> None:
        """Add pins at the end."""
        self._take((*self._all, *pins))

    def keep(self, pin: Pin, result: Quantized) -> None:
        """Keep what the weights gave at a pin, in the place of the oldest; it holds the indices of all weights."""
        key = _key(pin)
        self._results.pop(key, None)
        self._results[key] = result
        for old in list(self._results)[:-MOST_RESULTS]:
            del self._results[old]

    def result(self, pin: Pin) -> Quantized | None:
        """What the weights gave at a pin; None if it is not at hand."""
        return self._results.get(_key(pin))

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
        mine = [p for p in self._all if _is_of(p, inputs, pruned) and not p.finetuned]
        if isinstance(costs, Quantized) and mine:
            self.keep(mine[0], costs)
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


def _key(pin: Pin) -> Any:
    return pin.inputs, pin.pruned, pin.finetuned


def _are_codebooks(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(c, list) and all(map(is_finite, c)) for c in value.values())


def _check_names(values: object, of: type, what: str) -> None:
    """Reject what is no object with just the names of these fields."""
    names = sorted(field.name for field in fields(of))
    came = sorted(values) if isinstance(values, dict) else f"a {type(values).__name__}"
    if came != names:
        raise ValueError(f"{what} must have {', '.join(names)}, but came with {came}"[:800])


def require_density(what: str, wanted: float | None, density: float | None) -> None:
    """Reject what is of a model that was pruned otherwise than the one in use.

    Args:
        what: A pin or a session, in words.
        wanted: Density that its model was pruned to; None if it was not.
        density: The same of the model in use.

    Raises:
        ValueError: They differ.
    """
    if wanted == density:
        return
    of = "an unpruned model" if wanted is None else f"a model pruned to a density of {wanted:g}"
    now = "not pruned" if density is None else f"pruned to a density of {density:g}"
    advice = "undo the pruning first" if wanted is None else f"prune to a density of {wanted:g} first"
    raise ValueError(f"{what} is of {of}, but the one in use is {now}: {advice}")


def weights_of(pin: Pin, density: float | None, estimates: Estimates) -> Weights:
    """Get the weights and sensitivities that a pin can be computed from again.

    Args:
        pin: The pin.
        density: Density that the model in use was pruned to; None if it was not.
        estimates: Its weights, with their sensitivities.

    Raises:
        ValueError: They are not at hand, or the pin was fine-tuned.
    """
    require_density(f"pin {pin.label}", pin.pruned, density)
    if pin.finetuned:
        raise ValueError(
            f"the fine-tuned values of pin {pin.label} are no longer at hand: go to it, fine-tune and pin again"
        )
    mine = pin.inputs.estimator, pin.inputs.samples
    weights = estimates.weights if estimates.in_use in (None, mine) else estimates.get(*mine)
    if weights is None:
        raise ValueError(f"the sensitivities of pin {pin.label} are not at hand: go to it once, and back")
    return weights
