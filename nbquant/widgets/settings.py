"""Settings of the explorer: all inputs that its results follow from, checked, as one value.

They stand beside the folders, as state, jobs and front end all read them.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nbquant.analysis.target import Target, check_target, drivers, targets_of
from nbquant.coding import codes
from nbquant.quantization import methods
from nbquant.quantization.block_quantizer import USUAL, BlockQuantizer
from nbquant.quantization.method import Family, Method
from nbquant.sensitivity import estimators
from nbquant.widgets.kinds import AMOUNT, COUNT, FLAG, NUMBER, Kind, check, is_finite, is_text, one_of

DRIVERS = drivers()
"""Quantities of which any one is asked for and the others follow."""
ACCURACY_LOSS = "accuracy_loss"
"""Accuracy that may be lost [percentage points]: the target for which the ratio is searched on data."""
TARGETS = (*DRIVERS, ACCURACY_LOSS)
"""Everything that can be asked for."""
OPTIONS = ("weighted", "coding", "per_layer", "pinned_zero", "formats", "layer_formats", "search")
"""Settings that are options of methods; a method may lack some."""
SIZES = ("standard", "compact", "projection")
"""Layouts of the explorer: for a page, for half a screen, for a class."""


@dataclass(frozen=True)
class Settings:
    """Inputs that all results follow from.

    Attributes:
        layers: Names of the selected layers.
        method: Name of a method.
        weighted: Weigh by sensitivity.
        coding: Name of a code.
        per_layer: A codebook for each layer, or one for all.
        pinned_zero: For k-means: one of the levels is exactly zero.
        estimator: Name of the sensitivity estimator.
        samples: Calibration samples that it sees; 0 is all.
        damping: ε of h + ε·mean(h).
        driver: Quantity that is asked for, one of :data:`TARGETS`.
        value: Its value.
        formats: For block formats: names of those that each layer may have, also as text with commas.
        layer_formats: For block formats: formats of single layers, which are not chosen.
        search: For block formats: search the best scales, or round as the library does.

    Raises:
        TypeError: Names of formats that are no text.
        ValueError: A setting of the wrong kind, a target that the method does not have or cannot have this value.
    """

    layers: tuple[str, ...]
    method: str
    weighted: bool
    coding: str
    per_layer: bool
    pinned_zero: bool
    estimator: str
    samples: int
    damping: float
    driver: str
    value: float
    formats: tuple[str, ...] = USUAL
    layer_formats: tuple[tuple[str, str], ...] = ()
    search: bool = True

    def __post_init__(self) -> None:
        kinds = {
            "layers": Kind("a list of names of layers", lambda v: isinstance(v, tuple) and all(map(is_text, v))),
            "method": one_of(methods.names()),
            "weighted": FLAG,
            "coding": one_of(codes.names()),
            "per_layer": FLAG,
            "pinned_zero": FLAG,
            "estimator": one_of(estimators.names()),
            "samples": Kind("a whole number, 0 for all", COUNT.fits),
            "damping": AMOUNT,
            "driver": one_of(TARGETS),
        }
        check(vars(self), kinds)
        blocks = BlockQuantizer(formats=self.formats, layer_formats=self.layer_formats, search=self.search)
        object.__setattr__(self, "formats", blocks.formats)
        object.__setattr__(self, "layer_formats", blocks.layer_formats)
        if not self.is_searched:
            check_target(self.driver, self.method)
        check({self.driver: self.value}, {self.driver: NUMBER})
        Target(self.driver, self.value)
        if self.driver == "levels" and not isinstance(self.value, int):
            raise ValueError(f"levels must be a whole number, but is {self.value!r}")

    @property
    def is_searched(self) -> bool:
        """Whether the target is an accuracy, which no curve has."""
        return self.driver == ACCURACY_LOSS

    @property
    def target(self) -> Target:
        """What is asked for."""
        return Target(self.driver, self.value)

    @property
    def key(self) -> tuple[str, bool]:
        """The chosen curve among those of all methods."""
        return self.method, self.weighted

    @property
    def record(self) -> Method:
        """The chosen method."""
        return methods.named(self.method)

    @property
    def options(self) -> dict[str, Any]:
        """Values of the options that the chosen method has."""
        return self._options(self.record)

    def family(self, method: str, weighted: bool) -> Family:
        """The quantizers of any method with those of these options that it has."""
        known = methods.named(method)
        return known.family(**self._options(known) | {"weighted": weighted})

    def _options(self, method: Method) -> dict[str, Any]:
        """Values of the options that a method has; formats of layers only where they are selected."""
        values = vars(self) | {"layer_formats": tuple(p for p in self.layer_formats if p[0] in self.layers)}
        return {name: values[name] for name in OPTIONS if name in method.options}

    def at(self, driver: str, value: float, **others: Any) -> "Settings":
        """The same with another target, and other settings.

        Raises:
            ValueError: A value that is no number above zero, no whole number of levels, a quantity that the method
                does not have.
        """
        if is_finite(value):
            value = float(value)
            value = int(value) if driver == "levels" and value.is_integer() else value
        return replace(self, **others, driver=driver, value=value)

    def changed(self, name: str, value: Any, ratio: float) -> "Settings":
        """The same with another value of one input.

        A method brings its defaults for options that were as the method before has them by default. Where it does not
        have the target, the ratio becomes the target.

        Args:
            name: An input.
            value: Its new value.
            ratio: The compression ratio that is shown.

        Raises:
            ValueError: A value that the input cannot have.
        """
        if name in TARGETS:
            return self.at(name, value)
        changes = {name: value}
        if name == "method" and value in methods.names():
            old, new = self.record.options, methods.named(value).options
            options = [n for n in ("coding", "per_layer") if n in new]
            changes |= {n: new[n] for n in options if n not in old or getattr(self, n) == old[n]}
            if not self.is_searched and self.driver not in targets_of(value):
                changes |= {"driver": "ratio", "value": ratio}
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"layers": list(self.layers)}

    def updated(self, values: dict[str, Any]) -> "Settings":
        """The same with some settings as :meth:`to_json` gives them.

        Raises:
            ValueError: An unknown name, or a value that the setting cannot have.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ValueError(f"settings must be among {', '.join(known)}, but {name!r} came")
        if ("driver" in values) != ("value" in values):
            raise ValueError("driver and value must come together, but only one of them did")
        layers = values.get("layers", self.layers)
        return replace(self, **{**values, "layers": tuple(layers) if isinstance(layers, list) else layers})
