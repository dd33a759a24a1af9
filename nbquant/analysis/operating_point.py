"""Operating points: a quantizer with its rate and predicted loss."""

from collections.abc import Mapping
from dataclasses import dataclass

from nbquant.analysis.statistics import Statistics
from nbquant.coding.ledger import Ledger
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.quantizer import Quantizer, ScalarQuantizer
from nbquant.quantization.rate import code_ledger, lengths_for


@dataclass(frozen=True)
class OperatingPoint:
    """A quantizer applied to a selection's histograms; equals :meth:`Quantizer.fit` to within a bin's width.

    Attributes:
        quantizer: The quantizer with its parameter.
        clusters: Clusters by group: one group "all", or one per layer.
        ledger: Every stored bit of the selection, by part.
        weights: Number of weights N.
        source_bits: Bits of the selected weights before quantization.
    """

    quantizer: Quantizer
    clusters: Mapping[str, Clusters]
    ledger: Ledger
    weights: int
    source_bits: int

    def __repr__(self) -> str:
        return (
            f"OperatingPoint({self.quantizer}, {self.levels} levels, rate {self.rate:.4g} bit/weight, "
            f"{self.compression_ratio:.4g}×, predicted loss increase {self.predicted_loss_increase:.3g})"
        )

    @property
    def parameter(self) -> float:
        """Value of the argument that sets the rate: levels, step [weight] or λ [loss/bit]."""
        value: float = getattr(self.quantizer, self.quantizer.parameter.name)
        return value

    @property
    def levels(self) -> int:
        """Number of reconstruction values in use, over all groups."""
        return sum(len(c.codebook) for c in self.clusters.values())

    @property
    def rate(self) -> float:
        """Rate R [bit/weight], side information included."""
        return self.ledger.total / self.weights

    @property
    def compression_ratio(self) -> float:
        """Bits before quantization over stored bits."""
        return self.source_bits / self.ledger.total

    @property
    def predicted_loss_increase(self) -> float:
        """N·D = ½ Σ h (w − c)² [loss]."""
        return sum(c.loss for c in self.clusters.values())

    @property
    def distortion(self) -> float:
        """Distortion D [loss/weight]."""
        return self.predicted_loss_increase / self.weights


def operating_point(quantizer: Quantizer, statistics: Statistics, near: OperatingPoint | None = None) -> OperatingPoint:
    """Compute the operating point of a quantizer from histograms, in milliseconds whatever the number of weights.

    Args:
        quantizer: The quantizer.
        statistics: Statistics of the selection.
        near: Point of the same method and selection at a nearby parameter, from which a local search may start.
    """
    scalar: ScalarQuantizer = quantizer  # type: ignore[assignment]  # as it is on a curve
    cells = statistics.cells(scalar.weighted, scalar.needs_rows, scalar.per_layer)
    found = {g: scalar.clusters(c, near.clusters[g] if near is not None else None) for g, c in cells.items()}
    return point_of_clusters(quantizer, found, statistics)


def point_of_clusters(quantizer: Quantizer, clusters: Mapping[str, Clusters], statistics: Statistics) -> OperatingPoint:
    """Make the operating point of given clusters by counting its bits."""
    zeros = statistics.zeros_ledger(quantizer.coding)
    ledger = sum((_ledger(c, quantizer.coding, statistics.bits) for c in clusters.values()), zeros)
    return OperatingPoint(quantizer, clusters, ledger, statistics.weights, statistics.source_bits)


def _ledger(clusters: Clusters, coding: str, bits: int) -> Ledger:
    return code_ledger(clusters.counts, lengths_for(clusters.counts, coding), coding, bits)
