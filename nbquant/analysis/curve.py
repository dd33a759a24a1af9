"""Interface of a method's rate-distortion curve on a selection."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.running import RunningCurve
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import TabulatedCurve
from nbquant.analysis.target import Target
from nbquant.progress import Progress
from nbquant.quantization.method import Family
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection


class Curve(Protocol):
    """The rate-distortion curve of a method: operating points, and fits to a target."""

    def toward(self, target: Target) -> Iterator[list[OperatingPoint]]:
        """Yield the points known so far, coarse to fine, until those around the target are close."""
        ...

    def left(self, points: Sequence[OperatingPoint], target: Target) -> int:
        """Estimate how many more runs on the weights :meth:`toward` will make, after it has yielded some points."""
        ...

    def fit(self, target: Target) -> Quantized:
        """Quantize the weights themselves to the target.

        Raises:
            nbquant.analysis.target.OutOfReachError: Names the reachable range.
        """
        ...


def curve_of(
    family: Family,
    selection: Selection,
    statistics: Statistics | None = None,
    points: Sequence[OperatingPoint] = (),
    progress: Progress = True,
) -> Curve:
    """Choose the kind of curve for a method: from histograms if it supports them, else from runs.

    Args:
        family: The method with its options.
        selection: What to quantize.
        statistics: Statistics of the selection, if at hand.
        points: Points from earlier runs.
        progress: See :data:`nbquant.progress.Progress`.
    """
    if family.method.curve is None:
        return RunningCurve(family, selection, points, progress)
    return TabulatedCurve(family, selection, statistics or Statistics.of(selection, progress), progress)
