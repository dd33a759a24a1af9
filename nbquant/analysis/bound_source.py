"""Discrete source of a rate-distortion bound: bins of (h, w) with known sums and known ranges of h and w."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from nbquant.analysis.statistics import Statistics
from nbquant.kernels.keys import JOINT_SHIFT, ROW_KEYS, ROW_SHIFT, ZERO_KEY
from nbquant.quantization.histogram import HW, HWW, H, Histogram, N

WIDEST_BIN = 2.0  # bin width over kernel width; h is scaled down where the kernel would be narrower
ROUNDING = 1e-12  # spread over w² below which all members of a bin count as equal

Cells = Float[np.ndarray, " m"]
Ends = Float[np.ndarray, "m 2"]


@dataclass(frozen=True)
class BoundSource:
    """Bins of a joint histogram, sorted by row of h, then by w.

    Attributes:
        row: Index of each bin's row among the occupied rows.
        sums: n, Σh, Σhw, Σhw² of each bin.
        sensitivity: Least and largest h of each bin's members.
        weight: Least and largest w of each bin's members.
        bin: Ends of the joint grid's bin that holds them.
        lone: Whether all members have the same w.
    """

    row: Int64[np.ndarray, " m"]
    sums: Float[np.ndarray, "m 4"]
    sensitivity: Ends
    weight: Ends
    bin: Ends
    lone: Bool[np.ndarray, " m"]

    @staticmethod
    def of(source: Statistics | Histogram) -> "BoundSource":
        """Make the source of all weights of a selection, pruned zeros included."""
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
        """Select the part of the source in one row."""
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
    """Floats of bit patterns; infinity becomes the largest finite number."""
    most = np.finfo(np.float32).max
    return np.minimum(np.minimum(bits, 0x7F800000).astype(np.uint32).view(np.float32).astype(np.float64), most)


def _bin_ends(offset: Int64[np.ndarray, " m"]) -> Ends:
    """Ends of the joint grid's coarse bins with these keys, relative to the key of zero."""
    negative = offset < 0
    place = np.where(negative, -1 - (offset >> JOINT_SHIFT), (offset - 1) >> JOINT_SHIFT)
    ends = _float32(np.maximum(np.stack([place, place + 1], axis=1), 0) << JOINT_SHIFT)
    return np.where(negative[:, None], -ends[:, ::-1], ends)


@dataclass(frozen=True)
class Symbols:
    """Source symbols for one slope t = ln 2/λ: merged bins at their mean w, split into two ends of h.

    The certificate uses ``scale`` ≤ 1 times h: a lower bound for a smaller loss is a lower bound for the loss.

    Attributes:
        share: Probability P of each symbol among all weights of the source.
        mean_h: Mean h of each [loss/weight²].
        position: Σhw/Σh.
        spread: Σhw²/Σh − position².
        scale: Factor on h in the certificate.
        end_h: h at both ends, scaled.
        end_share: Probability of each end; the mean over both ends is the mean h.
        end_position: Mean w of each end, as far as it is known.
        between: P·E(w − W)² of each end, the known part.
        within: Σh(w − W)² over both ends, the unknown part [loss].
        drift: Largest possible |Σh(w − W)| of an end [loss/weight].
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
        """Merge neighbouring bins of a row within ``merged`` kernel widths (t·h)^(−1/2)."""
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
    """Spacing of reproduction values: constant near zero, proportional to |w| beyond, like the histogram's bins.

    Attributes:
        least: Spacing near zero [weight].
        slope: Spacing over |w| elsewhere.
        extra: Additional reproduction values.
    """

    least: float
    slope: float
    extra: Float[np.ndarray, " e"]

    def at(self, position: Cells) -> Cells:
        """Spacing at these positions."""
        return np.maximum(self.least, self.slope * np.abs(position))

    def holds(self, position: Cells) -> Bool[np.ndarray, " m"]:
        """Mask of the positions that are additional values."""
        if not self.extra.size:
            return np.zeros(len(position), bool)
        i = np.searchsorted(self.extra, position)
        near = [self.extra[np.clip(j, 0, len(self.extra) - 1)] - position for j in (i - 1, i)]
        return np.minimum(*np.abs(near)) <= ROUNDING * np.abs(position)

    def values(self, low: float, high: float) -> Float[np.ndarray, " c"]:
        """Reproduction values from ``low`` to ``high``, both included."""
        most = max(abs(low), abs(high))
        turn = self.least / self.slope
        even = np.arange(1, math.ceil(min(turn, most) / self.least) + 1) * self.least
        steps = math.ceil(np.log(max(most / turn, 1.0)) / np.log1p(self.slope))
        up = np.concatenate([even, max(turn, even[-1]) * (1 + self.slope) ** np.arange(1, steps + 1)])
        inner = np.concatenate([-up[::-1], [0.0], up])
        inner = inner[(inner > low) & (inner < high)]
        return np.unique(np.concatenate([[low], inner, [high], self.extra]))
