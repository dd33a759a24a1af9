"""Search of λ for a target rate, for methods whose rate is known only after running them."""

import math
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from nbquant.analysis.target import OutOfReachError, Target
from nbquant.progress import Progress, track
from nbquant.quantization.feedback import mean_curvature
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import mean_sensitivity
from nbquant.quantization.tensor import SelectedTensor

SLOPE = 2.4  # λ grows roughly like this power of the ratio
LEAST_STEP, MOST_STEP = 1.5, 64.0  # factors on λ until two tries bracket the target
MOST_WIDENINGS = 12
TRIES = 9  # within the bracket
ESTIMATED = 3  # tries where an estimate of the rate leads …
MOST_ESTIMATES = 12  # … by so many estimates each
FARTHEST = 6.0  # logarithm of λ: how far estimates go from one try to the next
WRONG = 0.7  # logarithm of the ratio: estimates that are so far off lead nowhere
UNEVEN = 0.05  # logarithm of the ratio: differences by less may be noise …
APART = 0.02  # … and slopes over less of log λ
FINEST, MOST_RATE = 1e-8, 14.0  # of the distortion at no rate, and its rate: more bits would buy nothing that counts
OUTLYING = 1e4  # in medians: losses of zero beyond it are cut, so that few large weights do not hide the others
SEEN = 1 << 20  # weights whose median is taken
SPARE = 5e-3  # logarithm of the ratio: aim this much above the target
NARROW = 4e-3  # bracket in log λ in which the rate jumps …
BESIDE, AROUND = 28, 0.06  # … and number and range of further tries on both sides of the jump
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are evenly spread, whatever their number
CLOSE, NEAR = 0.01, 0.03  # relative tolerance before and after the jump search


def search_lmbda(
    run: Callable[[float, Progress], Quantized],
    selection: Selection,
    target: Target,
    progress: Progress = False,
    estimate: Callable[[float], float] | None = None,
) -> Quantized:
    """Find the λ that meets a target with little to spare.

    Of all tries that meet the target, the nearest is returned. With estimates of the rate, the first tries go where the
    estimate, corrected by what the last try found, meets the target.

    Args:
        run: run(lmbda, progress) quantizes at λ [loss/bit]; the rate falls as λ grows.
        selection: The selection to quantize.
        target: "ratio" or "rate".
        progress: See :data:`nbquant.progress.Progress`; counts tries up to their largest number.
        estimate: estimate(lmbda) estimates the rate [bit/weight] at λ fast, and not exactly.

    Raises:
        OutOfReachError: A target that no λ meets (names the nearest).
        ValueError: Another kind of target; weights that are all zero.
        Cancelled: By ``progress``.
    """
    if target.name not in ("ratio", "rate"):
        raise ValueError(
            f"the target must be ratio or rate, but is {target.name}: this method chooses its values itself, so pass a "
            "ratio or a rate"
        )
    if not any(t.weight.any() for t in selection):
        raise ValueError("nothing to quantize: every selected weight is exactly zero")
    most, tries = ESTIMATED + MOST_WIDENINGS + TRIES + BESIDE, 0
    ticks = track(range(most), "search", progress)
    # A try may take long: check for cancellation before each.
    within: Progress = (lambda _done, _total: progress(tries, most)) if callable(progress) else False
    best: Quantized | None = None
    nearest, finest = math.inf, FINEST * _power(selection)
    rate = target.value if target.name == "rate" else _bits(selection) / target.value
    rate = min(rate, MOST_RATE)
    search = _search(first_lmbda(selection, rate), rate, estimate)
    lmbda, enough = next(search)
    while True:
        next(ticks, None)
        found, tries = run(lmbda, within), tries + 1
        off = math.log(max(target.quantity(found), 1e-300) / target.value) * (1 if target.name == "ratio" else -1)
        if target.met(found) and (best is None or off < nearest):
            best, nearest = found, off
        if best and (target.is_close(best, enough) or best.distortion <= finest):
            break
        try:
            lmbda, enough = search.send(off)
        except StopIteration:
            break
    for _ in ticks:  # count the tries that were not needed
        pass
    if best is None:
        raise OutOfReachError(
            f"{target.name} {target.value:g} is out of reach: {tries} tries came no further than {target.name} "
            f"{target.quantity(found):.5g}; ask for less, or for another coding"
        )
    return best


