"""The record of an index code: codeword lengths, tables, streams and its name in files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int, Int64, Shaped

from nbquant.coding.entropy import Counts

Lengths = Int64[np.ndarray, " k"] | Float64[np.ndarray, " k"]
"""Codeword lengths ℓ [bit]; for codes without codewords the ideal −log₂(n / Σn)."""


class SymbolCode(Protocol):
    """Interface of a code for one codebook: a table, and streams of indices."""

    def __len__(self) -> int: ...

    @property
    def table_bits(self) -> int:
        """Size of the table [bit]."""
        ...

    def encode_table(self) -> bytes:
        """Write the table in whole bytes."""
        ...

    def payload_bits(self, counts: Int64[np.ndarray, " k"]) -> int:
        """Count the bits of a stream with these counts of indices; used only if counts determine it.

        Raises:
            ValueError: A count above 0 of an index without a codeword.
        """
        ...

    def encode(self, symbols: Shaped[np.ndarray, " n"]) -> bytes:
        """Encode indices in whole bytes."""
        ...

    def decode(self, data: bytes, count: int, bits: int | None = None) -> Shaped[np.ndarray, " count"]:
        """Decode ``count`` indices of a stream of known length.

        Raises:
            ValueError: A stream that :meth:`encode` cannot have written.
        """
        ...


@dataclass(frozen=True)
class Code:
    """An index code: everything the rest of the package needs to know about it.

    A new code is one file with its record, and one line in :mod:`nbquant.coding.codes`. Either it has a table per
    codebook and codes blocks of indices, with the positions of pruned weights stored separately; or it is adaptive and
    codes matrices of levels, zeros included.

    Attributes:
        name: Name, as in ``coding="huffman"``.
        label: Name in menus.
        title: Name in legends.
        reason: Why a stream is longer or shorter than the entropy of single weights.
        lengths: lengths(counts) returns codeword lengths, or ideal ones.
        stored: Name in files; codes that share one differ in whether there is a table.
        major: Major version of files that use it.
        known_from_counts: Whether Σ n ℓ is the size of a stream; if not, it is known only after encoding.
        table_bits: table_bits(counts, lengths) returns the size of a codebook's table; None without tables.
        make: make(counts, lengths) makes the code of a codebook, or None if its indices take no bits.
        read: read(table, bits, levels) reads it back.
        payload_range: payload_range(levels, weights) returns the least and most bits of a block.
        codewords: codewords(lengths) returns strings of 0 and 1; None without codewords.
        encode: encode(levels, dependent) returns the stream of a matrix; None for codes that are not adaptive.
        decode: decode(data, rows, cols, dependent) inverts ``encode``.
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
    encode: Callable[[Int[np.ndarray, "rows cols"], bool], bytes] | None = None
    decode: Callable[[bytes, int, int, bool], Int[np.ndarray, "rows cols"]] | None = None

    @property
    def adaptive(self) -> bool:
        """Whether it is adaptive: without tables, with zeros in its alphabet, in blocks of whole rows."""
        return self.encode is not None

    @property
    def has_table(self) -> bool:
        """Whether each codebook has a table."""
        return self.table_bits is not None


def ideal_lengths(counts: Counts) -> Float64[np.ndarray, " k"]:
    """Compute −log₂(n / Σn) [bit]; finite for unused values of a file's codebook."""
    n = np.asarray(counts)
    found: Float64[np.ndarray, " k"] = np.log2(max(n.sum(), 1) / np.maximum(n, 1))
    return found
