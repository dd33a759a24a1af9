"""The one argument of a quantizer that sets its rate: levels, step or λ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """What runs along the rate-distortion curve of a method.

    Attributes:
        name: Name of the argument.
        symbol: As formulas, axes and sliders write it.
        unit: Its unit; "" for a number.
        rate_rises: Whether the rate rises with it.
        whole: Whether it takes whole numbers only.
    """

    name: str
    symbol: str
    unit: str
    rate_rises: bool
    whole: bool = False


LEVELS = Parameter("levels", "k", "", rate_rises=True, whole=True)
STEP = Parameter("step", "Δ", "weight", rate_rises=False)
LMBDA = Parameter("lmbda", "λ", "loss/bit", rate_rises=False)
