"""Rate-distortion curves as plain arrays, for a front end that moves along them without the kernel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.target import check_target
from nbquant.coding.ledger import Ledger
from nbquant.quantization import methods
from nbquant.quantization.clustering import WHOLE
from nbquant.quantization.rate import lengths_for

ALWAYS = 40.0  # ratio up to which a curve is shown whatever the loss
SATURATED = 0.5  # share of the greatest loss of a curve


@dataclass(frozen=True, eq=False)
class LiveTable:
    """Points of a curve, coarse to fine, with the clusters of one group, as flat arrays.

    The clusters of point i are the entries ``start[i]`` to ``start[i + 1] - 1``.

    Attributes:
        method: Name of the method.
        weighted: Whether it is weighted by sensitivity.
        coding: Name of the code, such as "huffman".
        parameter: Name of the curve's parameter: "levels", "step" [weight] or "lmbda" [loss/bit].
        mean_h: Mean sensitivity of the group's weights [loss/weight²].
        source_bits: Bits of the selected weights before quantization.
        weights: Number of weights of the selection.
        ratio: Compression ratio.
        rate: R [bit/weight].
        loss: Predicted loss increase [loss].
        value: Value of the parameter.
        levels: Number of reconstruction values, over all groups.
        ledger: Each part of the file, in order [bit].
        start: First entry of each point, and last the number of entries.
        centre: Reconstruction values c, ascending within a point.
        count: Number of weights in each cluster.
        length: Length of each codeword [bit].
        threshold: Boundary between each cluster and the next of its point, NaN for the last; None where boundaries
            depend on h.
    """

    method: str
    weighted: bool
    coding: str
    parameter: str
    mean_h: float
    source_bits: int
    weights: int
    ratio: Float[np.ndarray, " p"]
    rate: Float[np.ndarray, " p"]
    loss: Float[np.ndarray, " p"]
    value: Float[np.ndarray, " p"]
    levels: Float[np.ndarray, " p"]
    ledger: dict[str, Float[np.ndarray, " p"]]
    start: Int32[np.ndarray, " p+1"]
    centre: Float32[np.ndarray, " m"]
    count: Float32[np.ndarray, " m"]
    length: Float32[np.ndarray, " m"]
    threshold: Float32[np.ndarray, " m"] | None

    def find(self, driver: str, value: float) -> int:
        """Find the point from which :func:`nbquant.analysis.tabulated.solve` starts.

        It is the point of least loss among those that meet the target; of equal ones the lowest rate, then the first.
        For λ and step it is the nearest in logarithms. A front end does the same.

        Args:
            driver: Name of the target.
            value: Value of the target.

        Returns:
            Index of the point; −1 if none meets the target.

        Raises:
            ValueError: The parameter of another method, or a value that is not above zero.
        """
        check_target(driver, self.method)
        if not value > 0:
            raise ValueError(f"{driver} must be above 0, but is {value!r}")
        known = {"ratio": self.ratio >= value, "rate": self.rate <= value, "levels": self.levels <= value}
        if driver not in known:
            return int(np.abs(np.log(self.value / value)).argmin())
        met = known[driver]
        among = np.flatnonzero(met)
        return int(among[np.lexsort([self.rate[among], self.loss[among]])[0]]) if len(among) else -1


def live_table(points: Sequence[OperatingPoint], group: str, unquantized_bits: int, mean_h: float = 1.0) -> LiveTable:
    """Gather the points of a curve into arrays.

    Args:
        points: A method's curve, at least one point.
        group: Group whose clusters are included.
        unquantized_bits: Bits of the unquantized tensors; the last part of the ledger.
        mean_h: See :func:`mean_of_cells`.

    Raises:
        ValueError: No points, or a group that they do not have.
    """
    if not points:
        raise ValueError("at least one operating point is required, but got none: every weight is exactly zero")
    if group not in points[0].clusters:
        raise ValueError(f"group must be one of {', '.join(map(repr, points[0].clusters))}, but is {group!r}")
    quantizer = points[0].quantizer
    clusters = [p.clusters[group] for p in points]
    ledgers = [p.ledger + Ledger(unquantized=unquantized_bits) for p in points]
    parts = dict.fromkeys(part for ledger in ledgers for part in ledger)
    ends = [np.append(c.threshold, np.nan) for c in clusters if c.threshold is not None]
    return LiveTable(
        method=quantizer.method,
        weighted=quantizer.weighted,
        coding=quantizer.coding,
        parameter=quantizer.parameter.name,
        mean_h=mean_h,
        source_bits=points[0].source_bits,
        weights=points[0].weights,
        ratio=np.array([p.compression_ratio for p in points]),
        rate=np.array([p.rate for p in points]),
        loss=np.array([p.predicted_loss_increase for p in points]),
        value=np.array([p.parameter for p in points], np.float64),
        levels=np.array([p.levels for p in points], np.float64),
        ledger={part: np.array([ledger.get(part, 0) for ledger in ledgers], np.float64) for part in parts},
        start=np.cumsum([0, *(len(c.codebook) for c in clusters)], dtype=np.int32),
        centre=np.concatenate([c.codebook for c in clusters]).astype(np.float32),
        count=np.concatenate([c.counts for c in clusters]).astype(np.float32),
        length=np.concatenate([lengths_for(c.counts, quantizer.coding) for c in clusters]).astype(np.float32),
        threshold=np.concatenate(ends).astype(np.float32) if len(ends) == len(clusters) else None,
    )


def largest_ratio(ratio: Float[np.ndarray, " p"], loss: Float[np.ndarray, " p"]) -> float:
    """Compute the largest compression ratio of a curve that is worth showing.

    Arithmetic codes reach arbitrarily high ratios; the limit is where half of the greatest loss is reached.

    Args:
        ratio: Compression ratios, at least one.
        loss: Predicted loss increase at each [loss].
    """
    kept = (ratio <= ALWAYS) | (loss <= SATURATED * loss.max())
    return float(ratio[kept].max()) if kept.any() else float(ratio.min())


def mean_of_cells(point: OperatingPoint, statistics: Statistics, group: str) -> float:
    """Compute the mean h of a group's weights [loss/weight²], at which cells that depend on h are drawn; 0 if unknown.

    The zeros of a pruned selection are left out; 1 if there are no other weights.
    """
    if methods.of(point.quantizer).curve is None:
        return 0.0
    histogram = statistics.histogram if group == WHOLE else statistics.histograms[group]
    return histogram.mass / len(histogram) if len(histogram) else 1.0
