"""A whole curve as plain arrays, from which a front end draws every point of it without asking."""

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

ALWAYS = 40.0  # ratio up to which a curve is looked at whatever is lost
SATURATED = 0.5  # of the greatest loss of a curve


@dataclass(frozen=True, eq=False)
class LiveTable:
    """Points of a curve, coarse to fine, with the clusters of one group.

    Those of point i are the entries ``start[i]`` to ``start[i + 1] - 1``.

    Attributes:
        method: Name of the method.
        weighted: Weighed by sensitivity.
        coding: "huffman", "fixed" or "context".
        parameter: Name of what runs along the curve: "levels", "step" [weight] or "lmbda" [loss/bit].
        mean_h: Mean sensitivity of the group's weights [loss/weight²].
        source_bits: Bits of the selected weights before.
        weights: Number of weights of the selection.
        ratio: Compression ratio.
        rate: R [bit/weight].
        loss: Predicted loss increase [loss].
        value: The parameter.
        levels: Number of reconstruction values, of all groups.
        ledger: Every part of the file that is known beforehand, in order [bit].
        start: First entry of each point, and the number of entries.
        centre: Reconstruction values c, ascending within a point.
        count: Members of each cluster.
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
        """The point that :func:`nbquant.analysis.tabulated.solve` sets out from.

        That of least loss among those that meet the target, of equal ones that of least rate, then the first; for λ and
        step the nearest in logarithms. A front end does the same.

        Args:
            driver: What is asked for.
            value: How much of it.

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
    """Gather a curve.

    Args:
        points: A method's curve, at least one point.
        group: Group whose clusters are wanted.
        unquantized_bits: Bits of what is stored as it is; the last part of the ledger.
        mean_h: See :func:`mean_of_cells`.

    Raises:
        ValueError: No points, or a group that they do not have.
    """
    if not points:
        raise ValueError("at least one operating point is required, but none came: every weight is exactly zero")
    if group not in points[0].clusters:
        raise ValueError(f"group must be one of {', '.join(map(repr, points[0].clusters))}, but is {group!r}")
    quantizer = points[0].quantizer
    clusters = [p.clusters[group] for p in points]
    ledgers = [p.ledger + Ledger(unquantized=unquantized_bits) for p in points]
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
        ledger={part: np.array([ledger[part] for ledger in ledgers], np.float64) for part in ledgers[0]},
        start=np.cumsum([0, *(len(c.codebook) for c in clusters)], dtype=np.int32),
        centre=np.concatenate([c.codebook for c in clusters]).astype(np.float32),
        count=np.concatenate([c.counts for c in clusters]).astype(np.float32),
        length=np.concatenate([lengths_for(c.counts, quantizer.coding) for c in clusters]).astype(np.float32),
        threshold=np.concatenate(ends).astype(np.float32) if len(ends) == len(clusters) else None,
    )


def largest_ratio(ratio: Float[np.ndarray, " p"], loss: Float[np.ndarray, " p"]) -> float:
    """Largest compression ratio of a curve that is worth looking at.

    With an arithmetic code next to nothing can be told in next to no bits: beyond, half of what can be lost is.

    Args:
        ratio: Compression ratios, at least one.
        loss: Predicted loss increase at each [loss].
    """
    kept = (ratio <= ALWAYS) | (loss <= SATURATED * loss.max())
    return float(ratio[kept].max()) if kept.any() else float(ratio.min())


def mean_of_cells(point: OperatingPoint, statistics: Statistics, group: str) -> float:
    """Mean h of a group's weights [loss/weight²], at which cells that depend on h are drawn; 0 if none can be drawn.

    Without the zeros of a pruned selection; 1 if there are no other weights.
    """
    if methods.of(point.quantizer).curve is None:
        return 0.0
    histogram = statistics.histogram if group == WHOLE else statistics.histograms[group]
    return histogram.mass / len(histogram) if len(histogram) else 1.0
