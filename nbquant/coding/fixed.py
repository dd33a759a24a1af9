"""Fixed-length codes: ⌈log2 k⌉ bits per index."""

import numpy as np
from jaxtyping import Int64

from nbquant.coding.code import Code, Lengths
from nbquant.coding.entropy import Counts
from nbquant.coding.huffman import HuffmanCode
from nbquant.coding.ledger import fixed_length


def fixed_lengths(counts: Counts) -> Int64[np.ndarray, " k"]:
    """Compute ⌈log2 k⌉ for each of k codewords."""
    return np.full(len(counts), fixed_length(len(counts)) if len(counts) else 0, np.int64)


def fixed_length_code(levels: int) -> HuffmanCode | None:
    """Make the code whose codewords are the indices, all of one length; None if that is 0.

    It has a codeword for every bit pattern of that length, possibly more than ``levels``.
    """
    length = fixed_length(levels) if levels else 0
    return HuffmanCode(np.full(1 << length, length)) if length else None


def _make(counts: Int64[np.ndarray, " k"], lengths: Lengths) -> HuffmanCode | None:
    if len(lengths) and (lengths != fixed_length(len(lengths))).any():
        raise ValueError(
            f"codewords of {fixed_length(len(lengths))} bits are required of a fixed-length code of {len(lengths)}."
        )
    return fixed_length_code(len(lengths))


def _codewords(lengths: Lengths) -> tuple[str, ...]:
    width = fixed_length(len(lengths))
    return tuple(f"{j:0{width}b}" if width else "" for j in range(len(lengths)))


def _payload_range(levels: int, weights: int) -> tuple[int, int]:
    bits = weights * (fixed_length(levels) if levels else 0)
    return bits, bits


FIXED = Code(
    name="fixed",
    label="fixed length",
    title="fixed-length code",
    reason="all codewords are equally long, whatever their frequency",
    lengths=fixed_lengths,
    stored="prefix",
    major=1,
    known_from_counts=True,
    make=_make,
    read=lambda table, bits, levels: fixed_length_code(levels),
    payload_range=_payload_range,
    codewords=_codewords,
)
