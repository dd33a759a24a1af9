"""Rate parameters of quantizers: levels, step or λ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """The argument of a method that sets its rate.

    Attributes:
        name: Name of the argument.
        symbol: Symbol in formulas, axes and sliders.
        unit: Its unit; "" for a number.
        rate_rises: Whether the rate rises with it.
        whole: Whether it must be a whole number.
    """

    name: str
    symbol: str
    unit: str
    rate_rises: bool
    whole: bool = False


LEVELS = Parameter("levels", "k", "", rate_rises=True, whole=True)
STEP = Parameter("step", "Δ", "weight", rate_rises=False)
LMBDA = Parameter("lmbda", "λ", "loss/bit", rate_rises=False)
