"""The rate-distortion curve of a method on a selection."""

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
    """Operating points of one method, and what the weights themselves give at a target."""

    def toward(self, target: Target) -> Iterator[list[OperatingPoint]]:
        """Yield the points that there are, coarse to fine, until those around the target are close."""
        ...

    def fit(self, target: Target) -> Quantized:
        """Quantize the weights themselves to the target.

        Raises:
            nbquant.analysis.target.OutOfReachError: Names what is within reach.
        """
        ...


def curve_of(
    family: Family,
    selection: Selection,
    statistics: Statistics | None = None,
    points: Sequence[OperatingPoint] = (),
    progress: Progress = True,
) -> Curve:
    """The curve of a method: from histograms where it has one there, else by running.

    Args:
        family: The method with its options.
        selection: What to quantize.
        statistics: Of the selection, if they are at hand.
        points: Points where the method ran already.
        progress: See :data:`nbquant.progress.Progress`.
    """
    if family.method.curve is None:
        return RunningCurve(family, selection, points, progress)
    return TabulatedCurve(family, selection, statistics or Statistics.of(selection, progress), progress)
