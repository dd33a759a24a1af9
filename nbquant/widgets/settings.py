"""The explorer's settings: all inputs that its results follow from, in one piece to be kept and taken up again."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from nbquant.analysis.target import Target, check_target, drivers
from nbquant.coding import codes
from nbquant.quantization import methods
from nbquant.quantization.method import Family, Method
from nbquant.sensitivity import estimators

DRIVERS = drivers()
"""Quantities of which any one is asked for and the others follow."""
SIZES = ("standard", "compact", "projection")
"""Layouts of the explorer: for a page, for half a screen, for a class."""


@dataclass(frozen=True)
class Settings:
    """What all results follow from.

    Attributes:
        layers: Names of the selected layers.
        method: Name of a method.
        weighted: Weigh by sensitivity.
        coding: "huffman", "fixed" or "context".
        per_layer: A codebook for each layer, or one for all.
        pinned_zero: For k-means: one of the levels is exactly zero.
        estimator: Name of the sensitivity estimator.
        samples: Calibration samples that it sees; 0 is all.
        damping: ε of h + ε·mean(h).
        driver: Quantity that is asked for, one of :data:`DRIVERS`.
        value: Its value.
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

    def family(self, method: str, weighted: bool) -> Family:
        """The quantizers of any method with those of these options that it has."""
        known = methods.named(method)
        asked = {name: getattr(self, name) for name in ("coding", "per_layer", "pinned_zero") if name in known.options}
        return known.family(weighted=weighted, **asked)

    def with_defaults(self, before: "Settings") -> "Settings":
        """The same after a change of method: options that were as the method before has them by default are so again.

        Args:
            before: The settings before the change.
        """
        old, new = before.record.options, self.record.options
        own = ("coding", "per_layer")
        return replace(self, **{n: new[n] for n in own if n in new and (n not in old or getattr(before, n) == old[n])})

    def at(self, driver: str, value: float) -> "Settings":
        """The same with another target.

        Raises:
            ValueError: A value that is no number above zero, no whole number of levels, a quantity that the method
                does not have.
        """
        if _is_number(value):
            value = float(value)
            value = int(value) if driver == "levels" and value.is_integer() else value
        return replace(self, driver=driver, value=value).checked()

    def checked(self) -> "Settings":
        """These, if they can be meant.

        Raises:
            ValueError: Names what cannot.
        """
        for name, known in (("method", methods.names()), ("coding", codes.names()), ("estimator", estimators.names())):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, but is {getattr(self, name)!r}")
        for name in ("weighted", "per_layer", "pinned_zero"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, but is {getattr(self, name)!r}")
        if not isinstance(self.layers, tuple) or not all(isinstance(name, str) for name in self.layers):
            raise ValueError(f"layers must be names of layers, but are {self.layers!r}")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 0:
            raise ValueError(f"samples must be a whole number, 0 for all, but is {self.samples!r}")
        if not _is_number(self.damping) or not 0 <= self.damping < 1e300:
            raise ValueError(f"damping must be finite and at least 0, but is {self.damping!r}")
        if not isinstance(self.driver, str) or self.driver not in DRIVERS:
            raise ValueError(f"the target must be one of {', '.join(DRIVERS)}, but is {self.driver!r}")
        check_target(self.driver, self.method)
        if not _is_number(self.value) or not -1e300 < self.value < 1e300:
            raise ValueError(f"{self.driver} must be a finite number, but is {self.value!r}"[:400])
        Target(self.driver, self.value)
        if self.driver == "levels" and not isinstance(self.value, int):
            raise ValueError(f"levels must be a whole number, but is {self.value!r}")
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"layers": list(self.layers)}

    def updated(self, values: dict[str, Any]) -> "Settings":
        """The same with some settings as :meth:`to_json` gives them.

        Raises:
            ValueError: A name that there is not, or a value that cannot be meant.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ValueError(f"settings must be among {', '.join(known)}, but {name!r} came")
        if ("driver" in values) != ("value" in values):
            raise ValueError("driver and value must come together, but only one of them did")
        layers = values.get("layers", self.layers)
        if not isinstance(layers, list | tuple):
            raise ValueError(f"layers must be a list of names, but are {layers!r}")
        return replace(self, **{**values, "layers": tuple(layers)}).checked()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
