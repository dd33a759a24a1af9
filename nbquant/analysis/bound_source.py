"""The source that a rate-distortion bound is of: cells of (h, w) of which sums, and where w and h lie, are known."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from nbquant.analysis.statistics import Statistics
from nbquant.kernels.reference import JOINT_SHIFT, ROW_KEYS, ROW_SHIFT, ZERO_KEY
from nbquant.quantization.histogram import HW, HWW, H, Histogram, N

WIDEST_BIN = 2.0  # of the width of its kernel; h counts as less where its kernel would be narrower
ROUNDING = 1e-12  # share of w², below which members of a bin have the same w

Cells = Float[np.ndarray, " m"]
Ends = Float[np.ndarray, "m 2"]


@dataclass(frozen=True)
class BoundSource:
    """Bins of a joint histogram, by row of h and ascending in w.

    Attributes:
        row: Place of each bin's row among those that occur.
        sums: For each bin n, Σh, Σhw, Σhw².
        sensitivity: Between which its members' h lie.
        weight: Between which their w lie.
        bin: Ends of the bin of the joint grid that they are in.
        lone: Whether they all have the same w.
    """

    row: Int64[np.ndarray, " m"]
    sums: Float[np.ndarray, "m 4"]
    sensitivity: Ends
    weight: Ends
    bin: Ends
    lone: Bool[np.ndarray, " m"]

    @staticmethod
    def of(source: Statistics | Histogram) -> "BoundSource":
        """All weights of a selection, those that are exactly zero and pruned among them."""
        offset = source.offset if isinstance(source, Statistics) else 0.0
        histogram = Histogram.merge(t.histogram for t in source.tensors) if isinstance(source, Statistics) else source
        bins = (histogram.damped(offset) if offset else histogram).joint
        row, sums = bins.row, bins.sums
        position, mean_h = sums[:, HW] / sums[:, H], sums[:, H] / sums[:, N]
        order = np.lexsort([position, row])
        row, sums, position, mean_h, key = row[order], sums[order], position[order], mean_h[order], bins.key[order]
        ends = _float32(np.stack([row, row + 1], axis=1) << ROW_SHIFT) + offset
        ends = np.stack([np.minimum(ends[:, 0], mean_h), np.maximum(ends[:, 1], mean_h)], axis=1)
        spread = sums[:, HWW] / sums[:, H] - position**2
        lone = (sums[:, N] == 1) | (spread <= ROUNDING * position**2) | (key % ROW_KEYS == ZERO_KEY)
        grid = _bin_ends(key % ROW_KEYS - ZERO_KEY)
        weight = np.where(lone[:, None], position[:, None], grid)
        weight = np.stack([np.minimum(weight[:, 0], position), np.maximum(weight[:, 1], position)], axis=1)
        return BoundSource(np.unique(row, return_inverse=True)[1], sums, ends, weight, grid, lone)

    @property
    def count(self) -> float:
        """Number of weights."""
        return float(self.sums[:, N].sum())

    def of_row(self, row: int) -> "BoundSource":
        """The part of one row."""
        here = self.row == row
        return BoundSource(
            row=self.row[here] * 0,
            sums=self.sums[here],
            sensitivity=self.sensitivity[here],
            weight=self.weight[here],
            bin=self.bin[here],
            lone=self.lone[here],
        )

    def __len__(self) -> int:
        return len(self.sums)


def _float32(bits: Int64[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Values of bit patterns; the largest number for infinity."""
    most = np.finfo(np.float32).max
    return np.minimum(np.minimum(bits, 0x7F800000).astype(np.uint32).view(np.float32).astype(np.float64), most)


def _bin_ends(offset: Int64[np.ndarray, " m"]) -> Ends:
    """Ends of the coarse bins of the joint grid that these keys, less that of zero, lie in."""
    negative = offset < 0
    place = np.where(negative, -1 - (offset >> JOINT_SHIFT), (offset - 1) >> JOINT_SHIFT)
    ends = _float32(np.maximum(np.stack([place, place + 1], axis=1), 0) << JOINT_SHIFT)
    return np.where(negative[:, None], -ends[:, ::-1], ends)


