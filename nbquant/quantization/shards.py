"""A selection in parts: tensors of which every rank of a process group holds a shard."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from nbquant.coding.positions import GapHistogram
from nbquant.quantization.histogram import Bins, Histogram

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Shards:
    """How the ranks that hold the parts of a selection come to the same codebook: their sums add.

    Whatever is decided from them is decided from the same numbers, added in the same order, so that all ranks do the
    same; each method must be called by all of them.

    Attributes:
        gather: An array of every rank, all of one shape and dtype -> those of all, stacked in the order of ranks.
        counts: Name of each tensor -> number of its weights, over all ranks.
        elsewhere: Tensors whose values here are copies of what another rank counts.
    """

    gather: Callable[[Array], Array]
    counts: Mapping[str, int]
    elsewhere: frozenset[str] = frozenset()

    def total(self, values: Array) -> Array:
        """Sum over the ranks."""
        return self.gather(values).sum(axis=0)

    def any(self, value: bool) -> bool:
        """Whether it holds on any rank."""
        return bool(self.gather(np.array(value, np.int64)).any())

    def merged(self, histogram: Histogram) -> Histogram:
        """Sum of the histograms of all ranks."""
        grids = (self._bins(histogram.marginal), self._bins(histogram.joint))
        return Histogram(*grids)

    def merged_gaps(self, gaps: GapHistogram) -> GapHistogram:
        """Gaps of all ranks: each shard is coded apart."""
        parts = zip(self._rows(gaps.gaps), self._rows(gaps.counts), strict=True)
        return sum((GapHistogram(*part) for part in parts), GapHistogram(gaps.gaps[:0], gaps.counts[:0]))

    def _bins(self, bins: Bins) -> Bins:
        return Bins.merge(map(Bins, self._rows(bins.key), self._rows(bins.sums)))

    def _rows(self, rows: Array) -> list[Array]:
        """Arrays of different lengths."""
        lengths = self.gather(np.array(len(rows), np.int64))
        padded = np.zeros((int(lengths.max()), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return [part[:length] for part, length in zip(self.gather(padded), lengths, strict=True)]
