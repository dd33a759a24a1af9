"""What a code of indices is: its lengths, table and streams, and how files name it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from nbquant.coding.entropy import Counts

Lengths = Int64[np.ndarray, " k"] | Float64[np.ndarray, " k"]
"""Codeword lengths ℓ [bit]; of codes without codewords the ideal ones, −log₂(n / Σn)."""


class SymbolCode(Protocol):
    """The code of one codebook: a table, and streams of indices."""

    def __len__(self) -> int: ...

    @property
    def table_bits(self) -> int:
        """Bits of the table."""
        ...

    def encode_table(self) -> bytes:
        """The table in whole bytes."""
        ...

    def payload_bits(self, counts: Int64[np.ndarray, " k"]) -> int:
        """Bits of a stream with so many of each index; asked only where counts tell.

        Raises:
            ValueError: A count above 0 of an index without a codeword.
        """
        ...

    def encode(self, symbols: Shaped[np.ndarray, " n"]) -> bytes:
        """The stream of some indices, in whole bytes."""
        ...

    def decode(self, data: bytes, count: int, bits: int | None = None) -> Shaped[np.ndarray, " count"]:
        """So many indices of a stream of so many bits.

        Raises:
            ValueError: A stream that :meth:`encode` does not write.
        """
        ...


@dataclass(frozen=True)
class Code:
    """A code of indices: all that other rooms ask of it.

    A new code is one file, with its record, and one line in :mod:`nbquant.coding.codes`. Either it has a table for each
    codebook and codes blocks of indices, with the positions of pruned weights apart; or it is adaptive and codes
    matrices of levels, zeros included.

    Attributes:
        name: As in ``coding="huffman"``.
        label: In menus.
        title: In legends.
        reason: Why a stream takes more or less than the entropy of single weights.
        lengths: lengths(counts) gives codeword lengths, or ideal ones.
        stored: How files name it; codes of one name differ in whether there is a table.
        major: Major version of files with it.
        known_from_counts: Whether Σ n ℓ is the size of a stream; if not, only encoding tells.
        table_bits: table_bits(counts, lengths) gives the size of a codebook's table; None without tables.
        make: make(counts, lengths) makes the code of a codebook, None if its indices take no bits.
        read: read(table, bits, levels) reads it back.
        payload_range: payload_range(levels, weights) gives the least and most bits of a block.
        codewords: codewords(lengths) gives strings of 0 and 1; None where there are no codewords.
        encode: encode(levels, dependent) gives the stream of a matrix; None for codes that are not adaptive.
        decode: decode(data, rows, cols, dependent) reads it back.
    """

    name: str
    label: str
    title: str
    reason: str
    lengths: Callable[[Counts], Lengths]
    stored: str
    major: int
    known_from_counts: bool = False
    table_bits: Callable[[Int64[np.ndarray, " k"], Lengths], int] | None = None
    make: Callable[[Int64[np.ndarray, " k"], Lengths], SymbolCode | None] | None = None
    read: Callable[[bytes, int, int], SymbolCode | None] | None = None
    payload_range: Callable[[int, int], tuple[int, int]] | None = None
    codewords: Callable[[Lengths], tuple[str, ...]] | None = None
    encode: Callable[[Int64[np.ndarray, "rows cols"], bool], bytes] | None = None
    decode: Callable[[bytes, int, int, bool], Int64[np.ndarray, "rows cols"]] | None = None

    @property
    def adaptive(self) -> bool:
        """Whether it learns on the way: without tables, with zeros in its alphabet, in blocks of whole rows."""
        return self.encode is not None

    @property
    def has_table(self) -> bool:
        """Whether each codebook has a table."""
        return self.table_bits is not None


def ideal_lengths(counts: Counts) -> Float64[np.ndarray, " k"]:
    """−log₂(n / Σn) [bit]; finite where a value of a file has no members."""
    n = np.asarray(counts)
    found: Float64[np.ndarray, " k"] = np.log2(max(n.sum(), 1) / np.maximum(n, 1))
    return found