@dataclass(frozen=True)
class Symbols:
    """Cells merged for one slope t = ln 2/λ, each at the mean of w and, for the certificate, at two ends of h.

    What the certificate takes for h is ``scale`` times h, at most 1: a bound for less loss is one for the loss.

    Attributes:
        share: P of each, of all weights of the source they are of.
        mean_h: Mean h of each [loss/weight²].
        position: Σhw/Σh.
        spread: Σhw²/Σh − position².
        scale: What the certificate multiplies h by.
        end_h: h at both ends, scaled.
        end_share: Share of the weights that is taken to have either; together they have the mean h.
        end_position: Mean w of either, as far as it is known.
        between: Of either, P·E(w − W)² by what is known.
        within: Σh(w − W)² over both ends by what is not [loss].
        drift: How far Σh(w − W) of an end can lie from zero [loss/weight].
        reach: Largest |w − W|.
        gain: Least Σh(w − W)² over both ends, scaled [loss].
    """

    share: Cells
    mean_h: Cells
    position: Cells
    spread: Cells
    scale: Cells
    end_h: Ends
    end_share: Ends
    end_position: Ends
    between: Ends
    within: Cells
    drift: Cells
    reach: Cells
    gain: Cells

    @staticmethod
    def of(source: BoundSource, slope: float, spacing: "Spacing", merged: float) -> "Symbols":
        """Merge neighbouring bins of a row within ``merged`` times the width of their kernel, (t·h)^(−1/2)."""
        n, mass, hw, _ = source.sums.T
        count = n.sum()
        per_row = np.bincount(source.row, mass) / np.bincount(source.row, n)
        position, mean_h = hw / mass, mass / n
        index = np.floor(position * (np.sqrt(slope * per_row[source.row]) / merged))
        first = np.flatnonzero((np.diff(index, prepend=np.nan) != 0) | (np.diff(source.row, prepend=-1) != 0))
        place = np.repeat(np.arange(len(first)), np.diff(first, append=len(n)))

        def total(values: np.ndarray) -> np.ndarray:
            return np.add.reduceat(values, first, axis=0)

        sums = total(source.sums)
        h0, h1 = (
            np.minimum.reduceat(source.sensitivity[:, 0], first),
            np.maximum.reduceat(source.sensitivity[:, 1], first),
        )
        low, high = np.minimum.reduceat(source.weight[:, 0], first), np.maximum.reduceat(source.weight[:, 1], first)
        center = sums[:, HW] / sums[:, H]
        finest = np.maximum(spacing.at(center), (high - low) / WIDEST_BIN)
        finest = np.where((high == low) & spacing.holds(center), 0.0, finest)
        scale = np.minimum(1.0, 1 / np.maximum(slope * h1 * finest**2, 1e-300))

        width = np.maximum(h1 - h0, 1e-300)[place]
        upper = np.clip((mean_h - h0[place]) / width, 0.0, 1.0)
        rho = np.stack([1 - upper, upper], axis=1)
        end_n = total(n[:, None] * rho)
        known = total(n[:, None] * rho * position[:, None])
        end_position = np.where(end_n > 0, known / np.where(end_n > 0, end_n, 1), center[:, None])
        away = position[:, None] - end_position[place]
        own = np.where(source.lone, 0.0, np.maximum(source.sums[:, HWW] / mass - position**2, 0.0))
        lean = n * np.sqrt(own * rho[:, 0] * h0[place] * rho[:, 1] * h1[place])
        h = np.stack([h0, h1], axis=1)
        cross = total(2 * np.abs(away).sum(axis=1) * lean)
        between = total(n[:, None] * rho * away**2)
        within = total(mass * own)
        drift = total(lean)
        gain = within + (h * between).sum(axis=1) - 2 * drift * np.abs(end_position[:, 1] - end_position[:, 0])
        reach = np.maximum(high - end_position.min(axis=1), end_position.max(axis=1) - low)
        return Symbols(
            share=sums[:, N] / count,
            mean_h=sums[:, H] / sums[:, N],
            position=center,
            spread=np.maximum(sums[:, HWW] / sums[:, H] - center**2, 0.0),
            scale=scale,
            end_h=h * scale[:, None],
            end_share=end_n / count,
            end_position=end_position,
            between=between / count,
            within=(within + cross) * scale / count,
            drift=drift * scale / count,
            reach=reach,
            gain=np.maximum(gain, 0.0) * scale / count,
        )


@dataclass(frozen=True)
class Spacing:
    """How far apart reproduction values are: evenly near zero, in proportion to |w| away from it, as the bins are.

    Attributes:
        least: Near zero [weight].
        slope: Times |w| elsewhere.
        extra: Values that are among them besides.
    """

    least: float
    slope: float
    extra: Float[np.ndarray, " e"]

    def at(self, position: Cells) -> Cells:
        """Distance of neighbours there."""
        return np.maximum(self.least, self.slope * np.abs(position))

    def holds(self, position: Cells) -> Bool[np.ndarray, " m"]:
        """Which positions are among the extra ones."""
        if not self.extra.size:
            return np.zeros(len(position), bool)
        i = np.searchsorted(self.extra, position)
        near = [self.extra[np.clip(j, 0, len(self.extra) - 1)] - position for j in (i - 1, i)]
        return np.minimum(*np.abs(near)) <= ROUNDING * np.abs(position)

    def values(self, low: float, high: float) -> Float[np.ndarray, " c"]:
        """Those from ``low`` to ``high``, both among them."""
        most = max(abs(low), abs(high))
        turn = self.least / self.slope
        even = np.arange(1, math.ceil(min(turn, most) / self.least) + 1) * self.least
        steps = math.ceil(np.log(max(most / turn, 1.0)) / np.log1p(self.slope))
        up = np.concatenate([even, max(turn, even[-1]) * (1 + self.slope) ** np.arange(1, steps + 1)])
        inner = np.concatenate([-up[::-1], [0.0], up])
        inner = inner[(inner > low) & (inner < high)]
        return np.unique(np.concatenate([[low], inner, [high], self.extra]))
