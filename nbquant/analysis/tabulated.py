"""Rate-distortion curves from histograms: all points of a method at once, whatever the number of weights."""

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
from nbquant.quantization.method import Family, Groups, Tabulated
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer, ScalarQuantizer
from nbquant.quantization.selection import Selection

TRIES = 4  # between two points of the curve
FAR = 0.02  # relative distance from the target from which another start is worth a try
EXACT_TRIES = 8


@dataclass(frozen=True, eq=False)
class TabulatedCurve:
    """The rate-distortion curve of a method on a selection, from its histograms.

    Attributes:
        family: The method with its options.
        selection: The selection to quantize.
        statistics: Statistics of the selection.
        progress: See :data:`nbquant.progress.Progress`; counts blocks of the exact pass.
    """

    family: Family
    selection: Selection
    statistics: Statistics
    progress: Progress = False

    def toward(self, target: Target) -> Iterator[list[OperatingPoint]]:
        """Yield all points at once, coarse to fine."""
        yield curve(self.family, self.statistics)

    def left(self, points: Sequence[OperatingPoint], target: Target) -> int:
        """No runs on the weights."""
        return 0

    def fit(self, target: Target) -> Quantized:
        """Solve on the curve, then quantize the weights themselves, slightly stricter where bins rounded.

        The rate of arithmetic coding differs from the curve's. The difference hardly changes from point to point, so
        the curve is solved again for a corrected target.

        Raises:
            OutOfReachError: Names the reachable range.
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
                    return best  # the curve has no closer points
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
        """Quantize the weights themselves as at a point, starting from its statistics."""
        return quantize_at(self.selection, point, self.statistics, self.progress)


def curve(family: Family, statistics: Statistics) -> list[OperatingPoint]:
    """Compute the operating points of one method, from the lowest rate to the highest.

    The cost does not depend on the number of weights; results are kept by the statistics.

    Args:
        family: The method with its options.
        statistics: Statistics of the selection.

    Returns:
        Points with the parameter running from coarse to fine; rates need not increase strictly.
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
        family: The method with its options; the offset of uniform grids on a pruned selection is the cheapest one.
        parameter: Levels, step [weight] or λ [loss/bit].
        statistics: Statistics of the selection.
        near: Nearby point of the same method, where a local search starts.
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
    made = _clusters(family, cells, statistics)
    return [point_of_clusters(quantizer, groups, statistics) for quantizer, groups in zip(*made, strict=True)]


def _clusters(family: Family, cells: Groups, statistics: Statistics) -> Tabulated:
    """The clusters along a curve, which curves for several codes share where the code does not move them."""
    method = family.method
    assert method.curve is not None
    if method.code_moves_clusters:
        return method.curve(family, cells, statistics.pruned)
    shared = method.family(**dict(family.options) | {"coding": None})
    key = "clusters", shared
    if key not in statistics.curves:
        statistics.curves[key] = method.curve(shared, cells, statistics.pruned)
    quantizers, clusters = statistics.curves[key]
    return [family(getattr(quantizer, method.parameter.name)) for quantizer in quantizers], clusters


def solve(target: Target, points: Sequence[OperatingPoint], statistics: Statistics) -> OperatingPoint:
    """Find the point of least distortion that meets the target, or the exact quantizer if the target is its parameter.

    Args:
        target: The target.
        points: The method's curve, parameter running from coarse to fine.
        statistics: Statistics that the curve was computed from.

    Raises:
        ValueError: Out of reach (names the reachable range); the parameter of another method, or a step too small.
    """
    if not points:
        raise ValueError("nothing to quantize: every selected weight is exactly zero")
    if target.is_parameter:
        return _at_parameter(target, points, statistics)
    last = points[-1]
    if (
        target.name == last.quantizer.parameter.name == "levels"
        and len(last.clusters) == 1 < last.levels < target.value
    ):
        return point_at(methods.family_of(last.quantizer), target.value, statistics)
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
    """The curve's own point where it has one; else, for ECSQ, a local search from the nearest point of the curve.

    Beyond the ends of the curve, and where h is constant within the cells, a search from scratch is better.
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
    """Starting points of a search between ``best`` and the next finer point.

    As λ grows, the solution of a local search as in ECSQ can jump when two large clusters merge: started from the finer
    side it stays longer, from the coarser side likewise, and both together leave a smaller gap. Where h is constant
    within the cells, a search from scratch finds the optimum in a millisecond and goes first.
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
    """Points between two that bracket the target, ever closer to where it is just missed.

    The targeted quantity varies roughly like a power of the parameter, so that a few tries come close; where it jumps,
    they alternate with bisection.
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
    """Fraction of the way from ``met`` to ``missed`` at which to aim, just short of the target; in logarithms."""
    a, b = np.log([target.quantity(met), target.quantity(missed)])
    aim = np.log(target.stricter(CLOSE / 4).value)
    return float(np.clip((aim - a) / (b - a), 0.02, 0.98)) if abs(b - a) > 0 else 0.5


def _is_local(quantizer: Quantizer) -> bool:
    """Whether clusters come from a local search, which depends on its start: cells depend on h."""
    return bool(getattr(quantizer, "needs_rows", False))


def quantize_at(
    selection: Selection, point: OperatingPoint, statistics: Statistics, progress: Progress = False
) -> Quantized:
    """Quantize the weights themselves as at a point of a curve, starting from its statistics."""
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
    """Describe a method with its options in words."""
    weighting = "Hessian-weighted" if quantizer.weighted else "plain"
    return (
        f"{weighting} {quantizer.method} ({quantizer.coding} code, {'per layer' if quantizer.per_layer else 'joint'})"
    )
