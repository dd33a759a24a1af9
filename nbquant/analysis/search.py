"""Methods without a histogram's curve: their rate is known once they have run, so a target is found by running them."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from nbquant.progress import Progress, track
from nbquant.quantization.feedback import mean_curvature
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import mean_sensitivity

if TYPE_CHECKING:
    from nbquant.analysis.solve import Target

SLOPE = 2.4  # λ goes about like this power of the ratio
LEAST_STEP, MOST_STEP = 1.5, 64.0  # factors on λ until the target lies between two tries
MOST_WIDENINGS = 12
TRIES = 8  # between them
CLOSE = 0.01  # of the target: near enough
NARROW = 1e-4  # between λ's logarithms: the rate jumps there


class OutOfReachError(ValueError):
    """No parameter of a method meets a target on a selection."""


class Fits(Protocol):
    """What quantizes a selection."""

    def fit(self, weight: Selection, *, progress: Progress = False) -> Quantized: ...  # noqa: D102


def fit_by_search(
    quantizer: Callable[[float], Fits], selection: Selection, target: "Target", progress: Progress = False
) -> Quantized:
    """Find λ by which a target is met with hardly anything to spare.

    Steps along a power law until the target lies between two tries, then regula falsi, and halving where that moves one
    end only. The rate of small selections is not quite monotone in λ: of all tries that meet the target the nearest is
    returned.

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
    best: Quantized | None = None
    met: tuple[float, Quantized] | None = None
    missed: tuple[float, Quantized] | None = None
    lmbda, side, between = first_lmbda(selection, _rate(selection, target)), 0, 0
    while tries < MOST_WIDENINGS + between and between <= TRIES:
        next(ticks, None)
        found, tries = quantizer(lmbda).fit(selection, progress=within), tries + 1
        if target.met(found):
            met, side = (lmbda, found), max(side, 0) + 1
            if best is None or abs(_log(target, found)) < abs(_log(target, best)):
                best = found
        else:
            missed, side = (lmbda, found), min(side, 0) - 1
        if best and target.is_close(best, CLOSE):
            break
        if met and missed:
            if abs(math.log(met[0] / missed[0])) < NARROW:
                break
            between += 1
            share = 0.5 if abs(side) > 1 and between > 1 else _share(target, met[1], missed[1])
            lmbda = met[0] ** (1 - share) * missed[0] ** share
        else:
            factor = math.exp(min(SLOPE * abs(_log(target, found)), math.log(MOST_STEP)))
            lmbda *= max(factor, LEAST_STEP) ** (-1 if met else 1)
    for _ in ticks:  # tries that were not needed
        pass
    if best is None:
        assert missed
        raise OutOfReachError(
            f"{target.name} {target.value:g} is out of reach: at λ = {missed[0]:.3g} it is "
            f"{target.quantity(missed[1]):.3g} still; ask for less, or for another coding"
        )
    return best


def _log(target: "Target", found: Quantized) -> float:
    """How far a fit is from the target, as a logarithm."""
    return math.log(max(target.quantity(found), 1e-300) / target.value)


def _rate(selection: Selection, target: "Target") -> float:
    return target.value if target.name == "rate" else _bits(selection) / target.value


def _bits(selection: Selection) -> float:
    return selection.source_bits / len(selection)


def first_lmbda(selection: Selection, rate: float) -> float:
    """λ = −dD/dR [loss/bit] of a Gaussian source of the weights' power at a rate [bit/weight]."""
    power = sum(float(t.weight.double().square().sum()) for t in selection) / len(selection)
    sensitivity = mean_curvature(selection) or mean_sensitivity(selection)
    return math.log(2) * sensitivity * (power or 1.0) * 4.0 ** -min(rate, _bits(selection))


def _share(target: "Target", met: Quantized, missed: Quantized) -> float:
    """How far from ``met`` to ``missed`` the target should be, a little on this side of it; in logarithms."""
    a, b, aim = (math.log(x) for x in (target.quantity(met), target.quantity(missed), target.stricter(3e-3).value))
    return min(max((aim - a) / (b - a), 0.05), 0.95) if a != b else 0.5
