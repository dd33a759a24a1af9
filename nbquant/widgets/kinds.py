"""Check the kinds of values: of settings, and of pins in a session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbquant.registry import nearest

MOST = 1e300  # of any number


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        text: What a value must be, in words.
        fits: Whether a value is of this kind.
        names: Allowed names; an error suggests the nearest.
    """

    text: str
    fits: Callable[[Any], bool]
    names: Sequence[str] = ()

    def or_null(self) -> "Kind":
        """The same, or None."""
        return Kind(f"{self.text}, or null", lambda value: value is None or self.fits(value))


def is_finite(value: object) -> bool:
    """Whether this is a finite number; whole numbers of JSON may be too large for a float."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(-MOST < value < MOST)


def is_text(value: object) -> bool:
    """Whether this is a string."""
    return isinstance(value, str)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", is_finite)
AMOUNT = Kind("a finite number, at least 0", lambda value: is_finite(value) and value >= 0)
COUNT = Kind("a whole number, at least 0", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0)


def one_of(names: Sequence[str]) -> Kind:
    """One of several names."""
    return Kind(f"one of {', '.join(names)}", lambda value: is_text(value) and value in names, names)


def check(values: Mapping[str, Any], kinds: Mapping[str, Kind], of: str = "") -> None:
    """Reject values that are not of their kinds.

    Args:
        values: Values by name.
        kinds: Kinds by name; each of them has a value.
        of: What they belong to, as in " of a pin".

    Raises:
        ValueError: Names the first value that does not fit, what it must be and what it is.
    """
    for name, kind in kinds.items():
        if not kind.fits(values[name]):
            raise ValueError(
                f"{name}{of} must be {kind.text}, but is {values[name]!r}{nearest(values[name], kind.names)}"[:400]
            )
