"""Find the parameter of a method that reaches a target: a look-up on its curve, then a closer search."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from torch import nn

from nbquant.analysis.curves import QUANTIZERS, Method, curve, point_at
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.runs import RUNNERS, fit_between, runner
from nbquant.analysis.search import OutOfReachError, fit_by_search
from nbquant.analysis.statistics import Statistics
from nbquant.progress import Progress
from nbquant.quantization.ecsq import ECSQ
from nbquant.quantization.fitting import fit_quantizer
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Coding
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import Steps
from nbquant.quantization.streams import MEASURED
from nbquant.quantization.uniform import Uniform
from nbquant.required import SELECTION, require
from nbquant.storage.write import file_ledger

TRIES = 4  # between two points of the curve
CLOSE = 0.005  # of the target: near enough
FAR = 0.02  # so far from it, another start is worth a try
EXACT_TRIES = 8

TargetName = Literal["ratio", "rate", "levels", "lmbda", "step"]
PARAMETERS = {"lmbda": "ecsq", "step": "uniform"}
"""Targets that are a method's own parameter, and of which method."""


@dataclass(frozen=True)
class Target:
    """What is asked for.

    A compression ratio or more, a rate [bit/weight] or less, so many levels or fewer; or the very quantizer with this λ
    [loss/bit] or this step [weight].

    Raises:
        ValueError: A value that is not a finite number above zero.
    """

    name: TargetName
    value: float

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float | np.number):
            raise TypeError(f"{self.name} must be a number, but got {self.value!r}")
        if not np.isfinite(self.value) or self.value <= 0:
            raise ValueError(f"{self.name} must be finite and above 0, but got {self.value!r}")

    @staticmethod
    def of_point(point: OperatingPoint) -> "Target":
        """What leads to a point of a curve again: its λ or step, or all its levels."""
        if point.quantizer.method in RUNNERS:
            return Target("ratio", point.compression_ratio)
        name = point.quantizer.parameter
        return Target("levels", point.levels) if name == "levels" else Target(name, point.parameter)  # type: ignore[arg-type]

    @property
    def is_parameter(self) -> bool:
        """Whether it names one quantizer, so that there is nothing to search."""
        return self.name in PARAMETERS

    def met(self, point: OperatingPoint | Quantized) -> bool:
        """Whether the point is at the target or on its good side."""
        reached = self.quantity(point)
        if self.is_parameter:
            return reached == self.value
        return reached >= self.value if self.name == "ratio" else reached <= self.value

    def quantity(self, point: OperatingPoint | Quantized) -> float:
        """The targeted quantity at a point.

        Raises:
            ValueError: The parameter of another method.
        """
        if self.is_parameter:
            if point.quantizer.method != PARAMETERS[self.name]:
                raise ValueError(
                    f"{self.name} is a parameter of {PARAMETERS[self.name]}, but the method is "
                    f"{point.quantizer.method!r}: ask for {', '.join(targets_of(point.quantizer.method))}"
                )
            return float(getattr(point.quantizer, self.name))
        return point.compression_ratio if self.name == "ratio" else getattr(point, self.name)

    def is_close(self, point: OperatingPoint | Quantized, share: float = CLOSE) -> bool:
        """Whether a point that meets the target hardly exceeds it."""
        return abs(self.quantity(point) / self.value - 1) <= share

    def stricter(self, share: float) -> "Target":
        """The same target asked for with something to spare."""
        return Target(self.name, self.value * (1 + share) if self.name == "ratio" else self.value / (1 + share))


def targets_of(method: str) -> tuple[TargetName, ...]:
    """Names of the targets that a method can be given."""
    if method in RUNNERS:
        return "ratio", "rate"
    own: tuple[TargetName, ...] = tuple(n for n, m in PARAMETERS.items() if m == method)  # type: ignore[misc]
    return ("ratio", "rate", "levels", *own)


