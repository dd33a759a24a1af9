"""What is aimed at: a target on a selection, and the exact pass over its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.solve import Target, fit_to_target
from nbquant.analysis.statistics import Statistics
from nbquant.progress import Progress
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection


@dataclass(frozen=True, eq=False)
class Aim:
    """A target with all that it was chosen from.

    Attributes:
        point: The operating point found there.
        ratio: Compression ratio that was asked for: levels reach several, but what the weights give must meet this one.
        curve: Operating points of the same method.
        statistics: Of the selection, damped.
        selection: The weights, with their sensitivities undamped.
    """

    point: OperatingPoint
    ratio: float
    curve: Sequence[OperatingPoint]
    statistics: Statistics
    selection: Selection

    def is_at(self, other: "Aim | None") -> bool:
        """Whether the exact pass of both gives the same."""
        return (
            other is not None
            and self.statistics is other.statistics
            and self.ratio == other.ratio
            and self.point.quantizer == other.point.quantizer
        )

    def quantize(self, progress: Progress) -> Quantized:
        """Quantize the weights themselves."""
        selection = self.selection.damped(self.statistics.offset)
        return fit_to_target(selection, Target("ratio", self.ratio), self.curve, self.statistics, progress)
