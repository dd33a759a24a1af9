"""Huffman coding: the optimal prefix code, with whole bits per symbol.

Source: Huffman 1952, "A method for the construction of minimum-redundancy codes". The code is canonical: codewords are
consecutive numbers in the order of (length, symbol), so that the lengths determine it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Int64, Integer, Shaped, UInt64
from torch import Tensor

from nbquant.coding.code import Code, Lengths
from nbquant.coding.code_table import decode_lengths, encode_lengths, table_bits
from nbquant.coding.entropy import Counts, as_integers, check_counts
from nbquant.kernels.cpu import huffman as kernels

MAX_LENGTH = 32
"""Longest codeword [bit]. Huffman's own code stays below it up to 9,227,465 symbols in total (a Fibonacci number)."""

Symbols = Shaped[np.ndarray, " n"] | Shaped[Tensor, " n"]


def codeword_lengths(counts: Counts, max_length: int = MAX_LENGTH) -> Int64[np.ndarray, " k"]:
    """Compute the lengths of the optimal prefix code with codewords of at most ``max_length`` bits.

    Among optimal codes, this one has the least maximum and the least sum of lengths; of symbols with equal
    counts, the first gets the shorter codeword.

    Args:
        counts: Occurrences n_j of each symbol.
        max_length: Longest codeword allowed [bit], 1 to 32.

    Returns:
        Lengths ℓ_j [bit]: 0 for a symbol that does not occur; 1 for the only one that occurs, as the paper's
        codewords take at least one bit.

    Raises:
        ValueError: No counts, a negative one, all of them zero, 2**56 or more in all, or more symbols than codewords.
        TypeError: Counts that are not integers.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 2; Larmore and Hirschberg 1990 for the limit.
    """
    if not 1 <= max_length <= MAX_LENGTH:
        raise ValueError(f"max_length must be 1 to {MAX_LENGTH} bits, but is {max_length}.")
    array = as_integers(counts, "counts")
    lengths, status = kernels.code_lengths(array, max_length)
    if status == kernels.OK:
        return lengths
    check_counts(array)
    if status == kernels.TOO_MANY:
        occur = int(np.count_nonzero(array))
        raise ValueError(
            f"codewords of at most {max_length} bits distinguish 2**{max_length} symbols, but {occur} occur: "
            f"raise max_length to {(occur - 1).bit_length()} or more."
        )
    raise ValueError(f"counts must sum to less than 2**56, but sum to {sum(map(int, array))}.")


def symbol_counts(symbols: Symbols, levels: int) -> Int64[np.ndarray, " levels"]:
    """Count the occurrences of the symbols 0 to ``levels`` − 1.

    Raises:
        ValueError: A symbol out of range.
        TypeError: Symbols that are not integers.
    """
    array = as_integers(symbols, "symbols")
    counts = np.zeros((4, levels), np.int64)
    if not kernels.count_symbols(array, counts):
        _refuse_outside(array, levels)
    return counts.sum(axis=0)


def _refuse_outside(symbols: Integer[np.ndarray, " n"], levels: int) -> None:
    outside = (symbols < 0) | (symbols >= levels)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(
            f"symbols must be 0 to {levels - 1}, but {np.count_nonzero(outside)} of {symbols.size} are not "
            f"(first {symbols[at]} at index {at})."
        )