def _search(
    first: float, rate: float, estimate: Callable[[float], float] | None
) -> Generator[tuple[float, float], float, None]:
    """Generate values of λ as :func:`_lambdas` does, the first of them by the estimate."""
    goal, slope, known = math.log(rate) - CLOSE / 2, 1.0, list[tuple[float, float]]()
    last: tuple[float, float] | None = None
    for _ in range(ESTIMATED if estimate else 0):
        assert estimate is not None
        first, at = lmbda_at(estimate, goal, first)
        off = yield first, CLOSE
        known.append((math.log(first), off))
        if abs(off) > WRONG or len({each >= 0 for _, each in known}) == 2:
            break
        if last is not None and abs(last[0] - at) > UNEVEN:
            slope = min(max((off - last[1]) / (last[0] - at), 0.3), 3.0)
        last = at, off
        goal = at + (off - CLOSE / 2) / slope
    yield from _lambdas(first, known)


def lmbda_at(estimate: Callable[[float], float], goal: float, first: float) -> tuple[float, float]:
    """Find the λ [loss/bit] at which the logarithm of an estimated rate is about the goal, as near as estimates go.

    Args:
        estimate: Estimates the rate [bit/weight] at λ.
        goal: Logarithm of the rate.
        first: λ of the first estimate.

    Returns:
        λ, and the logarithm of the rate that was estimated there.
    """
    at, slope = math.log(first), -1 / SLOPE
    least, most = at - FARTHEST, at + FARTHEST
    last: tuple[float, float] | None = None
    best = at, math.inf
    for _ in range(MOST_ESTIMATES):
        here = math.log(max(estimate(math.exp(at)), 1e-12))
        if last is not None and abs(at - last[0]) > APART:
            slope = (here - last[1]) / (at - last[0])
            if slope >= 0 and abs(at - last[0]) > 0.1:  # no estimate is that high or low
                return math.exp(last[0]), last[1]
            slope = min(max(slope, -2.0), -0.05)
        if abs(here - goal) < abs(best[1] - goal):
            best = at, here
        if abs(here - goal) < SPARE / 2:
            break
        last = at, here
        at = min(max(at + min(max((goal - here) / slope, -1.5), 1.5), least), most)
    return math.exp(best[0]), best[1]


def _lambdas(first: float, known: Sequence[tuple[float, float]] = ()) -> Generator[tuple[float, float], float, None]:
    """Generate the values of λ to try with their tolerance; each is answered by log(ratio / target).

    Steps along a power law bracket the target; regula falsi with the Illinois rule narrows the bracket; where the ratio
    jumps, further tries follow on both sides of the jump, as the ratio is not quite monotone there.

    Args:
        first: λ of the first try.
        known: Logarithms of λ with the answers of earlier tries.
    """
    ends: dict[bool, tuple[float, float]] = {}  # by whether the target is met: log λ, and distance from the aim
    for at, off in sorted(known, key=lambda each: -abs(each[1])):
        ends[off >= 0] = at, off - SPARE
    at, last = math.log(first), None
    if known:
        at, off = known[-1]
        at += _stride(off)
    if len(ends) < 2:
        for _ in range(MOST_WIDENINGS):
            off = yield math.exp(at), CLOSE
            ends[off >= 0] = at, off - SPARE
            if len(ends) == 2:
                break
            at += _stride(off)
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
        if met is last:  # otherwise the other end would stay forever
            ends[not met] = ends[not met][0], ends[not met][1] / 2
        ends[met], last = (at, off - SPARE), met
    center = ends[True][0]
    for i in range(BESIDE):
        yield math.exp(center + AROUND * (2 * ((i + 1) * GOLDEN % 1) - 1)), NEAR


def _power(selection: Selection) -> float:
    """Distortion at no rate [loss/weight], with what lies far outside cut."""
    step = max(len(selection) // SEEN, 1)
    losses = torch.cat([_losses_of_zero(t, step) for t in selection])
    losses = losses[losses > 0]
    if not losses.numel():
        return 0.0
    return float(losses.clamp(max=OUTLYING * float(losses.median())).sum()) * step / len(selection)


def _losses_of_zero(tensor: SelectedTensor, step: int) -> Tensor:
    """½hw² of every so many weights."""

    def some(values: Tensor) -> Tensor:
        return values.detach().reshape(-1)[::step].cpu().double()

    losses = 0.5 * some(tensor.weight).square()
    return losses if tensor.sensitivity is None else losses * some(tensor.sensitivity)


def _stride(off: float) -> float:
    """Step of log λ towards the target, along a power law."""
    step = min(max(SLOPE * abs(off), math.log(LEAST_STEP)), math.log(MOST_STEP))
    return -step if off >= 0 else step


def _bits(selection: Selection) -> float:
    return selection.source_bits / len(selection)


def first_lmbda(selection: Selection, rate: float) -> float:
    """Slope λ = −dD/dR [loss/bit] of a Gaussian source with the weights' power at a rate [bit/weight]."""
    power = sum(float(t.weight.double().square().sum()) for t in selection) / len(selection)
    sensitivity = mean_curvature(selection) or mean_sensitivity(selection)
    return math.log(2) * sensitivity * (power or 1.0) * 4.0 ** -min(rate, _bits(selection))
