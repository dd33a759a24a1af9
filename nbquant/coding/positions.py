"""Where the weights of a pruned tensor are: differences of positions, Huffman-coded.

A gap is the number of zeros in front of a weight. Gaps of at least ``span`` are cut: a *filler* stands for ``span``
zeros with no weight behind them, so gap g becomes ⌊g / span⌋ fillers and the symbol g mod span. Han et al. 2015 fill
with a weight of value zero instead, which costs a codeword in the values as well; a symbol of its own costs none. The
span is chosen for the least payload and table together. Zeros behind the last weight are not coded, and a tensor with
no zeros (or nothing but zeros) takes no bits: its size and number of weights say it all. Large tensors are coded in
blocks of ``BLOCK`` entries, as if each were a tensor.

What is charged: the payload from real code lengths, and the table as :mod:`nbquant.coding.code_table` writes it.

Source: Han et al. 2015 (arXiv:1510.00149), section 2; Choi et al. 2017 (arXiv:1612.01543), section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Int64, Integer
from torch import Tensor

from nbquant.coding.code_table import table_bits
from nbquant.coding.entropy import as_integers
from nbquant.coding.huffman import HuffmanCode, codeword_lengths
from nbquant.progress import Progress, track

MAX_SPAN = 4096
BLOCK = 1 << 22  # entries of a tensor that are coded on their own: they bound memory, and blocks go side by side

Nonzero = Bool[np.ndarray, "..."] | Bool[Tensor, "..."] | Integer[np.ndarray, " n"] | Integer[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class GapHistogram:
    """How often each gap occurs; those of several tensors add.

    Attributes:
        gaps: Gaps that occur, ascending.
        counts: How often each does.
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
        """How often each gap below ``span``, and last the filler, is written."""
        counts = np.zeros(span + 1, np.int64)
        np.add.at(counts, self.gaps % span, self.counts)
        counts[span] = self.gaps // span @ self.counts
        return counts


@dataclass(frozen=True)
class GapCode:
    """A Huffman code of gaps.

    Attributes:
        code: Symbols 0 to span − 1 are gaps, symbol span is the filler.
    """

    code: HuffmanCode

    @property
    def span(self) -> int:
        """Zeros that a filler stands for: the largest gap written in one symbol, plus one."""
        return len(self.code) - 1

    @property
    def table_bits(self) -> int:
        """Bits of the table that says which codewords there are."""
        return table_bits(self.code.lengths)

    def payload_bits(self, histogram: GapHistogram) -> int:
        """Bits that these gaps take."""
        return self.code.payload_bits(histogram.symbol_counts(self.span))


@dataclass(frozen=True)
class EncodedPositions:
    """Positions of the weights of one tensor.

    Attributes:
        data: The bit stream, padded with zeros to whole bytes.
        code: What it is written in, perhaps shared with other tensors; None if there is nothing to write.
        size: Number of entries of the tensor.
        count: Number of them that are weights, not zeros.
        fillers: Number of filler symbols in the stream.
    """

    data: bytes
    code: GapCode | None
    size: int
    count: int
    fillers: int


def nonzero_positions(nonzero: Nonzero, size: int | None = None) -> tuple[Int64[np.ndarray, " n"], int]:
    """Positions of the weights and the size of the tensor, from a mask or from strictly increasing positions.

    Args:
        nonzero: Mask of any shape, read in row-major order, True at a weight; or positions.
        size: Number of entries; needed with positions, and taken from a mask.

    Raises:
        ValueError: Positions out of order, repeated or outside 0 to size − 1; no size, or another than the mask's.
        TypeError: Neither a mask nor integers.
    """
    array = nonzero.detach().cpu().numpy() if isinstance(nonzero, Tensor) else np.asarray(nonzero)
    if array.dtype == np.bool_:
        if size is not None and size != array.size:
            raise ValueError(f"size must be that of the mask, {array.size}, but is {size}: leave it out.")
        return np.flatnonzero(array), array.size
    if size is None:
        raise ValueError("size must be given with positions: the number of entries of the tensor.")
    positions = as_integers(array, "positions")
    if positions.size and (positions.min() < 0 or positions.max() >= size):
        raise ValueError(f"positions must be 0 to {size - 1}, but go from {positions.min()} to {positions.max()}.")
    positions = positions.astype(np.int64)
    back = np.flatnonzero(np.diff(positions) <= 0)
    if back.size:
        at = back[0]
        raise ValueError(
            f"positions must be strictly increasing, but {positions[at + 1]} follows {positions[at]} "
            f"(index {at + 1}; {back.size} such places): sort them and drop repeats."
        )
    return positions, size


