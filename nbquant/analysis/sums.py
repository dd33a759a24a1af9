"""Sums of any subset of histograms, at a cost that hardly grows with their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64

from nbquant.analysis.recent import Recent
from nbquant.kernels.cpu import histogram as kernels
from nbquant.quantization.histogram import Bins, Histogram, N

TOGETHER = 8  # histograms added one by one


@dataclass(frozen=True, eq=False)
class HistogramSums:
    """Sums of any subset of some histograms.

    Attributes:
        histograms: The histograms.
    """

    histograms: tuple[Histogram, ...]

    def of(self, chosen: Sequence[int]) -> Histogram:
        """Add up the histograms with these indices, ascending."""
        if len(chosen) == 1:
            return self.histograms[chosen[0]]
        return Histogram(self._marginal.of(tuple(chosen)), self._joint.of(tuple(chosen)))

    @cached_property
    def _marginal(self) -> "_BinSums":
        return _BinSums.on(tuple(h.marginal for h in self.histograms))

    @cached_property
    def _joint(self) -> "_BinSums":
        return _BinSums.on(tuple(h.joint for h in self.histograms))


@dataclass(frozen=True, eq=False)
class _BinSums:
    """Sums of bins, on the union of all keys.

    Sums are computed by recursive halving, and those of recent subsets are kept: if one histogram is added or removed,
    all halves without it are reused.
    """

    bins: tuple[Bins, ...]
    key: Int64[np.ndarray, " m"]
    place: tuple[Int64[np.ndarray, " c"], ...]
    known: Recent[Float[np.ndarray, "m 4"]]

    @staticmethod
    def on(bins: tuple[Bins, ...]) -> "_BinSums":
        key = Bins.merge(bins).key
        halves = 2 * len(bins) // TOGETHER + 16
        return _BinSums(bins, key, tuple(np.searchsorted(key, b.key) for b in bins), Recent(halves))

    def of(self, chosen: tuple[int, ...]) -> Bins:
        sums = self._between(0, len(self.bins), chosen)
        used = sums[:, N] > 0
        return Bins(self.key, sums) if used.all() else Bins(self.key[used], sums[used])

    def _between(self, first: int, end: int, chosen: tuple[int, ...]) -> Float[np.ndarray, "m 4"]:
        found = self.known.get(chosen)
        if found is not None:
            return found
        middle = (first + end) // 2
        left, right = tuple(i for i in chosen if i < middle), tuple(i for i in chosen if i >= middle)
        if len(chosen) <= TOGETHER:
            sums = np.zeros((len(self.key), 4))
            for i in chosen:
                kernels.add_at(sums, self.place[i], self.bins[i].sums)
        elif left and right:
            sums = self._between(first, middle, left) + self._between(middle, end, right)
        else:
            return self._between(first, middle, left) if left else self._between(middle, end, right)
        return self.known.keep(chosen, sums)
