"""Compute all curves of a selection in the background, the chosen one first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nbquant.analysis.bounds import rate_distortion_bound
from nbquant.analysis.curve import curve_of
from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.analysis.target import Target
from nbquant.kernels.precompile import precompile
from nbquant.progress import Progress
from nbquant.quantization import methods
from nbquant.quantization.method import Family
from nbquant.quantization.moments import Calibration
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.sensitivity.result import Sensitivity
from nbquant.views.bound import PICTURE_GAP, BoundData, bound_data
from nbquant.widgets.jobs.exact import damped
from nbquant.widgets.jobs.jobs import Jobs
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.weights import Weights
from nbquant.widgets.settings import Settings

SLOT = "curves"
KERNELS = "kernels"  # compiled ahead of the first curves
QUIET = 0.5  # s that it takes before a word is said about it: mostly they are read from a cache
BOUND = "bound"  # beside the curves, as it is of the same weights
CALIBRATION = "calibration"  # likewise

Curves = dict[tuple[str, bool], list[OperatingPoint]]


@dataclass(frozen=True, eq=False)
class CurveInputs:
    """Inputs that curves were computed from.

    Attributes:
        settings: Settings for which they were asked; of the target and the chosen method newer ones count.
        weights: Where the selection was taken from.
        selection: The weights, with their sensitivities undamped.
        statistics: Of them, damped.
    """

    settings: Settings
    weights: Weights
    selection: Selection
    statistics: Statistics


class CurvePass:
    """Computes the curves of the newest settings, and drops those that are no longer asked for."""

    def __init__(
        self,
        jobs: Jobs,
        show: Callable[[CurveInputs, Curves], None],
        wanted: Callable[[], Settings],
        calibrate: Callable[[Report], Calibration],
    ) -> None:
        """Run in the slot "curves" of ``jobs``; in "kernels", what the first pass needs is compiled meanwhile.

        Args:
            jobs: Where to run.
            show: Gets what was found so far, under the lock: first the chosen curve, in the end all.
            wanted: The settings as they are now, of which method and target count.
            calibrate: Finds the calibration that error feedback needs.
        """
        self._jobs, self._show, self._wanted, self._calibrate = jobs, show, wanted, calibrate
        jobs.start(KERNELS, "Compiling kernels", precompile, lambda _: None, QUIET)

    def start(self, settings: Settings, weights: Weights, selection: Selection, last: CurveInputs | None) -> None:
        """Go for the curves of a selection; what ``last`` knows of it is not computed again."""
        inputs = _inputs(settings, weights, selection, last)

        def work(report: Report) -> tuple[CurveInputs, Curves]:
            basis = inputs(report)
            found: Curves = {}
            keys = tabulated_pairs()
            while len(found) < len(keys):
                left = [key for key in keys if key not in found]
                chosen = self._wanted().key
                key = chosen if chosen in left else left[0]
                found[key] = curve(settings.family(*key), basis.statistics)
                with self._jobs.lock:
                    report(len(found), len(keys))
                    if key == self._wanted().key:
                        self._show(basis, dict(found))
            if BOUND not in basis.statistics.curves:
                basis.statistics.curves[BOUND] = bound_of(basis.statistics, lambda *_: report(len(found), len(keys)))
            found = _ran(basis.statistics) | found
            wanted = self._wanted()
            if wanted.record.curve is None:
                return self._run(wanted, basis, found, report)
            return basis, found

        self._jobs.start(SLOT, "Computing curves", work, lambda result: self._show(*result))

    def quantizing(
        self, settings: Settings, weights: Weights, selection: Selection, last: CurveInputs | None
    ) -> Callable[[Target, Report], Quantized]:
        """Get what quantizes a selection to any target by the method of any settings; arguments as of :meth:`start`."""
        inputs = _inputs(settings, weights, selection, last)
        found: CurveInputs | None = None

        def work(target: Target, report: Report) -> Quantized:
            nonlocal found
            found = basis = found or self._calibrated(settings, inputs(report), report)
            family = settings.family(*settings.key)
            known: Any = basis.statistics.curves.get(family, [])
            selection = _weighed(basis, settings)
            return curve_of(family, selection, basis.statistics, known, report).fit(target)

        return work

    def _calibrated(self, settings: Settings, basis: CurveInputs, report: Report) -> CurveInputs:
        """The same with the calibration of its weights, where the method needs one."""
        if not settings.record.needs_calibration:
            return basis
        known: dict[Any, Any] = basis.statistics.curves
        if CALIBRATION not in known:
            known[CALIBRATION] = self._calibrate(report)
        return replace(basis, selection=replace(basis.selection, calibration=known[CALIBRATION]))

    def _run(self, wanted: Settings, basis: CurveInputs, found: Curves, report: Report) -> tuple[CurveInputs, Curves]:
        """The curve of a method that has to run, shown as it grows; what ran is kept with the statistics."""
        known: dict[Any, Any] = basis.statistics.curves
        basis = self._calibrated(wanted, basis, report)
        here = wanted.family(*wanted.key)
        selection = _weighed(basis, wanted)
        made: list[OperatingPoint] = known.get(here, [])
        ran = left = 0

        def within(done: float, total: float | None) -> None:
            report(ran + (done / total if total else 0.0), float(ran + max(left, 1)))

        running = curve_of(here, selection, points=made, progress=within)
        title, parameter = wanted.record.title, wanted.record.parameter

        def name(newest: Sequence[OperatingPoint]) -> None:
            nonlocal left
            left = running.left(made, wanted.target)
            gave = "".join(f"; {parameter.symbol} = {p.parameter:.3g} gave {p.compression_ratio:.3g}×" for p in newest)
            self._jobs.rename(SLOT, f"Running {title}, run {ran + 1} of about {ran + max(left, 1)}{gave}")

        name([])
        for points in running.toward(wanted.target):
            before, ran = set(map(id, made)), ran + 1
            made = known[here] = points
            name([p for p in points if id(p) not in before])
            with self._jobs.lock:
                within(0, None)
                if wanted.key == self._wanted().key and any(wanted.target.met(p) for p in points):
                    self._show(basis, {**found, wanted.key: points})
        return basis, {**found, wanted.key: known.get(here, [])}


def _weighed(basis: CurveInputs, settings: Settings) -> Selection:
    """The selection as it is counted; kept where a method chooses among results that it keeps for it."""
    if settings.record.needs_calibration:
        return basis.selection.damped(basis.statistics.offset)
    return damped(basis.selection, basis.statistics, keep=settings.record.corners is not None)


def _ran(statistics: Statistics) -> Curves:
    """What methods without a curve found on this selection, each with the options it ran with last."""
    known = [points for family, points in statistics.curves.items() if isinstance(family, Family) and points]
    ran = [points for points in known if methods.of(points[0].quantizer).curve is None]
    return {(points[0].quantizer.method, points[0].quantizer.weighted): points for points in ran}


def bound_of(statistics: Statistics, progress: Progress) -> BoundData | None:
    """Compute the rate-distortion bound, as near as a picture shows it; None where all weights are alike or zero."""
    try:
        return bound_data(rate_distortion_bound(statistics, gap=PICTURE_GAP, progress=progress), statistics)
    except ValueError:
        return None


def _inputs(
    settings: Settings, weights: Weights, selection: Selection, last: CurveInputs | None
) -> Callable[[Report], CurveInputs]:
    """Get what finds the inputs of curves; what ``last`` knows of the same weights is not computed again."""
    look, offset = weights.looking_at(selection), _offset(weights.sensitivity, settings.damping)
    known = last is not None and last.weights is weights and last.selection.layers == selection.layers
    same = last.statistics if last is not None and known and last.statistics.offset == offset else None
    return lambda report: CurveInputs(
        settings, weights, selection, look(report).damped(offset) if same is None else same
    )


def _offset(sensitivity: Sensitivity | None, damping: float) -> float:
    """Compute what damping adds to each h [loss/weight²]."""
    return damping * sensitivity.mean if sensitivity is not None and damping else 0.0
