"""Methods without a histogram's curve: their rate is known once they have run, so a target is found by running them."""

import math
from collections.abc import Callable, Generator

from nbquant.analysis.target import OutOfReachError, Target
from nbquant.progress import Progress, track
from nbquant.quantization.feedback import mean_curvature
from nbquant.quantization.quantize import quantize
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import mean_sensitivity

SLOPE = 2.4  # λ goes about like this power of the ratio
LEAST_STEP, MOST_STEP = 1.5, 64.0  # factors on λ until the target lies between two tries
MOST_WIDENINGS = 12
TRIES = 9  # between them
SPARE = 3e-3  # logarithm of the ratio: so much more is aimed for
NARROW = 4e-3  # between logarithms of λ: the rate jumps there …
BESIDE, AROUND = 28, 0.06  # … and so many more tries are within so much of the jump, to both sides
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly, however many there are
CLOSE, NEAR = 0.01, 0.03  # of the target: near enough, before and after that


def fit_by_search(
    family: Callable[[float], Quantizer], selection: Selection, target: Target, progress: Progress = False
) -> Quantized:
    """Find λ by which a target is met with hardly anything to spare.

    Of all tries that meet the target the nearest is returned.

    Args:
        family: The quantizer at a λ [loss/bit]; its rate falls with λ.
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
    most, tries = MOST_WIDENINGS + TRIES + BESIDE, 0
    ticks = track(range(most), "search", progress)
    # A try may take long: it asks whether to go on.
    within: Progress = (lambda _done, _total: progress(tries, most)) if callable(progress) else False
    best: Quantized | None = None
    search = _lambdas(
        first_lmbda(selection, target.value if target.name == "rate" else _bits(selection) / target.value)
    )
    lmbda, enough = next(search)
    while True:
        next(ticks, None)
        found, tries = quantize(family(lmbda), selection, progress=within), tries + 1
        off = math.log(max(target.quantity(found), 1e-300) / target.value) * (1 if target.name == "ratio" else -1)
        if target.met(found) and (best is None or target.stricter(math.expm1(off)).met(best)):
            best = found
        if best and target.is_close(best, enough):
            break
        try:
            lmbda, enough = search.send(off)
        except StopIteration:
            break
    for _ in ticks:  # tries that were not needed
        pass
    if best is None:
        raise OutOfReachError(
            f"{target.name} {target.value:g} is out of reach: {tries} tries, the last with lmbda = {lmbda:.3g}, "
            f"came no further than {target.name} {target.quantity(found):.3g}; ask for less, or for another coding"
        )
    return best


def _lambdas(first: float) -> Generator[tuple[float, float], float, None]:
    """Values of λ to try, and how near is near enough; each is answered by log(ratio / target).

    Steps along a power law until the target lies between two tries; regula falsi with the Illinois rule between them;
    and where the ratio jumps, tries on both sides of the jump, as it is not quite monotone there.
    """
    ends: dict[bool, tuple[float, float]] = {}  # by whether the target is met: log λ, and how far it is from the aim
    at, last = math.log(first), None
    for _ in range(MOST_WIDENINGS):
        off = yield math.exp(at), CLOSE
        ends[off >= 0] = at, off - SPARE
        if len(ends) == 2:
            break
        step = min(max(SLOPE * abs(off), math.log(LEAST_STEP)), math.log(MOST_STEP))
        at += -step if off >= 0 else step
    else:
        return
    for _ in range(TRIES):
        (low, below), (high, above) = ends[False], ends[True]
        if abs(high - low) < NARROW:
            break
        share = min(max(below / (below - above), 0.05), 0.95) if above > 0 else 0.5
        at = low + share * (high - low)
        off = yield math.exp(at), CLOSE
        met = off >= 0
        if met is last:  # the other end would stay for ever
            ends[not met] = ends[not met][0], ends[not met][1] / 2
        ends[met], last = (at, off - SPARE), met
    center = ends[True][0]
    for i in range(BESIDE):
        yield math.exp(center + AROUND * (2 * ((i + 1) * GOLDEN % 1) - 1)), NEAR


def _bits(selection: Selection) -> float:
    return selection.source_bits / len(selection)


def first_lmbda(selection: Selection, rate: float) -> float:
    """λ = −dD/dR [loss/bit] of a Gaussian source of the weights' power at a rate [bit/weight]."""
    power = sum(float(t.weight.double().square().sum()) for t in selection) / len(selection)
    sensitivity = mean_curvature(selection) or mean_sensitivity(selection)
    return math.log(2) * sensitivity * (power or 1.0) * 4.0 ** -min(rate, _bits(selection))
