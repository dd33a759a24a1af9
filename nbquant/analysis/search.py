"""Methods without a histogram's curve: their rate is known once they have run, so a target is found by running them."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from nbquant.progress import Progress, track
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import mean_sensitivity

if TYPE_CHECKING:
    from nbquant.analysis.solve import Target

WIDEN = 4.0  # factor on λ until the target lies between two tries
MOST_WIDENINGS = 12
TRIES = 8  # between them


class OutOfReachError(ValueError):
    """No parameter of a method meets a target on a selection."""


class Fits(Protocol):
    """What quantizes a selection."""

    def fit(self, weight: Selection, *, progress: Progress = False) -> Quantized: ...  # noqa: D102


def fit_by_search(
    quantizer: Callable[[float], Fits], selection: Selection, target: "Target", progress: Progress = False
) -> Quantized:
    """The smallest λ found that meets a target: by steps to both sides of it, then by regula falsi and halving.

    Args:
        quantizer: The quantizer at a λ [loss/bit]; its rate falls with λ.
        selection: What to quantize.
        target: "ratio" or "rate".
        progress: See :data:`nbquant.progress.Progress`; counts tries of the most that there may be.

    Raises:
        OutOfReachError: A target that no λ meets (names the nearest).
        ValueError: A target of another name.
        Cancelled: By ``progress``.
    """
    if target.name not in ("ratio", "rate"):
        raise ValueError(f"the target must be ratio or rate, but is {target.name}: this method has no curve to look on")
    most, tries = MOST_WIDENINGS + TRIES, 0
    ticks = track(range(most), "search", progress)
    # A try may take long: it asks whether to go on.
    within: Progress = (lambda _done, _total: progress(tries, most)) if callable(progress) else False
    met: tuple[float, Quantized] | None = None
    missed: tuple[float, Quantized] | None = None
    lmbda = first_lmbda(selection, target.value if target.name == "rate" else _bits(selection) / target.value)
    for _ in range(MOST_WIDENINGS):
        next(ticks, None)
        found, tries = quantizer(lmbda).fit(selection, progress=within), tries + 1
        if target.met(found):
            met, lmbda = (lmbda, found), lmbda / WIDEN
        else:
            missed, lmbda = (lmbda, found), lmbda * WIDEN
        if (met and missed) or (met and target.is_close(met[1])):
            break
    if met is None:
        assert missed
        raise OutOfReachError(
            f"{target.name} {target.value:g} is out of reach: at λ = {missed[0]:.3g} it is "
            f"{target.quantity(missed[1]):.3g} still; ask for less, or for another coding"
        )
    for i in range(TRIES):
        if missed is None or target.is_close(met[1]):
            break
        next(ticks, None)
        share = 0.5 if i % 2 else _share(target, met[1], missed[1])
        lmbda = met[0] ** (1 - share) * missed[0] ** share
        found, tries = quantizer(lmbda).fit(selection, progress=within), tries + 1
        met, missed = ((lmbda, found), missed) if target.met(found) else (met, (lmbda, found))
    for _ in ticks:  # tries that were not needed
        pass
    return met[1]


def _bits(selection: Selection) -> float:
    return selection.source_bits / len(selection)


def first_lmbda(selection: Selection, rate: float) -> float:
    """λ = −dD/dR [loss/bit] of a Gaussian source of the weights' power at a rate [bit/weight]."""
    power = sum(float(t.weight.double().square().sum()) for t in selection) / len(selection)
    return math.log(2) * mean_sensitivity(selection) * (power or 1.0) * 4.0 ** -min(rate, _bits(selection))


def _share(target: "Target", met: Quantized, missed: Quantized) -> float:
    """How far from ``met`` to ``missed`` the target should be, a little on this side of it; in logarithms."""
    a, b, aim = (math.log(x) for x in (target.quantity(met), target.quantity(missed), target.stricter(1e-3).value))
    return min(max((aim - a) / (b - a), 0.05), 0.95) if a != b else 0.5