def gap_histogram(nonzero: Nonzero, size: int | None = None) -> GapHistogram:
    """Gaps of one tensor; none for a tensor without zeros.

    Args:
        nonzero: As for :func:`nonzero_positions`.
        size: Likewise.

    Raises:
        ValueError, TypeError: As :func:`nonzero_positions`.
    """
    gaps = _coded_gaps(*nonzero_positions(nonzero, size))
    if gaps.size and gaps.max() < 4 * gaps.size:  # no sorting
        counts = np.bincount(gaps)
        present = np.flatnonzero(counts)
        return GapHistogram(present, counts[present])
    return GapHistogram(*np.unique(gaps, return_counts=True))


def gap_code(histogram: GapHistogram) -> GapCode:
    """The code of least payload and table for these gaps.

    Spans run to 4096, or to the largest gap plus one. A ladder of every span to 64, then of steps of 1/32, is tried
    first, then what lies between the rungs around the best, with ever finer steps.

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
    """Payload and table [bit] of gaps in their best code; zeros if there are none."""
    if not histogram.total:
        return 0, 0
    code = gap_code(histogram)
    return code.payload_bits(histogram), code.table_bits


def group_tables(histograms: Sequence[GapHistogram], progress: Progress = True) -> tuple[tuple[int, ...], ...]:
    """Which tensors should share a table.

    Tensors of different density are better off apart as soon as what they save in payload pays for the second table.
    From the densest to the sparsest, each joins the group of the one before it if that saves bits.

    Args:
        histograms: One a tensor.
        progress: Shows a bar: see :mod:`nbquant.progress`.

    Returns:
        Groups of indices into ``histograms``; those of empty histograms are in none.
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


def encode_positions(nonzero: Nonzero, size: int | None = None, code: GapCode | None = None) -> EncodedPositions:
    """Write the positions of one tensor's weights.

    Args:
        nonzero: As for :func:`nonzero_positions`.
        size: Likewise.
        code: A code shared with other tensors; None makes the best one for this tensor.

    Raises:
        ValueError: As :func:`nonzero_positions`, and a gap that ``code`` has no codeword for.
    """
    positions, size = nonzero_positions(nonzero, size)
    gaps = _coded_gaps(positions, size)
    if not gaps.size:
        return EncodedPositions(b"", None, size, len(positions), 0)
    if code is None:
        code = gap_code(gap_histogram(positions, size))
    fillers = gaps // code.span
    symbols = np.full(len(gaps) + fillers.sum(), code.span)
    symbols[np.arange(len(gaps)) + np.cumsum(fillers)] = gaps % code.span
    return EncodedPositions(code.code.encode(symbols), code, size, len(positions), int(fillers.sum()))


def decode_positions(encoded: EncodedPositions) -> Int64[np.ndarray, " n"]:
    """Read the positions back: strictly increasing, in range, as many as were written.

    Raises:
        ValueError: The stream is damaged or does not fit the size and counts.
    """
    size, count = encoded.size, encoded.count
    if not 0 <= count <= size or encoded.fillers < 0:
        raise ValueError(
            f"0 ≤ count ≤ size and fillers ≥ 0 are required, but they are {count}, {size}, {encoded.fillers}."
        )
    if count in (0, size):
        if encoded.data or encoded.fillers:
            raise ValueError(f"{count} of {size} positions need no stream, but there are {len(encoded.data)} bytes.")
        return np.arange(count)
    if encoded.code is None:
        raise ValueError(f"{count} of {size} positions need a code to read their stream, but there is none.")
    span = encoded.code.span
    symbols = encoded.code.code.decode(encoded.data, count + encoded.fillers)
    is_weight = symbols != span
    found = np.count_nonzero(is_weight)
    if found != count or not is_weight[-1]:
        raise ValueError(f"the stream must hold {count} positions, the last behind all fillers, but holds {found}.")
    positions = np.cumsum(np.where(is_weight, symbols.astype(np.int64) + 1, span))[is_weight] - 1
    if positions[-1] >= size:
        raise ValueError(f"positions must be 0 to {size - 1}, but the stream leads to {positions[-1]}.")
    return positions


def _coded_gaps(positions: Int64[np.ndarray, " n"], size: int) -> Int64[np.ndarray, " g"]:
    if len(positions) == size:
        return np.zeros(0, np.int64)
    return np.diff(positions, prepend=-1) - 1
