"""Huffman-coded gaps: the positions of the non-zero weights of a pruned tensor.

A gap is the number of zeros in front of a weight. Gaps of at least ``span`` are cut: a *filler* stands for ``span``
zeros without a weight after them, so gap g becomes ⌊g / span⌋ fillers and the symbol g mod span. Han et al. 2015 fill
with a weight of value zero instead, which costs a codeword in the values as well; a separate symbol costs none. The
span minimises payload plus table. Zeros after the last weight are not coded, and a tensor without
zeros (or with nothing else) takes no bits: its size and number of weights determine it. Large tensors are coded in
blocks of ``BLOCK_ENTRIES`` entries, as if each were a tensor.

The charged bits are the real payload, and the table as written by :mod:`nbquant.coding.code_table`.

Source: Han et al. 2015 (arXiv:1510.00149), section 2; Choi et al. 2017 (arXiv:1612.01543), section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Int64

from nbquant.coding.code_table import table_bits
from nbquant.coding.huffman import HuffmanCode, codeword_lengths
from nbquant.progress import Progress, track

MAX_SPAN = 4096
BLOCK_ENTRIES = 1 << 22  # entries of a tensor coded independently: this bounds memory, and blocks run in parallel


@dataclass(frozen=True, eq=False)
class GapHistogram:
    """Number of occurrences of each gap; histograms of several tensors can be added.

    Attributes:
        gaps: Occurring gaps, ascending.
        counts: Number of occurrences of each.
    """

    gaps: Int64[np.ndarray, " g"]
    counts: Int64[np.ndarray, " g"]

    def __add__(self, other: "GapHistogram") -> "GapHistogram":
        gaps, where = np.unique(np.concatenate([self.gaps, other.gaps]), return_inverse=True)
        counts = np.zeros(len(gaps), np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        return GapHistogram(gaps, counts)

    @property
    def total(self) -> int:
        """Number of gaps."""
        return int(self.counts.sum())

    def symbol_counts(self, span: int) -> Int64[np.ndarray, " span_1"]:
        """Count the symbols written: each gap below ``span``, and last the filler."""
        counts = np.zeros(span + 1, np.int64)
        np.add.at(counts, self.gaps % span, self.counts)
        counts[span] = self.gaps // span @ self.counts
        return counts


@dataclass(frozen=True)
class GapCode:
    """A Huffman code for gaps.

    Attributes:
        code: Symbols 0 to span − 1 are gaps, symbol span is the filler.
    """

    code: HuffmanCode

    @property
    def span(self) -> int:
        """Number of zeros a filler stands for: the largest gap written as one symbol, plus one."""
        return len(self.code) - 1

    @property
    def table_bits(self) -> int:
        """Size of the code table [bit]."""
        return table_bits(self.code.lengths)

    def payload_bits(self, histogram: GapHistogram) -> int:
        """Count the bits of these gaps."""
        return self.code.payload_bits(histogram.symbol_counts(self.span))


def gap_code(histogram: GapHistogram) -> GapCode:
    """Find the code of least payload plus table for these gaps.

    The span is at most 4096, or the largest gap plus one. First every span to 64 and then steps of 1/32 are
    tried, then ever finer steps around the best.

    Raises:
        ValueError: An empty histogram.
    """
    if not histogram.total:
        raise ValueError("gaps must be counted before a code is made, but the histogram is empty.")

    @cache
    def bits(span: int) -> int:
        counts = histogram.symbol_counts(span)
        lengths = codeword_lengths(counts)
        return int(counts @ lengths) + table_bits(lengths)

    largest = min(int(histogram.gaps[-1]) + 1, MAX_SPAN)
    spans = [1]
    while spans[-1] < largest:
        spans.append(min(spans[-1] + max(spans[-1] // 32, 1), largest))
    best = min(spans, key=bits)
    step = best // 32
    while step > 1:
        around, step = step, max(step // 4, 1)
        best = min({best, *range(max(best - around, 1), min(best + around, largest) + 1, step)}, key=bits)
    return GapCode(HuffmanCode.from_counts(histogram.symbol_counts(best)))


def position_bits(histogram: GapHistogram) -> tuple[int, int]:
    """Count payload and table [bit] of gaps in their best code; zeros if there are none."""
    if not histogram.total:
        return 0, 0
    code = gap_code(histogram)
    return code.payload_bits(histogram), code.table_bits


def group_tables(histograms: Sequence[GapHistogram], progress: Progress = True) -> tuple[tuple[int, ...], ...]:
    """Group tensors that should share a table.

    Tensors of different density are better separated as soon as the saved payload exceeds a second table.
    From the densest to the sparsest, each joins the group of its predecessor if that saves bits.

    Args:
        histograms: One per tensor.
        progress: Shows a bar: see :mod:`nbquant.progress`.

    Returns:
        Groups of indices into ``histograms``, without the empty ones.
    """
    by_density = sorted(
        (i for i, histogram in enumerate(histograms) if histogram.total),
        key=lambda i: histograms[i].gaps @ histograms[i].counts / histograms[i].total,
    )
    groups: list[tuple[int, ...]] = []
    last, last_bits = None, 0
    for i in track(by_density, "position tables", progress):
        bits = sum(position_bits(histograms[i]))
        if last is not None:
            joined = last + histograms[i]
            joined_bits = sum(position_bits(joined))
            if joined_bits <= last_bits + bits:
                groups[-1] = (*groups[-1], i)
                last, last_bits = joined, joined_bits
                continue
        groups.append((i,))
        last, last_bits = histograms[i], bits
    return tuple(tuple(sorted(group)) for group in groups)