@dataclass(frozen=True, eq=False)
class HuffmanCode:
    """A canonical, complete prefix code.

    Attributes:
        lengths: Codeword lengths ℓ_j [bit], read-only; 0 for a symbol without a codeword.

    Raises:
        ValueError: Lengths outside 0 to 32, none above 0, or with Σ 2^−ℓ_j ≠ 1 (a single symbol of 1 bit is allowed).
    """

    lengths: Int64[np.ndarray, " k"]

    def __post_init__(self) -> None:
        lengths = as_integers(self.lengths, "codeword lengths").astype(np.int64)
        lengths.setflags(write=False)
        object.__setattr__(self, "lengths", lengths)
        if lengths.size == 0 or lengths.min() < 0 or lengths.max() > MAX_LENGTH or not lengths.any():
            raise ValueError(
                f"codeword lengths must be 0 to {MAX_LENGTH} bits and not all 0, but "
                + (f"go from {lengths.min()} to {lengths.max()}." if lengths.size else "there are none.")
            )
        used = lengths[lengths > 0]
        kraft = int((np.int64(1) << (MAX_LENGTH - used)).sum())  # in units of 2^−32, exact below 2^31 symbols
        if kraft != 1 << MAX_LENGTH and not (used.size == 1 and used[0] == 1):
            raise ValueError(
                f"codeword lengths must satisfy Σ 2^−ℓ = 1, but {used.size} used lengths give "
                f"{kraft / (1 << MAX_LENGTH):.9g}: "
                + ("no prefix code is that short." if kraft > 1 << MAX_LENGTH else "some bit patterns would be unused.")
            )

    @classmethod
    def from_counts(cls, counts: Counts, max_length: int = MAX_LENGTH) -> Self:
        """Make the optimal code for counts: see :func:`codeword_lengths`."""
        return cls(codeword_lengths(counts, max_length))

    @classmethod
    def from_lengths(cls, lengths: Counts) -> Self:
        """Make the canonical code of these lengths, after checking that it exists."""
        return cls(as_integers(lengths, "codeword lengths"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HuffmanCode) and np.array_equal(self.lengths, other.lengths)

    def __hash__(self) -> int:
        return hash(self.lengths.tobytes())

    def __len__(self) -> int:
        """Number of symbols k, including those without a codeword."""
        return len(self.lengths)

    @property
    def table_bits(self) -> int:
        """Size of the code table [bit]: see :mod:`nbquant.coding.code_table`."""
        return table_bits(self.lengths)

    def encode_table(self) -> bytes:
        """Write the table in whole bytes."""
        return encode_lengths(self.lengths)

    def payload_bits(self, counts: Counts) -> int:
        """Compute Σ_j n_j ℓ_j, the bits for these symbol counts.

        Raises:
            ValueError: Not k counts, a negative one, or one above 0 for a symbol without a codeword.
        """
        array = as_integers(counts, "counts")
        if len(array) != len(self):
            raise ValueError(f"counts must be one for each of {len(self)} symbols, but are {len(array)}.")
        if (array < 0).any():
            check_counts(array)
        missing = np.flatnonzero((array > 0) & (self.lengths == 0))
        if missing.size:
            raise ValueError(f"symbol {missing[0]} occurs {array[missing[0]]} times but has no codeword.")
        return int((array.astype(np.int64) * self.lengths).sum())

    @cached_property
    def codewords(self) -> tuple[str, ...]:
        """The codewords as strings of 0 and 1; empty for a symbol without one."""
        return tuple(
            format(int(word), f"0{length}b") if length else ""
            for word, length in zip(self._codewords, self.lengths.tolist(), strict=True)
        )

    def encode(self, symbols: Symbols) -> bytes:
        """Concatenate the symbols' codewords, highest bit first, and pad the last byte with zeros.

        Raises:
            ValueError: A symbol without a codeword.
            TypeError: Symbols that are not integers.
        """
        array = np.ascontiguousarray(as_integers(symbols, "symbols"))
        codewords, lengths = self._padded
        longest = int(self.lengths.max())
        words = np.empty(array.size * longest // 64 + 1, np.uint64)  # mostly never touched
        bits = kernels.encode_words(array, codewords, lengths, longest, words)
        if bits < 0:
            self._refuse(array)
        return words[: -(-bits // 64)].astype(">u8").tobytes()[: -(-bits // 8)]

    def decode(self, data: bytes, count: int, bits: int | None = None) -> Shaped[np.ndarray, " count"]:
        """Decode ``count`` symbols.

        Args:
            data: The whole stream and nothing else.
            count: Number of symbols.
            bits: Length of the stream without its padding [bit], if known.

        Returns:
            The symbols, in the smallest of uint8, uint16 and uint32 for k − 1. Convert uint8 before indexing a
            torch tensor with it, as torch takes it for a mask.

        Raises:
            ValueError: The stream is too short or too long, holds an unused codeword or is not padded with zeros.
        """
        if count < 0:
            raise ValueError(f"count must be 0 or more, but is {count}.")
        stream_bits = 8 * len(data)
        if count > stream_bits:  # before allocating the array: a symbol takes at least one bit
            raise ValueError(f"{len(data)} bytes hold at most {stream_bits} symbols, but {count} were asked for.")
        words = np.frombuffer(bytes(data) + bytes(-len(data) % 8 + 16), ">u8").astype(np.uint64)
        width = 8 if len(self) <= 1 << 8 else 16 if len(self) <= 1 << 16 else 32
        symbols = np.empty(count, f"u{width // 8}")
        table, start, rank, ordered = self._decoder
        status, read, end = kernels.decode_words(words, stream_bits, table, width, start, rank, ordered, symbols)
        if status == kernels.TRUNCATED:
            raise ValueError(f"the stream of {len(data)} bytes ends after {read} of {count} symbols: it was cut off.")
        if status == kernels.NOT_A_CODEWORD:
            raise ValueError(f"the bits from {end} on are no codeword of this code: the stream is damaged.")
        if stream_bits - end >= 8 or (bits is not None and bits != end):
            raise ValueError(
                f"{count} symbols end at bit {end}, but the stream has {bits or stream_bits} bits: is count too low?"
            )
        if end < stream_bits and data[-1] & ((1 << (stream_bits - end)) - 1):
            raise ValueError(f"the {stream_bits - end} bits after the last symbol must be zero, but are not.")
        return symbols

    def _refuse(self, symbols: Integer[np.ndarray, " n"]) -> None:
        _refuse_outside(symbols, len(self))
        bare = self.lengths[symbols.astype(np.int64)] == 0
        at = int(bare.argmax())
        raise ValueError(
            f"symbols must have codewords, but {np.count_nonzero(bare)} of {symbols.size} have none "
            f"(first {symbols[at]} at index {at}): count them into the code."
        )

    @cached_property
    def _codewords(self) -> UInt64[np.ndarray, " k"]:
        return kernels.canonical_codewords(self.lengths)

    @cached_property
    def _padded(self) -> tuple[UInt64[np.ndarray, " p"], UInt64[np.ndarray, " p"]]:
        size = 1 << (len(self) - 1).bit_length()
        codewords = np.zeros(size, np.uint64)
        codewords[: len(self)] = self._codewords
        lengths = np.full(size, kernels.NO_CODEWORD, np.uint64)
        used = np.flatnonzero(self.lengths)
        lengths[used] = self.lengths[used]
        return codewords, lengths

    @cached_property
    def _decoder(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        if len(self) <= 1 << 8:
            width, bits = 8, 11  # 16 KiB: half of a typical L1 cache
        else:
            width = 16 if len(self) <= 1 << 16 else 32
            bits = min(max(13, (len(self) - 1).bit_length()), 16)
        table = kernels.decode_table(self._codewords, self.lengths, bits, width)
        used = np.flatnonzero(self.lengths)
        ordered = used[np.argsort(self.lengths[used], kind="stable")]
        per_length = np.bincount(self.lengths[used])
        rank = np.concatenate([[0], np.cumsum(per_length)])
        start = np.zeros(len(per_length), np.uint64)
        present = np.flatnonzero(per_length)
        start[present] = self._codewords[ordered[rank[present]]]
        return table, start, rank, ordered


def _read(table: bytes, bits: int, levels: int) -> HuffmanCode | None:
    lengths = decode_lengths(table, levels, bits)
    return HuffmanCode.from_lengths(lengths) if levels else None


def _make(counts: Int64[np.ndarray, " k"], lengths: Lengths) -> HuffmanCode | None:
    return HuffmanCode.from_lengths(lengths.astype(np.int64)) if len(lengths) else None


HUFFMAN = Code(
    name="huffman",
    label="Huffman",
    title="Huffman code",
    reason="codewords have whole bits",
    lengths=codeword_lengths,
    stored="prefix",
    major=1,
    known_from_counts=True,
    table_bits=lambda counts, lengths: table_bits(lengths.astype(np.int64)),
    make=_make,
    read=_read,
    payload_range=lambda levels, weights: (weights, weights * MAX_LENGTH),
    codewords=lambda lengths: HuffmanCode.from_lengths(lengths.astype(np.int64)).codewords,
)
