"""Selections sharded over the ranks of a process group: sums over all ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from nbquant.coding.positions import GapHistogram
from nbquant.quantization.histogram import Bins, Histogram

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Shards:
    """Sums over the ranks that hold parts of a selection, so that all find the same codebook.

    All decisions follow from the same numbers, added in the same order, so that all ranks decide alike;
    each method must be called by all ranks.

    Attributes:
        gather: Array of each rank, of equal shape and dtype -> all arrays, stacked in the order of ranks.
        counts: Tensor name -> number of weights, over all ranks.
        elsewhere: Tensors whose values here are copies counted by another rank.
    """

    gather: Callable[[Array], Array]
    counts: Mapping[str, int]
    elsewhere: frozenset[str] = frozenset()

    def total(self, values: Array) -> Array:
        """Sum an array over the ranks."""
        return self.gather(values).sum(axis=0)

    def any(self, value: bool) -> bool:
        """Whether a flag is set on any rank."""
        return bool(self.gather(np.array(value, np.int64)).any())

    def merged(self, histogram: Histogram) -> Histogram:
        """Add up the histograms of all ranks."""
        grids = (self._bins(histogram.marginal), self._bins(histogram.joint))
        return Histogram(*grids)

    def merged_gaps(self, gaps: GapHistogram) -> GapHistogram:
        """Add up the gaps of all ranks: each shard is coded separately."""
        parts = zip(self._rows(gaps.gaps), self._rows(gaps.counts), strict=True)
        return sum((GapHistogram(*part) for part in parts), GapHistogram(gaps.gaps[:0], gaps.counts[:0]))

    def _bins(self, bins: Bins) -> Bins:
        return Bins.merge(map(Bins, self._rows(bins.key), self._rows(bins.sums)))

    def _rows(self, rows: Array) -> list[Array]:
        """Gather arrays of different lengths."""
        lengths = self.gather(np.array(len(rows), np.int64))
        padded = np.zeros((int(lengths.max()), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return [part[:length] for part, length in zip(self.gather(padded), lengths, strict=True)]
