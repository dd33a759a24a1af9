"""Static (order-0) arithmetic coding: −log₂ p bits per symbol, where a prefix code needs whole bits.

The table stores a root t_j of each symbol, with frequencies ∝ t_j²: equal steps of √p cost equally much at any p
(Fisher information). The resolution of the roots minimises table plus payload. Streams use asymmetric numeral
systems (rANS) with 64-bit states, in integers: one state, or four interleaved from ``INTERLEAVED`` symbols on.

Source: Duda 2013 (arXiv:1311.2540); Giesen 2014 (arXiv:1402.3392) for interleaving.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Int64, Shaped

from nbquant.coding.code import Code, Lengths, ideal_lengths
from nbquant.coding.entropy import Counts, as_integers, check_counts
from nbquant.coding.huffman import Symbols
from nbquant.kernels.cpu import arithmetic as kernels

INTERLEAVED = 1 << 18
"""Symbols from which on a stream has four states: the three additional ones cost about 20 bytes."""

MOST = 1 << 20
"""Largest number of symbols of an alphabet."""

_AT_ONCE = 1 << 18  # roots of all resolutions that are tried together


@dataclass(frozen=True, eq=False)
class ArithmeticCode:
    """Static symbol frequencies, and streams coded with them.

    Attributes:
        roots: Roots t_j of the frequencies, 0 to 2¹⁶, read-only; 0 for a symbol that does not occur.

    Raises:
        ValueError: Roots out of range, all of them 0, or more than 2²⁰.
    """

    roots: Int64[np.ndarray, " k"]

    def __post_init__(self) -> None:
        roots = as_integers(self.roots, "roots").astype(np.int64)
        roots.setflags(write=False)
        object.__setattr__(self, "roots", roots)
        if not 0 < roots.size <= MOST:
            raise ValueError(f"an arithmetic code has 1 to {MOST} symbols, but got {roots.size}.")
        if roots.min() < 0 or roots.max() > kernels.LARGEST or not roots.any():
            raise ValueError(
                f"roots must be 0 to {kernels.LARGEST} and not all 0, but go from {roots.min()} to {roots.max()}."
            )

    @classmethod
    def from_counts(cls, counts: Counts) -> Self:
        """Make the code of least table plus payload for counts n_j, among 32 resolutions of the table.

        Raises:
            ValueError, TypeError: As :func:`nbquant.coding.entropy.check_counts`, or more than 2²⁰ symbols.
        """
        array = as_integers(counts, "counts")
        check_counts(array)
        if len(array) > MOST:
            raise ValueError(f"an arithmetic code has 1 to {MOST} symbols, but got {len(array)}.")
        share, used = np.sqrt(array / array.max()), array > 0
        finest = np.array([(2 + half) << octave >> 1 for octave in range(16) for half in (0, 1)])
        best, least = array, math.inf
        for some in np.array_split(finest, -(-len(finest) * len(array) // _AT_ONCE)):
            roots = np.where(used, np.maximum(np.rint(share * some[:, None]), 1), 0).astype(np.int64)
            table = [kernels.write_roots(row, np.zeros(0, np.uint8)) for row in roots]
            total = table + (kernels.PRECISION - np.log2(_frequencies(roots)[:, used])) @ array[used]
            if total.size and total.min() < least:
                best, least = roots[total.argmin()], float(total.min())
        return cls(best)

    @cached_property
    def frequencies(self) -> Int64[np.ndarray, " k"]:
        """Frequencies f_j, which sum to 2²⁴: 1 each, the rest ∝ t_j², the rounding error added to the first largest."""
        frequencies = _frequencies(self.roots[None])[0]
        frequencies.setflags(write=False)
        return frequencies

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArithmeticCode) and np.array_equal(self.roots, other.roots)

    def __hash__(self) -> int:
        return hash(self.roots.tobytes())

    def __len__(self) -> int:
        """Number of symbols k, including those that do not occur."""
        return len(self.roots)

    @property
    def table_bits(self) -> int:
        """Size of the table [bit]."""
        return int(kernels.write_roots(self.roots, np.zeros(0, np.uint8)))

    def encode_table(self) -> bytes:
        """Write the table in whole bytes, highest bit first, padded with zeros."""
        bits = np.zeros(self.table_bits, np.uint8)
        kernels.write_roots(self.roots, bits)
        return np.packbits(bits).tobytes()

    @classmethod
    def decode_table(cls, data: bytes, bits: int, symbols: int) -> Self:
        """Read a table back.

        Args:
            data: The whole table and nothing else.
            bits: Its length without padding [bit].
            symbols: Number of symbols k.

        Raises:
            ValueError: The table is of another length, is damaged or is not padded with zeros.
        """
        if len(data) != -(-bits // 8) or not 1 <= symbols <= min(bits, MOST):
            raise ValueError(f"{symbols} frequencies in {bits} bits are required, but got {len(data)} bytes.")
        unpacked = np.unpackbits(np.frombuffer(data, np.uint8))
        if unpacked[bits:].any():
            raise ValueError(f"the {len(unpacked) - bits} bits after the last frequency must be zero, but are not.")
        roots = np.zeros(symbols, np.int64)
        end = kernels.read_roots(unpacked[:bits], roots)
        if end != bits:
            raise ValueError(
                f"{symbols} frequencies in {bits} bits are required, but "
                + ("the table is damaged." if end < 0 else f"they end at bit {end}.")
            )
        return cls(roots)

    def ideal_bits(self, counts: Counts) -> float:
        """Compute Σ_j n_j (24 − log₂ f_j): bits for these symbol counts, before the end of a stream."""
        array = as_integers(counts, "counts")
        used = array > 0
        return float(array[used] @ (kernels.PRECISION - np.log2(self.frequencies[used])))

    def payload_bits(self, counts: Counts) -> int:
        """Round :meth:`ideal_bits` up to whole bits."""
        return math.ceil(self.ideal_bits(counts))

    def encode(self, symbols: Symbols) -> bytes:
        """Encode symbols: states of 8 bytes, then words of 4, lowest byte first; empty if only one symbol occurs.

        Raises:
            ValueError: A symbol that has no frequency.
            TypeError: Symbols that are not integers.
        """
        array = np.ascontiguousarray(as_integers(symbols, "symbols"))
        states = np.full(_lanes(array.size), kernels.LOWEST, np.int64)
        words = np.empty(array.size, np.uint32)  # a symbol writes one at most
        at = kernels.write_symbols(array, self.frequencies, self._start, states, words)
        if at < 0:
            self._refuse(array)
        if self._single or not array.size:
            return b""
        return states.astype("<i8").tobytes() + words[at:].astype("<u4").tobytes()

    def decode(self, data: bytes, count: int, bits: int | None = None) -> Shaped[np.ndarray, " count"]:
        """Decode ``count`` symbols, in the smallest of uint8, uint16, uint32 for k − 1.

        Raises:
            ValueError: The stream is too short or too long, or does not end in its initial state.
        """
        if count < 0:
            raise ValueError(f"count must be 0 or more, but is {count}.")
        kind = np.uint8 if len(self) <= 1 << 8 else np.uint16 if len(self) <= 1 << 16 else np.uint32
        if self._single or not count:
            if data:
                raise ValueError(f"{count} symbols take no bytes here, but the stream has {len(data)}.")
            return np.full(count, self.roots.argmax(), kind)
        head = 8 * _lanes(count)
        if len(data) < head or len(data) % 4:
            raise ValueError(f"the stream of {len(data)} bytes must have {head} or more, in fours: it was cut off.")
        states = np.frombuffer(data[:head], "<i8").astype(np.int64)
        if states.min() < kernels.LOWEST:
            raise ValueError(f"states must be {kernels.LOWEST} or more, but go down to {states.min()}: damaged.")
        words = np.frombuffer(data[head:], "<u4").astype(np.uint32)
        symbols = np.empty(count, kind)
        coarse, shift = self._coarse
        status, read, taken = kernels.read_symbols(words, states, self.frequencies, self._start, coarse, shift, symbols)
        if status == kernels.TRUNCATED:
            raise ValueError(f"the stream of {len(data)} bytes ends after {read} of {count} symbols: it was cut off.")
        if taken != len(words):
            raise ValueError(
                f"{count} symbols end at byte {head + 4 * taken}, but the stream has {len(data)}: is count too low?"
            )
        if (states != kernels.LOWEST).any():
            raise ValueError(f"{count} symbols do not end in the initial state of the stream: it is damaged.")
        return symbols

    def _refuse(self, symbols: np.ndarray) -> None:
        wide = symbols.astype(np.int64)
        bad = (wide < 0) | (wide >= len(self))
        bad |= self.roots[np.where(bad, 0, wide)] == 0
        at = int(bad.argmax())
        raise ValueError(
            f"symbols must have frequencies, but {np.count_nonzero(bad)} of {symbols.size} have none "
            f"(first {symbols[at]} at index {at}): count them into the code."
        )

    @property
    def _single(self) -> bool:
        return int(np.count_nonzero(self.roots)) == 1

    @cached_property
    def _start(self) -> Int64[np.ndarray, " k"]:
        return np.cumsum(self.frequencies) - self.frequencies

    @cached_property
    def _coarse(self) -> tuple[Int64[np.ndarray, " c"], int]:
        shift = kernels.PRECISION - min(max(len(self).bit_length() + 3, 12), 18)
        slots = np.arange((1 << (kernels.PRECISION - shift)) + 1) << shift
        return np.searchsorted(np.cumsum(self.frequencies), np.minimum(slots, slots[-1] - 1), side="right"), shift


def _frequencies(roots: Int64[np.ndarray, "r k"]) -> Int64[np.ndarray, "r k"]:
    """Compute the frequencies of several codes; see :attr:`ArithmeticCode.frequencies`."""
    square, used = roots**2, roots > 0
    total = (1 << kernels.PRECISION) - used.sum(1, keepdims=True)
    frequencies: Int64[np.ndarray, "r k"] = used + square * total // square.sum(1, keepdims=True)
    rest = (1 << kernels.PRECISION) - frequencies.sum(1)
    frequencies[np.arange(len(roots)), roots.argmax(1)] += rest
    return frequencies


def _lanes(count: int) -> int:
    return 4 if count >= INTERLEAVED else 1


STATES, WORD = 256, 32  # bits: of a stream's states, and at most of a symbol


def arithmetic_code(counts: Int64[np.ndarray, " k"]) -> ArithmeticCode | None:
    """Make the code of k clusters with these counts, uniform if all are zero; None without clusters."""
    if not len(counts):
        return None
    return ArithmeticCode.from_counts(counts if counts.any() else np.ones_like(counts))


def _table_bits(counts: Int64[np.ndarray, " k"], lengths: Lengths) -> int:
    code = arithmetic_code(counts)
    return code.table_bits if code is not None else 0


ARITHMETIC = Code(
    name="arithmetic",
    label="arithmetic",
    title="arithmetic code",
    reason="frequencies are rounded, and every stream has an end",
    lengths=ideal_lengths,
    stored="arithmetic",
    major=2,
    table_bits=_table_bits,
    make=lambda counts, lengths: arithmetic_code(counts),
    read=lambda table, bits, levels: ArithmeticCode.decode_table(table, bits, levels) if levels else None,
    payload_range=lambda levels, weights: (0, min(weights, 1) * STATES + weights * WORD),
)