def solve(target: Target, points: Sequence[OperatingPoint], statistics: Statistics) -> OperatingPoint:
    """The point of least distortion that meets the target; that of the very quantizer, if λ or step is the target.

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
            f"{target.name} {target.value:g} is out of reach: {_title(points[0])} reaches {target.name} "
            f"{low:.3g} to {high:.3g} on this selection"
        )
    best = min(reached, key=lambda i: (points[i].distortion, points[i].rate))
    point = points[best]
    if best + 1 == len(points) or point.quantizer.method in ("kmeans", *RUNNERS):
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
    if within and points[0].quantizer.method == "ecsq" and points[0].quantizer.weighted:
        near = points[int(np.argmin(np.abs(np.log(values) - np.log(target.value))))]
    return point_at(method_of(points[0]), float(target.value), statistics, near)


def _starts(points: Sequence[OperatingPoint], best: int) -> Sequence[OperatingPoint | None]:
    """Where a search between ``best`` and the next finer point may set out from.

    As λ grows ECSQ's solution can jump, when two large clusters become one: from the finer side it stays what it is a
    little longer, from the coarser side likewise, and together they leave less of the gap that no solution fills.
    Where all h are taken for one, a search from nowhere finds the optimum in a millisecond, and goes first.
    """
    quantizer = points[best].quantizer
    if quantizer.method != "ecsq":
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
    method, met, missed = method_of(coarse), coarse, fine
    found: list[OperatingPoint] = []
    for i in range(TRIES):
        share = 0.5 if i % 2 else _share(target, met, missed)
        parameter = float(met.parameter ** (1 - share) * missed.parameter**share)
        tried = point_at(method, parameter, statistics, near)
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


def method_of(point: OperatingPoint | Quantized) -> Method:
    """The curve that a point lies on."""
    q = point.quantizer
    own = {name: getattr(q, name) for name in ("pinned_zero", "offset", "steps") if hasattr(q, name)}
    return Method(q.method, q.weighted, q.coding, q.per_layer, **own)


def fit(
    selection: Selection,
    method: str = ECSQ.method,
    *,
    ratio: float | None = None,
    rate: float | None = None,
    levels: int | None = None,
    lmbda: float | None = None,
    step: float | None = None,
    weighted: bool | None = None,
    coding: Coding | None = None,
    per_layer: bool | None = None,
    pinned_zero: bool | None = None,
    offset: float | None = Uniform.offset,
    steps: Steps | None = None,
    file_of: nn.Module | str | os.PathLike[str] | None = None,
    progress: Progress = True,
) -> Quantized:
    """Quantize a selection to a target.

    The point of least distortion on the method's curve at or beyond the target; what is returned is computed from the
    weights themselves and meets the target too. With ``lmbda`` or ``step`` it is that very quantizer. Options that are
    None have the default of the method's class.

    Args:
        selection: From :func:`nbquant.select`.
        method: "kmeans", "uniform", "ecsq", "trellis" or "feedback". The last two have no curve: they run on the
            weights, several times for a ratio or a rate; ``levels`` is no target of them. "feedback" knows the layers
            of a selection with a calibration, see :func:`nbquant.calibrate`, and without one it works as "trellis"
            does; it always works per layer.
        ratio: Least compression ratio of the selected weights.
        rate: Largest rate [bit/weight], side information included.
        levels: Largest number of reconstruction values.
        lmbda: For ECSQ, trellis and feedback: their λ [loss/bit].
        step: For uniform: the width of a cell [weight].
        weighted: Weigh by sensitivity.
        coding: "huffman" or "fixed" codeword lengths, "arithmetic" coding by frequencies, or adaptively by "context".
        per_layer: A codebook for each layer, or one for the whole selection.
        pinned_zero: For k-means: whether one of the levels is exactly zero.
        offset: For uniform: where the grid lies [steps], 0 with a cell centred on zero; None is what costs least, and
            so is any where zeros are left out as pruned.
        steps: For uniform and the trellis: "joint", or "equal slope" for steps of each layer's own, with ``per_layer``;
            without ``per_layer`` None is "joint".
        file_of: The module or path of a checkpoint that was selected from: then ``ratio`` is that of the whole file
            that :func:`nbquant.save` writes of it, with its header and all that is not quantized.
        progress: True for progress bars, False for none, or a callable told (done, total), which may raise to cancel.

    Raises:
        Cancelled: By ``progress``.
        ValueError: Not exactly one target; one out of reach (names the reachable range); the parameter of another
            method; an unknown method.
    """
    require("selection", selection, Selection, SELECTION)
    target = target_of(ratio=ratio, rate=rate, levels=levels, lmbda=lmbda, step=step)
    if file_of is not None and target.name != "ratio":
        raise ValueError(f"file_of goes with the target ratio, but {target.name} came: leave one of them out.")
    kinds = {**QUANTIZERS, **RUNNERS}
    if method not in kinds:
        raise ValueError(f"method must be one of {', '.join(kinds)}, but got {method!r}")
    if method in RUNNERS:
        selection.require_whole(method)
        if pinned_zero:
            raise ValueError(f"pinned_zero is an option of kmeans, but the method is {method!r}: leave it out")
        quantizer = runner(method, weighted, coding, per_layer, steps)
        if target.name == "lmbda":
            return quantizer(target.value).fit(selection, progress=progress)
        to_target = partial(fit_by_search, quantizer, selection, progress=progress)
    else:
        statistics = Statistics.of(selection, progress)
        asked = {"weighted": weighted, "coding": coding, "per_layer": per_layer, "pinned_zero": pinned_zero}
        options = {name: value for name, value in (*asked.items(), ("steps", steps)) if value is not None}
        points = curve(Method(method, offset=offset, **options), statistics)  # type: ignore[arg-type]
        to_target = partial(_on_curve, selection, points, statistics, progress)
    return to_target(target) if file_of is None else _fit_file(selection, target, to_target, file_of)


def _on_curve(
    selection: Selection,
    points: Sequence[OperatingPoint],
    statistics: Statistics,
    progress: Progress,
    target: Target,
) -> Quantized:
    return fit_to_target(selection, target, points, statistics, progress)


def _fit_file(
    selection: Selection,
    target: Target,
    to_target: Callable[[Target], Quantized],
    file_of: nn.Module | str | os.PathLike[str],
) -> Quantized:
    """The same for the whole file: what it holds beside the selection hardly depends on how that is quantized."""
    allowed = (selection.source_bits + selection.unselected_bits) / target.value
    aim = target
    for _ in range(EXACT_TRIES):
        try:
            quantized = to_target(aim)
        except ValueError as error:
            if aim is target:
                raise
            raise ValueError(f"for ratio {target.value:g} of the file the selection needs more: {error}") from None
        beside = file_ledger(quantized, file_of).total - quantized.ledger.total
        if quantized.ledger.total + beside <= allowed:
            return quantized
        left = allowed - beside
        if left <= 0:
            raise ValueError(
                f"a file of {allowed / 8:,.0f} bytes is required for ratio {target.value:g}, but header and what is "
                f"not quantized alone take {beside / 8:,.0f}: ask for less than "
                f"{target.value * allowed / beside:.3g}, or select more layers."
            )
        aim = Target("ratio", max(selection.source_bits / left, aim.stricter(1e-4).value))
    raise ValueError(f"no file of ratio {target.value:g} was found in {EXACT_TRIES} tries: ask for a little less.")


def fit_to_point(
    selection: Selection, point: OperatingPoint, statistics: Statistics, progress: Progress = False
) -> Quantized:
    """Quantize the weights themselves as at a point of a curve, going on from what its statistics know."""
    return fit_quantizer(
        point.quantizer,
        selection,
        start=point.clusters,
        zeros=statistics.zeros,
        positions=statistics.position_ledger,
        histograms=statistics.undamped(point.quantizer.per_layer),
        progress=progress,
    )


def fit_to_target(
    selection: Selection,
    target: Target,
    points: Sequence[OperatingPoint],
    statistics: Statistics,
    progress: Progress = False,
) -> Quantized:
    """Solve on the curve, then quantize the weights themselves, a little stricter where bins had rounded.

    Arithmetic coding takes another rate than the curve says. How far off that is hardly changes from point to point, so
    that the curve is asked again for what led to the target.
    """
    if target.is_parameter:
        return fit_to_point(selection, solve(target, points, statistics), statistics, progress)
    if points and points[0].quantizer.method in RUNNERS:
        return fit_between(selection, target, points, progress)
    measured = points and points[0].quantizer.coding in MEASURED and target.name != "levels"
    best, spare, gain = None, 0.0, 1.0
    for _ in range(EXACT_TRIES):
        aim = replace(target, value=gain * target.stricter(spare).value)
        if (spare or best) and not any(aim.met(p) for p in points):
            break
        point = solve(aim, points, statistics)
        quantized = fit_to_point(selection, point, statistics, progress)
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
        f"{target.name} {target.value:g} is at the edge of what {_title(points[0])} reaches on this selection: "
        f"the nearest fit has {target.name} {target.quantity(quantized):.4g}; ask for a little less"
    )


def target_of(**targets: float | None) -> Target:
    """The one target that is not None.

    Raises:
        ValueError: None or several were given.
    """
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        came = ", ".join(f"{k}={v!r}" for k, v in given.items()) or "none"
        raise ValueError(f"exactly one of {', '.join(targets)} is required, but got {came}")
    name, value = next(iter(given.items()))
    return Target(name, value)  # type: ignore[arg-type]


def _title(point: OperatingPoint) -> str:
    q = point.quantizer
    weighting = "Hessian-weighted" if q.weighted else "plain"
    return f"{weighting} {q.method} ({q.coding} code, {'per layer' if q.per_layer else 'joint'})"
