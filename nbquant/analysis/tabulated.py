"""Curves from histograms: all points of a method at once, whatever the number of weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nbquant.analysis.operating_point import OperatingPoint, operating_point, point_of_clusters
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.target import CLOSE, OutOfReachError, Target
from nbquant.coding import codes
from nbquant.progress import Progress
from nbquant.quantization import methods
from nbquant.quantization.clustering import quantize_clusters
from nbquant.quantization.method import Family
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer, ScalarQuantizer
from nbquant.quantization.selection import Selection

TRIES = 4  # between two points of the curve
FAR = 0.02  # of the target: so far from it, another start is worth a try
EXACT_TRIES = 8


@dataclass(frozen=True, eq=False)
class TabulatedCurve:
    """The curve of a method on a selection, from its histograms.

    Attributes:
        family: The method with its options.
        selection: What to quantize.
        statistics: Of the selection.
        progress: See :data:`nbquant.progress.Progress`; counts blocks of the exact pass.
    """

    family: Family
    selection: Selection
    statistics: Statistics
    progress: Progress = False

    def toward(self, target: Target) -> Iterator[list[OperatingPoint]]:
        """Yield all points at once, coarse to fine."""
        yield curve(self.family, self.statistics)

    def fit(self, target: Target) -> Quantized:
        """Solve on the curve, then quantize the weights themselves, a little stricter where bins had rounded.

        Arithmetic coding takes another rate than the curve says. How far off that is hardly changes from point to
        point, so that the curve is asked again for what led to the target.

        Raises:
            OutOfReachError: Names the range that is within.
            nbquant.progress.Cancelled: By ``progress``.
        """
        points, statistics = curve(self.family, self.statistics), self.statistics
        if target.is_parameter:
            return self.at(solve(target, points, statistics))
        measured = not codes.named(self.family.coding).known_from_counts and target.name != "levels"
        best, spare, gain = None, 0.0, 1.0
        for _ in range(EXACT_TRIES):
            aim = replace(target, value=gain * target.stricter(spare).value)
            if (spare or best) and not any(aim.met(p) for p in points):
                break
            point = solve(aim, points, statistics)
            quantized = self.at(point)
            if target.met(quantized):
                if best and quantized.distortion >= best.distortion:
                    return best  # the points of the curve lie no closer
                best = quantized
            if best and (not measured or target.is_close(best)):
                return best
            if measured:
                gain = target.quantity(point) / target.quantity(quantized)
            if not target.met(quantized):
                spare = 2 * spare if spare else 1e-3
        if best:
            return best
        raise OutOfReachError(
            f"{target.name} {target.value:g} is at the edge of what {title(points[0].quantizer)} reaches on this "
            f"selection: the nearest fit has {target.name} {target.quantity(quantized):.4g}; ask for a little less"
        )

    def at(self, point: OperatingPoint) -> Quantized:
        """Quantize the weights themselves as at a point, going on from what the statistics know."""
        return quantize_at(self.selection, point, self.statistics, self.progress)


def curve(family: Family, statistics: Statistics) -> list[OperatingPoint]:
    """Compute the operating points of one method, from the lowest rate to the highest.

    The cost does not depend on the number of weights; the statistics keep what was found.

    Args:
        family: The method with its options.
        statistics: Of the selection.

    Returns:
        Points with the parameter running from coarse to fine; rates need not rise strictly.
    """
    if family not in statistics.curves:
        statistics.curves[family] = _points(family, statistics)
    found: list[OperatingPoint] = statistics.curves[family]
    return found


def point_at(
    family: Family, parameter: float, statistics: Statistics, near: OperatingPoint | None = None
) -> OperatingPoint:
    """Compute the operating point of one parameter, on the curve or between its points.

    Args:
        family: The method with its options; the offset of uniform grids on a pruned selection is what costs least.
        parameter: Levels, step [weight] or λ [loss/bit].
        statistics: Of the selection.
        near: Point of the same method close by, where a local search starts.
    """
    quantizer = family(parameter)
    if family.method.place is not None:
        cells = statistics.cells(family.weighted, family.needs_rows, family.per_layer)
        quantizer = family.method.place(quantizer, cells, statistics.pruned)
    return operating_point(quantizer, statistics, near)


def _points(family: Family, statistics: Statistics) -> list[OperatingPoint]:
    cells = statistics.cells(family.weighted, family.needs_rows, family.per_layer)
    if not cells:
        return []
    assert family.method.curve is not None
    made = family.method.curve(family, cells, statistics.pruned)
    return [point_of_clusters(quantizer, groups, statistics) for quantizer, groups in zip(*made, strict=True)]


def solve(target: Target, points: Sequence[OperatingPoint], statistics: Statistics) -> OperatingPoint:
    """Find the point of least distortion that meets the target; the very quantizer, if the target is its parameter.

    Args:
        target: What to reach.
        points: A method's curve, parameter running from coarse to fine.
        statistics: What the curve was computed from.

    Raises:
        ValueError: Out of reach (names the range that is within); the parameter of another method, or a step too small.
    """
    if not points:
        raise ValueError("nothing to quantize: every selected weight is exactly zero")
    if target.is_parameter:
        return _at_parameter(target, points, statistics)
    reached = [i for i, p in enumerate(points) if target.met(p)]
    if not reached:
        low, high = min(map(target.quantity, points)), max(map(target.quantity, points))
        raise OutOfReachError(
            f"{target.name} {target.value:g} is out of reach: {title(points[0].quantizer)} reaches {target.name} "
            f"{low:.3g} to {high:.3g} on this selection"
        )
    best = min(reached, key=lambda i: (points[i].distortion, points[i].rate))
    point = points[best]
    if best + 1 == len(points) or point.quantizer.parameter.whole or methods.of(point.quantizer).curve is None:
        return point
    found = [point]
    for near in _starts(points, best):
        found += _approach(target, points[best], points[best + 1], near, statistics)
        if any(target.is_close(p, FAR) for p in found):
            break
    return min(found, key=lambda p: (p.distortion, p.rate))


def _at_parameter(target: Target, points: Sequence[OperatingPoint], statistics: Statistics) -> OperatingPoint:
    """The curve's own point where it has one; else, for ECSQ, what sets out from the nearest point of the curve.

    Beyond the ends of the curve, and where all h are taken for one, a search from nowhere does better.
    """
    values = [target.quantity(p) for p in points]
    if target.value in values:
        return points[values.index(target.value)]
    within = min(values) < target.value < max(values)
    near = None
    if within and _is_local(points[0].quantizer) and points[0].quantizer.weighted:
        near = points[int(np.argmin(np.abs(np.log(values) - np.log(target.value))))]
    return point_at(methods.family_of(points[0].quantizer), float(target.value), statistics, near)


def _starts(points: Sequence[OperatingPoint], best: int) -> Sequence[OperatingPoint | None]:
    """Where a search between ``best`` and the next finer point may set out from.

    As λ grows the solution of a local search, as in ECSQ, can jump when two large clusters become one: from the finer
    side it stays what it is a little longer, from the coarser side likewise, and together they leave less of a gap.
    Where all h are taken for one, a search from nowhere finds the optimum in a millisecond, and goes first.
    """
    quantizer = points[best].quantizer
    if not _is_local(quantizer):
        return (None,)
    sides = (points[best + 1], points[best])
    return sides if quantizer.weighted else (None, *sides)


def _approach(
    target: Target,
    coarse: OperatingPoint,
    fine: OperatingPoint,
    near: OperatingPoint | None,
    statistics: Statistics,
) -> list[OperatingPoint]:
    """Points between two that meet the target, ever closer to where it is just missed.

    The targeted quantity goes much like a power of the parameter, so that a few tries come close; where it jumps they
    halve the interval in turn.
    """
    family, met, missed = methods.family_of(coarse.quantizer), coarse, fine
    found: list[OperatingPoint] = []
    for i in range(TRIES):
        share = 0.5 if i % 2 else _share(target, met, missed)
        parameter = float(met.parameter ** (1 - share) * missed.parameter**share)
        tried = point_at(family, parameter, statistics, near)
        if not target.met(tried):
            missed = tried
            continue
        met = tried
        found.append(tried)
        if target.is_close(tried):
            break
    return found


def _share(target: Target, met: OperatingPoint, missed: OperatingPoint) -> float:
    """How far from ``met`` to ``missed`` the target should be, a little on this side of it; in logarithms."""
    a, b = np.log([target.quantity(met), target.quantity(missed)])
    aim = np.log(target.stricter(CLOSE / 4).value)
    return float(np.clip((aim - a) / (b - a), 0.02, 0.98)) if abs(b - a) > 0 else 0.5


def _is_local(quantizer: Quantizer) -> bool:
    """Whether clusters are found by a local search, which another start may lead elsewhere: cells depend on h."""
    return bool(getattr(quantizer, "needs_rows", False))


def quantize_at(
    selection: Selection, point: OperatingPoint, statistics: Statistics, progress: Progress = False
) -> Quantized:
    """Quantize the weights themselves as at a point of a curve, going on from what its statistics know."""
    quantizer: ScalarQuantizer = point.quantizer  # type: ignore[assignment]  # as it is on a curve
    return quantize_clusters(
        quantizer,
        selection,
        progress,
        start=point.clusters,
        zeros=statistics.zeros,
        positions=statistics.position_ledger,
        histograms=statistics.undamped(point.quantizer.per_layer),
    )


def title(quantizer: Quantizer) -> str:
    """A method with its options, in words."""
    weighting = "Hessian-weighted" if quantizer.weighted else "plain"
    return (
        f"{weighting} {quantizer.method} ({quantizer.coding} code, {'per layer' if quantizer.per_layer else 'joint'})"
    )
