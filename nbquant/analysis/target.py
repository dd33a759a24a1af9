"""Targets of a fit: a compression ratio, a rate, a number of levels, or the method's own parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.quantization import methods
from nbquant.quantization.method import Method
from nbquant.quantization.parameter import LEVELS, LMBDA, STEP
from nbquant.quantization.quantized import Quantized

CLOSE = 0.005  # relative tolerance of a target
QUANTITIES = ("ratio", "rate", "levels")
"""Targets on any curve, beside the methods' own parameters."""


class OutOfReachError(ValueError):
    """No parameter of a method meets a target on a selection."""


@dataclass(frozen=True)
class Target:
    """A target of a fit.

    A least compression ratio, a largest rate [bit/weight], a largest number of levels; or the exact value of the
    method's own parameter, such as λ [loss/bit] or the step [weight].

    Raises:
        ValueError: A value that is not a finite number above zero.
    """

    name: str
    value: float

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float | np.number):
            raise TypeError(f"{self.name} must be a number, but got {self.value!r}")
        if not np.isfinite(self.value) or self.value <= 0:
            raise ValueError(f"{self.name} must be finite and above 0, but got {self.value!r}")

    @property
    def is_parameter(self) -> bool:
        """Whether it is a value of the method's own parameter, so that no search is needed."""
        return self.name not in QUANTITIES

    def met(self, point: OperatingPoint | Quantized) -> bool:
        """Whether a point meets the target."""
        reached = self.quantity(point)
        if self.is_parameter:
            return reached == self.value
        return reached >= self.value if self.name == "ratio" else reached <= self.value

    def quantity(self, point: OperatingPoint | Quantized) -> float:
        """Compute the targeted quantity at a point.

        Raises:
            ValueError: The parameter of another method.
        """
        if self.name == "ratio":
            return point.compression_ratio
        if self.is_parameter:
            check_target(self.name, point.quantizer.method)
            return float(getattr(point.quantizer, self.name))
        return float(getattr(point, self.name))

    def is_close(self, point: OperatingPoint | Quantized, share: float = CLOSE) -> bool:
        """Whether a point that meets the target hardly exceeds it."""
        return abs(self.quantity(point) / self.value - 1) <= share

    def stricter(self, share: float) -> "Target":
        """Tighten the target by a factor."""
        return Target(self.name, self.value * (1 + share) if self.name == "ratio" else self.value / (1 + share))


def targets_of(method: str) -> tuple[str, ...]:
    """List the targets a method's curve can be followed to: all of a curve from histograms, else ratio and rate."""
    known = methods.named(method)
    if known.curve is None:
        return "ratio", "rate"
    return tuple(dict.fromkeys((*QUANTITIES, known.parameter.name)))


def drivers() -> tuple[str, ...]:
    """List the targets that the explorer has inputs for; a method with another parameter has the first three."""
    return (*QUANTITIES, LMBDA.name, STEP.name)


def split_targets(method: Method, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate targets from options: the rate parameter of one method is an option of another.

    Args:
        method: The method.
        given: Targets and options by name.

    Returns:
        The possible targets, None if not given, and the options.
    """
    names = [n for n in dict.fromkeys((*drivers(), method.parameter.name)) if n not in method.options]
    return {n: given.get(n) for n in names}, {n: value for n, value in given.items() if n not in names}


def check_target(name: str, method: str) -> None:
    """Reject a target that a method does not support.

    Raises:
        ValueError: Names the supported targets.
    """
    if name not in targets_of(method):
        owners = [m.name for m in methods.tabulated() if m.parameter.name == name]
        whose = f"a parameter of {', '.join(owners)}" if owners else "unknown as a target"
        raise ValueError(
            f"{name} is {whose}, but the method is {method!r}: choose another method, or one of "
            f"{', '.join(targets_of(method))}"
        )


def target_of(**targets: float | None) -> Target:
    """Select the one target that is not None.

    Raises:
        TypeError: Not a number, or levels that are not a whole one.
        ValueError: None or several were given.
    """
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        came = ", ".join(f"{k}={v!r}" for k, v in given.items()) or "none"
        raise ValueError(f"exactly one of {', '.join(targets)} is required, but got {came}")
    target = Target(*next(iter(given.items())))
    if target.name == LEVELS.name and target.value != int(target.value):
        raise TypeError(f"levels must be a whole number, but got {target.value!r}")
    return target
