"""The accuracy that a quantized selection was found to lose."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AccuracyLoss:
    """Accuracy lost against the original on the same samples.

    Attributes:
        lost: Accuracy lost [percentage points]; negative if it rose.
        error: Standard error of ``lost``, paired over the labels [percentage points].
        confidence: Probability that no more than ``at_most`` is lost on other samples of the same kind, by the normal
            approximation.
        labels: Number of labels that it was measured on.
        at_most: What was allowed [percentage points].
    """

    lost: float
    error: float
    confidence: float
    labels: int
    at_most: float

    def __str__(self) -> str:
        return (
            f"{self.lost:.2f} ± {self.error:.2f} points of accuracy lost on {self.labels:,} labels; at most "
            f"{self.at_most:g} with a confidence of {self.confidence:.1%}"
        )
